"""Re-ranking by local features, matched anew: by mutual nearest neighbours, or by a network that sees both images.

The second stage of global filter → local re-ranking (survey §4.2.2). [verify] meets descriptors in visual words, which
is fast and calibrated; this looks at all pairs, ranks by (inliers, rank before), and knows no probability.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from resight.describe.description import Description
from resight.errors import QueryError
from resight.geometry.boxes import Box
from resight.local.features import LocalFeatures
from resight.local.matching import WordTable
from resight.local.nearest import match_all
from resight.recipes.recipe import VerifyStage
from resight.search.examples import DescribedExample, best_evidence
from resight.search.ranking import Evidence, Ranking
from resight.search.rerank.reranker import first
from resight.search.verify import check

Matcher = Callable[[Description, Description], tuple[NDArray[np.int64], NDArray[np.int64]]]
"""(query, result) to rows of the query's local features and of the result's that match, each used once."""


def features_of(description: Description) -> LocalFeatures:
    """The local features. QueryError where there are none."""
    if description.local is None:
        raise QueryError("matching needs local features of the query and of every image")
    return description.local


def mutual_matcher(ratio: float) -> Matcher:
    """Mutual nearest neighbours that pass Lowe's ratio test; 1 leaves the test out."""

    def match(query: Description, result: Description) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        a, b = (features_of(side).descriptors.astype(np.float32) for side in (query, result))
        i, j, _ = match_all(a, b, ratio=None if ratio == 1 else ratio)
        return i, j

    return match


def lightglue_matcher(path: str, trained_on: str) -> Matcher:
    """A published LightGlue. RecipeError as ``load_lightglue`` raises it."""
    from resight.local.lightglue import load_lightglue  # imports torch

    network = load_lightglue(path, trained_on)

    def match(query: Description, result: Description) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        i, j, _ = network.match(features_of(query), query.size, features_of(result), result.size)
        return i, j

    return match


def evidence_of(
    query: Description, box: Box | None, result: Description, matcher: Matcher, stage: VerifyStage, *, oriented: bool
) -> Evidence:
    """What the matches between two images agree on. oriented: as of ``check``."""
    i, j = matcher(query, result)
    asked, found = features_of(query), features_of(result)
    # Each match is a word of its own, so that check meets just these pairs, whatever their distance.
    assigned, words = np.full((len(asked), 1), -1), np.full(len(found), -1)
    assigned[i, 0] = words[j] = np.arange(len(i))
    table = WordTable.build(np.zeros((len(asked), 1), np.float32), assigned)
    same = replace(found, descriptors=np.zeros((len(found), 1), np.float32))
    return check(asked, table, box, (same, words, result.size), stage, oriented=oriented)[0]


@dataclass(frozen=True, eq=False)
class MatchReranker:
    """Re-orders the first `depth` images of a ranking by inliers, and those with as many as they were.

    descriptions: by image id, with local features. stage: how maps are found; its shortlist is not looked at.
    oriented: whether keypoints have scales and orientations of their own.
    """

    descriptions: Mapping[int, Description]
    matcher: Matcher
    stage: VerifyStage
    depth: int = 100
    oriented: bool = True

    def rerank(self, examples: Sequence[DescribedExample], ranking: Ranking) -> Ranking:
        """Scores are inliers. Of several examples as ``best_evidence`` has it; QueryError without local features."""
        ids = ranking.ids[: self.depth]
        results = [self.descriptions[image] for image in ids.tolist()]
        each = [
            [
                evidence_of(e.description, e.box, result, self.matcher, self.stage, oriented=self.oriented)
                for result in results
            ]
            for e in examples
        ]
        return by_inliers(each, examples, ranking)


def by_inliers(each: Sequence[Sequence[Evidence]], examples: Sequence[DescribedExample], ranking: Ranking) -> Ranking:
    """The first images of a ranking, for which each of E examples has evidence, by inliers and then as they were.

    each: E lists of the first images' evidence, in their order. Which example counts is ``best_evidence``'s to say.
    """
    ids = ranking.ids[: len(each[0])]
    alike = np.zeros(len(ids), np.float32)
    found = [dict(enumerate(evidence)) for evidence in each]
    evidence, standing = best_evidence(found, [alike] * len(examples), [e.weight for e in examples])
    inliers = np.zeros(len(ids), np.int64)
    inliers[standing] = [evidence[place].inliers for place in standing]
    order = np.argsort(-inliers, kind="stable")
    merged = first(ranking, ids[order], inliers[order].astype(np.float32))
    shown = tuple(evidence[place] for place in order.tolist())
    return replace(merged, evidence=shown + merged.evidence[len(order) :])
