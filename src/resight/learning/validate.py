"""How well a network that is being trained ranks a labelled set, without an index."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resight.evaluation.labelled import Box, LabelledSet
from resight.evaluation.variants import cosines, measure
from resight.learning.datasets.photos import Photo
from resight.learning.datasets.pictures import Pictures, unreadable, unreadable_error
from resight.learning.sizes import embed_pictures


class Validation:
    """mAP of a labelled set, whose pictures are read anew each time: memory is bounded by their descriptors.

    side: the longest, of pictures in their own aspect, in multiples of ``multiple``, at least ``least``.
    chunk: pictures through the network at once. readers: threads.
    """

    def __init__(
        self, labelled: LabelledSet, *, side: int, multiple: int, least: int, chunk: int, readers: int
    ) -> None:
        self.labelled = labelled
        keys: dict[tuple[str, Box | None], int] = {(path, None): n for n, path in enumerate(labelled.database)}
        for query in labelled.queries:
            keys.setdefault((query.path, query.box), len(keys))
        self._asked = [keys[query.path, query.box] for query in labelled.queries]
        photos = [Photo(labelled.locate(path), 0, box) for path, box in keys]
        self._pictures = Pictures(photos, side=side, multiple=multiple, fit="aspect", budget=0)
        self._least, self._chunk, self._readers = least, chunk, readers

    @torch.no_grad()
    def mean_average_precision(self, embed: Callable[[Tensor], Tensor]) -> float:
        """mAP, trapezoidal, in [0, 1]. embed: n×3×H×W uint8 to n×D float32, ℓ2-normalised.

        Each query is left out of its own ranking, and ties are by place in the database, as ``evaluate`` has them.
        """
        x = np.concatenate(list(self._described(embed)))
        return measure(self.labelled, cosines(x[self._asked], x[: len(self.labelled.database)]))

    def _described(self, embed: Callable[[Tensor], Tensor]) -> Iterator[NDArray[np.float32]]:
        count = len(self._pictures)
        chunks = np.array_split(np.arange(count), -(-count // self._chunk))
        for pictures in self._pictures.batches(chunks, 0, self._readers):
            yield embed_pictures(embed, pictures, self._least).float().cpu().numpy()


def readable_part(labelled: LabelledSet, *, workers: int, skip: bool) -> LabelledSet:
    """Read each image of a set once, before a network learns for hours.

    Raises GroundTruthError that lists all that cannot be read. skip: leaves them out instead, with queries that keep no
    positive, and says so in ``selection``.
    """
    paths = list(dict.fromkeys([*labelled.database, *(query.path for query in labelled.queries)]))
    reasons = unreadable([Photo(labelled.locate(path), 0) for path in paths], workers=workers)
    bad = {path for path, reason in zip(paths, reasons, strict=True) if reason}
    if not bad:
        return labelled
    if not skip:
        raise unreadable_error(labelled.file, "images", reasons)
    queries = [
        replace(query, positives=query.positives - bad, junk=query.junk - bad)
        for query in labelled.queries
        if query.path not in bad and (query.positives - bad or not query.positives)
    ]
    text = f"without {len(bad)} unreadable images"
    own = labelled.own
    return replace(
        labelled,
        database=tuple(path for path in labelled.database if path not in bad),
        queries=tuple(queries),
        distractors=sum(path not in bad for path in labelled.database[len(own) :]),
        selection=f"{labelled.selection}; {text}" if labelled.selection else text,
    )
