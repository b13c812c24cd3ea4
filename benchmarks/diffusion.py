"""What offline diffusion costs to build, what it adds to a query, and how near it comes to the closed form.

On made vectors: arcs on the unit sphere with noise, so that there are manifolds to follow. No photographs are needed.
"""

import argparse
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common import header, table, write_json
from resight.search.rerank import Database, OfflineDiffusion
from resight.search.rerank.diffusion import closed_form, normalised, sources
from resight.search.rerank.neighbours import mutual_graph, nearest

_ARC = 50  # images that show the same thing
_NOISE = 0.35  # length of the noise beside vectors of length 1
_CLOSED = 3_000  # images up to which the closed form is solved too


@dataclass(frozen=True)
class Result:
    """build in seconds, per image in ms, overhead in ms a query (median and 95th percentile), size in MiB.

    agreement: cosine between its scores and those of the closed form. found, cosine: the share of the query's
    own arc among the first images, as many as the arc has, of diffusion and of cosine.
    """

    images: int
    truncation: int
    build: float
    per_image: float
    overhead: float
    overhead_95: float
    size: float
    found: float
    cosine: float
    agreement: float | None


def arcs(
    images: int,
    dimension: int,
    rng: np.random.Generator,
    *,
    each: int = _ARC,
    places: NDArray[np.int64] | None = None,
) -> NDArray[np.float32]:
    """images×dimension ℓ2-normalised: arcs of 2 radians, each in a plane of its own, with noise.

    each: images of an arc. places: (images,) rows that one arc after another is written to; None for their own order.
    """
    x = np.empty((images, dimension), np.float32)
    places = np.arange(images) if places is None else places
    for start in range(0, images, each):
        own = places[start : start + each]
        plane, _ = np.linalg.qr(rng.normal(size=(dimension, 2)))
        angle = np.linspace(0, 2, len(own))
        noise = rng.normal(size=(len(angle), dimension)) * (_NOISE / dimension**0.5)
        made = (np.column_stack([np.cos(angle), np.sin(angle)]) @ plane.T + noise).astype(np.float32)
        x[own] = made / np.linalg.norm(made, axis=1, keepdims=True)
    return x


def measure(images: int, dimension: int, truncation: int, queries: int, seed: int) -> Result:
    """Queries are images of the database, with more noise."""
    rng = np.random.default_rng(seed)
    x = arcs(images, dimension, rng)
    chosen = rng.choice(images, min(queries, images), replace=False)
    asked = x[chosen] + rng.normal(size=(len(chosen), dimension)).astype(np.float32) * (_NOISE / dimension**0.5)
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        offline = OfflineDiffusion.build(Path(folder) / "d", Database(np.arange(images), x), truncation=truncation)
        build = time.perf_counter() - began
        size = sum(path.stat().st_size for path in (Path(folder) / "d").iterdir()) / 2**20
        rows, similarity = nearest(asked, x, max(_ARC, offline.sources))
        s = normalised(mutual_graph(x, 50, offline.gamma)) if images <= _CLOSED else None
        seconds, found, cosine, agreement = [], [], [], []
        for query, arc, near, close in zip(asked, chosen // _ARC, rows, similarity, strict=True):
            began = time.perf_counter()
            ids, scores = offline.diffuse(near[: offline.sources], close[: offline.sources])
            seconds.append(time.perf_counter() - began)
            found.append(np.mean(ids[:_ARC] // _ARC == arc))
            cosine.append(np.mean(near[:_ARC] // _ARC == arc))
            if s is not None:
                exact = closed_form(s, sources(query, x, offline.sources, offline.gamma), 0.99)
                agreement.append(exact[ids] @ scores / np.linalg.norm(exact) / np.linalg.norm(scores))
    overhead = 1000 * np.percentile(seconds, [50, 95])
    return Result(
        images,
        truncation,
        build,
        1000 * build / images,
        float(overhead[0]),
        float(overhead[1]),
        size,
        float(np.mean(found)),
        float(np.mean(cosine)),
        float(np.mean(agreement)) if agreement else None,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, action="append", help="images; repeatable (default: 2000)")
    parser.add_argument("--dimension", type=int, default=128, help="of the vectors (default: 128)")
    parser.add_argument("--truncation", type=int, default=1000, help="entries kept an image (default: 1000)")
    parser.add_argument("--queries", type=int, default=20, help="(default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of vectors and queries (default: 0)")
    parser.add_argument("--out", type=Path, help="also write the results to this JSON file")
    options = parser.parse_args()
    protocol = (
        f"arcs of {_ARC} vectors of {options.dimension} entries with noise, seed {options.seed}; {options.queries} "
        "queries; overhead is what diffusion adds to a search that found the first ten"
    )
    results = [
        measure(size, options.dimension, options.truncation, options.queries, options.seed)
        for size in options.size or [2000]
    ]
    rows = [
        (f"{r.images:,}", r.truncation, f"{r.build:.1f} s", f"{r.per_image:.2f} ms", f"{r.overhead:.2f} ms",
         f"{r.overhead_95:.2f} ms", f"{r.size:.0f} MiB", f"{r.found:.3f}", f"{r.cosine:.3f}",
         None if r.agreement is None else f"{r.agreement:.3f}")
        for r in results
    ]  # fmt: skip
    print(header(protocol))
    head = (
        "images",
        "T",
        "build",
        "an image",
        "a query adds",
        "95 %",
        "on disk",
        "arc found",
        "by cosine",
        "agreement",
    )
    print(table(head, rows))
    write_json(options.out, protocol, [asdict(r) for r in results])


if __name__ == "__main__":
    main()
