"""The paired bootstrap and permutation test beside SciPy's, by hand, and by their rate of error."""

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from resight.errors import ResightError
from resight.evaluation.bootstrap import bootstrap, holm, permutation_p


def pairs(queries, shift, seed):
    """Two systems' APs: skewed, correlated, of many equals."""
    rng = np.random.default_rng(seed)
    first = rng.beta(2, 1, queries)
    second = np.clip(first + rng.exponential(0.1, queries) * rng.choice([-1, 0, 2], queries) + shift, 0, 1)
    return first, second


def mean_difference(x, y, axis=-1):
    return np.mean(y - x, axis=axis)


@pytest.mark.parametrize("queries", [12, 70, 500])
def test_the_interval_is_scipys(queries):
    first, second = pairs(queries, 0.0, queries)
    ours = bootstrap(second - first, resamples=40_000, seed=1)
    theirs = scipy.stats.bootstrap(
        (first, second), mean_difference, paired=True, n_resamples=40_000, method="BCa", rng=np.random.default_rng(2)
    )
    wide = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours.mean == pytest.approx(np.mean(second) - np.mean(first), abs=1e-15)
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.02 * wide)  # both are random
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.02 * wide)


@pytest.mark.parametrize("shift", [-0.05, -0.042, -0.02])
def test_p_is_the_level_at_which_the_interval_reaches_zero(shift):
    first, second = pairs(60, shift, 5)
    p = bootstrap(second - first).p
    assert 1e-3 < p < 0.9
    for level, excludes in ((1 - 1.05 * p, True), (1 - 0.95 * p, False)):
        assert bootstrap(second - first, level=level).excludes_zero is excludes


@pytest.mark.parametrize("queries", [2, 3, 9, 13])
def test_all_exchanges_are_counted_by_hand_and_by_scipy(queries):
    first, second = pairs(queries, 0.03, queries + 3)
    first[0], second[0] = 0.2, 0.9
    d = second - first
    means = [abs(np.dot(signs, d)) for signs in itertools.product((1, -1), repeat=queries)]
    by_hand = np.mean(np.array(means) >= abs(d.sum()) - 1e-12)
    assert permutation_p(d) == pytest.approx(by_hand, abs=1e-15)
    theirs = scipy.stats.permutation_test(
        (first, second), mean_difference, permutation_type="samples", n_resamples=np.inf, vectorized=True
    )
    assert permutation_p(d) == pytest.approx(theirs.pvalue, abs=1e-12)


def test_random_exchanges_are_scipys():
    first, second = pairs(80, -0.015, 2)
    theirs = scipy.stats.permutation_test(
        *((first, second), mean_difference),
        **{"permutation_type": "samples", "n_resamples": 20_000, "rng": np.random.default_rng(3)},
    )
    ours = permutation_p(second - first, resamples=20_000, seed=4)
    assert 0.01 < ours < 0.9
    assert ours == pytest.approx(theirs.pvalue, abs=4 * np.sqrt(2 * ours * (1 - ours) / 20_000))


def test_nineteen_of_twenty_intervals_hold_the_truth():
    """300 samples of 60 queries whose true difference is known: coverage 95 %, standard error 1.3 %."""
    rng = np.random.default_rng(0)
    truth = 0.02 + 0.05  # the mean of an exponential, which is skewed, moved
    held = []
    for trial in range(300):
        found = bootstrap(rng.exponential(0.05, 60) + 0.02, resamples=1000, seed=trial)
        held.append(found.low <= truth <= found.high)
    assert 0.90 <= np.mean(held) <= 0.98


def test_where_there_is_no_difference_few_are_found():
    """400 comparisons of equals: both tests find a difference in about one of twenty."""
    rng = np.random.default_rng(1)
    found = [rng.normal(0, 0.1, 50) for _ in range(400)]
    intervals = np.mean([bootstrap(d, resamples=1000, seed=i).excludes_zero for i, d in enumerate(found)])
    permuted = np.mean([permutation_p(d, resamples=1000, seed=i) <= 0.05 for i, d in enumerate(found)])
    assert 0.02 <= permuted <= 0.085 and 0.02 <= intervals <= 0.1


def test_equals_and_a_few():
    assert permutation_p(np.zeros(50)) == 1.0
    none = bootstrap(np.zeros(50))
    assert (none.mean, none.low, none.high, none.p) == (0, 0, 0, 1) and not none.excludes_zero
    # One query says nothing, whatever the interval, which has no width.
    assert permutation_p([0.3]) == 1.0
    assert bootstrap([0.3]).excludes_zero


@given(st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=12), st.integers(0, 5))
def test_changing_sides_changes_the_sign_only(d, seed):
    d = np.array(d)
    ahead, back = (bootstrap(sign * d, resamples=300, seed=seed) for sign in (1, -1))
    assert ahead.mean == -back.mean
    assert (ahead.low, ahead.high) == (pytest.approx(-back.high, abs=1e-6), pytest.approx(-back.low, abs=1e-6))
    assert permutation_p(d, seed=seed) == pytest.approx(permutation_p(-d, seed=seed), abs=1e-12)


def test_the_seed_decides():
    d = np.subtract(*pairs(40, 0.1, 0))
    assert bootstrap(d, seed=3) == bootstrap(d, seed=3) != bootstrap(d, seed=4)


def test_holm_by_hand():
    # .01·3; .02·2; .04·1 raised to the one before it
    assert holm([0.02, 0.04, 0.01]) == pytest.approx([0.04, 0.04, 0.03])
    assert holm([0.6, 0.5]) == [1.0, 1.0] and holm([0.3]) == [0.3] and holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_is_between_none_and_bonferroni_and_keeps_the_order(p):
    adjusted = holm(p)
    assert all(q <= a <= min(1, len(p) * q) for q, a in zip(p, adjusted, strict=True))
    order = sorted(range(len(p)), key=lambda i: p[i])
    assert [adjusted[i] for i in order] == sorted(adjusted)


@pytest.mark.parametrize(
    ("d", "options"), [([], {}), ([np.nan], {}), ([[1.0]], {}), ([1.0], {"resamples": 5}), ([1.0], {"level": 1.0})]
)
def test_what_cannot_be_compared(d, options):
    with pytest.raises(ResightError):
        bootstrap(d, **options)
