"""What the benchmarks share: the machine's line, Markdown tables, labelled sets, and collections that are kept."""

import argparse
import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resight.describe.describer import Describer
from resight.describe.description import Description
from resight.evaluation import LabelledSet, Query, load_labelled, sample, with_distractors
from resight.evaluation.measure import versions
from resight.recipes import Recipe
from resight.search.collection import Collection
from resight.search.searcher import Searcher, describing
from resight.store.store import Store

DATA = Path(os.environ.get("RESIGHT_TEST_DATA", Path(__file__).resolve().parents[2] / "shared/data"))
SETS = ("museum_mcv", "grocery_packages", "scenes_multiview", "ukbench1000")


def machine() -> dict[str, str]:
    """Cores this process may use, CPU model, memory, operating system, and versions that decide figures."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "machine": f"{cores} cores of {model}, {memory / 2**30:.0f} GiB, {platform.system()} {platform.release()}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; None is shown as –, floats as they are formatted by the caller."""
    cells = [list(head), ["---"] * len(head), *(["–" if v is None else str(v) for v in row] for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def percent(value: float | None) -> str | None:
    """A fraction as per cent with one decimal."""
    return None if value is None else f"{100 * value:.1f}"


def header(protocol: str) -> str:
    """The lines above a benchmark's table: what it ran on and how it was measured."""
    facts = machine()
    return f"Machine: {facts['machine']}.  \nVersions: {facts['versions']}.  \nProtocol: {protocol}\n"


def write_json(path: Path | None, protocol: str, results: Any) -> None:
    """Write what was measured, with machine and protocol, where a file was asked for."""
    if path is not None:
        path.write_text(json.dumps({**machine(), "protocol": protocol, "results": results}, indent=1) + "\n")


def add_set_options(parser: argparse.ArgumentParser) -> None:
    """--set, --queries, --seed, --distractors, --collections, --workers and --out."""
    parser.add_argument(
        "--set",
        dest="sets",
        type=Path,
        action="append",
        help=f"folder of a labelled set; repeatable (default: {', '.join(SETS)} of {DATA})",
    )
    parser.add_argument("--queries", type=int, help="ask a sample of so many queries of each set (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample; the same for all systems (default: 0)")
    parser.add_argument("--distractors", type=Path, action="append", default=[], help="folder of photos to add")
    parser.add_argument("--collections", type=Path, required=True, help="folder that keeps what was indexed")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--out", type=Path, help="also write the results to this JSON file")


def labelled_sets(options: argparse.Namespace) -> list[LabelledSet]:
    """The sets that `add_set_options` was told of, with distractors, and the sampled queries."""
    loaded = []
    for folder in options.sets or [DATA / name for name in SETS]:
        labelled = with_distractors(load_labelled(folder), options.distractors)
        loaded.append(labelled if options.queries is None else sample(labelled, options.queries, options.seed))
    return loaded


def protocol_text(options: argparse.Namespace) -> str:
    """How the sets that `add_set_options` was told of are asked."""
    asked = "all queries" if options.queries is None else f"{options.queries} queries a set, seed {options.seed}"
    added = f"; distractors: {', '.join(map(str, options.distractors))}" if options.distractors else ""
    return (
        f"{asked}{added}; whole query images; a query that is in the database is left out of its own ranking; junk "
        "removed; trapezoidal AP; ties by image id"
    )


def cache_name(name: str, images: Iterable[Path], *parts: str) -> str:
    """A file name for what is kept of some images: the same for another sample of a set's queries."""
    digest = hashlib.sha256("\n".join([*map(str, images), *parts]).encode())
    return f"{name}-{digest.hexdigest()[:12]}"


def database(labelled: LabelledSet, recipe: Recipe, folder: Path, workers: int) -> Path:
    """The collection of the set's database, described as the recipe says, kept in ``folder`` for the next run.

    Recipes that differ only in how they search (filter, [asmk], [verify], [calibration]) share one collection.
    """
    network = Describer(recipe).network
    learned = "" if network is None else network.fingerprint
    images, parts = [labelled.locate(p) for p in labelled.database], (describing(recipe), learned)
    path = folder / cache_name(labelled.name, images, *parts)
    added = images[len(labelled.own) :]
    if not Collection.exists(path) and added:
        # Describing the distractors is most of the work, and the same for every set they are added to.
        shared = folder / cache_name("distractors", added, *parts)
        with _opened(shared, recipe) as collection:
            collection.add(added, workers=workers)
        shutil.copytree(shared, path)
        with Collection.open(path, write=True) as collection:
            collection.add(images, workers=workers)
            if recipe.codebook is not None:
                collection.refit()
    with _opened(path, recipe) as collection:
        collection.add(images, workers=workers)
    return path


def _opened(path: Path, recipe: Recipe) -> Collection:
    return Collection.open(path, write=True) if Collection.exists(path) else Collection.create(path, recipe)


def image_ids(store: Store, labelled: LabelledSet) -> dict[str, int]:
    """Path in the set → id in the collection, for the images that could be indexed."""
    by_origin = dict(store.catalogue.rows("SELECT origin, id FROM images"))
    located = ((path, str(labelled.locate(path))) for path in labelled.database)
    return {path: by_origin[origin] for path, origin in located if origin in by_origin}


def described(
    query: Query, labelled: LabelledSet, ids: Mapping[str, int], searcher: Searcher, describer: Describer
) -> tuple[Description, float]:
    """The query's description and the seconds it took: its stored one where that is the same, as in `evaluate`."""
    began = time.perf_counter()
    if query.box is None and query.path in ids:
        position = searcher.snapshot.positions(np.array([ids[query.path]]))[0]
        description = searcher.stored(int(position))
    else:
        description = describer.describe(labelled.locate(query.path), query.box)
    return description, time.perf_counter() - began
