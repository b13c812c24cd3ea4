"""What a study does to pictures, beside NumPy's turns, projections by hand, variances and file sizes."""

import io
import math

import cv2
import numpy as np
import PIL.Image
import pytest
from scipy import ndimage

from resight.robustness import geometric, photometric
from resight.robustness.transformations import TRANSFORMATIONS

BOX = (10.0, 20.0, 60.0, 45.0)


@pytest.fixture(scope="module")
def pixels(pictures):
    return np.ascontiguousarray(pictures["coffee"][:200, :301])  # an odd side


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_strength_zero_changes_nothing_and_a_seed_says_all(name, pixels):
    each = TRANSFORMATIONS[name]
    assert list(each.strengths) == sorted(set(each.strengths)) and each.strengths[0] > 0
    for box in (None, BOX):
        same, kept = each.change(pixels, 0, 3, box)
        np.testing.assert_array_equal(same, pixels)
        assert kept == box
        before = pixels.copy()
        (first, one), (again, other) = (each.change(pixels, each.strengths[-1], (3, 7), box) for _ in range(2))
        np.testing.assert_array_equal(first, again)
        np.testing.assert_array_equal(pixels, before)
        assert one == other and first.dtype == np.uint8 and first.ndim == 3
        assert not np.array_equal(first, pixels)
        if box is not None:
            x1, y1, x2, y2 = one
            assert 0 <= x1 <= x2 - 1 and 0 <= y1 <= y2 - 1 and x2 <= first.shape[1] and y2 <= first.shape[0]


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_are_numpys(pixels, quarters):
    marked = pixels.copy()
    marked[20:45, 10:60] = (255, 0, 255)
    seen = set()
    for seed in range(8):
        turned, box = geometric.rotate(marked, 90 * quarters, seed, BOX)
        side = next(s for s in (1, -1) if np.array_equal(turned, np.rot90(marked, s * quarters)))
        seen.add(side)
        x1, y1, x2, y2 = (int(v) for v in box)
        rows, columns = np.nonzero((turned == (255, 0, 255)).all(axis=2))
        assert (x1, y1, x2, y2) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert seen == ({1, -1} if quarters != 2 else {1})


def test_other_turns_are_those_of_another_library(pixels):
    turned, box = geometric.rotate(pixels, 30, 0, BOX)
    side = 1 if np.random.default_rng(0).random() < 0.5 else -1
    expected = ndimage.rotate(pixels.astype(float), side * 30, reshape=True, order=1, cval=np.nan)
    # SciPy rounds the size of its canvas otherwise, which moves it by up to half a pixel.
    h, w = (min(a, b) for a, b in zip(turned.shape[:2], expected.shape[:2], strict=True))
    smooth = [cv2.GaussianBlur(np.nan_to_num(x[:h, :w]).astype(np.float32), (0, 0), 3) for x in (turned, expected)]
    inside = ndimage.binary_erosion(np.isfinite(expected[:h, :w, 0]), iterations=12)
    assert inside.mean() > 0.3
    assert np.abs(smooth[0] - smooth[1])[inside].mean() < 1.5
    centre = np.array(pixels.shape[1::-1]) / 2
    angle = math.radians(side * 30)
    offsets = np.array([[x, y] for x in BOX[::2] for y in BOX[1::2]]) - centre
    by_hand = offsets @ np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]).T
    width = 301 * math.cos(math.pi / 6) + 200 * 0.5
    height = 301 * 0.5 + 200 * math.cos(math.pi / 6)
    assert turned.shape[:2] == (math.ceil(height), math.ceil(width))
    by_hand += np.array([width, height]) / 2
    np.testing.assert_allclose(box, [*by_hand.min(axis=0), *by_hand.max(axis=0)], atol=1e-4)


def test_a_tilt_is_a_pinhole_camera():
    """Points of the plane turned and projected one by one."""
    width, height, degrees, axis = 300, 200, 50.0, 0.7
    homography = geometric.tilt_homography(width, height, degrees, axis)
    for x, y in [(0, 0), (300, 0), (120, 40), (150, 100)]:
        p = np.array([x - 150.0, y - 100.0, 0.0])
        k, angle = np.array([math.cos(axis), math.sin(axis), 0]), math.radians(degrees)
        turned = p * math.cos(angle) + np.cross(k, p) * math.sin(angle) + k * (k @ p) * (1 - math.cos(angle))
        expected = 300 * turned[:2] / (turned[2] + 300)
        found = homography @ [x, y, 1]
        np.testing.assert_allclose(found[:2] / found[2], expected, atol=1e-9)


def test_a_tilted_picture_lies_where_its_corners_do():
    """A white square on black: its centre of mass is carried as the box is."""
    pixels = np.zeros((240, 320, 3), np.uint8)
    pixels[90:110, 200:220] = 255
    seen, box = geometric.tilt(pixels, 45, 5, (200, 90, 220, 110))
    rows, columns = np.nonzero(seen[..., 0] > 100)
    found = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    np.testing.assert_allclose(found, box, atol=1.6)
    axis = float(np.random.default_rng(5).uniform(0, 2 * math.pi))
    h = geometric.tilt_homography(320, 240, 45, axis)
    corners = cv2.perspectiveTransform(np.float64([[[0, 0], [320, 0], [320, 240], [0, 240]]]), h)[0]
    low, high = corners.min(axis=0), corners.max(axis=0)
    assert seen.shape[1::-1] == tuple(np.ceil(high - low).astype(int))
    centre = cv2.perspectiveTransform(np.float64([[[210, 100]]]), h)[0, 0] - low
    np.testing.assert_allclose(centre, [columns.mean() + 0.5, rows.mean() + 0.5], atol=1.0)


