"""The network whose local features the schemes train."""

import pytest


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of a small network's random weights."""
    import safetensors.torch
    import torch

    from resight.networks.architectures import create_network

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("network") / "test_resnet.safetensors"
    safetensors.torch.save_file(dict(create_network("test_resnet").state_dict()), path)
    return path
