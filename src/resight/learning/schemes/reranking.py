"""Training what re-ranks: the recipe's descriptors stay as they are, and a network learns to compare two photos.

Reranking Transformer: Tan, Yuan & Ordonez, ICCV 2021. Non-metric similarity: Garcia & Vogiatzis, IVC 2019 (survey
Eq. 12). Both learn from triplets whose negatives the search itself takes for matches.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from resight.describe.describer import Describer
from resight.describe.description import Description
from resight.errors import RecipeError
from resight.evaluation.labelled import LabelledSet
from resight.evaluation.variants import measure
from resight.learning.losses.stages import NonMetricStage as NonMetricLossStage
from resight.learning.schemes.reranking_copy import copied, finish
from resight.learning.schemes.reranking_learners import Learner, NonMetricLearner, Pairs, TransformerLearner
from resight.learning.schemes.reranking_photos import (
    describe_all,
    drawn_triplets,
    hard_negatives,
    photos_of,
    vectors_of,
)
from resight.learning.schemes.reranking_pieces import backward_in_pieces
from resight.learning.task import Batch, Lesson, Phase, Task
from resight.networks.weights import file_sha256
from resight.recipes.recipe import Recipe
from resight.recipes.rerank_stages import NonMetricStage, TransformerStage
from resight.search.rerank.nonmetric import SimilarityNetwork
from resight.search.rerank.reranker import best
from resight.search.rerank.transformer import RerankingTransformer

if TYPE_CHECKING:
    from resight.learning.settings import Training

DEPTH = 100
"""Results of the global descriptor that negatives are drawn from, as published."""

Learns = TransformerStage | NonMetricStage


@dataclass(frozen=True, eq=False)
class Examples:
    """Photos described once, since nothing of that learns.

    described, labels: of N photos. negatives: N×K places, as ``hard_negatives``.
    """

    described: Sequence[Description]
    labels: NDArray[np.int64]
    negatives: NDArray[np.int64]

    @property
    def dimension(self) -> int:
        """Of the global descriptors."""
        return int(vectors_of(self.described[:1]).shape[1])

    @classmethod
    def of(cls, describer: Describer, lesson: Lesson) -> "Examples":
        """Raises as ``describe_all`` and ``vectors_of``."""
        described = describe_all(describer, photos_of(lesson.photos.photos))
        labels = lesson.photos.labels
        return cls(described, labels, hard_negatives(vectors_of(described), labels, DEPTH))


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What a re-ranking is validated on. described: of the database. queries: of each query."""

    labelled: LabelledSet
    described: Sequence[Description]
    queries: Sequence[Description]

    @classmethod
    def of(cls, describer: Describer, labelled: LabelledSet) -> "HeldOut":
        """Whole images of the database that are asked about are described once."""
        database = describe_all(describer, [(labelled.locate(path), None) for path in labelled.database])
        known = dict(zip(labelled.database, database, strict=True))
        new = [query for query in labelled.queries if query.box is not None or query.path not in known]
        described = iter(describe_all(describer, [(labelled.locate(query.path), query.box) for query in new]))
        queries = [
            next(described) if query.box is not None or query.path not in known else known[query.path]
            for query in labelled.queries
        ]
        return cls(labelled, database, queries)

    def figures(self, learner: Learner, depth: int | None) -> dict[str, float]:
        """mAP with the first ``depth`` images re-ranked, and of the search alone."""
        vectors = vectors_of(self.described)
        before: list[NDArray[np.float64]] = []
        after: list[NDArray[np.float64]] = []
        ids = np.arange(len(vectors), dtype=np.int64)
        for query in self.queries:
            ranked, _ = best(ids, vectors @ vectors_of([query])[0])
            head, _ = best(ranked[:depth], learner.scores(query, self.described, ranked[:depth]))
            rest = np.concatenate([head, ranked[len(head) :]])
            for similarities, order in ((before, ranked), (after, rest)):
                row = np.empty(len(ids))
                row[order] = -np.arange(len(ids))
                similarities.append(row)
        return {"mAP": measure(self.labelled, after), "mAP before": measure(self.labelled, before)}