def test_shrinking_by_whole_octaves_is_a_mean_of_blocks(pixels):
    even = pixels[:200, :300]
    small, box = geometric.shrink(even, 1, 0, BOX)
    blocks = even.reshape(100, 2, 150, 2, 3).mean(axis=(1, 3))
    assert np.abs(small - blocks).max() <= 0.5
    assert box == tuple(v / 2 for v in BOX)


def test_cuts_and_covers_by_counting(pixels):
    for seed in range(5):
        part, box = geometric.cut(pixels, 0.5, seed, BOX)
        assert part.shape == (12, 25, 3) and box == (0, 0, 25, 12)
        assert any(np.array_equal(part, pixels[y : y + 12, x : x + 25]) for y in range(20, 34) for x in range(10, 36))
        part, none = geometric.cut(pixels, 0.25, seed, None)
        assert part.shape == (150, 226, 3) and none is None
        covered, box = geometric.cover(pixels, 0.5, seed, BOX)
        changed = (covered != pixels).any(axis=2)
        rows, columns = np.nonzero(changed)
        assert rows.min() >= 20 and rows.max() < 45 and columns.min() >= 10 and columns.max() < 60
        assert box == BOX and changed.sum() == pytest.approx(0.5 * 50 * 25, rel=0.1)
    small, _ = geometric.cut(pixels, 0.7, 1, None)
    large, _ = geometric.cut(pixels, 0.3, 1, None)
    y, x = np.unravel_index(np.argmin(cv2.matchTemplate(large, small, cv2.TM_SQDIFF)), (81, 122))
    np.testing.assert_array_equal(large[y : y + 60, x : x + 90], small)  # a stronger cut lies within a weaker one


def test_a_blurred_step_has_the_gaussians_variance():
    step = np.zeros((40, 400, 3), np.uint8)
    step[:, 200:] = 255
    found = photometric.blur(step, 2, 0)[20, :, 0].astype(float)
    density = np.diff(found) / 255  # the derivative of the step's answer is the kernel itself
    at = np.arange(len(density))
    mean = (density * at).sum()
    assert math.sqrt((density * (at - mean) ** 2).sum()) == pytest.approx(8, rel=0.02)


def test_noise_has_its_deviation():
    grey = np.full((200, 200, 3), 128, np.uint8)
    found = photometric.noise(grey, 20, 4).astype(float) - 128
    assert found.std() == pytest.approx(20, rel=0.02) and abs(found.mean()) < 0.3
    assert abs(np.corrcoef(found[..., 0].ravel(), found[..., 1].ravel())[0, 1]) < 0.02


def test_compression_makes_smaller_files_and_greater_errors(pixels):
    sizes, errors = [], []
    for loss in TRANSFORMATIONS["compression"].strengths:
        buffer = io.BytesIO()
        PIL.Image.fromarray(pixels).save(buffer, "JPEG", quality=int(100 - loss), subsampling=2)
        sizes.append(len(buffer.getvalue()))
        found = photometric.compress(pixels, loss, 0)
        with PIL.Image.open(buffer) as decoded:
            np.testing.assert_array_equal(found, np.array(decoded))
        errors.append(float(np.square(found.astype(float) - pixels).mean()))
    assert sizes == sorted(sizes, reverse=True) and errors == sorted(errors)


def test_light_is_linear():
    """sRGB's published figures, and light that halves."""
    assert photometric.linear(np.uint8([[[255, 188, 0]]])).ravel() == pytest.approx([1, 0.5029, 0], abs=1e-4)
    ramp = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 256, 3)
    np.testing.assert_array_equal(photometric.levels(photometric.linear(ramp)), ramp)
    np.testing.assert_array_equal(photometric.darken(np.full((1, 1, 3), 188, np.uint8), 1, 0), [[[137] * 3]])
    np.testing.assert_array_equal(photometric.brighten(np.full((1, 1, 3), 188, np.uint8), 1, 0), [[[255] * 3]])


def test_a_cast_and_a_grey_keep_the_luminance(pixels):
    dark = (pixels // 2).astype(np.uint8)  # nothing is cut off
    luma = [0.2126, 0.7152, 0.0722]
    before = (photometric.linear(dark) @ luma).mean()
    warm = {photometric.tint(dark, 0.5, seed)[..., 0].mean() > dark[..., 0].mean() for seed in range(8)}
    assert warm == {True, False}
    assert (photometric.linear(photometric.tint(dark, 0.5, 1)) @ luma).mean() == pytest.approx(before, rel=0.01)
    grey = photometric.fade(dark, 1, 0)
    assert (grey.max(axis=2) == grey.min(axis=2)).all()
    np.testing.assert_allclose(photometric.linear(grey) @ luma, photometric.linear(dark) @ luma, atol=0.004)


def test_the_model_of_night_is_darker_warmer_at_lamps_and_noisier(pixels):
    flat = np.full((120, 160, 3), 180, np.uint8)
    means, deviations = [], []
    for strength in TRANSFORMATIONS["night-model"].strengths:
        found = photometric.night(flat, strength, 2)
        means.append(photometric.linear(found).mean())
        deviations.append(np.std(found.astype(float) - cv2.GaussianBlur(found, (0, 0), 4)))
    assert means == sorted(means, reverse=True) and means[-1] < 0.25 * photometric.linear(flat).mean()
    assert deviations == sorted(deviations) and deviations[-1] > 2
    light = cv2.GaussianBlur(photometric.linear(photometric.night(flat, 1, 2)), (0, 0), 10)
    bright, dim = np.argmax(light.sum(axis=2)), np.argmin(light.sum(axis=2))
    red, blue = light[..., 0].ravel(), light[..., 2].ravel()
    assert red[bright] > 1.5 * blue[bright] and blue[dim] / red[dim] > 1.5 * blue[bright] / red[bright]
