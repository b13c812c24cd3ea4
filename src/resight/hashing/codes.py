"""Binary codes: bits packed into bytes, and distances between them."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def pack(signs: ArrayLike) -> NDArray[np.uint8]:
    """N×B booleans to N×B/8 bytes, the first bit of each eight as the lowest. ValueError unless B is in eights."""
    bits = np.asarray(signs, dtype=bool)
    if bits.ndim != 2 or bits.shape[1] % 8:
        raise ValueError(f"codes must be N×B with B a multiple of 8, not {bits.shape}")
    return np.packbits(bits, axis=1, bitorder="little")


def unpack(codes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """N×B/8 bytes to the N×B booleans that ``pack`` took."""
    return np.unpackbits(codes, axis=1, bitorder="little").astype(bool)


def hamming(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.int32]:
    """In how many bits each of N codes differs from each of M; N×M int32.

    For a few codes: N×M×B/8 bytes are held. ``resight.hashing.search`` is for many. ValueError for codes of unlike
    lengths.
    """
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(f"codes of {8 * a.shape[-1]} bits cannot be compared with others of {8 * b.shape[-1]}")
    distances: NDArray[np.int32] = np.bitwise_count(a[:, None] ^ b[None]).sum(axis=2, dtype=np.int32)
    return distances


def lanes(codes: NDArray[np.uint8]) -> NDArray[Any]:
    """The same bits in 64-bit pieces, where they divide into such: an eighth of the work of comparing them."""
    return codes.view(np.uint64) if codes.shape[1] % 8 == 0 else codes


def differing(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.int64]:
    """The Hamming distances of P pairs of packed codes, as ``lanes`` gives them; (P,)."""
    counts = np.bitwise_count(a ^ b)
    bits: NDArray[np.int64] = counts[:, 0].astype(np.int64)
    for lane in counts.T[1:]:  # twice as fast as a sum over so short an axis
        bits += lane
    return bits
