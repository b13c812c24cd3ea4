"""Weights: each format comes in whole; what does not fit or is not plain tensors is refused by name."""

import hashlib
import json
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402
from torch import nn  # noqa: E402

from resight.errors import RecipeError  # noqa: E402
from resight.networks.weights import (  # noqa: E402
    file_sha256,
    load_into,
    load_state,
    read_batchnorm_eps,
    set_batchnorm_eps,
)

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([1.0, -2.0])}


class Touch:
    """What a hostile checkpoint does: unpickling it calls a function."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def write(path, state):
    if path.suffix == ".npz":
        np.savez(path, **{k: v.numpy() for k, v in state.items()})
    elif path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("name", ["w.npz", "w.safetensors", "w.pth", "W.PT"])
def test_formats(tmp_path, name):
    path = tmp_path / name
    torch.save(STATE, path) if name == "W.PT" else write(path, STATE)
    loaded = load_state(path)
    assert loaded.keys() == STATE.keys()
    assert all(torch.equal(loaded[k], STATE[k]) for k in STATE)


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_wrapped_and_data_parallel_checkpoints(tmp_path, key):
    torch.save({key: {f"module.{k}": v for k, v in STATE.items()}, "epoch": 3}, tmp_path / "w.pth")
    assert load_state(tmp_path / "w.pth").keys() == STATE.keys()


def test_hostile_checkpoints_are_refused_unrun(tmp_path):
    mark = tmp_path / "mark"
    torch.save({"a": Touch(mark)}, tmp_path / "w.pth")
    with pytest.raises(RecipeError, match=r"w\.pth: holds more than tensors"):
        load_state(tmp_path / "w.pth")
    (tmp_path / "old.pt").write_bytes(pickle.dumps({"a": Touch(mark)}))
    with pytest.raises(RecipeError, match=r"old\.pt"):
        load_state(tmp_path / "old.pt")
    np.savez(tmp_path / "w.npz", a=np.array([Touch(mark)], dtype=object))
    with pytest.raises(RecipeError, match=r"w\.npz: not a readable \.npz"):
        load_state(tmp_path / "w.npz")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["w.npz", "w.safetensors", "w.pth"])
@pytest.mark.parametrize("content", [b"", b"garbage" * 9])
def test_damaged_files_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RecipeError, match=name):
        load_state(tmp_path / name)


def test_truncated_files_are_named(tmp_path):
    for name in ("w.npz", "w.safetensors", "w.pth"):
        path = write(tmp_path / name, STATE)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
        with pytest.raises(RecipeError, match=name):
            load_state(path)


def test_missing_file_other_format_and_no_state_dict(tmp_path):
    with pytest.raises(RecipeError, match="no such weights file"):
        load_state(tmp_path / "w.npz")
    with pytest.raises(RecipeError, match="cannot be read"):
        file_sha256(tmp_path / "w.npz")
    (tmp_path / "w.h5").write_bytes(b"x")
    with pytest.raises(RecipeError, match=r"w\.h5: weights are read from"):
        load_state(tmp_path / "w.h5")
    torch.save([torch.zeros(2)], tmp_path / "w.pth")
    with pytest.raises(RecipeError, match="not a state_dict"):
        load_state(tmp_path / "w.pth")


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "w").write_bytes(b"abc")
    assert file_sha256(tmp_path / "w") == hashlib.sha256(b"abc").hexdigest()


def network():
    return nn.ModuleDict({"conv": nn.Conv2d(1, 2, 3), "norm": nn.BatchNorm2d(2)})


def test_half_precision_and_a_classifier_of_no_use_are_taken():
    given = {k: torch.full_like(v, 0.3) for k, v in network().state_dict().items() if v.is_floating_point()}
    given |= {"classifier.weight": torch.zeros(4, 2), "fc.bias": torch.zeros(4)}
    target = network()
    load_into(target, {k: v.half() for k, v in given.items()}, "w.npz")
    weight = target["conv"].weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, torch.full_like(weight, 0.3).half().float())


def test_a_classifier_that_the_network_has_is_loaded():
    target = nn.ModuleDict({"fc": nn.Linear(2, 1)})
    load_into(target, {"fc.weight": torch.tensor([[1.0, 2.0]]), "fc.bias": torch.tensor([3.0])}, "w")
    assert target["fc"].weight.tolist() == [[1.0, 2.0]]


def test_whatever_does_not_fit_is_listed_and_nothing_is_loaded():
    target = network()
    before = {k: v.clone() for k, v in target.state_dict().items()}
    given = dict(before) | {"conv.weight": torch.zeros(2, 1, 5, 5), "extra": torch.zeros(1)}
    del given["norm.running_var"]
    with pytest.raises(RecipeError) as caught:
        load_into(target, given, "w.npz")
    for part in (
        "w.npz",
        "missing norm.running_var",
        "unexpected extra",
        "conv.weight (2, 1, 5, 5) for (2, 1, 3, 3)",
    ):
        assert part in str(caught.value)
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())


def test_children_that_may_be_left_out_become_identities_and_are_whole_if_given():
    def vgg():
        return nn.ModuleDict({"features": nn.Linear(2, 1), "pre_logits": nn.Linear(1, 1)})

    whole = vgg().state_dict()
    features = {name: tensor for name, tensor in whole.items() if name.startswith("features")}
    target = vgg()
    load_into(target, features, "w")
    assert isinstance(target["pre_logits"], nn.Identity)
    assert torch.equal(target["features"].weight, whole["features.weight"])
    target = vgg()
    with pytest.raises(RecipeError, match=r"missing pre_logits\.bias"):
        load_into(target, features | {"pre_logits.weight": whole["pre_logits.weight"]}, "w")
    with pytest.raises(RecipeError, match=r"missing pre_logits"):
        load_into(target, features, "w", without=())
    assert isinstance(target["pre_logits"], nn.Linear)
    with pytest.raises(RecipeError, match=r"missing features\.bias"):
        load_into(target, {"features.weight": features["features.weight"]}, "w")
    assert isinstance(target["pre_logits"], nn.Linear)


def test_published_densenet_names():
    layer = nn.Module()
    layer.norm1 = nn.Linear(1, 1, bias=False)
    target = nn.Module()
    target.denselayer1 = layer
    load_into(target, {"denselayer1.norm.1.weight": torch.tensor([[5.0]])}, "w")
    assert layer.norm1.weight.item() == 5.0


def test_batchnorm_eps(tmp_path):
    weights = tmp_path / "w.npz"
    assert read_batchnorm_eps(weights) is None
    (tmp_path / "meta.json").write_text(json.dumps({"arch": "x"}))
    assert read_batchnorm_eps(weights) is None
    (tmp_path / "meta.json").write_text(json.dumps({"bn_eps": 1.001e-5}))
    assert read_batchnorm_eps(weights) == 1.001e-5
    target = network()
    set_batchnorm_eps(target, 1.001e-5)
    assert target["norm"].eps == 1.001e-5
    for wrong in ('{"bn_eps": "x"}', '{"bn_eps": 2.0}', "{"):
        (tmp_path / "meta.json").write_text(wrong)
        with pytest.raises(RecipeError, match=r"meta\.json"):
            read_batchnorm_eps(weights)
