"""DOLG's local branch against loops over positions and taps, in its published layout."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from resight.pooling.multi_atrous import MultiAtrousAttention  # noqa: E402

# Shapes in the authors' checkpoints under ``localmodel.``, for 1024 channels.
PUBLISHED = {
    "aspp.aspp.0": (512, 1024, 1, 1),
    "aspp.aspp.1": (512, 1024, 3, 3),
    "aspp.aspp.2": (512, 1024, 3, 3),
    "aspp.aspp.3": (512, 1024, 3, 3),
    "aspp.im_pool.1": (512, 1024, 1, 1),
    "aspp.conv_after.0": (1024, 2560, 1, 1),
    "conv1": (1024, 1024, 1, 1),
    "conv2": (1, 1024, 1, 1),
}


def small(seed=0):
    torch.manual_seed(seed)
    module = MultiAtrousAttention(3, 5, 4, (1, 2))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.3)
        module.bn.running_mean.normal_()
        module.bn.running_var.uniform_(0.5, 2)
    return module.eval().double()


def by_loops(module, x):
    """x: C×H×W. Each position by itself (Yang et al., Fig. 3)."""
    state = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    channels, height, width = x.shape
    mean = x.reshape(channels, -1).mean(axis=1)
    pooled = np.maximum(state["aspp.im_pool.1.weight"][:, :, 0, 0] @ mean + state["aspp.im_pool.1.bias"], 0)
    out = np.empty((5, height, width))
    for row in range(height):
        for column in range(width):
            parts = [pooled]
            for k, rate in enumerate([0, 1, 2]):
                weight = state[f"aspp.aspp.{k}.weight"]
                total = state[f"aspp.aspp.{k}.bias"].copy()
                side = weight.shape[2]
                for a in range(side):
                    for b in range(side):
                        r, c = row + (a - side // 2) * rate, column + (b - side // 2) * rate
                        if 0 <= r < height and 0 <= c < width:
                            total += weight[:, :, a, b] @ x[:, r, c]
                parts.append(total)
            joined = state["aspp.conv_after.0.weight"][:, :, 0, 0] @ np.concatenate(parts)
            joined = np.maximum(joined + state["aspp.conv_after.0.bias"], 0)
            y = state["conv1.weight"][:, :, 0, 0] @ joined + state["conv1.bias"]
            y = (y - state["bn.running_mean"]) / np.sqrt(state["bn.running_var"] + 1e-5)
            y = y * state["bn.weight"] + state["bn.bias"]
            score = np.log1p(np.exp((state["conv2.weight"][0, :, 0, 0] @ np.maximum(y, 0) + state["conv2.bias"])[0]))
            out[:, row, column] = score * y / np.linalg.norm(y)
    return out


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (2, 9)])
def test_it_is_what_loops_over_positions_give(size):
    module = small()
    x = np.random.default_rng(1).normal(size=(2, 3, *size))
    with torch.no_grad():
        found = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, [by_loops(module, each) for each in x], rtol=1e-9, atol=1e-12)


def test_names_and_shapes_are_the_published_ones():
    with torch.device("meta"):
        state = MultiAtrousAttention(1024).state_dict()
    weights = {name.removesuffix(".weight"): tuple(x.shape) for name, x in state.items() if x.ndim == 4}
    assert weights == PUBLISHED
    assert {name for name in state if name.startswith("bn.")} >= {"bn.weight", "bn.running_mean", "bn.running_var"}


def test_gradients_are_those_of_differences():
    x = torch.randn(1, 3, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(small(), (x,))


def test_sizes_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="must be 1 or more"):
        MultiAtrousAttention(3, 5, 4, ())
    with pytest.raises(ValueError, match="must be 1 or more"):
        MultiAtrousAttention(3, 5, 4, (0,))
