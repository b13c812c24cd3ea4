"""A query joined by features of its verified results: where they land, which are taken, and what is found by them."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from resight.describe.describer import Describer
from resight.geometry.homography import corners, project
from resight.local.features import LocalFeatures
from resight.recipes.recipe import Calibration, ExpansionStage, Recipe
from resight.search.collection import Collection
from resight.search.local_expansion import OWN, ExpandedQuery, brought_back, confirmed, with_more_inliers
from resight.search.ranking import Evidence
from resight.search.searcher import Searcher
from resight.store.store import Store

CALIBRATION = Calibration(intercept=-5.0, inliers=2.0, similarity=0.0, fitted_on="by hand")


def features(xy, size=8.0, angle=0.0):
    n = len(xy)
    full = (np.full(n, v, np.float32) for v in (size, angle, 1.0))
    return LocalFeatures(np.array(xy, np.float32).reshape(n, 2), *full, np.zeros((n, 128), np.uint8))


def evidence(homography=None, inliers=20, box=(0.0, 0.0, 100.0, 100.0)):
    none = np.empty((0, 2), np.float32)
    outline = None if homography is None else project(homography, corners(box)).astype(np.float32)
    return Evidence(inliers, inliers, homography, outline, None, none, none)


@given(st.floats(0.2, 5), st.floats(0, 6.28), st.floats(-50, 50), st.floats(0, 6.28))
def test_a_similarity_brings_scale_angle_and_place_back(scale, turn, shift, angle):
    """Worked with complex numbers: z → a·z + c has the inverse (z − c)/a: sizes over |a|, angles less arg a."""
    a, c, z = scale * np.exp(1j * turn), shift - 2j * shift, 30 + 40j
    homography = np.array([[a.real, -a.imag, c.real], [a.imag, a.real, c.imag], [0, 0, 1]])
    there = a * z + c
    back = brought_back(features([(there.real, there.imag)], 8.0, angle), evidence(homography))
    np.testing.assert_allclose(back.xy, [[30, 40]], atol=1e-2)
    assert back.size[0] == pytest.approx(8 / scale, rel=1e-4)
    assert np.exp(1j * back.angle[0]) == pytest.approx(np.exp(1j * (angle - turn)), abs=1e-4)
    assert 0 <= back.angle[0] <= 2 * np.pi


def test_perspective_brings_a_small_segment_back():
    """A keypoint is a segment from its centre along its angle: the ends of a tiny one, mapped as points, agree."""
    homography = np.array([[0.9, -0.25, 18.0], [0.25, 0.8, 6.0], [8e-4, -5e-4, 1]])
    start, step, angle = np.array([[40.0, 70.0]]), 1e-4, 1.1
    ends = np.vstack([start, start + step * np.array([np.cos(angle), np.sin(angle)])])
    xy = project(homography, ends)
    along = xy[1] - xy[0]
    square = project(homography, start + step * np.array([[0, 0], [1, 0], [0, 1]]))
    stretch = np.sqrt(np.linalg.det((square[1:] - square[0]) / step))
    seen = features(xy[:1], 10 * stretch, np.arctan2(along[1], along[0]) % (2 * np.pi))
    back = brought_back(seen, evidence(homography))
    np.testing.assert_allclose(back.xy, start, atol=1e-3)
    np.testing.assert_allclose([back.size[0], back.angle[0]], [10, angle], rtol=1e-3)


def test_only_what_lies_inside_the_outline_comes_back():
    back = brought_back(features([(50, 50), (150, 50), (60, 99)]), evidence(np.eye(3)))
    assert back.xy.tolist() == [[50, 50], [60, 99]]
    mirrored = brought_back(features([(-50, 50)]), evidence(np.diag([-1.0, 1, 1])))
    assert len(mirrored) == len(brought_back(features([(50, 50)]), evidence(None))) == 0
    flat = evidence(np.diag([1.0, 0, 1]))
    assert len(brought_back(features([(50, 0)]), flat)) == 0


def test_a_feature_of_the_same_word_at_the_same_place_joins_once():
    query = ExpandedQuery.of(features([(10, 10), (80, 80)]), np.array([[3, 4], [5, 6]]))
    found = features([(11, 10), (11, 10), (13, 10), (80, 80)])
    words = np.array([[3, 9], [4, 9], [3, 9], [3, 5]])
    joined = query.join(found, words, 7)  # the first is 1 of 8 pixels from the same word; the last meets another word
    assert joined.source.tolist() == [OWN, OWN, 7, 7, 7]
    assert joined.words[2:].tolist() == [[4, 9], [3, 9], [3, 5]]
    np.testing.assert_array_equal(joined.features.xy[2:], found.xy[1:])
    assert joined.join(found, words, 8) is joined
    np.testing.assert_array_equal(joined.words_without(7), [[3, 4], [5, 6], *[[-1, -1]] * 3])
    np.testing.assert_array_equal(joined.words_without(8), joined.words)


def test_a_place_takes_no_more_than_four_and_the_strongest_of_them():
    query = ExpandedQuery.of(features([(50, 50)] * 6), np.arange(6)[:, None])
    found = features([(50, 50)] * 5 + [(58, 50)])
    joined = query.join(found, np.arange(10, 16)[:, None], 1)
    assert joined.words[6:, 0].tolist() == [10, 11, 12, 13, 15]  # the query's own six take no room
    other = joined.join(found, np.arange(20, 26)[:, None], 2)
    assert other.words[11:, 0].tolist() == [25]
    larger = joined.join(features([(50, 50)], 32.0), np.array([[30]]), 2)
    assert larger.words[11:, 0].tolist() == [30]


def test_the_confirmed_are_the_most_probable_with_an_outline():
    """ln p/(1 − p) = −5 + 2·ln(n − 4): 0.9 asks for n ≥ 40.6, half for n ≥ 16.2."""
    found = {4: evidence(np.eye(3), 60), 2: evidence(np.eye(3), 42), 1: evidence(np.eye(3), 60), 3: evidence(None, 99)}
    found |= {0: evidence(np.eye(3), 38), 5: evidence(np.eye(3), 14)}
    similarity = np.zeros(6, np.float32)
    assert confirmed(ExpansionStage(accept=0.9), CALIBRATION, found, similarity) == [1, 4, 2]
    assert confirmed(ExpansionStage(accept=0.5), CALIBRATION, found, similarity) == [1, 4, 2, 0]
    assert confirmed(ExpansionStage(accept=0.9, inliers=43), CALIBRATION, found, similarity) == [1, 4]
    assert confirmed(ExpansionStage(), CALIBRATION, {}, similarity) == []


def test_the_better_round_counts():
    before, after = {1: evidence(inliers=9), 2: evidence(inliers=9)}, {1: evidence(inliers=9), 2: evidence(inliers=10)}
    after[3] = evidence(inliers=0)
    merged = with_more_inliers(before, after)
    assert merged == {1: before[1], 2: after[2], 3: after[3]}


@pytest.fixture(scope="module")
def chain(tmp_path_factory, pictures, recipe, save):
    """A–B–C: a collection of B, C and others; A and B share one half of B's object, and B and C the other half.

    Without colours, by which C differs from the label that A shows in its place.
    """
    recipe = recipe.model_copy(update={"local": recipe.local.model_copy(update={"colours": 0})})
    folder = tmp_path_factory.mktemp("chain")
    whole = np.vstack([cv2.resize(pictures[name], (360, 240)) for name in ("astronaut", "coffee")])
    query = whole.copy()
    query[170:430] = 90  # a white label has come over the middle
    turned = cv2.getRotationMatrix2D((180, 240), 8, 0.9)
    shown = cv2.warpAffine(whole, turned, (360, 480), borderValue=(90,) * 3)
    hidden = whole[190:410]  # C shows only what the label hides
    photos = {"b": shown, "c": cv2.resize(hidden, None, fx=1.1, fy=1.1, interpolation=cv2.INTER_CUBIC)}
    photos |= {name: pictures[name] for name in ("chelsea", "rocket", "brick", "grass", "moon")}
    for name, pixels in photos.items():
        save(folder / f"{name}.png", pixels)
    with Collection.create(folder / "collection", recipe) as collection:
        collection.add([folder], workers=1)
        names = {entry.id: entry.origin for entry in (collection.entry(i) for i in range(1, len(photos) + 1))}
    description = Describer(recipe).describe(query)
    with Store(folder / "collection", write=False) as store:

        def search(stage, box=(0.0, 0.0, 360.0, 480.0)):
            searcher = Searcher(store, recipe.model_copy(update={"expansion": stage}))
            ranking, timing = searcher.rank(description, box, None)
            found = [Path(names[i]).stem for i in ranking.ids.tolist()]
            return ranking, dict(zip(found, ranking.evidence, strict=True)), timing

        yield search


def test_what_only_a_result_shows_is_found_through_it(chain):
    search = chain
    plain, before, cost = search(None)
    expanded, after, more = search(ExpansionStage())
    assert plain.accepted == 1 and next(iter(before)) == "b" and before["c"].inliers < 8
    assert list(after)[:2] == ["b", "c"] and expanded.accepted == 2
    assert after["c"].inliers >= 30 and after["c"].inliers > 3 * before["c"].inliers
    # B verifies with the query's own features alone, as before.
    assert after["b"].inliers == before["b"].inliers
    assert more.comparisons > cost.comparisons
    # C's place: rows 190 to 410 of the object, 1.1 times as large; the evidence is in the query's own pixels.
    xy = after["c"].query_xy
    assert xy[:, 1].min() > 185 and xy[:, 1].max() < 415
    placed = 1.1 * (xy - [0, 190]) + 0.05
    assert np.linalg.norm(placed - after["c"].result_xy, axis=1).max() < 5


def test_without_a_confirmed_result_the_ranking_is_unchanged(chain):
    search = chain
    plain, before, _ = search(None)
    same, after, _ = search(ExpansionStage(inliers=10_000))
    np.testing.assert_array_equal(plain.ids, same.ids)
    np.testing.assert_array_equal(plain.scores, same.scores)
    assert [e.inliers for e in before.values()] == [e.inliers for e in after.values()]


def test_the_same_search_finds_the_same(chain):
    search = chain
    one, found, _ = search(ExpansionStage(rounds=2))
    two, again, _ = search(ExpansionStage(rounds=2))
    np.testing.assert_array_equal(one.ids, two.ids)
    np.testing.assert_array_equal(one.scores, two.scores)
    for name, e in found.items():
        np.testing.assert_array_equal(e.query_xy, again[name].query_xy)


def test_expansion_needs_verification(recipe):
    table = recipe.model_dump(by_alias=True) | {"verify": None, "calibration": None, "expansion": {}}
    with pytest.raises(ValidationError, match=r"\[expansion\] needs the table \[verify\]"):
        Recipe.model_validate(table)
