"""Views: which pictures of an image go through a network, at which sizes."""

import numpy as np
import pytest
from PIL import Image as PilImage

from resight.describe.views import Feeding, regions_of
from resight.errors import RecipeError
from resight.recipes.network_stages import Branch, Dense, Grid, Proposals, Pyramid


def feeding(multiple=1, least=32, **branch):
    of = Branch(network="resnet10t", **branch)
    proposals = (of.scheme,) if isinstance(of.scheme, Proposals) and of.scheme.on == "map" else ()
    return Feeding(of, multiple, least, proposals)


@pytest.fixture
def pixels():
    coarse = np.random.default_rng(0).integers(0, 256, (10, 15, 3), dtype=np.uint8)
    return np.asarray(PilImage.fromarray(coarse).resize((300, 200)))


def shapes(views):
    return [picture.shape[:2] for picture in views.pictures]


def test_the_whole_at_several_scales_keeps_its_aspect(pixels):
    views = feeding(max_side=150, scales=(1.0, 0.5)).views(pixels)
    assert shapes(views) == [(100, 150), (50, 75)] and not views.each and views.boxes == ()
    expected = PilImage.fromarray(pixels).resize((150, 100), PilImage.Resampling.BILINEAR)
    np.testing.assert_array_equal(views.pictures[0], np.asarray(expected))


def test_an_image_of_the_right_size_is_not_touched_and_none_is_enlarged(pixels):
    assert feeding(max_side=1000).views(pixels).pictures[0] is pixels


@pytest.mark.parametrize(
    ("multiple", "least", "expected"), [(14, 14, (98, 154)), (16, 32, (96, 144)), (1, 120, (120, 150))]
)
def test_sides_are_what_the_network_takes(pixels, multiple, least, expected):
    assert shapes(feeding(multiple, least, max_side=150).views(pixels)) == [expected]


def test_regions_of_pixels_are_squares_of_their_own(pixels):
    views = feeding(multiple=14, max_side=300, scheme={"kind": "grid", "on": "pixels", "levels": 1, "side": 70}).views(
        pixels
    )
    assert views.each and shapes(views) == [(70, 70)] * len(
        regions_of(Grid(kind="grid", levels=1), (300, 200), (300, 200))
    )
    # 3:2 at level 1: two squares of the full height, flush with either end
    assert len(views.pictures) == 2
    left = np.asarray(PilImage.fromarray(pixels[:, :200]).resize((70, 70), PilImage.Resampling.BOX)).astype(int)
    assert np.abs(views.pictures[0].astype(int) - left).mean() < 4


def test_proposals_hold_the_whole_and_lie_inside(pixels):
    pytest.importorskip("cv2.ximgproc")
    views = feeding(max_side=150, scheme={"kind": "selective-search", "top": 5}).views(pixels)
    assert shapes(views) == [(100, 150)] and views.boxes[0].shape[1] == 4 and 1 < len(views.boxes[0]) <= 6
    np.testing.assert_array_equal(views.boxes[0][0], [0, 0, 1, 1])
    assert views.boxes[0].min() >= 0 and views.boxes[0].max() <= 1


def test_a_picture_without_keypoints_is_one_patch():
    views = feeding(scheme={"kind": "dog", "side": 64}).views(np.full((90, 120, 3), 50, np.uint8))
    assert shapes(views) == [(64, 64)] and views.each


def test_an_untrained_model_is_named():
    with pytest.raises(RecipeError, match="scheme bing needs a trained model: name it as `model`"):
        feeding(scheme={"kind": "bing"}).views(np.zeros((64, 64, 3), np.uint8))


def test_cells_of_a_pyramid_never_outnumber_those_of_the_map():
    boxes = regions_of(Pyramid(kind="pyramid", cells=(1, 4)), (3, 2), (96, 64))
    assert len(boxes) == 1 + 4 and (boxes[:, 2:] > boxes[:, :2]).all()


def test_dense_windows_keep_their_size_in_pixels_on_a_map():
    scheme = Dense(kind="dense", sides=(128,), stride=64, on="map")
    boxes = regions_of(scheme, (12, 8), (384, 256))  # a cell is 32 pixels
    assert set(map(tuple, boxes[:, 2:] - boxes[:, :2])) == {(4.0, 4.0)}
    assert sorted(set(boxes[:, 0])) == [0, 2, 4, 6, 8]
