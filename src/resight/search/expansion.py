"""A query asked again, joined by what its verified results show: their vectors, or local features (survey §4.2.2).

The functions of a search: which results join, and what is verified again. How features join is in ``local_expansion``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from resight.describe.description import Description
from resight.geometry.boxes import Box
from resight.local.features import LocalFeatures
from resight.recipes.recipe import Recipe, VerifyStage
from resight.search.examples import DescribedExample
from resight.search.local_expansion import OWN, ExpandedQuery, brought_back, confirmed, with_more_inliers
from resight.search.ranking import Evidence
from resight.store.store import Snapshot

Verified = tuple[dict[int, Evidence], int]
"""The evidence of one example by position, and the comparisons it took."""


class Searching(Protocol):
    """What expansion asks of a ``Searcher``; see there."""

    recipe: Recipe
    snapshot: Snapshot

    def stored(self, position: int) -> Description: ...

    def local(self, position: int) -> LocalFeatures: ...

    def similarities(
        self, examples: Sequence[DescribedExample], assigned: Sequence[NDArray[np.int64]]
    ) -> tuple[NDArray[np.float32], list[NDArray[np.float32]], int]: ...

    def ordered(
        self, examples: Sequence[DescribedExample], similarity: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], Mapping[int, Evidence]]: ...

    def verify(
        self,
        query: Description,
        assigned: NDArray[np.int64],
        box: Box | None,
        shortlist: NDArray[np.int64],
        stage: VerifyStage,
        expanded: ExpandedQuery | None = None,
    ) -> Verified: ...


def expand_features(
    searcher: Searching,
    examples: Sequence[DescribedExample],
    assigned: Sequence[NDArray[np.int64]],
    each: Sequence[NDArray[np.float32]],
    verified: list[Verified],
    shortlist: NDArray[np.int64],
) -> tuple[list[Verified], list[NDArray[np.float32]]]:
    """What verification finds when the wanted examples have been joined by features of their results.

    assigned, each, verified: of each example its features' words, its similarity to each image, and what verification
    found among the shortlist of positions. Returns the last two as they are then; the similarity stays the query's.
    """
    recipe, ids = searcher.recipe, searcher.snapshot.ids
    if recipe.expansion is None or recipe.verify is None:
        return verified, list(each)
    for _ in range(recipe.expansion.rounds):
        joined = [_joined(searcher, *parts) for parts in zip(examples, assigned, each, verified, strict=True)]
        if all((query.source == OWN).all() for query in joined):
            break
        asked = [
            replace(example, description=replace(example.description, local=query.features))
            for example, query in zip(examples, joined, strict=True)
        ]
        similarity, _, compared = searcher.similarities(asked, [query.words for query in joined])
        shortlist = np.union1d(shortlist, np.lexsort((ids, -similarity))[: recipe.verify.shortlist])
        again = [
            searcher.verify(example.description, query.words, example.box, shortlist, recipe.verify, query)
            for example, query in zip(asked, joined, strict=True)
        ]
        verified = [
            (with_more_inliers(before, after), count + more + compared // len(examples))
            for (before, count), (after, more) in zip(verified, again, strict=True)
        ]
    return verified, list(each)


def expand_vectors(
    searcher: Searching,
    examples: Sequence[DescribedExample],
    assigned: Sequence[NDArray[np.int64]],
    each: Sequence[NDArray[np.float32]],
    verified: list[Verified],
    shortlist: NDArray[np.int64],
) -> tuple[list[Verified], list[NDArray[np.float32]]]:
    """As ``expand_features``, by global descriptors: the first results of the expanded query not yet verified.

    An image counts by its mean similarity to the query and to what joined it. That of their normalised mean would
    rise for all images alike, and the calibration is of the query's.
    """
    recipe, verified, each = searcher.recipe, list(verified), list(each)
    if recipe.expansion is None or recipe.verify is None:
        return verified, each
    for _ in range(recipe.expansion.rounds):
        parts = zip(examples, each, verified, strict=True)
        asked = [averaged(searcher, example, similarity, found) for example, similarity, (found, _) in parts]
        if all(new is old for new, old in zip(asked, examples, strict=True)):
            break
        similarity, each, compared = searcher.similarities(asked, assigned)
        order, _, _ = searcher.ordered(asked, similarity)
        fresh = np.setdiff1d(order[: recipe.verify.shortlist], shortlist)
        shortlist = np.union1d(shortlist, fresh)
        for place, (example, words) in enumerate(zip(examples, assigned, strict=True)):
            before, count = verified[place]
            after, more = searcher.verify(example.description, words, example.box, fresh, recipe.verify)
            verified[place] = before | after, count + more + compared // len(examples)
    return verified, each


def averaged(
    searcher: Searching, example: DescribedExample, similarity: NDArray[np.float32], evidence: Mapping[int, Evidence]
) -> DescribedExample:
    """A wanted example with the mean of its vector and its confirmed results'; itself where there is none.

    The mean is not normalised: its product with a vector is the mean of the cosines.
    """
    expansion, calibration = searcher.recipe.expansion, searcher.recipe.calibration
    own = example.description.global_descriptor
    if expansion is None or calibration is None or own is None or example.weight < 0:
        return example
    sure = confirmed(expansion, calibration, evidence, similarity)[: expansion.results]
    vectors = [v for p in sure if (v := searcher.stored(p).global_descriptor) is not None]
    if not vectors:
        return example
    mean = np.mean([own, *vectors], axis=0)
    return replace(example, description=replace(example.description, global_descriptor=mean))


def _joined(
    searcher: Searching,
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
