"""Keypoints of the compact network where they were planted, whatever the picture's size, scale or orientation.

The planted network finds bright points: its keypoint branch passes a pixel's brightness on to the logit of the pixel.
"""

import cv2
import numpy as np
import PIL.Image
import pytest

torch = pytest.importorskip("torch")

from resight.describe.local_features import load_local  # noqa: E402
from resight.errors import RecipeError  # noqa: E402
from resight.geometry.homography import project  # noqa: E402
from resight.images.image import Image  # noqa: E402
from resight.images.read import read_image  # noqa: E402
from resight.local.compact import CompactKeypoints, likelihood, read  # noqa: E402
from resight.local.features import quantised  # noqa: E402
from resight.networks import compact  # noqa: E402
from resight.networks.compact import Compact, load_compact, save_compact  # noqa: E402
from resight.recipes import load_recipe  # noqa: E402

# None between two pixels, which would be as bright: both would be peaks.
POINTS = np.array([[20.2, 30.1], [63.3, 40.2], [101.1, 63.2], [150.7, 20.8], [40.1, 95.2], [128.2, 100.1]])


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    torch.manual_seed(0)
    network = Compact().eval()
    with torch.no_grad():
        for block in list(network.cells)[:-1]:
            block.conv.weight.zero_()
            block.conv.weight[range(64), range(64), block.conv.kernel_size[0] // 2, block.conv.kernel_size[1] // 2] = 1
        last = network.cells[-1]
        last.weight.zero_()
        last.bias.zero_()
        last.weight[range(64), range(64), 0, 0] = 8.0  # brightness is 2 where white, and 0 up to grey
        last.bias[64] = 8.0
    path = tmp_path_factory.mktemp("compact") / "planted.safetensors"
    save_compact(network, path, {})
    return path


def drawn(points=POINTS, size=(190, 125), sigma=1.3):
    """Spots of light on black."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    spots = [np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sigma**2)) for px, py in points]
    return np.repeat(np.rint(255 * np.max(spots, axis=0)).astype(np.uint8)[..., None], 3, axis=2)


def noise(height, width, seed=0):
    coarse = np.random.default_rng(seed).uniform(0, 255, (height // 4 + 2, width // 4 + 2, 3))
    return np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


def image(pixels, size=None):
    return Image(np.ascontiguousarray(pixels), size or pixels.shape[1::-1], "<array>")


def found_all(found, points, within):
    """Each point has a feature, and each feature a point."""
    distance = np.linalg.norm(found.xy[:, None] - points, axis=2)
    assert len(found) == len(points)
    assert (distance.min(axis=0) < within).all() and (distance.min(axis=1) < within).all(), distance.min(axis=0)


def test_planted_points_are_found_where_they_are(planted):
    found = CompactKeypoints(planted, threshold=0.3).extract(image(drawn()), max_features=100)
    found_all(found, POINTS, 0.5)
    assert found.descriptors.dtype == np.float32 and found.descriptors.shape == (len(POINTS), 64)
    np.testing.assert_allclose(np.linalg.norm(found.descriptors, axis=1), 1, atol=1e-5)
    assert set(found.size) == {32} and not found.angle.any() and (np.diff(found.score) <= 0).all()


def test_positions_move_with_the_picture_by_cells_exactly(planted):
    """Keypoints are the branch's alone; nothing else has a say in where they are."""
    keypoints, pixels = CompactKeypoints(planted, threshold=0.0), noise(160, 200)
    first = keypoints.extract(image(pixels[16:144, 8:136]), max_features=10_000).xy
    moved = keypoints.extract(image(pixels[24:152, 32:160]), max_features=10_000).xy + np.array([24, 8])

    def inner(xy):
        kept = xy[((xy > (56, 40)) & (xy < (96, 88))).all(axis=1)]
        return kept[np.lexsort(kept.T)]

    assert len(inner(first)) > 10
    np.testing.assert_allclose(inner(first), inner(moved), atol=1e-3)


def test_crops_resizes_and_exif_give_pixels_of_the_upright_original(planted, tmp_path):
    keypoints = CompactKeypoints(planted, threshold=0.2)
    right, below = (POINTS[:, 0] > 50), (POINTS[:, 1] > 24)
    crop = keypoints.extract(image(drawn()[24:, 50:]), max_features=100)
    found_all(crop, POINTS[right & below] - (50, 24), 0.5)
    large = 3 * (POINTS + 0.5) - 0.5  # of the same scene with three times the pixels
    pixels = drawn(large, (570, 375), 4.0)
    PIL.Image.fromarray(pixels).save(tmp_path / "plain.png")
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    PIL.Image.fromarray(np.rot90(pixels)).save(tmp_path / "turned.jpg", quality=98, subsampling=0, exif=exif)
    for name in ("plain.png", "turned.jpg"):
        opened = read_image(tmp_path / name, max_side=190)
        assert opened.size == (570, 375) and opened.pixels.shape == (125, 190, 3)
        found = keypoints.extract(opened, max_features=100)
        found_all(found, large, 1.5)
        np.testing.assert_allclose(found.size, 96)


def test_scales_find_the_same_points_at_other_sizes(planted):
    both = CompactKeypoints(planted, scales=(1.0, 2.0), threshold=0.3).extract(image(drawn()), max_features=100)
    for size in (32, 16):
        found_all(both.part(both.size == size), POINTS, 0.6)
    small = CompactKeypoints(planted, scales=(0.5,), threshold=0.1).extract(image(drawn(sigma=3)), max_features=100)
    found_all(small, POINTS, 1.2)
    few = CompactKeypoints(planted, scales=(1.0, 2.0), threshold=0.3).extract(image(drawn()), max_features=4)
    np.testing.assert_array_equal(few.xy, both.xy[:4])


def test_likelihood_and_reading_are_those_of_the_definitions():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 65, 3, 4)).astype(np.float32)
    heat = likelihood(torch.from_numpy(logits)).numpy()
    for b, y, x in ((0, 0, 0), (1, 9, 17), (0, 23, 31), (1, 16, 8)):
        cell = np.exp(logits[b, :, y // 8, x // 8].astype(float))
        assert heat[b, y, x] == pytest.approx(cell[8 * (y % 8) + x % 8] / cell.sum(), rel=1e-5)
    # A map that says where its cells' centres are says so in between, and at the border what its last cells say.
    columns, rows = np.meshgrid(8 * np.arange(4) + 3.5, 8 * np.arange(3) + 3.5)
    centres = torch.from_numpy(np.stack([columns, rows])[None].astype(np.float32))
    xy = np.array([[3.5, 3.5], [10.25, 17.0], [27.5, 19.0], [0.0, 23.0], [31.0, 0.0]], np.float32)
    np.testing.assert_allclose(read(centres, xy), np.clip(xy, 3.5, (27.5, 19.5)), atol=1e-4)
    assert read(centres, np.empty((0, 2), np.float32)).shape == (0, 2)


def test_descriptors_and_scores_are_read_from_the_networks_maps(planted):
    pixels = noise(64, 96)
    found = CompactKeypoints(planted, threshold=0.02).extract(image(pixels), max_features=50)
    network = load_compact(planted)
    with torch.inference_mode():
        maps = network(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)
    field, heat = maps.local[0].numpy(), likelihood(maps.keypoints)[0].numpy()
    assert len(found) > 10

    def bilinear(values, x, y):
        column, row = np.clip((np.array([x, y]) - 3.5) / 8, 0, (11, 7))
        left, top = min(int(column), 10), min(int(row), 6)
        dx, dy = column - left, row - top
        corners = values[:, top : top + 2, left : left + 2]
        return (
            corners[:, 0, 0] * (1 - dx) * (1 - dy)
            + corners[:, 0, 1] * dx * (1 - dy)
            + (corners[:, 1, 0] * (1 - dx) * dy + corners[:, 1, 1] * dx * dy)
        )

    for (x, y), descriptor, score in zip(found.xy, found.descriptors, found.score, strict=True):
        expected = bilinear(field, x, y)
        np.testing.assert_allclose(descriptor, expected / np.linalg.norm(expected), atol=2e-4)
        # The peak itself is within the window about its soft position.
        near = heat[max(0, round(y) - 2) : round(y) + 3, max(0, round(x) - 2) : round(x) + 3]
        relied = 1 / (1 + np.exp(-bilinear(maps.reliability[0].numpy(), x, y)[0]))
        assert np.isclose(score, near * relied, rtol=1e-3).any()


def test_a_picture_goes_on_as_it_ends(planted):
    """All of a white cell's pixels are as likely; beside black, those of half a cell were twice that."""
    white = image(np.full((40, 36, 3), 255, np.uint8))
    assert not len(CompactKeypoints(planted, threshold=1 / 40).extract(white, max_features=100))
    assert len(CompactKeypoints(planted, threshold=1 / 300).extract(white, max_features=100))


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (5, 5), (33, 6)])
def test_small_images_have_few_features_or_none(planted, size):
    found = CompactKeypoints(planted, threshold=0).extract(image(noise(*size)), max_features=10)
    assert len(found) <= max(size[0] - 4, 0) * max(size[1] - 4, 0)
    assert np.isfinite(found.descriptors).all() and found.descriptors.shape == (len(found), 64)


