"""HOW against scipy's filters, a naive sum over all cells, and the published layout of its whitening."""

import numpy as np
import pytest
from scipy.ndimage import correlate

from resight.errors import RecipeError
from resight.local.how import How, attentions, how_global, read_how_whitening, smoothed
from resight.local.maps import Cells, FeatureMap
from resight.projection.projection import Projection


def random_maps(*shapes, channels=5):
    rng = np.random.default_rng(3)
    return [rng.standard_normal((channels, *shape)).astype(np.float32) for shape in shapes]


def whitening(channels=5, dimensions=3):
    rng = np.random.default_rng(4)
    mean, matrix = rng.standard_normal(channels), rng.standard_normal((dimensions, channels))
    return Projection(mean.astype(np.float32), matrix.astype(np.float32), "pca-whitening", 9, "by hand", "")


@pytest.mark.parametrize("shape", [(7, 5), (1, 4), (2, 1), (1, 1)])
def test_smoothing_is_scipys_mean_of_what_lies_inside(shape):
    (values,) = random_maps(shape)
    ones = np.ones((3, 3))
    count = correlate(np.ones(shape), ones, mode="constant")
    expected = np.stack([correlate(v.astype(float), ones, mode="constant") / count for v in values])
    np.testing.assert_allclose(smoothed(values), expected, atol=1e-6)


def test_a_constant_map_stays_as_it_is():
    np.testing.assert_allclose(smoothed(np.full((2, 4, 3), 1.7, np.float32)), 1.7, rtol=1e-6)


def test_attention_is_relative_to_the_strongest_of_all_scales():
    small, large = np.zeros((2, 2, 2), np.float32), np.zeros((2, 1, 3), np.float32)
    small[:, 0, 1], large[:, 0, 2] = (3, 4), (6, 8)
    got = attentions([small, large])
    assert np.allclose(got[0], [[0, 0.5], [0, 0]]) and np.allclose(got[1], [[0, 0, 1]])
    assert not np.any(attentions([0 * small])[0])


@pytest.mark.parametrize("projection", [None, whitening()])
def test_the_global_descriptor_is_the_weighted_sum_of_all_local_ones(projection):
    """By the definition, cell by cell; and by the features that ``How`` gives when it keeps all."""
    maps = random_maps((4, 3), (2, 5))
    total = 0.0
    for values in maps:
        _, height, width = values.shape
        for r in range(height):
            for c in range(width):
                around = values[:, max(0, r - 1) : r + 2, max(0, c - 1) : c + 2].reshape(5, -1).mean(axis=1)
                local = around if projection is None else projection.matrix @ (around - projection.mean)
                total = total + np.linalg.norm(values[:, r, c]) * local
    got = how_global(maps, projection)
    np.testing.assert_allclose(got, total / np.linalg.norm(total), atol=1e-5)
    how = How(top=1000)
    features = how.detect([FeatureMap(v, Cells(16, 0), (96, 96), (96, 96)) for v in maps])
    summed = features.score @ how.finish(features.descriptors, projection)
    np.testing.assert_allclose(got, summed / np.linalg.norm(summed), atol=1e-5)


def test_the_strongest_cells_of_all_scales_are_kept():
    maps = random_maps((4, 3), (2, 5))
    pictures = [
        FeatureMap(maps[0], Cells(16, 0), (48, 64), (96, 128)),
        FeatureMap(maps[1], Cells(16, 0), (80, 32), (80, 32)),
    ]
    features = How(top=6).detect(pictures)
    lengths = [(np.linalg.norm(v[:, r, c]), i, r, c) for i, v in enumerate(maps) for r, c in np.ndindex(v.shape[1:])]
    best = sorted(lengths, reverse=True)[:6]
    np.testing.assert_allclose(features.score, [length / best[0][0] for length, *_ in best], rtol=1e-5)
    assert features.size.tolist() == [(32, 16)[i] for _, i, _, _ in best]
    xy = [((16 * c + 0.5) * (2, 1)[i] - 0.5, (16 * r + 0.5) * (2, 1)[i] - 0.5) for _, i, r, c in best]
    np.testing.assert_allclose(features.xy, xy)
    np.testing.assert_allclose(features.descriptors, [smoothed(maps[i])[:, r, c] for _, i, r, c in best])
    assert not features.angle.any()


def test_descriptors_are_whitened_and_unit_only_where_asked_for():
    vectors, projection = random_maps((1, 8))[0][:, 0].T, whitening()
    affine = (vectors - projection.mean) @ projection.matrix.T
    np.testing.assert_allclose(How().finish(vectors, projection), affine, rtol=1e-4, atol=1e-5)
    unit = affine / np.linalg.norm(affine, axis=1, keepdims=True)
    np.testing.assert_allclose(How(normalise=True).finish(vectors, projection), unit, rtol=1e-4, atol=1e-5)


def test_a_published_whitening_is_its_convolution(tmp_path):
    torch = pytest.importorskip("torch")
    import safetensors.torch

    torch.manual_seed(0)
    layer = torch.nn.Conv2d(5, 3, 1)
    path = tmp_path / "head.safetensors"
    safetensors.torch.save_file({f"dim_reduction.{k}": v.detach() for k, v in layer.state_dict().items()}, path)
    (values,) = random_maps((4, 3))
    expected = layer(torch.from_numpy(values)[None])[0].detach().flatten(1).T
    got = How().finish(values.reshape(5, -1).T, read_how_whitening(path, "its features"))
    np.testing.assert_allclose(got, expected, atol=1e-5)
    safetensors.torch.save_file({"conv.weight": layer.weight.detach()}, path)
    with pytest.raises(RecipeError, match=r"head\.safetensors: has no 'dim_reduction\.weight'"):
        read_how_whitening(path, "")
