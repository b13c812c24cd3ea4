"""What a checkpoint holds comes back, whole or not at all."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from resight.errors import RecipeError
from resight.learning.checkpoint import (
    Checkpoint,
    Position,
    check_identity,
    load_checkpoint,
    load_module,
    save_checkpoint,
)
from resight.learning.task import Batch

PLAN = (
    Batch(np.array([4, 2, 9])),
    Batch(np.array([1, 1]), np.array([[0, 1, 1], [1, 0, 0]])),
    Batch(np.array([7]), np.empty((0, 4), np.int64)),
)
IDENTITY = {"rate": 0.1, "loss": {"kind": "triplet"}, "sides": [1, 2]}
WHOLE = Checkpoint(
    Position(3, 1, 17, 20, 0.5, 2, 1),
    {"a.weight": torch.randn(3, 2), "steps": torch.tensor(5)},
    {0: {"step": torch.tensor(17.0), "exp_avg": torch.randn(3, 2)}, 4: {"momentum_buffer": None}},
    PLAN,
    IDENTITY,
    {"scale": 65536.0, "_growth_tracker": 3},
)


def test_it_comes_back(tmp_path):
    save_checkpoint(tmp_path / "c.safetensors", WHOLE)
    found = load_checkpoint(tmp_path / "c.safetensors")
    assert found.position == WHOLE.position and found.scaler == WHOLE.scaler
    assert found.module.keys() == WHOLE.module.keys()
    assert all(torch.equal(found.module[name], tensor) for name, tensor in WHOLE.module.items())
    assert torch.equal(found.optimiser[0]["exp_avg"], WHOLE.optimiser[0]["exp_avg"])
    assert torch.equal(found.optimiser[0]["step"], WHOLE.optimiser[0]["step"])
    assert found.optimiser[4] == {"momentum_buffer": None}
    for a, b in zip(found.plan, PLAN, strict=True):
        assert np.array_equal(a.places, b.places)
        assert (a.tuples is None) == (b.tuples is None)
        assert b.tuples is None or (a.tuples.shape == b.tuples.shape and np.array_equal(a.tuples, b.tuples))
    assert load_module(tmp_path / "c.safetensors").keys() == WHOLE.module.keys()
    assert [file.name for file in tmp_path.iterdir()] == ["c.safetensors"]


def test_between_epochs_there_is_no_plan(tmp_path):
    save_checkpoint(tmp_path / "c.safetensors", Checkpoint(Position(), {"a": torch.ones(1)}, {}, None, {}))
    assert load_checkpoint(tmp_path / "c.safetensors").plan is None


def test_another_identity_is_refused_by_its_key(tmp_path):
    check_identity(tmp_path, {"sides": [1, 2], "rate": 0.1}, {"sides": (1, 2), "rate": 0.1})
    with pytest.raises(RecipeError, match=r"loss = \{\"kind\": \"triplet\"\}, not \{\"kind\": \"siamese\"\}"):
        check_identity(tmp_path, IDENTITY, IDENTITY | {"loss": {"kind": "siamese"}})
    with pytest.raises(RecipeError, match="clip = nothing, not 3"):
        check_identity(tmp_path, IDENTITY, IDENTITY | {"clip": 3})


def test_damage_is_said(tmp_path):
    file = tmp_path / "c.safetensors"
    with pytest.raises(RecipeError, match="no checkpoint to go on from"):
        load_checkpoint(file)
    save_checkpoint(file, WHOLE)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(RecipeError, match="is damaged"):
        load_checkpoint(file)
    save_file({"a": torch.ones(1)}, file)
    with pytest.raises(RecipeError, match="no checkpoint of a training"):
        load_checkpoint(file)


def test_where_it_cannot_be_written_the_old_one_stays(tmp_path, monkeypatch):
    file = tmp_path / "c.safetensors"
    save_checkpoint(file, WHOLE)
    before = file.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RecipeError, match=r"No space left on device; make room .* --resume"):
        save_checkpoint(file, WHOLE)
    assert file.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(RecipeError, match="cannot be written"):
        save_checkpoint(tmp_path / "nowhere" / "c.safetensors", WHOLE)
