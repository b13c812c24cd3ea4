"""Cells of maps in pixels of the photograph, against receptive fields and planted squares; fitting against sklearn."""

import os
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402

from resight.errors import RecipeError  # noqa: E402
from resight.images.image import Image  # noqa: E402
from resight.images.read import read_image  # noqa: E402
from resight.local.delf import Delf  # noqa: E402
from resight.local.how import How  # noqa: E402
from resight.local.maps import Cells, FeatureMap, NetworkFeatures, apart, measure_cells, strongest  # noqa: E402
from resight.local.maxima import Maxima  # noqa: E402
from resight.networks.architectures import create_network  # noqa: E402
from resight.networks.backbone import load_backbone  # noqa: E402
from resight.networks.layers import Layer  # noqa: E402
from resight.projection.projection import Projection  # noqa: E402

DATA = Path(os.environ.get("RESIGHT_TEST_DATA", Path(__file__).resolve().parents[3] / "shared/data"))
DENSENET = DATA / "weights/densenet169_imagenet/densenet169_notop_fp16.npz"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """(network, layer) → a seeded backbone; ``same`` gives all cells one positive weighting of all that they see."""

    @cache
    def make(name, layer, same=False):
        torch.manual_seed(0)
        state = dict(create_network(name).state_dict())
        for key, value in state.items() if same else ():
            if value.ndim == 4:
                state[key] = torch.full_like(value, 1 / value[0].numel())
            elif value.ndim == 1:  # of batch normalisation, which then does nothing
                state[key] = torch.full_like(value, float(key.endswith(("weight", "running_var"))))
        path = tmp_path_factory.mktemp("weights") / "w.safetensors"
        safetensors.torch.save_file(state, path)
        return load_backbone(name, layers=(layer,), weights=path)

    return make


class Stack(torch.nn.Sequential):
    """Poolings of (kernel, stride, padding), as a backbone."""

    multiple = 1

    def __init__(self, windows):
        super().__init__(*(torch.nn.MaxPool2d(*window) for window in windows))
        self.windows = windows
        stride = int(np.prod([window[1] for window in windows]))
        self.layers = (Layer("features", "", "map", 3, stride),)

    @property
    def least(self):
        side = 1
        for kernel, stride, padding in reversed(self.windows):
            side = max(1, stride * (side - 1) + kernel - 2 * padding)
        return side

    def forward(self, x):
        return (super().forward(x),)


