"""Collections so small that hundreds of trials take minutes, and what they counted, told at the end."""

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import pytest
from broken_works import works
from trials import Trials

from resight.describe.local_features import load_local
from resight.recipes import Recipe
from resight.store import indexing, workers

cv2.setNumThreads(1)  # which a fork survives
KINDS = ("astronaut", "chelsea", "coffee", "rocket")


@pytest.fixture
def count(record_property) -> Callable[[str], None]:
    """Notes a line of figures, which is printed when all is over."""
    return lambda line: record_property("torture", line)


def pytest_terminal_summary(terminalreporter) -> None:
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, ())]
    lines = [f"{r.location[2]}: {value}" for r in reports for name, value in r.user_properties if name == "torture"]
    if lines:
        terminalreporter.section("tried, survived, found")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def tiny(recipe) -> Recipe:
    """The default recipe with few features of small pictures and few words."""
    local = recipe.local.model_copy(update={"max_features": 40, "colours": 0})
    codebook = recipe.codebook.model_copy(update={"words": 16})
    return recipe.model_copy(update={"local": local, "codebook": codebook})


@pytest.fixture(scope="session")
def album(tmp_path_factory, pictures, view, save) -> Path:
    """A folder of 12 photos of 96 pixels, 4 things from three sides, in ``first``, and 4 more of these in ``more``."""
    folder = tmp_path_factory.mktemp("album")
    for k, name in enumerate(KINDS):
        small = cv2.resize(pictures[name], (96, 96), interpolation=cv2.INTER_AREA)
        for side in range(4):
            pixels = small if side == 0 else view(small, 10 * k + side)[0]
            save(folder / ("first" if side < 3 else "more") / f"{name}-{side}.png", pixels)
    rows = [f"first/{name}-{side}.png,{name},{side}" for name in KINDS for side in range(3)]
    (folder / "facts.csv").write_text("\n".join(["path,thing,side", *rows]))
    return folder


@pytest.fixture(scope="module")
def here() -> Iterator[None]:
    """Files described by what the workers run, in this process; two images a batch."""

    def describe_files(sources, recipe, known, *, workers: int, timeout: float, feedings=(), ahead=0):
        module._recipe, module._feedings, module._known = recipe, feedings, known
        module._local = None if recipe.local is None else load_local(recipe.local, recipe.name)
        yield from map(module._describe, sources)

    module = workers
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexing, "describe_files", describe_files)
        patch.setattr(indexing, "_BATCH_IMAGES", 2)
        yield


@pytest.fixture(scope="module")
def trials(tiny, album, tmp_path_factory, here) -> Trials:
    return Trials(dict(works(tiny)), album, tmp_path_factory.mktemp("trials"))
