"""Changes to pictures: within the stated ranges, as torchvision makes them, and from the given generator alone."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats

from resight.learning.datasets.augment import NONE, Augmentation, alter, window

PLAIN = {"scale": None, "brightness": 0, "contrast": 0, "saturation": 0}


@pytest.fixture
def picture():
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:40, :60]
    ramp = np.stack([rows * 6, columns * 4, (rows + columns) * 2])
    return torch.from_numpy((ramp + rng.integers(0, 9, ramp.shape)).clip(0, 255).astype(np.uint8))


def rng(seed=0):
    return np.random.default_rng(seed)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from(["square", "aspect"]), st.integers(0, 99))
def test_a_crop_lies_in_the_picture_and_has_the_share_and_the_aspect_asked_for(width, height, fit, seed):
    stage = Augmentation(scale=(0.3, 0.6), aspect=(0.8, 1.25))
    x1, y1, x2, y2 = window(stage, (width, height), fit, rng(seed))
    assert 0 <= x1 < x2 <= width
    assert 0 <= y1 < y2 <= height
    w, h = x2 - x1, y2 - y1
    own = width / height if fit == "aspect" else 1.0
    if min(width, height) < 40 or not 0.6 <= own * height / width <= 1.6:
        return  # rounding, or no such crop fits
    assert 0.3 * 0.93 < w * h / (width * height) < 0.6 * 1.07
    assert 0.8 * 0.93 < w / h / own < 1.25 * 1.07


def test_shares_and_places_are_drawn_evenly():
    stage = Augmentation(scale=(0.25, 0.36), aspect=(1, 1))
    source = rng(1)
    drawn = np.array([window(stage, (1000, 1000), "square", source) for _ in range(2000)])
    sides = drawn[:, 2] - drawn[:, 0]
    assert stats.kstest(sides.astype(float) ** 2 / 1e6, stats.uniform(0.25, 0.11).cdf).pvalue > 0.001
    assert stats.kstest(drawn[:, 0] / (1000 - sides), stats.uniform().cdf).pvalue > 0.001


def test_where_no_crop_fits_it_is_the_largest_in_the_middle():
    """As torchvision's; the shares asked for are too large for a square in so long a picture."""
    stage = Augmentation(scale=(0.9, 1.0), aspect=(1, 1))
    assert window(stage, (300, 100), "square", rng()) == (100, 0, 200, 100)
    assert window(stage, (100, 300), "square", rng()) == (0, 100, 100, 200)


def test_without_a_crop_the_picture_is_whole():
    assert window(NONE, (31, 17), "square", rng()) == (0, 0, 31, 17)


def test_none_changes_nothing(picture):
    assert torch.equal(alter(picture, NONE, rng()), picture)


def test_flip_and_grayscale(picture):
    assert torch.equal(alter(picture, Augmentation(**PLAIN, flip=1), rng()), picture.flip(-1))
    gray = alter(picture, Augmentation(**PLAIN, grayscale=1), rng())
    expected = (picture.double() * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=0)
    assert all((gray[channel].double() - expected).abs().max() < 2 for channel in range(3))


def test_how_often():
    stage, source = Augmentation(**PLAIN, flip=0.3), rng(2)
    two = torch.tensor([[[0, 255]]] * 3, dtype=torch.uint8)
    flipped = sum(int(alter(two, stage, source)[0, 0, 0]) == 255 for _ in range(1000))
    assert stats.binomtest(flipped, 1000, 0.3).pvalue > 0.001


