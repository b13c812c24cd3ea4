"""Engines compute what PyTorch computes, at any size, once converted also from the cache."""

import importlib.util
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402

from resight.errors import RecipeError  # noqa: E402
from resight.networks.backbone import load_backbone  # noqa: E402
from resight.networks.engine import TOLERANCE, WINDOW, OpenVinoEngine, TorchEngine, make_engine  # noqa: E402
from resight.networks.torchvision_ops import ensure_torchvision  # noqa: E402

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A backbone of random weights, by name and layers."""
    ensure_torchvision()
    import timm

    folder = tmp_path_factory.mktemp("weights")

    def make(name, *layers):
        path = folder / f"{name}.safetensors"
        if not path.exists():
            torch.manual_seed(0)
            network = timm.create_model(name, num_classes=0)
            safetensors.torch.save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
        return load_backbone(name, layers=layers, weights=path)

    return make


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESIGHT_CACHE", str(tmp_path))
    return tmp_path


# Not importorskip, which would import it otherwise than the engine does.
needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")


@needs_openvino
@pytest.mark.parametrize(
    ("name", "layers", "sizes"),
    [
        ("resnet10t", ("layer2", "features"), [(64, 96), (97, 50), (64, 96)]),
        ("vit_tiny_patch16_224", ("cls", "tokens"), [(64, 96), (112, 64)]),
    ],
)
def test_openvino_computes_what_pytorch_does(backbone, cache, name, layers, sizes):
    network = backbone(name, *layers)
    plain, fast = TorchEngine(network), OpenVinoEngine(network)
    again = OpenVinoEngine(network)
    kept = sorted(cache.iterdir())
    for height, width in sizes:
        pictures = RNG.integers(0, 256, (3, height, width, 3), dtype=np.uint8)
        for expected, *found in zip(plain(pictures), fast(pictures), again(pictures), strict=True):
            for output in found:
                assert output.dtype == torch.float32 and output.shape == expected.shape
                assert (output - expected).abs().max() <= TOLERANCE * expected.abs().max()
    assert kept and all(path.exists() for path in kept)


def test_a_batch_gives_what_its_pictures_give_alone(backbone, cache):
    engine = make_engine(backbone("resnet10t", "features"))
    pictures = RNG.integers(0, 256, (4, 64, 80, 3), dtype=np.uint8)
    (together,) = engine(pictures)
    for place in range(4):
        torch.testing.assert_close(engine(pictures[place : place + 1])[0][0], together[place], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("engine", [TorchEngine, pytest.param(OpenVinoEngine, marks=needs_openvino)])
@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224"])
def test_pictures_of_several_sizes_each_give_what_they_give_alone(backbone, cache, engine, name):
    network = backbone(name, "features", "pooled")
    run, alone = engine(network), TorchEngine(network)
    sizes = [(64, 96), (96, 64), (64, 96), (80, 80), (64, 96)]
    pictures = [RNG.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    found = dict(run.each(pictures))
    assert sorted(found) == [0, 1, 2, 3, 4]
    for place, outputs in found.items():
        for output, expected in zip(outputs, alone(pictures[place][None]), strict=True):
            assert output.dtype == torch.float32 and output.shape == expected.shape
            assert (output - expected).abs().max() <= TOLERANCE * expected.abs().max()
    assert list(run.each([])) == []


@pytest.mark.parametrize(
    ("engine", "name", "sides"),
    [
        (TorchEngine, "resnet10t", (32, 48)),
        pytest.param(OpenVinoEngine, "resnet10t", (32, 48), marks=needs_openvino),
        pytest.param(OpenVinoEngine, "vit_tiny_patch16_224", (32,), marks=needs_openvino),  # converted by size
    ],
)
def test_pictures_are_taken_as_they_are_needed(backbone, cache, engine, name, sides):
    """So that a stream of any length is computed in bounded memory."""
    taken = []

    def stream():
        for place in range(3 * WINDOW):
            taken.append(place)
            yield np.full((sides[place % len(sides)], 32, 3), place, np.uint8)

    given = []
    for place, outputs in engine(backbone(name, "pooled")).each(stream()):
        given.append(place)
        assert len(taken) - len(given) < WINDOW and outputs[0].shape[0] == 1
    assert sorted(given) == taken == list(range(3 * WINDOW))


def test_a_caller_may_stop_before_the_last_picture(backbone, cache):
    engine = make_engine(backbone("resnet10t", "features"))
    pictures = RNG.integers(0, 256, (6, 64, 80, 3), dtype=np.uint8)
    started = engine.each(list(pictures))
    place, (first,) = next(started)
    before = first.clone()
    started.close()
    torch.testing.assert_close(engine(pictures[place : place + 1])[0], before, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first, before, rtol=0, atol=0)


def test_a_later_call_does_not_change_an_earlier_output(backbone, cache):
    engine = make_engine(backbone("resnet10t", "features"))
    pictures = RNG.integers(0, 256, (2, 1, 64, 80, 3), dtype=np.uint8)
    (first,) = engine(pictures[0])
    before = first.clone()
    engine(pictures[1])
    torch.testing.assert_close(first, before, rtol=0, atol=0)


@needs_openvino
def test_nothing_reports_to_a_server(backbone, cache):
    OpenVinoEngine(backbone("resnet10t", "features"))
    assert sys.modules["openvino.tools.ovc.convert_impl"].tm.__name__ == "openvino.tools.ovc.telemetry_stub"


def test_the_engine_is_chosen_by_one_setting(backbone, monkeypatch, cache):
    network = backbone("resnet10t", "features")
    monkeypatch.setenv("RESIGHT_ENGINE", "torch")
    assert make_engine(network).name.startswith("torch ")
    monkeypatch.setenv("RESIGHT_ENGINE", "abacus")
    with pytest.raises(RecipeError, match="no engine 'abacus': RESIGHT_ENGINE is one of auto, torch, openvino"):
        make_engine(network)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"pip install 'resight\[fast\]'"):
        make_engine(network, "openvino")
    if not torch.cuda.is_available():
        assert make_engine(network, "auto").name.startswith("torch ")


@needs_openvino
@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is chosen first")
@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224"])
def test_on_a_cpu_openvino_is_chosen_unless_each_size_is_converted_anew(backbone, name, monkeypatch, cache):
    network = backbone(name, "features")
    assert make_engine(network, "auto").name.startswith("openvino ")
    monkeypatch.setenv("RESIGHT_CACHE", str(cache / "other"))
    right = OpenVinoEngine._right
    monkeypatch.setattr(OpenVinoEngine, "_right", lambda self, *at: at[1] is not None and right(self, *at))
    assert make_engine(network, "auto").name.startswith("torch ")
    assert make_engine(network, "openvino").name.startswith("openvino ")


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224"])
def test_a_cuda_device_computes_in_bfloat16_what_the_cpu_does(backbone, name):
    network = backbone(name, "features")
    pictures = [RNG.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((64, 96), (96, 64), (64, 96))]
    expected = [TorchEngine(network)(picture[None])[0] for picture in pictures]
    engine = make_engine(network, "torch")
    assert network.device.type == "cuda" and engine.name.endswith("bfloat16")
    for place, (found,) in engine.each(pictures):
        assert (found.cpu() - expected[place]).abs().max() <= 0.05 * expected[place].abs().max()
