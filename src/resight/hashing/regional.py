"""Regional hashing: one hash layer for the vectors of regions of interest (survey §4.2.4; Song et al., "Deep region
hashing for generic instance search from images", AAAI 2018). Images are then compared by ``region_similarity``.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from resight.errors import RecipeError
from resight.fitted import PhotoSketch
from resight.hashing.centring import Centring, check_vectors
from resight.hashing.function import HashFunction
from resight.hashing.relaxation import balance_loss, quantisation_loss
from resight.hashing.training import Descent, Progress, layers_of, perceptron

_DESCENT = Descent(batch=256, rate=1e-2)


def regional_loss(
    outputs: Tensor, weight: Tensor, *, quantisation: float = 1.0, balance: float = 1.0, orthogonality: float = 1.0
) -> Tensor:
    """Mean (f − sign f)² of the hash layer's outputs f, and beside it how uneven bits are and how alike their planes.

    outputs: f = Wx + c, N×B. weight: W, B×D. The first term is the paper's, of features and codes in ℓ2; alone it would
    allow bits that are constant or copies of one another. Against that are the mean over bits of (mean f)², and
    ‖WWᵀ − I‖²_F / B, as in deep hashing (Erin Liong et al., CVPR 2015).
    """
    gram = weight @ weight.T - torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
    return (
        quantisation * quantisation_loss(outputs)
        + balance * balance_loss(outputs)
        + orthogonality * gram.square().sum() / len(weight)
    )


def fit_regional(
    regions: Sequence[ArrayLike],
    bits: int,
    *,
    seed: int,
    fitted_on: str,
    descriptor: str = "",
    photos: PhotoSketch | None = None,
    quantisation: float = 1.0,
    balance: float = 1.0,
    orthogonality: float = 1.0,
    descent: Descent = _DESCENT,
    on_epoch: Progress | None = None,
) -> HashFunction:
    """One layer, learned by ``regional_loss`` from the regions of all images together.

    regions: N images' region vectors, each r_i×D; r_i may be 0. n of the function counts regions.
    The paper learns proposals, features and codes in one network; here the network is frozen.
    Raises ValueError where they do not fit, and ValueError and RecipeError as ``check_vectors`` and ``Centring``.
    """
    given = [np.asarray(vectors, np.float32) for vectors in regions]
    if not given:
        raise RecipeError("there are no regions to learn from: give photos")
    if any(vectors.ndim != 2 or vectors.shape[1] != given[0].shape[1] for vectors in given):
        raise ValueError("regions must each be r×D with the same D")
    together = check_vectors(np.concatenate(given), bits)
    # Of normal values, those of variance 2/π are nearest to ±1. With no more than that for each bit, which none reaches
    # unless the B axes hold all variance, the outputs come nearer to their signs the more variance W's axes hold.
    centring = Centring.of(together, 2 * bits / math.pi)
    inputs = torch.from_numpy(centring(together))
    network = perceptron((together.shape[1], bits), torch.Generator().manual_seed(seed))
    weight, _ = network.parameters()

    def loss(rows: NDArray[np.int64], _: int) -> Tensor:
        return regional_loss(
            network(inputs[rows]), weight, quantisation=quantisation, balance=balance, orthogonality=orthogonality
        )

    descent.run(network.parameters(), loss, len(together), seed=seed, on_epoch=on_epoch)
    return HashFunction(layers_of(network, centring), "regional", len(together), fitted_on, descriptor, photos)
