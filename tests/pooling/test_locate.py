"""Contributions add up to what the poolings themselves return, and lie where the activations do."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from resight.pooling.average import average  # noqa: E402
from resight.pooling.crow import crow  # noqa: E402
from resight.pooling.gem import gem  # noqa: E402
from resight.pooling.gram import gram  # noqa: E402
from resight.pooling.heat_diffusion import heat_diffusion  # noqa: E402
from resight.pooling.locate import LOCATABLE, contributions, regional_contributions, weighted_places  # noqa: E402
from resight.pooling.mac import mac  # noqa: E402
from resight.pooling.multiscale_attention import weighted_regions  # noqa: E402
from resight.pooling.rmac import r_mac, regional_mac  # noqa: E402
from resight.pooling.spoc import spoc  # noqa: E402
from resight.pooling.sum_pooling import sum_pooling  # noqa: E402

POOLINGS = [
    ("sum", sum_pooling, {}),
    ("average", average, {}),
    ("mac", mac, {}),
    ("gem", gem, {}),
    ("gem", gem, {"p": 1.0}),
    ("gem", gem, {"p": 20.0, "eps": 0.1}),
    ("spoc", spoc, {}),
    ("crow", crow, {}),
    ("crow", crow, {"a": 3.0, "b": 1.0}),
    ("gram", gram, {}),
    ("heat", heat_diffusion, {}),
    ("heat", heat_diffusion, {"threshold": 0.4, "ground": 0.5}),
    ("r-mac", r_mac, {}),
    ("r-mac", r_mac, {"levels": 2, "variant": "cirtorch"}),
    ("r-mac", r_mac, {"levels": 2, "whole": True}),
]


def test_every_pooling_is_tested():
    assert {name for name, _, _ in POOLINGS} == set(LOCATABLE)


@pytest.mark.parametrize(("name", "pool", "parameters"), POOLINGS)
@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    values=st.sampled_from([2, 1000]),
    relu=st.booleans(),
)
def test_sums_are_the_pooled_vector(name, pool, parameters, seed, height, width, values, relu):
    # Few values make ties; a ReLU makes dead channels in small maps.
    random = torch.Generator().manual_seed(seed)
    x = torch.randint(-values, values + 1, (2, 3, height, width), generator=random) / values * 2.0
    x = (x.relu() if relu else x).double()
    parts = contributions(x, name, **parameters)
    assert parts.shape == x.shape
    torch.testing.assert_close(parts.sum(dim=(2, 3)), pool(x, **parameters))


@pytest.mark.parametrize("name", LOCATABLE)
def test_a_dead_map_gives_zeros(name):
    parts = contributions(torch.zeros(1, 2, 4, 5), name)
    assert parts.isfinite().all() and parts.abs().max() <= 1e-6


@pytest.mark.parametrize("name", LOCATABLE)
def test_a_lone_activation_gets_all(name):
    x = torch.zeros(1, 2, 4, 5)
    x[0, 0, 1, 2] = 3.0
    x[0, 1, 1, 2] = 1.0
    x[0, 1, 3, 4] = 0.5
    parts = contributions(x, name)[0, 0]
    assert parts[1, 2] > 0
    torch.testing.assert_close(parts.sum(), parts[1, 2])


def test_ties_of_a_maximum_are_shared():
    x = torch.tensor([[[[6.0, 1.0], [6.0, 6.0]]]])
    assert contributions(x, "mac").tolist() == [[[[2.0, 0.0], [2.0, 2.0]]]]


def test_gem_shares_by_power():
    x = torch.tensor([[[[1.0, 2.0]]]])
    pooled = (9 / 2) ** (1 / 3)
    torch.testing.assert_close(contributions(x, "gem", p=3.0), torch.tensor([[[[pooled / 9, pooled * 8 / 9]]]]))


def test_heat_map_of_a_dot_product():
    x = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    query = torch.tensor([[0.5, -1.0, 2.0]])
    heat = torch.einsum("bchw,bc->bhw", contributions(x, "crow"), query)
    torch.testing.assert_close(heat.sum(), (crow(x) * query).sum())


def test_places_of_weighted_sums_are_those_of_their_contributions():
    random = torch.Generator().manual_seed(0)
    x, weights, directions = (torch.randn(*shape, generator=random) for shape in ((4, 3, 5), (2, 3, 5), (2, 4)))
    expected = torch.einsum("chw,thw,tc->hw", x, weights, directions)
    torch.testing.assert_close(weighted_places(x, weights, directions), expected)


def test_weighted_regions_add_up():
    random = torch.Generator().manual_seed(0)
    x, weights = (
        torch.randn(2, 3, 6, 7, generator=random),
        torch.rand(2, len(regional_mac(torch.ones(1, 1, 6, 7), 2)[0])),
    )
    parts = regional_contributions(x, weights, 2)
    torch.testing.assert_close(parts.sum(dim=(2, 3)), weighted_regions(regional_mac(x, 2), weights))


def test_bad_input():
    with pytest.raises(ValueError, match="sum, average, mac, gem, spoc, crow, r-mac, gram, heat, not for 'vlad'"):
        contributions(torch.ones(1, 1, 2, 2), "vlad")
    with pytest.raises(ValueError, match="B×C×H×W"):
        contributions(torch.ones(1, 2, 2), "sum")
    with pytest.raises(TypeError, match="p"):
        contributions(torch.ones(1, 1, 2, 2), "mac", p=3.0)
