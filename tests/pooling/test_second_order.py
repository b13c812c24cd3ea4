"""SOLAR's block: a naive loop, the identity it starts as, and the names of its published checkpoints."""

import math

import pytest

torch = pytest.importorskip("torch")

from resight.pooling.second_order import SecondOrderAttention, second_order_attention  # noqa: E402


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def naive_attention(q, k, v):
    out = torch.zeros_like(v)
    b, _, height, width = q.shape
    cells = [(h, w) for h in range(height) for w in range(width)]
    for image in range(b):
        for at in cells:
            query = q[image, :, at[0], at[1]]
            weights = [math.exp(float(query @ k[image, :, h, w]) / math.sqrt(q.shape[1])) for h, w in cells]
            for weight, (h, w) in zip(weights, cells, strict=True):
                out[image, :, at[0], at[1]] += weight / sum(weights) * v[image, :, h, w]
    return out


def moved(block):
    """The block away from its identity, with statistics that are not those of a new normalisation."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in block.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator, dtype=torch.float64) * 2 - 0.5)
            if name.endswith("running_var"):
                value.add_(1)
    return block.eval()


def test_equals_the_naive_loop():
    q, k, v = random(2, 4, 3, 5), random(2, 4, 3, 5, seed=1), random(2, 6, 3, 5, seed=2)
    torch.testing.assert_close(second_order_attention(q, k, v), naive_attention(q, k, v))


def test_the_block_by_matrices():
    block = moved(SecondOrderAttention(6, 3).double())
    x = random(2, 6, 3, 2)
    state = block.state_dict()

    def convolved(name, t):
        weight = state[f"{name}.weight"][:, :, 0, 0]
        return torch.einsum("oc,bchw->bohw", weight, t) + state[f"{name}.bias"][:, None, None]

    def normalised(name, t):
        mean, var, scale, shift = (
            state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return ((t - mean) / (var + 1e-5).sqrt() * scale + shift).clamp(min=0)

    q, k = (normalised(f"{name}.1", convolved(f"{name}.0", x)) for name in "fg")
    torch.testing.assert_close(block(x), x + convolved("v", naive_attention(q, k, convolved("h", x))))


def test_it_starts_as_the_identity_and_learns_from_there():
    torch.manual_seed(0)
    block = SecondOrderAttention(8, 2).double()
    x = random(2, 8, 4, 3)
    torch.testing.assert_close(block(x), x, rtol=0, atol=0)
    block(x).pow(2).sum().backward()
    assert block.v.weight.grad.abs().max() > 0


def test_positions_in_another_order_give_the_same_in_that_order():
    block = moved(SecondOrderAttention(6, 2).double())
    x = random(1, 6, 4, 5)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(3))
    shuffled = x.flatten(2)[:, :, order].reshape(x.shape)
    torch.testing.assert_close(block(shuffled).flatten(2), block(x).flatten(2)[:, :, order])


def test_names_and_shapes_of_the_published_checkpoint():
    """Of ``soa4`` in tonyngjichun/SOLAR, as its ``SOABlock`` declares them: 1024 channels, 1024 // 4 within."""
    state = SecondOrderAttention(1024, 4).state_dict()
    inner, expected = 256, {"h.weight": (256, 1024, 1, 1), "h.bias": (256,), "v.weight": (1024, 256, 1, 1)}
    expected["v.bias"] = (1024,)
    for branch in "fg":
        expected |= {f"{branch}.0.weight": (inner, 1024, 1, 1), f"{branch}.0.bias": (inner,)}
        parts = ("weight", "bias", "running_mean", "running_var")
        expected |= {f"{branch}.1.{part}": (inner,) for part in parts}
        expected[f"{branch}.1.num_batches_tracked"] = ()
    assert {name: tuple(value.shape) for name, value in state.items()} == expected


def test_bad_input():
    with pytest.raises(ValueError, match="reduction must be from 1 to the 4"):
        SecondOrderAttention(4, 5)
    with pytest.raises(ValueError, match="B×C×H×W"):
        SecondOrderAttention(4)(torch.zeros(2, 4))
    for key, value in (((1, 3, 2, 2), (1, 5, 2, 2)), ((1, 4, 2, 2), (1, 5, 2, 3)), ((1, 4, 2, 2), (2, 5, 2, 2))):
        with pytest.raises(ValueError, match="query and key must be"):
            second_order_attention(torch.zeros(1, 4, 2, 2), torch.zeros(key), torch.zeros(value))
