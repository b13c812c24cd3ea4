"""Queries of several images, some wanted and some not: how what they say each becomes one ranking.

Arandjelović & Zisserman (BMVC 2012) compare ways to search for an object by several of its images. Of theirs are here
Joint-Avg, the mean of the descriptors, for global descriptors; MQ-Avg, the mean of the similarities, for filters over
visual words, whose kernels are not linear in the query; and MQ-Max, the best of the examples, for verification.
Unwanted examples are subtracted as in Rocchio's relevance feedback (in Salton, The SMART Retrieval System, 1971;
Manning, Raghavan & Schütze, Introduction to Information Retrieval, Eq. 9.3). That they can outvote the evidence of the
wanted ones is ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from resight.describe.description import Description
from resight.errors import QueryError
from resight.features.multiscale import l2_normalise
from resight.geometry.boxes import Box
from resight.geometry.parts import Part
from resight.images.image import Image
from resight.search.ranking import Evidence

if TYPE_CHECKING:
    import PIL.Image

_CANCELLED = 1e-6  # of the examples' total length: what is left of their sum is rounding


@dataclass(frozen=True, eq=False)
class Example:
    """One image of a query.

    image: a path, a PIL image, an H×W×3 uint8 array, an Image, or the id of an image of the collection.
    box: (x1, y1, x2, y2) in pixels of the upright image: only this part of it.
    weight: how much it counts beside the other examples in the first ranking; below 0 for "less like this", where
        Rocchio's usual weights are a fifth of those of what is wanted. QueryError for 0, inf or nan.
    """

    image: "str | Path | int | PIL.Image.Image | NDArray[np.uint8] | Image"
    box: Box | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not isfinite(self.weight) or self.weight == 0:
            raise QueryError(
                f"{self.name}: weight {self.weight} says nothing; give one above 0 for more like it, below 0 for less"
            )

    @property
    def name(self) -> str:
        """Its path, ``id:7``, or what it is where it has no name."""
        if isinstance(self.image, int | np.integer):
            return f"id:{self.image}"
        if isinstance(self.image, str | Path):
            return str(self.image)
        return self.image.origin if isinstance(self.image, Image) else f"<{type(self.image).__name__}>"


@dataclass(frozen=True, eq=False)
class ReadExample:
    """An example whose pixels are read and yet to be described. box, weight: as of ``DescribedExample``."""

    part: Part
    box: Box | None
    weight: float


@dataclass(frozen=True, eq=False)
class DescribedExample:
    """An example as a search takes it: what the recipe says of its box, or of all of it.

    views: what it says of the same turned or smaller, local features in the frame of the first.
    """

    description: Description
    box: Box | None = None
    weight: float = 1.0
    views: tuple[Description, ...] = ()


def check_wanted(weights: Sequence[float]) -> None:
    """Raises QueryError unless an example has a weight above 0."""
    if not any(weight > 0 for weight in weights):
        given = f"of these {len(weights)} each is unwanted" if len(weights) else "there is none"
        raise QueryError(f"{given}: a search needs an example with a weight above 0, which says what to look for")


def joint_descriptor(vectors: ArrayLike, weights: Sequence[float], lengths: tuple[int, ...]) -> NDArray[np.float32]:
    """E×D global descriptors and E weights to one: Σ w_e q_e, ℓ2-normalised; (D,) float32.

    lengths: of the parts that make up the D dimensions, of which each is ℓ2-normalised and joined apart.
    The order of the examples does not matter. Raises QueryError where nothing is left of their sum.
    """
    stacked = np.asarray(vectors, np.float64)
    w = np.asarray(weights, np.float64)[:, None]
    joint = np.empty(stacked.shape[1])
    for start, stop in pairwise(np.cumsum([0, *lengths]).tolist()):
        terms = w * l2_normalise(stacked[:, start:stop])
        total = _sum(terms)
        if np.linalg.norm(total) <= _CANCELLED * np.linalg.norm(terms, axis=1).sum() and terms.any():
            raise QueryError("the examples cancel each other out; leave one out, or give it another weight")
        joint[start:stop] = l2_normalise(total)
    return joint.astype(np.float32)


def mean_similarity(similarities: ArrayLike, weights: Sequence[float]) -> NDArray[np.float32]:
    """E×N similarities of E examples to N images, and E weights, to Σ w_e s_e / Σ_{w_e > 0} w_e; (N,) float32.

    The divisor is of the wanted examples alone, so that an unwanted one changes nothing where it resembles nothing;
    it takes nothing below 0. The order of the examples does not matter.
    """
    w = np.asarray(weights, np.float64)
    mean = _sum(w[:, None] * np.asarray(similarities, np.float64)) / _sum(w[w > 0])
    return (np.maximum(mean, 0) if (w < 0).any() else mean).astype(np.float32)


def best_evidence(
    found: Sequence[Mapping[int, Evidence]], similarities: Sequence[NDArray[np.float32]], weights: Sequence[float]
) -> tuple[dict[int, Evidence], list[int]]:
    """What speaks for each candidate: of E examples' evidence that of the wanted one with the most inliers.

    found: an example's evidence by the candidate's position, the same positions for each. similarities: (N,) an
    example, by position; of wanted examples with as many inliers the more similar one counts, and then the earlier.
    Returns the evidence, each saying its example, and the positions for which it stands: where it has inliers, and no
    unwanted example has more of them.
    """
    wanted = [number for number, weight in enumerate(weights) if weight > 0]
    unwanted = [number for number, weight in enumerate(weights) if weight < 0]
    evidence, standing = {}, []
    for position in found[wanted[0]]:
        best = max(wanted, key=lambda e: (found[e][position].inliers, similarities[e][position], -e))
        evidence[position] = _of(found[best][position], best)
        inliers = evidence[position].inliers
        if inliers > 0 and all(found[e][position].inliers <= inliers for e in unwanted):
            standing.append(position)
    return evidence, standing


def _of(evidence: Evidence, example: int) -> Evidence:
    return replace(evidence, example=example, others=tuple(replace(o, example=example) for o in evidence.others))


def _sum(terms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Along the first axis, smallest first: sums in another order would differ in the last bits."""
    return np.asarray(np.sort(terms, axis=0).sum(axis=0))
