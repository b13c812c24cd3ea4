"""Near-duplicates in a collection: the same picture once more, in another size, crop of the margin, or print.

The rule. Each image is searched for among the others by its stored description. Two are a pair if the match is
accepted, and its homography lays the one's frame on the other's so that what both cover is nearly all of both: the
intersection over the union of the frames. A detail, or the same thing in another photo, is a match but no
near-duplicate. Clusters are the connected components of the pairs. A pair that was decided to be different joins
nothing, one that was decided to be duplicates always joins.

The rule is ours; the overlap of frames as a measure is that of object detection (Everingham et al., PASCAL VOC, 2010).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from resight.errors import CollectionError
from resight.geometry.homography import corners, project
from resight.search.searcher import Searcher
from resight.store.duplicates import Decision, Pair, forget_compared, keep, uncompared
from resight.store.indexing import Progress
from resight.store.store import Store

OVERLAP = 0.8  # from which on a pair is one, unless the user says otherwise
_LEAST = 0.5  # that is kept, so that another limit needs no new search
_NEAR = 20  # results verified for an image; a near-duplicate is among the first
_TOGETHER = 32  # images compared between two commits


@dataclass(frozen=True)
class Cluster:
    """Images by ascending id, two at least, and what was decided about all pairs of them.

    overlap, inliers: of each image with the one of the others that it resembles most; 0 where it was only decided.
    """

    images: tuple[int, ...]
    decision: Decision | None
    overlap: tuple[float, ...]
    inliers: tuple[int, ...]


def find_duplicates(
    store: Store, *, again: bool = False, progress: Callable[[Progress], None] = lambda state: None
) -> int:
    """Compare what has not been compared yet, or with `again` everything; how many images that was.

    Goes on where it was interrupted, and asks only for what was added since. Raises CollectionError where the recipe
    does not verify: its similarity cannot tell a duplicate from a picture that is alike.
    """
    recipe = store.recipe
    if recipe.verify is None or recipe.calibration is None:
        raise CollectionError(f"recipe {recipe.name} does not verify matches, so it cannot tell duplicates")
    if again:
        forget_compared(store.catalogue)
    verify = recipe.verify.model_copy(update={"shortlist": min(_NEAR, recipe.verify.shortlist)})
    searcher = Searcher(store, recipe.model_copy(update={"verify": verify, "expansion": None}), progress)
    snapshot = searcher.snapshot
    encoded = snapshot.words_at >= 0 if store.needs_codebook else np.ones(len(snapshot), bool)
    there = set(snapshot.ids[encoded].tolist())
    todo = [image for image in uncompared(store.catalogue) if image in there]
    for start in range(0, len(todo), _TOGETHER):
        part, found = todo[start : start + _TOGETHER], []
        for number, image in enumerate(part, start):
            progress(Progress("comparing", number, len(todo)))
            found += pairs_of(searcher, image)
        keep(store.catalogue, part, found)
    progress(Progress("comparing", len(todo), len(todo)))
    return len(todo)


def pairs_of(searcher: Searcher, image: int) -> list[Pair]:
    """The pairs that an image makes, with an overlap of a half and more."""
    query = searcher.stored(searcher.position(image))
    ranking, _ = searcher.rank(query, None, _NEAR)
    found = []
    for other, evidence in zip(ranking.ids[: ranking.accepted].tolist(), ranking.evidence, strict=False):
        if other == image or evidence is None or evidence.homography is None:
            continue
        width, height = searcher.snapshot.sizes[searcher.position(other)].tolist()
        shared = frames_overlap(evidence.homography, query.size, (width, height))
        if shared >= _LEAST:
            found.append(Pair(min(image, other), max(image, other), shared, evidence.inliers))
    return found


def frames_overlap(homography: NDArray[np.float64], size: tuple[int, int], other: tuple[int, int]) -> float:
    """Intersection over union of a frame of `size` (width, height), mapped by a homography, and the other's; 0 to 1."""
    laid = project(homography, corners((0, 0, *size)))
    if not np.isfinite(laid).all():
        return 0.0
    frame = laid.astype(np.float32)
    if not cv2.isContourConvex(frame):  # it crosses the horizon
        return 0.0
    there = corners((0, 0, *other)).astype(np.float32)
    shared = cv2.intersectConvexConvex(frame, there)[0]
    union = cv2.contourArea(frame) + cv2.contourArea(there) - shared
    return float(min(1.0, shared / union)) if union > 0 else 0.0


def clusters(
    found: Iterable[Pair], decided: Mapping[tuple[int, int], Decision], overlap: float = OVERLAP
) -> list[Cluster]:
    """Clusters: first those with an open pair, then those decided to be duplicates, then to be different.

    Each part by the lowest id. overlap: from which on a found pair counts.
    """
    near = {(pair.a, pair.b): pair for pair in found if pair.overlap >= overlap}
    joined = [ids for ids in near if decided.get(ids) != "different"]
    joined += [ids for ids, decision in decided.items() if decision == "duplicates" and ids not in near]
    apart = [ids for ids in near if decided.get(ids) == "different"]
    best = _best(near.values())
    same = [_cluster(images, _all_decided(images, decided), best) for images in _components(joined)]
    different = [_cluster(images, "different", best) for images in _components(apart)]
    return [*(c for c in same if c.decision is None), *(c for c in same if c.decision is not None), *different]


def _all_decided(images: tuple[int, ...], decided: Mapping[tuple[int, int], Decision]) -> Literal["duplicates"] | None:
    each = ((a, b) for place, a in enumerate(images) for b in images[place + 1 :])
    return "duplicates" if all(decided.get(ids) == "duplicates" for ids in each) else None


def _cluster(images: tuple[int, ...], decision: Decision | None, best: Mapping[int, tuple[float, int]]) -> Cluster:
    overlap, inliers = zip(*(best.get(image, (0.0, 0)) for image in images), strict=True)
    return Cluster(images, decision, overlap, inliers)


def _best(pairs: Iterable[Pair]) -> dict[int, tuple[float, int]]:
    best: dict[int, tuple[float, int]] = {}
    for pair in pairs:
        for image in (pair.a, pair.b):
            best[image] = max(best.get(image, (0.0, 0)), (pair.overlap, pair.inliers))
    return best


def _components(edges: Iterable[tuple[int, int]]) -> list[tuple[int, ...]]:
    """Connected components of a graph, each ascending, by their lowest node."""
    links = np.array(list(edges), np.int64).reshape(-1, 2)
    if len(links) == 0:
        return []
    nodes, places = np.unique(links, return_inverse=True)
    a, b = places.reshape(-1, 2).T
    graph = coo_array((np.ones(len(links), bool), (a, b)), shape=(len(nodes), len(nodes)))
    _, part = connected_components(graph, directed=False)
    order = np.argsort(part, kind="stable")
    starts = np.flatnonzero(np.diff(part[order])) + 1
    return sorted(tuple(group.tolist()) for group in np.split(nodes[order], starts))
