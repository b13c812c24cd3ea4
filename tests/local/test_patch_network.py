"""Blobs of known position and width, networks against NumPy, and published weights against known warps."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from resight.errors import RecipeError  # noqa: E402
from resight.geometry.homography import project  # noqa: E402
from resight.images.image import Image  # noqa: E402
from resight.local.patch_network import (  # noqa: E402
    AffNet,
    HardTFeat,
    HardTFeatNet,
    OriNet,
    hessian_blobs,
    patches,
)
from resight.local.verification import verify  # noqa: E402

DATA = Path(os.environ.get("RESIGHT_TEST_DATA", Path(__file__).resolve().parents[3] / "shared/data"))
PHOTO = DATA / "scenes_multiview/images/entry_P10/0000.jpg"
NETWORKS = {"HardTFeat": HardTFeatNet, "AffNet": AffNet, "OriNet": OriNet}


def random_network(kind, seed=0):
    torch.manual_seed(seed)
    network = NETWORKS[kind]()
    state = {name: torch.randn(value.shape) * 0.1 for name, value in network.state_dict().items()}
    state = {name: value.abs() + 0.5 if name.endswith("running_var") else value for name, value in state.items()}
    if "features.19.weight" in state:
        state["features.19.weight"] *= 0.1  # shapes that are not all degenerate
    # Published files are without these counts.
    state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    network.load_state_dict(state, strict=False)
    return network.eval(), state


@pytest.fixture
def weights(tmp_path):
    """A folder as it is published, of random weights."""
    for kind in NETWORKS:
        state = random_network(kind)[1]
        if kind == "HardTFeat":
            state["SIFT.gx.0.weight"] = torch.zeros(1, 1, 1, 3)
        torch.save({"epoch": 3, "state_dict": state}, tmp_path / f"{kind}.pth")
    return tmp_path


def image(pixels, size=None):
    return Image(np.ascontiguousarray(pixels, np.uint8), size or pixels.shape[1::-1], "<array>")


def gaussians(blobs, width=160, height=140):
    """blobs: (centre, σ, contrast); on a background of 40."""
    y, x = np.mgrid[:height, :width]
    drawn = np.full((height, width), 40.0)
    for (cx, cy), sigma, contrast in blobs:
        drawn += contrast * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2))
    return np.clip(np.round(drawn), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("sigma", "contrast"), [(2.5, 150), (4, -30), (6.3, 150), (11, 150)])
def test_a_blobs_position_and_width_are_found(sigma, contrast):
    centre = (80.3, 70.7)
    xy, found, response = hessian_blobs(gaussians([(centre, sigma, contrast)]), 1e-5)
    np.testing.assert_allclose(xy[0], centre, atol=0.02 * sigma)
    assert found[0] == pytest.approx(sigma, rel=0.025)
    # Blurred by t, a blob of variance s has σ⁴·det H = (c s t / (s + t)²)², largest, c²/16, at t = s.
    assert response[0] == pytest.approx((contrast / 255) ** 2 / 16, rel=0.1)


def test_the_strongest_come_first_and_ties_by_position():
    # Apart by multiples of 4 pixels, so that the grids of all octaves that matter see them alike.
    places = [((112, 40), 100), ((40, 40), 100), ((40, 100), 100), ((112, 100), 140)]
    xy, sigma, response = hessian_blobs(gaussians([(place, 4, contrast) for place, contrast in places]), 1e-3)
    assert xy.round().tolist()[:4] == [[112, 100], [40, 40], [112, 40], [40, 100]]
    assert len(sigma) == len(xy) and (np.diff(response) <= 0).all() and response.min() > 1e-3


def test_a_wide_blob_is_one_and_not_the_noise_of_its_top():
    drawn = gaussians([((200, 180), 60, 180)], 400, 360)
    xy, sigma, response = hessian_blobs(drawn, 1e-3)
    assert (response > 0.5 * response[0]).sum() == 1
    np.testing.assert_allclose(xy[0], (200, 180), atol=2)
    assert sigma[0] == pytest.approx(60, rel=0.1)


@pytest.mark.parametrize("size", [(60, 50), (1, 1), (2, 30), (3, 3)])
def test_a_flat_image_has_no_blobs_and_no_features(size, weights):
    assert [len(part) for part in hessian_blobs(np.full(size, 90, np.uint8), 1e-5)] == [0, 0, 0]
    found = HardTFeat(weights).extract(image(np.full((*size, 3), 90)), max_features=5)
    assert len(found) == 0 and found.descriptors.shape == (0, 128) and found.descriptors.dtype == np.float32


def test_patches_show_what_their_frames_say():
    y, x = np.mgrid[:200, :240].astype(np.float32)
    ramp, slope = x + 0.5 * y, np.array([1, 0.5])  # a plane stays itself when halved, away from the border
    octaves = [ramp, cv2.pyrDown(ramp), cv2.pyrDown(cv2.pyrDown(ramp))]
    xy = np.array([[100.25, 90.5], [120, 100], [120, 100]])
    frames = np.array([[[10, 0], [0, 10]], [[0, -36], [45, 10]], [[60, 0], [15, 68.0]]])
    centres = (2 * np.arange(32) + 1) / 32 - 1
    uv = np.stack(np.meshgrid(centres, centres), axis=-1)
    expected = (xy @ slope)[:, None, None] + np.einsum("hwj,nij,i->nhw", uv, frames, slope)
    found = patches(octaves, xy, frames)
    # OpenCV places samples to a 32nd of a pixel.
    np.testing.assert_allclose(found[0], expected[0], atol=0.05)
    np.testing.assert_allclose(found[1], expected[1], atol=0.1)
    np.testing.assert_allclose(found[2], expected[2], atol=0.2)


def convolved(x, weight, bias=0.0, stride=1, padding=0):
    """C×H×W correlated with O×C×k×k."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    views = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(1, 2))[:, ::stride, ::stride]
    return np.einsum("chwij,ocij->ohw", views, weight) + np.reshape(bias, (-1, 1, 1))


