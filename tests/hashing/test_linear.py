"""LSH, PCA-sign and ITQ against closed forms, scikit-learn and faiss."""

from itertools import pairwise

import faiss
import numpy as np
import pytest

from resight.errors import RecipeError
from resight.fitted import PhotoSketch
from resight.hashing.codes import hamming
from resight.hashing.linear import fit_itq, fit_lsh, fit_pca_sign
from resight.hashing.methods import LINEAR, fit_method

SKETCH = PhotoSketch.of(["ab" * 16])


@pytest.fixture(scope="module")
def data():
    """600 vectors of 32 entries about a mean that is not 0, with a spectrum that falls."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(600, 32)) * np.geomspace(3, 0.2, 32) @ np.linalg.qr(rng.normal(size=(32, 32)))[0]
    return (x + rng.normal(size=32)).astype(np.float32)


def loss(function, x):
    """‖B − VR‖² of the vectors, from what the function says of them."""
    f = function.project(x).astype(np.float64)
    return ((np.where(f > 0, 1, -1) - f) ** 2).sum()


def weight(function):
    (layer,) = function.layers
    return layer.weight.astype(np.float64)


@pytest.mark.parametrize("degrees", [5, 30, 90, 150])
def test_lsh_collides_as_the_angle_says(degrees):
    a, angle = np.zeros(40), np.radians(degrees)
    b = a.copy()
    a[0], b[0], b[1] = 1, np.cos(angle), np.sin(angle)
    mean, bits = np.linspace(-2, 2, 40), 20_000
    function = fit_lsh(40, bits, seed=1, mean=mean)
    (((distance,),),) = [hamming(function.encode([mean + 3 * a]), function.encode([mean + b / 5]))]
    expected = angle / np.pi
    assert abs(distance / bits - expected) < 4 * np.sqrt(expected * (1 - expected) / bits)


def test_lsh_without_a_mean_goes_through_the_origin():
    function = fit_lsh(6, 64, seed=0)
    x = np.random.default_rng(0).normal(size=(5, 6))
    np.testing.assert_array_equal(function.encode(x), function.encode(7 * x))
    assert function.kind == "lsh" and function.n == 0
    np.testing.assert_allclose(np.linalg.norm(weight(function), axis=1), 1, atol=1e-6)


def test_lsh_of_fewer_bits_begins_that_of_more():
    x = np.random.default_rng(0).normal(size=(5, 6))
    few, many = fit_lsh(6, 16, seed=4).encode(x), fit_lsh(6, 64, seed=4).encode(x)
    np.testing.assert_array_equal(few, many[:, :2])


def test_pca_sign_is_the_sign_of_scikit_learns_components(data):
    sklearn = pytest.importorskip("sklearn.decomposition")
    scores = sklearn.PCA(n_components=24, svd_solver="full").fit_transform(data)
    function = fit_pca_sign(np.array_split(data, 7), 24, fitted_on="noise")
    ours = function.project(data)
    np.testing.assert_allclose(ours, scores * np.sign((ours * scores).sum(axis=0)), atol=1e-4)
    assert (function.kind, function.n, function.fitted_on) == ("pca-sign", 600, "noise")


def test_itqs_loss_never_grows_and_its_rotation_stays_orthogonal(data):
    functions = [fit_itq(data, 16, seed=0, iterations=i, fitted_on="") for i in (0, 1, 2, 3, 5, 10, 50)]
    losses = [loss(function, data) for function in functions]
    assert all(b <= a * (1 + 1e-6) for a, b in pairwise(losses)), losses
    assert losses[-1] < 0.95 * losses[0]
    span = weight(fit_pca_sign([data], 16, fitted_on=""))
    for function in functions:
        np.testing.assert_allclose(weight(function) @ weight(function).T, np.eye(16), atol=1e-5)
        # Whatever the rotation, it is of the first principal axes.
        np.testing.assert_allclose(weight(function) @ span.T @ span, weight(function), atol=1e-5)


def test_itq_beats_every_random_rotation(data):
    learned = loss(fit_itq(data, 32, seed=0, fitted_on=""), data)
    drawn = [loss(fit_itq(data, 32, seed=seed, iterations=0, fitted_on=""), data) for seed in range(20)]
    assert learned < min(drawn)


def test_itq_finds_a_cube_that_was_turned():
    rng = np.random.default_rng(5)
    corners = rng.choice([-1.0, 1.0], size=(1000, 8)) * np.linspace(1, 1.2, 8)
    turned = corners @ np.linalg.qr(rng.normal(size=(8, 8)))[0] + 4
    # It descends to the next minimum, which from some rotations is the least.
    functions = [fit_itq(turned, 8, seed=seed, iterations=200, fitted_on="") for seed in range(12)]
    f = min(functions, key=lambda function: loss(function, turned)).project(turned)
    # Each bit is one of the cube's coordinates, or its opposite.
    correlation = np.abs(np.corrcoef(f.T, corners.T)[:8, 8:])
    assert (correlation.max(axis=1) > 0.99).all() and len(set(correlation.argmax(axis=1))) == 8


def test_itq_does_as_well_as_faiss(data):
    axes = np.ascontiguousarray(fit_pca_sign([data], 16, fitted_on="").project(data))
    theirs = faiss.ITQMatrix(16)
    theirs.train(axes)
    f = theirs.apply(axes).astype(np.float64)
    wanted = ((np.where(f > 0, 1, -1) - f) ** 2).sum()
    assert loss(fit_itq(data, 16, seed=0, fitted_on=""), data) < 1.05 * wanted


@pytest.mark.parametrize("name", LINEAR)
def test_by_name(name, data):
    facts = {"fitted_on": "noise", "descriptor": "d", "photos": SKETCH}
    one, other = (fit_method(name, data, 16, seed=7, **facts) for _ in range(2))
    assert one.fingerprint == other.fingerprint and one.kind == name
    assert (one.bits, one.dimension, one.n) == (16, 32, 600)
    assert (one.fitted_on, one.descriptor, one.photos) == ("noise", "d", SKETCH)
    np.testing.assert_allclose(one.project(data).mean(axis=0), 0, atol=1e-4)
    if name != "pca-sign":
        assert fit_method(name, data, 16, seed=8, **facts).fingerprint != one.fingerprint


def test_what_a_user_asks_in_vain(data):
    assert fit_method("lsh", data, 1024, seed=0, fitted_on="").bits == 1024
    for name in ("pca-sign", "itq"):
        with pytest.raises(RecipeError, match=rf"{name} makes at most 32 bits of 600 vectors of 32 entries.*use lsh"):
            fit_method(name, data, 40, seed=0, fitted_on="")
        with pytest.raises(RecipeError, match="at most 15 bits of 16 vectors"):
            fit_method(name, data[:16], 16, seed=0, fitted_on="")
        with pytest.raises(RecipeError, match="vary along fewer than 16 axes"):
            fit_method(name, data * (np.arange(32) < 10), 16, seed=0, fitted_on="")
    for name in LINEAR:
        with pytest.raises(RecipeError, match="multiple of 8 bits, not 12"):
            fit_method(name, data, 12, seed=0, fitted_on="")
        with pytest.raises(RecipeError):
            fit_method(name, data[:0], 16, seed=0, fitted_on="")
    with pytest.raises(RecipeError, match=r"'sift'; choose lsh, pca-sign, itq"):
        fit_method("sift", data, 16, seed=0, fitted_on="")


def test_what_a_programmer_asks_in_vain(data):
    for bits in (0, 12, -8):
        with pytest.raises(ValueError, match=f"multiple of 8, not {bits}"):
            fit_lsh(4, bits, seed=0)
    with pytest.raises(ValueError, match=r"a bit for each of a vector's 32 entries, not 40.*or use lsh"):
        fit_pca_sign([data], 40, fitted_on="")
    with pytest.raises(ValueError, match=r"a bit for each of a vector's 32 entries, not 40.*or use lsh"):
        fit_itq(data, 40, seed=0, fitted_on="")
    with pytest.raises(RecipeError, match=r"more than 16 photos.*here are 9"):
        fit_itq(data[:9], 16, seed=0, fitted_on="")
    with pytest.raises(ValueError, match="iterations"):
        fit_itq(data, 16, seed=0, iterations=-1, fitted_on="")
    with pytest.raises(ValueError, match=r"\(4,\) and finite"):
        fit_lsh(4, 8, seed=0, mean=np.zeros(5))
