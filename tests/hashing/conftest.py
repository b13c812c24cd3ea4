"""A small retrieval task, and how well codes do at it."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from resight.hashing.function import HashFunction

Task = tuple[NDArray[np.float32], NDArray[np.int64]]


@pytest.fixture(scope="session")
def clusters() -> Callable[..., Task]:
    """N×D vectors of things that differ along a few of D axes, all away from 0; and which thing each is of."""

    def draw(things: int = 16, each: int = 20, dimension: int = 32, axes: int = 8, noise: float = 0.35, seed: int = 0):
        rng = np.random.default_rng(7)  # the things are the same whatever the seed
        centres = rng.normal(size=(things, axes)) @ np.linalg.qr(rng.normal(size=(dimension, axes)))[0].T
        labels = np.repeat(np.arange(things), each)
        scatter = np.random.default_rng(seed).normal(scale=noise, size=(things * each, dimension))
        return (centres[labels] + scatter + rng.normal(size=dimension)).astype(np.float32), labels

    return draw


@pytest.fixture(scope="session")
def mean_ap() -> Callable[[HashFunction, NDArray[np.float32], NDArray[np.int64]], float]:
    """mAP over every fourth vector as a query for the others of its label, in order of Hamming distance."""

    def measure(function, x, labels):
        bits = (function.project(x) > 0).astype(float)
        distance = np.abs(bits[:, None] - bits[None]).sum(axis=2)
        others = ~np.eye(len(x), dtype=bool)
        return np.mean(
            [
                average_precision_score(labels[others[i]] == labels[i], -distance[i, others[i]])
                for i in range(0, len(x), 4)
            ]
        )

    return measure
