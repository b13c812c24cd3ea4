"""HOW's descriptor with gradients against the NumPy form that describes, and finite differences."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from resight.learning.schemes.how_model import HowGlobal, weighted_local_sum  # noqa: E402
from resight.local.how import how_global  # noqa: E402
from resight.projection.projection import Projection  # noqa: E402


def whitening(channels, dimensions=3):
    rng = np.random.default_rng(4)
    mean, matrix = rng.standard_normal(channels), rng.standard_normal((dimensions, channels))
    return Projection(mean.astype(np.float32), matrix.astype(np.float32), "pca-whitening", 9, "by hand", "")


@pytest.mark.parametrize("shape", [(7, 5), (1, 4), (2, 1), (1, 1)])
def test_it_is_the_descriptor_of_inference(shape):
    maps = np.random.default_rng(3).standard_normal((4, 6, *shape)).astype(np.float32)
    projection = whitening(6)
    got = HowGlobal(projection)(torch.from_numpy(maps)).numpy()
    np.testing.assert_allclose(got, [how_global([values], projection) for values in maps], atol=1e-5)


def test_an_empty_map_gives_zeros_and_finite_gradients():
    maps = torch.zeros(2, 6, 3, 3)
    maps[1] = 1.0
    maps.requires_grad_()
    got = HowGlobal(whitening(6))(maps)
    assert not got[0].any() and torch.allclose(got[1].norm(), torch.tensor(1.0))
    np.testing.assert_allclose(got[0].detach(), how_global([np.zeros((6, 3, 3), np.float32)], whitening(6)))
    got.sum().backward()
    assert torch.isfinite(maps.grad).all()


def test_its_gradient_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    maps, mean, matrix = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in [(2, 4, 3, 2), (4,), (3, 4)]
    )
    assert torch.autograd.gradcheck(lambda x: weighted_local_sum(x, mean, matrix), maps.requires_grad_())


def test_its_reduction_does_not_learn_but_is_kept_in_checkpoints():
    module = HowGlobal(whitening(6))
    assert not list(module.parameters()) and set(module.state_dict()) == {"mean", "matrix"}
    with pytest.raises(ValueError, match="5 channels"):
        module(torch.zeros(1, 5, 2, 2))
