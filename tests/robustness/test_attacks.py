"""Attacks on descriptors and scores whose worst pictures are known; all that they give is whole and within ε."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from resight.robustness.attacks import black_box, targeted, universal, untargeted  # noqa: E402
from resight.robustness.gradients import as_tensor  # noqa: E402

SHAPE = (12, 16, 3)


def means(x, draw):
    """A descriptor of three entries: how far each channel's mean is from middle grey."""
    v = x.mean(dim=(0, 2, 3)) - 127.5
    return v / v.norm()


def cosine(a, b):
    return float((means(as_tensor(a).float(), 0) * means(as_tensor(b).float(), 0)).sum())


def near_grey(seed, high=10):
    """A picture whose channels' means are 127.5 and a bit: there the descriptor turns easily."""
    rng = np.random.default_rng(seed)
    return np.clip(rng.integers(100, 156, SHAPE) + rng.integers(-high, high, 3), 0, 255).astype(np.uint8)


def within(altered, pixels, epsilon):
    return altered.dtype == np.uint8 and int(np.abs(altered.astype(int) - pixels).max()) <= epsilon


@given(seed=st.integers(0, 1000), epsilon=st.integers(1, 16), steps=st.integers(1, 6), dark=st.booleans())
@settings(max_examples=30, deadline=None)
def test_all_is_within_epsilon(seed, epsilon, steps, dark):
    pixels = np.random.default_rng(seed).integers(0, 40 if dark else 256, SHAPE, np.uint8)
    clean = means(as_tensor(pixels).float(), 0)
    how = {"epsilon": epsilon, "steps": steps, "seed": seed}
    assert within(untargeted(means, pixels, clean, **how), pixels, epsilon)
    assert within(targeted(means, pixels, -clean, **how), pixels, epsilon)
    made = universal(means, [pixels], [clean], epsilon=epsilon, passes=steps, side=9, seed=seed)
    assert float(made.perturbation.abs().max()) <= epsilon
    assert within(made.apply(pixels), pixels, epsilon)
    asked = black_box(lambda x: float(x.mean()), pixels, epsilon=epsilon, queries=steps, seed=seed)
    assert within(asked, pixels, epsilon)


def test_the_target_is_reached_where_it_can_be_and_the_own_descriptor_left():
    """Every channel's mean can be moved by 8: that turns (2.5, 3.5, −3.5) to the opposite, and to any signs."""
    pixels = np.full(SHAPE, (130, 131, 124), np.uint8)
    clean = means(as_tensor(pixels).float(), 0)
    how = {"epsilon": 8, "steps": 12, "seed": 1}
    assert cosine(untargeted(means, pixels, clean, **how), pixels) < -0.9
    target = torch.tensor([-1.0, 1.0, 1.0]) / 3**0.5
    found = targeted(means, pixels, target, **how)
    assert float((means(as_tensor(found).float(), 0) * target).sum()) > 0.95
    assert (
        cosine(untargeted(means, pixels, clean, epsilon=1, steps=12, seed=1), pixels) > 0.8
    )  # it can not, by so little


def test_draws_of_a_random_descriptor_are_averaged():
    """One draw looks at a channel only, and which one differs: only their mean says what to do."""
    pixels = near_grey(0)
    numbers = []

    def drawn(x, draw):
        numbers.append(draw)
        return means(x, 0) * torch.nn.functional.one_hot(torch.tensor(draw % 3), 3)

    clean = means(as_tensor(pixels).float(), 0)
    altered = untargeted(drawn, pixels, clean, epsilon=16, steps=8, seed=0, draws=3)
    assert numbers == list(range(27))
    assert cosine(altered, pixels) < -0.9


def test_one_perturbation_for_all_turns_pictures_it_has_not_seen():
    seen, unseen = (
        [np.full((h, 20, 3), 127, np.uint8) + np.array([2, 3, 2], np.uint8) for h in hs] for hs in ([9, 30], [14])
    )
    clean = [means(as_tensor(p).float(), 0) for p in seen]
    made = universal(means, seen, clean, epsilon=8, passes=10, side=16, seed=0)
    assert all(cosine(made.apply(p), p) < -0.9 for p in (*seen, *unseen))
    again = universal(means, seen, clean, epsilon=8, passes=10, side=16, seed=0)
    assert torch.equal(made.perturbation, again.perturbation)


def test_a_black_box_lowers_the_score_by_exactly_so_many_queries():
    pixels = near_grey(3)
    asked = []

    def score(x):
        asked.append(x.copy())
        return float(x.astype(float).sum())

    found = black_box(score, pixels, epsilon=8, queries=300, seed=0)
    assert len(asked) == 300
    assert found.sum(dtype=int) == min(x.sum(dtype=int) for x in asked) < asked[0].sum(dtype=int) - 2 * pixels.size
    assert set(np.unique(found.astype(int) - pixels)) == {-8, 8}
    with pytest.raises(ValueError, match="at least one query"):
        black_box(score, pixels, epsilon=8, queries=0, seed=0)


def test_squares_shrink_as_published():
    """Where nothing is ever kept, a try differs from the start by its one square."""
    pixels = np.full((200, 200, 3), 128, np.uint8)
    seen = []

    def score(x):
        seen.append(x)
        return float(len(seen))

    black_box(score, pixels, epsilon=8, queries=1000, seed=0)
    # A share of 0.05 of the picture, halved after 0.1 %, 0.5 %, 2 %, 5 %, 10 %, 20 %, … of the queries.
    for asked, side in ((1, 45), (4, 32), (15, 22), (40, 16), (90, 11), (150, 8), (300, 6), (500, 4), (700, 3)):
        rows, columns = np.nonzero((seen[asked] != seen[0]).any(axis=2))
        assert np.ptp(rows) + 1 == side and np.ptp(columns) + 1 <= side  # a column may be as it was
