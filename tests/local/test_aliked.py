"""ALIKED against its authors' order of computation, made densely, and against known warps with published weights."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")
F = torch.nn.functional

from resight.errors import RecipeError  # noqa: E402
from resight.geometry.homography import project  # noqa: E402
from resight.images.image import Image  # noqa: E402
from resight.local.aliked import Aliked, AlikedNetwork  # noqa: E402
from resight.local.peaks import soft_peaks  # noqa: E402
from resight.networks.deform_conv import deform_conv2d  # noqa: E402

DATA = Path(os.environ.get("RESIGHT_TEST_DATA", Path(__file__).resolve().parents[3] / "shared/data"))
PHOTO = DATA / "scenes_multiview/images/entry_P10/0000.jpg"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """aliked-t16 of random weights, with statistics that are not those of a new batch normalisation."""
    torch.manual_seed(0)
    network = AlikedNetwork((8, 16, 32, 64), 16)
    state = {name: torch.randn(value.shape) * 0.3 for name, value in network.state_dict().items()}
    for name in state:
        if name.endswith("running_var"):
            state[name] = state[name].abs() + 0.5
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
    path = tmp_path_factory.mktemp("aliked") / "random.pth"
    torch.save(state, path)
    return path


def image(pixels, size=None):
    return Image(np.ascontiguousarray(pixels, np.uint8), size or pixels.shape[1::-1], "<array>")


def noise(height, width, seed=0):
    coarse = np.random.default_rng(seed).uniform(0, 255, (height // 4 + 2, width // 4 + 2, 3))
    return np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


def dense(state, pixels):
    """The D×H×W map and the H×W scores of an image, each level upsampled and joined at full resolution."""

    def convolve(name, x):
        reach = max(x.shape[2:]) / 4
        if f"{name}.offset_conv.weight" in state:
            offset = F.conv2d(x, state[f"{name}.offset_conv.weight"], state[f"{name}.offset_conv.bias"], padding=1)
            return deform_conv2d(x, offset.clamp(-reach, reach), state[f"{name}.regular_conv.weight"], padding=1)
        return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), padding="same")

    def normalise(name, x):
        mean, variance, scale, shift = (
            state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(variance + 1e-5) * scale + shift

    def block(name, x):
        out = F.selu(normalise(f"{name}.bn1", convolve(f"{name}.conv1", x)))
        out = normalise(f"{name}.bn2", convolve(f"{name}.conv2", out))
        return F.selu(out + convolve(f"{name}.downsample", x) if f"{name}.downsample.weight" in state else out)

    height, width = pixels.shape[:2]
    down, across = -height % 32, -width % 32
    padded = np.pad(pixels, ((down // 2, down - down // 2), (across // 2, across - across // 2), (0, 0)), mode="edge")
    x = torch.from_numpy(padded).permute(2, 0, 1)[None] / 255
    levels = []
    for number, shrink in enumerate((1, 2, 4, 4), start=1):
        x = block(f"block{number}", F.avg_pool2d(x, shrink))
        level = F.selu(convolve(f"conv{number}", x))
        levels.append(F.interpolate(level, size=padded.shape[:2], mode="bilinear", align_corners=True))
    joined = torch.cat(levels, dim=1)
    scores = joined
    for layer in (0, 2, 4, 6):
        scores = convolve(f"score_head.{layer}", scores if layer == 0 else F.selu(scores))
    inside = (..., slice(down // 2, down // 2 + height), slice(across // 2, across // 2 + width))
    return F.normalize(joined, dim=1)[inside][0], torch.sigmoid(scores)[inside][0, 0]


def describe(state, field, xy):
    """Descriptors at N×2 positions of a dense map, one at a time."""
    _, height, width = field.shape
    reach = max(height, width) / 4
    descriptors = []
    for x, y in xy.tolist():
        left, top = (min(max(int(v) - 1, 0), side - 4) for v, side in ((x, width), (y, height)))
        window = field[None, :, top : top + 3, left : left + 3]
        hidden = F.selu(
            F.conv2d(window, state["desc_head.offset_conv.0.weight"], state["desc_head.offset_conv.0.bias"])
        )
        offset = F.conv2d(hidden, state["desc_head.offset_conv.2.weight"], state["desc_head.offset_conv.2.bias"])
        dx, dy = offset.flatten().clamp(-reach, reach).chunk(2)
        grid = torch.stack([2 * (x + dx) / (width - 1) - 1, 2 * (y + dy) / (height - 1) - 1], dim=-1)
        found = F.grid_sample(field[None], grid[None, None], align_corners=True)
        features = F.selu(F.conv2d(found, state["desc_head.sf_conv.weight"]))[0, :, 0]
        descriptors.append(sum(features[:, p] @ state["desc_head.agg_weights"][p] for p in range(features.shape[1])))
    return F.normalize(torch.stack(descriptors), dim=1)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (75, 50), (9, 40)])
def test_scores_and_descriptors_are_those_of_the_dense_map(weights, height, width):
    pixels = noise(height, width)
    state = torch.load(weights, weights_only=True)
    field, scores = dense(state, pixels)
    found = Aliked(weights, "aliked-t16", threshold=0).extract(image(pixels), max_features=60)
    assert len(found) > 3 and found.descriptors.shape[1] == 64
    xy, score = soft_peaks(scores.numpy(), 0, 60)
    np.testing.assert_allclose(found.score, score, atol=1e-5)
    np.testing.assert_allclose(found.xy, xy, atol=1e-3)
    np.testing.assert_allclose(found.descriptors, describe(state, field, torch.from_numpy(xy)), atol=2e-3)
    np.testing.assert_allclose(np.linalg.norm(found.descriptors, axis=1), 1, atol=1e-5)


def test_a_peak_lies_at_the_mean_of_its_window_under_the_softmax():
    scores = np.random.default_rng(3).uniform(0, 0.3, (12, 15)).astype(np.float32)
    scores[6, 8], scores[6, 9], scores[5, 8] = 0.9, 0.8, 0.7
    xy, value = soft_peaks(scores, 0.5, 10)
    weights = {(x, y): np.exp(scores[y, x] / 0.1) for x in range(6, 11) for y in range(4, 9)}
    mean = np.array([np.multiply(place, weight) for place, weight in weights.items()]).sum(axis=0)
    np.testing.assert_allclose(xy, [mean / sum(weights.values())], rtol=1e-5)
    assert value.tolist() == [np.float32(0.9)]


def test_peaks_are_the_largest_within_two_pixels_strongest_first_ties_by_position():
    scores = np.full((20, 20), 0.01, np.float32)
    for x, y, value in ((15, 4, 0.5), (4, 4, 0.5), (4, 12, 0.5), (10, 12, 0.8), (12, 12, 0.7), (14, 12, 0.6)):
        scores[y, x] = value
    scores[0, 9] = scores[10, 1] = scores[18, 10] = scores[10, 19] = 0.99  # within two pixels of the border
    scores[10, 17] = 0.2  # below the threshold
    xy, value = soft_peaks(scores, 0.3, 10)
    # (12, 12) gives way to (10, 12), and so (14, 12), which it would have kept down, is a peak.
    peaks = [[10, 12], [14, 12], [4, 4], [15, 4], [4, 12]]
    np.testing.assert_allclose(xy, peaks, atol=1.5)  # the softmax draws the first two towards (12, 12)
    np.testing.assert_allclose(xy[2:], peaks[2:], atol=0.1)
    np.testing.assert_allclose(value, [0.8, 0.6, 0.5, 0.5, 0.5])
    np.testing.assert_array_equal(soft_peaks(scores, 0.3, 3)[0], xy[:3])


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (5, 5), (6, 33)])
def test_small_images_have_few_features_or_none(weights, size):
    found = Aliked(weights, "aliked-t16", threshold=0).extract(image(noise(*size)), max_features=10)
    assert len(found) <= max(size[0] - 4, 0) * max(size[1] - 4, 0)
    assert np.isfinite(found.descriptors).all() and found.descriptors.shape == (len(found), 64)


def test_features_are_in_pixels_of_the_original_and_the_same_each_time(weights):
    pixels, aliked = noise(60, 80), Aliked(weights, "aliked-t16", threshold=0)
    found = aliked.extract(image(pixels), max_features=30)
    larger = aliked.extract(image(pixels, (320, 120)), max_features=30)
    np.testing.assert_allclose(larger.xy, (found.xy + 0.5) * (4, 2) - 0.5, rtol=1e-5)
    assert set(found.size) == {32} and np.allclose(larger.size, 32 * np.sqrt(8)) and not larger.angle.any()
    assert not aliked.oriented
    np.testing.assert_array_equal(larger.descriptors, found.descriptors)


def test_bad_arguments_and_weights_are_refused_by_name(weights, tmp_path):
    with pytest.raises(RecipeError, match="model must be one of aliked-t16"):
        Aliked(weights, "aliked-x")
    with pytest.raises(RecipeError, match="threshold"):
        Aliked(weights, "aliked-t16", threshold=1.0)
    with pytest.raises(RecipeError, match=r"random\.pth: does not fit .*misshapen block1\.conv1\.weight"):
        Aliked(weights, "aliked-n16")
    with pytest.raises(RecipeError, match="no such weights file"):
        Aliked(tmp_path / "none.pth", "aliked-t16")
    state = torch.load(weights, weights_only=True)
    del state["desc_head.agg_weights"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(RecipeError, match=r"part\.pth: .*missing desc_head\.agg_weights"):
        Aliked(tmp_path / "part.pth", "aliked-t16")
    with pytest.raises(RecipeError, match="max_features"):
        Aliked(weights, "aliked-t16").extract(image(noise(40, 40)), max_features=0)


def texture(height=300, width=400, seed=5):
    rng = np.random.default_rng(seed)
    drawn = np.full((height, width, 3), 128, np.uint8)
    for _ in range(150):
        corners = rng.uniform(0, (width, height), 2) + rng.normal(scale=25, size=(rng.integers(3, 6), 2))
        cv2.fillPoly(drawn, [corners.astype(np.int32)], rng.uniform(0, 255, 3).tolist(), cv2.LINE_AA)
    return cv2.GaussianBlur(drawn, (0, 0), 0.8)


def photograph():
    if not PHOTO.is_file():
        pytest.skip(f"{PHOTO} is absent; RESIGHT_TEST_DATA names the folder of the sets")
    return cv2.resize(cv2.cvtColor(cv2.imread(str(PHOTO)), cv2.COLOR_BGR2RGB), (480, 320), interpolation=cv2.INTER_AREA)


def mutual_by_ratio(a, b, ratio=0.9):
    distance = np.sqrt(np.maximum(2 - 2 * a @ b.T, 0))
    j = distance.argmin(axis=1)
    first, second = np.sort(distance, axis=1)[:, :2].T
    i = np.flatnonzero((distance.argmin(axis=0)[j] == np.arange(len(a))) & (first < ratio * second))
    return i, j[i]


@pytest.mark.parametrize(("model", "draw"), [("aliked-n16rot", photograph), ("aliked-t16", texture)])
def test_published_weights_match_a_warped_copy(draw, model):
    path = DATA / f"weights/aliked/{model}.pth"
    if not path.is_file():
        pytest.skip(f"{path} is absent; RESIGHT_TEST_DATA names the folder of the sets")
    pixels, aliked = draw(), Aliked(path, model)
    height, width = pixels.shape[:2]
    warp = np.array([[0.95, 0.1, 10], [-0.08, 0.9, 20], [1e-4, 5e-5, 1]])
    before = aliked.extract(image(pixels), max_features=400)
    warped = cv2.warpPerspective(pixels, warp, (width, height), flags=cv2.INTER_AREA)
    after = aliked.extract(image(warped), max_features=400)
    expected = project(warp, before.xy)
    i, j = mutual_by_ratio(before.descriptors, after.descriptors)
    right = np.linalg.norm(expected[i] - after.xy[j], axis=1) < 3
    assert len(i) >= 100 and right.mean() > 0.9
    seen = ((expected > 5) & (expected < (width - 5, height - 5))).all(axis=1)
    nearest = np.linalg.norm(expected[seen, None] - after.xy, axis=2).min(axis=1)
    assert (nearest < 3).mean() > 0.6
