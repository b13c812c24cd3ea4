"""Photos on their way to the network, a piece of a batch at a time."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from resight.evaluation.labelled import LabelledSet
from resight.learning.datasets.augment import NONE
from resight.learning.datasets.photos import Photo
from resight.learning.datasets.pictures import Pictures
from resight.learning.ranks import ranks
from resight.learning.validate import Validation

if TYPE_CHECKING:
    from resight.learning.settings import Training


class Sizes(Protocol):
    """Of pictures that a network takes: of which their sides are multiples, and the least side, in pixels."""

    multiple: int
    least: int


@dataclass(frozen=True)
class Piece:
    """Pictures of a batch that are made together: their places, and which copy of a photo each is."""

    places: tuple[int, ...]
    copies: tuple[int, ...]


class Feed:
    """Pictures in pieces of ``chunk``. readers: threads that make the next piece while one is learned from."""

    def __init__(self, pictures: Pictures, chunk: int, readers: int) -> None:
        self.pictures, self.chunk, self.readers = pictures, chunk, readers

    def pieces(self, places: NDArray[np.int64]) -> list[Piece]:
        """A batch, in order. A photo that is in it twice gives two pictures."""
        seen: dict[int, int] = {}
        copies = []
        for place in places.tolist():
            seen[place] = seen.get(place, -1) + 1
            copies.append(seen[place])
        cuts = [slice(start, start + self.chunk) for start in range(0, len(copies), self.chunk)]
        return [Piece(tuple(places[cut].tolist()), tuple(copies[cut])) for cut in cuts]

    def made(self, pieces: Sequence[Piece], epoch: int) -> Iterator[list[Tensor]]:
        """The pictures of each piece, 3×H×W uint8, in order."""
        with ThreadPoolExecutor(self.readers) as readers:

            def begin(piece: Piece) -> list[Future[Tensor]]:
                rows = zip(piece.places, piece.copies, strict=True)
                return [readers.submit(self.pictures.picture, place, epoch, copy) for place, copy in rows]

            coming = begin(pieces[0]) if pieces else []
            for number in range(len(pieces)):
                now = coming
                coming = begin(pieces[number + 1]) if number + 1 < len(pieces) else []
                yield [picture.result() for picture in now]

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
        side=_side(settings.side, network),
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
        side=_side(settings.validation_side or settings.side, network),
        multiple=network.multiple,
        least=network.least,
        chunk=settings.chunk,
        readers=settings.readers,
    )


def _side(wanted: int, network: Sizes) -> int:
    """The nearest that the network takes, in pixels, and large enough for it."""
    least = -(-network.least // network.multiple) * network.multiple
    return max(least, round(wanted / network.multiple) * network.multiple)
