"""Small networks with weights, and small pictures, that models are made of."""

import functools

import numpy as np
import pytest
import tomli_w
from PIL import Image as PilImage

SIZE = (96, 64)  # width and height of the pictures, which go into the networks as they are


@pytest.fixture(scope="session")
def weights_of(tmp_path_factory):
    """Gives the file of a network's random weights, with statistics as if it were trained."""
    import safetensors.torch
    import torch

    from resight.networks.architectures import create_free_size

    @functools.cache
    def made(name):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            network, _ = create_free_size(name)
            for module in network.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
                    torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
        path = tmp_path_factory.mktemp(name) / "w.safetensors"
        safetensors.torch.save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
        return path

    return made


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, weights_of):
    """A recipe file of GeM over the last map of a tiny network, whose weights it names."""
    network = "test_resnet.r160_in1k"
    stage = {"network": network, "weights": str(weights_of(network)), "max_side": 64, "dimensions": 96}
    table = {"name": "tiny", "title": "Tiny", "source": "made up", "filter": "global"}
    file = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    file.write_text(tomli_w.dumps({**table, "global": {**stage, "whiten": "none"}}))
    return file


@pytest.fixture(scope="session")
def noise(tmp_path_factory):
    """A folder of eight files of coarse noise, 0.png to 7.png."""
    folder = tmp_path_factory.mktemp("noise")
    rng = np.random.default_rng(2)
    for number in range(8):
        coarse = PilImage.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize(SIZE).save(folder / f"{number}.png")
    return folder
