"""Parsers' many ways to fail, as the one that is caught."""

import io
import tokenize
import zipfile

import numpy as np
import pytest

from resight.parsing import load_array, load_arrays, parse_json, parse_toml

DEEP = 100_000


@pytest.mark.parametrize("text", ["[" * DEEP, '{"a":' * DEEP, "1" * 5000, "{", ""])
def test_json_that_cannot_be_read_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse_json(text)


@pytest.mark.parametrize("text", ["a = " + "[" * DEEP, "a = " + "1" * 5000, "a = 0x", "=", "a.b = 1\na = 1"])
def test_toml_that_cannot_be_read_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse_toml(text)


def npy(header: bytes, body: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header + body


@pytest.mark.parametrize(
    "data",
    [
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (3,"),  # NumPy lets tokenize raise its own error
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 1048576)}"),
        npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"cos\nsystem\n(S'true'\ntR."),
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (9,)}", b"short"),
        npy(b"1 +"),
        b"",
        b"no array",
    ],
)
def test_arrays_that_cannot_be_read_are_value_errors(tmp_path, data):
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(ValueError):
        load_array(tmp_path / "a.npy")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as box:
        box.writestr("a.npy", data)
    (tmp_path / "a.npz").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError):
        load_arrays(tmp_path / "a.npz")


def test_the_error_that_numpy_lets_through():
    """Else the above would prove nothing of it."""
    with pytest.raises((tokenize.TokenError, SyntaxError)):
        np.lib.format.read_array(io.BytesIO(npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (3,")))


def test_sound_arrays_and_bombs(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", a=np.arange(3), b=np.zeros(200_000))  # 1.6 MB in 2 kB
    assert {name: array.shape for name, array in load_arrays(tmp_path / "a.npz").items()} == {
        "a": (3,),
        "b": (200_000,),
    }
    with (
        zipfile.ZipFile(tmp_path / "b.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as box,
        box.open("a.npy", "w") as file,
    ):
        file.write(npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (1200000000,)}"))
        for _ in range(1200):
            file.write(bytes(1_000_000))
    with pytest.raises(ValueError, match="unpacks to 1,200,"):
        load_arrays(tmp_path / "b.npz")
