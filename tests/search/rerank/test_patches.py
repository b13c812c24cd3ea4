"""Patch-wise search against brute force, image by image and region by region."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resight.errors import QueryError, RecipeError
from resight.hashing.linear import fit_lsh
from resight.search.ranking import Evidence, Ranking
from resight.search.rerank import Database, compose, initial_ranking
from resight.search.rerank.patches import PatchReranker, RegionCodes, Regions, best_regions, search_regions


def regions_of(ids, vectors):
    """Each region's box tells its row."""
    corners = np.arange(len(ids), dtype=np.float32)[:, None] + np.array([0, 1, 10, 21], np.float32)
    return Regions(np.asarray(ids, np.int64), corners, np.asarray(vectors, np.float32))


def box_of(row):
    return (float(row), row + 1.0, row + 10.0, row + 21.0)


@st.composite
def scenes(draw):
    """A query and regions on a few axes, so that many are equally similar, of images in any order."""
    n = draw(st.integers(1, 30))
    ids = draw(st.lists(st.integers(3, 9), min_size=n, max_size=n))
    axes = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    signs = draw(st.lists(st.sampled_from([-1, 1]), min_size=n, max_size=n))
    vectors = np.eye(4, dtype=np.float32)[axes] * np.array(signs, np.float32)[:, None]
    return np.array([0.5, 0.5, -0.7, 0.1], np.float32), regions_of(ids, vectors)


def brute_force(query, regions, images):
    """(score, image, row), best first, ties by image; of an image the earliest row of its highest score."""
    found = []
    for image in images:
        rows = [row for row in range(len(regions)) if regions.ids[row] == image]
        scores = [float(np.float32(regions.vectors[row] @ query)) for row in rows]
        found.append((max(scores), image, rows[scores.index(max(scores))]))
    return sorted(found, key=lambda entry: (-entry[0], entry[1]))


@settings(max_examples=50, deadline=None)
@given(scene=scenes(), data=st.data())
def test_the_best_region_of_each_image_with_its_box(scene, data):
    query, regions = scene
    query = query / np.linalg.norm(query)
    everything = brute_force(query, regions, set(regions.ids.tolist()))
    ranking = search_regions(query, regions)
    assert ranking.ids.tolist() == [image for _, image, _ in everything]
    np.testing.assert_allclose(ranking.scores, [score for score, _, _ in everything], atol=1e-6)
    assert [e.box for e in ranking.evidence] == [box_of(row) for _, _, row in everything]
    some = data.draw(st.lists(st.sampled_from(regions.ids.tolist()), unique=True))
    found = best_regions(query, regions, np.array(some, np.int64))
    by_image = sorted(brute_force(query, regions, some), key=lambda entry: entry[1])
    assert list(zip(found.images.tolist(), found.rows.tolist(), strict=True)) == [(i, r) for _, i, r in by_image]


def test_outlines_go_clockwise_and_nothing_is_claimed_verified():
    ranking = search_regions(np.array([0, 1], np.float32), regions_of([7], [[0, 1]]))
    (evidence,) = ranking.evidence
    assert evidence.outline.tolist() == [[0, 1], [10, 1], [10, 21], [0, 21]]
    assert (evidence.inliers, evidence.matches, evidence.homography) == (0, 0, None)
    assert ranking.threshold == -np.inf and not ranking.calibrated
    assert len(search_regions(np.array([0, 1], np.float32), regions_of([7, 8], np.eye(2)), top=1)) == 1


def test_more_regions_than_one_block(monkeypatch, draw):
    monkeypatch.setattr("resight.search.rerank.patches._BLOCK", 7)
    ids, vectors, query = np.random.default_rng(1).integers(0, 9, 50), draw(50), draw(1, seed=3)[0]
    regions = regions_of(ids, vectors)
    expected = brute_force(query, regions, set(ids.tolist()))
    ranking = search_regions(query, regions)
    assert ranking.ids.tolist() == [image for _, image, _ in expected]
    assert [e.box for e in ranking.evidence] == [box_of(row) for _, _, row in expected]


@pytest.fixture(scope="module")
def gallery(draw):
    """60 images with wholes, three regions each, and a query."""
    ids = np.random.default_rng(2).permutation(np.arange(60))
    regions = regions_of(np.tile(ids, 3), draw(180, seed=1))
    return Database(ids, draw(60, seed=4)), regions, draw(1, seed=5)[0]


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_reranking_the_first_results(gallery, weight):
    database, regions, query = gallery
    before = initial_ranking(query, database)
    after = PatchReranker(regions, depth=12, weight=weight).rerank(query, before, database)
    by_region = {image: (score, row) for score, image, row in brute_force(query, regions, before.ids[:12].tolist())}
    whole = {i: float(v @ query) for i, v in zip(database.ids.tolist(), database.vectors, strict=True)}
    combined = {i: weight * score + (1 - weight) * whole[i] for i, (score, _) in by_region.items()}
    assert after.ids[:12].tolist() == sorted(combined, key=lambda i: (-combined[i], i))
    np.testing.assert_allclose(after.scores[:12], sorted(combined.values(), reverse=True), atol=1e-6)
    assert after.ids[12:].tolist() == before.ids[12:].tolist()
    for image, evidence in zip(after.ids.tolist(), after.evidence, strict=True):
        assert (evidence is None) if image not in by_region else evidence.box == box_of(by_region[image][1])


