"""What resight itself reads, besides pictures: a sound file of each kind, and the function that reads it."""

import json
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import scipy.io
import torch

from resight.artefact import load_artefact, save_artefact
from resight.cluster.manifest import Manifest
from resight.evaluation.check_recipes import Checked
from resight.evaluation.datasets.groundtruth import read_gnd
from resight.evaluation.datasets.landmarks import rows
from resight.evaluation.exchange import read_rankings
from resight.evaluation.kept_report import read_report
from resight.evaluation.labelled import LabelledSet, Query
from resight.evaluation.leaderboard import Cell, Leaderboard, read_cells
from resight.evaluation.load import load_labelled
from resight.evaluation.qrels import with_qrels
from resight.evaluation.recognise import read_set_predictions
from resight.evaluation.score import score
from resight.learning.checkpoint import Checkpoint, Position, load_checkpoint, save_checkpoint
from resight.learning.settings import load_settings, settings_names, settings_text
from resight.networks.weights import read_checkpoint
from resight.recipes import load_recipe
from resight.recipes.recipe import recipe_text
from resight.search.rerank.vectors import read_vectors
from resight.store.sidecar import read_sidecar


@dataclass(frozen=True)
class Kind:
    """name: of the file, with the suffix by which it is read. make: writes sound ones, each with what reading gives.

    exact: whether what is read from a broken one must be what the sound one says, since it carries checksums.
    """

    name: str
    sound: Callable[[Path], None]
    read: Callable[[Path], Any]
    exact: bool = False


def labelled(folder: Path) -> LabelledSet:
    """Of pictures that nobody opens."""
    database = tuple(f"{name}.jpg" for name in "abcdef")
    queries = (
        Query("q1.jpg", frozenset({"a.jpg", "b.jpg"})),
        Query("q2.jpg", frozenset({"c.jpg"}), frozenset({"d.jpg"})),
    )
    return LabelledSet("six", folder / "gt.json", folder, database, queries)


GND = {
    "imlist": ["a", "b", "c", "d"],
    "qimlist": ["q", "r"],
    "gnd": [{"ok": [0, 1], "junk": [2], "bbx": [1.0, 2.0, 30.0, 40.5]}, {"ok": [3], "junk": [], "bbx": [0, 0, 9, 9]}],
}
_TENSORS = {"mean": np.arange(6, dtype=np.float32), "projection": np.eye(6, 4, dtype=np.float64)}


def kinds() -> dict[str, Kind]:
    """By a word for each."""
    return {
        "recipe": Kind("recipe.toml", _text(lambda: recipe_text("gem")), load_recipe),
        "settings": Kind("settings.toml", _text(lambda: settings_text(settings_names()[0])), load_settings),
        "artefact": Kind("pca.safetensors", _artefact, lambda path: load_artefact(path, "pca"), exact=True),
        "weights.safetensors": Kind("weights.safetensors", _safetensors, read_checkpoint),
        "weights.pth": Kind("weights.pth", lambda path: torch.save(_checkpoint(), path), read_checkpoint),
        "weights.old.pth": Kind("weights.pth", _old_pth, read_checkpoint),
        "weights.npz": Kind("weights.npz", lambda path: np.savez(path, **_TENSORS), read_checkpoint),
        "checkpoint": Kind("checkpoint.safetensors", _training, load_checkpoint),
        "gnd.pkl": Kind("gnd.pkl", lambda path: _write(path, pickle.dumps(_arrays(), 2)), _gnd),
        "gnd.json": Kind("gnd.json", lambda path: _write(path, json.dumps(GND).encode()), _gnd),
        "gnd.mat": Kind("gnd.mat", _mat, _gnd),
        "gt.json": Kind("gt.json", _gt, load_labelled),
        "qrels": Kind("qrels.txt", _text(lambda: "q1.jpg 0 a.jpg 1\nq1.jpg 0 c.jpg -1\nq2.jpg 0 d.jpg 1\n"), _qrels),
        "rankings.trec": Kind(
            "r.trec", _text(lambda: "q1.jpg Q0 a.jpg 1 0.9 x\nq2.jpg Q0 c.jpg 1 0.5 x\n"), _rankings("trec")
        ),
        "rankings.csv": Kind("r.csv", _text(lambda: "query,image,rank,score\nq1.jpg,a.jpg,1,0.5\n"), _rankings("csv")),
        "rankings.gldv2": Kind("r.csv", _text(lambda: "id,images\nq1,a b c\nq2,d e f\n"), _rankings("gldv2")),
        "rankings.npy": Kind(
            "r.npy", lambda path: np.save(path, np.array([[0, 1], [2, 3], [1, -1]])), _rankings("ranks")
        ),
        "predictions": Kind("p.csv", _text(lambda: "query,label,confidence\nq1.jpg,one,0.5\nq2.jpg,,\n"), _predictions),
        "landmarks.csv": Kind(
            "index.csv", _text(lambda: "id,images,Usage\n00a1,00b2 00c3,Public\n00d4,None,Ignored\n"), _rows
        ),
        "sidecar.csv": Kind(
            "m.csv", _text(lambda: "path,year,town,old\na.jpg,1998,Rome,true\nb.jpg,2001,,false\n"), read_sidecar
        ),
        "sidecar.json": Kind(
            "m.json", _text(lambda: '[{"path": "a.jpg", "year": 1998, "town": "Rome", "old": true}]'), read_sidecar
        ),
        "vectors.npz": Kind("v.npz", lambda path: np.savez(path, **_vectors()), read_vectors),
        "vectors.safetensors": Kind("v.safetensors", _vectors_safetensors, read_vectors),
        "report": Kind("report.json", _report, read_report),
        "leaderboard": Kind("results.json", _leaderboard, read_cells),
        "manifest": Kind("manifest.json", _manifest, lambda path: Manifest.from_json(path.read_bytes(), str(path))),
    }


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _text(text: Callable[[], str]) -> Callable[[Path], None]:
    return lambda path: _write(path, text().encode())