def test_brightness_is_a_factor_in_its_range(picture):
    stage, source, dim = Augmentation(**PLAIN | {"brightness": 0.5}), rng(3), (picture // 4)
    factors = []
    for _ in range(400):
        ratio = alter(dim, stage, source).double().mean() / dim.double().mean()
        factors.append(float(ratio))
    assert stats.kstest(factors, stats.uniform(0.485, 1.03).cdf).pvalue > 0.001  # levels are cut to whole ones
    assert 0.48 < min(factors) < 0.55
    assert 1.45 < max(factors) < 1.52


def test_contrast_keeps_the_mean_and_saturation_the_grey(picture):
    middle = picture // 3 + 70
    contrasted = alter(middle, Augmentation(**PLAIN | {"contrast": 0.5}), rng(4)).double()
    assert abs(contrasted.mean() - middle.double().mean()) < 2
    assert abs(contrasted.std() - middle.double().std()) > 2
    grey = middle[:1].repeat(3, 1, 1)
    saturated = alter(grey, Augmentation(**PLAIN | {"saturation": 1}), rng(5))
    assert (saturated.int() - grey.int()).abs().max() <= 1
    assert not torch.equal(alter(middle, Augmentation(**PLAIN | {"saturation": 1}), rng(5)), middle)


def test_a_turn_of_hue_keeps_the_value(picture):
    turned = alter(picture, Augmentation(**PLAIN | {"hue": 0.5}), rng(6))
    assert not torch.equal(turned, picture)
    assert (turned.amax(dim=0).int() - picture.amax(dim=0).int()).abs().max() <= 2


def test_rotation_turns_about_the_middle_and_fills_corners_with_the_mean():
    hand = torch.full((3, 41, 41), 10, dtype=torch.uint8)
    hand[:, 20, 20:36] = 250
    source, angles = rng(7), []
    for _ in range(200):
        turned = alter(hand, Augmentation(**PLAIN, rotation=90), source)
        rows, columns = np.nonzero(turned[0].numpy() > 100)
        angles.append(math.degrees(math.atan2(-(rows - 20).mean(), (columns - 20).mean())))
        if 20 < abs(angles[-1]) < 70:
            assert abs(int(turned[0, 0, 0]) - float(hand.float().mean())) <= 1
    assert stats.kstest(angles, stats.uniform(-91, 182).cdf).pvalue > 0.001


def test_blur_is_a_gaussian():
    from scipy.ndimage import gaussian_filter

    point = torch.zeros(3, 31, 31, dtype=torch.uint8)
    point[:, 15, 15] = 255
    blurred = alter(point, Augmentation(**PLAIN, blur=1, sigma=(1.5, 1.5)), rng())
    expected = gaussian_filter(point[0].double().numpy(), 1.5, truncate=3.4)
    assert np.abs(blurred[0].numpy() - expected).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (7, 3)])
def test_everything_at_once_keeps_form_and_type(size):
    stage = Augmentation(
        flip=1,
        brightness=1,
        contrast=1,
        saturation=1,
        hue=0.5,
        grayscale=1,
        rotation=180,
        blur=1,
        sigma=(9, 9),
        erase=1,
    )
    small = torch.full((3, *size), 77, dtype=torch.uint8)
    changed = alter(small, stage, rng())
    assert (changed.shape, changed.dtype) == (small.shape, small.dtype)


def test_erasing_covers_the_share_asked_for():
    large = torch.full((3, 200, 200), 7, dtype=torch.uint8)
    source, stage = rng(8), Augmentation(**PLAIN, erase=1, erased=(0.1, 0.2))
    for _ in range(20):
        covered = (alter(large, stage, source) != 7).any(dim=0)
        rows, columns = np.nonzero(covered.numpy())
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert covered.double().mean() == pytest.approx(height * width / 40000, rel=0.02)  # a full rectangle
        assert 0.09 < height * width / 40000 < 0.21
    assert (large == 7).all()


def test_it_draws_from_the_given_generator_alone(picture):
    stage = Augmentation(flip=0.5, hue=0.2, rotation=20, blur=0.5, erase=0.5)
    state = torch.random.get_rng_state()
    first = [alter(picture, stage, rng(seed)) for seed in range(5)]
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(1)
    again = [alter(picture, stage, rng(seed)) for seed in range(5)]
    torch.random.set_rng_state(state)
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize(
    "bad", [{"scale": (0.9, 0.5)}, {"scale": (0, 1)}, {"aspect": (2, 1)}, {"flip": 1.1}, {"hue": 0.6}, {"zoom": 2}]
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValidationError):
        Augmentation(**bad)
