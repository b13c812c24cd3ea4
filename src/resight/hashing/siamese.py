"""Siamese hashing with a double margin: codes of a matching pair need only be near, of another only far enough
(survey §4.2.4 and §5.1, Eq. 14).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.linalg import vector_norm

from resight.errors import RecipeError
from resight.fitted import PhotoSketch
from resight.hashing.centring import Centring, check_vectors
from resight.hashing.function import HashFunction
from resight.hashing.labels import check_labels, pairs_of
from resight.hashing.relaxation import balance_loss, decorrelation_loss, hashnet_beta, quantisation_loss, relax
from resight.hashing.training import Descent, Progress, layers_of, perceptron

_DESCENT = Descent(batch=256)


def double_margin_loss(first: Tensor, second: Tensor, match: Tensor, *, near: float, far: float) -> Tensor:
    """Mean over pairs of ½S·max(0, D − m₁) + ½(1 − S)·max(0, m₂ − D), D their Euclidean distance (Eq. 14).

    first, second: P×B relaxed codes. match: S, (P,) booleans. near, far: m₁ and m₂; of codes of ±1, D = 2√h where h
        bits differ. m₁ = 0 is the single margin of Eq. 13.
    Raises ValueError unless 0 ≤ near ≤ far.
    """
    if not 0 <= near <= far:
        raise ValueError(f"margins must be 0 ≤ near ≤ far, not {near} and {far}")
    distance = vector_norm(first - second, dim=1)
    return 0.5 * torch.where(match, (distance - near).clamp(min=0), (far - distance).clamp(min=0)).mean()


@dataclass(frozen=True)
class SiameseLoss:
    """``double_margin_loss`` of codes tanh(βf), over 2√B, the distance of opposite codes; and what makes codes good.

    near, far: the share of bits in which a matching pair may, and another must, differ; the margins are 2√(share·B).
    growth: γ of ``hashnet_beta``; 0 keeps β at 1.
    quantisation, balance, decorrelation: weights of the losses in ``resight.hashing.relaxation``, which the survey
        names for hashing in general and not for this loss.
    Raises ValueError for shares out of range or growth below 0.
    """

    near: float = 0.05
    far: float = 0.5
    growth: float = 0.005
    quantisation: float = 0.1
    balance: float = 0.1
    decorrelation: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.near <= self.far <= 1:
            raise ValueError(f"shares of bits must be 0 ≤ near ≤ far ≤ 1, not {self.near} and {self.far}")
        if not self.growth >= 0:
            raise ValueError(f"growth must be at least 0, not {self.growth}")

    def __call__(self, first: Tensor, second: Tensor, match: Tensor, step: int) -> Tensor:
        """first, second: outputs f of the hash layer, P×B. match: (P,) booleans. step: of training, from 0."""
        beta = hashnet_beta(step, gamma=self.growth)
        left, right = relax(first, beta), relax(second, beta)
        codes, longest = torch.cat([left, right]), 2 * math.sqrt(first.shape[1])
        near, far = longest * math.sqrt(self.near), longest * math.sqrt(self.far)
        return (
            double_margin_loss(left, right, match, near=near, far=far) / longest
            + self.quantisation * quantisation_loss(codes)
            + self.balance * balance_loss(codes)
            + self.decorrelation * decorrelation_loss(codes)
        )


_LOSS = SiameseLoss()


def fit_siamese(
    x: ArrayLike,
    labels: ArrayLike,
    bits: int,
    *,
    seed: int,
    fitted_on: str,
    descriptor: str = "",
    photos: PhotoSketch | None = None,
    loss: SiameseLoss = _LOSS,
    descent: Descent = _DESCENT,
    on_epoch: Progress | None = None,
) -> HashFunction:
    """``fit_siamese_of_pairs`` of the pairs that labels (N,) imply: all that match up to 100 000, as many that do not.

    Raises ValueError and RecipeError as that, ``check_labels`` and ``pairs_of``.
    """
    vectors = check_vectors(x, bits)
    pairs, match = pairs_of(check_labels(labels, len(vectors)), seed=seed)
    return fit_siamese_of_pairs(
        vectors,
        pairs,
        match,
        bits,
        seed=seed,
        fitted_on=fitted_on,
        descriptor=descriptor,
        photos=photos,
        loss=loss,
        descent=descent,
        on_epoch=on_epoch,
    )


def fit_siamese_of_pairs(
    x: ArrayLike,
    pairs: ArrayLike,
    match: ArrayLike,
    bits: int,
    *,
    seed: int,
    fitted_on: str,
    descriptor: str = "",
    photos: PhotoSketch | None = None,
    loss: SiameseLoss = _LOSS,
    descent: Descent = _DESCENT,
    on_epoch: Progress | None = None,
) -> HashFunction:
    """One layer, learned from pairs in batches.

    x: N×D. pairs: P×2 rows of x. match: (P,), whether both are of one thing; some must be and some must not.
    Raises ValueError where shapes do not fit; RecipeError where all pairs or none match, and as ``check_vectors`` and
    ``Centring``.
    """
    vectors, rows, same = check_vectors(x, bits), np.asarray(pairs), np.asarray(match)
    if rows.ndim != 2 or rows.shape[1] != 2 or rows.dtype.kind not in "iu" or same.shape != rows.shape[:1]:
        raise ValueError(f"pairs must be P×2 rows of x and match (P,), not {rows.shape} and {same.shape}")
    if len(rows) and (rows.min() < 0 or rows.max() >= len(vectors)):
        raise ValueError(f"pairs must be of rows of x, from 0 to {len(vectors) - 1}")
    if not same.any() or same.all():
        raise RecipeError("pairs to learn from must match in part and differ in part: give several photos of objects")
    centring = Centring.of(vectors)
    inputs, matching = torch.from_numpy(centring(vectors)), torch.from_numpy(same.astype(bool))
    network = perceptron((vectors.shape[1], bits), torch.Generator().manual_seed(seed))

    def of_batch(drawn: NDArray[np.int64], step: int) -> Tensor:
        first, second = (network(inputs[side]) for side in rows[drawn].T)
        return loss(first, second, matching[drawn], step)

    descent.run(network.parameters(), of_batch, len(rows), seed=seed, on_epoch=on_epoch)
    return HashFunction(layers_of(network, centring), "siamese", len(vectors), fitted_on, descriptor, photos)
