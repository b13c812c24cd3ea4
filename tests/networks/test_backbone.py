"""Backbones: normalisation, layer choice, real weights, and no answer from a random network."""

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402

from resight.describe.global_descriptor import GlobalDescriber  # noqa: E402
from resight.errors import RecipeError  # noqa: E402
from resight.networks.backbone import load_backbone, load_classifier  # noqa: E402
from resight.networks.torchvision_ops import ensure_torchvision  # noqa: E402
from resight.recipes.network_stages import GlobalStage  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("RESIGHT_TEST_DATA", ROOT.parent / "shared/data"))
DENSENET = DATA / "weights/densenet169_imagenet/densenet169_notop_fp16.npz"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(a seeded ResNet-10t, its weights file)."""
    ensure_torchvision()
    import timm

    torch.manual_seed(3)
    network = timm.create_model("resnet10t", num_classes=0, global_pool="").eval()
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    safetensors.torch.save_file(network.state_dict(), path)
    return network, path


def saved(folder, name, layers):
    """A backbone of a seeded network of timm's."""
    import timm

    torch.manual_seed(3)
    path = folder / f"{name}.safetensors"
    safetensors.torch.save_file(timm.create_model(name, num_classes=0).state_dict(), path)
    return load_backbone(name, layers=layers, weights=path)


