"""Simultaneous feature aggregating and hashing (survey §4.2.4; Do et al., CVPR 2017; TIP 2019): each image's local
features are aggregated to a vector that codes can restore, while the codes are learned.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve

from resight.embedding.gmp import gmp
from resight.errors import RecipeError
from resight.features.multiscale import l2_normalise
from resight.fitted import PhotoSketch
from resight.hashing.autoencoder import Array, LinearMaps, autoencoder_loss, learn_codes, learn_maps, signs
from resight.hashing.centring import check_vectors
from resight.hashing.function import HashFunction, Layer


def aggregate_sets(sets: Sequence[NDArray[np.floating]], ridge: float = 1.0) -> NDArray[np.float32]:
    """``gmp`` of each set, ℓ2-normalised, as rows: what the hash function of ``fit_sah`` takes, for the same ridge."""
    return l2_normalise([gmp(features, ridge) for features in sets]).astype(np.float32)


def aggregation_loss(sets: Sequence[Array], vectors: Array, *, ridge: float) -> float:
    """½ Σ_i (‖X_i φ_i − 1‖² + μ‖φ_i‖²), of which ``gmp`` is the least. sets: each n_i×D. vectors: φ, N×D."""
    misses = (np.square(x @ phi - 1).sum() for x, phi in zip(sets, vectors, strict=True))
    return float(0.5 * (sum(misses) + ridge * np.square(vectors).sum()))


def sah_loss(
    sets: Sequence[Array],
    vectors: Array,
    codes: Array,
    maps: LinearMaps,
    *,
    penalty: float,
    decay: float,
    aggregation: float,
    ridge: float,
) -> float:
    """``autoencoder_loss`` of the aggregated vectors + γ times their ``aggregation_loss``. aggregation: γ."""
    return autoencoder_loss(vectors, codes, maps, penalty=penalty, decay=decay) + aggregation * aggregation_loss(
        sets, vectors, ridge=ridge
    )


def learn_vector(
    features: Array, code: Array, maps: LinearMaps, *, penalty: float, aggregation: float, ridge: float
) -> Array:
    """An image's φ, (D,), at which ``sah_loss`` is least for its code, (B,) of ±1, and the maps. Takes O(D³) time."""
    identity = np.eye(features.shape[1])
    matrix = identity + penalty * maps.encoder.T @ maps.encoder
    matrix += aggregation * (features.T @ features + ridge * identity)
    wanted = maps.decoder @ code + maps.restored + penalty * maps.encoder.T @ (code - maps.shift)
    return np.asarray(solve(matrix, wanted + aggregation * features.sum(axis=0), assume_a="pos"))


def fit_sah(
    sets: Sequence[ArrayLike],
    bits: int,
    *,
    seed: int,
    fitted_on: str,
    descriptor: str = "",
    photos: PhotoSketch | None = None,
    penalty: float = 0.01,
    decay: float = 1.0,
    aggregation: float = 10.0,
    ridge: float = 1.0,
    rounds: int = 10,
) -> HashFunction:
    """The encoder, learned by turns with the codes and the aggregated vectors; they start as ``gmp`` has them.

    sets: N images' local features, each n_i×D with n_i at least 1. The function takes ``aggregate_sets`` of new images,
        for the same ridge: as in the paper, a new image has no code yet to which its vector could lean.
    penalty, decay, aggregation: λ, β, γ, once all features are divided by what gives the vectors a variance of B, as
        codes have; γ the larger, the nearer the vectors stay to ``gmp``. ridge: μ, of features as they are.
    rounds: of maps, codes and vectors in turn; 0 keeps random projections.
    Not in the paper: each image's features and ridge are first scaled so that its ``gmp`` has unit length, as
    descriptors that are compared and kept do.
    Raises ValueError and RecipeError as ``fit_autoencoder``, and ValueError for sets that do not fit.
    """
    given = [np.asarray(features) for features in sets]
    if any(x.ndim != 2 or len(x) == 0 or x.shape[1:] != given[0].shape[1:] for x in given):
        raise ValueError("sets must each be n×D with n at least 1 and the same D")
    if not (penalty > 0 and decay > 0 and aggregation > 0 and ridge > 0 and rounds >= 0):
        raise ValueError("penalty, decay, aggregation and ridge must be above 0, and rounds at least 0")
    if len(given) < 2:
        raise RecipeError(f"a hash function is learned from 2 photos at least, better thousands; here: {len(given)}")
    pooled = np.stack([gmp(features, ridge) for features in given])
    norms = np.linalg.norm(pooled, axis=1)
    norms[norms == 0] = 1.0
    unit = check_vectors(pooled / norms[:, np.newaxis], bits).astype(np.float64)
    scale = float(np.sqrt(unit.var(axis=0).sum() / bits))
    if not scale > np.finfo(np.float32).eps * np.abs(unit).max():
        raise RecipeError(f"the {len(given)} photos have the same features: give varied photos")
    # Features times s have vectors over s, if the ridge is times s² too.
    factors, vectors = scale * norms, unit / scale
    weight = np.random.default_rng(seed).standard_normal((bits, vectors.shape[1]))
    shift = -weight @ vectors.mean(axis=0)
    codes = signs(vectors @ weight.T + shift)
    for _ in range(rounds):
        maps = learn_maps(vectors, codes, penalty=penalty, decay=decay)
        weight, shift = maps.encoder, maps.shift
        codes = learn_codes(vectors, codes, maps, penalty=penalty)
        vectors = np.stack(
            [
                learn_vector(
                    s * x.astype(np.float64), code, maps, penalty=penalty, aggregation=aggregation, ridge=s**2 * ridge
                )
                for x, s, code in zip(given, factors, codes, strict=True)
            ]
        )
    layer = Layer((weight / scale).astype(np.float32), shift.astype(np.float32))
    return HashFunction((layer,), "sah", len(given), fitted_on, descriptor, photos)
