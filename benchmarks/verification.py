"""What spatial verification of a shortlist costs, and which candidates it accepts, beside the plain OpenCV loop.

On made features: RootSIFT descriptors and keypoints, a part of the query's under a known homography in some of the
candidates, and in all of them descriptors like the query's at places of their own. No photographs are needed.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from common import header, percent, table, write_json
from resight.embedding.codebook import Codebook
from resight.geometry.homography import jacobians, project
from resight.local.features import LocalFeatures
from resight.local.matching import WordTable
from resight.local.rootsift import UNIT, root
from resight.recipes.recipe import VerifyStage
from resight.search.verify import check

_SIZE = (1024, 768)
_NOISE = 0.25  # between the descriptors of a thing in two pictures of it, both of length 1
_RATIO = 0.8  # Lowe's, of the nearest descriptor's distance to the second's
_ACCEPTED = 10  # inliers


@dataclass(frozen=True)
class Result:
    """ms: median and 95th percentile of a shortlist. found, wrong: shares of the planted, and of the other candidates,
    with at least `_ACCEPTED` inliers. error: pixels by which the box of a found one is off, the median."""

    system: str
    ms: float
    ms_95: float
    found: float
    wrong: float
    error: float | None


@dataclass(frozen=True, eq=False)
class Shortlist:
    """truth: of each candidate the homography from the query, or None where it does not show the same."""

    query: LocalFeatures
    candidates: tuple[LocalFeatures, ...]
    truth: tuple[NDArray[np.float64] | None, ...]


def descriptors(n: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """n×128 RootSIFT of histograms that are sparse, as SIFT's are."""
    return root(rng.gamma(0.5, size=(n, 128)).astype(np.float32))


