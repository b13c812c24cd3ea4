"""Labelled sets small enough to work by hand, and a collection whose ranking can be foretold."""

import hashlib
import json
import os
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from resight.errors import ImageError
from resight.recipes.recipe import GlobalStage, ImageStage, Recipe
from resight.search.ranking import Ranking

RECIPE = Recipe(
    name="nearest-number",
    title="",
    source="",
    filter="global",
    image=ImageStage(max_side=64),
    **{"global": GlobalStage(network="none")},
)


@pytest.fixture
def write_set(tmp_path):
    """Writes files with the contents given, and a gt.json beside them; returns the folder."""

    def write(files, **truth):
        for path, content in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(str(content))
        (tmp_path / "gt.json").write_text(json.dumps({"name": "numbers", **truth}))
        return tmp_path

    return write


@dataclass(frozen=True)
class Progress:
    phase: str
    done: int
    total: int | None


class NumberCollection:
    """Its images are text files holding a number, similar as the numbers are near; accepted within 0.5."""

    kept: dict[str, "NumberCollection"] = {}  # noqa: RUF012 (cleared for each test)
    fitted = None

    def __init__(self, recipe):
        self.recipe, self.fingerprint, self.numbers, self.reasons = recipe, "f" * 64, {}, {}

    @classmethod
    def create(cls, path, recipe):
        return cls.kept.setdefault(str(path), cls(recipe))

    @classmethod
    def open(cls, path, *, write=False):
        return cls.kept[str(path)]

    @classmethod
    def exists(cls, path):
        return str(path) in cls.kept

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def close(self):
        pass

    def __len__(self):
        return len(self.numbers)

    def add(self, paths, *, workers=None, progress=None):
        added = 0
        for path in map(str, paths):
            try:
                number = float(Path(path).read_text())
            except ValueError:
                self.reasons[path] = "not a number"
                continue
            added += path not in self.numbers
            self.numbers[path] = number
        return types.SimpleNamespace(added=added, changed=0)

    def find(self, origin):
        return list(self.numbers).index(origin) + 1 if origin in self.numbers else None

    def failures(self):
        return [types.SimpleNamespace(origin=o, reason=r) for o, r in self.reasons.items()]

    def info(self):
        return types.SimpleNamespace(bytes_on_disk=2**20)

    @staticmethod
    def digest_of(number):
        return hashlib.sha256(str(float(number)).encode()).hexdigest()

    def digests(self):
        return [(origin, self.digest_of(number)) for origin, number in self.numbers.items()]

    def learned(self):
        return {"codebook": types.SimpleNamespace(fitted_on="these numbers", photos=self.fitted)}

    def search_timed(self, query, *, box=None, top=None, exact=False):
        values = np.array(list(self.numbers.values()))
        if isinstance(query, int):
            asked = values[query - 1]
        else:
            try:
                asked = float(Path(query).read_text())
            except ValueError:
                raise ImageError("not a number") from None
        if box is not None:
            asked = box[0]
        scores = -np.abs(values - asked).astype(np.float32)
        order = np.lexsort((np.arange(len(values)), -scores))
        ranking = Ranking(order + 1, scores[order], (None,) * len(order), threshold=-0.5, calibrated=False)
        return ranking, types.SimpleNamespace(describe=0.001, filter=0.002, verify=0.003, comparisons=8)


@pytest.fixture
def number_collection(monkeypatch):
    """Puts the foretold collection in the place of the real one."""
    module = types.ModuleType("resight.search.collection")
    module.Collection, module.Progress = NumberCollection, Progress
    NumberCollection.kept, NumberCollection.fitted = {}, None
    monkeypatch.setitem(sys.modules, "resight.search.collection", module)
    return NumberCollection


@pytest.fixture
def recipe():
    return RECIPE


@pytest.fixture
def other_recipe():
    return RECIPE.model_copy(update={"title": "changed"})


@pytest.fixture(scope="session")
def photographs():
    root = Path(os.environ.get("RESIGHT_TEST_DATA", Path(__file__).parents[3] / "shared/data"))
    if not root.is_dir():
        pytest.skip(f"no photographs at {root}; set RESIGHT_TEST_DATA to the folder of labelled sets")
    return root
