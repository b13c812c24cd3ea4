"""Photos made again from their descriptors, by a decoder that is dropped."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from resight.learning.unlabelled.autoencoder import ReconstructionLoss  # noqa: E402


def test_the_decoder_makes_pictures_of_the_side_that_is_wanted():
    for side in (8, 32, 64):
        loss = ReconstructionLoss(6, side, 32, seed=2)
        x = torch.nn.functional.normalize(torch.randn(3, 6, generator=torch.Generator().manual_seed(0)))
        assert loss.decode(x).shape == (3, 3, side, side)
        again = ReconstructionLoss(6, side, 32, seed=2)
        assert all(torch.equal(a, b) for a, b in zip(loss.parameters(), again.parameters(), strict=True))
    made = [layer.out_channels for layer in ReconstructionLoss(6, 64, 100).rest if hasattr(layer, "out_channels")]
    assert made == [50, 25, 16, 16, 3]
    with pytest.raises(ValueError, match="side must be 4 doubled some times, not 24"):
        ReconstructionLoss(6, 24, 32)


def test_a_fresh_decoder_tells_descriptors_apart_whatever_their_length():
    def spread(dimension):
        x = torch.randn(64, dimension, generator=torch.Generator().manual_seed(3))
        made = ReconstructionLoss(dimension, 8, 64).decode(torch.nn.functional.normalize(x)).detach()
        return float(made.std(dim=0).mean())

    assert 0.5 < spread(2048) / spread(16) < 2


def test_the_loss_is_the_squared_error_of_values_from_0_to_1():
    rng = np.random.default_rng(1)
    loss = ReconstructionLoss(5, 16, 16)
    x = torch.from_numpy(rng.normal(size=(2, 5)).astype(np.float32)).requires_grad_()
    pictures = rng.integers(0, 256, (2, 3, 16, 16), np.uint8)
    loss.pictures = torch.from_numpy(pictures)
    found = loss(x, torch.arange(2))
    made = loss.decode(x).detach().numpy()
    expected = sum(
        (float(made[i, c, r, k]) - pictures[i, c, r, k] / 255) ** 2 for i, c, r, k in np.ndindex(2, 3, 16, 16)
    )
    assert found.item() == pytest.approx(expected / (2 * 3 * 16 * 16), rel=1e-5)
    found.backward()
    assert x.grad.abs().min() > 0
    loss.pictures = None
    with pytest.raises(ValueError, match="set before"):
        loss(x, torch.arange(2))