def _artefact(path: Path) -> None:
    save_artefact(path, "pca", _TENSORS, {"fitted_on": "six photos", "scale": 0.25, "power": [0.5, 1.0]})


def _checkpoint() -> dict[str, Any]:
    state = {name: torch.from_numpy(array) for name, array in _TENSORS.items()}
    return {"state_dict": state, "epoch": 3, "mean": np.arange(3.0), "name": "a network"}


def _old_pth(path: Path) -> None:
    torch.save(_checkpoint(), path, _use_new_zipfile_serialization=False)


def _safetensors(path: Path) -> None:
    safetensors.torch.save_file({name: torch.from_numpy(array) for name, array in _TENSORS.items()}, path, {"a": "b"})


def _training(path: Path) -> None:
    position = Position(**dict.fromkeys(Position.__dataclass_fields__, 1))
    module = {name: torch.from_numpy(array) for name, array in _TENSORS.items()}
    optimiser = {0: {"step": torch.tensor(1.0), "momentum": None}}
    save_checkpoint(path, Checkpoint(position, module, optimiser, None, {"seed": 1}, {}))


def _arrays() -> dict[str, Any]:
    entries = [{key: np.array(value) for key, value in entry.items()} for entry in GND["gnd"]]
    return {**GND, "gnd": entries}


def _gnd(path: Path) -> Any:
    return read_gnd(path, ("ok", "junk"))


def _mat(path: Path) -> None:
    entries = np.zeros(2, [(key, object) for key in ("ok", "junk", "bbx")])
    for place, entry in enumerate(GND["gnd"]):
        entries[place] = tuple(np.array(entry[key], float) + (key != "bbx") for key in ("ok", "junk", "bbx"))
    cells = {key: np.array(GND[key], dtype=object) for key in ("imlist", "qimlist")}
    scipy.io.savemat(path, {**cells, "gnd": entries})


def _gt(path: Path) -> None:
    images = {name: {"size": [40, 30]} for name in ("q.jpg",)}
    for name in ("a.jpg", "b.jpg", "c.jpg", "q.jpg"):
        (path.parent / name).touch()
    queries = {"q.jpg": {"positives": ["a.jpg"], "junk": ["b.jpg"], "box": [1, 2, 30, 20]}}
    table = {"name": "four", "images": images, "database": ["a.jpg", "b.jpg", "c.jpg"], "queries": queries}
    path.write_text(json.dumps(table))


def _qrels(path: Path) -> Any:
    return with_qrels(labelled(path.parent), path)


def _rankings(form: str) -> Callable[[Path], Any]:
    return lambda path: read_rankings(path, labelled(path.parent), form)


def _predictions(path: Path) -> Any:
    return read_set_predictions(path, labelled(path.parent))


def _rows(path: Path) -> Any:
    return list(rows(path, ("id", "images", "Usage")))


def _vectors() -> dict[str, Any]:
    boxes = np.array([[0, 0, 4, 4], [1, 1, 3, 3], [0, 0, 5, 5]], np.float32)
    return {"ids": np.array([1, 1, 2]), "vectors": np.eye(3, 4, dtype=np.float32), "boxes": boxes}


def _vectors_safetensors(path: Path) -> None:
    tensors = {name: torch.from_numpy(array) for name, array in _vectors().items()}
    safetensors.torch.save_file(tensors, path, {"paths": json.dumps(["a", "a", "b"])})


def _report(path: Path) -> None:
    ranked = path.with_name("r.csv")
    ranked.write_text("query,image,rank\nq1.jpg,a.jpg,1\nq1.jpg,f.jpg,2\nq2.jpg,e.jpg,1\n")
    of = labelled(path.parent)
    path.write_text(score(of, read_rankings(ranked, of)).to_json())


def _leaderboard(path: Path) -> None:
    checked = Checked("holidays", "gem", 0.8, 0.9, 12.5, 2048.0, 1491, 500, 0.0)
    Leaderboard((Cell("key", checked, 0.85, {"resight": "0.1.0"}, "a machine", 3.5),)).write(path.parent)


def _manifest(path: Path) -> None:
    from resight.cluster.manifest import Learned

    recipe = load_recipe("gem")
    manifest = Manifest(
        3, recipe, recipe.fingerprint, "catalogue-1", Learned(None, None), ("s-1.tar", "s-2.tar"), (1, 2), 4
    )
    path.write_text(manifest.to_json())


class Planted:
    """Unpickled with full trust, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)
