"""DeepBit: its loss by a loop and by finite differences, and codes that turning the image leaves alone."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from resight.errors import RecipeError  # noqa: E402
from resight.hashing.codes import unpack  # noqa: E402
from resight.hashing.deepbit import angle_weights, deepbit_loss, fit_deepbit  # noqa: E402
from resight.hashing.training import Descent  # noqa: E402

RNG = np.random.default_rng(0)
OUTPUTS, VIEWS, WEIGHTS = RNG.normal(size=(5, 4)), RNG.normal(size=(5, 3, 4)), np.array([1.0, 0.2, 0.6])
SHARES = {"quantisation": 0.7, "balance": 1.3, "rotation": 0.4}


def naive(outputs, views, weights, quantisation, balance, rotation):
    n, r, bits = views.shape
    images = [*outputs, *(views[i, j] for i in range(n) for j in range(r))]
    quantised = sum((f - (0.5 if f > 0 else -0.5)) ** 2 for image in images for f in image) / len(images) / bits
    even = 0.0
    for b in range(bits):
        mean = sum(image[b] + 0.5 for image in images) / len(images)  # of relaxed bits
        even += (mean - 0.5) ** 2 / bits
    turned = 0.0
    for i in range(n):
        for j in range(r):
            turned += weights[j] * sum((views[i, j] - outputs[i]) ** 2)
    return quantisation * quantised + balance * even + rotation * turned / (n * r * bits)


def test_loss_by_a_loop():
    found = deepbit_loss(*map(torch.from_numpy, (OUTPUTS, VIEWS, WEIGHTS)), **SHARES)
    assert found.item() == pytest.approx(naive(OUTPUTS, VIEWS, WEIGHTS, **SHARES), rel=1e-12)


def test_gradients_by_finite_differences():
    outputs, views, weights = (torch.from_numpy(a) for a in (OUTPUTS, VIEWS, WEIGHTS))
    assert torch.autograd.gradcheck(
        lambda f, turned: deepbit_loss(f, turned, weights, **SHARES), (outputs.requires_grad_(), views.requires_grad_())
    )


def test_weights_by_angle():
    np.testing.assert_allclose(angle_weights([-10, -5, 5, 10], 5), np.exp([-2, -0.5, -0.5, -2]), rtol=1e-6)
    with pytest.raises(ValueError, match="sigma must be above 0"):
        angle_weights([5], 0)


@pytest.fixture(scope="module")
def turned(clusters):
    """Vectors and their views, which differ from them along four axes only, and there as much as things do."""
    x, labels = clusters(noise=0.05)
    rng = np.random.default_rng(1)
    axes = np.linalg.qr(rng.normal(size=(x.shape[1], 4)))[0]

    def view(x):
        return x + (rng.normal(scale=1.5, size=(len(x), 4)) @ axes.T).astype(np.float32)

    return view(x), np.stack([view(x), view(x), view(x)], axis=1), labels


def spread(function, x, views):
    """Shares of bits in which an image's code differs from its views' codes, and from other images'."""
    bits = unpack(function.encode(x))
    own = np.mean([bits != unpack(function.encode(views[:, r])) for r in range(views.shape[1])])
    return own, np.mean(bits[:, None] != bits[None])


def test_training_lowers_the_loss_and_codes_withstand_rotation(turned):
    x, views, _ = turned
    losses = []
    learned = fit_deepbit(
        x, views, 16, seed=0, fitted_on="views", rotation=2.0, on_epoch=lambda _, loss: losses.append(loss)
    )
    untrained = fit_deepbit(x, views, 16, seed=0, fitted_on="views", descent=Descent(epochs=0))
    assert len(losses) == 50
    assert losses[-1] < 0.5 * losses[0]
    own, others = spread(learned, x, views)
    own_before, others_before = spread(untrained, x, views)
    assert own < 0.6 * own_before
    assert others > 0.9 * others_before


def test_weights_of_0_leave_a_view_out(turned):
    x, views, _ = turned
    half = np.stack([views[:, 0], views[:, 0] + 100], axis=1)
    brief = Descent(epochs=5)
    first = fit_deepbit(x, half, 8, seed=0, fitted_on="", weights=[1, 0], quantisation=0, balance=0, descent=brief)
    second = fit_deepbit(
        x, half[:, :1], 8, seed=0, fitted_on="", weights=[0.5], quantisation=0, balance=0, descent=brief
    )
    np.testing.assert_allclose(first.layers[0].weight, second.layers[0].weight, rtol=1e-3, atol=1e-5)


def test_bad_input(turned):
    x, views, _ = turned
    with pytest.raises(ValueError, match="N×R×D"):
        fit_deepbit(x, views[:, :, :-1], 16, seed=0, fitted_on="")
    with pytest.raises(ValueError, match="weights must be 3"):
        fit_deepbit(x, views, 16, seed=0, fitted_on="", weights=[1, 1])
    with pytest.raises(ValueError, match="multiple of 8"):
        fit_deepbit(x, views, 12, seed=0, fitted_on="")
    with pytest.raises(RecipeError, match="all alike"):
        fit_deepbit(np.ones_like(x), views, 16, seed=0, fitted_on="")
    with pytest.raises(ValueError, match="N×B, views N×R×B"):
        deepbit_loss(torch.zeros(5, 4), torch.zeros(5, 3, 3), torch.ones(3))
