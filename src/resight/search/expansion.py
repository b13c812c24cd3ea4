"""A query asked again, joined by what its verified results show: their vectors, or local features (survey §4.2.2).

The functions of a search: which results join, and what is verified again. How features join is in ``local_expansion``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from resight.recipes.recipe import VerifyStage
from resight.search.examples import DescribedExample
from resight.search.local_expansion import OWN, ExpandedQuery, brought_back, confirmed, with_more_inliers
from resight.search.ranking import Evidence

if TYPE_CHECKING:  # it imports this module
    from resight.search.searcher import Searcher

Verified = tuple[dict[int, Evidence], int]
"""The evidence of one example by position, and the comparisons it took."""


@dataclass(frozen=True, eq=False)
class Found:
    """What a search knows after verification.

    each: of each example its similarity to each image. verified: of each example, among the shortlist of positions.
    """

    each: Sequence[NDArray[np.float32]]
    verified: Sequence[Verified]
    shortlist: NDArray[np.int64]


def expand(
    searcher: "Searcher", examples: Sequence[DescribedExample], assigned: Sequence[NDArray[np.int64]], found: Found
) -> Found:
    """What is found when the wanted examples have been joined by what their results show, as [expansion] says.

    assigned: the words of each example's features.
    """
    expansion, stage = searcher.recipe.expansion, searcher.recipe.verify
    if expansion is None or stage is None:
        return found
    again = _by_vectors if expansion.joins == "vectors" else _by_features
    for _ in range(expansion.rounds):
        after = again(searcher, examples, assigned, found, stage)
        if after is None:
            break
        found = after
    return found


def _by_features(
    searcher: "Searcher",
    examples: Sequence[DescribedExample],
    assigned: Sequence[NDArray[np.int64]],
    found: Found,
    stage: VerifyStage,
) -> Found | None:
    """A round of joining local features; None where none joins. The similarity stays the query's."""
    parts = zip(examples, assigned, found.each, found.verified, strict=True)
    joined = [_joined(searcher, *part) for part in parts]
    if all((query.source == OWN).all() for query in joined):
        return None
    asked = [
        replace(example, description=replace(example.description, local=query.features))
        for example, query in zip(examples, joined, strict=True)
    ]
    similarity, _, compared = searcher.similarities(asked, [query.words for query in joined])
    first = np.lexsort((searcher.snapshot.ids, -similarity))[: stage.shortlist]
    shortlist = np.union1d(found.shortlist, first)
    again = [
        searcher.verify(example.description, query.words, example.box, shortlist, stage, query)
        for example, query in zip(asked, joined, strict=True)
    ]
    verified = [
        (with_more_inliers(before, after), count + more + compared // len(examples))
        for (before, count), (after, more) in zip(found.verified, again, strict=True)
    ]
    return Found(found.each, verified, shortlist)


def _by_vectors(
    searcher: "Searcher",
    examples: Sequence[DescribedExample],
    assigned: Sequence[NDArray[np.int64]],
    found: Found,
    stage: VerifyStage,
) -> Found | None:
    """A round of joining global descriptors: the first results of the expanded query not yet verified.

    An image counts by its mean similarity to the query and to what joined it. That of their normalised mean would
    rise for all images alike, and the calibration is of the query's.
    """
    parts = zip(examples, found.each, found.verified, strict=True)
    asked = [averaged(searcher, example, similarity, evidence) for example, similarity, (evidence, _) in parts]
    if all(new is old for new, old in zip(asked, examples, strict=True)):
        return None
    similarity, each, compared = searcher.similarities(asked, assigned)
    order, _, _ = searcher.ordered(asked, similarity)
    fresh = np.setdiff1d(order[: stage.shortlist], found.shortlist)
    again = [
        searcher.verify(example.description, words, example.box, fresh, stage)
        for example, words in zip(examples, assigned, strict=True)
    ]
    verified = [
        (before | after, count + more + compared // len(examples))
        for (before, count), (after, more) in zip(found.verified, again, strict=True)
    ]
    return Found(each, verified, np.union1d(found.shortlist, fresh))


def averaged(
    searcher: "Searcher", example: DescribedExample, similarity: NDArray[np.float32], evidence: Mapping[int, Evidence]
) -> DescribedExample:
    """A wanted example with the mean of its vector and its confirmed results'; itself where there is none.

    The mean is not normalised: its product with a vector is the mean of the cosines.
    """
    expansion, calibration = searcher.recipe.expansion, searcher.recipe.calibration
    own = example.description.global_descriptor
    if expansion is None or calibration is None or own is None or example.weight < 0:
        return example
    sure = confirmed(expansion, calibration, evidence, similarity)[: expansion.results]
    vectors = [v for p in sure if (v := searcher.compared(p).global_descriptor) is not None]
    if not vectors:
        return example
    mean = np.mean([own, *vectors], axis=0)
    return replace(example, description=replace(example.description, global_descriptor=mean))


def _joined(
    searcher: "Searcher",
    example: DescribedExample,
    assigned: NDArray[np.int64],
    similarity: NDArray[np.float32],
    verified: Verified,
) -> ExpandedQuery:
    """An example with the features of its results; an unwanted one as it is."""
    expansion, calibration = searcher.recipe.expansion, searcher.recipe.calibration
    codebook, local = searcher.snapshot.codebook, example.description.local
    if local is None:
        raise ValueError("the query has no local features to expand")
    query = ExpandedQuery.of(local, assigned)
    if expansion is None or calibration is None or codebook is None or example.weight < 0:
        return query
    joined, (evidence, _) = 0, verified
    for position in confirmed(expansion, calibration, evidence, similarity):
        found = brought_back(searcher.local(position), evidence[position])
        words = codebook.assign(found.descriptors.astype(np.float32), assigned.shape[1])
        before, query = query, query.join(found, words, position)
        joined += query is not before
        if joined == expansion.results:
            break
    return query