def in_numpy(kind, patch, state):
    """One patch through a network, as its publication draws it."""
    state = {name: value.double().numpy() for name, value in state.items()}
    x = ((patch - patch.mean()) / patch.std(ddof=1))[None]
    if kind == "HardTFeat":
        x = np.tanh(convolved(x, state["features.0.weight"], state["features.0.bias"]))
        x = x.reshape(32, 13, 2, 13, 2).max(axis=(2, 4))
        x = np.tanh(convolved(x, state["features.3.weight"], state["features.3.bias"]))
        x = np.tanh(convolved(x, state["classifier.1.weight"], state["classifier.1.bias"])).ravel()
        return x / np.linalg.norm(x)
    for layer, stride in ((0, 1), (3, 1), (6, 2), (9, 1), (12, 2), (15, 1)):
        x = convolved(x, state[f"features.{layer}.weight"], stride=stride, padding=1)
        mean, variance = (state[f"features.{layer + 1}.running_{what}"][:, None, None] for what in ("mean", "var"))
        x = np.maximum((x - mean) / np.sqrt(variance + 1e-5), 0)
    x = convolved(x, state["features.19.weight"], state["features.19.bias"], padding=int(kind == "OriNet"))
    x = np.tanh(x).mean(axis=(1, 2))
    if kind == "OriNet":
        angle = np.arctan2(*x)
        return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    shape = np.array([[1 + x[0], 0], [x[1], 1 + x[2]]])
    return shape / np.sqrt(np.linalg.det(shape))


@pytest.mark.parametrize("kind", NETWORKS)
def test_networks_are_those_published(kind):
    network, state = random_network(kind)
    batch = np.random.default_rng(1).uniform(0, 255, (3, 32, 32))
    batch[2] = 0.3 * batch[0] + 20  # other brightness and contrast change nothing
    with torch.inference_mode():
        found = network(torch.from_numpy(batch[:, None].astype(np.float32))).numpy()
    for output, patch in zip(found, batch, strict=True):
        np.testing.assert_allclose(output, in_numpy(kind, patch, state), atol=1e-5)
    np.testing.assert_allclose(found[2], found[0], atol=1e-5)


def texture(height=300, width=400, seed=5):
    rng = np.random.default_rng(seed)
    drawn = np.full((height, width, 3), 128, np.uint8)
    for _ in range(150):
        corners = rng.uniform(0, (width, height), 2) + rng.normal(scale=25, size=(rng.integers(3, 6), 2))
        cv2.fillPoly(drawn, [corners.astype(np.int32)], rng.uniform(0, 255, 3).tolist(), cv2.LINE_AA)
    return cv2.GaussianBlur(drawn, (0, 0), 0.8)


def test_features_are_in_pixels_of_the_original_strongest_first_and_the_same_each_time(weights):
    pixels, extractor = texture(120, 150), HardTFeat(weights)
    found = extractor.extract(image(pixels), max_features=300)
    again = extractor.extract(image(pixels), max_features=20)
    assert 40 < len(found) < 300 and len(again) == 20 and (np.diff(found.score) <= 0).all()
    for name in ("xy", "size", "score"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name)[:20])
    np.testing.assert_allclose(again.descriptors, found.descriptors[:20], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found.descriptors, axis=1), 1, atol=1e-5)
    assert ((found.angle >= 0) & (found.angle < 2 * np.pi)).all() and extractor.oriented
    room = np.minimum(found.xy, (149, 119) - found.xy).min(axis=1)
    assert (room >= found.size / 2 - 1e-3).all()  # the round region is within the image

    larger = extractor.extract(image(pixels, (450, 240)), max_features=300)
    np.testing.assert_allclose(larger.xy, (found.xy + 0.5) * (3, 2) - 0.5, rtol=1e-5)
    np.testing.assert_allclose(larger.size, found.size * np.sqrt(6), rtol=1e-5)
    across, down = 3 * np.cos(found.angle), 2 * np.sin(found.angle)
    np.testing.assert_allclose(np.cos(larger.angle - np.arctan2(down, across)), 1, atol=1e-5)