def normalised(network, pixels):
    """As the network's own configuration says, in double precision."""
    mean, std = (np.array(network.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    return torch.from_numpy((pixels.double().numpy() / 255 - mean) / std).float()


def test_outputs_are_the_networks_own_after_its_normalisation(small):
    network, path = small
    backbone = load_backbone("resnet10t", layers=("layer2", "features", "pooled"), weights=path)
    pixels = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    x = normalised(network, pixels)
    with torch.no_grad():
        features = network.forward_features(x)
        layer2 = network.layer2(network.layer1(network.maxpool(network.act1(network.bn1(network.conv1(x))))))
    assert [(layer.name, layer.channels, layer.stride) for layer in backbone.layers] == [
        ("layer2", 128, 8),
        ("features", 512, 32),
        ("pooled", 512, None),
    ]
    for images in (pixels, pixels.float() / 255):
        found = backbone(images)
        for output, expected in zip(found, (layer2, features, features.mean(dim=(2, 3))), strict=True):
            assert output.dtype == torch.float32
            torch.testing.assert_close(output, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("layers", "last"), [(("layer2",), "layer2"), (("layer3", "layer1"), "layer3")])
def test_nothing_is_computed_after_the_last_layer(small, layers, last):
    backbone = load_backbone("resnet10t", layers=layers, weights=small[1])
    ran = []
    for name in ("layer1", "layer2", "layer3", "layer4"):
        backbone.module.network.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: ran.append(name))
    assert [output.shape[1] for output in backbone(torch.rand(1, 3, 64, 64))] == [
        {"layer1": 64, "layer2": 128, "layer3": 256}[layer] for layer in layers
    ]
    assert ran[-1] == last


@pytest.mark.parametrize(
    ("name", "layers", "sizes"),
    [
        ("resnet10t", ("conv1", "features"), [(64, 96), (97, 50)]),
        ("test_vit", ("block.2", "tokens", "cls", "pooled"), [(64, 96), (112, 64)]),
    ],
)
def test_the_module_computes_the_same_and_can_be_exported(tmp_path, name, layers, sizes):
    backbone = saved(tmp_path, name, layers)
    images = [torch.rand(2, 3, *size) for size in sizes]
    for x in images:
        for exported, output in zip(backbone.module(x), backbone(x), strict=True):
            torch.testing.assert_close(exported, output, rtol=1e-5, atol=1e-6)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(backbone.module, images[0])
        program = torch.export.export(backbone.module, (images[0],)).module()
    for again in (traced, program):
        for exported, output in zip(again(images[0]), backbone(images[0]), strict=True):
            torch.testing.assert_close(exported, output, rtol=1e-5, atol=1e-5)


def test_the_multiple_and_the_least_side(small, tmp_path):
    backbone = saved(tmp_path, "test_vit", ("features",))
    assert (backbone.multiple, backbone.least) == (16, 16)
    assert backbone(torch.rand(1, 3, 16, 48))[0].shape == (1, 64, 1, 3)
    with pytest.raises(ValueError, match="sides in multiples of 16, not 40×48"):
        backbone(torch.rand(1, 3, 40, 48))
    backbone = load_backbone("resnet10t", weights=small[1])
    assert (backbone.multiple, backbone.least) == (1, 1)
    assert backbone(torch.rand(1, 3, 1, 1))[0].shape == (1, 512, 1, 1)


def test_alexnet_needs_a_classifier_only_for_its_layers(tmp_path):
    ensure_torchvision()
    import torchvision

    torch.manual_seed(3)
    features = torchvision.models.AlexNet().features.eval()
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file({f"features.{k}": v for k, v in features.state_dict().items()}, path)
    backbone = load_backbone("alexnet", layers=("conv5",), weights=path)
    x = torch.rand(1, 3, 70, 90)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        torch.testing.assert_close(backbone(x)[0], features[:12]((x - mean) / std), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="images for alexnet need sides of 31, not 20×20"):
        backbone(torch.rand(1, 3, 20, 20))
    with pytest.raises(RecipeError, match=r"missing classifier\.1\.weight"):
        load_backbone("alexnet", layers=("fc6",), weights=path)


@pytest.mark.parametrize("name", ["convnext_atto", "deit_tiny_distilled_patch16_224"])
def test_a_published_file_has_a_classifier_which_is_left_aside(tmp_path, name):
    """timm calls them head.fc beside a head.norm that is kept, and head and head_dist."""
    ensure_torchvision()
    import timm

    torch.manual_seed(3)
    network = timm.create_model(name).eval()
    safetensors.torch.save_file(network.state_dict(), tmp_path / "w.safetensors")
    (found,) = load_backbone(name, layers=("pooled",), weights=tmp_path / "w.safetensors")(
        torch.full((1, 3, 224, 224), 0.5)
    )
    x = (0.5 - torch.tensor(network.pretrained_cfg["mean"])) / torch.tensor(network.pretrained_cfg["std"])
    with torch.no_grad():
        features = network.forward_features(x.view(1, 3, 1, 1).expand(1, 3, 224, 224))
        torch.testing.assert_close(found, network.forward_head(features, pre_logits=True), rtol=1e-3, atol=1e-4)


def test_threads_share_a_network(small):
    backbone = load_backbone("resnet10t", layers=("layer1", "layer2"), weights=small[1])
    images = [torch.rand(1, 3, 32, 32 + 8 * i) for i in range(8)]
    alone = [backbone(x) for x in images]
    with ThreadPoolExecutor(4) as pool:
        for found, expected in zip(pool.map(backbone, images), alone, strict=True):
            torch.testing.assert_close(found, expected)


def test_what_cannot_be_had_is_refused(small, tmp_path):
    _, path = small
    with pytest.raises(RecipeError, match=r"no network 'resnet10x'; did you mean resnet10t"):
        load_backbone("resnet10x", weights=path)
    with pytest.raises(RecipeError, match=r"no network 'hf-hub:someone/model'"):
        load_backbone("hf-hub:someone/model", weights=path)
    with pytest.raises(RecipeError, match=r"no layer 'layer9'; try one of features, .*layer4"):
        load_backbone("resnet10t", layers=("layer9",), weights=path)
    with pytest.raises(RecipeError, match=r"w\.safetensors: does not fit the network: missing"):
        load_backbone("resnet18", weights=path)
    with pytest.raises(RecipeError, match=r"no such weights file|cannot be read"):
        load_backbone("resnet10t", weights=tmp_path / "missing.npz")
    with pytest.raises(RecipeError, match=r"no weights 'resnet10t\.nobody'.*resnet10t\.c3_in1k"):
        load_backbone("resnet10t.nobody", weights=None)
    with pytest.raises(RecipeError, match="no layer of resnet10t was named"):
        load_backbone("resnet10t", layers=(), weights=path)
    with pytest.raises(RecipeError, match="exclude each other"):
        load_backbone("resnet10t", weights=path, revision="main")


@pytest.fixture
def hub(monkeypatch):
    """What is asked of the hub and of torchvision's server, neither of which answers."""
    ensure_torchvision()
    import timm.models._builder

    asked = []

    def unreachable(address, *_args, **_kwargs):
        asked.append(address)
        raise OSError("no route to host")

    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", unreachable)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", unreachable)
    return asked


@pytest.mark.parametrize("name", ["resnet10t", "googlenet"])
def test_no_weights_and_no_download_is_an_error(hub, name):
    with pytest.raises(
        RecipeError, match=rf"{name} could not(.|\n)*no route to host(.|\n)*HF_HUB_OFFLINE.*--weights FILE"
    ):
        load_backbone(name, weights=None)
    assert len(hub) == 1


