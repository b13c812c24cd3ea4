"""Photos on their way to the network, a piece of a batch at a time."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from resight.evaluation.labelled import LabelledSet
from resight.learning.datasets.augment import NONE
from resight.learning.datasets.photos import Photo
from resight.learning.datasets.pictures import Copy, Pictures, numbered
from resight.learning.ranks import ranks
from resight.learning.sizes import Sizes, side_for
from resight.learning.validate import Validation

if TYPE_CHECKING:
    from resight.learning.settings import Training

Piece = Sequence[Copy]
"""Pictures of a batch that are made together."""


class Feed:
    """Pictures in pieces of ``chunk``. readers: threads that make the next piece while one is learned from."""

    def __init__(self, pictures: Pictures, chunk: int, readers: int) -> None:
        self.pictures, self.chunk, self.readers = pictures, chunk, readers

    def pieces(self, places: NDArray[np.int64]) -> list[Piece]:
        """A batch, in order. A photo that is in it twice gives two pictures."""
        copies = numbered(places)
        return [copies[start : start + self.chunk] for start in range(0, len(copies), self.chunk)]

    def made(self, pieces: Sequence[Piece], epoch: int) -> Iterator[list[Tensor]]:
        """The pictures of each piece, 3×H×W uint8, in order."""
        return self.pictures.made(pieces, epoch, self.readers)

    def own(self, pieces: Sequence[Piece], epoch: int) -> Iterator[list[Tensor]]:
        """``made``, of those that this process takes of a batch that several share."""
        rank, world = ranks()
        return self.made(pieces[rank::world], epoch)


def feed_of(
    photos: Sequence[Photo], settings: "Training", network: Sizes, *, plain: bool = False, share: float = 1.0
) -> Feed:
    """Photos as the settings have them. plain: without augmentation. share: of the budget."""
    pictures = Pictures(
        photos,
        side=side_for(settings.side, network),
        multiple=network.multiple,
        fit=settings.fit,
        augment=NONE if plain else settings.augment,
        seed=settings.seed,
        budget=int(share * (settings.budget << 20)),
    )
    return Feed(pictures, settings.chunk, settings.readers)


def validation_of(labelled: LabelledSet, settings: "Training", network: Sizes) -> Validation:
    """What a network is validated by while it trains."""
    return Validation(
        labelled,
        side=side_for(settings.validation_side or settings.side, network),
        multiple=network.multiple,
        least=network.least,
        chunk=settings.chunk,
        readers=settings.readers,
    )
