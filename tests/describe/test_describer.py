"""Descriptions of pictures and boxes: keypoints in place, scales by the protocol."""

import hashlib

import numpy as np
import PIL.Image
import pytest
from scipy.spatial import cKDTree

from resight.describe.describer import Describer
from resight.errors import ImageError, QueryError, RecipeError
from resight.recipes import load_recipe


@pytest.fixture(scope="module")
def large(pictures) -> np.ndarray:
    """960×960 pixels of an astronaut."""
    return np.asarray(PIL.Image.fromarray(pictures["astronaut"]).resize((960, 960), PIL.Image.Resampling.BICUBIC))


def at_most(recipe, max_side: int, min_crop_side: int = 0):
    return recipe.model_copy(
        update={"image": recipe.image.model_copy(update={"max_side": max_side, "min_crop_side": min_crop_side})}
    )


def near(found, expected, within: float) -> float:
    """The fraction of the expected keypoints that are found in place."""
    return float((cKDTree(found.xy).query(expected.xy)[0] < within).mean())


def test_a_description_is_in_the_originals_pixels_at_any_size(recipe, large):
    full, half = (Describer(at_most(recipe, side)).describe(large) for side in (960, 480))
    assert full.size == half.size == (960, 960) and half.global_descriptor is None
    strongest = half.local.xy[:200]
    assert np.median(cKDTree(full.local.xy).query(strongest)[0]) < 1.5
    assert half.local.xy.max() > 480 and abs(np.log2(np.median(half.local.size) / np.median(full.local.size))) < 1.5


@pytest.mark.parametrize(("box", "most"), [((201, 100, 701, 500), 1.5), ((200.5, 99.7, 641.2, 541.9), 1.5)])
@pytest.mark.parametrize("max_side", [960, 480])
def test_a_boxs_keypoints_are_where_the_pictures_are(recipe, large, box, most, max_side):
    describer = Describer(at_most(recipe, max_side))
    whole, part = describer.describe(large), describer.describe(large, box)
    assert part.size == (960, 960)
    x, y = part.local.xy.T
    assert x.min() > box[0] - 1 and y.min() > box[1] - 1 and x.max() < box[2] + 1 and y.max() < box[3] + 1
    inner = (part.local.xy - box[:2] > 40).all(axis=1) & (np.array(box[2:]) - part.local.xy > 40).all(axis=1)
    distance = cKDTree(whole.local.xy).query(part.local.xy[inner][:100])[0]
    assert np.median(distance) < 0.5 and (distance < most).mean() > 0.6


def pixels_of(recipe, value, box) -> tuple[int, int]:
    height, width = Describer(recipe).read(value, box)[0].pixels.shape[:2]
    return width, height


def test_a_crop_has_the_scale_the_whole_would_have_had(recipe, large):
    """PROTOCOLS.md, crop conventions; finer only where min_crop_side asks for it, and never enlarged."""
    box = (100, 100, 500, 300)
    assert pixels_of(at_most(recipe, 480), large, box) == (200, 100)
    assert pixels_of(at_most(recipe, 480, 300), large, box) == (300, 150)
    assert pixels_of(at_most(recipe, 480, 2000), large, box) == (400, 200)  # which is all there is
    assert pixels_of(at_most(recipe, 240, 2000), large, box) == (240, 120)  # never above max_side
    assert pixels_of(at_most(recipe, 2000), large, box) == (400, 200)
    assert pixels_of(at_most(recipe, 480), large, None) == (480, 480)


def test_what_cannot_be_described_is_said(recipe, large):
    describer = Describer(recipe)
    with pytest.raises(QueryError, match="leaves the image, which is 960×960"):
        describer.describe(large, (0, 0, 961, 10))
    with pytest.raises(ImageError, match="does not exist"):
        describer.describe("/no/such.jpg")


def test_the_fingerprint_is_of_the_recipe_where_nothing_is_learned(recipe):
    assert Describer(recipe).fingerprint == hashlib.sha256(f"{recipe.fingerprint} ".encode()).hexdigest()
    assert Describer(recipe).fingerprint != Describer(at_most(recipe, 99)).fingerprint
    assert Describer(recipe).network is None


def test_a_recipe_that_needs_what_is_not_installed_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "resight.describe.global_descriptor", raising=False)
    with pytest.raises(
        RecipeError, match=r"gem-densenet169 runs a network and needs torch: pip install 'resight\[deep\]'"
    ):
        _ = Describer(load_recipe("gem-densenet169")).fingerprint
