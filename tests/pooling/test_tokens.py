"""Tokens: loops from the definitions, and the limits of the temperature."""

import math

import pytest

torch = pytest.importorskip("torch")

from resight.pooling.gem import gem  # noqa: E402
from resight.pooling.tokens import attended_patches, class_and_gem, class_attention, pool_tokens  # noqa: E402


@pytest.fixture
def tokens():
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(2, 5, 3, 4, dtype=torch.float64, generator=generator),
        torch.randn(2, 5, dtype=torch.float64, generator=generator),
    )


def test_plain_choices(tokens):
    patches, cls = tokens
    torch.testing.assert_close(pool_tokens(patches, cls, "cls"), cls)
    torch.testing.assert_close(pool_tokens(patches, cls, "mean"), patches.sum(dim=(2, 3)) / 12)
    torch.testing.assert_close(pool_tokens(patches, cls, "cls-gem", p=2.0), class_and_gem(patches, cls, 2.0))
    torch.testing.assert_close(pool_tokens(patches, cls, "attention"), attended_patches(patches, cls))


def test_a_cosine_of_both_is_the_mean_of_each(tokens):
    patches, cls = tokens
    both = torch.nn.functional.normalize(class_and_gem(7 * patches.abs(), cls, 2.5))
    assert both.shape == (2, 10)
    cosines = [torch.cosine_similarity(t[0], t[1], dim=0) for t in (cls, gem(patches.abs(), 2.5))]
    torch.testing.assert_close(both[0] @ both[1], (cosines[0] + cosines[1]) / 2)


def test_attention_by_loops(tokens):
    patches, cls = tokens
    for b in range(2):
        weights, total = {}, torch.zeros(5, dtype=torch.float64)
        for h in range(3):
            for w in range(4):
                patch = patches[b, :, h, w]
                weights[h, w] = math.exp(float(patch @ cls[b] / patch.norm() / cls[b].norm()) / 0.2)
        for (h, w), weight in weights.items():
            share = weight / sum(weights.values())
            assert class_attention(patches, cls, 0.2)[b, 0, h, w].item() == pytest.approx(share)
            total += share * patches[b, :, h, w]
        torch.testing.assert_close(attended_patches(patches, cls, 0.2)[b], total)


def test_limits_of_the_temperature(tokens):
    patches, cls = tokens
    torch.testing.assert_close(attended_patches(patches, cls, 1e9), patches.mean(dim=(2, 3)))
    nearest = torch.cosine_similarity(patches, cls[:, :, None, None]).flatten(1).argmax(dim=1)
    expected = torch.stack([p.flatten(1)[:, i] for p, i in zip(patches, nearest, strict=True)])
    torch.testing.assert_close(attended_patches(patches, cls, 1e-4), expected)


def test_gradients(tokens):
    patches, cls = (t.requires_grad_() for t in tokens)
    assert torch.autograd.gradcheck(attended_patches, (patches, cls))
    assert torch.autograd.gradcheck(class_and_gem, ((patches.detach().abs() + 0.1).requires_grad_(), cls))


def test_bad_input(tokens):
    patches, cls = tokens
    with pytest.raises(ValueError, match=r"cls must be \(2, 5\)"):
        pool_tokens(patches, cls[:1], "cls")
    with pytest.raises(ValueError, match="B×C×H×W"):
        pool_tokens(patches[0], cls, "mean")
    with pytest.raises(ValueError, match="temperature must be above 0"):
        class_attention(patches, cls, 0.0)
    with pytest.raises(ValueError, match="not 'max'"):
        pool_tokens(patches, cls, "max")
