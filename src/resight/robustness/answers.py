"""What a collection answers to the pixels of a query: the filter's ranking, and the verified one."""

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resight.evaluation.acceptance import Outcome
from resight.evaluation.judge import judge
from resight.evaluation.labelled import Query
from resight.robustness.attacks import Pixels
from resight.search.agreement import first_place
from resight.search.collection import Collection
from resight.search.examples import Example
from resight.search.ranking import Ranking
from resight.search.searcher import Checked, Filtered


class _Enough(Exception):
    """The first ranking is there, and no more is wanted."""


@dataclass(frozen=True, eq=False)
class Answer:
    """vector: the query's descriptor, as it was searched with. first: the filter's ranking. ranking: what is answered,
    which is the first where nothing is verified.
    """

    vector: NDArray[np.float32]
    first: Ranking
    ranking: Ranking

    def without(self, removed: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ids of what is answered, best first, less some."""
        return self.ranking.ids[~np.isin(self.ranking.ids, removed)]

    def best(self, removed: NDArray[np.int64]) -> int | None:
        """Id of the first of ``without``; None where nothing is left."""
        left = self.without(removed)
        return int(left[0]) if len(left) else None

    def mean_score(self, ids: NDArray[np.int64]) -> float:
        """Of some images, in what is answered; 0 for one that is not there."""
        there = np.isin(self.ranking.ids, ids)
        return float(self.ranking.scores[there].sum()) / len(ids)

    def place(self, removed: NDArray[np.int64]) -> int | None:
        """``agreement.first_place``, as if some images were not in the collection."""
        accepted = np.setdiff1d(self.ranking.ids[: self.ranking.accepted], removed)
        return first_place(np.isin(self.first.ids[~np.isin(self.first.ids, removed)], accepted))

    def outcome(self, query: Query, ids: dict[str, int]) -> Outcome:
        """As `evaluate` judges it. ids: by path, of the database."""
        return judge(query, self.ranking, ids)


def ask_pixels(index: Collection, pixels: Pixels, *, verified: bool) -> Answer:
    """All images by how likely they show what the pixels do. verified: as the recipe searches, else by its filter."""
    described = index.describe_examples([Example(pixels)])
    vector = described[0].description.global_descriptor
    if vector is None:
        raise ValueError("the recipe has no global descriptor")
    heard: list[Ranking] = []

    def hear(step: Filtered | Checked) -> None:
        if isinstance(step, Filtered):
            none = (None,) * len(step.ids)
            heard.append(Ranking(step.ids, step.scores, none, -np.inf, calibrated=False))
            if not verified:
                raise _Enough

    ranking: Ranking | None = None
    with suppress(_Enough):
        ranking, _ = index.rank_described(described, exact=True, heard=hear)
    return Answer(vector, heard[0], heard[0] if ranking is None else ranking)
