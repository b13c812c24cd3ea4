"""Evidence for a match where the truth is known, and the probability it is turned into."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resight.describe.describer import Describer
from resight.geometry.homography import corners, project
from resight.local.matching import WordTable
from resight.recipes.recipe import Calibration, VerifyStage
from resight.search.verify import calibrated_ranking, check, log_odds, probability

STAGE = VerifyStage()
CALIBRATION = Calibration(intercept=-5.0, inliers=2.0, similarity=10.0, fitted_on="by hand")


@pytest.fixture(scope="module")
def views(pictures, view, recipe):
    """Descriptions of a picture and of another view of it, and the homography between."""
    other, truth = view(pictures["astronaut"], 0)
    few = recipe.local.model_copy(update={"max_features": 300})
    describer = Describer(recipe.model_copy(update={"local": few}))
    return describer.describe(pictures["astronaut"]), describer.describe(other), truth


def checked(query, result, box=None):
    words = np.zeros((len(query.local), 1), np.int64)
    table = WordTable.build(query.local.descriptors.astype(np.float32), words)
    return check(query.local, table, box, (result.local, np.zeros(len(result.local), np.int64), result.size), STAGE)


def test_evidence_says_where_the_box_is_in_the_result(views):
    query, result, truth = views
    box = (60.0, 30.0, 200.0, 180.0)
    evidence, compared = checked(query, result, box)
    assert compared == len(query.local) * len(result.local)
    assert np.abs(evidence.outline - project(truth, corners(box))).max() < 2
    np.testing.assert_allclose(evidence.box, [*evidence.outline.min(axis=0), *evidence.outline.max(axis=0)], atol=1e-3)
    assert len(evidence.query_xy) == len(evidence.result_xy) == evidence.inliers <= evidence.matches
    error = np.linalg.norm(project(truth, evidence.query_xy) - evidence.result_xy, axis=1)
    assert error.max() < STAGE.max_error * max(result.size) + 1


def test_without_a_box_the_outline_is_of_what_the_inliers_cover(views):
    query, result, truth = views
    evidence, _ = checked(query, result)
    inside = project(np.linalg.inv(truth), evidence.outline)
    assert (inside.min(axis=0) <= evidence.query_xy.min(axis=0) + 1).all()
    assert (inside.max(axis=0) >= evidence.query_xy.max(axis=0) - 1).all()
    x1, y1, x2, y2 = evidence.box
    assert 0 <= x1 < x2 <= result.size[0] and 0 <= y1 < y2 <= result.size[1]


def test_a_box_that_lies_beyond_the_result_is_clipped_to_it(views):
    evidence, _ = checked(views[1], views[0], (0.0, 0.0, 320.0, 320.0))
    assert evidence.outline.min() < 0  # the tilted view shows less of the picture
    assert min(evidence.box) >= 0 and max(evidence.box) <= 320


def test_no_match_no_evidence(views, pictures, recipe):
    evidence, _ = checked(views[0], Describer(recipe).describe(pictures["brick"] * 0))
    assert (evidence.inliers, evidence.matches, evidence.homography, evidence.outline, evidence.box) == (
        0,
        0,
        *[None] * 3,
    )
    assert evidence.query_xy.shape == evidence.result_xy.shape == (0, 2)


def test_probabilities_worked_by_hand():
    """logit p = −5 + 2·ln(1 + max(0, n − 3)) + 10·s."""
    odds = log_odds(CALIBRATION, np.array([0, 3, 4, 10]), np.array([0.0, 0.1, 0.2, 0.0]))
    np.testing.assert_allclose(odds, [-5, -4, -3 + 2 * math.log(2), -5 + 2 * math.log(8)])
    np.testing.assert_allclose(probability(odds), [1 / (1 + math.exp(-o)) for o in odds], rtol=1e-6)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20))
def test_probabilities_keep_the_order_of_the_odds(odds):
    found = probability(np.sort(np.array(odds)))
    assert (np.diff(found) >= 0).all() and found.min() >= 0 and found.max() <= 1


def test_the_ranking_is_by_probability_then_id_and_accepts_nothing_unverified():
    ids, inliers = np.array([2, 3, 5, 8, 9]), np.array([0, 50, 0, 50, 4])
    similarity = np.array([1.0, 0.1, 0.9, 0.1, 0.0], np.float32)
    ranking = calibrated_ranking(CALIBRATION, ids, inliers, similarity, {})
    # 3 and 8 are equal; 2 and 5 are more similar than any match, but nothing shows why; 9 has too little of both.
    assert ranking.ids.tolist() == [3, 8, 2, 5, 9] and ranking.accepted == 2
    assert (
        ranking.scores[0] == ranking.scores[1] == pytest.approx(1 / (1 + math.exp(5 - 2 * math.log(48) - 1)), rel=1e-6)
    )
    assert ranking.scores[2] < CALIBRATION.accept and ranking.threshold == CALIBRATION.accept and ranking.calibrated
    assert calibrated_ranking(CALIBRATION, ids, inliers, similarity, {}, 3).ids.tolist() == [3, 8, 2]
    assert len(calibrated_ranking(CALIBRATION, ids[:0], inliers[:0], similarity[:0], {})) == 0
