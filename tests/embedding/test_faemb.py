"""FAemb: codes against an optimiser, anchors against their objective, the embedding against Taylor's formula."""

import numpy as np
import pytest
from scipy.optimize import LinearConstraint, minimize
from sklearn.decomposition import PCA

from resight.artefact import save_artefact
from resight.embedding.democratic import democratic_weights
from resight.embedding.faemb import Faemb, approximate, encode, learn_anchors
from resight.errors import RecipeError

LOCALITY = 0.05


def draw(n, dimension=3, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dimension)).astype(np.float32)


FEATURES, ANCHORS = draw(2000), draw(4, seed=1)


def fit(**options):
    return Faemb.fit(FEATURES, ANCHORS, **({"seed": 0, "fitted_on": "noise"} | options))


def cost(codes, x, anchors, locality=LOCALITY):
    """Of one feature, as written in the docstring."""
    reconstruction = sum(g * v for g, v in zip(codes, anchors.astype(float), strict=True))
    distances = [((x - v) ** 2).sum() for v in anchors.astype(float)]
    return ((x - reconstruction) ** 2).sum() + locality * sum(g**2 * d for g, d in zip(codes, distances, strict=True))


@pytest.mark.parametrize("locality", [0.05, 2.0])
def test_codes_minimise_their_cost_among_those_that_sum_to_one(locality):
    for x, codes in zip(FEATURES[:6].astype(float), encode(FEATURES[:6], ANCHORS, locality), strict=True):
        best = minimize(
            cost, np.full(4, 0.25), (x, ANCHORS, locality), "SLSQP", constraints=LinearConstraint(np.ones(4), 1, 1)
        )
        assert codes.sum() == pytest.approx(1)
        np.testing.assert_allclose(codes, best.x, atol=2e-3)
        assert cost(codes, x, ANCHORS, locality) <= best.fun + 1e-9


def test_an_anchor_has_its_own_code():
    np.testing.assert_allclose(encode(ANCHORS, ANCHORS, LOCALITY), np.eye(4), atol=1e-6)
    np.testing.assert_array_equal(encode(FEATURES[:3], ANCHORS[:1], LOCALITY), np.ones((3, 1)))
    np.testing.assert_array_equal(encode(ANCHORS[:1], ANCHORS[:1], LOCALITY), [[1]])


def test_anchors_lower_the_cost_at_every_step():
    def total(anchors):
        return sum(map(cost, encode(x, anchors, LOCALITY), x.astype(float), [anchors] * len(x)))

    x = FEATURES[:200]
    costs = [total(learn_anchors(x, ANCHORS, LOCALITY, steps)) for steps in range(8)]
    assert (np.diff(costs) < 0).all() and costs[-1] < 0.8 * costs[0]
    # Given the codes, one step goes to the least: every way from there is up.
    codes, moved = encode(x, ANCHORS, LOCALITY), learn_anchors(x, ANCHORS, LOCALITY, 1)
    least = sum(map(cost, codes, x.astype(float), [moved] * 200))
    for step in (1e-3 * draw(4, seed=seed) for seed in range(10)):
        assert sum(map(cost, codes, x.astype(float), [moved + step] * 200)) > least


def test_quadratic_functions_are_linear_in_the_embedding():
    """For such f, Σ γ_j (f(v_j) + ∇f(v_j)·(x − v_j) + ½ (x − v_j)ᵀ H (x − v_j)) is f(x), since Σ γ_j is 1."""
    rng = np.random.default_rng(3)
    hessian = rng.normal(size=(3, 3))
    hessian += hessian.T
    slope, constant = rng.normal(size=3), 0.7

    def f(x):
        return constant + slope @ x + x @ hessian @ x / 2

    upper = [hessian[i, j] / 2 * (1 if i == j else np.sqrt(2)) for i in range(3) for j in range(i, 3)]
    s1, s2 = 0.5, 2.0
    taylor = [np.concatenate([[f(v) / s1], (slope + hessian @ v) / s2, upper]) for v in ANCHORS.astype(float)]
    embedded = approximate(FEATURES[:50], ANCHORS, LOCALITY, (s1, s2))
    np.testing.assert_allclose(
        embedded @ np.concatenate(taylor), [f(x) for x in FEATURES[:50].astype(float)], rtol=1e-4, atol=1e-4
    )


