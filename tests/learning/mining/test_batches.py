"""Batches by label: balanced over an epoch, and the same for a seed and an epoch whatever went before."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resight.errors import RecipeError
from resight.learning.mining.batches import balanced_batches, batches_of, shuffled_batches
from resight.learning.mining.stages import Sampling


@st.composite
def labelled(draw):
    counts = draw(st.lists(st.integers(2, 7), min_size=2, max_size=9))
    labels = np.repeat(np.arange(len(counts)) * 3, counts)
    return np.random.default_rng(draw(st.integers(0, 99))).permutation(labels), draw(st.integers(2, len(counts)))


@settings(max_examples=80, deadline=None)
@given(labelled(), st.integers(2, 5), st.integers(1, 12), st.integers(0, 3))
def test_each_batch_has_so_many_photos_of_so_many_classes_and_the_epoch_is_even(given_labels, each, batches, epoch):
    labels, classes = given_labels
    made = balanced_batches(labels, classes=classes, each=each, epoch=epoch, seed=1, batches=batches)
    assert len(made) == batches
    for batch in made:
        names, counts = np.unique(labels[batch], return_counts=True)
        assert len(names) == classes
        assert counts.tolist() == [min(each, int((labels == name).sum())) for name in names]
        assert len(set(batch.tolist())) == len(batch)  # nothing twice
    shown = [sum(name in labels[batch] for batch in made) for name in np.unique(labels)]
    assert max(shown) - min(shown) <= 1
    seen = np.bincount(np.concatenate(made), minlength=len(labels))
    for name in np.unique(labels):
        assert np.ptp(seen[labels == name]) <= 1


@settings(max_examples=40, deadline=None)
@given(labelled(), st.integers(2, 9))
def test_small_classes_repeat_only_if_asked(given_labels, each):
    labels, classes = given_labels
    made = balanced_batches(labels, classes=classes, each=each, epoch=0, seed=1, batches=5, repeat=True)
    for batch in made:
        assert set(np.unique(labels[batch], return_counts=True)[1]) == {each}
        for name in np.unique(labels[batch]):
            times = [np.sum(batch == place) for place in np.flatnonzero(labels == name)]
            assert max(times) - min(times) <= 1
    seen = np.bincount(np.concatenate(made), minlength=len(labels))
    assert all(np.ptp(seen[labels == name]) <= 1 for name in np.unique(labels))


def test_an_epoch_shows_about_as_many_photos_as_there_are():
    labels = np.repeat(np.arange(20), 5)
    made = balanced_batches(labels, classes=5, each=4, epoch=0, seed=0)
    assert len(made) == 5
    assert [len(batch) for batch in made] == [20] * 5


def listed(batches):
    return [batch.tolist() for batch in batches]


@pytest.mark.parametrize("kind", ["balanced", "shuffled", "whole"])
def test_an_epoch_depends_on_nothing_but_the_seed_and_its_number(kind):
    """So a run that is resumed at epoch 3 learns from what an unbroken one would."""
    labels, stage = np.repeat(np.arange(8), 3), Sampling(kind=kind, classes=3, each=2)
    unbroken = [listed(batches_of(stage, labels, epoch=epoch, seed=4)) for epoch in range(4)]
    assert listed(batches_of(stage, labels, epoch=3, seed=4)) == unbroken[3]
    if kind != "whole":
        assert unbroken[2] != unbroken[3]
        assert listed(batches_of(stage, labels, epoch=3, seed=5)) != unbroken[3]


@given(st.integers(1, 60), st.integers(1, 70))
def test_shuffled_batches_hold_everything_once(n, size):
    made = shuffled_batches(n, size=size, epoch=0, seed=0)
    assert sorted(np.concatenate(made).tolist()) == list(range(n))
    lengths = [len(batch) for batch in made]
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1


def test_the_whole_is_one_batch():
    assert listed(batches_of(Sampling(kind="whole"), [5, 5, 6, 6], epoch=1, seed=0)) == [[0, 1, 2, 3]]


def test_too_few_classes_are_refused_saying_how_many():
    with pytest.raises(RecipeError, match=r"a batch of 3 classes cannot be made of 2.*sampling\.classes"):
        balanced_batches([0, 0, 1, 1], classes=3, each=2, epoch=0, seed=0)
