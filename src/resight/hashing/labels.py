"""What each image is of, for the methods that learn from it; and the pairs that follow from it."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from resight.errors import RecipeError


def check_labels(labels: ArrayLike, n: int) -> NDArray[np.int64]:
    """(N,) labels, of any values that can be sorted, to numbers from 0, one for each distinct label.

    Raises ValueError for another shape, and RecipeError where all images bear one label.
    """
    values = np.asarray(labels)
    if values.shape != (n,):
        raise ValueError(f"there must be a label for each of {n} vectors, not labels of shape {values.shape}")
    distinct, numbers = np.unique(values, return_inverse=True)
    if len(distinct) < 2:
        raise RecipeError("all photos bear the same label: bits that tell objects apart need photos of two at least")
    return numbers.astype(np.int64)


def pairs_of(
    labels: NDArray[np.int64], *, seed: int, most: int = 100_000
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """P×2 pairs of images, and (P,) whether they match; as many that match as not.

    The matching ones are all, or as many of them as ``most``, drawn evenly; the others are drawn with replacement.
    labels: (N,) numbers as ``check_labels`` gives them. Raises RecipeError where no two images bear the same label.
    """
    rng = np.random.default_rng(seed)
    order = np.argsort(labels, kind="stable")
    sizes = np.unique(labels, return_counts=True)[1]
    starts, counts = sizes.cumsum() - sizes, sizes * (sizes - 1) // 2  # in that order; of matching pairs
    total = int(counts.sum())
    if total == 0:
        raise RecipeError("no two photos bear the same label: give several photos of an object")
    # A matching pair's number is its class's first number and, within that, j(j−1)/2 + i for i < j.
    numbers = np.arange(total) if total <= most else np.sort(rng.choice(total, most, replace=False, shuffle=False))
    group = np.searchsorted(counts.cumsum(), numbers, side="right")
    within = numbers - (counts.cumsum() - counts)[group]
    second = ((1 + np.sqrt(1 + 8 * within.astype(np.float64))) // 2).astype(np.int64)
    first = within - second * (second - 1) // 2
    matching = order[starts[group, None] + np.stack([first, second], axis=1)]
    left = rng.integers(len(labels), size=len(matching))
    behind = starts[labels[left]] + sizes[labels[left]]  # its class; from there on, around the end, are the others
    right = order[(behind + rng.integers(len(labels) - sizes[labels[left]])) % len(labels)]
    pairs = np.concatenate([matching, np.stack([left, right], axis=1)])
    return pairs, np.arange(len(pairs)) < len(matching)
