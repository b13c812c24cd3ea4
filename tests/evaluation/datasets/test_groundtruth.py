"""Published ground-truth files: what they say, in three formats, and what is refused in them."""

import json
import os
import pickle
import subprocess

import numpy as np
import pytest
from scipy.io import loadmat

from resight.errors import GroundTruthError
from resight.evaluation.datasets.groundtruth import load_plain_pickle, read_gnd

KEYS = ("easy", "hard", "junk")


@pytest.mark.parametrize(("name", "images"), [("roxford5k", 4993), ("rparis6k", 6322)])
def test_the_published_pickles_say_what_their_json_says(revisitop, name, images):
    raw = json.loads((revisitop / f"gnd_{name}.json").read_text())
    gnd = read_gnd(revisitop / f"gnd_{name}.pkl", KEYS)
    assert (len(gnd.images), len(gnd.queries)) == (images, 70)
    assert list(gnd.images) == raw["imlist"] and list(gnd.queries) == raw["qimlist"]
    assert [{**{key: list(entry[key]) for key in KEYS}} for entry in gnd.answers] == [
        {key: entry[key] for key in KEYS} for entry in raw["gnd"]
    ]
    assert [list(box) for box in gnd.boxes] == [[float(number) for number in entry["bbx"]] for entry in raw["gnd"]]
    assert read_gnd(revisitop / f"gnd_{name}.json", KEYS).answers == gnd.answers


