"""Pool mining against a full sort walked through as cirtorch does."""

import numpy as np
import pytest

from resight.errors import RecipeError
from resight.learning.mining.pool import mine_pool
from resight.learning.mining.stages import PoolStage

COUNTS = [1, 2, 3, 4, 5, 6, 7, 2, 3]


@pytest.fixture
def world():
    """Labels in a mixed order, descriptors, and a log of what was described."""
    rng = np.random.default_rng(3)
    labels = rng.permutation(np.repeat(np.arange(len(COUNTS)) * 10, COUNTS))
    x = rng.normal(size=(len(labels), 6)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    calls = []

    def describe(places):
        calls.append(places)
        return x[places]

    return labels, x, describe, calls


def tuples_of(batches, width):
    """Rows of places: by anchor, its positive, and its negatives in order."""
    found = {}
    for batch in batches:
        assert len(set(batch.places.tolist())) == len(batch.places)
        assert batch.tuples.shape[1] == width
        assert set(batch.tuples.ravel().tolist()) == set(range(len(batch.places)))  # no picture is read for nothing
        for row in batch.places[batch.tuples]:
            if width == 4:
                assert row[0] == row[2]
            found.setdefault((int(row[0]), int(row[1])), []).append(int(row[-1]))
    return found


@pytest.mark.parametrize(("form", "width"), [("triplets", 3), ("pairs", 4)])
@pytest.mark.parametrize("block", [1, 7, 1000])
def test_negatives_are_the_most_similar_of_other_classes_one_of_each(world, form, width, block):
    labels, x, describe, _ = world
    batches = mine_pool(describe, labels, queries=1000, pool=1000, negatives=4, epoch=0, seed=1, block=block, form=form)
    found = tuples_of(batches, width)
    assert {anchor for anchor, _ in found} == {i for i in range(len(labels)) if np.sum(labels == labels[i]) > 1}
    for (anchor, positive), negatives in found.items():
        assert labels[positive] == labels[anchor]
        assert positive != anchor
        taken, expected = {labels[anchor]}, []
        for place in np.argsort(-(x @ x[anchor]), kind="stable"):
            if labels[place] not in taken and len(expected) < 4:
                expected.append(int(place))
                taken.add(labels[place])
        assert negatives == expected


def test_negatives_come_from_the_pool(world):
    labels, _, describe, calls = world
    batches = mine_pool(describe, labels, queries=3, pool=9, negatives=2, epoch=0, seed=1)
    (described,) = calls
    assert len(described) <= 3 + 9
    assert sorted(set(described.tolist())) == described.tolist()
    found = tuples_of(batches, 3)
    assert len(found) == 3
    assert {n for negatives in found.values() for n in negatives} <= set(described.tolist())


@pytest.mark.parametrize(("positives", "best"), [("closest", max), ("hardest", min)])
def test_positives_by_descriptor(world, positives, best):
    labels, x, describe, _ = world
    batches = mine_pool(describe, labels, queries=9, pool=5, negatives=1, epoch=2, seed=1, positives=positives)
    for anchor, positive in tuples_of(batches, 3):
        others = [i for i in range(len(labels)) if labels[i] == labels[anchor] and i != anchor]
        assert positive == best(others, key=lambda i: float(x[i] @ x[anchor]))


def test_random_positives_reach_all_of_the_class(world):
    labels, _, describe, _ = world
    pairs = {
        pair
        for epoch in range(60)
        for pair in tuples_of(mine_pool(describe, labels, queries=99, pool=9, negatives=1, epoch=epoch, seed=1), 3)
    }
    same = {(i, j) for i in range(len(labels)) for j in range(len(labels)) if labels[i] == labels[j] and i != j}
    assert pairs == same


def test_equal_similarities_go_to_the_lower_place():
    labels = np.array([2, 0, 0, 1, 1, 2, 3])
    same = np.ones((7, 1), np.float32)
    batches = mine_pool(lambda places: same[places], labels, queries=9, pool=9, negatives=2, epoch=0, seed=0)
    found = {anchor: negatives for (anchor, _), negatives in tuples_of(batches, 3).items()}
    assert found == {0: [1, 3], 1: [0, 3], 2: [0, 3], 3: [0, 1], 4: [0, 1], 5: [1, 3]}


def test_batches_have_at_most_so_many_tuples(world):
    labels, _, describe, _ = world
    batches = mine_pool(
        describe, labels, queries=11, pool=99, negatives=3, epoch=0, seed=0, tuples_per_batch=4, form="pairs"
    )
    assert [len(batch.tuples) for batch in batches] == [12, 12, 9]


def test_an_epoch_depends_on_nothing_but_the_weights_the_seed_and_its_number(world):
    labels, _, describe, _ = world

    def mined(epoch, seed=6):
        return tuples_of(mine_pool(describe, labels, queries=8, pool=20, negatives=2, epoch=epoch, seed=seed), 3)

    unbroken = [mined(epoch) for epoch in range(3)]
    assert mined(2) == unbroken[2]
    assert unbroken[1] != unbroken[2]
    assert mined(2, seed=7) != unbroken[2]


@pytest.mark.parametrize("epoch", range(10))
def test_a_small_pool_is_enlarged_until_it_has_the_classes(world, epoch):
    """Whether it does is up to the draw; a run must not fail for that in its tenth epoch."""
    labels, _, describe, _ = world
    batches = mine_pool(describe, labels, queries=5, pool=2, negatives=8, epoch=epoch, seed=0)
    assert all(len(set(labels[negatives])) == 8 for negatives in tuples_of(batches, 3).values())


def test_what_cannot_be_mined_is_refused(world):
    labels, x, describe, _ = world
    options = {"queries": 5, "pool": 20, "epoch": 0, "seed": 0}
    with pytest.raises(RecipeError, match=r"9 negatives of different objects .* among 9 objects.*miner\.negatives"):
        mine_pool(describe, labels, negatives=9, **options)
    with pytest.raises(RecipeError, match="no two photos are of one object"):
        mine_pool(describe, np.arange(9), negatives=2, **options)
    with pytest.raises(RecipeError, match="not finite"):
        mine_pool(lambda places: x[places] * np.float32(np.nan), labels, negatives=2, **options)
    with pytest.raises(ValueError, match="a descriptor for each"):
        mine_pool(lambda places: x[places[1:]], labels, negatives=2, **options)


def test_the_stage_has_the_settings(world):
    labels, _, describe, _ = world
    stage = PoolStage(kind="pool", queries=4, negatives=2, tuples_per_batch=2)
    batches = mine_pool(describe, labels, epoch=0, seed=0, **stage.model_dump(exclude={"kind"}))
    assert len(batches) == 2
