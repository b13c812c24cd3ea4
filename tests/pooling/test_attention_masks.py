"""Masks of CRN, DELF and AGeM: scipy's correlation and small numbers as oracles, and the masks that change nothing."""

import numpy as np
import pytest
from scipy.ndimage import correlate

torch = pytest.importorskip("torch")

from resight.pooling.attention_gem import AttentionGeM  # noqa: E402
from resight.pooling.crn import ContextualReweighting, reweight  # noqa: E402
from resight.pooling.delf_attention import DelfAttention, attention_pool  # noqa: E402
from resight.pooling.gem import GeM, gem  # noqa: E402
from resight.pooling.mac import mac  # noqa: E402


@pytest.fixture
def maps():
    return torch.randn(2, 3, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def randomised(module):
    """The module with all its parameters drawn anew, so that none is at a special value."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator, dtype=torch.float64) - 0.3)
    return module.double()


def convolved(x, conv):
    """C×H×W through a convolution with zeros around, by scipy."""
    weight, bias = conv.weight.detach().numpy(), conv.bias.detach().numpy()
    return np.stack(
        [
            b + sum(correlate(c, k, mode="constant") for c, k in zip(x, w, strict=True))
            for w, b in zip(weight, bias, strict=True)
        ]
    )


def naive_pixelwise(x, conv):
    return (
        np.einsum("oc,chw->ohw", conv.weight.detach().numpy()[:, :, 0, 0], x)
        + conv.bias.detach().numpy()[:, None, None]
    )


def test_the_contextual_mask_by_scipy(maps):
    module = randomised(ContextualReweighting(3, filters=((3, 2), (5, 1))))
    for image, mask in zip(maps.numpy(), module(maps), strict=True):
        answers = np.concatenate([np.maximum(convolved(image, conv), 0) for conv in module.filters])
        expected = np.maximum(naive_pixelwise(answers, module.accumulate), 0)
        np.testing.assert_allclose(mask.detach().numpy(), expected)


def test_the_context_is_averaged_and_the_mask_brought_back():
    module = ContextualReweighting(1, filters=((1, 1),), context=(2, 2)).double()
    with torch.no_grad():
        module.filters[0].weight.fill_(1)
    x = torch.zeros(1, 1, 4, 8, dtype=torch.float64)
    x[0, 0, :2, :4] = torch.arange(8, dtype=torch.float64).reshape(2, 4)
    mask = module(x)[0, 0]  # the cells of the context are 3.5, 0, 0, 0
    assert mask.shape == (4, 8)
    np.testing.assert_allclose(mask[0].detach(), 3.5 * np.array([8, 8, 7, 5, 3, 1, 0, 0]) / 8)
    np.testing.assert_allclose(mask[:, 0].detach(), 3.5 * np.array([4, 3, 1, 0]) / 4)


def test_the_paper_has_84_filters_on_13_by_13_cells():
    module = ContextualReweighting(4)
    assert [tuple(conv.weight.shape) for conv in module.filters] == [(32, 4, 3, 3), (32, 4, 5, 5), (20, 4, 7, 7)]
    assert module.accumulate.weight.shape == (1, 84, 1, 1)
    seen = []
    module.filters[0].register_forward_hook(lambda _, inputs, __: seen.append(tuple(inputs[0].shape[2:])))
    assert [module(torch.rand(1, 4, *size)).shape for size in ((20, 30), (13, 5))] == [(1, 1, 20, 30), (1, 1, 13, 5)]
    assert seen == [(13, 13), (13, 5)]


def test_a_contextual_mask_of_ones_is_plain_pooling(maps):
    module = ContextualReweighting(3).double()
    with torch.no_grad():
        for conv in module.filters:
            conv.weight.zero_()
        module.accumulate.bias.fill_(1)
    for pooling in (gem, mac):
        torch.testing.assert_close(pooling(reweight(maps, module(maps))), pooling(maps))


def test_reweighting_by_hand():
    x = torch.arange(8.0).reshape(1, 2, 2, 2)
    mask = torch.tensor([[[[0.0, 1.0], [2.0, 0.5]]]])
    assert reweight(x, mask).tolist() == [[[[0, 1], [4, 1.5]], [[0, 5], [12, 3.5]]]]
    for bad in (mask[:, 0], mask.expand(1, 2, 2, 2), mask[..., :1]):
        with pytest.raises(ValueError, match="mask must be B×1×H×W"):
            reweight(x, bad)


def test_delf_scores_by_matrices(maps):
    module = randomised(DelfAttention(3, 4))
    module.bn_conv1.running_mean.uniform_(-1, 1)
    module.bn_conv1.running_var.uniform_(0.5, 2)
    module.eval()
    mean, var, scale, shift = (
        t.detach().numpy()[:, None, None]
        for t in (
            module.bn_conv1.running_mean,
            module.bn_conv1.running_var,
            module.bn_conv1.weight,
            module.bn_conv1.bias,
        )
    )
    for image, scores in zip(maps.numpy(), module(maps), strict=True):
        hidden = (naive_pixelwise(image, module.conv1) - mean) / np.sqrt(var + 1e-3) * scale + shift
        expected = np.log1p(np.exp(naive_pixelwise(np.maximum(hidden, 0), module.conv2)))
        np.testing.assert_allclose(scores.detach().numpy(), expected)
    assert {name.split(".")[0] for name in DelfAttention(3, 4, normalise=False).state_dict()} == {"conv1", "conv2"}


def test_attention_pooling_is_the_sum_of_weighted_directions(maps):
    scores = torch.rand(2, 1, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    maps[0, :, 2, 3] = 0  # a zero feature has no direction, and adds nothing
    expected = np.zeros((2, 3))
    for b, h, w in np.ndindex(2, 5, 6):
        feature = maps[b, :, h, w].numpy()
        if feature.any():
            expected[b] += scores[b, 0, h, w].item() * feature / np.linalg.norm(feature)
    np.testing.assert_allclose(attention_pool(maps, scores), expected)
    longer = maps * torch.rand_like(scores).add(0.1)
    torch.testing.assert_close(attention_pool(longer, scores), attention_pool(maps, scores))
    with pytest.raises(ValueError, match="do not fit"):
        attention_pool(maps, scores[:1])


def test_attention_aware_gem_starts_in_the_direction_of_gem(maps):
    module = AttentionGeM(3, 4).double()
    assert module.mask(maps).unique().tolist() == [0.5]
    torch.testing.assert_close(module(maps.abs() + 0.1), 1.5 * gem(maps.abs() + 0.1))


def test_attention_aware_gem_by_scipy(maps):
    module = randomised(AttentionGeM(3, 4, p=2.0, per_channel=True))
    first, _, middle, _, last = module.attention
    powers = module.gem.p.detach().numpy()
    assert powers.shape == (1, 3, 1, 1)
    module.gem.p.data += 2  # randomised, so not all above 0
    for image, vector, mask in zip(maps.numpy(), module(maps), module.mask(maps), strict=True):
        hidden = np.maximum(convolved(np.maximum(naive_pixelwise(image, first), 0), middle), 0)
        gate = 1 / (1 + np.exp(-naive_pixelwise(hidden, last)))
        np.testing.assert_allclose(mask.detach().numpy(), gate)
        p = module.gem.p.detach().numpy()[0]
        raised = np.maximum(image * (1 + gate), 1e-6) ** p
        np.testing.assert_allclose(vector.detach().numpy(), raised.mean(axis=(1, 2)) ** (1 / p[:, 0, 0]))


def test_bad_input():
    for bad in ({"filters": ()}, {"filters": ((2, 4),)}, {"filters": ((3, 0),)}, {"context": (0, 13)}):
        with pytest.raises(ValueError, match="odd sides"):
            ContextualReweighting(3, **bad)
    for module in (ContextualReweighting(3), DelfAttention(3), AttentionGeM(3)):
        with pytest.raises(ValueError, match="B×C×H×W"):
            module(torch.zeros(3, 4, 4))
    assert isinstance(AttentionGeM(3).gem, GeM)
