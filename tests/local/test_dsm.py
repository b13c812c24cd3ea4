"""DSM: planted regions and maps, stability by its definition, and counting against exhaustive search."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from shapes import disc

from resight.images.image import Image
from resight.local.dsm import ChannelFeatures, channel_features, match_channels
from resight.local.features import LocalFeatures
from resight.local.maps import Cells, FeatureMap

DATA = Path(os.environ.get("RESIGHT_TEST_DATA", Path(__file__).resolve().parents[3] / "shared/data"))
DENSENET = DATA / "weights/densenet169_imagenet/densenet169_notop_fp16.npz"


def seen(values, cells=None, size=None):
    height, width = values.shape[1:]
    cells = cells or Cells(16, 7.5)
    picture = width * cells.stride, height * cells.stride
    return FeatureMap(values.astype(np.float32), cells, picture, size or picture)


@pytest.mark.parametrize("upsample", [1, 2, 4])
@pytest.mark.parametrize("angle", [0.0, 0.6])
def test_a_planted_blob_is_the_ellipse_it_is(upsample, angle):
    centre, radii = (20.0, 14.0), (9.0, 5.0)
    values = np.zeros((3, 30, 42))
    values[1] = 4 * disc((30, 42), centre, radii, angle)
    values[2] = 1e-3  # a flat channel has no region
    features = channel_features([seen(values, size=(2 * 42 * 16, 30 * 16))], upsample=upsample)
    assert (features.channel.tolist(), features.score.tolist()) == ([1], [4.0])
    # Cell i is about pixel 16 i + 7.5, and the original is twice as wide as the picture.
    np.testing.assert_allclose(features.xy[0], [2 * (16 * 20 + 8) - 0.5, 16 * 14 + 7.5], atol=4)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    outline = np.diag([32, 16]) @ turn @ np.diag(np.square(radii)) @ turn.T @ np.diag([32, 16])
    got = features.shape[0].astype(float)
    assert got[0, 1] == 0
    np.testing.assert_allclose(got @ got.T, outline, rtol=0.2, atol=0.04 * np.abs(outline).max())
    assert features.pitch[0] == pytest.approx(16 * np.sqrt(2))


def test_a_row_of_cells_is_an_ellipse_too():
    """A bar of n cells has the variance n²/12, an ellipse a quarter of its radius squared: radii n/√3 and 1/√3."""
    values = np.zeros((1, 20, 20))
    values[0, 8, 4:13] = 1
    features = channel_features([seen(values)], upsample=1)
    np.testing.assert_allclose(features.shape[0], 16 * np.diag([9, 1]) / np.sqrt(3), rtol=1e-5)
    np.testing.assert_allclose(features.xy[0], [16 * 8 + 7.5, 16 * 8 + 7.5])


def test_cluttered_channels_are_left_out_and_the_best_are_kept():
    values = np.zeros((3, 40, 60))
    for k in range(5):
        values[0] += (5 - k) * disc((40, 60), (8 + 11 * k, 10), (3, 3))
    values[1] = 9 * disc((40, 60), (30, 30), (4, 4))
    one = seen(values)
    assert channel_features([one]).channel.tolist() == [1, 0, 0, 0, 0, 0]
    assert channel_features([one], clutter=4).channel.tolist() == [1]
    assert channel_features([one], per_channel=2).score.tolist() == [9, 5, 4]
    assert channel_features([one, one], top=3).score.tolist() == [9, 9, 5]
    values[2] = 2 * disc((40, 60), (30, 30), (4, 4))  # where channel 1 has its own
    assert 2 in channel_features([seen(values)]).channel
    assert 2 not in channel_features([seen(values)], overlap=0.2).channel


def test_maps_without_activation_have_no_features():
    for values in (np.zeros((2, 9, 9)), -np.ones((2, 9, 9)), np.ones((2, 1, 1))):
        features = channel_features([seen(values)])
        assert len(features) == 0 and features.shape.shape == (0, 2, 2)
        assert len(match_channels(features, features)) == 0


def scattered(rng, n, channels=40, pitch=16.0):
    shape = np.zeros((n, 2, 2))
    shape[:, 0, 0], shape[:, 1, 1] = rng.uniform(20, 60, (2, n))
    shape[:, 1, 0] = rng.uniform(-20, 20, n)
    return ChannelFeatures(
        rng.uniform(0, 1000, (n, 2)).astype(np.float32),
        shape.astype(np.float32),
        rng.integers(0, channels, n).astype(np.int32),
        np.sort(rng.random(n))[::-1].astype(np.float32),
        np.full(n, pitch, np.float32),
    )


def moved(features, affine, noise, rng):
    """The same features under an affine map that keeps verticals vertical, out of their order."""
    order = rng.permutation(len(features))
    xy = features.xy @ affine[:, :2].T + affine[:, 2] + rng.uniform(-noise, noise, (len(features), 2))
    shape = affine[:, :2] @ features.shape
    return ChannelFeatures(
        *(x.astype(np.float32) for x in (xy, shape)), features.channel, features.score, features.pitch
    )[order], order


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=25)
def test_a_planted_map_is_found_among_other_features(seed):
    rng = np.random.default_rng(seed)
    affine = np.array(
        [[rng.uniform(0.6, 1.6), 0, rng.uniform(-90, 90)], [rng.uniform(-0.3, 0.3), rng.uniform(0.6, 1.6), 40]]
    )
    common = scattered(rng, 25)
    target, order = moved(common, affine, 1.0, rng)
    parts = [
        ChannelFeatures(
            *(np.concatenate([getattr(a, f), getattr(b, f)]) for f in ("xy", "shape", "channel", "score", "pitch"))
        )
        for a, b in ((common, scattered(rng, 25)), (target, scattered(rng, 25)))
    ]
    match = match_channels(*parts)
    planted = {(int(order[j]), j) for j in range(25)}
    assert len(match) >= 24 and len(planted & set(zip(match.query.tolist(), match.result.tolist(), strict=True))) >= 22
    assert len(set(match.query.tolist())) == len(set(match.result.tolist())) == len(match)
    np.testing.assert_allclose(match.affine[:, :2], affine[:, :2], atol=0.1)
    assert np.array_equal(parts[0].channel[match.query], parts[1].channel[match.result])


def test_the_inliers_are_as_many_as_the_best_assignment_allows():
    """Of the map that is returned, and no single correspondence's map has more."""
    rng = np.random.default_rng(5)
    for _ in range(5):
        a, b = scattered(rng, 12, channels=3), scattered(rng, 12, channels=3)
        match = match_channels(a, b, max_error=6.0)

        def most(affine, a=a, b=b):
            x, y = a.xy.astype(float), b.xy.astype(float)
            missed = (x @ affine[:, :2].T + affine[:, 2])[:, None] - y
            back = missed @ np.linalg.inv(affine[:, :2]).T
            near = (np.linalg.norm(missed, axis=2) <= 96) & (np.linalg.norm(back, axis=2) <= 96)
            near &= a.channel[:, None] == b.channel
            rows, columns = linear_sum_assignment(-near.astype(float))
            return int(near[rows, columns].sum())

        assert len(match) <= most(match.affine) <= len(match) + 1  # greedy, so seldom one short
        for i, j in zip(*np.nonzero(a.channel[:, None] == b.channel), strict=True):
            linear = b.shape[j].astype(float) @ np.linalg.inv(a.shape[i].astype(float))
            if 1 / 3 <= np.sqrt(np.linalg.det(linear)) <= 3:
                assert most(np.column_stack([linear, b.xy[j] - linear @ a.xy[i]])) <= len(match) + 2


