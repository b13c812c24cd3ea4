"""What an attacker computes of a defence is what the search does, and slopes are of what they say."""

import io

import cv2
import numpy as np
import PIL.Image
import pytest

torch = pytest.importorskip("torch")

from resight.errors import ResightError  # noqa: E402
from resight.robustness.defences import DEFENCES, make_defence  # noqa: E402
from resight.robustness.gradients import as_tensor  # noqa: E402


@pytest.mark.parametrize(
    "asked", ["none", "gaussian", "gaussian:2.5", "median", "median:5", "jpeg:40", "resize", "resize:0.5"]
)
def test_what_has_gradients_is_what_the_search_does(asked, pictures):
    defence = make_defence(asked)
    pixels = pictures["coffee"][:101]
    for seed in (0, 5):
        x = as_tensor(pixels).float().requires_grad_()
        through = defence.through(x, seed)
        applied = defence.apply(pixels, seed)
        difference = through.detach()[0].permute(1, 2, 0).numpy() - applied
        assert np.abs(difference).max() <= 1 and np.abs(difference).mean() < 0.3  # Pillow rounds between its passes
        (slope,) = torch.autograd.grad(through.sum(), x)
        # Each keeps the picture's mean: all slopes together are the number of values that come out.
        assert float(slope.sum()) == pytest.approx(applied.size, rel=1e-3)
    assert defence.drawn == (not np.array_equal(defence.apply(pixels, 0), defence.apply(pixels, 1)))


def test_they_do_what_their_names_say(pictures):
    pixels = pictures["chelsea"][:90, :120]
    assert make_defence("none").apply(pixels, 3) is pixels
    expected = cv2.GaussianBlur(pixels, (0, 0), 1.5, borderType=cv2.BORDER_REFLECT_101)
    assert np.array_equal(make_defence("gaussian:1.5").apply(pixels, 0), expected)
    median = make_defence("median:3").apply(pixels, 0)
    assert np.array_equal(median[40, 50], np.median(pixels[39:42, 49:52].reshape(9, 3), axis=0))
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "JPEG", quality=60, subsampling=2)
    assert np.array_equal(make_defence("jpeg:60").apply(pixels, 0), np.array(PIL.Image.open(buffer)))
    sizes = [make_defence("resize:0.6").apply(pixels, seed).shape[:2] for seed in range(40)]
    factors = np.array(sizes) / pixels.shape[:2]
    assert factors.min() > 0.59 and factors.max() <= 1 and factors.min() < 0.7 and factors.max() > 0.9
    assert np.abs(factors[:, 0] - factors[:, 1]).max() < 0.02


def test_a_picture_smaller_than_the_kernel_is_mirrored_over_and_over(pictures):
    pixels = np.ascontiguousarray(pictures["coffee"][:7, :20])
    wanted = cv2.GaussianBlur(pixels, (0, 0), 10, borderType=cv2.BORDER_REFLECT_101)
    through = make_defence("gaussian:10").through(as_tensor(pixels).float(), 0)
    assert np.abs(through[0].permute(1, 2, 0).numpy() - wanted).max() <= 1


def test_the_identity_stands_in_where_there_is_no_slope():
    for asked in ("median", "jpeg"):
        x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).mul(255).requires_grad_()
        weights = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
        (slope,) = torch.autograd.grad((make_defence(asked).through(x, 0) * weights).sum(), x)
        torch.testing.assert_close(slope, weights)


@pytest.mark.parametrize(
    "asked", ["blur", "none:1", "median:4", "jpeg:0", "jpeg:x", "gaussian:0", "resize:1", "gaussian:nan"]
)
def test_others_are_refused(asked):
    with pytest.raises(ResightError, match="defence"):
        make_defence(asked)


def test_names_tell_values_apart():
    assert [make_defence(kind).name for kind in DEFENCES] == list(DEFENCES)
    assert make_defence("jpeg:50.0").name == "jpeg:50"