def test_bad_arguments_are_refused(planted):
    for wrong in ({"threshold": 1.0}, {"scales": ()}, {"scales": (1.0, 0.0)}):
        with pytest.raises(RecipeError, match=next(iter(wrong))):
            CompactKeypoints(planted, **wrong)
    with pytest.raises(RecipeError, match="max_features"):
        CompactKeypoints(planted).extract(image(noise(40, 40)), max_features=0)


def test_a_recipe_takes_the_shipped_weights_or_a_file_and_its_fingerprint_says_which(planted, monkeypatch, tmp_path):
    stage = load_recipe("compact-asmk").local
    monkeypatch.setattr(compact.resources, "files", lambda package: tmp_path)
    with pytest.raises(RecipeError, match="comes without trained weights"):
        load_local(stage, "mine")
    (tmp_path / "compact.safetensors").write_bytes(planted.read_bytes())
    shipped = load_local(stage, "mine")
    given = load_local(stage.model_copy(update={"weights": str(planted)}), "mine")
    assert shipped.fingerprint == given.fingerprint
    pixels = image(noise(400, 640))  # as large as the recipe enlarges to
    found = shipped.extract(pixels)
    by_hand = quantised(CompactKeypoints(planted, threshold=stage.threshold).extract(pixels, max_features=1000))
    assert found.descriptors.dtype == stage.stored and found.descriptors.shape[1] == stage.dimension
    for name in ("xy", "score", "descriptors"):
        np.testing.assert_array_equal(getattr(found, name), getattr(by_hand, name))
    other = load_compact(planted)
    other.p.data += 1
    save_compact(other, tmp_path / "compact.safetensors", {})
    assert load_local(stage, "mine").fingerprint != shipped.fingerprint
    with pytest.raises(RecipeError, match=r"sha256 is .* but the recipe was made with 00"):
        load_local(stage.model_copy(update={"weights_sha256": "00"}), "mine")


def test_the_shipped_network_matches_photographs_seen_from_the_side(pictures, view):
    """Of mutual nearest neighbours, most lie where the known homography puts them."""
    local = load_local(load_recipe("compact-asmk").local, "shipped")
    shares = []
    for seed, name in enumerate(("chelsea", "rocket", "coffee", "brick")):
        other, homography = view(pictures[name], seed)
        a, b = (local.extract(image(pixels)) for pixels in (pictures[name], other))
        cosine = a.descriptors.astype(np.float32) @ b.descriptors.T.astype(np.float32)
        best = cosine.argmax(axis=1)
        mutual = np.flatnonzero(cosine.argmax(axis=0)[best] == np.arange(len(best)))
        there = project(homography, a.xy[mutual])
        shares.append(np.mean(np.linalg.norm(there - b.xy[best[mutual]], axis=1) < 3))
    assert np.mean(shares) > 0.5, shares
