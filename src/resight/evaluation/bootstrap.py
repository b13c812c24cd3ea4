"""Whether a mean of paired differences is one: a bootstrap interval, and a permutation test beside it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from resight.errors import ResightError

_DRAWN = 1 << 22  # numbers drawn at a time: bounds memory


@dataclass(frozen=True)
class Interval:
    """The bias-corrected and accelerated (BCa) bootstrap interval of a mean (Efron 1987).

    p: two-sided, of the sign: the level at which the interval would just reach 0, at least 1 / (resamples + 1).
    """

    mean: float
    low: float
    high: float
    p: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def bootstrap(differences: ArrayLike, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Interval:
    """The interval of the mean of N paired differences, under resampling of the pairs.

    level: of confidence, in (0, 1). Where all differences are equal it has no width: the permutation test, not the
    interval, then tells how little a few queries say. Raises ResightError as `permutation_p` does.
    """
    d = _checked(differences, resamples)
    if not 0 < level < 1:
        raise ResightError(f"a level of confidence lies between 0 and 1, not at {level:g}")
    rng, mean = np.random.default_rng(seed), float(d.mean())
    if np.all(d == d[0]):
        return Interval(mean, mean, mean, 1.0 if mean == 0 else 1 / (resamples + 1))
    block = max(1, _DRAWN // len(d))
    means = np.concatenate(
        [
            d[rng.integers(len(d), size=(min(block, resamples - done), len(d)))].mean(axis=1)
            for done in range(0, resamples, block)
        ]
    )
    bias = _z(means, mean)
    centred = d - mean
    acceleration = np.sum(centred**3) / (6 * np.sum(centred**2) ** 1.5)  # the jackknife's, for a mean

    def percentile(tail: float) -> float:
        shifted = bias + norm.ppf(tail)
        return float(norm.cdf(bias + shifted / (1 - acceleration * shifted)))

    low, high = np.quantile(means, [percentile((1 - level) / 2), percentile((1 + level) / 2)])
    shifted = _z(means, 0.0) - bias  # percentile() inverted at 0
    tail = float(norm.cdf(shifted / (1 + acceleration * shifted) - bias))
    p = min(1.0, max(2 * min(tail, 1 - tail), 1 / (resamples + 1)))
    return Interval(mean, float(low), float(high), p)


def permutation_p(differences: ArrayLike, *, resamples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p of N paired differences, were the two sides of each pair exchangeable.

    The share of all 2^N exchanges whose mean is as far from 0; of ``resamples`` random ones, with that observed, where
    there are more. Raises ResightError for no differences, ones that are not finite, or fewer than 100 resamples.
    """
    d = _checked(differences, resamples)
    d = d[d != 0]  # exchanging equals changes nothing
    observed = abs(d.sum())
    least = observed * (1 - 1e-12)  # sums in another order round otherwise
    if len(d) < 63 and 2 ** len(d) <= resamples:
        codes = np.arange(2 ** len(d))[:, None] >> np.arange(len(d))
        return float(np.mean(np.abs(_exchanged(codes, d)) >= least))
    rng, as_far = np.random.default_rng(seed), 1
    block = max(1, _DRAWN // len(d))
    for done in range(0, resamples, block):
        drawn = rng.integers(2, size=(min(block, resamples - done), len(d)), dtype=np.int8)
        as_far += int(np.count_nonzero(np.abs(_exchanged(drawn, d)) >= least))
    return as_far / (resamples + 1)


def holm(p: Sequence[float]) -> list[float]:
    """p-values of several tests, adjusted so that all of them together err no more than one (Holm 1979)."""
    adjusted, least = [0.0] * len(p), 0.0
    for place, test in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        least = max(least, min(1.0, (len(p) - place) * p[test]))
        adjusted[test] = least
    return adjusted


def _exchanged(codes: NDArray[np.integer], d: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of the differences with the sign changed where the code's last bit is set, one a row."""
    return np.asarray(d.sum() - 2 * ((codes & 1) @ d))


def _z(means: NDArray[np.float64], value: float) -> float:
    """The normal quantile of the share of means below a value, those at it counted half; finite."""
    share = (np.count_nonzero(means < value) + np.count_nonzero(means <= value)) / (2 * len(means))
    edge = 0.5 / (len(means) + 1)
    return float(norm.ppf(min(max(share, edge), 1 - edge)))


def _checked(differences: ArrayLike, resamples: int) -> NDArray[np.float64]:
    d = np.asarray(differences, np.float64)
    if d.ndim != 1 or not len(d) or not all(map(math.isfinite, d)):
        raise ResightError("a comparison needs at least one pair of finite figures")
    if resamples < 100:
        raise ResightError(f"{resamples} resamples tell nothing: ask for at least 100")
    return d
