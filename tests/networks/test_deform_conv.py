"""Deformable convolution against a loop from the definition, plain convolution, and torchvision's where that loads."""

import itertools
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from resight.networks.deform_conv import deform_conv2d  # noqa: E402


def bilinear(plane, y, x):
    """Weights of the four neighbours; those outside count as zero."""
    total = 0.0
    for row, column in itertools.product((math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)):
        if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
            total += plane[row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


def naive(features, offset, weight, bias, stride, padding, dilation, mask):
    """y(p) = Σ_k w_k x(p + p_k + Δp_k) Δm_k (Zhu et al., Eq. 1)."""
    kw = weight.shape[3]
    out = np.zeros((len(features), len(weight), *offset.shape[2:]))
    for b, o, i, j in np.ndindex(out.shape):
        for c, k, m in np.ndindex(weight.shape[1:]):
            tap = k * kw + m
            y = i * stride - padding + k * dilation + offset[b, 2 * tap, i, j]
            x = j * stride - padding + m * dilation + offset[b, 2 * tap + 1, i, j]
            out[b, o, i, j] += weight[o, c, k, m] * mask[b, tap, i, j] * bilinear(features[b, c], y, x)
        out[b, o, i, j] += bias[o]
    return out


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"), [((3, 3), 1, 1, 1), ((2, 3), 2, 1, 1), ((3, 1), 1, 0, 2)]
)
def test_it_is_what_the_definition_says(kernel, stride, padding, dilation):
    rng = np.random.default_rng(sum(kernel) + stride)
    features, weight = rng.normal(size=(2, 3, 6, 7)), rng.normal(size=(2, 3, *kernel))
    out = [(n + 2 * padding - dilation * (k - 1) - 1) // stride + 1 for n, k in zip((6, 7), kernel, strict=True)]
    taps = math.prod(kernel)
    offset = rng.normal(scale=2.5, size=(2, 2 * taps, *out))  # many fall outside, by less and by more than a pixel
    mask, bias = rng.uniform(size=(2, taps, *out)), rng.normal(size=2)
    found = deform_conv2d(
        *map(torch.from_numpy, (features, offset, weight, bias)),
        stride=stride,
        padding=padding,
        dilation=dilation,
        mask=torch.from_numpy(mask),
    )
    expected = naive(features, offset, weight, bias, stride, padding, dilation, mask)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_without_offsets_it_is_a_convolution_even_of_one_pixel():
    torch.manual_seed(0)
    weight = torch.randn(4, 2, 3, 3)
    for height, width in ((5, 8), (1, 1), (1, 6)):
        features = torch.randn(1, 2, height, width)
        found = deform_conv2d(features, torch.zeros(1, 18, height, width), weight, padding=1)
        torch.testing.assert_close(found, torch.nn.functional.conv2d(features, weight, padding=1))


def test_it_is_differentiable():
    torch.manual_seed(1)
    inputs = [torch.randn(1, 2, 4, 4), torch.randn(1, 18, 4, 4), torch.randn(2, 2, 3, 3)]
    inputs = [x.double().requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(lambda *x: deform_conv2d(*x, padding=1), inputs)


@pytest.mark.parametrize("wrong", ["weight", "offset", "mask"])
def test_shapes_that_do_not_go_together_are_refused_by_name(wrong):
    shapes = {"weight": (4, 2, 3, 3), "offset": (1, 18, 5, 5), "mask": (1, 9, 5, 5)}
    shapes[wrong] = (4, 3, 3, 3) if wrong == "weight" else (1, 17, 5, 5)
    given = {name: torch.zeros(shape) for name, shape in shapes.items()}
    with pytest.raises(ValueError, match=f"^{wrong} must be"):
        deform_conv2d(torch.zeros(1, 2, 5, 5), given["offset"], given["weight"], padding=1, mask=given["mask"])


def test_it_is_torchvisions():
    try:
        from torchvision.ops import deform_conv2d as compiled

        compiled(torch.zeros(1, 1, 3, 3), torch.zeros(1, 2, 3, 3), torch.zeros(1, 1, 1, 1))
    except (ImportError, RuntimeError, AttributeError) as error:
        pytest.skip(f"torchvision's compiled operator does not load: {error}")
    torch.manual_seed(2)
    features, offset, weight = torch.randn(2, 3, 9, 8), 3 * torch.randn(2, 18, 5, 4), torch.randn(4, 3, 3, 3)
    mask = torch.rand(2, 9, 5, 4)
    expected = compiled(features, offset, weight, stride=2, padding=1, mask=mask)
    torch.testing.assert_close(deform_conv2d(features, offset, weight, stride=2, padding=1, mask=mask), expected)
