"""Pairs and decisions as they are kept: from both sides, for what is there, and for nothing that has gone."""

import shutil

import pytest

from resight.errors import CollectionError
from resight.search.collection import Collection
from resight.store.duplicates import Pair, decisions, keep, pairs, uncompared


@pytest.fixture
def writer(indexed, tmp_path):
    with Collection.open(shutil.copytree(indexed, tmp_path / "own"), write=True) as opened:
        yield opened


def test_of_a_pair_found_from_both_sides_the_larger_overlap_stays(writer):
    catalogue = writer._store.catalogue
    keep(catalogue, [1], [Pair(1, 2, 0.7, 30), Pair(1, 3, 0.9, 20)])
    keep(catalogue, [2, 3], [Pair(1, 2, 0.8, 10), Pair(1, 3, 0.6, 40)])
    assert pairs(catalogue) == [Pair(1, 2, 0.8, 10), Pair(1, 3, 0.9, 20)]
    assert uncompared(catalogue) == list(range(4, 13))
    assert [len(writer.duplicates(overlap=limit)) for limit in (0.95, 0.85, 0.5)] == [0, 1, 1]


@pytest.mark.parametrize("gone", [1, 2])
def test_nothing_stays_of_an_image_that_goes_and_all_of_the_others(writer, gone):
    catalogue = writer._store.catalogue
    keep(catalogue, [1, 2, 3, 4], [Pair(1, 2, 0.9, 10), Pair(3, 4, 0.9, 10)])
    writer.decide_duplicates([1, 2], "different")
    writer.decide_duplicates([3, 4], "duplicates")
    writer.remove([gone])
    assert pairs(catalogue) == [Pair(3, 4, 0.9, 10)] and decisions(catalogue) == {(3, 4): "duplicates"}
    compared = catalogue.rows("SELECT image FROM duplicates_compared ORDER BY image")
    assert [image for (image,) in compared] == sorted({1, 2, 3, 4} - {gone})


def test_who_only_reads_decides_nothing(indexed):
    with Collection.open(indexed) as reader:
        for change in (lambda: reader.decide_duplicates([1, 2], "duplicates"), reader.find_duplicates):
            with pytest.raises(CollectionError, match="write=True"):
                change()
