"""GeM against a naive loop and its two limits."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from resight.pooling.gem import GeM, gem  # noqa: E402


def naive_gem(x, p, eps=1e-6):
    out = torch.zeros(x.shape[:2], dtype=x.dtype)
    for b in range(x.shape[0]):
        for c in range(x.shape[1]):
            values = [max(float(v), eps) ** p for v in x[b, c].flatten()]
            out[b, c] = (sum(values) / len(values)) ** (1 / p)
    return out


@pytest.fixture
def maps():
    return torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("p", [0.5, 1.0, 3.0, 7.3])
def test_equals_the_naive_loop(maps, p):
    torch.testing.assert_close(gem(maps, p), naive_gem(maps, p))
    torch.testing.assert_close(GeM(p).double()(maps), naive_gem(maps, p))


def test_limits(maps):
    positive = maps.abs() + 0.1
    torch.testing.assert_close(gem(positive, 1.0), positive.mean(dim=(2, 3)))
    torch.testing.assert_close(gem(positive, 1e4), positive.amax(dim=(2, 3)), rtol=1e-3, atol=0)


@settings(max_examples=20, deadline=None)
@given(p=st.floats(0.5, 20), scale=st.floats(1e-3, 1e3), order=st.permutations(range(20)), seed=st.integers(0, 10**6))
def test_order_and_scale(p, scale, order, seed):
    """Positions have no order, and gem(s·x) = s·gem(x) above eps."""
    x = torch.rand(1, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.1
    shuffled = x.flatten(2)[:, :, list(order)].reshape(x.shape)
    torch.testing.assert_close(gem(shuffled * scale, p), gem(x, p) * scale)


def test_it_grows_with_p_from_the_mean_to_the_maximum(maps):
    x = maps.abs() + 0.1
    steps = torch.stack([x.mean(dim=(2, 3)), *(gem(x, p) for p in (1.0, 2.0, 5.0, 30.0)), x.amax(dim=(2, 3))])
    assert (steps.diff(dim=0) >= -1e-12).all()


def test_dead_and_huge_channels_stay_finite_in_float32():
    x = torch.zeros(1, 2, 3, 3)
    x[0, 1] = 1e20
    torch.testing.assert_close(gem(x, 5.0), torch.tensor([[1e-6, 1e20]]))


def test_gradients(maps):
    x = (maps.abs() + 0.1).requires_grad_()
    p = torch.tensor(2.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gem, (x, p))


def test_p_is_learned(maps):
    module = GeM(3.0).double()
    assert [name for name, _ in module.named_parameters()] == ["p"]
    module(maps.abs()).sum().backward()
    assert module.p.grad is not None and module.p.grad != 0


def test_a_p_for_each_channel(maps):
    module = GeM(3.0, channels=3).double()
    assert module.p.shape == (1, 3, 1, 1)
    torch.testing.assert_close(module(maps), GeM(3.0).double()(maps))
    with torch.no_grad():
        module.p[:] = torch.tensor([0.7, 2.0, 5.5], dtype=torch.float64).reshape(1, 3, 1, 1)
    expected = torch.stack([naive_gem(maps, p)[:, c] for c, p in enumerate((0.7, 2.0, 5.5))], dim=1)
    torch.testing.assert_close(module(maps), expected)
    module(maps.abs()).sum().backward()
    assert (module.p.grad != 0).all()


def test_gradients_of_a_p_for_each_channel(maps):
    x = (maps.abs() + 0.1).requires_grad_()
    p = torch.tensor([1.3, 2.7, 4.0], dtype=torch.float64).reshape(1, 3, 1, 1).requires_grad_()
    assert torch.autograd.gradcheck(gem, (x, p))


def test_bad_input():
    with pytest.raises(ValueError, match="B×C×H×W"):
        gem(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="at least 1"):
        gem(torch.zeros(1, 2, 0, 4))
    with pytest.raises(ValueError, match="p must be above 0"):
        gem(torch.ones(1, 1, 1, 1), p=0.0)
    for bad in ({"p": 0.0}, {"channels": 0}):
        with pytest.raises(ValueError, match="channels at least 1"):
            GeM(**bad)
