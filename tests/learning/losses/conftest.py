"""Batches that the tests of losses share."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pytorch_metric_learning")


@pytest.fixture(scope="session")
def draw():
    """Makes a float64 batch of classes of the given sizes, in a mixed order: rows around their class's direction."""

    def make(sizes=(3, 1, 4, 2), d: int = 5, seed: int = 0, spread: float = 0.6, unit: bool = True):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        labels = labels[torch.randperm(len(labels), generator=generator)]
        centres = torch.randn(len(sizes), d, generator=generator, dtype=torch.float64)
        x = centres[labels] + spread * torch.randn(len(labels), d, generator=generator, dtype=torch.float64)
        return (x / x.norm(dim=1, keepdim=True) if unit else x), labels

    return make


@pytest.fixture(scope="session")
def squared():
    """The squared ℓ2 distance of two rows, coordinate by coordinate."""
    return lambda a, b: sum((s - t) ** 2 for s, t in zip(a.tolist(), b.tolist(), strict=True))


@pytest.fixture(scope="session")
def pairs_of():
    """(positives, negatives) that labels imply, as lists of (i, j), by two loops."""

    def make(labels):
        every = [(i, j) for i in range(len(labels)) for j in range(len(labels)) if i != j]
        return [p for p in every if labels[p[0]] == labels[p[1]]], [p for p in every if labels[p[0]] != labels[p[1]]]

    return make


@pytest.fixture(scope="session")
def triplets_of():
    """Triplets that labels imply, as a list of (a, p, n), by three loops."""

    def make(labels):
        n = range(len(labels))
        return [
            (a, p, k) for a in n for p in n for k in n if a != p and labels[a] == labels[p] and labels[a] != labels[k]
        ]

    return make
