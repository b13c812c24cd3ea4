"""Running moments against numpy on all vectors at once, and the sketch against its proven bound."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resight.errors import RecipeError
from resight.projection.covariance import RunningCovariance, largest_eigenvectors
from resight.projection.moments import gather, running_moments
from resight.projection.sketch import RunningSketch


def stream(moments, x, parts=7):
    for batch in np.array_split(x, parts):
        moments.update(batch)
    return moments


@pytest.fixture
def spectrum():
    """400×30 with a long tail, off centre."""
    rng = np.random.default_rng(1)
    return rng.normal(size=(400, 30)) * np.arange(1, 31) ** -0.7 + 5


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.floats(0, 1e6))
def test_covariance_of_a_stream(sizes, offset):
    x = np.random.default_rng(sum(sizes)).normal(size=(sum(sizes) + 2, 4)) + offset
    moments = RunningCovariance()
    for batch in np.split(x, np.cumsum(sizes)):
        moments.update(batch)
    assert moments.n == len(x)
    np.testing.assert_allclose(moments.mean, x.mean(axis=0), atol=1e-8)
    np.testing.assert_allclose(moments.covariance, np.cov(x.T), atol=1e-7)
    np.testing.assert_allclose(moments.total_variance, np.trace(np.cov(x.T)), atol=1e-7)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.floats(0, 1e6))
def test_moments_of_parts_merge_to_those_of_all(sizes, offset):
    x = np.random.default_rng(sum(sizes)).normal(size=(sum(sizes) + 2, 4)) * [1, 2, 3, 4] + offset
    merged = RunningCovariance()
    for part in np.split(x, np.cumsum(sizes)):
        own = stream(RunningCovariance(), part, 2)
        merged.merge(own)
        assert own.n == len(part)  # and stays as it is
    assert merged.n == len(x)
    np.testing.assert_allclose(merged.mean, x.mean(axis=0), atol=1e-8)
    np.testing.assert_allclose(merged.covariance, np.cov(x.T), atol=1e-6)
    merged.update(x)  # a merged one goes on
    np.testing.assert_allclose(merged.covariance, np.cov(np.vstack([x, x]).T), atol=1e-6)


def test_moments_of_other_vectors_do_not_merge(spectrum):
    with pytest.raises(ValueError, match="vectors of 4 entries cannot join others of 30"):
        stream(RunningCovariance(), spectrum).merge(stream(RunningCovariance(), spectrum[:, :4]))


def test_second_moment_about_any_centre(spectrum):
    centre = np.arange(30.0)
    expected = sum(np.outer(x - centre, x - centre) for x in spectrum) / 400
    np.testing.assert_allclose(stream(RunningCovariance(), spectrum).second_moment(centre), expected, rtol=1e-10)


@pytest.mark.parametrize("k", [1, 5, 30])
def test_largest_eigenvectors_are_those_of_the_full_decomposition(spectrum, k):
    symmetric = np.cov(spectrum.T)
    values, axes = largest_eigenvectors(np.tril(symmetric), k)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(symmetric)[::-1][:k], rtol=1e-9)
    np.testing.assert_allclose(axes @ axes.T, np.eye(k), atol=1e-12)
    np.testing.assert_allclose(symmetric @ axes.T, axes.T * values, atol=1e-12)


def test_a_sketch_that_holds_everything_is_exact(spectrum):
    sketch = stream(RunningSketch(204), spectrum)  # 400 vectors and 7 batches fill 407 of 408 rows
    values, axes = sketch.leading(6)
    assert (sketch.n, sketch.error) == (400, 0.0)
    covariance = np.cov(spectrum.T)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(covariance)[::-1][:6], rtol=1e-9)
    np.testing.assert_allclose(covariance @ axes.T, axes.T * values, atol=1e-10)


@pytest.mark.parametrize("rows", [5, 10, 20])
def test_a_sketch_keeps_to_its_bound(spectrum, rows):
    sketch = stream(RunningSketch(rows), spectrum)
    covariance = np.cov(spectrum.T)
    true = np.linalg.eigvalsh(covariance)[::-1]
    np.testing.assert_allclose(sketch.mean, spectrum.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(sketch.total_variance, true.sum(), rtol=1e-10)
    bound = min(true[k:].sum() / (2 * (rows - k)) for k in range(rows))
    assert 0 < sketch.error <= bound
    values, axes = sketch.leading(rows)
    np.testing.assert_allclose(axes @ axes.T, np.eye(rows), atol=1e-10)
    floor = sketch.error * np.eye(30)
    approximation = floor + axes.T @ np.diag(values - sketch.error) @ axes
    # ℓ axes of the up to 2ℓ - 1 rows held: what they leave out is bounded by the last one's own variance.
    left_out = values[-1] - sketch.error
    assert np.linalg.norm(covariance - approximation, 2) <= sketch.error + left_out + 1e-12
    assert np.abs(values - true[:rows]).max() <= sketch.error + 1e-12


def test_a_sketch_finds_the_axes_that_stand_out():
    rng = np.random.default_rng(3)
    basis = np.linalg.qr(rng.normal(size=(200, 200)))[0]
    x = rng.normal(size=(600, 200)) * np.r_[np.full(4, 9.0), np.full(196, 0.3)] @ basis
    _, found = stream(RunningSketch(16), x, 20).leading(4)
    _, true = largest_eigenvectors(np.cov(x.T), 4)
    assert np.linalg.svd(found @ true.T, compute_uv=False).min() > 0.999


def test_a_sketch_of_few_distinct_vectors_has_orthonormal_axes(spectrum):
    repeated = np.tile(spectrum[:3], (30, 1))
    values, axes = stream(RunningSketch(8), repeated).leading(8)
    np.testing.assert_allclose(axes @ axes.T, np.eye(8), atol=1e-10)
    np.testing.assert_allclose(values[:2], np.linalg.eigvalsh(np.cov(repeated.T))[:-3:-1], rtol=1e-9)


def test_a_sketch_is_the_same_each_time(spectrum):
    first, second = (stream(RunningSketch(6), spectrum).leading(4) for _ in range(2))
    np.testing.assert_array_equal(first[1], second[1])


def test_long_vectors_are_sketched_where_that_is_smaller():
    assert isinstance(running_moments(8192, 32), RunningCovariance)
    assert isinstance(running_moments(25_088, 512), RunningSketch)
    assert isinstance(running_moments(25_088, 8192), RunningCovariance)
    x = np.random.default_rng(0).normal(size=(40, 9000))
    values, axes = gather(np.array_split(x, 3), 32).leading(32)
    _, singular, right = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(values, singular[:32] ** 2 / 39, rtol=1e-8)
    np.testing.assert_allclose(np.abs(np.sum(axes * right[:32], axis=1)), 1, atol=1e-6)


@pytest.mark.parametrize("make", [RunningCovariance, lambda: RunningSketch(3)])
def test_bad_vectors(make):
    with pytest.raises(ValueError, match="finite"):
        make().update([[1.0, np.nan]])
    with pytest.raises(ValueError, match="n×D"):
        make().update([1.0, 2.0])
    moments = stream(make(), np.ones((1, 4)), 1)
    with pytest.raises(ValueError, match="at least two"):
        _ = moments.total_variance
    with pytest.raises(ValueError, match="3 entries after others of 4"):
        moments.update(np.ones((2, 3)))


def test_what_cannot_be_sketched():
    with pytest.raises(ValueError, match="at least one row"):
        RunningSketch(0)
    with pytest.raises(ValueError, match="has no 4 axes"):
        stream(RunningSketch(3), np.eye(9)).leading(4)
    with pytest.raises(RecipeError, match="no vectors"):
        gather([], 2)
