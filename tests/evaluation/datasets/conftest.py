"""The published layouts in miniature, with tiny JPEGs, made from their descriptions."""

import io
import json
import pickle
import tarfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import savemat

SIZE = (64, 48)  # width, height


def jpeg(path, size=SIZE):
    """A picture of noise, another for each path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(zlib.crc32(path.as_posix().encode()))
    pixels = cv2.resize(rng.integers(0, 255, (6, 8, 3), np.uint8), size)
    path.write_bytes(cv2.imencode(".jpg", pixels)[1].tobytes())


def _write_gnd(file, images, queries, entries):
    """`entries` have 0-based places and `bbx`; written as the suffix says, 1-based in .mat."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".pkl":
        file.write_bytes(pickle.dumps({"imlist": images, "qimlist": queries, "gnd": entries}, protocol=3))
    elif file.suffix == ".json":
        file.write_text(json.dumps({"imlist": images, "qimlist": queries, "gnd": entries}))
    else:
        keys = list(entries[0])
        gnd = np.zeros(len(entries), [(key, object) for key in keys])
        for place, entry in enumerate(entries):
            for key in keys:
                values = np.array(entry[key], float)
                gnd[place][key] = values if key == "bbx" else values + 1
        cells = {name: np.array(names, object) for name, names in (("imlist", images), ("qimlist", queries))}
        savemat(file, {**cells, "gnd": gnd})


@pytest.fixture
def photograph():
    return jpeg


@pytest.fixture
def write_gnd():
    return _write_gnd


@pytest.fixture
def revisited(tmp_path):
    """roxford5k: 6 database images and 2 queries; returns its folder. hall_1 has no hard image."""
    folder = tmp_path / "roxford5k"
    images = [f"hall_{number:06d}" for number in range(6)]
    queries = ["asked_000000", "asked_000001"]
    for name in (*images, *queries):
        jpeg(folder / "jpg" / f"{name}.jpg")
    entries = [
        {"bbx": [1.5, 2.0, 40.25, 30.0], "easy": [0, 2], "hard": [4], "junk": [1]},
        {"bbx": [0, 0, 64, 48], "easy": [3], "hard": [], "junk": []},
    ]
    _write_gnd(folder / "gnd_roxford5k.pkl", images, queries, entries)
    return folder


@pytest.fixture
def oxford(tmp_path):
    """oxford5k: 7 images, one landmark's two queries, text ground truth in gt/."""
    folder = tmp_path / "oxford5k"
    for number in range(7):
        jpeg(folder / "jpg" / f"hall_{number:06d}.jpg")
    truth = {
        "hall_1": ("oxc1_hall_000000 1.5 2 40.25 30", "0 1", "2", "3"),
        "hall_2": ("oxc1_hall_000001 0 0 64 48", "1", "0 2", ""),
    }
    for name, (query, *lists) in truth.items():
        place = folder / "gt"
        place.mkdir(exist_ok=True)
        (place / f"{name}_query.txt").write_text(query + "\n")
        for kind, numbers in zip(("good", "ok", "junk"), lists, strict=True):
            lines = "".join(f"hall_{int(number):06d}\n" for number in numbers.split())
            (place / f"{name}_{kind}.txt").write_text(lines)
    return folder


@pytest.fixture
def instre(tmp_path):
    """Makes instre with its two queries' boxes."""

    def make(*boxes):
        folder = tmp_path / "instre"
        images = [f"INSTRE-S1/01/{number:03d}.jpg" for number in range(3)] + ["INSTRE-M/01/000.jpg"]
        queries = ["INSTRE-S1/01/900.jpg", "INSTRE-M/01/900.jpg"]
        for path in (*images, *queries):
            jpeg(folder / path)
        entries = [{"ok": [0, 2], "bbx": boxes[0]}, {"ok": [3], "bbx": boxes[1]}]
        _write_gnd(folder / "gnd_instre.mat", images, queries, entries)
        return folder

    return make


@pytest.fixture
def gldv2(tmp_path):
    """gldv2: 4 index images; a public query, two private ones, an ignored one."""
    folder = tmp_path / "gldv2"
    index = ["0123456789abcdef", "1123456789abcdef", "2123456789abcdef", "3123456789abcdef"]
    test = ["a123456789abcdef", "b123456789abcdef", "c123456789abcdef", "d123456789abcdef"]
    for split, names in (("index", index), ("test", test)):
        for name in names:
            jpeg(folder / split / name[0] / name[1] / name[2] / f"{name}.jpg")
    (folder / "metadata").mkdir()
    (folder / "metadata/index.csv").write_text("id\n" + "\n".join(index) + "\n")
    (folder / "ground_truth").mkdir()
    lines = [f"{test[0]},{index[0]},Public", f"{test[1]},{index[1]} {index[2]},Private"]
    lines += [f"{test[2]},{index[3]},Private", f"{test[3]},None,Ignored"]
    (folder / "ground_truth/retrieval_solution_v2.1.csv").write_text("id,images,Usage\n" + "\n".join(lines) + "\n")
    return folder


@pytest.fixture
def ilias(tmp_path):
    """ilias: two objects, and two shards of three distractors, two of which are mini-ILIAS's."""
    folder = tmp_path / "ilias"
    for instance, positives in (("bold_bimp_000", 2), ("shy_shoe_001", 1)):
        number = instance[-3:]
        where = folder / "ilias_core" / instance
        jpeg(where / "query" / f"Q{number}_00.jpg")
        (where / "query" / f"Q{number}_00_bbox.txt").write_text("5 6 20 10\n30 8 10 30\n")
        (where / "query" / f"T{number}.txt").write_text("a toy")
        for place in range(positives):
            jpeg(where / "pos" / f"P{number}_{place:02d}.jpg")
    picture = (folder / "ilias_core/bold_bimp_000/pos/P000_00.jpg").read_bytes()
    (folder / "yfcc100m").mkdir()
    for shard, names in (("yfcc100m_0000.tar", ("aa", "bb")), ("yfcc100m_0001.tar", ("cc",))):
        with tarfile.open(folder / "yfcc100m" / shard, "w") as tar:
            for name in names:
                info = tarfile.TarInfo(f"{name}.jpg")
                info.size = len(picture)
                tar.addfile(info, io.BytesIO(picture))
    (folder / "image_ids").mkdir()
    (folder / "image_ids/mini_ilias_yfcc100m_ids.txt").write_text("aa\ncc\n")
    return folder


@pytest.fixture
def revisitop(photographs) -> Path:
    folder = photographs / "groundtruth/revisitop"
    if not folder.is_dir():
        pytest.skip(f"no ground truth at {folder}")
    return folder
