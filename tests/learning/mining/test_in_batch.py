"""Miners in a batch against loops written from the papers' definitions, and against pytorch-metric-learning's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.miners import BatchHardMiner, TripletMarginMiner
from scipy import stats
from torch.nn.functional import normalize

from resight.learning.mining.in_batch import (
    batch_hard,
    distance_weighted,
    hardest_negatives,
    mine,
    semi_hard,
)
from resight.learning.mining.stages import (
    AllStage,
    DistanceWeightedStage,
    HardestStage,
    PoolStage,
    SemiHardStage,
)


@st.composite
def batches(draw):
    """Unit vectors, labels of unequal counts, and at times a memory."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, m = draw(st.integers(1, 14)), draw(st.integers(0, 10))
    classes = draw(st.integers(1, 5))
    x, y = (normalize(torch.from_numpy(rng.normal(size=(k, 6)))) for k in (n, m))
    memory = (y, torch.from_numpy(rng.integers(classes, size=m))) if m else None
    return x, torch.from_numpy(rng.integers(classes, size=n)), memory


def listed(tuples):
    assert all(part.dtype == torch.int64 for part in tuples)
    return list(zip(*(part.tolist() for part in tuples), strict=True))


def squared(x, i, others, j):
    return float(((x[i] - others[j]) ** 2).sum())


def relations(x, labels, memory):
    """Distances, and the positives and negatives of each row."""
    others, names = (x, labels) if memory is None else memory
    rows = range(len(others))
    positives = [[j for j in rows if names[j] == labels[i] and (memory or j != i)] for i in range(len(x))]
    negatives = [[j for j in rows if names[j] != labels[i]] for i in range(len(x))]
    return others, positives, negatives


@settings(max_examples=60, deadline=None)
@given(batches())
def test_hardest_negatives_are_hardnets(batch):
    x, _, memory = batch
    others, positives, negatives = relations(*batch)
    expected = set()
    for i in range(len(x)):
        for j in positives[i]:
            if memory is None and j < i:
                continue
            ends = [(i, j)] if memory else [(i, j), (j, i)]
            choices = [(squared(x, a, others, n), a, p, n) for a, p in ends for n in negatives[a]]
            if choices:
                expected.add(min(choices)[1:])
    found = listed(hardest_negatives(*batch))
    assert set(found) == expected
    assert len(found) == len(expected)


@settings(max_examples=60, deadline=None)
@given(batches())
def test_batch_hard_takes_the_farthest_positive_and_the_closest_negative(batch):
    x, _, _ = batch
    others, positives, negatives = relations(*batch)
    expected = [
        (
            i,
            max(positives[i], key=lambda j: squared(x, i, others, j)),
            min(negatives[i], key=lambda j: squared(x, i, others, j)),
        )
        for i in range(len(x))
        if positives[i] and negatives[i]
    ]
    assert listed(batch_hard(*batch)) == expected


@settings(max_examples=60, deadline=None)
@given(batches(), st.sampled_from([0.05, 0.2, 1.0]))
def test_semi_hard_is_the_closest_beyond_the_positive_within_the_margin(batch, margin):
    x, _, _ = batch
    others, positives, negatives = relations(*batch)
    expected = []
    for i in range(len(x)):
        for p in positives[i]:
            to = squared(x, i, others, p)
            beyond = [(squared(x, i, others, n), n) for n in negatives[i] if squared(x, i, others, n) > to]
            if beyond and min(beyond)[0] < to + margin:
                expected.append((i, p, min(beyond)[1]))
    assert listed(semi_hard(*batch, margin=margin)) == expected


def planted(seed, classes=6, each=4, dimensions=8):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, dimensions)).repeat(each, axis=0)
    x = normalize(torch.from_numpy(centres + rng.normal(size=centres.shape)))
    return x, torch.arange(classes).repeat_interleave(each)


@pytest.mark.parametrize("seed", range(3))
def test_another_library_agrees(seed):
    x, labels = planted(seed)
    assert listed(batch_hard(x, labels)) == listed(BatchHardMiner()(x, labels))
    squares = LpDistance(power=2)
    semi = TripletMarginMiner(margin=0.2, type_of_triplets="semihard", distance=squares)
    every = listed(semi(x, labels))
    closest = {}
    for a, p, n in every:
        closest[a, p] = min(closest.get((a, p), (np.inf, -1)), (squared(x, a, x, n), n))
    assert listed(semi_hard(x, labels, margin=0.2)) == sorted((a, p, n) for (a, p), (_, n) in closest.items())


def test_equal_distances_go_to_the_lower_row():
    x = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1], [0, 1]])
    labels = torch.tensor([0, 0, 1, 2, 2])
    assert listed(batch_hard(x, labels)) == [(0, 1, 2), (1, 0, 2), (3, 4, 2), (4, 3, 2)]
    assert listed(hardest_negatives(x, labels)) == [(0, 1, 2), (3, 4, 2)]
    assert listed(semi_hard(x, labels, margin=5)) == [(0, 1, 2), (1, 0, 2), (3, 4, 0), (4, 3, 0)]


def density(d, dimensions):
    """q(d), as Wu et al. have it, not normalised."""
    return d ** (dimensions - 2) * (1 - d**2 / 4) ** ((dimensions - 3) / 2)


