"""What mining without labels costs in time and memory, by method and number of photos, and how right it is.

On made descriptors: arcs on the unit sphere with noise, in no order, so that there are manifolds to follow. Each mining
runs in a process of its own, whose peak of resident memory is reported beside that of a process that only makes the
descriptors. No photographs are needed but for ``--method verified``, which compares real ones: each of some is there as
often as an arc has photos, warped.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

import photos as album
from common import DATA, header, table, write_json
from diffusion import arcs
from process import watched
from resight.learning.datasets.photos import Photo
from resight.learning.unlabelled.clusters import matched
from resight.learning.unlabelled.mined import Labelling, mine
from resight.learning.unlabelled.pools import Pools
from resight.learning.unlabelled.stages import UnlabelledStage

_ARC = 50  # photos that show the same thing
_GRAPH = 20
_FEW = 5  # photos of a cluster that is renumbered
_MADE, _RENUMBERED, _VERIFIED = "(descriptors alone)", "renumbering", "verified"
METHODS = ("mom", "diffusion", "rdp", "geodesic", "kmeans", "dbscan", "knn-mean", _RENUMBERED)


@dataclass(frozen=True)
class Result:
    """seconds: of the mining. peak: MiB of the process that mined. anchors: with both pools, or photos with a label.

    positives, negatives: the share of what is said to match that is of the anchor's own arc, and of what is said not to
    match that is of another; of clusters the share of pairs in one that are of one arc. others: share of the machine's
    time that other processes took meanwhile.
    """

    method: str
    photos: int
    seconds: float
    peak: float
    anchors: int | None
    positives: float | None
    negatives: float | None
    others: float = 0.0


def stage_of(method: str, photos: int, anchors: int, changes: Sequence[str]) -> UnlabelledStage:
    """Settings of a method: a graph of 20, as many clusters as arcs, or as ``changes``, KEY=VALUE, have it."""
    table: dict[str, Any] = {"kind": method}
    if method in ("mom", "diffusion", "rdp", "geodesic"):
        table |= {"graph": _GRAPH, "anchors": anchors}
    if method == "kmeans":
        table["clusters"] = max(2, photos // _ARC)
    for change in changes:
        key, _, value = change.partition("=")
        table[key] = value
    return TypeAdapter[UnlabelledStage](UnlabelledStage).validate_python(table)


def renumbered(photos: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Clusters of five photos, of which a third has moved since, numbered as they were."""
    before = np.arange(photos) // _FEW
    clusters = int(before[-1]) + 1
    moved = np.where(rng.random(photos) < 1 / 3, rng.integers(0, clusters, photos), before)
    return matched(rng.permutation(clusters)[moved], before, clusters)


def measure(
    method: str,
    photos: int,
    dimension: int,
    anchors: int,
    seed: int,
    changes: Sequence[str],
    files: Sequence[Path] = (),
    scratch: Path | None = None,
) -> Result:
    """One mining, in this process. files: of as many photos, each of one that is photos // 50 places before it."""
    rng = np.random.default_rng(seed)
    places = np.argsort(np.arange(photos) % (photos // _ARC), kind="stable") if files else rng.permutation(photos)
    arc = np.empty(photos, np.int64)
    arc[places] = np.arange(photos) // _ARC
    x = arcs(photos, dimension, rng, each=_ARC, places=places)
    stage = None if method in (_MADE, _RENUMBERED) else stage_of(method, photos, anchors, changes)
    began = time.perf_counter()
    found: object = None
    if stage is not None:
        shown = tuple(Photo(path, place) for place, path in enumerate(files))
        found = mine(stage, x, shown, Path(), epoch=0, seed=seed, scratch=scratch)
    elif method == _RENUMBERED:
        renumbered(photos, rng)
    seconds = time.perf_counter() - began
    unit = 2**20 if sys.platform == "darwin" else 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return Result(method, photos, seconds, peak, *quality(found, arc))


def quality(found: object, arc: NDArray[np.int64]) -> tuple[int | None, float | None, float | None]:
    if isinstance(found, Pools):
        rows = list(zip(found.anchors, found.positives, found.negatives, strict=True))
        same = np.concatenate([arc[p] == arc[a] for a, p, _ in rows])
        other = np.concatenate([arc[n] != arc[a] for a, _, n in rows])
        return len(rows), float(same.mean()), float(other.mean())
    if isinstance(found, Labelling):
        kept = found.labels >= 0
        both = np.unique(np.column_stack([found.labels[kept], arc[kept]]), axis=0, return_counts=True)[1]
        pairs = np.bincount(found.labels[kept])
        return int(kept.sum()), float((both * (both - 1)).sum() / (pairs * (pairs - 1)).sum()), None
    return None, None, None


def made(source: Path, photos: int, side: int, work: Path, method: str) -> Sequence[Path]:
    """For what looks at photos, as many as are asked for: number i is of the same as number i + photos // 50."""
    if method != _VERIFIED:
        return ()
    sources = album.originals(source)
    if (wanted := photos // _ARC) > len(sources):
        raise SystemExit(f"{source} has {len(sources)} photographs, and {photos} take {wanted}: ask for fewer")
    return album.write(sources[:wanted], range(photos), work / f"{photos}-{side}", side=side)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, action="append", help="how many; repeatable (default: 5000)")
    parser.add_argument("--dimension", type=int, default=256, help="of the descriptors (default: 256)")
    parser.add_argument("--anchors", type=int, default=1000, help="of the graph's methods (default: 1000)")
    parser.add_argument("--method", action="append", help=f"repeatable (default: {', '.join(METHODS)}); or {_VERIFIED}")
    parser.add_argument("--source", type=Path, default=DATA / "distractors", help=f"photographs for {_VERIFIED}")
    parser.add_argument("--side", type=int, default=256, help="longest side of these (default: 256)")
    parser.add_argument("--work", type=Path, help="folder that keeps the photos made of them (default: temporary)")
    parser.add_argument("--setting", dest="settings", action="append", default=[], help="KEY=VALUE of the method's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the results to this JSON file")
    options = parser.parse_args()
    protocol = (
        f"made descriptors of {options.dimension} dimensions, arcs of {_ARC}, seed {options.seed}; {options.anchors} "
        f"anchors; graph of {_GRAPH} neighbours; a process for each row; settings "
        f"{' '.join(options.settings) or 'default'}"
    )
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        for photos in options.photos or [5000]:
            for method in [_MADE, *(options.method or METHODS)]:
                how = (method, photos, options.dimension, options.anchors, options.seed, options.settings)
                work = options.work or Path(temporary)
                run = watched(measure, *how, made(options.source, photos, options.side, work, method), work)
                results.append(replace(run.value, others=run.others))
                print(f"{method} {photos}: {run.value.seconds:.1f} s, {run.value.peak:.0f} MiB", file=sys.stderr)
    print(header(protocol))
    head = ["method", "photos", "seconds", "peak MiB", "anchors", "right positives", "right negatives", "others"]
    rows = [
        [
            r.method,
            f"{r.photos:,}",
            f"{r.seconds:.1f}",
            f"{r.peak:.0f}",
            r.anchors,
            *(None if v is None else f"{100 * v:.1f} %" for v in (r.positives, r.negatives)),
            f"{100 * r.others:.0f} %",
        ]
        for r in results
    ]
    print(table(head, rows))
    write_json(options.out, protocol, [asdict(r) for r in results])


if __name__ == "__main__":
    main()