def test_a_revision_is_asked_for_by_name(hub):
    with pytest.raises(RecipeError, match="could not be downloaded"):
        load_backbone("resnet10t", weights=None, revision="abc123")
    assert hub == ["timm/resnet10t.c3_in1k@abc123"]
    with pytest.raises(RecipeError, match=r"googlenet come from https://download\.pytorch\.org/.*leave revision out"):
        load_backbone("googlenet", weights=None, revision="abc123")


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """The hub's own cache, offline, with two revisions of resnet10t's weights; the files, by commit."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    ensure_torchvision()
    import timm

    folder, files = tmp_path / "models--timm--resnet10t.c3_in1k", {}
    for seed, commit in enumerate(("a" * 40, "b" * 40)):
        torch.manual_seed(seed)
        files[commit] = folder / "snapshots" / commit / "model.safetensors"
        files[commit].parent.mkdir(parents=True)
        safetensors.torch.save_file(timm.create_model("resnet10t").state_dict(), files[commit])
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text("b" * 40)
    return files


def test_downloaded_weights_are_of_the_pinned_revision(kept):
    first, second = kept
    pixels = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    for revision, commit in ((None, second), ("main", second), (first, first)):
        network = load_backbone("resnet10t", weights=None, revision=revision)
        torch.testing.assert_close(network(pixels), load_backbone("resnet10t", weights=kept[commit])(pixels))
        matrix, _ = load_classifier("resnet10t", None, revision)
        torch.testing.assert_close(matrix, load_classifier("resnet10t", kept[commit])[0])
    with pytest.raises(RecipeError, match=r"resnet10t could not be downloaded(.|\n)*HF_HUB_OFFLINE"):
        load_backbone("resnet10t", weights=None, revision="c" * 40)


def test_a_recipe_pins_the_revision(kept, tmp_path):
    first, second = kept
    table = {"network": "resnet10t", "max_side": 64, "whiten": "none", "dimensions": 512}
    stages = [GlobalStage(**table, **pin) for pin in ({}, {"revision": first}, {"weights": str(kept[first])})]
    newest, pinned, from_file = (GlobalDescriber(stage, None) for stage in stages)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    np.testing.assert_allclose(pinned.describe(pixels), from_file.describe(pixels), atol=1e-6)
    assert np.abs(newest.describe(pixels) - pinned.describe(pixels)).max() > 1e-3
    assert newest.fingerprint != pinned.fingerprint
    both = GlobalStage(**table, revision=first, also=({"revision": second},), fusion="scores")
    assert GlobalDescriber(both, None).weights_sha256 == pinned.weights_sha256 + newest.weights_sha256
    with pytest.raises(RecipeError, match=f"sha256 is {pinned.weights_sha256[0]}, but the recipe was made with"):
        GlobalDescriber(GlobalStage(**table, revision=first, weights_sha256=newest.weights_sha256[0]), None)


def test_fingerprint_tells_weights_layer_and_eps_apart(small, tmp_path):
    network, path = small
    state = {k: v.clone() for k, v in network.state_dict().items()}
    state["conv1.0.weight"][0, 0, 0, 0] += 1
    other = tmp_path / "w.safetensors"
    safetensors.torch.save_file(state, other)
    prints = [
        load_backbone("resnet10t", weights=path).fingerprint,
        load_backbone("resnet10t", weights=other).fingerprint,
        load_backbone("resnet10t", layers=("layer2",), weights=path).fingerprint,
        load_backbone("resnet10t", layers=("layer2", "features"), weights=path).fingerprint,
    ]
    (tmp_path / "meta.json").write_text('{"bn_eps": 0.002}')
    prints.append(load_backbone("resnet10t", weights=other).fingerprint)
    assert len(set(prints)) == 5
    assert load_backbone("resnet10t", weights=path).fingerprint == prints[0]


def test_images_of_the_wrong_shape(small):
    backbone = load_backbone("resnet10t", weights=small[1])
    with pytest.raises(ValueError, match="B×3×H×W"):
        backbone(torch.zeros(3, 64, 64))


@pytest.mark.skipif(not DENSENET.is_file(), reason=f"needs the published weights {DENSENET}")
def test_published_densenet_weights():
    backbone = load_backbone("densenet169", weights=DENSENET)
    (out,) = backbone(torch.full((1, 3, 64, 96), 128, dtype=torch.uint8))
    assert out.shape == (1, 1664, 2, 3)
    assert backbone.batchnorm_eps == 1.001e-5
    assert out.min() == 0 and out.max() > 0, "the map is taken after the final ReLU"
    assert backbone.weights_sha256 == "506b5666ac9dba7d567a68e4555f66025e183af1616ee0060e9a991bc12c08f3"
