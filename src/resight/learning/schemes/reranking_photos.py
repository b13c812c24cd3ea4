"""What a re-ranking learns from: descriptions of photos, and photos of other objects that are hard to tell apart."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resight.describe.describer import Describer
from resight.describe.description import Description
from resight.errors import GroundTruthError, ImageError, RecipeError
from resight.geometry.boxes import Box
from resight.learning.datasets.photos import Photo
from resight.learning.task import Batch


def describe_all(
    describer: Describer,
    pictures: Iterable[tuple[Path, Box | None]],
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[Description, ...]:
    """Descriptions of pictures, or boxes in them, all kept: about 64 kB for each 500 local features of 128 entries.

    Raises GroundTruthError, naming the file, where one cannot be read, and RecipeError before the recipe is ready.
    """
    found = []
    for path, box in pictures:
        try:
            found.append(describer.describe(path, box))
        except ImageError as error:
            raise GroundTruthError(f"{path}: {error.reason}; mend it or take it out") from error
        progress(len(found))
    return tuple(found)


def vectors_of(described: Sequence[Description]) -> NDArray[np.float32]:
    """N×D of their global descriptors. Raises RecipeError where the recipe makes none."""
    vectors = [each.global_descriptor for each in described if each.global_descriptor is not None]
    if len(vectors) != len(described):
        raise RecipeError(
            "a re-ranking learns from the results of a search by global descriptors: give a [global] table"
        )
    return np.stack(vectors)


def photos_of(photos: Sequence[Photo]) -> list[tuple[Path, Box | None]]:
    """As ``describe_all`` takes them."""
    return [(photo.path, photo.box) for photo in photos]


def hard_negatives(
    vectors: NDArray[np.float32], labels: NDArray[np.int64], depth: int, block: int = 256
) -> NDArray[np.int64]:
    """N×min(depth, K): of each photo the places of the most similar ones of other classes, best first, ties by place.

    vectors: N×D, ℓ2-normalised. K: photos of other classes that every photo has at least. block × N similarities are
    in memory at a time.
    """
    counts = np.bincount(labels)
    kept = min(depth, len(labels) - int(counts.max()))
    found = np.empty((len(labels), kept), np.int64)
    for start in range(0, len(labels), block):
        rows = slice(start, start + block)
        similar = vectors[rows] @ vectors.T
        similar[labels[rows, None] == labels[None]] = -np.inf
        found[rows] = np.argsort(-similar, axis=1, kind="stable")[:, :kept]
    return found


def drawn_triplets(
    labels: NDArray[np.int64], negatives: NDArray[np.int64], *, size: int, epoch: int, seed: int
) -> list[Batch]:
    """An epoch's batches of at most `size` triplets (anchor, positive, negative), each photo once an anchor.

    labels: (N,), each of two photos at least. negatives: as ``hard_negatives``; one of them is drawn, as is a positive
    of the anchor's class, by the seed and the epoch. ``places`` are the photos, ``tuples`` rows of them.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(labels))
    of_class = {label: np.flatnonzero(labels == label) for label in np.unique(labels).tolist()}
    positive, negative = np.empty_like(order), np.empty_like(order)
    for row, anchor in enumerate(order.tolist()):
        others = of_class[int(labels[anchor])]
        positive[row] = rng.choice(others[others != anchor])
        negative[row] = rng.choice(negatives[anchor])
    batches = []
    for part in np.array_split(np.arange(len(order)), -(-len(order) // size)):
        triplets = np.stack([order[part], positive[part], negative[part]], axis=1)
        places, rows = np.unique(triplets, return_inverse=True)
        batches.append(Batch(places, rows.reshape(-1, 3).astype(np.int64)))
    return batches
