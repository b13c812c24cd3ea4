"""8-bit networks: near the float network, from their file alone, and only for the network they were made from."""

import importlib.util
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402

from resight.errors import RecipeError  # noqa: E402
from resight.networks.backbone import load_backbone  # noqa: E402
from resight.networks.engine import TorchEngine  # noqa: E402
from resight.networks.quantise import QuantisedEngine, quantise  # noqa: E402
from resight.networks.torchvision_ops import ensure_torchvision  # noqa: E402

# Not importorskip, which would import them otherwise than the engine does.
pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(module) is None for module in ("openvino", "nncf")),
    reason="openvino or nncf is not installed",
)


def _pictures(count, seed, height=64, width=96):
    """Smooth random pictures: noise of 8 × 8 pixels, so that the layers see more than one level of detail."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, height // 8, width // 8, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    ensure_torchvision()
    import timm

    torch.manual_seed(0)
    network = timm.create_model("resnet10t", num_classes=0)
    network.train()
    with torch.no_grad():  # batch normalisation learns its moments, so that activations have sensible ranges
        network(torch.from_numpy(_pictures(16, 1)).permute(0, 3, 1, 2) / 255)
    path = tmp_path_factory.mktemp("weights") / "resnet10t.safetensors"
    safetensors.torch.save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def made(weights, tmp_path_factory):
    """A backbone and the file of its quantised network."""
    backbone = load_backbone("resnet10t", layers=["layer2", "features"], weights=weights)
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESIGHT_CACHE", str(folder / "cache"))
        quantise(backbone, _pictures(8, 2), folder / "fitted" / "network.xml", fitted_on="8 made pictures")
    return backbone, folder / "fitted" / "network.xml"


def _cosine(x, y):
    return float(torch.nn.functional.cosine_similarity(x.flatten(), y.flatten(), dim=0))


def test_outputs_are_near_the_float_networks_and_not_equal(made):
    backbone, file = made
    engine, plain = QuantisedEngine(backbone, file), TorchEngine(backbone)
    for count, height, width in [(3, 64, 96), (1, 104, 56)]:
        shown = _pictures(count, 3, height, width)
        for expected, found in zip(plain(shown), engine(shown), strict=True):
            assert found.dtype == torch.float32 and found.shape == expected.shape
            assert 0.98 < _cosine(found, expected) < 1 - 1e-6


def test_convolutions_are_stored_in_8_bits(made):
    _, file = made
    parameters = sum(p.numel() for p in made[0].module.parameters())
    assert file.with_suffix(".bin").stat().st_size < 1.3 * parameters
    assert sorted(path.name for path in file.parent.iterdir()) == ["network.bin", "network.xml"]


def test_a_batch_gives_what_its_pictures_give_alone(made):
    engine = QuantisedEngine(*made)
    shown = _pictures(4, 4)
    together = engine(shown)
    for place in range(4):
        for several, alone in zip(together, engine(shown[place : place + 1]), strict=True):
            torch.testing.assert_close(alone[0], several[place], rtol=0, atol=0)


def test_identity_is_that_of_both_files_and_fitted_on_is_kept(made, tmp_path):
    backbone, file = made
    engine = QuantisedEngine(backbone, file)
    assert engine.fitted_on == "8 made pictures" and len(engine.identity) == 64
    assert TorchEngine(backbone).identity == ""
    copy = tmp_path / "moved.xml"
    copy.write_bytes(file.read_bytes())
    weights = bytearray(file.with_suffix(".bin").read_bytes())
    copy.with_suffix(".bin").write_bytes(weights)
    assert QuantisedEngine(backbone, copy).identity == engine.identity
    weights[len(weights) // 2] ^= 1
    copy.with_suffix(".bin").write_bytes(weights)
    assert QuantisedEngine(backbone, copy).identity != engine.identity


def test_another_networks_file_is_refused(made, weights):
    _, file = made
    with pytest.raises(RecipeError, match=r"network\.xml: was quantised from another network.*`resight fit`"):
        QuantisedEngine(load_backbone("resnet10t", layers=["features"], weights=weights), file)


def test_missing_and_damaged_files_are_named(made, tmp_path):
    backbone, file = made
    with pytest.raises(RecipeError, match=r"absent\.xml: no such file"):
        QuantisedEngine(backbone, tmp_path / "absent.xml")
    copy = tmp_path / "network.xml"
    copy.write_bytes(file.read_bytes())
    with pytest.raises(RecipeError, match=r"network\.bin: no such file"):
        QuantisedEngine(backbone, copy)
    copy.with_suffix(".bin").write_bytes(file.with_suffix(".bin").read_bytes()[:1000])
    with pytest.raises(RecipeError, match=r"network\.xml: not a readable network"):
        QuantisedEngine(backbone, copy)
    copy.write_text("<net/>")
    with pytest.raises(RecipeError, match=r"network\.xml: not a readable network"):
        QuantisedEngine(backbone, copy)


def test_a_network_that_resight_did_not_quantise_is_refused(made, tmp_path):
    backbone, file = made
    copy = tmp_path / "network.xml"
    copy.write_text(file.read_text().replace("<resight>", "<other>").replace("</resight>", "</other>"))
    copy.with_suffix(".bin").write_bytes(file.with_suffix(".bin").read_bytes())
    with pytest.raises(RecipeError, match="not a network that this version of resight quantised"):
        QuantisedEngine(backbone, copy)


def test_what_cannot_be_quantised_is_refused(made, tmp_path, monkeypatch):
    backbone, _ = made
    with pytest.raises(RecipeError, match="no pictures to quantise resnet10t on"):
        quantise(backbone, [], tmp_path / "network.xml", fitted_on="")
    with pytest.raises(RecipeError, match=r"network\.bin: .*ends in \.xml"):
        quantise(backbone, _pictures(1, 0), tmp_path / "network.bin", fitted_on="")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "nncf" else object())
    with pytest.raises(RecipeError, match=r"needs nncf: pip install 'resight\[fast\]'"):
        quantise(backbone, _pictures(1, 0), tmp_path / "network.xml", fitted_on="")


def test_nothing_reports_to_a_server(made):
    assert sys.modules["openvino_telemetry"] is None  # nncf then takes a stub
    assert type(sys.modules["nncf.telemetry.wrapper"].telemetry).__module__ == "unittest.mock"
