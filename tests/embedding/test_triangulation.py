"""T-embedding against loops over its definition, and its whitening against scikit-learn and what it promises."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from resight.artefact import save_artefact
from resight.embedding.democratic import democratic_weights
from resight.embedding.triangulation import Triangulation, directions
from resight.errors import RecipeError


def draw(n, dimension=4, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, dimension)) @ rng.normal(size=(dimension, dimension)) + 1).astype(np.float32)


FEATURES, CENTROIDS = draw(3000), draw(5, seed=1)


def fit(**options):
    return Triangulation.fit(FEATURES, CENTROIDS, **({"seed": 0, "fitted_on": "noise"} | options))


def naive_directions(x):
    return np.concatenate([(x - c) / np.linalg.norm(x - c) for c in CENTROIDS.astype(float)])


def naive_phi(embedding, features):
    return np.array([embedding.projection @ (naive_directions(x) - embedding.mean) for x in features])


def naive_vector(total, power=0.5):
    powered = np.array([np.sign(v) * abs(v) ** power for v in total])
    return powered / np.sqrt((powered**2).sum())


def test_directions_are_unit_vectors_from_each_centroid():
    expected = np.array([naive_directions(x) for x in FEATURES[:20]])
    np.testing.assert_allclose(directions(FEATURES[:20], CENTROIDS), expected, atol=1e-6)
    # From a centroid to itself there is none.
    np.testing.assert_array_equal(directions(CENTROIDS[:1], CENTROIDS)[0, :4], np.zeros(4))


def test_the_whitening_is_scikit_learns_without_the_first_axes():
    raw = np.array([naive_directions(x) for x in FEATURES])
    oracle = PCA(whiten=True, svd_solver="full").fit_transform(raw)[:, 4:]
    embedding = fit()
    assert (embedding.dimension, embedding.input_dimension) == (16, 4)
    ours = naive_phi(embedding, FEATURES)
    np.testing.assert_allclose(ours, oracle * np.sign((ours * oracle).sum(axis=0)), atol=2e-3)
    np.testing.assert_allclose(np.cov(ours.T), np.eye(16), atol=1e-3)


def test_drop_takes_the_axes_of_most_variance():
    full = fit(drop=0)
    assert full.dimension == 20
    np.testing.assert_array_equal(fit(drop=7).projection, full.projection[7:])
    deviations = 1 / np.linalg.norm(full.projection, axis=1)
    assert (np.diff(deviations) < 0).all()
    with pytest.raises(RecipeError, match="none of 20 components is left after the first 20"):
        fit(drop=20)


def test_an_axis_without_variance_is_left_out():
    features = np.concatenate([FEATURES, np.zeros((3000, 1), np.float32)], axis=1)
    centroids = np.concatenate([CENTROIDS, np.zeros((5, 1), np.float32)], axis=1)
    assert Triangulation.fit(features, centroids, seed=0, fitted_on="noise", drop=0).dimension == 20


def test_sum_aggregation():
    embedding, features = fit(aggregation="sum"), draw(1500, seed=2)
    expected = naive_vector(naive_phi(embedding, features).sum(axis=0))
    out = embedding.transform(features)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, expected, atol=1e-4)


def test_democratic_aggregation():
    embedding, features = fit(), draw(1100, seed=2)
    phi = naive_phi(embedding, features)
    np.testing.assert_allclose(
        embedding.transform(features), naive_vector(democratic_weights(phi @ phi.T) @ phi), atol=1e-4
    )


@pytest.mark.parametrize("aggregation", ["sum", "democratic"])
def test_sets(aggregation):
    embedding = fit(aggregation=aggregation, power=1.0)
    sets = [draw(7, seed=3), np.empty((0, 4), np.float32), draw(1, seed=4)]
    out = embedding.transform_sets(sets)
    np.testing.assert_array_equal(out[1], np.zeros(16))
    np.testing.assert_allclose(np.linalg.norm(out[[0, 2]], axis=1), 1, atol=1e-6)
    for row, features in zip(out, sets, strict=True):
        np.testing.assert_allclose(embedding.transform(features[::-1]), row, atol=1e-6)
    assert embedding.transform_sets([]).shape == (0, 16)
    # One feature has one direction, whatever its weight.
    np.testing.assert_allclose(out[2], naive_vector(naive_phi(embedding, sets[2])[0], 1.0), atol=1e-4)


def test_fitting_draws_with_the_seed():
    one, two, other = (fit(sample=500, seed=seed) for seed in (1, 1, 2))
    assert one.fingerprint == two.fingerprint != other.fingerprint


def test_save_and_load(tmp_path):
    embedding = fit(aggregation="sum", power=0.3)
    fingerprint = embedding.save(tmp_path / "t.safetensors")
    loaded = Triangulation.load(tmp_path / "t.safetensors")
    np.testing.assert_array_equal(loaded.transform(FEATURES[:9]), embedding.transform(FEATURES[:9]))
    assert (loaded.fitted_on, loaded.aggregation, loaded.power) == ("noise", "sum", 0.3)
    assert loaded.fingerprint == embedding.fingerprint == fingerprint
    assert len({fingerprint, fit(power=0.3).fingerprint, fit(aggregation="sum").fingerprint}) == 3


def test_a_file_that_holds_something_else(tmp_path):
    path = tmp_path / "t.safetensors"
    save_artefact(path, "triangulation-embedding", {"centroids": CENTROIDS}, {"fitted_on": ""})
    with pytest.raises(RecipeError, match=r"t\.safetensors: not a T-embedding"):
        Triangulation.load(path)


def test_bad_input():
    with pytest.raises(RecipeError, match="here are 20: give more images"):
        Triangulation.fit(FEATURES[:20], CENTROIDS, seed=0, fitted_on="")
    with pytest.raises(RecipeError, match="no features"):
        Triangulation.fit(FEATURES[:0], CENTROIDS, seed=0, fitted_on="")
    with pytest.raises(ValueError, match="centroids must be n×4"):
        Triangulation.fit(FEATURES, CENTROIDS[:, :3], seed=0, fitted_on="")
    with pytest.raises(ValueError, match="features must be n×4"):
        fit().transform(np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match="finite"):
        fit().transform(np.full((2, 4), np.nan, np.float32))
    with pytest.raises(ValueError, match="'sum' or 'democratic'"):
        fit(aggregation="mean")
    with pytest.raises(ValueError, match="power"):
        fit(power=0.0)