@pytest.mark.parametrize("weight", [1.0, 0.4])
def test_codes_of_regions_in_place_of_their_vectors(gallery, weight):
    """Against the signs, bit by bit and region by region."""
    database, regions, query = gallery
    function = fit_lsh(6, 16, seed=1)
    before = initial_ranking(query, database)
    codes = RegionCodes.of(function, regions)
    after = PatchReranker(regions, depth=12, weight=weight, codes=codes).rerank(query, before, database)
    signs, asked = (np.where(function.project(v) > 0, 1, -1) for v in (regions.vectors, query[None]))
    combined, row_of = {}, {}
    for image in before.ids[:12].tolist():
        rows = [row for row in range(len(regions)) if regions.ids[row] == image]
        shares = [np.mean(signs[row] * asked[0]) for row in rows]
        whole = database.vectors[database.ids.tolist().index(image)] @ query
        combined[image] = weight * max(shares) + (1 - weight) * whole
        row_of[image] = rows[shares.index(max(shares))]
    assert after.ids[:12].tolist() == sorted(combined, key=lambda i: (-round(combined[i], 5), i))
    np.testing.assert_allclose(after.scores[:12], sorted(combined.values(), reverse=True), atol=1e-6)
    assert [e.box for e in after.evidence[:12]] == [box_of(row_of[image]) for image in after.ids[:12].tolist()]
    assert after.ids[12:].tolist() == before.ids[12:].tolist()


def test_codes_of_other_vectors_are_refused(gallery):
    _, regions, _ = gallery
    with pytest.raises(RecipeError, match=r"hashes 7 entries, and regions have 6.*resight hash fit"):
        RegionCodes.of(fit_lsh(7, 16, seed=0), regions)


def test_codes_of_no_regions():
    empty = Regions(np.empty(0, np.int64), np.empty((0, 4), np.float32), np.empty((0, 6), np.float32))
    assert RegionCodes.of(fit_lsh(6, 16, seed=0), empty).codes.shape == (0, 2)


def test_a_small_object_is_found_that_the_whole_picture_hides():
    """Image 5 shows the thing in a corner among clutter; image 6, of clutter alone, resembles the query more."""
    thing, clutter = np.eye(2, dtype=np.float32)
    whole = np.array([0.2 * thing + 0.98 * clutter, 0.5 * thing + 0.87 * clutter], np.float32)
    database = Database(np.array([5, 6]), whole / np.linalg.norm(whole, axis=1, keepdims=True))
    regions = regions_of([5, 5, 6], [clutter, thing, database.vectors[1]])
    before = initial_ranking(thing, database)
    after = compose(PatchReranker(regions)).rerank(thing, before, database)
    assert (before.ids.tolist(), after.ids.tolist()) == ([6, 5], [5, 6])
    assert after.evidence[0].box == box_of(1)


def test_a_verified_box_stays():
    nothing, regions = np.empty((0, 2), np.float32), regions_of([1, 2], np.eye(2))
    verified = Evidence(9, 12, np.eye(3), np.zeros((4, 2), np.float32), (1.0, 2.0, 3.0, 4.0), nothing, nothing)
    failed = Evidence(0, 3, None, None, None, nothing, nothing)
    before = Ranking(np.array([1, 2]), np.array([0.9, 0.5], np.float32), (verified, failed), 0.5, calibrated=True)
    database = Database(np.array([1, 2]), np.eye(2, dtype=np.float32))
    after = PatchReranker(regions).rerank(np.array([0, 1], np.float32), before, database)
    assert after.ids.tolist() == [2, 1]
    assert after.evidence[1] is verified
    assert (after.evidence[0].matches, after.evidence[0].box) == (3, box_of(1))


def test_no_images():
    empty = Regions(np.empty(0, np.int64), np.empty((0, 4), np.float32), np.empty((0, 2), np.float32))
    assert len(search_regions(np.array([0, 1], np.float32), empty)) == 0


def test_what_does_not_fit(gallery):
    _, regions, query = gallery
    with pytest.raises(QueryError, match="R×4"):
        Regions(regions.ids, regions.boxes[1:], regions.vectors)
    with pytest.raises(QueryError, match="normalised"):
        Regions(regions.ids, regions.boxes, 2 * regions.vectors)
    for wrong in ((5, 1, 5, 9), (1, 9, 5, 2), (1, 2, np.nan, 9)):
        boxes = regions.boxes.copy()
        boxes[4] = wrong
        with pytest.raises(QueryError, match=f"of image {regions.ids[4]}"):
            Regions(regions.ids, boxes, regions.vectors)
    with pytest.raises(QueryError, match="no region for image 77"):
        best_regions(query, regions, np.array([3, 77]))
    with pytest.raises(QueryError, match="one vector of 6"):
        best_regions(query[:3], regions)
    with pytest.raises(RecipeError, match="depth"):
        PatchReranker(regions, depth=0)
    with pytest.raises(RecipeError, match="weight"):
        PatchReranker(regions, weight=1.1)


def test_torch_is_not_imported():
    """Neither by patch-wise search nor by the room, though two of its files need it."""
    program = "import sys, resight.search.rerank.patches, resight.search; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
