"""A binary autoencoder: codes from which a linear decoder restores the vectors (survey §4.2.4).

Carreira-Perpiñán & Raziperchikolaei, CVPR 2015; here in the relaxed form of Do et al., CVPR 2017 and TIP 2019, whose
encoder needs no classifier for each bit: codes are variables of their own, and a penalty ties them to the encoder.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve

from resight.fitted import PhotoSketch
from resight.hashing.centring import Centring, check_vectors
from resight.hashing.function import HashFunction, Layer

_SWEEPS = 10  # over the bits at most, in one step for the codes

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LinearMaps:
    """Encoder x ↦ Wx + c and decoder b ↦ Vb + d.

    encoder: W, B×D. shift: c, (B,). decoder: V, D×B. restored: d, (D,).
    """

    encoder: Array
    shift: Array
    decoder: Array
    restored: Array


def autoencoder_loss(x: Array, codes: Array, maps: LinearMaps, *, penalty: float, decay: float) -> float:
    """½‖X − BVᵀ − d‖² + λ/2 ‖B − XWᵀ − c‖² + β/2 (‖W‖² + ‖V‖²), which each step below lowers.

    x: X, N×D. codes: B, N×B of ±1. penalty: λ. decay: β.
    """
    restoring = x - codes @ maps.decoder.T - maps.restored
    encoding = codes - x @ maps.encoder.T - maps.shift
    weights = np.square(maps.encoder).sum() + np.square(maps.decoder).sum()
    return float(0.5 * (np.square(restoring).sum() + penalty * np.square(encoding).sum() + decay * weights))


def learn_maps(x: Array, codes: Array, *, penalty: float, decay: float) -> LinearMaps:
    """The maps at which ``autoencoder_loss`` is least for codes that are given: two ridge regressions."""
    encoder, shift = _ridge(x, codes, decay / penalty)
    decoder, restored = _ridge(codes, x, decay)
    return LinearMaps(encoder, shift, decoder, restored)


def learn_codes(x: Array, codes: Array, maps: LinearMaps, *, penalty: float) -> Array:
    """Codes of lower ``autoencoder_loss`` than those given, for maps that are given.

    Bit by bit over all vectors, each set to the better of ±1 as the others stand (discrete cyclic coordinate descent;
    Shen et al., CVPR 2015), until none changes or ten times over.
    """
    gram = maps.decoder.T @ maps.decoder
    np.fill_diagonal(gram, 0.0)  # ±1 squared is 1 whichever it is
    wanted = (x - maps.restored) @ maps.decoder + penalty * (x @ maps.encoder.T + maps.shift)
    found = codes.copy()
    for _ in range(_SWEEPS):
        before = found.copy()
        for bit in range(codes.shape[1]):
            better = wanted[:, bit] - found @ gram[bit]
            found[:, bit] = np.where(better == 0, found[:, bit], np.sign(better))
        if np.array_equal(found, before):
            break
    return found


def fit_autoencoder(
    x: ArrayLike,
    bits: int,
    *,
    seed: int,
    fitted_on: str,
    descriptor: str = "",
    photos: PhotoSketch | None = None,
    penalty: float = 0.01,
    decay: float = 1.0,
    rounds: int = 50,
) -> HashFunction:
    """The encoder of the autoencoder, learned by turns with the codes, from those of random projections.

    penalty, decay: λ and β, for vectors that are centred and of mean squared norm B, as codes are.
    rounds: at most; it ends when no code changes. 0 keeps the random projections.
    The paper starts with other codes and solves for weights and offsets by turns; here the ridge regressions have both.
    Raises ValueError for values out of range, and as ``check_vectors`` and ``Centring``.
    """
    vectors = check_vectors(x, bits)
    if not (penalty > 0 and decay > 0 and rounds >= 0):
        raise ValueError(f"penalty and decay must be above 0 and rounds at least 0, not {penalty}, {decay}, {rounds}")
    centring = Centring.of(vectors, bits)
    inputs = centring(vectors).astype(np.float64)
    weight = np.random.default_rng(seed).standard_normal((bits, vectors.shape[1]))
    shift = np.zeros(bits)
    codes = signs(inputs @ weight.T)
    for _ in range(rounds):
        maps = learn_maps(inputs, codes, penalty=penalty, decay=decay)
        weight, shift = maps.encoder, maps.shift
        found = learn_codes(inputs, codes, maps, penalty=penalty)
        if np.array_equal(found, codes):
            break
        codes = found
    layer = centring.into(Layer(weight.astype(np.float32), shift.astype(np.float32)))
    return HashFunction((layer,), "autoencoder", len(vectors), fitted_on, descriptor, photos)


def signs(outputs: Array) -> Array:
    """±1 of each output as ``HashFunction`` has it: 0 is −1."""
    return np.where(outputs > 0, 1.0, -1.0)


def _ridge(inputs: Array, outputs: Array, decay: float) -> tuple[Array, Array]:
    """W and c at which ‖Y − XWᵀ − c‖² + decay·‖W‖² is least, X being N×P and Y N×Q: Q×P and (Q,)."""
    x_mean, y_mean = inputs.mean(axis=0), outputs.mean(axis=0)
    x = inputs - x_mean
    gram = x.T @ x
    gram[np.diag_indices_from(gram)] += decay
    weight = solve(gram, x.T @ (outputs - y_mean), assume_a="pos").T
    return weight, y_mean - weight @ x_mean