def similar(descriptor: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    noise = rng.normal(size=descriptor.shape) * (_NOISE * UNIT / 128**0.5)
    return np.clip(np.round(np.abs(descriptor + noise)), 0, 255).astype(np.uint8)


def keypoints(descriptor: NDArray[np.uint8], rng: np.random.Generator) -> LocalFeatures:
    """At random in a picture of `_SIZE`."""
    n = len(descriptor)
    xy, angle = rng.uniform(0, _SIZE, (n, 2)), rng.uniform(0, 2 * np.pi, n)
    size = 2 ** rng.uniform(1, 5, n)
    return _features(xy, size, angle, descriptor)


def _features(
    xy: NDArray[np.float64], size: NDArray[np.float64], angle: NDArray[np.float64], descriptor: NDArray[np.uint8]
) -> LocalFeatures:
    columns = (v.astype(np.float32) for v in (xy, size, angle % (2 * np.pi), np.ones(len(xy))))
    return LocalFeatures(*columns, descriptor)


def viewed(query: LocalFeatures, h: NDArray[np.float64], rng: np.random.Generator) -> LocalFeatures:
    """The query's features in another view, with the detector's usual inaccuracy in place, scale and orientation."""
    n, jacobian = len(query), jacobians(h, query.xy.astype(float))
    direction = np.einsum("nij,nj->ni", jacobian, np.column_stack([np.cos(query.angle), np.sin(query.angle)]))
    angle = np.arctan2(direction[:, 1], direction[:, 0]) + rng.normal(0, 0.1, n)
    size = query.size * np.sqrt(np.abs(np.linalg.det(jacobian))) * 2 ** rng.normal(0, 0.15, n)
    return _features(project(h, query.xy) + rng.normal(0, 1, (n, 2)), size, angle, similar(query.descriptors, rng))


def shortlist(candidates: int, features: int, planted: int, shared: int, alike: int, seed: int) -> Shortlist:
    """shared: features of the query that a planted candidate shows. alike: how many of any candidate only look so."""
    rng = np.random.default_rng(seed)
    query = keypoints(descriptors(features, rng), rng)
    corners = np.float32([[0, 0], [_SIZE[0], 0], _SIZE, [0, _SIZE[1]]])
    made, truth = [], []
    for number in range(candidates):
        confused = similar(query.descriptors[rng.permutation(features)[:alike]], rng)
        parts = [keypoints(np.concatenate([confused, descriptors(features - alike, rng)]), rng)]
        if number < planted:
            moved = corners + rng.uniform(-0.15, 0.15, (4, 2)) * _SIZE
            h = cv2.getPerspectiveTransform(corners, moved.astype(np.float32)).astype(np.float64)
            parts.insert(0, viewed(_rows(query, rng.permutation(features)[:shared]), h, rng))
        truth.append(h if number < planted else None)
        made.append(_rows(_joined(parts), rng.permutation(features)))
    return Shortlist(query, tuple(made), tuple(truth))


def _rows(features: LocalFeatures, rows: NDArray[np.int64]) -> LocalFeatures:
    frames = (column[rows] for column in (features.xy, features.size, features.angle, features.score))
    return LocalFeatures(*frames, features.descriptors[rows])


def _joined(parts: Sequence[LocalFeatures]) -> LocalFeatures:
    names = ("xy", "size", "angle", "score", "descriptors")
    return LocalFeatures(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


Outcome = tuple[int, NDArray[np.float64] | None]


def ours(codebook: Codebook, made: Shortlist, stage: VerifyStage) -> Callable[[], list[Outcome]]:
    """As the searcher does: the candidates' words are stored, the query's are found for the search."""
    words = [codebook.assign(c.descriptors.astype(np.float32))[:, 0] for c in made.candidates]

    def run() -> list[Outcome]:
        described = made.query.descriptors.astype(np.float32)
        lookup = WordTable.build(described, codebook.assign(described, stage.query_assignments))
        checked = (
            check(made.query, lookup, None, (candidate, word, _SIZE), stage)[0]
            for candidate, word in zip(made.candidates, words, strict=True)
        )
        return [(evidence.inliers, evidence.homography) for evidence in checked]

    return run


def opencv(made: Shortlist, max_error: float) -> Callable[[], list[Outcome]]:
    """The ratio test over all descriptors and a homography by RANSAC, pair by pair."""
    matcher = cv2.BFMatcher(cv2.NORM_L2)
    # Its distances of uint8 take six times as long; the conversion is not counted.
    query, *described = (f.descriptors.astype(np.float32) for f in (made.query, *made.candidates))

    def one(candidate: LocalFeatures, descriptor: NDArray[np.float32]) -> Outcome:
        pairs = matcher.knnMatch(query, descriptor, k=2)
        good = [first for first, second in pairs if first.distance < _RATIO * second.distance]
        if len(good) < 4:
            return 0, None
        source = made.query.xy[[match.queryIdx for match in good]]
        target = candidate.xy[[match.trainIdx for match in good]]
        homography, mask = cv2.findHomography(source, target, cv2.RANSAC, max_error)
        return (0, None) if homography is None else (int(mask.sum()), homography)

    return lambda: [one(*pair) for pair in zip(made.candidates, described, strict=True)]


def judged(system: str, seconds: Sequence[float], outcomes: Sequence[Outcome], made: Shortlist) -> Result:
    planted = np.array([truth is not None for truth in made.truth])
    accepted = np.array([inliers >= _ACCEPTED for inliers, _ in outcomes])
    middle = np.array([[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [0.25, 0.75]]) * _SIZE
    errors = [
        np.abs(project(homography, middle) - project(truth, middle)).max()
        for (inliers, homography), truth in zip(outcomes, made.truth, strict=True)
        if truth is not None and homography is not None and inliers >= _ACCEPTED
    ]
    return Result(
        system,
        *(1000 * np.percentile(seconds, [50, 95])).tolist(),
        found=float(accepted[planted].mean()) if planted.any() else 0.0,
        wrong=float(accepted[~planted].mean()) if not planted.all() else 0.0,
        error=float(np.median(errors)) if errors else None,
    )


def main(arguments: Sequence[str] | None = None) -> list[Result]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=100, help="of the shortlist (default: 100)")
    parser.add_argument("--features", type=int, default=1000, help="of each picture (default: 1000)")
    parser.add_argument("--planted", type=int, default=20, help="candidates that show the same (default: 20)")
    parser.add_argument("--shared", type=int, default=60, help="features these have of the query (default: 60)")
    parser.add_argument("--alike", type=int, default=120, help="that match by chance, of each (default: 120)")
    parser.add_argument("--words", type=int, default=4096, help="of the codebook (default: 4096)")
    parser.add_argument("--repeat", type=int, default=5, help="times, the systems by turns (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="of the features and of the codebook (default: 0)")
    parser.add_argument("--out", type=Path, help="also write the results to this JSON file")
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    made = shortlist(options.candidates, options.features, options.planted, options.shared, options.alike, options.seed)
    everything = np.concatenate([candidate.descriptors for candidate in made.candidates])
    codebook = Codebook.fit(everything, options.words, seed=options.seed, fitted_on="the candidates")
    stages = {f"resight, {model}": VerifyStage(model=model) for model in ("homography", "affine", "similarity")}
    systems = {name: ours(codebook, made, stage) for name, stage in stages.items()}
    systems["OpenCV loop"] = opencv(made, stages["resight, homography"].max_error * max(_SIZE))
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    outcomes = {}
    for _ in range(options.repeat):
        for name, run in systems.items():
            began = time.perf_counter()
            outcomes[name] = run()
            seconds[name].append(time.perf_counter() - began)
    results = [judged(name, seconds[name], outcomes[name], made) for name in systems]
    protocol = (
        f"{options.candidates} candidates of {options.features} features, {options.planted} of them with "
        f"{options.shared} of the query's under a homography, each with {options.alike} that match by chance; "
        f"{len(codebook)} words; accepted from {_ACCEPTED} inliers; {options.repeat} runs by turns on one core, seed "
        f"{options.seed}"
    )
    rows = [
        (r.system, f"{r.ms:.0f} ms", f"{r.ms_95:.0f} ms", percent(r.found), percent(r.wrong),
         None if r.error is None else f"{r.error:.1f} px")
        for r in results
    ]  # fmt: skip
    print(header(protocol))
    print(table(("system", "median", "95th", "found, %", "wrong, %", "box off by"), rows))
    write_json(options.out, protocol, [asdict(result) for result in results])
    return results


if __name__ == "__main__":
    main()
