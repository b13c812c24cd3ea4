"""Each pooling is a function and a Module; the Module is the function, and gradients pass through it."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from resight.pooling.attention_gem import AttentionGeM, attention_gem  # noqa: E402
from resight.pooling.average import Average, average  # noqa: E402
from resight.pooling.cam import CamCrow, cam_crow, top_classes  # noqa: E402
from resight.pooling.crow import Crow, crow  # noqa: E402
from resight.pooling.gem import GeM, gem  # noqa: E402
from resight.pooling.gram import Gram, gram  # noqa: E402
from resight.pooling.heat_diffusion import HeatDiffusion, heat_diffusion  # noqa: E402
from resight.pooling.mac import Mac, mac  # noqa: E402
from resight.pooling.multiscale_attention import RegionalAttention, weighted_regions  # noqa: E402
from resight.pooling.rmac import RMac, r_mac, regional_mac  # noqa: E402
from resight.pooling.saliency import SaliencyGeM, SaliencySum, saliency_gem, saliency_sum  # noqa: E402
from resight.pooling.sba import Pwa, pwa  # noqa: E402
from resight.pooling.spoc import Spoc, spoc  # noqa: E402
from resight.pooling.sum_pooling import SumPooling, sum_pooling  # noqa: E402
from resight.pooling.tokens import TokenPooling, pool_tokens  # noqa: E402

CLASSIFIER = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
BIASES = torch.tensor([0.0, 9.0, 0.0, 9.0, 0.0, 0.0], dtype=torch.float64)
MEAN = torch.tensor([0.2, 0.1, 0.3, 0.1], dtype=torch.float64)
PLAIN = {
    "sum": (SumPooling(), sum_pooling),
    "average": (Average(), average),
    "mac": (Mac(), mac),
    "spoc": (Spoc(), spoc),
    "crow": (Crow(1.0, 3.0), lambda x: crow(x, 1.0, 3.0)),
    "gram": (Gram(), gram),
    "heat": (HeatDiffusion(), heat_diffusion),
    "heat about a mean": (HeatDiffusion(MEAN, 0.2, 0.5), lambda x: heat_diffusion(x, MEAN, 0.2, 0.5)),
    "r-mac": (RMac(2, "cirtorch"), lambda x: r_mac(x, 2, "cirtorch")),
    "gem": (GeM(2.5).double(), lambda x: gem(x, 2.5)),
    "pwa": (Pwa([2, 0], 1.5, 3.0), lambda x: pwa(x, torch.tensor([2, 0]), 1.5, 3.0)),
    "cam offline": (CamCrow(CLASSIFIER, [5, 0]), lambda x: cam_crow(x, CLASSIFIER, torch.tensor([5, 0]))),
    "cam online": (
        CamCrow(CLASSIFIER, top=2),
        lambda x: cam_crow(x, CLASSIFIER, top_classes(x.mean(dim=(2, 3)) @ CLASSIFIER.T, 2)),
    ),
    "cam online, biased": (  # whose biases leave no choice
        CamCrow(CLASSIFIER, top=2, biases=BIASES),
        lambda x: cam_crow(x, CLASSIFIER, torch.tensor([3, 1])),
    ),
}


def maps(seed=0):
    return torch.rand(2, 4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.05


@pytest.mark.parametrize("name", PLAIN)
def test_a_module_is_its_function_and_lets_gradients_pass(name):
    module, function = PLAIN[name]
    assert isinstance(module, nn.Module)
    x = maps().requires_grad_()
    torch.testing.assert_close(module(x), function(x))
    module(x).square().sum().backward()
    assert x.grad.isfinite().all() and x.grad.any()


def test_two_inputs():
    x, saliency = maps(), torch.rand(2, 1, 9, 7, dtype=torch.float64)
    torch.testing.assert_close(SaliencySum()(x, saliency), saliency_sum(x, saliency))
    torch.testing.assert_close(SaliencyGeM(2.0).double()(x, saliency), saliency_gem(x, saliency, 2.0))
    cls = x.mean(dim=(2, 3))
    for name in ("cls", "mean", "cls-gem", "attention"):
        pooling = TokenPooling(name, p=2.0, temperature=0.3).double()
        torch.testing.assert_close(pooling(x, cls), pool_tokens(x, cls, name, 2.0, 0.3))
        learned = {key for key, value in pooling.named_parameters() if value.requires_grad}
        assert learned == {"cls-gem": {"p"}, "attention": {"temperature"}}.get(name, set())


def test_learned_masks_and_regions():
    x = maps()
    gated = AttentionGeM(4, 3, p=2.0).double()
    torch.testing.assert_close(gated(x), attention_gem(x, gated.mask(x), 2.0))
    regions = RegionalAttention(4, 3, levels=2).double()
    torch.testing.assert_close(regions(x), weighted_regions(regional_mac(x, 2), regions.weights(x)))


def test_r_mac_whitens_between_its_normalisations_as_the_paper_does():
    whiten = nn.Linear(4, 3).double()
    x = maps()
    regions = regional_mac(x, 2)
    expected = torch.zeros(2, 3, dtype=torch.float64)
    for r in range(regions.shape[1]):
        white = regions[:, r] / regions[:, r].norm(dim=1, keepdim=True) @ whiten.weight.T + whiten.bias
        expected += white / white.norm(dim=1, keepdim=True)
    torch.testing.assert_close(RMac(2, whiten=whiten)(x), expected)


def test_bad_input():
    with pytest.raises(ValueError, match="list of classes, or of the top ones"):
        CamCrow(CLASSIFIER)
    with pytest.raises(ValueError, match="list of classes, or of the top ones"):
        CamCrow(CLASSIFIER, [0], top=2)
    with pytest.raises(ValueError, match="p must be above 0"):
        SaliencyGeM(0.0)
    for bad in ({"name": "gap"}, {"name": "cls-gem", "p": 0.0}, {"name": "attention", "temperature": 0.0}):
        with pytest.raises(ValueError, match="name must be among"):
            TokenPooling(**bad)
    with pytest.raises(ValueError, match="weights must be B×R"):
        weighted_regions(torch.ones(2, 3, 4), torch.ones(2, 4))
