"""DOLG within a recipe: its local branch by hand, fused with GeM's vector; what does not fit."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402

from resight.describe.global_descriptor import GlobalDescriber  # noqa: E402
from resight.describe.locate import locate  # noqa: E402
from resight.errors import RecipeError  # noqa: E402
from resight.networks.torchvision_ops import ensure_torchvision  # noqa: E402
from resight.pooling.multi_atrous import MultiAtrousAttention  # noqa: E402
from resight.recipes.network_stages import GlobalStage  # noqa: E402

NETWORK = "test_resnet.r160_in1k"
LOCAL = {"kind": "multi-atrous", "dimensions": 96, "inner": 8, "rates": (1, 3), "weights": "local.safetensors"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small network, and a local branch for the 192 channels of its layer3, in a checkpoint with a prefix."""
    path = tmp_path_factory.mktemp("dolg")
    ensure_torchvision()
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(2)
        safetensors.torch.save_file(timm.create_model(NETWORK).state_dict(), path / "w.safetensors")
        module = MultiAtrousAttention(192, 96, 8, (1, 3))
        state = {f"localmodel.{name}": tensor for name, tensor in module.state_dict().items()}
        safetensors.torch.save_file(state | {"fc_t.weight": torch.zeros(3)}, path / "local.safetensors")
    return path


def stage(**changes):
    also = {"layer": "layer3", "pooling": "average", "attention": {**LOCAL, "prefix": "localmodel."}, **changes}
    table = {"network": NETWORK, "layer": "layer4", "max_side": 96, "weights": "w.safetensors", "whiten": "none"}
    return GlobalStage.model_validate({**table, "dimensions": 192, "fusion": "orthogonal", "also": [also]})


def test_the_descriptor_is_gems_vector_and_what_of_the_local_one_is_orthogonal(folder, pictures):
    describer = GlobalDescriber(stage(), folder)
    pixels = pictures["coffee"]
    found = describer.describe(pixels)
    (head, local) = describer.heads
    plain = GlobalDescriber(
        GlobalStage.model_validate({**stage().model_dump(), "also": [{"layer": "layer3", "pooling": "average"}]}
                                   | {"fusion": "concatenate", "dimensions": 288}), folder)  # fmt: skip
    ((_, top),), ((_, middle),) = plain.outputs(plain.prepare(pixels))
    module = MultiAtrousAttention(192, 96, 8, (1, 3)).eval()
    state = safetensors.torch.load_file(folder / "local.safetensors")
    module.load_state_dict({k.removeprefix("localmodel."): v for k, v in state.items() if k.startswith("localmodel.")})
    with torch.no_grad():
        mean = module(middle)[0].double().mean(dim=(1, 2)).numpy()
    g = (top[0].double().clamp(min=1e-6) ** 3).mean(dim=(1, 2)).numpy() ** (1 / 3)
    g, mean = g / np.linalg.norm(g), mean / np.linalg.norm(mean)
    expected = np.concatenate([g, mean - (g @ mean) * g])
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-5)
    assert head.attention is None and local.attention is not None


def test_what_does_not_fit_is_said(folder, pictures):
    with pytest.raises(ValueError, match="makes channels of its own"):
        stage(pooling="gem")
    with pytest.raises(RecipeError, match="has to be trained"):
        GlobalDescriber(stage(attention={**LOCAL, "weights": ""}), folder)
    alone = {**stage().model_dump(), "also": (), "fusion": "concatenate", "layer": "layer3", "pooling": "average"}
    attention = {**LOCAL, "prefix": "localmodel."}
    describer = GlobalDescriber(GlobalStage.model_validate({**alone, "dimensions": 96, "attention": attention}), folder)
    with pytest.raises(RecipeError, match="it mixes the positions of the map"):
        locate(describer, pictures["coffee"], describer.describe(pictures["coffee"]))
