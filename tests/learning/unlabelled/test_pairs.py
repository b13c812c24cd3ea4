"""Pools of given pairs against loops; pairs of photos that verify against the objects they show."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from resight.errors import RecipeError, ResightError
from resight.learning.datasets.photos import Photo
from resight.learning.unlabelled import verified
from resight.learning.unlabelled.pairs import parts_of, pools_of_pairs
from resight.learning.unlabelled.stages import VerifiedStage
from resight.learning.unlabelled.verified import Compared, candidate_pairs, verified_pairs


def test_negatives_are_the_nearest_of_each_other_part():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 6)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    parts = rng.integers(-1, 8, 40)
    counts = np.zeros((40, 40))
    for i, j in [(0, 3), (0, 5), (0, 9), (2, 4), (7, 1)]:
        parts[j] = parts[i] = abs(parts[i])
        counts[i, j] = 10 + j % 5
    pools = pools_of_pairs(csr_array(counts), parts, x, k=40)
    assert pools.anchors.tolist() == [0, 2, 7]
    assert pools.positives[0].tolist() == [9, 3, 5]  # by weight, of equal ones the lower
    for anchor, negatives in zip(pools.anchors, pools.negatives, strict=True):
        best = {}
        for n in np.argsort(-(x @ x[anchor]), kind="stable").tolist():
            if parts[n] not in (-1, parts[anchor]):
                best.setdefault(parts[n], n)
        assert negatives.tolist() == list(best.values())
    with pytest.raises(RecipeError, match="none has both"):
        pools_of_pairs(csr_array(counts), np.zeros(40, np.int64), x, k=40)


def test_candidates_are_neighbours_either_way():
    x = np.random.default_rng(1).normal(size=(20, 4)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    near = np.argsort(-(x @ x.T), axis=1)
    expected = {(min(i, j), max(i, j)) for i in range(20) for j in [n for n in near[i] if n != i][:3]}
    assert [tuple(pair) for pair in candidate_pairs(x, 3).tolist()] == sorted(expected)


@pytest.fixture(scope="module")
def shown(photos):
    """Two views of each of four things, and four other things."""
    files = sorted(file for file in photos.iterdir() if file.suffix in (".png", ".jpg"))
    return [Photo(file, place) for place, file in enumerate(files)], [file.name for file in files]


STAGE = VerifiedStage(kind="verified", max_side=256, features=300)


def test_two_views_verify_and_different_things_do_not(shown, tmp_path):
    photos, names = shown
    everything = np.array([(i, j) for i in range(len(photos)) for j in range(i + 1, len(photos))])
    found = verified_pairs(photos, everything, STAGE).toarray()
    things = [name.rpartition(".")[0].rpartition("-")[0] or name for name in names]
    views = [name.rpartition(".")[0][-2:] in ("-1", "-2") for name in names]
    for i, j in everything.tolist():
        same = views[i] and views[j] and things[i] == things[j]
        assert (found[i, j] >= 20) == same, (names[i], names[j])
        assert found[i, j] == found[j, i]
    assert len(set(parts_of(csr_array(found)).tolist())) == len(photos) - 4
    some = everything[::9]
    few = verified_pairs(photos, some[::-1], STAGE, scratch=tmp_path).toarray()
    assert few.sum() > 0 and all(few[i, j] == found[i, j] for i, j in some.tolist())  # nor does the order matter
    assert not list(tmp_path.iterdir())


def test_features_are_those_of_the_photos_and_made_once(shown, monkeypatch, tmp_path):
    photos, _ = shown
    alone = [verified.rootsift_of(photo, features=300, max_side=256) for photo in photos[:3]]
    made = []
    monkeypatch.setattr(verified, "rootsift_of", lambda photo, **how: made.append(photo) or alone[photo.label])
    seen = []
    monkeypatch.setattr(verified, "inliers", lambda *given, seed: seen.append(given) or 0)
    pairs = np.array([(0, 1), (2, 1), (0, 2)])
    assert verified_pairs(photos[:3], pairs, STAGE, scratch=tmp_path).nnz == 0
    assert made == [photos[0], photos[1], photos[2]]
    for (i, j), (one, side, other, other_side) in zip(pairs.tolist(), seen, strict=True):
        for place, features, own in ((i, one, side), (j, other, other_side)):
            np.testing.assert_array_equal(features.xy, alone[place][0].xy)
            np.testing.assert_array_equal(features.descriptors, alone[place][0].descriptors)
            assert own == alone[place][1] > 200 and len(features)


def test_what_was_compared_before_is_not_compared_again(shown, monkeypatch):
    photos, _ = shown
    everything = np.array([(i, j) for i in range(len(photos)) for j in range(i + 1, len(photos))])
    first, again = everything[::2], everything[::3]
    alone, compared, seen = verified_pairs(photos, again, STAGE).toarray(), Compared(), []
    verified_pairs(photos, first, STAGE, compared=compared)
    count = verified.inliers
    monkeypatch.setattr(verified, "inliers", lambda *given, seed: seen.append(given) or count(*given, seed=seed))
    np.testing.assert_array_equal(verified_pairs(photos, again, STAGE, compared=compared).toarray(), alone)
    assert len(seen) == len({*map(tuple, again.tolist())} - {*map(tuple, first.tolist())}) < len(again)
    seen.clear()
    np.testing.assert_array_equal(verified_pairs(photos, again, STAGE, compared=compared).toarray(), alone)
    assert not seen


@given(st.lists(st.dictionaries(st.integers(0, 2**40), st.integers(0, 999), max_size=8), max_size=4))
def test_numbers_of_inliers_are_kept_as_by_a_dictionary(batches):
    compared, truth = Compared(), {}
    for batch in batches:
        new = {key: count for key, count in batch.items() if key not in truth}
        compared.add(np.array([*new], np.int64), np.array([*new.values()], np.int32))
        truth |= new
        asked = np.array([*truth, 5, 2**41, *batch], np.int64)
        assert compared.of(asked).tolist() == [truth.get(key, -1) for key in asked.tolist()]


def test_too_little_room_for_features_is_said_before_any_is_made(shown, monkeypatch, tmp_path):
    monkeypatch.setattr(verified.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(RecipeError, match=r"features of 12 photos need up to .*unlabelled\.features"):
        verified_pairs(shown[0], np.array([[0, 1]]), STAGE, scratch=tmp_path)


def test_an_unreadable_photo_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ResightError, match=r"a\.png: not an image"):
        verified_pairs([Photo(tmp_path / "a.png", 0)] * 2, np.array([[0, 1]]), STAGE)
