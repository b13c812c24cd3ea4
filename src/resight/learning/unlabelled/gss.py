"""Guided similarity separation (Liu et al., NeurIPS 2019; survey §5.2.2) as a training of photos without labels.

The recipe describes the photos once; what learns are the convolutions of its table [[rerank]] gss, as ``GssModel.fit``
trains them on any vectors, here with the trainer's checkpoints, curves and validation.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from resight.describe.describer import Describer
from resight.errors import RecipeError
from resight.evaluation.variants import cosines, measure
from resight.learning.schemes.reranking import HeldOut
from resight.learning.schemes.reranking_copy import copied, finish
from resight.learning.schemes.reranking_photos import describe_all, photos_of, vectors_of
from resight.learning.task import Batch, Lesson
from resight.learning.unlabelled.stages import GssStage
from resight.networks.weights import file_sha256
from resight.recipes.recipe import Recipe
from resight.recipes.rerank_stages import SeparationStage
from resight.search.rerank.gss import Gss, GssModel, convolution_graph, separation_loss, sparse
from resight.search.rerank.reranker import Database


class GssTask:
    """``GssModel`` on N×D ℓ2-normalised vectors, all at once.

    held_out: what is re-ranked to validate, by the first ``query_neighbours`` results of each query.
    """

    def __init__(
        self,
        vectors: NDArray[np.float32],
        stage: GssStage,
        held_out: HeldOut | None = None,
        *,
        query_neighbours: int = 5,
        seed: int = 0,
    ) -> None:
        self.model = GssModel(
            vectors.shape[1], layers=stage.layers, neighbours=stage.neighbours, decay=stage.decay, seed=seed
        )
        self.module: nn.Module = self.model
        self.stage, self.seed = stage, seed
        self.held_out, self.query_neighbours = held_out, query_neighbours
        self._x = torch.as_tensor(vectors)
        self._edges = sparse(convolution_graph(vectors, stage.neighbours)[0])
        with torch.no_grad():
            (first,) = self.batches(0)
            self.beta = float(np.percentile(self._similarities(first).numpy(), stage.percentile))

    def groups(self) -> Sequence[Mapping[str, object]]:
        """All parameters, at the run's rate."""
        return [{"params": list(self.module.parameters())}]

    def batches(self, epoch: int) -> Sequence[Batch]:
        """One, of all photos, or of as many drawn as ``pairs_of`` says."""
        count = len(self._x)
        if count <= self.stage.pairs_of:
            return [Batch(np.arange(count))]
        drawn = np.random.default_rng([self.seed, epoch]).choice(count, self.stage.pairs_of, replace=False)
        return [Batch(np.sort(drawn))]

    def backward(self, batch: Batch, epoch: int, step: int, propagate: Callable[[Tensor], None]) -> dict[str, float]:
        """As the protocol has it, of the pairs among the batch's photos."""
        self.module.train()
        loss = separation_loss(self._similarities(batch), self.beta)
        propagate(loss)
        return {"loss": float(loss.detach())}

    def validate(self) -> dict[str, float]:
        """mAP of what is held out, on a graph of its database, and of the search alone; nothing where nothing is."""
        if self.held_out is None:
            return {}
        held_out, device = self.held_out, self._x.device
        self.module.eval().to("cpu")
        known, asked = vectors_of(held_out.described), vectors_of(held_out.queries)
        encoded = Gss.encode(
            self.model,
            Database(np.arange(len(known), dtype=np.int64), known),
            query_neighbours=self.query_neighbours,
        )
        after = measure(held_out.labelled, cosines(encoded.transform(asked), encoded.representations.vectors))
        self.module.to(device)
        return {"mAP": after, "mAP before": measure(held_out.labelled, cosines(asked, known))}

    def _similarities(self, batch: Batch) -> Tensor:
        device = next(self.module.parameters()).device
        if self._x.device != device:
            self._x, self._edges = self._x.to(device), self._edges.to(device)
        places = None if len(batch.places) == len(self._x) else torch.from_numpy(batch.places).to(device)
        with torch.autocast(device.type, enabled=False):
            return self.model.similarities(self._x, self._edges, places)


def place_of(recipe: Recipe) -> int:
    """Of the recipe's table [[rerank]] gss that has no model yet. Raises RecipeError where there is none."""
    for place, stage in enumerate(recipe.rerank):
        if isinstance(stage, SeparationStage) and not stage.model:
            return place
    raise RecipeError(
        f'recipe {recipe.name} has no table [[rerank]] with method = "gss" and model = "": add one, or start from '
        "recipe gss"
    )


def make_gss(recipe: Recipe, lesson: Lesson, stage: GssStage) -> GssTask:
    """The task, of photos that the recipe describes now. Raises RecipeError where it cannot, as before it is fitted."""
    table = recipe.rerank[place_of(recipe)]
    if not isinstance(table, SeparationStage):
        raise ValueError("the table is another's")
    describer = Describer(recipe)
    held_out = None if lesson.validation is None else HeldOut.of(describer, lesson.validation)
    vectors = vectors_of(describe_all(describer, photos_of(lesson.photos.photos)))
    neighbours = table.query_neighbours
    return GssTask(vectors, stage, held_out, query_neighbours=neighbours, seed=lesson.settings.seed)


def write_gss(task: GssTask, recipe: Recipe, lesson: Lesson, into: Path) -> None:
    """The recipe, all its files, and the model that its table then names."""
    place, photos = place_of(recipe), lesson.photos
    table = copied(recipe, into)
    name = f"rerank-{place + 1}.safetensors"
    task.model.fitted_on = f"{len(photos.photos):,} photos of {photos.name}"
    task.model.save(into / name)
    table["rerank"][place] |= {"model": name, "model_sha256": file_sha256(into / name)}
    finish(table, into, f"rerank {place + 1}", {"on": task.model.fitted_on, "mined by": "gss"})
