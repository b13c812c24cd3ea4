"""The reader of `.mat` files against SciPy's writer, and on damage, where SciPy's reader crashes."""

import io
import struct
import zlib

import numpy as np
import pytest
from scipy.io import savemat

from resight.matfile import load_mat


def written(compress=False, **variables):
    data = io.BytesIO()
    savemat(data, variables, do_compression=compress)
    return data.getvalue()


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.arange(5.0), [0, 1, 2, 3, 4]),
        (np.array([[1, 2, 3], [4, 5, 6]], np.uint16), [1, 4, 2, 5, 3, 6]),
        (np.array([-1.5], np.float32), [-1.5]),
        (np.array([2**40, -7]), [2**40, -7]),
        (np.zeros((0, 0)), []),
        ("all_souls_000013", "all_souls_000013"),
        ("ä€", "ä€"),
        ("", ""),
        (np.array(["a", "longer than eight", ""], object), ["a", "longer than eight", ""]),
        (np.array([], object), []),
        ({"ok": np.array([1.0, 2]), "bbx": np.array([1, 2, 3, 4])}, [{"ok": [1, 2], "bbx": [1, 2, 3, 4]}]),
    ],
)
def test_what_scipy_writes_is_read(value, expected, compress):
    assert load_mat(written(compress, x=value, other=np.ones(3))) == {"x": expected, "other": [1, 1, 1]}


def test_an_array_of_structures_of_cells():
    rows = np.zeros(2, [("names", object), ("n", object)])
    rows[0] = (np.array(["a", "b"], object), np.array([1.0]))
    rows[1] = (np.array([], object), np.array([2.0, 3.0]))
    assert load_mat(written(gnd=rows))["gnd"] == [{"names": ["a", "b"], "n": [1]}, {"names": [], "n": [2, 3]}]


def test_a_big_endian_file_by_hand():
    """1×1 double 2.5, called v."""
    array = struct.pack(">II", 6, 8) + struct.pack(">II", 6, 0) + struct.pack(">II", 5, 8) + struct.pack(">ii", 1, 1)
    array += struct.pack(">HH4s", 1, 1, b"v") + struct.pack(">IId", 9, 8, 2.5)
    header = b"MATLAB 5.0".ljust(124) + b"\x01\x00MI"
    assert load_mat(header + struct.pack(">II", 14, len(array)) + array) == {"v": [2.5]}


def element(kind, data):
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def test_functions_objects_and_complex_numbers_are_left_out_where_that_is_asked_for():
    """As in files of networks: a function handle (class 16) in a structure, an opaque object (17) without a size."""
    shape = element(5, struct.pack("<ii", 1, 1))
    handle = element(14, element(6, struct.pack("<II", 16, 0)) + shape + element(1, b"") + element(14, b""))
    flags, width, names = (
        element(6, struct.pack("<II", 2, 0)),
        element(5, struct.pack("<i", 4)),
        element(1, b"f\0\0\0"),
    )
    struct_ = element(14, flags + shape + element(1, b"net") + width + names + handle)
    opaque = element(14, element(6, struct.pack("<II", 17, 0)) + element(1, b"o") + element(1, b"MCOS"))
    whole = written(z=np.array([1 + 2j]), x=np.ones(2)) + struct_ + opaque
    found = load_mat(whole, others=True)
    assert found["x"] == [1, 1] and found["net"] == [{"f": None}] and found.get("z") is None
    for data in (written() + struct_, written() + opaque):
        with pytest.raises(ValueError, match=r"class 16 is none of cells|of a size that the file"):
            load_mat(data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"MATLAB 7.3 MAT-file".ljust(200), "of MATLAB 7.3"),
        (b"", "no MATLAB 5 file"),
        (b"x" * 500, "no MATLAB 5 file"),
        (written(x=np.array([1 + 2j])), "complex"),
    ],
)
def test_what_is_something_else_is_refused(data, said):
    with pytest.raises(ValueError, match=said):
        load_mat(data)


@pytest.mark.parametrize("compress", [False, True])
def test_any_damage_is_a_value_error(compress):
    whole = written(compress, names=np.array(["ab", "cd"], object), gnd={"ok": np.arange(4.0), "bbx": np.ones(4)})
    rng = np.random.default_rng(0)
    broken = [whole[:length] for length in range(0, len(whole), 7)]
    for _ in range(600):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            data[place] = rng.integers(256)
        broken.append(bytes(data))
    refused = 0
    for data in broken:
        try:
            load_mat(data)
        except ValueError:
            refused += 1
    assert refused > 100


def test_a_bomb_is_refused(monkeypatch):
    monkeypatch.setattr("resight.matfile._LARGEST", 1000)
    bomb = zlib.compress(bytes(1001))
    header = written(x=np.ones(1))[:128]
    with pytest.raises(ValueError, match="beyond reason"):
        load_mat(header + struct.pack("<II", 15, len(bomb)) + bomb)
