"""How well a set of codes uses its bits (survey §4.2.4 b): balanced, uncorrelated, and seldom all alike."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resight.hashing.codes import unpack
from resight.hashing.search import Codes, blocks, check_codes


@dataclass(frozen=True, eq=False)
class Quality:
    """Of N codes.

    means: (B,) float64, the share of codes in which each bit is set.
    mean_correlation, max_correlation: of |ρ| over the pairs of bits that vary; None where fewer than two do.
    distinct: how many different codes there are. entropy: of their shares, in bits; at most log₂ N.
    """

    n: int
    means: NDArray[np.float64]
    mean_correlation: float | None
    max_correlation: float | None
    distinct: int
    entropy: float

    @property
    def imbalance(self) -> float:
        """The mean deviation of the bits' means from ½; 0 is best and ½ worst."""
        return float(np.abs(self.means - 0.5).mean())

    @property
    def worst_imbalance(self) -> float:
        """The largest deviation of a bit's mean from ½."""
        return float(np.abs(self.means - 0.5).max())

    @property
    def constant(self) -> int:
        """How many bits are the same in every code."""
        return int(np.count_nonzero((self.means == 0) | (self.means == 1)))


def quality(codes: Codes) -> Quality:
    """The measures of N×B/8 codes. Raises ValueError where there are none. Takes O(B²) memory, and O(N) for sorting."""
    check_codes(codes)
    if not len(codes):
        raise ValueError("there are no codes to measure: give some")
    bits = 8 * codes.shape[1]
    together = np.zeros((bits, bits))  # in how many codes both bits are set
    for _, block in blocks(codes):
        ones = unpack(block).astype(np.float32)
        together += ones.T @ ones  # a block's counts are below 2²⁴, and so exact
    means = np.diagonal(together) / len(codes)
    pairs = _correlations(together / len(codes), means)
    _, counts = np.unique(codes.view(f"V{codes.shape[1]}"), return_counts=True)
    shares = counts / len(codes)
    return Quality(
        n=len(codes),
        means=means,
        mean_correlation=float(pairs.mean()) if len(pairs) else None,
        max_correlation=float(pairs.max()) if len(pairs) else None,
        distinct=len(counts),
        entropy=float(-(shares * np.log2(shares)).sum()) + 0.0,  # so that it is never -0
    )


def _correlations(moments: NDArray[np.float64], means: NDArray[np.float64]) -> NDArray[np.float64]:
    """|ρ| of each pair of bits that vary."""
    varies = np.flatnonzero((means > 0) & (means < 1))
    p = means[varies]
    covariance = moments[np.ix_(varies, varies)] - np.outer(p, p)
    deviation = np.sqrt(p * (1 - p))
    correlation: NDArray[np.float64] = np.abs(covariance / np.outer(deviation, deviation))
    return correlation[np.triu_indices(len(varies), 1)]
