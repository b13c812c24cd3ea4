"""Evidence for a match where the truth is known, and the probability it is turned into."""

import math
from dataclasses import replace

import cv2
import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resight.describe.describer import Describer
from resight.geometry.homography import corners, project
from resight.local.matching import WordTable
from resight.recipes.recipe import Calibration, VerifyStage
from resight.search.collection import Collection
from resight.search.drawing import Pane, pair
from resight.search.ranking import Evidence
from resight.search.verify import calibrated_ranking, check, log_odds, probability, support

STAGE = VerifyStage()
CALIBRATION = Calibration(intercept=-5.0, inliers=2.0, similarity=10.0, fitted_on="by hand")


@pytest.fixture(scope="module")
def views(pictures, view, recipe):
    """Descriptions of a picture and of another view of it, and the homography between."""
    other, truth = view(pictures["astronaut"], 0)
    few = recipe.local.model_copy(update={"max_features": 300})
    describer = Describer(recipe.model_copy(update={"local": few}))
    return describer.describe(pictures["astronaut"]), describer.describe(other), truth


def checked(query, result, box=None, stage=STAGE):
    words = np.zeros((len(query.local), 1), np.int64)
    table = WordTable.build(query.local.descriptors.astype(np.float32), words)
    return check(query.local, table, box, (result.local, np.zeros(len(result.local), np.int64), result.size), stage)


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
    """logit p = −5 + 2·ln(1 + max(0, n − 4)) + 10·s."""
    odds = log_odds(CALIBRATION, np.array([0, 4, 5, 11]), np.array([0.0, 0.1, 0.2, 0.0]))
    np.testing.assert_allclose(odds, [-5, -4, -3 + 2 * math.log(2), -5 + 2 * math.log(8)])
    np.testing.assert_allclose(probability(odds), [1 / (1 + math.exp(-o)) for o in odds], rtol=1e-6)


def test_inliers_count_for_less_where_colours_differ():
    """ln(1 + n − 4) times 0.3 + 0.7 a: for 44 inliers that agree by 2/7 a half, that of 4 + √41 − 1 which agree."""
    evidence = Evidence(44, 60, np.eye(3), None, None, np.zeros((44, 2)), np.zeros((44, 2)), agreement=2 / 7)
    assert support(evidence) == pytest.approx(3 + math.sqrt(41))
    assert support(replace(evidence, agreement=1.0)) == 44
    assert support(replace(evidence, agreement=0.0)) == pytest.approx(3 + 41**0.3)
    assert support(replace(evidence, inliers=4, agreement=0.5)) == 4
    odds = log_odds(CALIBRATION, np.array([support(evidence), 44.0]), np.zeros(2))
    assert (odds[0] + 5) / (odds[1] + 5) == pytest.approx(0.5)


def test_the_same_print_in_other_colours_counts_for_less(pictures, view, recipe):
    """As of two flavours of one product, which grey patches cannot tell apart."""
    describer = Describer(recipe)
    shown, _ = view(pictures["coffee"], 1)
    lab = cv2.cvtColor(shown, cv2.COLOR_RGB2LAB)
    lab[..., 1:] = 255 - lab[..., 1:]
    query = describer.describe(pictures["coffee"])
    same, other = (
        checked(query, describer.describe(pixels))[0] for pixels in (shown, cv2.cvtColor(lab, cv2.COLOR_LAB2RGB))
    )
    assert min(same.inliers, other.inliers) > 40
    assert same.agreement > 0.6 > 0.3 > other.agreement
    assert support(other) < support(same) / 2


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
        ranking.scores[0] == ranking.scores[1] == pytest.approx(1 / (1 + math.exp(5 - 2 * math.log(47) - 1)), rel=1e-6)
    )
    assert ranking.scores[2] < CALIBRATION.accept and ranking.threshold == CALIBRATION.accept and ranking.calibrated
    assert calibrated_ranking(CALIBRATION, ids, inliers, similarity, {}, 3).ids.tolist() == [3, 8, 2]
    assert len(calibrated_ranking(CALIBRATION, ids[:0], inliers[:0], similarity[:0], {})) == 0


@pytest.fixture(scope="module")
def repeated(pictures, recipe):
    """A query, a picture that shows it three times among other things, and where: the maps, largest first."""
    describer, thing = Describer(recipe), pictures["coffee"]
    canvas = cv2.resize(pictures["brick"], (900, 700))
    maps = []
    for scale, turn, place in ((1.2, 10, (230, 200)), (0.8, -80, (720, 220)), (0.7, 170, (400, 540))):
        affine = cv2.getRotationMatrix2D((thing.shape[1] / 2, thing.shape[0] / 2), turn, scale)
        affine[:, 2] += np.array(place) - (thing.shape[1] / 2, thing.shape[0] / 2)
        cv2.warpAffine(thing, affine, (900, 700), canvas, borderMode=cv2.BORDER_TRANSPARENT)
        maps.append(np.vstack([affine, (0, 0, 1)]))
    return describer.describe(thing), describer.describe(canvas), maps