class Runs:
    """A pickle of it calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "wrap", [lambda x: x, lambda x: {"imlist": [x], "qimlist": [], "gnd": []}, lambda x: [{1: (x,)}]]
)
@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("function", ["os.system", "subprocess", "eval", "np.load"])
def test_a_pickle_that_runs_something_is_refused_and_does_not_run(tmp_path, function, protocol, wrap):
    marker = tmp_path / "ran"
    evil = {
        "os.system": Runs(os.system, f"touch {marker}"),
        "subprocess": Runs(subprocess.check_output, ["touch", str(marker)]),
        "eval": Runs(eval, f"open({str(marker)!r}, 'w')"),
        "np.load": Runs(np.load, str(marker)),
    }[function]
    file = tmp_path / "gnd.pkl"
    file.write_bytes(pickle.dumps(wrap(evil), protocol=protocol))
    with pytest.raises(GroundTruthError, match=r"gnd.pkl: refused: it asks for .* plain lists"):
        read_gnd(file, KEYS)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Runs(os.system, f"touch {marker}")))  # the same bytes, read carelessly, do run it
    assert marker.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"cos\nsystem\n(S'true'\ntR.",  # GLOBAL, the oldest form
        b"(S'true'\nios\nsystem\n.",  # INST
        b"\x80\x02cbuiltins\ngetattr\n.",
        b"Psomething\n.",  # PERSID
        b"\x80\x02\x8c\x02os\x8c\x06system\x93.",  # STACK_GLOBAL
        b"cnumpy.core.multiarray\n_reconstruct.__globals__\n.",
    ],
)
def test_every_way_of_naming_code_is_refused(data):
    with pytest.raises(GroundTruthError, match="refused"):
        load_plain_pickle(data)


def test_an_array_of_objects_is_refused():
    with pytest.raises(GroundTruthError, match="refused: an array of dtype"):
        load_plain_pickle(pickle.dumps(np.array([[1], "a"], object), protocol=2))


@pytest.mark.parametrize("protocol", range(5))
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array([1.5, 2.5], ">f4"),
        np.array([], np.int64),
        np.array([True, False]),
        np.array(["all_souls_000013", "ä"]),
        np.array(7, np.uint8),
    ],
)
def test_arrays_are_read_as_lists_as_numpy_has_them(array, protocol):
    assert load_plain_pickle(pickle.dumps({"a": [array]}, protocol=protocol)) == {"a": [array.tolist()]}


@pytest.mark.parametrize("protocol", range(5))
def test_numpy_numbers_are_read(protocol):
    values = [np.float64(1.25), np.int32(-3), np.float32(0.5)]
    assert load_plain_pickle(pickle.dumps(values, protocol=protocol)) == [1.25, -3, 0.5]


@pytest.fixture
def gnd(tmp_path, write_gnd):
    def write(suffix, **changes):
        entries = [
            {"ok": [0, 2], "bbx": [1.5, 2, 3, 4]},
            {"ok": [1], "bbx": [0, 0, 5, 5]},
            {"ok": [], "bbx": [0, 0, 1, 1]},
        ]
        given = {"images": ["a", "b", "c"], "queries": ["q", "r", "s"], "entries": entries, **changes}
        file = tmp_path / f"gnd{suffix}"
        write_gnd(file, **given)
        return file

    return write


def test_mat_counts_from_one_and_the_others_from_none(gnd):
    one = loadmat(gnd(".mat"), simplify_cells=True)
    assert list(one["gnd"][0]["ok"]) == [1, 3]  # the file itself
    found = [read_gnd(gnd(suffix), ("ok",)) for suffix in (".mat", ".pkl", ".json")]
    assert found[0].answers == found[1].answers == found[2].answers == ({"ok": (0, 2)}, {"ok": (1,)}, {"ok": ()})
    assert found[0].boxes == found[1].boxes and found[0].images == found[2].images == ("a", "b", "c")
    assert found[0].queries == ("q", "r", "s") and found[1].named(0, ["ok"]) == {"a", "c"}


def test_a_list_of_one_is_a_list_in_mat_too(gnd):
    file = gnd(".mat", images=["a"], queries=["q"], entries=[{"ok": [0], "bbx": [0, 0, 1, 1]}])
    found = read_gnd(file, ("ok",))
    assert (found.images, found.queries, found.answers) == (("a",), ("q",), ({"ok": (0,)},))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": ["a", "b"]}, "place 2 is not one of 2 images"),
        ({"queries": ["q", "r"]}, "2 queries but 3 answers"),
        ({"queries": ["q", "r", ""]}, "an image is called ''"),
    ],
)
@pytest.mark.parametrize("suffix", [".pkl", ".json"])
def test_a_file_that_contradicts_itself_is_refused(gnd, suffix, changes, said):
    with pytest.raises(GroundTruthError, match=said):
        read_gnd(gnd(suffix, **changes), ("ok",))


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"ok": [-1], "bbx": [0, 0, 1, 1]}, "place -1"),
        ({"ok": [0.5], "bbx": [0, 0, 1, 1]}, "place 0.5"),
        ({"ok": [0], "bbx": [0, 0, 1]}, "is not four numbers"),
        ({"ok": [0], "bbx": [0, 0, 1, float("nan")]}, "is not four numbers"),
        ({"bbx": [0, 0, 1, 1]}, "has no 'ok'"),
    ],
)
def test_a_bad_entry_is_refused(gnd, entry, said):
    with pytest.raises(GroundTruthError, match=said):
        read_gnd(gnd(".pkl", queries=["q"], entries=[entry]), ("ok",))


@pytest.mark.parametrize("suffix", [".pkl", ".mat", ".json"])
def test_a_file_cut_short_is_refused_with_its_name(gnd, suffix):
    file = gnd(suffix)
    whole = file.read_bytes()
    for length in (0, 1, len(whole) // 3, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(GroundTruthError, match=rf"gnd\{suffix}: "):
            read_gnd(file, ("ok",))


def test_endless_recursion_and_huge_arrays_are_refused(tmp_path):
    file = tmp_path / "gnd.pkl"
    loop = []
    loop.append(loop)
    for data in (pickle.dumps({"imlist": loop}), b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b"."):
        file.write_bytes(data)
        with pytest.raises(GroundTruthError, match=r"gnd\.pkl"):
            read_gnd(file, KEYS)
    # A length of 2³¹ − 1 in place of 4
    claims = pickle.dumps(np.zeros(4, np.int64), protocol=2).replace(b"K\x04\x85", b"J\xff\xff\xff\x7f\x85")
    with pytest.raises(ValueError, match="reshape"):
        load_plain_pickle(claims)


def test_qidx_stands_for_queries_of_the_database(tmp_path):
    from scipy.io import savemat

    file = tmp_path / "gnd_oxford5k.mat"
    gnd = np.zeros(2, [("ok", object), ("junk", object), ("bbx", object)])
    for place in range(2):
        gnd[place] = (np.array([1.0]), np.array([2.0]), np.array([0, 0, 1, 1.0]))
    savemat(file, {"imlist": np.array(["a", "b", "c"], object), "qidx": np.array([3, 1]), "gnd": gnd})
    assert read_gnd(file, ("ok", "junk")).queries == ("c", "a")


def test_what_would_fill_the_memory_is_refused_or_stays_small(tmp_path):
    for put in (b"r\xff\xff\xff\x7f", b"p2000000000\n"):  # a list of so many places would be made for it
        with pytest.raises(ValueError, match="keeps something in place 2"):
            load_plain_pickle(b"\x80\x02]" + put + b".")
    rows = pickle.dumps(np.zeros((4, 0), np.int64), protocol=2).replace(b"K\x04K\x00", b"J\xff\xff\xff\x7fK\x00")
    assert load_plain_pickle(rows) == []  # two thousand million empty rows
    shared = ["a"]
    for _ in range(60):
        shared = [shared, shared]
    plain = load_plain_pickle(pickle.dumps(shared))
    assert plain[0] is plain[1] and plain[0][0] is plain[1][1]
