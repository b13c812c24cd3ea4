"""Batches of pools: what they may hold, and that the seed and the epoch decide it."""

import numpy as np
import pytest

from resight.errors import RecipeError
from resight.learning.unlabelled.pools import Pools, batches_of_pools, pools_of


def places(*numbers):
    return np.array(numbers, np.int64)


@pytest.fixture
def pools():
    return Pools(
        places(3, 7, 9),
        (places(1, 2), places(8), places(10, 11, 12)),
        (places(20, 21, 22), places(23), places(24, 25, 26, 27)),
    )


def rows_of(batches):
    return [batch.places[batch.tuples] for batch in batches]


@pytest.mark.parametrize("form", ["triplets", "pairs"])
def test_each_row_is_of_its_anchors_pools(pools, form):
    batches = batches_of_pools(pools, queries=10, negatives=2, tuples_per_batch=2, form=form, epoch=0, seed=0)
    assert [len(batch.tuples) for batch in batches] in ([4, 1], [3, 2])
    seen = []
    for batch, rows in zip(batches, rows_of(batches), strict=True):
        assert batch.places.tolist() == sorted(set(rows.ravel().tolist()))
        for row in rows.tolist():
            place = pools.anchors.tolist().index(row[0])
            assert row[1] in pools.positives[place] and row[-1] in pools.negatives[place]
            assert len(row) == 3 if form == "triplets" else row[2] == row[0]
            seen.append(row[0])
    assert sorted(seen) == [3, 3, 7, 9, 9]


def test_an_anchor_has_one_positive_and_different_negatives(pools):
    (batch,) = batches_of_pools(pools, queries=3, negatives=3, epoch=0, seed=0)
    rows = batch.places[batch.tuples]
    for anchor in (3, 9):
        own = rows[rows[:, 0] == anchor]
        assert len(set(own[:, 1].tolist())) == 1 and len(set(own[:, 2].tolist())) == 3


def test_hardest_are_the_first(pools):
    (batch,) = batches_of_pools(pools, queries=3, negatives=2, draw="hardest", epoch=5, seed=1)
    rows = batch.places[batch.tuples]
    assert sorted(rows[rows[:, 0] == 9][:, 2].tolist()) == [24, 25]


def test_seed_and_epoch_decide(pools):
    def drawn(epoch, seed):
        return [r.tolist() for r in rows_of(batches_of_pools(pools, queries=2, negatives=2, epoch=epoch, seed=seed))]

    assert drawn(0, 0) == drawn(0, 0)
    assert len({str(drawn(epoch, 0)) for epoch in range(8)}) > 3
    assert len({str(drawn(0, seed)) for seed in range(8)}) > 3
    everything = {tuple(row) for epoch in range(60) for rows in drawn(epoch, 0) for row in rows}
    assert len({row[:2] for row in everything}) == 2 + 1 + 3  # each positive has its turn


def test_pools_are_checked():
    with pytest.raises(ValueError, match="empty"):
        Pools(places(1), (places(),), (places(2),))
    with pytest.raises(ValueError, match="hold it"):
        Pools(places(1), (places(1, 3),), (places(2),))
    with pytest.raises(ValueError, match="twice"):
        Pools(places(1), (places(2, 3),), (places(2),))
    kept = pools_of(places(1, 2, 3), [places(4), places(), places(5)], [places(6), places(7), places(8)])
    assert kept.anchors.tolist() == [1, 3] and kept.negatives[1].tolist() == [8]
    with pytest.raises(RecipeError, match="of 1 anchors 1 have positives and 0 negatives"):
        pools_of(places(1), [places(4)], [places()])
