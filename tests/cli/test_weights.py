"""`resight weights`: an imported recipe describes as the publication does, computed here by hand."""

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors import safe_open  # noqa: E402
from torch import nn  # noqa: E402

from resight.describe.describer import Describer  # noqa: E402
from resight.describe.published import import_weights  # noqa: E402
from resight.errors import RecipeError  # noqa: E402
from resight.networks.layouts.affine import with_linear  # noqa: E402
from resight.networks.layouts.contents import contents  # noqa: E402
from resight.networks.layouts.published import Layout, Published, gem  # noqa: E402
from resight.networks.layouts.sequential import named  # noqa: E402
from resight.networks.torchvision_ops import ensure_torchvision  # noqa: E402
from resight.networks.weights import file_sha256, load_state  # noqa: E402
from resight.recipes.poolings import Gem  # noqa: E402
from resight.recipes.recipe import load_recipe  # noqa: E402
from resight.search.collection import Collection  # noqa: E402

ensure_torchvision()
import torchvision  # noqa: E402

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
META = {"architecture": "resnet18", "pooling": "gem", "mean": MEAN, "std": STD, "outputdim": 512}
PIXELS = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
FLAT = np.full((96, 128, 3), (200, 60, 120), np.uint8)  # which every way of resizing leaves as it is
P = 2.75


