"""The global vectors that a collection holds, in memory."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resight.errors import CollectionError, RecipeError
from resight.recipes.recipe import Recipe
from resight.store.store import Store


@dataclass(frozen=True, eq=False)
class StoredVectors:
    """Of the N images that have one, by ascending id.

    ids: (N,) int64. origins, digests: where each image is, and the digest of its content. x: N×D float32,
        ℓ2-normalised.
    fingerprint: of what made them.
    """

    ids: NDArray[np.int64]
    origins: tuple[str, ...]
    digests: tuple[str, ...]
    x: NDArray[np.float32]
    fingerprint: str

    def take(self, places: Sequence[int]) -> "StoredVectors":
        """Those at some places, in that order."""
        origins, digests = ([of[place] for place in places] for of in (self.origins, self.digests))
        return StoredVectors(self.ids[places], tuple(origins), tuple(digests), self.x[places], self.fingerprint)


def check_one_vector(recipe: Recipe) -> None:
    """RecipeError unless a recipe describes an image by one global vector."""
    if recipe.global_ is None:
        raise RecipeError(
            f"recipe {recipe.name} has no [global] table, so no vectors: choose a recipe that has, such as "
            "gem-densenet169"
        )
    if recipe.global_.late:
        raise RecipeError(f"recipe {recipe.name} keeps its branches' vectors apart: choose a recipe of one vector")


def read_vectors(
    collection: str | Path, *, sample: int | None = None, seed: int = 0, among: Container[str] | None = None
) -> StoredVectors:
    """The vectors of a collection as it was last committed; of at most ``sample`` of its images, drawn by ``seed``.

    among: origins, so that there are none but of these images.
    Raises CollectionError where there is no collection or no image of it has a vector, and RecipeError where its
    recipe makes no vector, or several.
    """
    with Store(Path(collection), write=False) as store:
        check_one_vector(store.recipe)
        rows = store.catalogue.rows(
            "SELECT id, origin, digest, vector_at FROM images WHERE vector_at IS NOT NULL ORDER BY id"
        )
        if not rows:
            raise CollectionError(f"{collection}: none of its images has a vector; index some photos first")
        if among is not None:
            rows = [row for row in rows if row[1] in among]
        if sample is not None and sample < len(rows):
            drawn = np.random.default_rng(seed).choice(len(rows), sample, replace=False)
            rows = [rows[place] for place in np.sort(drawn)]
        log, length = store.vectors_log(), 4 * sum(store.recipe.global_.lengths if store.recipe.global_ else ())
        places = np.array([row[-1] for row in rows], np.int64) // length
        first, last = (int(places[0]), int(places[-1])) if rows else (0, -1)  # vectors lie by id
        span = log.record(first * length, (last + 1 - first) * length).view("<f4").reshape(-1, length // 4)
        return StoredVectors(
            np.array([row[0] for row in rows], np.int64),
            tuple(row[1] for row in rows),
            tuple(row[2] for row in rows),
            span[places - first],
            str(store.catalogue.get("fingerprint")),
        )
