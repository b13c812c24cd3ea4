"""A collection that answers from a dictionary: the command line's plumbing is tested, and nothing else."""

import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import numpy as np
import PIL.Image
import pytest

from resight.errors import CollectionError, QueryError
from resight.recipes.local_stages import Sift
from resight.recipes.recipe import AsmkStage, CodebookStage, GlobalStage, Recipe
from resight.search.ranking import Evidence, Ranking

SIFT = Recipe(
    name="rootsift-asmk",
    title="SIFT",
    source="-",
    filter="asmk",
    local=Sift(detector="sift"),
    codebook=CodebookStage(),
    asmk=AsmkStage(),
)
DEEP = Recipe.model_validate(
    {"name": "deep", "title": "Deep", "source": "-", "filter": "global", "global": GlobalStage(network="net")}
)
EVIDENCE = Evidence(
    inliers=5,
    matches=9,
    homography=np.array([[2.0, 0, 10], [0, 2, 20], [0, 0, 1]]),
    outline=np.array([[10, 20], [210, 20], [210, 120], [10, 120]], np.float32),
    box=(10.0, 20.0, 210.0, 120.0),
    query_xy=np.zeros((5, 2), np.float32),
    result_xy=np.tile(np.float32([10, 20]), (5, 1)),
)
INDEX = {"choice": {"kind": "SQ8", "depth": 5, "effort": 1}, "images": 20_000, "trained_on": 20_000, "bytes": 1_300_000}
FOUND = Ranking(np.array([3, 1, 2]), np.float32([0.98, 0.75, 0.1]), (EVIDENCE, EVIDENCE, None), 0.5, True)
NOTHING = Ranking(np.array([1, 2]), np.float32([0.2, 0.1]), (None, None), 0.5, True)


@dataclass(frozen=True)
class Timing:
    describe: float = 0.25
    filter: float = 0.5
    verify: float = 0.25
    comparisons: int = 7


@dataclass(frozen=True)
class AddReport:
    added: int = 0
    changed: int = 0
    moved: int = 0
    unchanged: int = 0
    vanished: int = 0
    failed: int = 0
    seconds: float = 2.0
    advice: str | None = None


@dataclass(frozen=True)
class RepairReport:
    mended: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


@dataclass(frozen=True)
class Info:
    path: str
    recipe: str
    fingerprint: str = "f00d"
    images: int = 3
    missing: int = 0
    failures: int = 1
    pending: int = 0
    bytes_on_disk: int = 4_200_000
    bytes_per_image: float = 1400.0
    codebook: dict | None = None
    index: dict | None = None
    advice: str | None = "refit"


class FakeCollection:
    """`answers` maps a query to a Ranking or the error it raises; `calls` records what was asked."""

    existing: ClassVar[dict[str, Recipe]] = {}
    answers: ClassVar[dict] = {}
    calls: ClassVar[list] = []
    report: AddReport | BaseException = AddReport()
    problems: ClassVar[list[str]] = []
    repaired = RepairReport()
    removed = 1
    behind = None
    adapter = "none"
    origins: ClassVar[dict[int, str]] = {
        1: "/photos/one.jpg",
        2: "/photos/two, too.jpg",
        3: "/photos/th\tree.jpg",
    }
    fingerprint = "f00d"

    def __init__(self, path, recipe):
        self.path, self.recipe = str(path), recipe

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.calls.append(("closed",))

    def __len__(self):
        return 3

    @classmethod
    def create(cls, path, recipe="rootsift-asmk"):
        cls.calls.append(("create", str(path), recipe))
        return cls(path, recipe)

    @classmethod
    def open(cls, path, *, write=False, recipe=None):
        if str(path) not in cls.existing:
            raise CollectionError(f"{path} is not a collection")
        cls.calls.append(("open", write))
        return cls(path, cls.existing[str(path)])

    @staticmethod
    def exists(path):
        return str(path) in FakeCollection.existing

    def add(self, paths, *, workers=None, progress=None):
        self.calls.append(("add", list(paths), workers))
        progress(SimpleNamespace(phase="describing", done=1, total=2))
        if isinstance(self.report, BaseException):
            raise self.report
        return self.report

    def remove(self, selectors, *, missing=False):
        self.calls.append(("remove", list(selectors), missing))
        return self.removed

    def search_timed(self, query, *, box=None, top=None, where=None, exact=False):
        self.calls.append(("search", query, box, top))
        self.calls.append(("scope", where, exact))
        answer = self.answers.get(query if isinstance(query, int | str) else query.origin)
        if answer is None:
            raise QueryError("no such query")
        if isinstance(answer, Exception):
            raise answer
        return answer.top(top), Timing()

    def entry(self, image_id):
        return SimpleNamespace(id=image_id, origin=self.origins[image_id], size=(400, 300))

    def failures(self):
        return iter([SimpleNamespace(origin="/photos/bad\n.jpg", reason="truncated")])

    def info(self):
        return Info(self.path, self.recipe.name, codebook={"words": 4096, "fitted_on": "these"}, index=INDEX)

    def verify(self, *, progress=None):
        return self.problems

    def repair(self, *, progress=None):
        self.calls.append(("repair",))
        return self.repaired

    def export(self, target, *, format):
        self.calls.append(("export", str(target), format))
        return 3

    def refit(self, *, progress=None):
        return "fitted on 3 images"


def install(monkeypatch=None):
    """Put the fakes where the commands import the real ones from."""
    collection = ModuleType("resight.search.collection")
    collection.Collection = FakeCollection
    recipes = ModuleType("resight.recipes")
    recipes.__path__ = sys.modules["resight.recipes"].__path__
    named = {"rootsift-asmk": SIFT, "deep": DEEP}
    recipes.load_recipe = lambda name: named[str(name)]
    recipes.recipe_names = lambda: tuple(named)
    recipes.recipe_text = lambda name: f'# {name}\nname = "{name}"\n'
    for module in (collection, recipes):
        if monkeypatch is None:
            sys.modules[module.__name__] = module
        else:
            monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture
def fake(monkeypatch):
    """The fake collection's class, with a collection `c` that knows four queries."""
    install(monkeypatch)
    monkeypatch.setattr(FakeCollection, "existing", {"c": SIFT})
    monkeypatch.setattr(FakeCollection, "calls", [])
    answers = {"a.jpg": FOUND, "none.jpg": NOTHING, 3: FOUND, "standard input": FOUND}
    monkeypatch.setattr(FakeCollection, "answers", answers)
    # The photos are as unreal as the collection.
    monkeypatch.setattr("resight.cli.index.find_sources", lambda paths, on_problem: iter(()))
    return FakeCollection


@pytest.fixture
def resight(fake):
    """Runs a command line; the result has exit_code, stdout, stderr."""
    from typer.testing import CliRunner

    from resight.cli.main import app

    def run(*arguments, stdin=None, env=None):
        result = CliRunner().invoke(app, [str(a) for a in arguments], input=stdin, env=env)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def report(fake, monkeypatch):
    """Says what the next `add` reports."""
    return lambda **facts: monkeypatch.setattr(fake, "report", AddReport(**facts))


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "a.png"
    PIL.Image.new("RGB", (200, 100), "teal").save(path)
    return path
