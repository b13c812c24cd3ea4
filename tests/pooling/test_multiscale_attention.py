"""Regional attention: naive loops over the grid, plain R-MAC where weights are even, and published names."""

import math

import pytest

torch = pytest.importorskip("torch")

from resight.pooling.multiscale_attention import RegionalAttention, attention_map, regional_context  # noqa: E402
from resight.pooling.rmac import r_mac, region_cells  # noqa: E402


@pytest.fixture
def maps():
    return torch.rand(2, 3, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def module():
    torch.manual_seed(2)
    return RegionalAttention(3, hidden=4, levels=3).double()


def test_a_region_in_its_context(maps):
    context = regional_context(maps, levels=2)
    for r, (x1, y1, x2, y2) in enumerate(region_cells(5, 7, 2)):
        for b in range(2):
            for c in range(3):
                cells = [maps[b, c, y, x].item() for y in range(y1, y2) for x in range(x1, x2)]
                assert context[b, r, c].item() == pytest.approx(sum(cells) / len(cells))
                assert context[b, r, 3 + c].item() == pytest.approx(maps[b, c].mean().item())


def test_weights_and_vector_by_loops(maps, module):
    state = {name: value.squeeze(-1) if value.ndim == 3 else value for name, value in module.state_dict().items()}
    context = regional_context(maps, 3)
    regions = region_cells(5, 7, 3)
    for b in range(2):
        expected = torch.zeros(3, dtype=torch.float64)
        for r, (x1, y1, x2, y2) in enumerate(regions):
            hidden = torch.tanh(state["conv_att_1.weight"] @ context[b, r] + state["conv_att_1.bias"])
            score = (state["conv_att_2.weight"] @ hidden + state["conv_att_2.bias"]).item()
            weight = math.log1p(math.exp(score))
            assert module.weights(maps)[b, r].item() == pytest.approx(weight)
            maxima = maps[b, :, y1:y2, x1:x2].amax(dim=(1, 2))
            expected += weight * maxima / maxima.norm() / len(regions)
        torch.testing.assert_close(module(maps)[b], expected)


def test_even_weights_give_r_mac(maps, module):
    with torch.no_grad():
        module.conv_att_2.weight.zero_()
        module.conv_att_2.bias.fill_(math.log(math.e - 1))  # softplus gives 1
    torch.testing.assert_close(module(maps) * len(region_cells(5, 7, 3)), r_mac(maps, 3))


def test_whitening_comes_before_the_norm(maps):
    torch.manual_seed(0)
    whiten = torch.nn.Linear(3, 2).double()
    module = RegionalAttention(3, hidden=4, levels=1, whiten=whiten).double()
    weights = module.weights(maps)
    vectors = []
    for x1, y1, x2, y2 in region_cells(5, 7, 1):
        white = maps[:, :, y1:y2, x1:x2].amax(dim=(2, 3)) @ whiten.weight.T + whiten.bias
        vectors.append(white / white.norm(dim=1, keepdim=True))
    expected = sum(w[:, None] * v for w, v in zip(weights.T, vectors, strict=True)) / len(vectors)
    torch.testing.assert_close(module(maps), expected)


def test_the_map_sums_the_regions_that_see_a_position(maps, module):
    mask = module.mask(maps)
    weights = module.weights(maps).tolist()
    regions = region_cells(5, 7, 3)
    for b in range(2):
        for y in range(5):
            for x in range(7):
                seen = [
                    w for w, (x1, y1, x2, y2) in zip(weights[b], regions, strict=True) if x1 <= x < x2 and y1 <= y < y2
                ]
                assert mask[b, 0, y, x].item() == pytest.approx(sum(seen) / len(regions))


def test_names_and_shapes_of_the_published_checkpoint():
    """Of ``region_attention`` in jaeyoon1603/Retrieval-RegionalAttention."""
    shapes = {name: tuple(value.shape) for name, value in RegionalAttention(2048).state_dict().items()}
    assert shapes == {
        "conv_att_1.weight": (64, 4096, 1),
        "conv_att_1.bias": (64,),
        "conv_att_2.weight": (1, 64, 1),
        "conv_att_2.bias": (1,),
    }


def test_bad_input(maps):
    with pytest.raises(ValueError, match="weights must be B×"):
        attention_map(torch.ones(2, 3), 5, 7, levels=3)
    with pytest.raises(ValueError, match="B×C×H×W"):
        regional_context(maps[0])
