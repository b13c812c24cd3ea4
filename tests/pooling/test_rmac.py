"""R-MAC against regions typed by hand and closed forms."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from resight.errors import RecipeError  # noqa: E402
from resight.pooling.mac import mac  # noqa: E402
from resight.pooling.rmac import r_mac, region_cells, regional_mac  # noqa: E402

# 4×4, 2 levels. paper: sides 4 and 8/3, the latter from 0 and 4/3, rounded outwards. cirtorch: the whole map first,
# sides 4 and 2, the latter from 0 and 2.
CELLS = {
    "paper": [(0, 0, 4, 4), (0, 0, 3, 3), (1, 0, 4, 3), (0, 1, 3, 4), (1, 1, 4, 4)],
    "cirtorch": [(0, 0, 4, 4), (0, 0, 4, 4), (0, 0, 2, 2), (2, 0, 4, 2), (0, 2, 2, 4), (2, 2, 4, 4)],
}


@pytest.mark.parametrize("variant", CELLS)
def test_regions_of_a_small_square(variant):
    assert region_cells(4, 4, 2, variant) == CELLS[variant]


@pytest.mark.parametrize("variant", CELLS)
def test_equals_the_naive_loop(variant):
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 4))
    regions = np.zeros((2, len(CELLS[variant]), 3))
    for b, r, c in np.ndindex(regions.shape):
        x1, y1, x2, y2 = CELLS[variant][r]
        regions[b, r, c] = max(x[b, c, h, w] for h in range(y1, y2) for w in range(x1, x2))
    np.testing.assert_array_equal(regional_mac(torch.from_numpy(x), 2, variant), regions)
    expected = sum(regions[:, r] / np.linalg.norm(regions[:, r], axis=1)[:, None] for r in range(regions.shape[1]))
    np.testing.assert_allclose(r_mac(torch.from_numpy(x), 2, variant), expected)


def test_width_and_height_are_not_mixed_up():
    x = torch.zeros(1, 1, 2, 4)
    x[0, 0, 0, 3] = 1.0
    # Level 1: squares of side 2 from x = 0, 1 and 2 (two steps overlap by half, nearest 40 %).
    assert regional_mac(x, 1)[0, :, 0].tolist() == [float(x2 > 3) for _, _, x2, _ in region_cells(2, 4, 1)]
    assert regional_mac(x, 1)[0, :, 0].sum() == 1


@pytest.mark.parametrize(("variant", "regions"), [("paper", 14), ("cirtorch", 15)])
def test_constant_map_is_its_vector_once_a_region(variant, regions):
    x = torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1).expand(1, 2, 12, 12)
    assert regional_mac(x, 3, variant).shape == (1, regions, 2)
    torch.testing.assert_close(r_mac(x, 3, variant), torch.tensor([[0.6, 0.8]]) * regions)


def test_whole_map_is_mac():
    x = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(regional_mac(x, 1, whole=True)[:, 0], mac(x))


def test_no_levels_are_refused():
    with pytest.raises(RecipeError, match="levels"):
        r_mac(torch.ones(1, 1, 4, 4), 0)
