"""SPoC's prior from its formula, and what it does to single activations."""

import math

import pytest

torch = pytest.importorskip("torch")

from resight.pooling.spoc import centre_prior, spoc  # noqa: E402


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (3, 7), (6, 4)])
def test_prior_is_the_gaussian_of_the_distance_to_the_centre(height, width):
    sigma = min(height / 2, width / 2) / 3
    prior = centre_prior(height, width)
    for row in range(height):
        for column in range(width):
            distance = math.hypot(row + 0.5 - height / 2, column + 0.5 - width / 2)
            assert prior[row, column].item() == pytest.approx(math.exp(-(distance**2) / (2 * sigma**2)))


def test_prior_by_hand():
    # σ = 1/2; one cell from the centre is exp(-1 / (2/4)), the corner exp(-2 / (2/4)).
    edge, corner = math.exp(-2), math.exp(-4)
    expected = [[corner, edge, corner], [edge, 1, edge], [corner, edge, corner]]
    torch.testing.assert_close(centre_prior(3, 3), torch.tensor(expected, dtype=torch.float64))


def test_prior_is_its_own_mirror_image():
    prior = centre_prior(4, 7)
    torch.testing.assert_close(prior.flip(0), prior)
    torch.testing.assert_close(prior.flip(1), prior)


def test_one_activation_is_worth_its_prior():
    prior = centre_prior(3, 5)
    for row in range(3):
        for column in range(5):
            x = torch.zeros(1, 2, 3, 5)
            x[0, 1, row, column] = 4.0
            torch.testing.assert_close(spoc(x), torch.tensor([[0.0, 4.0 * prior[row, column].item()]]))


def test_constant_map_gives_the_sum_of_the_prior():
    torch.testing.assert_close(spoc(torch.full((1, 1, 6, 4), 2.0)).item(), 2 * centre_prior(6, 4).sum().item())


def test_half_precision_maps_stay_half():
    assert spoc(torch.ones(1, 2, 4, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16
