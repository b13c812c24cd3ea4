"""Near-duplicates: how frames overlap, how pairs and decisions make clusters, and what is found in real photos."""

import json
import shutil

import cv2
import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from resight.cli.duplicates import duplicates
from resight.errors import CollectionError, QueryError
from resight.search.collection import Collection
from resight.search.duplicates import clusters, frames_overlap
from resight.store.duplicates import Pair


def test_overlaps_of_shifted_and_scaled_frames_have_a_closed_form():
    shift, scale = np.eye(3), np.diag([0.5, 0.5, 1])
    shift[0, 2] = 50
    assert frames_overlap(np.eye(3), (100, 60), (100, 60)) == pytest.approx(1)
    assert frames_overlap(shift, (100, 60), (100, 60)) == pytest.approx(1 / 3)
    assert frames_overlap(scale, (100, 60), (100, 60)) == pytest.approx(1 / 4)
    assert frames_overlap(scale, (200, 120), (100, 60)) == pytest.approx(1)
    mirrored = np.array([[-1.0, 0, 100], [0, 1, 0], [0, 0, 1]])
    assert frames_overlap(mirrored, (100, 60), (100, 60)) == 1
    horizon = np.array([[1, 0, 0], [0, 1, 0], [0.02, 0, -1.0]])
    assert frames_overlap(horizon, (100, 60), (100, 60)) == 0
    folded = np.array([[0.29, 0.2, 1], [-0.2, -0.71, 167], [-0.02, 0.01, 1]])  # part of it lies behind the horizon
    assert frames_overlap(folded, (100, 60), (100, 60)) == 0


@pytest.mark.parametrize("seed", range(12))
def test_the_overlap_is_the_share_of_points_that_lie_in_both(seed):
    rng = np.random.default_rng(seed)
    size = 90, 70
    start = np.array([[0, 0], [90, 0], [90, 70], [0, 70]], np.float32)
    end = start + rng.uniform(-15, 15, (4, 2)).astype(np.float32)
    homography = cv2.getPerspectiveTransform(start, end)
    x, y = np.meshgrid(np.arange(-30, 120, 0.5) + 0.25, np.arange(-30, 100, 0.5) + 0.25)
    here = (x >= 0) & (x <= 90) & (y >= 0) & (y <= 70)
    back = np.linalg.inv(homography) @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    u, v = (back[:2] / back[2]).reshape(2, *x.shape)
    there = (u >= 0) & (u <= 90) & (v >= 0) & (v <= 70)
    assert frames_overlap(homography, size, size) == pytest.approx(
        (here & there).sum() / (here | there).sum(), abs=0.02
    )


EDGES = st.sets(st.tuples(st.integers(1, 12), st.integers(1, 12)).filter(lambda e: e[0] < e[1]), max_size=20)


@settings(deadline=None)
@given(EDGES, EDGES, EDGES)
def test_clusters_are_the_components_of_what_is_found_or_decided(near, same, different):
    decided = dict.fromkeys(same, "duplicates") | dict.fromkeys(different, "different")
    found = clusters([Pair(a, b, 0.9, 10) for a, b in near], decided)

    def components(edges):
        if not edges:
            return set()
        rows, columns = np.array(sorted(edges)).T
        _, label = connected_components(coo_array((np.ones(len(rows)), (rows, columns)), (13, 13)), directed=False)
        groups = [tuple(np.flatnonzero(label == one).tolist()) for one in np.unique(label)]
        return {group for group in groups if len(group) > 1}

    joined = (near - different) | (same - different)
    assert {c.images for c in found if c.decision != "different"} == components(joined)
    assert {c.images for c in found if c.decision == "different"} == components(near & different)
    for cluster in found:
        pairs = {(a, b) for a in cluster.images for b in cluster.images if a < b}
        assert (cluster.decision == "duplicates") == (pairs <= same - different)


def test_a_pair_below_the_limit_is_none():
    assert clusters([Pair(1, 2, 0.79, 100)], {}) == [] != clusters([Pair(1, 2, 0.79, 100)], {}, overlap=0.7)


@pytest.fixture
def copies(indexed, photos, pictures, save, tmp_path):
    """A collection in which one photo is there as it is, smaller, and without a margin; and a detail of it."""
    coffee = pictures["coffee"]
    height, width = coffee.shape[:2]
    folder = tmp_path / "copies"
    save(folder / "small.jpg", cv2.resize(coffee, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA))
    save(folder / "trimmed.png", np.ascontiguousarray(coffee[6 : height - 6, 8 : width - 8]))
    save(folder / "detail.png", np.ascontiguousarray(coffee[: height // 2, : width // 2]))
    shutil.copytree(indexed, tmp_path / "own")
    with Collection.open(tmp_path / "own", write=True) as collection:
        collection.add([folder], workers=1)
        ids = {path.stem: collection.find(str(path)) for path in folder.iterdir()}
        yield collection, ids | {"coffee": collection.find(str(photos / "coffee-1.png"))}


def test_copies_are_found_details_are_not_and_decisions_outlive_a_new_search(copies, photos, capsys, tmp_path):
    collection, ids = copies
    same = tuple(sorted(ids[name] for name in ("coffee", "small", "trimmed")))

    def containing(image):
        return [c for c in collection.duplicates() if image in c.images]

    assert collection.find_duplicates() == 15 and collection.find_duplicates() == 0
    (found,) = containing(ids["coffee"])
    assert set(same) <= set(found.images) and ids["detail"] not in found.images and min(found.overlap) >= 0.8
    assert not [c for c in collection.duplicates() if c != found and set(c.images) & set(found.images)]
    collection.decide_duplicates([ids["small"], ids["trimmed"], ids["coffee"]], "different")
    before = collection.duplicates()
    assert any(set(same) <= set(c.images) and c.decision == "different" for c in before)
    assert collection.find_duplicates(again=True) == 15 and collection.duplicates() == before
    collection.decide_duplicates(same, None)
    collection.decide_duplicates(same[:2], "duplicates")
    (found,) = containing(ids["coffee"])
    assert found.decision is None
    collection.decide_duplicates(found.images, "duplicates")
    assert containing(ids["coffee"])[0].decision == "duplicates"
    with pytest.raises(QueryError, match="id:999"):
        collection.decide_duplicates([1, 999], "duplicates")
    collection.remove([ids["small"]])
    assert ids["small"] not in containing(ids["coffee"])[0].images
    collection.close()
    duplicates(tmp_path / "own", json=True, quiet=True)
    told = json.loads(capsys.readouterr().out)["clusters"]
    assert str(photos / "coffee-1.png") in told[-1]["paths"] and told[-1]["decision"] == "duplicates"


def test_where_nothing_is_there_twice_the_command_says_so(own_small):
    with pytest.raises(typer.Exit) as ended:
        duplicates(own_small, quiet=True, csv=True)
    assert ended.value.exit_code == 1


@pytest.fixture
def own_small(tmp_path, recipe, photos):
    with Collection.create(tmp_path / "small", recipe) as collection:
        collection.add([photos / "coffee-1.png", photos / "rocket-1.png", photos / "brick.png"], workers=1)
    return tmp_path / "small"


def test_a_recipe_that_does_not_verify_cannot_tell(tmp_path, recipe):
    unsure = recipe.model_copy(update={"verify": None, "calibration": None})
    with Collection.create(tmp_path / "c", unsure) as collection, pytest.raises(CollectionError, match="verify"):
        collection.find_duplicates()
