"""Stored vectors compared as a projection makes them, which a search chooses: nothing is indexed anew (survey §7).

With q' the projected query, of unit length, and x a stored vector, the cosine that a collection indexed with the
projection x ↦ ℓ2(P(x − m)) would give is q'·P(x − m) / ‖P(x − m)‖ = (Pᵀq')·(x − m) / ‖P(x − m)‖. So only the query is
multiplied by the matrix, once, and of each image one number is kept: a search costs what one without a projection does
and the subtraction of m, and N images take 4N bytes of memory for each adapter that was asked for, whatever D is.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from resight.errors import CollectionError, QueryError
from resight.projection.projection import Projection
from resight.recipes.adapters_stage import NONE
from resight.recipes.recipe import Recipe
from resight.search.filters import vector_blocks
from resight.store.log import LogReader
from resight.store.store import Snapshot, Store

_BLOCK = 8192  # vectors at a time, of which there is a copy less their mean


def load_adapter(recipe: Recipe, name: str, store: Store) -> Projection | None:
    """A projection of a recipe that searches a collection, by its name; None for "none".

    Raises QueryError for a name that the recipe does not have, RecipeError for a file that cannot be read, and
    CollectionError for one that was learned of other vectors than the collection's.
    """
    check_adapter(recipe, name)
    stage = recipe.adapters
    if stage is None or name not in stage.files:
        return None
    found = Projection.load(stage.files[name])
    if found.descriptor != store.fingerprint:
        raise CollectionError(
            f"{stage.files[name]}: adapter {name} was learned of other vectors than those of {store.folder}: restore "
            "the file, or index into a new collection"
        )
    return found


def adapter_names(recipe: Recipe) -> tuple[str, ...]:
    """All that a search may name; "none" is there with every recipe."""
    return (NONE,) if recipe.adapters is None else recipe.adapters.names


def check_adapter(recipe: Recipe, name: str) -> None:
    """Raises QueryError, which lists those there are, unless a recipe has an adapter of this name."""
    names = adapter_names(recipe)
    if name not in names:
        learned = "" if recipe.adapters is not None else "; `resight train` learns adapters from several sets at once"
        raise QueryError(f"recipe {recipe.name} has no adapter {name!r}; there are {', '.join(names)}{learned}")


@dataclass(frozen=True, eq=False)
class Adapted:
    """A projection, and what it makes of the images of a snapshot.

    norms: (N,) float32, ‖P(x − m)‖ of each image by its position, −1 without a vector.
    """

    projection: Projection
    norms: NDArray[np.float32]

    @classmethod
    def of(cls, projection: Projection, snapshot: Snapshot, log: LogReader) -> Self:
        """All images' vectors are read, once. Norms are summed in float64, so that no image's depends on the others."""
        norms = np.full(len(snapshot), -1, np.float32)
        matrix = projection.matrix.T.astype(np.float64)
        for rows, vectors in _centred(projection, snapshot, log):
            norms[rows] = np.linalg.norm(vectors.astype(np.float64) @ matrix, axis=1)
        return cls(projection, norms)

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Of the images at some positions."""
        return replace(self, norms=self.norms[rows])

    def similarity(self, snapshot: Snapshot, log: LogReader, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N,) inner products of a (K,) projected query and each image's projected vector; −1 without a vector."""
        found = np.full(len(snapshot), -1, np.float32)
        asked = (query.astype(np.float64) @ self.projection.matrix.astype(np.float64)).astype(np.float32)
        for rows, vectors in _centred(self.projection, snapshot, log):
            products, norms = np.einsum("nd,d->n", vectors, asked), self.norms[rows]
            found[rows] = np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)
        return found


def _centred(
    projection: Projection, snapshot: Snapshot, log: LogReader
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Positions of images with a vector, and their vectors less the projection's mean, a block at a time."""
    for rows, vectors in vector_blocks(snapshot, log, len(projection.mean), _BLOCK):
        yield rows, vectors - projection.mean