def test_bad_arguments_and_files_are_refused_by_name(weights):
    with pytest.raises(RecipeError, match="max_features"):
        HardTFeat(weights).extract(image(texture(40, 40)), max_features=0)
    with pytest.raises(RecipeError, match="threshold"):
        HardTFeat(weights, threshold=-1.0)
    affnet = (weights / "AffNet.pth").read_bytes()
    (weights / "AffNet.pth").write_bytes((weights / "OriNet.pth").read_bytes())
    with pytest.raises(RecipeError, match=r"AffNet\.pth: .*misshapen features\.19\.weight \(2, 64, 8, 8\)"):
        HardTFeat(weights)
    (weights / "AffNet.pth").write_bytes(affnet)
    torch.save({"state_dict": {"features.0.weight": torch.zeros(32, 1, 7, 7)}}, weights / "HardTFeat.pth")
    with pytest.raises(RecipeError, match=r"HardTFeat\.pth: .*missing features\.0\.bias"):
        HardTFeat(weights)
    (weights / "HardTFeat.pth").unlink()
    with pytest.raises(RecipeError, match=r"HardTFeat\.pth: no such weights file"):
        HardTFeat(weights)


@pytest.fixture(scope="module")
def published():
    folder = DATA / "weights/hardtfeat"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent; RESIGHT_TEST_DATA names the folder of the sets")
    return HardTFeat(folder)


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


@pytest.mark.parametrize(("draw", "degrees"), [(texture, 150), (photograph, 20)])
def test_published_weights_match_a_turned_and_smaller_copy(draw, degrees, published):
    pixels = draw()
    height, width = pixels.shape[:2]
    warp = np.vstack([cv2.getRotationMatrix2D((width / 2, height / 2), -degrees, 0.8), [0, 0, 1]])
    warp[2, :2] = 1e-4, 5e-5
    warped = cv2.warpPerspective(pixels, warp, (width, height), flags=cv2.INTER_AREA)
    before, after = (published.extract(image(drawn), max_features=300) for drawn in (pixels, warped))
    i, j = mutual_by_ratio(before.descriptors, after.descriptors)
    expected = project(warp, before.xy)
    right = np.linalg.norm(expected[i] - after.xy[j], axis=1) < 3
    assert len(i) >= 100 and right.mean() > 0.9
    nearest = np.linalg.norm(expected[:, None] - after.xy, axis=2).min(axis=1)
    seen = ((expected > 20) & (expected < (width - 20, height - 20))).all(axis=1)
    assert (nearest[seen] < 3).mean() > 0.5  # blobs that are smallest here are too small there

    # Clockwise in the image by `degrees`, and smaller, as the frames of what matches say too.
    turn = np.rad2deg(after.angle[j] - before.angle[i])[right] - degrees
    assert np.median(np.abs((turn + 180) % 360 - 180)) < 15
    assert abs(np.median(np.log2(after.size[j] / before.size[i])[right]) - np.log2(0.8)) < 0.2
    assert len(verify(before, after, i, j, max_error=3.0, seed=0).inliers) > 0.8 * right.sum()


def test_shapes_follow_a_squashed_image():
    path = DATA / "weights/hardtfeat/AffNet.pth"
    if not path.is_file():
        pytest.skip(f"{path} is absent; RESIGHT_TEST_DATA names the folder of the sets")
    network = AffNet().eval()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["state_dict"], strict=False)
    grey = cv2.cvtColor(texture(), cv2.COLOR_RGB2GRAY)
    xy, sigma, _ = (part[:150] for part in hessian_blobs(grey, 1e-5))
    jacobian = np.array([[0.6, 0], [0.25, 1.0]])
    squashed = cv2.warpAffine(grey, np.column_stack([jacobian, [0, 0]]), (400, 400), flags=cv2.INTER_AREA)
    shapes = []
    for drawn, at, width in ((grey, xy, sigma), (squashed, xy @ jacobian.T, sigma * np.sqrt(0.6))):
        seen = patches([drawn.astype(np.float32)], at, 5 * width[:, None, None] * np.eye(2))
        with torch.inference_mode():
            shapes.append(network(torch.from_numpy(seen[:, None])).numpy())
    left = np.linalg.cond(np.linalg.inv(jacobian @ shapes[0]) @ shapes[1])
    assert np.median(left) < 1 + 0.6 * (np.linalg.cond(jacobian) - 1)