@pytest.fixture(scope="module")
def features():
    """``features`` of ``init_network``: torchvision's children without pooling and classifier."""
    torch.manual_seed(0)
    network = nn.Sequential(*list(torchvision.models.resnet18().children())[:-2])
    for name, tensor in network.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            tensor.normal_(std=0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    return network.eval()


@torch.inference_mode()
def pooled(features, pixels=PIXELS, *, normalise=True):
    """``extract_ss`` before whitening: normalise, features, GeM and L2N, float64."""
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    x = (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    gem = features(x).double().clamp(min=1e-6).pow(P).mean(dim=(2, 3))[0].pow(1 / P).numpy()
    return unit(gem) if normalise else gem


def pooled_flat(features, scale, *, normalise=True):
    height, width = (round(side * scale) for side in FLAT.shape[:2])
    return pooled(features, np.broadcast_to(FLAT[:1, :1], (height, width, 3)).copy(), normalise=normalise)


def unit(x):
    return x / np.linalg.norm(x)


def save(path, features, meta, **others):
    state = {f"features.{name}": tensor for name, tensor in features.state_dict().items()}
    torch.save({"meta": meta, "state_dict": state | {"pool.p": torch.tensor([P])} | others}, path)
    return path


def describe(folder, pixels=PIXELS):
    return Describer(load_recipe(folder)).describe(pixels).global_descriptor


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(expected).max() > 1e-2


def learned_afterwards(rng, dimensions=512):
    m = rng.uniform(0.0, 0.08, (512, 1))
    return {"m": m, "P": rng.normal(size=(dimensions, 512))}


def test_cirtorch_with_whitening_learned_afterwards(tmp_path, features):
    rng = np.random.default_rng(1)
    sets = {name: {kind: learned_afterwards(rng) for kind in ("ss", "ms")} for name in ("a", "retrieval-SfM-120k")}
    file = save(tmp_path / "GeM r18.pth", features, META | {"Lw": sets})

    remarks = import_weights(file, tmp_path / "ms")
    assert any("retrieval-SfM-120k; it also has a" in remark for remark in remarks)
    scales = [pooled_flat(features, s) for s in (1.0, 2**-0.5, 0.5)]
    x = unit(np.mean([s**P for s in scales], axis=0) ** (1 / P))
    lw = sets["retrieval-SfM-120k"]["ms"]
    close(describe(tmp_path / "ms", FLAT), unit(lw["P"] @ (x - lw["m"][:, 0])))

    import_weights(file, tmp_path / "ss", single_scale=True)
    lw = sets["retrieval-SfM-120k"]["ss"]
    close(describe(tmp_path / "ss"), unit(lw["P"] @ (pooled(features) - lw["m"][:, 0])))

    recipe = load_recipe(tmp_path / "ms")
    assert recipe.name == "gem-r18"
    assert recipe.source.startswith("GeM: Radenović, Tolias & Chum, TPAMI 2019; GeM r18.pth, sha256 ")
    assert recipe.source.endswith(file_sha256(file))
    stage = recipe.global_
    assert (stage.network, stage.layer, stage.pooling) == ("resnet18", "features", Gem(p=P))
    assert (stage.max_side, recipe.image.max_side, stage.dimensions) == (1024, 1024, 512)
    assert stage.weights_sha256 == file_sha256(stage.weights)


def test_cirtorch_with_a_layer_that_whitens(tmp_path, features):
    layer = nn.Linear(512, 512)
    state = {f"whiten.{name}": tensor for name, tensor in layer.state_dict().items()}
    file = save(tmp_path / "w.pth", features, META | {"whitening": True}, **state)
    weight, bias = (t.detach().double().numpy() for t in (layer.weight, layer.bias))

    import_weights(file, tmp_path / "one", single_scale=True)
    close(describe(tmp_path / "one"), unit(weight @ pooled(features) + bias))

    import_weights(file, tmp_path / "three")  # ``extract_ms``: the sum of what the whole network gives at each scale
    scales = [unit(weight @ pooled_flat(features, s) + bias) for s in (1.0, 2**0.5, 2**-0.5)]
    close(describe(tmp_path / "three", FLAT), unit(np.sum(scales, axis=0)))
    assert load_state(tmp_path / "one" / "head.safetensors").keys() == {"pool.p", *state}


def test_dirtorch_with_its_layer(tmp_path, features):
    """``ResNet_RMAC.forward`` with norm_features: GeM, L2, fc, L2."""
    layer = nn.Linear(512, 32)
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    state = {f"module.{n}.{k}": t for n, c in zip(names, features, strict=True) for k, t in c.state_dict().items()}
    state |= {"module.adpool.p": torch.tensor([P]), "module.fc.weight": layer.weight, "module.fc.bias": layer.bias}
    options = {"arch": "resnet18_rmac", "out_dim": 32, "pooling": "gem", "norm_features": True}
    facts = {"model_options": options, "preprocess": {"mean": MEAN, "std": STD, "input_size": 224}}
    torch.save({"state_dict": state} | facts, tmp_path / "ap.pt")
    import_weights(tmp_path / "ap.pt", tmp_path / "out")
    expected = unit(layer.weight.detach().double().numpy() @ pooled(features) + layer.bias.detach().double().numpy())
    close(describe(tmp_path / "out"), expected)

    torch.save({"state_dict": state} | facts | {"model_options": {"arch": "resnet18_rmac"}}, tmp_path / "ap.pt")
    import_weights(tmp_path / "ap.pt", tmp_path / "raw")  # GeM, fc, L2
    weight, bias = (t.detach().double().numpy() for t in (layer.weight, layer.bias))
    expected = unit(weight @ pooled(features, normalise=False) + bias)
    assert unit(weight @ pooled(features) + bias) @ expected < 0.99  # so that they can be told apart
    close(describe(tmp_path / "raw"), expected)


def test_a_linear_layer_that_takes_gem_as_it_is_at_several_scales(tmp_path, features, monkeypatch):
    """DELG: at each scale GeM, fc and L2; their sum, L2 (``tools/extractor.py``)."""
    layer = nn.Linear(512, 24)
    made = with_linear(
        Published("resnet18", named(features.state_dict(), "resnet18", "w")),
        gem(P, (2**-0.5, 1.0, 2**0.5)),
        layer.weight,
        layer.bias,
        fitted_on="fc",
        normalised=False,
    )
    published = Layout("made", "made up", lambda checkpoint: True, lambda checkpoint, single_scale: made)
    monkeypatch.setattr("resight.describe.published.recognise", lambda checkpoint, name: published)
    file = save(tmp_path / "w.pth", features, META)
    import_weights(file, tmp_path / "out")
    weight, bias = (t.detach().double().numpy() for t in (layer.weight, layer.bias))
    scales = [unit(weight @ pooled_flat(features, s, normalise=False) + bias) for s in (2**-0.5, 1.0, 2**0.5)]
    close(describe(tmp_path / "out", FLAT), unit(np.sum(scales, axis=0)))


def how(features, path, layer, **params):
    """A checkpoint of ``features`` up to layer3 with a 1×1 convolution, as ``how/utils/io_helpers.py`` saves it."""
    state = {f"features.{name}": tensor for name, tensor in features[:7].state_dict().items()}
    state |= {f"dim_reduction.{name}": tensor.detach() for name, tensor in layer.state_dict().items()}
    runtime = {"mean_std": [MEAN, STD], "image_size": 1024, "features_num": 1000, "scales": [1.0, 0.5]}
    net_params = {"architecture": "resnet18", "smoothing": {"kernel_size": 3}, "runtime": runtime | params}
    torch.save({"_version": "how/2020", "net_params": net_params, "state_dict": state}, path)
    return path


@torch.inference_mode()
def how_features(features, layer, top, pixels=PIXELS):
    """``features_attentions`` and ``how_select_local`` at one scale: attentions and features, strongest first."""
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    x = (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    maps = features[:7](x)
    attention = maps.pow(2).sum(1).sqrt().flatten()
    smoothed = nn.functional.avg_pool2d(maps, 3, stride=1, padding=1, count_include_pad=False)
    order = attention.argsort(descending=True)[:top]
    local = nn.functional.normalize(layer(smoothed).flatten(2)[0].T, dim=1)
    return (attention / attention.max())[order].numpy(), local[order].numpy()


def test_how_with_its_local_features(tmp_path, features, photos):
    torch.manual_seed(2)
    layer = nn.Conv2d(256, 16, 1)
    file = how(features, tmp_path / "how r18.pth", layer, features_num=30)
    remarks = import_weights(file, tmp_path / "out", single_scale=True)
    assert any("words are learned from each collection" in remark for remark in remarks)
    recipe = load_recipe(tmp_path / "out")
    assert (recipe.name, recipe.filter, recipe.local.layer, recipe.local.scales) == ("how-r18", "asmk", "layer3", (1,))
    found = Describer(recipe).describe(PIXELS).local
    attention, local = how_features(features, layer, 30)
    np.testing.assert_allclose(found.score, attention, rtol=1e-4)
    # Kept in eight bits: within half a step of 1/256, and what is beyond 127/256 clipped.
    np.testing.assert_allclose(found.descriptors / found.unit, local.clip(-127 / 256, 127 / 256), atol=0.51 / 256)

    import_weights(file, tmp_path / "three")
    assert load_recipe(tmp_path / "three").local.scales == (1.0, 0.5)
    few = [photos / f"{name}-1.png" for name in ("rocket", "coffee", "chelsea")]
    with Collection.create(tmp_path / "c", load_recipe(tmp_path / "three")) as collection:
        assert collection.add(few, workers=1).failed == 0
        assert collection.find(str(few[0])) in collection.search(few[0]).ids


@pytest.mark.parametrize(
    ("dimensions", "params", "said"), [(12, {}, "multiple of 8"), (16, {"scales": ["a"]}, "cannot say its scales.0")]
)
def test_how_of_sizes_that_no_recipe_has_keeps_its_weights(tmp_path, features, dimensions, params, said):
    file = how(features, tmp_path / "w.pth", nn.Conv2d(256, dimensions, 1), **params)
    remarks = import_weights(file, tmp_path / "out")
    assert any("no recipe is written" in remark and said in remark for remark in remarks)
    assert {f.name for f in (tmp_path / "out").iterdir()} == {"model.safetensors", "head.safetensors"}


def test_without_whitening_the_recipe_asks_to_be_fitted(tmp_path, features):
    remarks = import_weights(save(tmp_path / "w.pth", features, META), tmp_path / "out")
    assert any("resight fit" in remark for remark in remarks)
    with pytest.raises(RecipeError, match="no whitening yet"):
        describe(tmp_path / "out")


@pytest.mark.slow  # timm draws VGG's classifier at random before it is dropped
def test_the_layer_of_vgg_that_is_pooled_can_be_loaded(tmp_path):
    vgg = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["A"])
    torch.manual_seed(0)
    vgg = nn.Sequential(*list(vgg.children())[:-1]).eval()
    meta = META | {"architecture": "vgg11", "Lw": {"s": {"ss": {"m": np.zeros((512, 1)), "P": np.eye(512)}}}}
    import_weights(save(tmp_path / "w.pth", vgg, meta), tmp_path / "out", single_scale=True)
    assert load_recipe(tmp_path / "out").global_.layer == "features.19"
    close(describe(tmp_path / "out"), pooled(vgg))


def test_weights_keep_their_dtype_and_say_what_they_are(tmp_path, features):
    state = {f"features.{name}": t.half() if t.is_floating_point() else t for name, t in features.state_dict().items()}
    meta = META | {"pooling": "other"}
    torch.save({"meta": meta, "state_dict": state}, tmp_path / "w.pth")
    remarks = import_weights(tmp_path / "w.pth", tmp_path / "out")
    assert any("no recipe is written: its pooling is other" in remark for remark in remarks)
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["model.safetensors"]
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as file:
        assert file.get_tensor("conv1.weight").dtype == torch.float16
        assert file.get_tensor("bn1.num_batches_tracked").dtype == torch.int64
        assert json.loads(file.metadata()["resight"])["layout"] == "cirtorch"


class Canary:
    """Sings when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def test_python_objects_are_refused_unrun_and_nothing_is_left(tmp_path, features):
    file = save(tmp_path / "w.pth", features, META | {"Lw": Canary(tmp_path / "mark")})
    for act in (lambda: import_weights(file, tmp_path / "out"), lambda: contents(file)):
        with pytest.raises(RecipeError, match=r"w\.pth: holds more than tensors.*del c\[ENTRY\]"):
            act()
    assert [f.name for f in tmp_path.iterdir()] == ["w.pth"]


def test_a_whitening_of_scikit_learn_is_to_be_learned_anew(tmp_path, monkeypatch):
    module = ModuleType("sklearn.decomposition.pca")
    module.PCA = type("PCA", (), {"__module__": module.__name__})
    monkeypatch.setitem(sys.modules, "sklearn.decomposition", ModuleType("sklearn.decomposition"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    pca = {"Landmarks_clean": module.PCA()}
    torch.save({"state_dict": {"adpool.p": torch.ones(1)}, "pca": pca}, tmp_path / "ap.pt")
    with pytest.raises(RecipeError, match=r"sklearn\.decomposition\.pca\.PCA.*resight fit"):
        import_weights(tmp_path / "ap.pt", tmp_path / "out")


def test_what_cannot_be_imported_leaves_nothing(tmp_path, features):
    lw = {"s": {"ms": {"m": np.zeros((7, 1)), "P": np.eye(7)}}}
    wrong = save(tmp_path / "w.pth", features, META | {"Lw": lw})
    with pytest.raises(RecipeError, match=r"w\.pth: its whitening takes 7 entries, its network gives 512"):
        import_weights(wrong, tmp_path / "out")
    short = save(tmp_path / "short.pth", features[:5], META)
    with pytest.raises(RecipeError, match=r"short\.pth: does not fit the network: missing layer2"):
        import_weights(short, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "photo.jpg").touch()
    with pytest.raises(RecipeError, match="not an empty folder"):
        import_weights(short, tmp_path / "full")
    with pytest.raises(RecipeError, match="--network"):
        import_weights(short, tmp_path / "out", layout="cirtorch", network="resnet18")
    assert {f.name for f in tmp_path.iterdir()} == {"w.pth", "short.pth", "full"}


def test_the_command_line(tmp_path, features):
    from typer.testing import CliRunner

    from resight.cli.main import app

    file = save(
        tmp_path / "w.pth", features, META | {"Lw": {"s": {"ms": learned_afterwards(np.random.default_rng(0))}}}
    )
    (tmp_path / "out").mkdir()
    result = CliRunner().invoke(app, ["weights", "import", str(file), "--into", str(tmp_path / "out")])
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'out'}\n")
    assert "layout cirtorch, network resnet18" in result.stderr
    assert (tmp_path / "out" / "whitening.safetensors").is_file()

    shown = CliRunner().invoke(app, ["weights", "show", str(file)]).stdout.splitlines()
    assert shown[0].startswith("layout  cirtorch (GeM: ")
    assert "meta.architecture  resnet18" in shown
    assert "meta.Lw.s.ms.P  float64 512×512" in shown
    assert any(line.split() == ["features.0.weight", "float32", "64×3×7×7"] for line in shown)
    result = CliRunner().invoke(app, ["weights", "show", str(tmp_path / "out" / "model.safetensors"), "--json"])
    facts = json.loads(result.stdout)
    assert facts["layout"].startswith("plain")
    assert facts["tensors"]["conv1.weight"] == {"dtype": "float32", "shape": [64, 3, 7, 7]}

    result = CliRunner().invoke(app, ["weights", "import", str(file), "--into", str(tmp_path / "x"), "--layout", "y"])
    assert (result.exit_code, "no layout 'y'" in result.stderr) == (2, True)
