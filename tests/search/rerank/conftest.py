"""Vectors that the tests of re-ranking share."""

import numpy as np
import pytest

from resight.search.rerank import Database


@pytest.fixture(scope="session")
def draw():
    """Makes n random d-dimensional ℓ2-normalised vectors, not spread evenly, so that graphs have some structure."""

    def make(n: int, d: int = 6, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(n, d)) + 1.5 * rng.normal(size=(4, d))[rng.integers(4, size=n)]
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def database(draw):
    """60 random vectors of images with scattered ids."""
    ids = np.random.default_rng(5).permutation(np.arange(100, 700, 10))
    return Database(ids, draw(60))


@pytest.fixture(scope="session")
def arcs():
    """Two arcs on the unit sphere, a long equator (ids 0–39) and one above its beginning (40–49); a query at its start.

    The far end of the query's own arc is much farther from it than the other arc is.
    """

    def points(longitude: np.ndarray, latitude: float) -> np.ndarray:
        flat = np.cos(latitude)
        x = [flat * np.cos(longitude), flat * np.sin(longitude), np.full(len(longitude), np.sin(latitude))]
        return np.column_stack(x).astype(np.float32)

    own, other = points(np.linspace(0.03, 2.4, 40), 0.0), points(np.linspace(0, 0.5, 10), 0.6)
    return Database(np.arange(50), np.concatenate([own, other])), np.array([1, 0, 0], np.float32)