WINDOWS = st.integers(1, 7).flatmap(lambda k: st.tuples(st.just(k), st.integers(1, 3), st.integers(0, k // 2)))


@given(st.lists(WINDOWS, min_size=1, max_size=4))
@settings(deadline=None, max_examples=60)
def test_cells_lie_where_their_windows_are(windows):
    """A window's middle is (k − 1)/2 − p beyond its first cell, in cells of the layer before."""
    pitch, offset = 1, 0.0
    for kernel, stride, padding in windows:
        offset += pitch * ((kernel - 1) / 2 - padding)
        pitch *= stride
    assert measure_cells(Stack(windows)) == Cells(pitch, offset)


def test_cells_of_real_networks_known_by_hand(backbone):
    assert measure_cells(backbone("resnet18", "layer3")) == Cells(16, 0.0)  # DELF's code: (291 − 1)/2 − 145 = 0
    assert measure_cells(backbone("test_vit", "features")) == Cells(16, 7.5)


SCALES = (0.5, 1.0)


@pytest.mark.parametrize(
    "detector", [Delf(reduce="none", scales=SCALES), How(reduce="none", scales=SCALES), Maxima(scales=SCALES)]
)
@pytest.mark.parametrize(
    ("size", "shown"), [((330, 250), (330, 250)), ((900, 600), (360, 240)), ((200, 150), (200, 150))]
)
def test_a_bright_square_is_found_where_it_is(backbone, detector, size, shown):
    """In pixels of the original, whatever size was decoded, was shown to the network, and has the scale."""
    factor = shown[0] / size[0]
    pixels = np.zeros((shown[1], shown[0], 3), np.uint8)
    x, y = int(0.7 * shown[0]), int(0.4 * shown[1])
    pixels[y - 10 : y + 11, x - 10 : x + 11] = 255
    features = NetworkFeatures(backbone("resnet18", "layer2", same=True), detector, max_side=256)
    found = features.extract(Image(pixels, size, "-"))
    cell = found.size / (detector.field if isinstance(detector, Delf) else 1)
    for scale in detector.scales:
        here = np.isclose(cell, 8 / scale * max(1, size[0] / 256), rtol=0.03)
        if detector.kind == "maxima" and not here.any():
            continue  # banned by the one below
        assert here.any(), (scale, np.unique(cell), found.score)
        best = np.flatnonzero(here & (found.score == found.score[here].max()))
        missed = found.xy[best].mean(axis=0) - ((np.array([x, y]) + 0.5) / factor - 0.5)
        assert np.abs(missed).max() <= cell[best[0]] / 2, (scale, missed, cell[best[0]])


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.floats(0, 0.9))
def test_the_strongest_are_those_of_a_plain_sort(seed, top, threshold):
    rng = np.random.default_rng(seed)
    maps = [(rng.integers(0, 6, shape) / 5).astype(np.float32) for shape in [(3, 4), (1, 5), (6, 2)]]
    table = [
        (-float(maps[level][row, column]), level, row, column)
        for level in range(3)
        for row in range(maps[level].shape[0])
        for column in range(maps[level].shape[1])
        if maps[level][row, column] > threshold
    ]
    expected = sorted(table)[:top]
    points = strongest(maps, top, threshold)
    assert list(zip(-points.score, points.level, points.row, points.column, strict=True)) == expected
    taken = points.take([np.stack([each, 2 * each]) for each in maps])
    assert np.array_equal(taken, np.stack([points.score, 2 * points.score], axis=1))


def test_overlapping_keypoints_are_thinned():
    xy = np.array([[0, 0], [4, 0], [0, 0], [30, 0]], np.float32)
    size = np.array([10, 10, 20, 10], np.float32)  # overlaps of the first: 60/140, 100/400, 0
    score = np.array([0.5, 0.9, 0.2, 0.1], np.float32)
    assert apart(xy, size, score, 1.0, 3).tolist() == [1, 0, 2]
    assert apart(xy, size, score, 0.43, 9).tolist() == [1, 0, 2, 3]
    assert apart(xy, size, score, 0.42, 9).tolist() == [1, 2, 3]
    assert apart(xy, size, score, 0.2, 9).tolist() == [1, 3]


@dataclass(frozen=True)
class Pictures:
    """Images as ``photos`` of one size."""

    count: int

    def __iter__(self):
        rng = np.random.default_rng(7)
        for i in range(self.count):
            pixels = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
            yield Image(pixels, (128, 96), f"{i}")


@pytest.mark.parametrize("reduce", ["pca", "pca-whitening"])
@pytest.mark.parametrize("detector", [Delf(dimensions=6), How(dimensions=6), Maxima(dimensions=6)])
def test_what_is_fitted_is_sklearns(backbone, tmp_path, reduce, detector):
    detector = replace(detector, reduce=reduce, scales=(1.0, 2.0), top=50)
    network = backbone("resnet10t", "layer2")
    features = NetworkFeatures(network, detector, max_side=128)
    with pytest.raises(RecipeError, match=f"by a {reduce} that is not fitted yet"):
        features.extract(next(iter(Pictures(1))))
    projection = features.fit(Pictures(4), fitted_on="noise")
    raw = np.concatenate([features.raw(image).descriptors for image in Pictures(4)]).astype(float)
    model = PCA(6, whiten=reduce == "pca-whitening", svd_solver="full").fit(raw)
    wanted = model.transform(raw[: len(features.raw(next(iter(Pictures(1)))))])
    if detector.kind != "how":
        wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    projection.save(tmp_path / "p.safetensors")
    again = NetworkFeatures(network, detector, max_side=128, projection=Projection.load(tmp_path / "p.safetensors"))
    got = again.extract(next(iter(Pictures(1)))).descriptors
    signs = np.sign((got * wanted).sum(axis=0))
    np.testing.assert_allclose(got, wanted * signs, rtol=2e-3, atol=2e-3 * np.abs(wanted).max())
    assert again.fingerprint != features.fingerprint and again.raw_fingerprint == features.raw_fingerprint


def test_a_projection_for_other_features_is_refused(backbone):
    network = backbone("resnet10t", "layer2")
    how = How(dimensions=6, scales=(1.0,))
    projection = NetworkFeatures(network, how, max_side=128).fit(Pictures(2), fitted_on="noise")
    with pytest.raises(RecipeError, match="fitted for another network"):
        NetworkFeatures(network, how, max_side=96, projection=projection)
    with pytest.raises(RecipeError, match="is a pca-whitening to 6 dimensions where a pca-whitening to 5 dimensions"):
        NetworkFeatures(network, replace(how, dimensions=5), max_side=128, projection=projection)
    with pytest.raises(RecipeError, match="not reduced"):
        NetworkFeatures(network, replace(how, reduce="none"), max_side=128).fit(Pictures(2), fitted_on="noise")
    with pytest.raises(RecipeError, match="layer pooled of resnet10t: local features need one layer that is a map"):
        NetworkFeatures(backbone("resnet10t", "pooled"), how)


def test_a_map_without_cells_is_refused():
    with pytest.raises(ValueError, match="none of them 0"):
        FeatureMap(np.zeros((3, 0, 2), np.float32), Cells(16, 0), (32, 32), (32, 32))


@cache
def densenet():
    return load_backbone("densenet169", layers=("block3",), weights=DENSENET)


@pytest.mark.parametrize("detector", [Delf(reduce="none", scales=(1.0,)), How(reduce="none", scales=(1.0,))])
def test_real_features_of_two_views_agree_on_the_map_between_them(detector, photos, view, pictures):
    """Mutual nearest neighbours of DenseNet-169's block3: most lie within a cell of where the homography says."""
    if not DENSENET.is_file():
        pytest.skip(f"{DENSENET} is absent; RESIGHT_TEST_DATA names the folder of the sets")
    features = NetworkFeatures(densenet(), detector)
    assert measure_cells(features.backbone) == Cells(16, 6.0)  # two 2×2 means, at strides 4 and 8
    one = features.extract(read_image(photos / "astronaut-1.png"))
    other, homography = view(pictures["astronaut"], 0)
    two = features.extract(Image(other, (other.shape[1], other.shape[0]), "-"))
    unit = [f.descriptors / np.linalg.norm(f.descriptors, axis=1, keepdims=True) for f in (one, two)]
    similarity = unit[0] @ unit[1].T
    nearest, back = similarity.argmax(axis=1), similarity.argmax(axis=0)
    i = np.flatnonzero(back[nearest] == np.arange(len(nearest)))
    mapped = np.column_stack([one.xy[i], np.ones(len(i))]) @ homography.T
    missed = np.linalg.norm(mapped[:, :2] / mapped[:, 2:] - two.xy[nearest[i]], axis=1)
    assert len(i) > 50 and (missed < 16).mean() > 0.6
