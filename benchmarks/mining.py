"""What mining without labels costs in time and memory, by method and number of photos, and how right it is.

On made descriptors: arcs on the unit sphere with noise, so that there are manifolds to follow. Each mining runs in a
process of its own, whose peak of resident memory is reported beside that of a process that only makes the descriptors.
No photographs are needed.
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common import header, table, write_json
from diffusion import arcs
from resight.learning.unlabelled import stages as s
from resight.learning.unlabelled.clusters import dbscan_labels, kmeans_labels
from resight.learning.unlabelled.manifold import by_affinity, mom
from resight.learning.unlabelled.neighbour_mean import neighbour_means
from resight.learning.unlabelled.pools import Pools

_ARC = 50  # photos that show the same thing
_GRAPH = 20
_MADE = "(descriptors alone)"


@dataclass(frozen=True)
class Result:
    """seconds: of the mining. peak: MiB of the process that mined. anchors: with both pools, or photos with a label.

    positives, negatives: the share of what is said to match that is of the anchor's own arc, and of what is said not to
    match that is of another; of clusters the share of pairs in one that are of one arc.
    """

    method: str
    photos: int
    seconds: float
    peak: float
    anchors: int | None
    positives: float | None
    negatives: float | None


def affinity(kind: str, anchors: int) -> s.AffinityStage:
    return s.AffinityStage.model_validate({"kind": kind, "graph": _GRAPH, "anchors": anchors})


def methods(photos: int, anchors: int) -> dict[str, Callable[[NDArray[np.float32]], object]]:
    """What is measured, by name."""
    return {
        _MADE: lambda x: None,
        "mom": lambda x: mom(x, s.MomStage(kind="mom", graph=_GRAPH, anchors=anchors)),
        "diffusion": lambda x: by_affinity(x, affinity("diffusion", anchors), epoch=0, seed=0),
        "rdp": lambda x: by_affinity(x, affinity("rdp", anchors), epoch=0, seed=0),
        "geodesic": lambda x: by_affinity(x, affinity("geodesic", anchors), epoch=0, seed=0),
        "kmeans": lambda x: kmeans_labels(x, photos // _ARC),
        "dbscan": lambda x: dbscan_labels(x, 0.6, 3),
        "knn-mean": lambda x: neighbour_means(x, 5),
    }


def measure(method: str, photos: int, dimension: int, anchors: int, seed: int) -> Result:
    """One mining, in this process."""
    x = arcs(photos, dimension, np.random.default_rng(seed))
    began = time.perf_counter()
    found = methods(photos, anchors)[method](x)
    seconds = time.perf_counter() - began
    unit = 2**20 if sys.platform == "darwin" else 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return Result(method, photos, seconds, peak, *quality(found, np.arange(photos) // _ARC))


def quality(found: object, arc: NDArray[np.int64]) -> tuple[int | None, float | None, float | None]:
    if isinstance(found, Pools):
        rows = list(zip(found.anchors, found.positives, found.negatives, strict=True))
        same = np.concatenate([arc[p] == arc[a] for a, p, _ in rows])
        other = np.concatenate([arc[n] != arc[a] for a, _, n in rows])
        return len(rows), float(same.mean()), float(other.mean())
    if isinstance(found, np.ndarray) and found.ndim == 1:
        kept = found >= 0
        both = np.unique(np.column_stack([found[kept], arc[kept]]), axis=0, return_counts=True)[1]
        pairs = np.bincount(found[kept])
        return int(kept.sum()), float((both * (both - 1)).sum() / (pairs * (pairs - 1)).sum()), None
    return None, None, None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, action="append", help="how many; repeatable (default: 5000)")
    parser.add_argument("--dimension", type=int, default=256, help="of the descriptors (default: 256)")
    parser.add_argument("--anchors", type=int, default=1000, help="of the graph's methods (default: 1000)")
    parser.add_argument("--method", action="append", help="repeatable (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the results to this JSON file")
    options = parser.parse_args()
    protocol = (
        f"made descriptors of {options.dimension} dimensions, arcs of {_ARC}, seed {options.seed}; {options.anchors} "
        f"anchors; graph of {_GRAPH} neighbours; a process for each row"
    )
    results = []
    for photos in options.photos or [5000]:
        names = [_MADE, *(options.method or [name for name in methods(photos, options.anchors) if name != _MADE])]
        for method in names:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                work = process.submit(measure, method, photos, options.dimension, options.anchors, options.seed)
                results.append(work.result())
            print(f"{method} {photos}", file=sys.stderr)
    print(header(protocol))
    print(
        table(
            ["method", "photos", "seconds", "peak MiB", "anchors", "right positives", "right negatives"],
            [
                [
                    r.method,
                    f"{r.photos:,}",
                    f"{r.seconds:.1f}",
                    f"{r.peak:.0f}",
                    r.anchors,
                    *(None if v is None else f"{100 * v:.1f} %" for v in (r.positives, r.negatives)),
                ]
                for r in results
            ],
        )
    )
    write_json(options.out, protocol, [asdict(r) for r in results])


if __name__ == "__main__":
    main()
