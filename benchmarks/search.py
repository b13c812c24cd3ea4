"""How long a search takes as the collection grows, by stage, beside brute-force matching."""

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import brute
import photos
from common import DATA, header, table, write_json
from process import watched
from resight.recipes import load_recipe
from resight.search.collection import Collection

_CLI = "from resight.cli.main import main; main()"


@dataclass(frozen=True)
class Spread:
    """Seconds: median and 95th percentile."""

    p50: float
    p95: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Spread":
        return cls(*(float(np.percentile(seconds, p)) for p in (50, 95)))


@dataclass(frozen=True)
class Result:
    """Searching one size. opening: seconds to open and answer first, less a later answer's median.

    command: seconds of a whole `resight search`. peak, private: bytes of resident memory of the searching process, with
    and without mapped files.
    brute: seconds of matching and verifying a query by brute force on one core; brute_measured: or scaled from the
    pairs of a smaller size. comparisons, brute_comparisons: mean a query.
    """

    photos: int
    describe: Spread
    filter: Spread
    verify: Spread
    total: Spread
    opening: float
    command: Spread
    peak: int
    private: int
    comparisons: float
    brute: float
    brute_measured: bool
    brute_comparisons: float


def grown(folder: Path, made: Sequence[Path], recipe: str, workers: int, smaller: Path | None) -> Path:
    """The collection of these photos, kept in the folder, grown from a smaller one and refitted as it advises."""
    path = folder / f"{load_recipe(recipe).name}-{len(made)}"
    if smaller is not None and not path.exists():
        shutil.copytree(smaller, path)
    with (
        Collection.open(path, write=True) if Collection.exists(path) else Collection.create(path, recipe) as collection
    ):
        if collection.add(made, workers=workers).advice is not None:
            collection.refit()
    return path


def ask(collection: Path, queries: Sequence[Path]) -> tuple[float, list[tuple[float, float, float]], float]:
    """Open and ask: seconds to open and answer the first query; stages of each query; comparisons a query."""
    began = time.perf_counter()
    with Collection.open(collection) as opened:
        opened.search(queries[0])
        first = time.perf_counter() - began
        timings = [opened.search_timed(query)[1] for query in queries]
    stages = [(t.describe, t.filter, t.verify) for t in timings]
    return first, stages, float(np.mean([t.comparisons for t in timings]))


def command(collection: Path, query: Path) -> float:
    """Seconds of `resight search`, starting Python included. Raises RuntimeError if it fails."""
    began = time.perf_counter()
    arguments = [sys.executable, "-c", _CLI, "search", str(collection), str(query), "--quiet"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):  # 1: nothing found
        raise RuntimeError(f"resight search failed: {done.stderr}")
    return time.perf_counter() - began


def main(arguments: Sequence[str] | None = None) -> list[Result]:
    """Measure every size, smallest first, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, default=DATA / "distractors", help="folder of real photographs")
    parser.add_argument("--photos", type=int, nargs="+", default=[300, 3000, 30000], help="(default: 300 3000 30000)")
    parser.add_argument("--queries", type=int, default=50, help="warped photos to ask for (default: 50)")
    parser.add_argument("--brute-queries", type=int, default=5, help="of them, also by brute force (default: 5)")
    parser.add_argument("--side", type=int, default=320, help="longest side of the photos (default: 320)")
    parser.add_argument("--recipe", default="rootsift-asmk", help="name, file or folder (default: rootsift-asmk)")
    parser.add_argument("--workers", type=int, default=2, help="processes that index (default: 2)")
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps photos and collections")
    parser.add_argument("--out", type=Path, help="also write the results to this JSON file")
    options = parser.parse_args(arguments)
    sources, sizes = photos.originals(options.source), sorted(options.photos)
    # Queries are further views of photographs that even the smallest collection holds, spread over it.
    first = (1 + max(sizes) // len(sources)) * len(sources)
    held = min(sizes[0], len(sources))
    numbers = [first + int(n) for n in np.linspace(0, held, options.queries, endpoint=False)]
    queries = photos.write(sources, numbers, options.work / f"queries-{first}", side=options.side)
    results: list[Result] = []
    brute_seconds = brute_comparisons = 0.0
    smaller: Path | None = None
    for size in sizes:
        made = photos.write(sources, range(size), options.work / "photos", side=options.side)
        smaller = grown(options.work, made, options.recipe, options.workers, smaller)
        if size == sizes[0]:
            kept = options.work / f"sift-{size}"
            brute.FeatureTable.make(made, kept, options.workers)
            asked = [(query, None) for query in queries[: options.brute_queries]]
            answers = list(brute.answers(asked, kept, workers=1, mutual=False))
            brute_seconds = float(np.mean([a.match_seconds + a.verify_seconds for a in answers])) / size
            brute_comparisons = float(np.mean([a.comparisons for a in answers])) / size
        run = watched(ask, smaller, queries)
        opened, stages, comparisons = run.value
        describe, filtering, verify = (Spread.of(column) for column in zip(*stages, strict=True))
        total = Spread.of([sum(stage) for stage in stages])
        results.append(
            Result(
                photos=size,
                describe=describe,
                filter=filtering,
                verify=verify,
                total=total,
                opening=opened - total.p50,
                command=Spread.of([command(smaller, query) for query in queries[:5]]),
                peak=run.peak,
                private=run.private,
                comparisons=comparisons,
                brute=brute_seconds * size,
                brute_measured=size == sizes[0],
                brute_comparisons=brute_comparisons * size,
            )
        )
    protocol = (
        f"photos of {options.source}, {len(sources)} real ones, the rest warped copies, longest side at most "
        f"{options.side} px; {len(queries)} queries, further warps of photos in the collection, described anew, one at "
        f"a time; recipe {options.recipe}; brute force: {options.brute_queries} queries against {sizes[0]} photos on "
        "one core, describing left out, for larger sizes scaled by the number of pairs (*)"
    )
    print(header(protocol), render(results), sep="\n")
    write_json(options.out, protocol, [asdict(r) for r in results])
    return results


def render(results: Sequence[Result]) -> str:
    """A Markdown table; times in milliseconds, median / 95th percentile."""

    def spread(s: Spread) -> str:
        return f"{1000 * s.p50:.1f} / {1000 * s.p95:.1f}"

    rows = [
        (
            r.photos,
            *map(spread, (r.describe, r.filter, r.verify, r.total)),
            f"{1000 * r.opening:.0f}",
            spread(r.command),
            f"{r.peak / 2**20:.0f}",
            f"{r.private / 2**20:.0f}",
            f"{1000 * r.brute:,.0f}" + "*" * (not r.brute_measured),
            f"{r.brute / (r.filter.p50 + r.verify.p50):,.0f} ×",
            f"{100 * r.comparisons / r.brute_comparisons:.3g} %" if r.brute_comparisons else None,
        )
        for r in results
    ]
    head = ("photos", "describe, ms", "filter, ms", "verify, ms", "total, ms", "opening, ms", "whole command, ms")
    beside = (
        "peak memory, MiB",
        "private, MiB",
        "brute force, ms",
        "brute ÷ (filter + verify)",
        "comparisons of brute force's",
    )
    return table((*head, *beside), rows)


if __name__ == "__main__":
    main()