class RerankingTask:
    """A learner on triplets of photos, as pairs that match and pairs that do not.

    batch: triplets a step. chunk: pairs through the network at once. depth: results that are re-ranked in validation.
    """

    def __init__(
        self,
        learner: Learner,
        examples: Examples,
        held_out: HeldOut | None,
        *,
        batch: int,
        chunk: int,
        depth: int | None,
        seed: int,
    ) -> None:
        self.learner, self.examples, self.held_out = learner, examples, held_out
        self.batch, self.chunk, self.depth, self.seed = batch, chunk, depth, seed
        self.module: nn.Module = learner.module

    def groups(self) -> Sequence[Mapping[str, object]]:
        """All parameters at the run's rate."""
        return [{"params": list(self.module.parameters())}]

    def batches(self, epoch: int) -> Sequence[Batch]:
        """``drawn_triplets``."""
        labels, negatives = self.examples.labels, self.examples.negatives
        return drawn_triplets(labels, negatives, size=self.batch, epoch=epoch, seed=self.seed)

    def backward(self, batch: Batch, epoch: int, step: int, propagate: Callable[[Tensor], None]) -> dict[str, float]:
        """As the protocol has it: the mean loss of the pairs, and the share that the network is right about."""
        self.module.train()
        pairs = pairs_of(batch)
        bounds = [*range(0, len(pairs), self.chunk), len(pairs)]
        pieces = [pairs[a:b] for a, b in pairwise(bounds)]
        losses = partial(self.learner.losses, self.examples.described)
        rows = backward_in_pieces(pieces, losses, len(pairs), propagate, self.learner.device)
        loss, right = rows.mean(dim=0).tolist()
        return {"loss": loss, "accuracy": right}

    def validate(self) -> dict[str, float]:
        """``HeldOut.figures``; nothing where there is nothing held out."""
        self.module.eval()
        return {} if self.held_out is None else self.held_out.figures(self.learner, self.depth)


def pairs_of(batch: Batch) -> Pairs:
    """2T×3 of T triplets: (anchor, positive, 1), then (anchor, negative, 0), triplet by triplet."""
    if batch.tuples is None:
        raise ValueError("a re-ranking learns from triplets, which the batch does not have")
    anchor, positive, negative = batch.places[batch.tuples].T
    ones = np.ones_like(anchor)
    rows = np.stack([anchor, positive, ones, anchor, negative, 0 * ones], axis=1)
    return np.asarray(rows.reshape(-1, 3))


def phases(recipe: Recipe, settings: "Training") -> Sequence[Phase]:
    """One for each [[rerank]] table that learns and has no model yet.

    Raises RecipeError where there is none, or the settings do not suit it.
    """
    places = [n for n, stage in enumerate(recipe.rerank) if isinstance(stage, Learns) and not stage.model]
    if not places:
        raise RecipeError(
            f"recipe {recipe.name} has no re-ranking that learns and has no model: give it a table [[rerank]] with "
            'method = "transformer" or "nonmetric" and model = ""'
        )
    if settings.adversarial is not None:
        raise RecipeError(
            "adversarial alters what a network sees, and re-ranking learns from descriptions: leave it out"
        )
    for place in places:
        if isinstance(recipe.rerank[place], NonMetricStage) and not isinstance(settings.loss, NonMetricLossStage):
            raise RecipeError(
                f'[[rerank]] nonmetric learns by its own loss, not by {settings.loss.kind}: say loss.kind = "nonmetric"'
            )
    return [Phase(f"reranking-{place + 1}", partial(_make, place), partial(_write, place)) for place in places]


def _make(place: int, recipe: Recipe, lesson: Lesson) -> Task:
    stage, settings = recipe.rerank[place], lesson.settings
    describer = Describer(recipe)
    examples = Examples.of(describer, lesson)
    held_out = None if lesson.validation is None else HeldOut.of(describer, lesson.validation)
    if not isinstance(stage, Learns):
        raise ValueError(f"[[rerank]] {stage.method} does not learn")
    learner = _learner(stage, recipe, examples, settings)
    return RerankingTask(
        learner,
        examples,
        held_out,
        batch=max(1, settings.batch // 3),
        chunk=settings.chunk,
        depth=stage.depth,
        seed=settings.seed,
    )


def _learner(stage: Learns, recipe: Recipe, examples: Examples, settings: "Training") -> Learner:
    """A new network for the stage, of the sizes that the descriptions have."""
    if isinstance(stage, NonMetricStage):
        loss = settings.loss
        if not isinstance(loss, NonMetricLossStage):
            raise ValueError("nonmetric learns by its own loss")
        network = SimilarityNetwork(examples.dimension, loss.hidden, seed=settings.seed)
        return NonMetricLearner(network, loss.margin)
    local = examples.described[0].local
    if local is None:
        raise RecipeError("[[rerank]] transformer reads local features: give the recipe a [local] table")
    width = local.descriptors.shape[1]
    model = RerankingTransformer(examples.dimension, width, heads=stage.heads, layers=stage.layers, seed=settings.seed)
    return TransformerLearner(model, stage, recipe.local_side)


def _write(place: int, task: Task, recipe: Recipe, lesson: Lesson, into: Path) -> None:
    if not isinstance(task, RerankingTask):
        raise ValueError("the task is another's")
    table = copied(recipe, into)
    name = f"rerank-{place + 1}.safetensors"
    photos = lesson.photos
    on = f"{len(photos.photos):,} photos of {len(photos.classes):,} objects of {photos.name}"
    task.learner.save(into / name, on)
    table["rerank"][place] |= {"model": name, "model_sha256": file_sha256(into / name)}
    finish(table, into, f"rerank {place + 1}", {"on": on, "revision": photos.revision})
