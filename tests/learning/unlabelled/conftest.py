"""Descriptors on planted manifolds."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def rings():
    """Gives ℓ2-normalised descriptors of arcs of 2.4 radians, each in a plane of its own, with noise; and their arcs.

    The ends of an arc are farther from each other than from some of other arcs.
    """

    def made(arcs=6, each=40, dimensions=8, noise=0.02, seed=0):
        rng = np.random.default_rng(seed)
        parts = []
        for _ in range(arcs):
            plane, _ = np.linalg.qr(rng.normal(size=(dimensions, 2)))
            angle = np.sort(rng.uniform(0, 2.4, each))
            parts.append(np.column_stack([np.cos(angle), np.sin(angle)]) @ plane.T)
        x = np.concatenate(parts) + noise * rng.normal(size=(arcs * each, dimensions))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        return x.astype(np.float32), np.repeat(np.arange(arcs), each)

    return made
