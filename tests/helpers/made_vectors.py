"""Collections of made-up global descriptors, for the tests of several rooms."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resight.describe.description import Description
from resight.recipes import Recipe, load_recipe
from resight.store.store import New


def vector_recipe(dimensions: int, **tables: Any) -> Recipe:
    """One that searches by global descriptors of so many entries, without any local features."""
    table = load_recipe("mac").model_dump(by_alias=True)
    table["global"] |= {"dimensions": dimensions, "whiten": "none"}
    return Recipe.model_validate(table | tables)


def crowded(seed: int, n: int, dimensions: int, *, crowds: int) -> NDArray[np.float32]:
    """n vectors of unit length around some places, which are the same for every seed."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(crowds, dimensions))
    x = centres[rng.integers(0, crowds, n)] + 0.5 * rng.normal(size=(n, dimensions))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def vector_news(first: int, vectors: Sequence[NDArray[np.float32]] | NDArray[np.float32]) -> list[New]:
    """Images of these descriptors to be stored, named by numbers from the first one."""
    return [
        New(f"/{first + i}.png", f"{first + i}", 1, 1, Description((64, 48), vector, None))
        for i, vector in enumerate(vectors)
    ]