def test_the_embedding_by_a_loop():
    for x, embedded in zip(FEATURES[:5], approximate(FEATURES[:5], ANCHORS, LOCALITY, (0.0, 0.0)), strict=True):
        expected = []
        for code, v in zip(encode(x[None], ANCHORS, LOCALITY)[0], ANCHORS, strict=True):
            square = code * np.outer(x - v, x - v)
            expected += [square[i, j] * (1 if i == j else 2**0.5) for i in range(3) for j in range(i, 3)]
        np.testing.assert_allclose(embedded, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("weights", "width"), [((0.0, 0.0), 24), ((1.0, 0.0), 28), ((0.0, 1.0), 36), ((1.0, 1.0), 40)])
def test_lengths(weights, width):
    assert approximate(FEATURES[:2], ANCHORS, LOCALITY, weights).shape == (2, width)
    assert approximate(FEATURES[:0], ANCHORS, LOCALITY, weights).shape == (0, width)


def test_transform_is_whitening_then_aggregation():
    embedding, x = fit(iterations=3), draw(40, seed=5)
    assert (embedding.dimension, embedding.input_dimension) == (18, 3)  # 4 anchors of 6 entries, one left out
    raw = approximate(FEATURES, embedding.anchors, embedding.locality, embedding.weights).astype(float)
    pca = PCA(whiten=True, svd_solver="full").fit(raw)
    phi = pca.transform(approximate(x, embedding.anchors, embedding.locality, embedding.weights).astype(float))[:, 6:]
    total = democratic_weights(phi @ phi.T) @ phi
    expected = np.sign(total) * np.sqrt(np.abs(total))
    expected /= np.linalg.norm(expected)
    out = embedding.transform(x)
    assert out.dtype == np.float32
    np.testing.assert_allclose(np.abs(out), np.abs(expected), atol=2e-3)  # an axis's sign is free
    np.testing.assert_allclose(embedding.transform(x[::-1]), out, atol=1e-5)


def test_sets():
    embedding = fit(iterations=1, weights=(1.0, 1.0), aggregation="sum")
    sets = [draw(7, seed=3), np.empty((0, 3), np.float32), draw(1, seed=4)]
    out = embedding.transform_sets(sets)
    assert out.shape == (3, embedding.dimension)
    np.testing.assert_array_equal(out[1], 0)
    np.testing.assert_allclose(np.linalg.norm(out[[0, 2]], axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(embedding.transform(sets[0]), out[0], atol=1e-6)


def test_save_and_load(tmp_path):
    embedding = fit(iterations=1, weights=(0.5, 2.0), locality=0.2, power=0.3, aggregation="sum")
    fingerprint = embedding.save(tmp_path / "f.safetensors")
    loaded = Faemb.load(tmp_path / "f.safetensors")
    np.testing.assert_array_equal(loaded.transform(FEATURES[:9]), embedding.transform(FEATURES[:9]))
    assert (loaded.fitted_on, loaded.weights, loaded.locality) == ("noise", (0.5, 2.0), 0.2)
    assert loaded.fingerprint == embedding.fingerprint == fingerprint


def test_a_file_that_holds_something_else(tmp_path):
    path = tmp_path / "f.safetensors"
    save_artefact(path, "function-approximation-embedding", {"anchors": ANCHORS}, {"fitted_on": ""})
    with pytest.raises(RecipeError, match=r"f\.safetensors: not a FAemb"):
        Faemb.load(path)


def test_bad_input():
    with pytest.raises(RecipeError, match="here are 24: give more images"):
        Faemb.fit(FEATURES[:24], ANCHORS, seed=0, fitted_on="")
    with pytest.raises(ValueError, match="centroids must be n×3"):
        Faemb.fit(FEATURES, ANCHORS[:, :2], seed=0, fitted_on="")
    with pytest.raises(ValueError, match="locality above 0"):
        fit(locality=-1.0)
    with pytest.raises(ValueError, match="features must be n×3"):
        fit(iterations=1).transform(np.zeros((2, 4), np.float32))