@pytest.mark.parametrize("model", ["homography", "affine", "similarity"])
def test_every_instance_is_found_once_and_in_its_place(repeated, model):
    query, result, maps = repeated
    stage = VerifyStage(model=model, instances=6)
    box = (20.0, 20.0, 300.0, 190.0)
    best, compared = checked(query, result, box, stage)
    found = [best, *best.others]
    expected = [project(truth, corners(box)) for truth in maps]
    nearest = [int(np.argmin([np.abs(e.outline - x).max() for x in expected])) for e in found]
    assert sorted(nearest) == [0, 1, 2]
    for evidence, place in zip(found, nearest, strict=True):
        assert np.abs(evidence.outline - expected[place]).max() < 4
        np.testing.assert_allclose(
            evidence.box, [*evidence.outline.min(axis=0), *evidence.outline.max(axis=0)], atol=1e-3
        )
        assert len(evidence.query_xy) == len(evidence.result_xy) == evidence.inliers >= 10
    inliers = [evidence.inliers for evidence in found]
    assert inliers == sorted(inliers, reverse=True) and not any(other.others for other in best.others)
    matched = [set(map(tuple, evidence.result_xy.tolist())) for evidence in found]
    assert sum(map(len, matched)) == len(set().union(*matched))
    assert compared > len(query.local) * len(result.local)


def test_no_more_instances_than_asked_for(repeated):
    query, result, _ = repeated
    plain, _ = checked(query, result)
    assert plain.others == ()
    two, _ = checked(query, result, stage=VerifyStage(instances=2))
    assert len(two.others) == 1 and two.inliers >= plain.inliers


def test_one_instance_is_not_taken_for_several(views, pictures, recipe):
    stage = VerifyStage(instances=8)
    for query, result in ((views[0], views[1]), (views[1], views[0]), (views[0], views[0])):
        evidence, _ = checked(query, result, stage=stage)
        plain, _ = checked(query, result)
        assert evidence.others == () and evidence.inliers == plain.inliers > 10
        np.testing.assert_array_equal(evidence.homography, plain.homography)
    assert checked(views[0], Describer(recipe).describe(pictures["coffee"]), stage=stage)[0].others == ()


def test_every_instance_is_drawn(repeated):
    query, result, _ = repeated
    evidence, _ = checked(query, result, stage=VerifyStage(instances=6))
    drawn = pair(Pane("q", query.size), Pane("r", result.size), None, evidence, "r.png")
    assert drawn.count('<polygon class="outline"') == 3


def test_descriptors_of_unit_length_match_as_their_eight_bit_form_does(views):
    """max_distance is between descriptors of unit length, in whatever form they are stored."""
    query, result, _ = views
    eight, _ = checked(query, result)
    one, two = (
        replace(d, local=replace(d.local, descriptors=d.local.descriptors.astype(np.float32) / 512))
        for d in (query, result)
    )
    unit, _ = checked(one, two)
    assert eight.matches == unit.matches > 20
    np.testing.assert_array_equal(eight.homography, unit.homography)


def test_boxes_and_outlines_are_in_upright_pixels_of_the_files(tmp_path, pictures, recipe):
    """Both files are turned by EXIF and both are described smaller than they are; the box is of the upright query."""
    upright = cv2.resize(pictures["coffee"], (640, 426), interpolation=cv2.INTER_CUBIC)
    truth = np.array([[0.9, -0.25, 180.0], [0.25, 0.9, 60.0], [1e-4, 0, 1]])
    seen = cv2.warpPerspective(upright, truth, (800, 700), borderValue=(90,) * 3)

    def save(name, pixels, orientation, quarters):
        exif = PIL.Image.Exif()
        exif[274] = orientation
        PIL.Image.fromarray(np.rot90(pixels, quarters)).save(tmp_path / name, quality=95, exif=exif)

    save("query.jpg", upright, 6, 1)  # shown upright by a quarter clockwise
    (tmp_path / "photos").mkdir()
    save("photos/result.jpg", seen, 8, -1)
    for name in ("chelsea", "rocket", "moon"):
        save(f"photos/{name}.jpg", pictures[name], 1, 0)
    small = recipe.model_copy(update={"image": recipe.image.model_copy(update={"max_side": 400})})
    box = (100.0, 60.0, 480.0, 330.0)
    with Collection.create(tmp_path / "collection", small) as collection:
        collection.add([tmp_path / "photos"], workers=1)
        ranking = collection.search(tmp_path / "query.jpg", box=box)
        first = collection.entry(int(ranking.ids[0]))
    evidence = ranking.evidence[0]
    assert first.origin.endswith("result.jpg") and first.size == (800, 700) and ranking.accepted == 1
    expected = project(truth, corners(box))
    assert np.abs(evidence.outline - expected).max() < 4
    np.testing.assert_allclose(evidence.box, [*expected.min(axis=0), *expected.max(axis=0)], atol=4)
    x1, y1, x2, y2 = box
    assert (evidence.query_xy >= (x1 - 1, y1 - 1)).all() and (evidence.query_xy <= (x2 + 1, y2 + 1)).all()
    assert np.linalg.norm(project(truth, evidence.query_xy) - evidence.result_xy, axis=1).max() < 8 + 4