@pytest.mark.parametrize("dimensions", [3, 16])
def test_distance_weighted_draws_by_the_inverse_density(dimensions):
    """Equal anchors, and negatives at chosen distances of them: how often each is drawn, by a χ² test."""
    distances, same = np.array([0.2, 0.5, 0.7, 0.9, 1.1, 1.3, 1.39, 1.45]), 30
    cosines = 1 - distances**2 / 2
    x = np.zeros((same + len(distances), dimensions))
    x[:same, 0] = 1
    x[same:, 0], x[same:, 1] = cosines, np.sqrt(1 - cosines**2)
    labels = torch.tensor([0] * same + list(range(1, len(distances) + 1)))
    counts = np.zeros(len(distances))
    for step in range(7):
        anchors, positives, negatives = distance_weighted(torch.from_numpy(x), labels, seed=5, step=step)
        pairs = list(zip(anchors.tolist(), positives.tolist(), strict=True))
        assert pairs == [(i, j) for i in range(same) for j in range(same) if i != j]
        np.add.at(counts, negatives.numpy() - same, 1)
    chances = np.where(distances < 1.4, 1 / density(np.maximum(distances, 0.5), dimensions), 0)
    expected = counts.sum() * chances / chances.sum()
    assert counts[-1] == 0
    likely = expected > 5
    assert likely.sum() >= 2
    grouped = [np.append(v[likely], v[~likely].sum()) for v in (counts, expected)]
    if grouped[1][-1] == 0:
        grouped = [v[:-1] for v in grouped]
    assert stats.chisquare(*grouped).pvalue > 0.001


def test_distance_weighted_in_many_dimensions_stays_finite():
    """1/q spans hundreds of orders of magnitude over a batch of 2048 dimensions; one anchor's are only compared."""
    x = torch.zeros(6, 2048)
    x[[0, 1], 0] = 1
    x[[2, 3], [0, 1]] = torch.tensor([0.6, 0.8])
    x[4, [0, 1]] = torch.tensor([0.2, 0.98**0.5 * 0.99])
    x[5, 3] = 1
    labels = torch.tensor([0, 0, 1, 2, 2, 3])
    found = listed(distance_weighted(x, labels, seed=0, step=0))
    assert {(a, p) for a, p, _ in found} == {(0, 1), (1, 0), (3, 4), (4, 3)}
    assert all(labels[a] != labels[n] for a, _, n in found)


def test_distance_weighted_falls_back_on_all_negatives_where_none_is_near():
    x = torch.eye(8)[[0, 0, 1, 2, 3]]
    labels = torch.tensor([0, 0, 1, 2, 3])
    drawn = {n for step in range(60) for n in distance_weighted(x, labels, seed=0, step=step)[2].tolist()}
    assert drawn == {2, 3, 4}


@pytest.mark.parametrize("memory", [False, True])
def test_what_is_drawn_follows_from_the_seed_and_the_step_alone(memory):
    x, labels = planted(0)
    kept = planted(1) if memory else None
    state = torch.random.get_rng_state()
    stage = DistanceWeightedStage(kind="distance-weighted")
    first = listed(mine(stage, x, labels, kept, seed=1, step=7))
    torch.rand(3)
    np.random.seed(4)  # noqa: NPY002 (the global generator must not matter)
    assert listed(mine(stage, x, labels, kept, seed=1, step=7)) == first
    assert listed(mine(stage, x, labels, kept, seed=1, step=8)) != first
    assert listed(mine(stage, x, labels, kept, seed=2, step=7)) != first
    torch.random.set_rng_state(state)
    mine(stage, x, labels, kept, seed=1, step=7)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_settings_choose_the_miner():
    x, labels = planted(2)
    x.requires_grad_()

    def chosen(stage):
        return listed(mine(stage, x, labels, seed=0, step=0))

    assert mine(AllStage(), x, labels, seed=0, step=0) is None
    assert chosen(HardestStage(kind="hardest")) == listed(hardest_negatives(x, labels))
    assert chosen(HardestStage(kind="hardest", positives="hardest")) == listed(batch_hard(x, labels))
    assert chosen(SemiHardStage(kind="semi-hard", margin=0.4)) == listed(semi_hard(x, labels, margin=0.4))
    with pytest.raises(ValueError, match="mine_pool"):
        chosen(PoolStage(kind="pool"))


@pytest.mark.parametrize("stage", [HardestStage(kind="hardest"), SemiHardStage(kind="semi-hard", margin=1)])
def test_half_precision_is_compared_in_full(stage):
    x, labels = planted(3)
    half = x.bfloat16()
    assert listed(mine(stage, half, labels, seed=0, step=0)) == listed(
        mine(stage, half.float(), labels, seed=0, step=0)
    )


@pytest.mark.parametrize(
    "stage",
    [
        HardestStage(kind="hardest"),
        HardestStage(kind="hardest", positives="hardest"),
        SemiHardStage(kind="semi-hard"),
        DistanceWeightedStage(kind="distance-weighted"),
    ],
)
@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2]])
def test_without_a_positive_or_a_negative_there_is_no_triplet(stage, labels):
    x = normalize(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))
    assert listed(mine(stage, x, torch.tensor(labels), seed=0, step=0)) == []


def test_a_cutoff_beyond_the_farthest_is_refused():
    with pytest.raises(ValueError, match="cutoff must be below far"):
        DistanceWeightedStage(kind="distance-weighted", cutoff=1.5, far=1.4)
