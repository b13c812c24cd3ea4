"""Artefacts: what is saved comes back, and every way a file can be wrong is named."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from resight.artefact import artefact_fingerprint, load_artefact, load_artefact_of, save_artefact
from resight.errors import RecipeError

TENSORS = {
    "transposed": np.arange(12, dtype=np.float64).reshape(3, 4).T,
    "words": np.arange(6, dtype=np.uint8).reshape(2, 3),
    "big_endian": np.array([1.5, -2.0], dtype=">f4"),
    "scalar": np.array(7, dtype=np.int64),
    "empty": np.zeros((0, 5), dtype=np.float32),
}


def test_round_trip_keeps_values_shapes_and_meta(tmp_path):
    meta = {"fitted_on": "Großer Garten", "n": 3, "nested": {"a": [1, 2]}}
    fingerprint = save_artefact(tmp_path / "a.safetensors", "codebook", TENSORS, meta)
    tensors, loaded_meta = load_artefact(tmp_path / "a.safetensors", "codebook")
    assert loaded_meta == meta
    assert tensors.keys() == TENSORS.keys()
    for name, expected in TENSORS.items():
        assert tensors[name].shape == expected.shape
        assert tensors[name].dtype.name == expected.dtype.name
        np.testing.assert_array_equal(tensors[name], expected)
    assert fingerprint == artefact_fingerprint("codebook", tensors)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"], "no temporary file is left"


def test_one_of_several_kinds_is_told(tmp_path):
    for kind in ("red", "green"):
        save_artefact(tmp_path / "a.safetensors", kind, {"x": np.ones(2)}, {"of": kind})
        found, tensors, meta = load_artefact_of(tmp_path / "a.safetensors", ("red", "green"))
        assert (found, list(tensors), meta) == (kind, ["x"], {"of": kind})
        with pytest.raises(RecipeError, match=f"holds a {kind} artefact where a blue or grey is needed"):
            load_artefact_of(tmp_path / "a.safetensors", ("blue", "grey"))


def test_other_readers_of_safetensors_can_read_it(tmp_path):
    save_artefact(tmp_path / "a.safetensors", "codebook", TENSORS, {})
    plain = safetensors.numpy.load_file(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(plain["transposed"], TENSORS["transposed"])


def test_fingerprint_depends_on_kind_name_shape_dtype_and_bytes_only():
    a = np.arange(6, dtype=np.float32)
    prints = [
        artefact_fingerprint("x", {"a": a}),
        artefact_fingerprint("y", {"a": a}),
        artefact_fingerprint("x", {"b": a}),
        artefact_fingerprint("x", {"a": a.reshape(2, 3)}),
        artefact_fingerprint("x", {"a": a.view(np.int32)}),
        artefact_fingerprint("x", {"a": a + 1}),
    ]
    assert len(set(prints)) == len(prints)
    two = {"a": a, "b": a.reshape(2, 3)}
    assert artefact_fingerprint("x", two) == artefact_fingerprint("x", dict(reversed(two.items())))
    assert artefact_fingerprint("x", {"a": a.reshape(2, 3).T.copy().T}) == prints[3]


def test_wrong_files_are_named(tmp_path):
    missing = tmp_path / "missing.safetensors"
    with pytest.raises(RecipeError, match=r"missing\.safetensors.*resight fit"):
        load_artefact(missing, "codebook")

    garbage = tmp_path / "garbage.safetensors"
    garbage.write_bytes(b"not safetensors at all")
    with pytest.raises(RecipeError, match=r"garbage\.safetensors"):
        load_artefact(garbage, "codebook")

    foreign = tmp_path / "foreign.safetensors"
    safetensors.numpy.save_file({"a": np.zeros(2, np.float32)}, foreign)
    with pytest.raises(RecipeError, match="not written by resight"):
        load_artefact(foreign, "codebook")

    save_artefact(tmp_path / "a.safetensors", "codebook", TENSORS, {})
    with pytest.raises(RecipeError, match=r"codebook.*pca-whitening"):
        load_artefact(tmp_path / "a.safetensors", "pca-whitening")


@pytest.mark.parametrize("header", ["{", "[]", '{"kind": "codebook"}'])
def test_damaged_header_is_refused(tmp_path, header):
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors.numpy.save({"a": np.zeros(2, np.float32)}, metadata={"resight": header}))
    with pytest.raises(RecipeError, match=r"a\.safetensors: its header is damaged"):
        load_artefact(path, "codebook")


def test_flipped_bit_and_later_format_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_artefact(path, "codebook", {"a": np.ones(4, np.float32)}, {})
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(RecipeError, match="do not match its fingerprint"):
        load_artefact(path, "codebook")

    header = json.dumps({"format": 2, "kind": "codebook", "fingerprint": "", "meta": {}})
    path.write_bytes(safetensors.numpy.save({"a": np.ones(4, np.float32)}, metadata={"resight": header}))
    with pytest.raises(RecipeError, match="format 2"):
        load_artefact(path, "codebook")


def test_failed_write_keeps_the_old_artefact(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_artefact(path, "codebook", {"a": np.ones(4, np.float32)}, {"n": 1})

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(RecipeError, match=r"a\.safetensors: cannot be written: No space left"):
        save_artefact(path, "codebook", {"a": np.zeros(4, np.float32)}, {"n": 2})
    monkeypatch.undo()
    assert load_artefact(path, "codebook")[1] == {"n": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_missing_folder_is_an_error_of_ours(tmp_path):
    with pytest.raises(RecipeError, match="cannot be written"):
        save_artefact(Path(tmp_path / "nowhere" / "a.safetensors"), "codebook", {}, {})
