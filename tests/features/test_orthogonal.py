"""DOLG's fusion: Gram–Schmidt by numpy, geometric identities, finite differences, and a short training."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from resight.features.orthogonal import OrthogonalFusion, orthogonal_component, orthogonal_fusion  # noqa: E402


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(3, 6, 4, 5, dtype=torch.float64, generator=generator),
        torch.randn(3, 6, dtype=torch.float64, generator=generator),
    )


def test_by_the_second_vector_of_a_qr_decomposition(pair):
    local, global_ = (t.numpy() for t in pair)
    component = orthogonal_component(*pair)
    for b, h, w in np.ndindex(3, 4, 5):
        q, r = np.linalg.qr(np.stack([global_[b], local[b, :, h, w]], axis=1))
        np.testing.assert_allclose(component[b, :, h, w], q[:, 1] * r[1, 1], atol=1e-12)


def test_what_is_left_is_orthogonal_and_what_was_taken_is_parallel(pair):
    local, global_ = pair
    component = orthogonal_component(local, global_)
    dots = torch.einsum("bchw,bc->bhw", component, global_)
    torch.testing.assert_close(dots, torch.zeros_like(dots), atol=1e-12, rtol=0)
    taken = (local - component).flatten(2)
    cosine = torch.cosine_similarity(taken, global_.unsqueeze(2).expand_as(taken), dim=1).abs()
    torch.testing.assert_close(cosine, torch.ones_like(cosine))
    torch.testing.assert_close(orthogonal_component(component, global_), component)
    torch.testing.assert_close(orthogonal_component(local, -1e-3 * global_), component)


def test_no_global_vector_takes_nothing(pair):
    local, global_ = pair
    assert torch.equal(orthogonal_component(local, torch.zeros_like(global_)), local)


def test_lengths_whose_squares_are_no_numbers_of_half(pair):
    local, global_ = pair
    scaled = orthogonal_component(local.half(), (300 * global_).half())
    torch.testing.assert_close(scaled.double(), orthogonal_component(local, global_), atol=0.02, rtol=0)


def test_fusion_is_the_mean_of_the_concatenated_map(pair):
    local, global_ = pair
    component = orthogonal_component(local, global_)
    map_ = torch.cat([global_[:, :, None, None].expand_as(component), component], dim=1)
    torch.testing.assert_close(orthogonal_fusion(local, global_), map_.mean(dim=(2, 3)))
    fusion = OrthogonalFusion(6, 7).double()
    expected = map_.mean(dim=(2, 3)) @ fusion.fc.weight.T + fusion.fc.bias
    torch.testing.assert_close(fusion(local, global_), expected)


def test_gradients(pair):
    local, global_ = (t[:2, :3].detach().requires_grad_() for t in pair)
    assert torch.autograd.gradcheck(orthogonal_fusion, (local, global_))


def test_it_learns_what_only_the_local_map_has():
    """Sixteen classes that share one global vector, so that only the orthogonal part can tell them apart."""
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.randn(16, 12, generator=generator)
    labels = torch.arange(16).repeat(8)
    local = prototypes[labels][:, :, None, None] + 0.5 * torch.randn(128, 12, 3, 3, generator=generator)
    global_ = torch.ones(128, 12) + 0.1 * torch.randn(128, 12, generator=generator)
    torch.manual_seed(0)
    model = OrthogonalFusion(12, 16)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(model(local, global_), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 2.5 and losses[-1] < 0.5


def test_bad_input(pair):
    local, global_ = pair
    for bad in (global_[:, :5], global_[:1], global_[:, :, None]):
        with pytest.raises(ValueError, match="global_ B×C"):
            orthogonal_component(local, bad)
    with pytest.raises(ValueError, match="local must be"):
        orthogonal_fusion(local[0], global_)