def test_features_of_other_channels_never_match():
    rng = np.random.default_rng(0)
    one = scattered(rng, 20)
    other = ChannelFeatures(one.xy, one.shape, one.channel + 100, one.score, one.pitch)
    assert len(match_channels(one, one)) == 20
    assert match_channels(one, other).affine is None


def test_a_map_that_shrinks_too_much_is_no_hypothesis():
    rng = np.random.default_rng(0)
    one = scattered(rng, 20)
    tiny, _ = moved(one, np.array([[0.25, 0, 0], [0, 0.25, 0]]), 0.0, rng)
    assert len(match_channels(one, tiny, max_scale_change=3.0)) < 20
    assert len(match_channels(one, tiny, max_scale_change=5.0)) == 20


def test_a_miss_counts_in_both_images():
    """Two points 60 pixels apart, halved, come within two cells of one point, which is not so the other way."""
    shape, channel, pitch = np.stack([np.eye(2, dtype=np.float32)] * 2), np.arange(2, dtype=np.int32), np.full(2, 16.0)
    score, pitch = np.array([2, 1], np.float32), pitch.astype(np.float32)
    apart = ChannelFeatures(np.array([[0, 0], [60, 0]], np.float32), 20 * shape, channel, score, pitch)
    together = ChannelFeatures(np.zeros((2, 2), np.float32), 10 * shape, channel, score, pitch)
    assert len(match_channels(apart, together)) == len(match_channels(together, apart)) == 1
    assert len(match_channels(apart, together, max_error=4.0)) == 2


def test_the_best_pair_of_scales_counts():
    rng = np.random.default_rng(0)
    one, coarse = scattered(rng, 20), scattered(rng, 6, pitch=32.0)
    both = ChannelFeatures(*(np.concatenate(p) for p in zip(*(vars(f).values() for f in (coarse, one)), strict=True)))
    match = match_channels(both, one)
    assert len(match) == 20 and match.query.min() == 6


def test_packed_features_come_back_as_they_were():
    one = scattered(np.random.default_rng(0), 9)
    packed = one.packed()
    assert packed.descriptors.shape == (9, 5)
    np.testing.assert_allclose(packed.size, 2 * np.sqrt(np.linalg.det(one.shape)), rtol=1e-5)
    for name, value in vars(ChannelFeatures.unpacked(packed)).items():
        assert np.array_equal(value, getattr(one, name)) and value.dtype == getattr(one, name).dtype
    none = np.zeros(1, np.float32)
    with pytest.raises(ValueError, match="no packed DSM features"):
        ChannelFeatures.unpacked(
            LocalFeatures(np.zeros((1, 2), np.float32), none, none, none, np.zeros((1, 128), np.uint8))
        )


def test_views_of_a_thing_share_more_than_other_things(pictures, view):
    """On some channels of DenseNet-169."""
    torch = pytest.importorskip("torch")
    if not DENSENET.is_file():
        pytest.skip(f"{DENSENET} is absent; RESIGHT_TEST_DATA names the folder of the sets")
    from resight.networks.backbone import load_backbone

    backbone = load_backbone("densenet169", layers=("block3",), weights=DENSENET)

    def describe(pixels):
        values = torch.relu(backbone(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None])[0])[0].numpy()
        image = Image(pixels, (pixels.shape[1], pixels.shape[0]), "-")
        return channel_features([FeatureMap(values[::20], Cells(16, 6.0), image.size, image.size)])

    names = ("astronaut", "coffee")
    queries = [describe(pictures[name]) for name in names]
    others = [describe(view(pictures[name], seed)[0]) for seed, name in enumerate(names)]
    inliers = np.array([[len(match_channels(q, o)) for o in others] for q in queries])
    assert (inliers.argmax(axis=1) == np.arange(2)).all(), inliers
