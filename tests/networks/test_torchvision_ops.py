"""nms and roi_align against naive loops, called through torchvision so that the wiring is tested too."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from resight.networks.torchvision_ops import ensure_torchvision, nms, roi_align  # noqa: E402


def naive_nms(boxes, scores, threshold):
    left = sorted(range(len(boxes)), key=lambda i: (-scores[i], i))
    kept = []
    while left:
        best, *rest = left
        kept.append(best)
        left = [i for i in rest if iou(boxes[best], boxes[i]) <= threshold]
    return kept


def iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


def naive_roi_align(features, rois, scale, bins_y, bins_x, ratio, aligned):
    out = np.zeros((len(rois), features.shape[1], bins_y, bins_x))
    for k, (batch, *corners) in enumerate(rois):
        x1, y1, x2, y2 = (c * scale - (0.5 if aligned else 0) for c in corners)
        width, height = x2 - x1, y2 - y1
        if not aligned:
            width, height = max(width, 1.0), max(height, 1.0)
        ny = ratio if ratio > 0 else math.ceil(height / bins_y)
        nx = ratio if ratio > 0 else math.ceil(width / bins_x)
        for i in range(bins_y):
            for j in range(bins_x):
                for a in range(ny):
                    for b in range(nx):
                        y = y1 + height / bins_y * (i + (a + 0.5) / ny)
                        x = x1 + width / bins_x * (j + (b + 0.5) / nx)
                        out[k, :, i, j] += bilinear(features[int(batch)], y, x) / (ny * nx)
    return out


def bilinear(maps, y, x):
    _, height, width = maps.shape
    if y < -1 or y > height or x < -1 or x > width:
        return np.zeros(len(maps))
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = math.floor(y), math.floor(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    fy, fx = y - top, x - left
    return (
        (1 - fy) * (1 - fx) * maps[:, top, left]
        + (1 - fy) * fx * maps[:, top, right]
        + fy * (1 - fx) * maps[:, bottom, left]
        + fy * fx * maps[:, bottom, right]
    )


@pytest.fixture(scope="module")
def ops():
    ensure_torchvision()
    import torchvision

    return torchvision.ops


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
def test_nms_equals_the_naive_loop(ops, seed, threshold):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 50, (40, 2))
    boxes = np.hstack([corner, corner + rng.uniform(1, 40, (40, 2))]).astype(np.float32)
    scores = rng.permutation(40).astype(np.float32)
    expected = naive_nms(boxes.astype(float), scores, threshold)
    given = torch.from_numpy(boxes), torch.from_numpy(scores), threshold
    assert ops.nms(*given).tolist() == expected
    assert nms(*given).tolist() == expected


def test_nms_of_nothing_and_of_ties(ops):
    assert ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5).tolist() == []
    twin = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 10], [20.0, 20, 30, 30]])
    assert nms(twin, torch.ones(3), 0.5).tolist() == [0, 2]


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [-1, 1, 3])
def test_roi_align_equals_the_naive_loop(ops, aligned, ratio):
    rng = np.random.default_rng(7)
    features = rng.normal(size=(2, 3, 9, 11))
    rois = np.array(
        [
            [0, 2, 3, 15, 13],  # inside
            [1, -9, -9, 30, 25],  # beyond every border
            [0, 4, 4, 4.2, 4.1],  # smaller than a cell
            [1, 0, 0, 22, 18],  # the whole map
            [0, 40, 40, 60, 60],  # wholly outside
        ]
    )
    expected = naive_roi_align(features, rois, 0.5, 2, 3, ratio, aligned)
    given = torch.from_numpy(features), torch.from_numpy(rois)
    out = ops.roi_align(*given, (2, 3), spatial_scale=0.5, sampling_ratio=ratio, aligned=aligned)
    np.testing.assert_allclose(out.numpy(), expected, atol=1e-9)
    np.testing.assert_allclose(roi_align(*given, 0.5, 2, 3, ratio, aligned).numpy(), expected, atol=1e-9)


def test_roi_align_gradient():
    features = torch.rand(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0.0, 0.7, 1.1, 4.9, 4.2]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda f: roi_align(f, rois, 1.0, 2, 2, 2, True), features)
