"""DOLG is trained: both branches and the layer after the fusion learn, and its recipe describes as the module does."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import tomli_w  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from resight.describe.describer import Describer  # noqa: E402
from resight.learning.losses import make_loss  # noqa: E402
from resight.learning.losses.stages import ArcFaceStage  # noqa: E402
from resight.learning.model import Learns, make_model  # noqa: E402
from resight.learning.write import write_recipe  # noqa: E402
from resight.networks.torchvision_ops import ensure_torchvision  # noqa: E402
from resight.recipes import load_recipe  # noqa: E402


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """As recipes/dolg.toml, of a small network, at one scale."""
    folder = tmp_path_factory.mktemp("dolg")
    ensure_torchvision()
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(1)
        save_file(timm.create_model("test_resnet.r160_in1k").state_dict(), folder / "w.safetensors")
    table = load_recipe("dolg").model_dump(by_alias=True, exclude_none=True, mode="json")
    small = {"network": "test_resnet.r160_in1k", "weights": "w.safetensors", "max_side": 96, "scales": [1.0]}
    table["global"] |= {**small, "dimensions": 16}
    table["global"]["also"][0]["attention"] |= {"dimensions": 96, "inner": 8, "rates": [1, 2]}
    (folder / "recipe.toml").write_text(tomli_w.dumps(table))
    return load_recipe(folder)


def test_it_learns_and_its_recipe_describes_as_the_module(recipe, pictures, tmp_path):
    model = make_model(recipe.global_, weights=None, learns=Learns(projection=16), recipe_name="dolg", seed=0)
    again = make_model(recipe.global_, weights=None, learns=Learns(projection=16), recipe_name="dolg", seed=0)
    for one, other in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)  # new layers follow from the seed
    before = {name: x.clone() for name, x in model.named_parameters()}
    x = torch.stack([torch.from_numpy(pictures[n][:96, :96].copy()) for n in ("coffee", "chelsea", "astronaut")])
    x, labels = x.permute(0, 3, 1, 2), torch.tensor([0, 1, 2])
    loss = make_loss(ArcFaceStage(kind="arcface", margin=0.15, scale=30.0), dimensions=16, classes=3, seed=0)
    optimiser = torch.optim.SGD([*model.parameters(), *loss.parameters()], lr=1e-3)
    model.train()
    values = []
    for _ in range(8):
        optimiser.zero_grad()
        value = loss(model(x), labels)
        value.backward()
        optimiser.step()
        values.append(value.item())
    assert values[-1] < values[0]
    moved = {name.split(".")[0] for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved >= {"trunk", "heads", "projection"}
    assert any(".attention.aspp." in name and not torch.equal(p, before[name]) for name, p in model.named_parameters())
    model.eval()
    write_recipe(model, recipe, tmp_path / "made", trained={"on": "three pictures"})
    describer = Describer(load_recipe(tmp_path / "made"))
    with torch.no_grad():
        expected = model(x).numpy()
    found = [describer.network.describe(each.permute(1, 2, 0).numpy().copy()) for each in x]
    np.testing.assert_allclose(found, expected, atol=1e-5)
