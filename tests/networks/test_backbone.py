"""Backbones: normalisation, layer choice, real weights, and no answer from a random network."""

import os
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402

from resight.errors import RecipeError  # noqa: E402
from resight.networks.backbone import load_backbone  # noqa: E402
from resight.networks.torchvision_ops import ensure_torchvision  # noqa: E402

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


def test_features_are_the_networks_own_after_its_normalisation(small):
    network, path = small
    backbone = load_backbone("resnet10t", weights=path)
    pixels = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    config = network.pretrained_cfg
    x = pixels.double().numpy() / 255
    x = (x - np.array(config["mean"])[:, None, None]) / np.array(config["std"])[:, None, None]
    with torch.no_grad():
        expected = network.forward_features(torch.from_numpy(x).float())
    assert backbone.channels == expected.shape[1] == 512
    torch.testing.assert_close(backbone(pixels), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(backbone(pixels.float() / 255), expected, rtol=1e-3, atol=1e-4)


def test_an_inner_layer(small):
    network, path = small
    backbone = load_backbone("resnet10t", layer="layer2", weights=path)
    zero = torch.zeros(1, 3, 64, 96)
    x = (zero - torch.tensor(network.pretrained_cfg["mean"]).view(3, 1, 1)) / torch.tensor(
        network.pretrained_cfg["std"]
    ).view(3, 1, 1)
    with torch.no_grad():
        expected = network.layer2(network.layer1(network.maxpool(network.act1(network.bn1(network.conv1(x))))))
    assert backbone.channels == 128
    torch.testing.assert_close(backbone(zero), expected, rtol=1e-3, atol=1e-4)


def test_what_cannot_be_had_is_refused(small, tmp_path):
    _, path = small
    with pytest.raises(RecipeError, match=r"no network 'resnet10x'; did you mean resnet10t"):
        load_backbone("resnet10x", weights=path)
    with pytest.raises(RecipeError, match=r"no network 'hf-hub:someone/model'"):
        load_backbone("hf-hub:someone/model", weights=path)
    with pytest.raises(RecipeError, match=r"no layer 'layer9'; try one of features, .*layer4"):
        load_backbone("resnet10t", layer="layer9", weights=path)
    with pytest.raises(RecipeError, match=r"w\.safetensors: does not fit the network: missing"):
        load_backbone("resnet18", weights=path)
    with pytest.raises(RecipeError, match=r"no such weights file|cannot be read"):
        load_backbone("resnet10t", weights=tmp_path / "missing.npz")


def test_no_weights_and_no_download_is_an_error(monkeypatch):
    ensure_torchvision()
    import timm

    def offline(*_args, pretrained, **_kwargs):
        assert pretrained
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(RecipeError, match=r"no route to host(.|\n)*--weights FILE"):
        load_backbone("resnet10t", weights=None)


def test_fingerprint_tells_weights_layer_and_eps_apart(small, tmp_path):
    network, path = small
    state = {k: v.clone() for k, v in network.state_dict().items()}
    state["conv1.0.weight"][0, 0, 0, 0] += 1
    other = tmp_path / "w.safetensors"
    safetensors.torch.save_file(state, other)
    prints = [
        load_backbone("resnet10t", weights=path).fingerprint,
        load_backbone("resnet10t", weights=other).fingerprint,
        load_backbone("resnet10t", layer="layer2", weights=path).fingerprint,
    ]
    (tmp_path / "meta.json").write_text('{"bn_eps": 0.002}')
    prints.append(load_backbone("resnet10t", weights=other).fingerprint)
    assert len(set(prints)) == 4
    assert load_backbone("resnet10t", weights=path).fingerprint == prints[0]


def test_images_of_the_wrong_shape(small):
    backbone = load_backbone("resnet10t", weights=small[1])
    with pytest.raises(ValueError, match="B×3×H×W"):
        backbone(torch.zeros(3, 64, 64))


@pytest.mark.skipif(not DENSENET.is_file(), reason=f"needs the published weights {DENSENET}")
def test_published_densenet_weights():
    backbone = load_backbone("densenet169", weights=DENSENET)
    out = backbone(torch.full((1, 3, 64, 96), 128, dtype=torch.uint8))
    assert out.shape == (1, 1664, 2, 3)
    assert backbone.batchnorm_eps == 1.001e-5
    assert out.min() == 0 and out.max() > 0, "the map is taken after the final ReLU"
    assert backbone.weights_sha256 == "506b5666ac9dba7d567a68e4555f66025e183af1616ee0060e9a991bc12c08f3"
