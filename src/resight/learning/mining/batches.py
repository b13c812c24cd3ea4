"""Which photos make a batch, by their labels; decided by the seed and the epoch alone."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from resight.errors import RecipeError
from resight.learning.datasets.photos import Part
from resight.learning.mining.stages import Sampling


def batches_of(stage: Sampling, labels: ArrayLike, *, epoch: int, seed: int) -> list[NDArray[np.int64]]:
    """An epoch's batches as the settings have them; places in labels (N,). Raises RecipeError as balanced_batches."""
    match stage.kind:
        case "balanced":
            return balanced_batches(
                labels,
                classes=stage.classes,
                each=stage.each,
                epoch=epoch,
                seed=seed,
                batches=stage.batches,
                repeat=stage.repeat,
            )
        case "shuffled":
            return shuffled_batches(np.size(labels), size=stage.classes * stage.each, epoch=epoch, seed=seed)
        case "whole":
            return [np.arange(np.size(labels))]


def balanced_batches(
    labels: ArrayLike,
    *,
    classes: int,
    each: int,
    epoch: int,
    seed: int,
    batches: int | None = None,
    repeat: bool = False,
) -> list[NDArray[np.int64]]:
    """Batches of ``each`` photos of each of so many classes (P × K; Hermans, Beyer & Leibe 2017).

    Over an epoch no class comes more than once more often than another, and no photo than another of its class.
    labels: (N,) of any values. batches: how many; None for about N photos.
    repeat: whether a class with fewer photos than ``each`` shows them again in the batch; otherwise it gives fewer.
    Raises RecipeError where there are fewer classes than a batch asks for.
    """
    values = np.asarray(labels)
    names, numbers = np.unique(values, return_inverse=True)
    if len(names) < classes:
        raise RecipeError(
            f"a batch of {classes} classes cannot be made of {len(names)}: ask for fewer (sampling.classes), or give "
            "photos of more objects"
        )
    drawn = _Objects(numbers, np.random.default_rng([seed, epoch]))
    if batches is None:
        batches = max(1, round(len(values) / (classes * each)))
    return [drawn.take(classes, each, repeat) for _ in range(batches)]


def joint_batches(
    stage: Sampling, labels: NDArray[np.int64], parts: Sequence[Part], *, epoch: int, seed: int
) -> list[NDArray[np.int64]]:
    """Balanced batches of several sets, of which each gives as many objects, whatever its size.

    labels: (N,), those of a set following those of the one before. parts: the sets.
    "mixed": of a batch's P objects each of S sets gives P/S; where S does not divide P, ⌊P/S⌋ or ⌈P/S⌉ in turn, so that
    over S batches all give P. "alternate": P objects of one set, the next one in the next batch. An epoch has about N
    photos, so that small sets are shown more often than once and large ones less. Within a set as ``balanced_batches``.
    Raises RecipeError where a set has fewer objects than a batch takes of it, or a mixed batch fewer than two of a set,
    so that it would have no negatives there.
    """
    count, total = len(parts), stage.classes
    most = total if stage.sets == "alternate" else -(-total // count)
    if stage.sets == "mixed" and total < 2 * count:
        raise RecipeError(
            f"mixed batches of {count} sets need two objects of each: raise sampling.classes from {total} to "
            f"{2 * count}, or say sampling.sets = alternate"
        )
    drawn, first = [], 0
    for number, part in enumerate(parts):
        if part.classes < most:
            raise RecipeError(
                f"a batch takes {most} objects of set {part.name}, which has {part.classes}: lower sampling.classes "
                f"from {total}, or give photos of more objects"
            )
        places = np.flatnonzero((labels >= first) & (labels < first + part.classes))
        objects = _Objects(labels[places] - first, np.random.default_rng([seed, epoch, number]))
        drawn.append((places, objects))
        first += part.classes
    batches = stage.batches or max(1, round(len(labels) / (total * stage.each)))
    made = []
    for batch in range(batches):
        shares = [total // count + ((number - batch) % count < total % count) for number in range(count)]
        if stage.sets == "alternate":
            shares = [total if (batch + epoch) % count == number else 0 for number in range(count)]
        taken = zip(drawn, shares, strict=True)
        made.append(np.concatenate([p[o.take(share, stage.each, stage.repeat)] for (p, o), share in taken if share]))
    return made


def replayed_batches(
    stage: Sampling, labels: NDArray[np.int64], *, replayed: int, share: float, epoch: int, seed: int
) -> list[NDArray[np.int64]]:
    """Balanced batches of which a share of the objects, one at least on either side, are of the last ``replayed`` ones.

    An epoch has as many as show about each photo of the others once. Raises RecipeError as ``balanced_batches``.
    """
    again = min(max(round(share * stage.classes), 1), stage.classes - 1)

    def of(chosen: NDArray[np.bool_], classes: int, batches: int | None) -> list[NDArray[np.int64]]:
        rows = balanced_batches(
            labels[chosen],
            classes=classes,
            each=stage.each,
            epoch=epoch,
            seed=seed,
            batches=batches,
            repeat=stage.repeat,
        )
        return [np.flatnonzero(chosen)[own] for own in rows]

    old = labels > labels.max() - replayed
    new = of(~old, stage.classes - again, stage.batches)
    return [np.concatenate(both) for both in zip(new, of(old, again, len(new)), strict=True)]


def shuffled_batches(n: int, *, size: int, epoch: int, seed: int) -> list[NDArray[np.int64]]:
    """All n photos, once, in an order drawn anew; all batches as large to within one, none above ``size``."""
    order = np.random.default_rng([seed, epoch]).permutation(n)
    return np.array_split(order, max(1, -(-n // size)))


class _Objects:
    """Photos of objects in turn. numbers: (N,) of each photo's object, from 0."""

    def __init__(self, numbers: NDArray[np.int64], rng: np.random.Generator) -> None:
        objects = range(int(numbers.max()) + 1)
        self.order = _Turns(objects, rng)
        self.photos = [_Turns(np.flatnonzero(numbers == n), rng) for n in objects]

    def take(self, objects: int, each: int, repeat: bool) -> NDArray[np.int64]:
        """Places of ``each`` photos of so many objects."""
        drawn = [self.photos[number].take(each, repeat=repeat) for number in self.order.take(objects)]
        return np.concatenate(drawn)


class _Turns:
    """Takes things in turn, in an order drawn anew each round; in no take twice where there are enough."""

    def __init__(self, things: Sequence[int] | NDArray[np.int64], rng: np.random.Generator) -> None:
        self.things, self.rng = np.asarray(things, np.int64), rng
        self.left = self.things[:0]

    def take(self, n: int, *, repeat: bool = False) -> NDArray[np.int64]:
        """n of them; with fewer, all of them, or round after round if they may repeat."""
        if n > len(self.things):
            whole = self.take(len(self.things))
            return np.concatenate([whole, self.take(n - len(whole), repeat=True)]) if repeat else whole
        taken, self.left = self.left[:n], self.left[n:]
        if missing := n - len(taken):
            order = self.rng.permutation(self.things)
            again = np.isin(order, taken)
            others = order[~again]
            self.left = self.rng.permutation(np.concatenate([others[missing:], order[again]]))
            taken = np.concatenate([taken, others[:missing]])
        return taken
