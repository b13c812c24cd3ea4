"""What NetVLAD, RN-BoF and the Fisher layer share: sets without order, gradients, precision, and that they learn."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from resight.embedding.fisher_layer import FisherLayer  # noqa: E402
from resight.embedding.learned_bof import LearnedBof  # noqa: E402
from resight.embedding.netvlad import NetVlad  # noqa: E402

LAYERS = pytest.mark.parametrize("kind", ["netvlad", "netvlad as is", "bof", "bof l1", "fisher"])


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def make(kind, centres, features):
    match kind:
        case "netvlad":
            return NetVlad.from_kmeans(centres, features)
        case "netvlad as is":
            return NetVlad.from_kmeans(centres, features, normalise=False)
        case "bof":
            return LearnedBof.from_kmeans(centres, features)
        case "bof l1":
            return LearnedBof.from_kmeans(centres, features, norm="l1")
        case "fisher":
            return FisherLayer.from_gmm(np.arange(1, len(centres) + 1), centres, np.full(centres.shape, 0.5))


@LAYERS
def test_maps_are_sets_of_their_columns_in_any_order(kind):
    layer, maps = make(kind, draw(4, 6, seed=1), draw(9, 6)).double(), torch.as_tensor(draw(2, 6, 3, 5))
    sets = torch.stack([maps[:, :, i, j] for i in range(3) for j in range(5)], dim=1)
    out = layer(maps)
    assert out.shape == (2, layer.dimension)
    torch.testing.assert_close(out, layer(sets))
    torch.testing.assert_close(out, layer(sets[:, np.random.default_rng(0).permutation(15)]))
    torch.testing.assert_close(out[1:], layer(sets[1:]))
    torch.testing.assert_close(layer(sets[:, :0]), torch.zeros_like(out))
    with pytest.raises(ValueError, match="B×C×H×W or B×N×C"):
        layer(sets[0])


@LAYERS
def test_gradients(kind):
    layer = make(kind, draw(3, 4, seed=1), draw(9, 4)).double()
    x = torch.as_tensor(draw(2, 5, 4, seed=2)).requires_grad_()
    names = [name for name, _ in layer.named_parameters()]

    def call(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x, *layer.parameters()))


@LAYERS
def test_single_precision_is_close_even_far_from_the_origin(kind):
    offset = 0 if kind.startswith("netvlad") else 300
    features = draw(50, 64) + offset
    layer = make(kind, draw(4, 64, seed=1) + offset, features).double()
    precise = layer(torch.as_tensor(features)[None])
    single = layer.float()(torch.as_tensor(features)[None].float())
    torch.testing.assert_close(single.double(), precise, atol=2e-3, rtol=0)


@LAYERS
def test_training_lowers_the_loss(kind):
    """Two kinds of sets, of the same four words in other shares; sets of a kind are to be alike."""
    generator = torch.Generator().manual_seed(0)
    words = torch.as_tensor(draw(4, 8)).float()
    shares = torch.tensor([[6, 6, 2, 2], [2, 2, 6, 6]])
    sets = torch.stack([words.repeat_interleave(shares[i % 2], 0) for i in range(12)])
    sets = sets + 0.3 * torch.randn(sets.shape, generator=generator)
    alike = (torch.arange(12)[:, None] % 2 == torch.arange(12) % 2).float()
    layer = make(kind, draw(4, 8, seed=3), sets.flatten(0, 1).numpy())
    optimiser = torch.optim.Adam(layer.parameters(), 0.05)
    losses = []
    for _ in range(60):
        vectors = torch.nn.functional.normalize(layer(sets), dim=1)
        loss = (vectors @ vectors.T - alike).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
