"""Photos as a network learns from them: read, cropped, resized and changed, all of it decided by a seed."""

import math
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resight.errors import GroundTruthError, ResightError
from resight.learning.datasets.augment import NONE, Augmentation, Fit, alter, window
from resight.learning.datasets.photos import Photo, TrainingSet
from resight.learning.datasets.read import read_photo
from resight.networks.torchvision_ops import ensure_torchvision

Copy = tuple[int, int]
"""A place, and which of the pictures that one epoch has of it."""

_BUDGET = 1 << 30  # of pixels kept between epochs
_AHEAD = 1  # chunks made while the one before them is learned from


class Pictures:
    """Pictures of photos, made anew each epoch.

    side: in pixels; of the square, or the longest. multiple: of which sides are multiples, as the network needs.
    fit: "square" stacks; "aspect" keeps the photo's aspect to the nearest multiple. augment: ``NONE`` for pictures as
    they are, the same in all epochs. budget: bytes of reduced photos that are kept, so that not each epoch decodes
    them; it changes no picture.
    Raises ValueError unless side is a multiple of ``multiple`` and the seed is at least 0.
    """

    def __init__(
        self,
        photos: Sequence[Photo],
        *,
        side: int,
        multiple: int = 1,
        fit: Fit = "square",
        augment: Augmentation = NONE,
        seed: int = 0,
        budget: int = _BUDGET,
    ) -> None:
        if multiple < 1 or side < multiple or side % multiple or seed < 0:
            raise ValueError(f"side must be a multiple of {multiple} and seed at least 0, not {side} and {seed}")
        ensure_torchvision()
        self.photos = tuple(photos)
        self.side, self.multiple, self.fit, self.augment, self.seed = side, multiple, fit, augment, seed
        self._kept: dict[int, NDArray[np.uint8]] = {}
        self._room, self._lock = budget, threading.Lock()

    def __len__(self) -> int:
        return len(self.photos)

    def picture(self, place: int, epoch: int, copy: int = 0, processes: int = 1) -> Tensor:
        """3×H×W uint8 RGB of one photo: by the seed, the epoch, the place and the copy, and nothing else.

        copy: tells pictures of one photo in one epoch apart. processes: as for ``read_photo``.
        Raises ResightError, naming the file, where it cannot be read (any more).
        """
        from torchvision.transforms.v2 import InterpolationMode, functional

        pixels = self._reduced(place, processes)
        rng = np.random.default_rng([self.seed, epoch, place, copy])
        x1, y1, x2, y2 = window(self.augment, (pixels.shape[1], pixels.shape[0]), self.fit, rng)
        part = torch.from_numpy(pixels[y1:y2, x1:x2]).permute(2, 0, 1)
        if part.shape[1:] != (size := self._size(x2 - x1, y2 - y1)):
            part = functional.resize(part, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True)
        return alter(part, self.augment, rng).clone(memory_format=torch.contiguous_format)

    def batches(self, places: Iterable[NDArray[np.int64]], epoch: int, workers: int = 1) -> Iterator[list[Tensor]]:
        """The pictures of each of the lists of places, in order, as ``made``; each list ``numbered`` by itself."""
        return self.made(map(numbered, places), epoch, workers)

    def made(self, chunks: Iterable[Sequence[Copy]], epoch: int, workers: int = 1) -> Iterator[list[Tensor]]:
        """The pictures of each of the chunks, in order; made in threads while the chunk before is used.

        No more than the next chunk's wait.
        """
        readers = ThreadPoolExecutor(workers)
        coming: deque[list[Future[Tensor]]] = deque()
        try:
            for chunk in chunks:
                coming.append([readers.submit(self.picture, place, epoch, copy, workers) for place, copy in chunk])
                if len(coming) > _AHEAD:
                    yield [picture.result() for picture in coming.popleft()]
            while coming:
                yield [picture.result() for picture in coming.popleft()]
        finally:
            readers.shutdown(wait=True, cancel_futures=True)

    def _size(self, width: int, height: int) -> tuple[int, int]:
        """(height, width) of the picture of a crop."""
        if self.fit == "square":
            return self.side, self.side
        longest = max(width, height)
        high, wide = (self.multiple * max(1, round(self.side * s / longest / self.multiple)) for s in (height, width))
        return high, wide

    def _reduced(self, place: int, processes: int) -> NDArray[np.uint8]:
        """The photo, or its box, H×W×3, no larger than the smallest crop needs; kept if there is room."""
        if (kept := self._kept.get(place)) is not None:
            return kept
        smallest = self.augment.scale[0] if self.augment.scale is not None else 1.0
        longest = math.ceil(self.side / math.sqrt(smallest))
        pixels = read_photo(self.photos[place], longest, processes=processes).pixels
        with self._lock:
            if place not in self._kept and pixels.nbytes <= self._room:
                self._room -= pixels.nbytes
                self._kept[place] = pixels
        return pixels


def check_readable(photos: TrainingSet, *, workers: int = 1, skip: bool = False) -> TrainingSet:
    """Read each photo once, before a network learns for hours.

    Raises GroundTruthError that lists all that cannot be read. skip: leaves them out instead, and with them classes
    of which one photo or none remains, and says so in ``selection``.
    """
    reasons = unreadable(photos.photos, workers=workers)
    bad = [reason for reason in reasons if reason]
    if not bad:
        return photos
    if not skip:
        raise unreadable_error(photos.file, "photos", reasons)
    good = [photo for photo, reason in zip(photos.photos, reasons, strict=True) if not reason]
    counts = np.bincount([photo.label for photo in good], minlength=len(photos.classes))
    kept = np.flatnonzero(counts > 1).tolist()
    label = {old: new for new, old in enumerate(kept)}
    lost = len(photos.classes) - len(kept)
    text = f"without {len(bad)} unreadable photos" + (
        f" and the {lost} objects left with fewer than two" if lost else ""
    )
    return replace(
        photos,
        photos=tuple(replace(photo, label=label[photo.label]) for photo in good if photo.label in label),
        classes=tuple(photos.classes[old] for old in kept),
        selection=f"{photos.selection}; {text}" if photos.selection else text,
    )


def unreadable(photos: Sequence[Photo], *, workers: int) -> list[str]:
    """Why each photo, or the part of it, cannot be read, with its name; "" where it can. workers: threads."""
    with ThreadPoolExecutor(workers) as readers:
        return list(readers.map(partial(_unreadable, workers), photos))


def unreadable_error(file: Path, what: str, reasons: Sequence[str]) -> GroundTruthError:
    """What to raise of a set in a file, with all the reasons of ``unreadable``. what: it consists of."""
    bad = [reason for reason in reasons if reason]
    listed = "\n".join(bad)
    return GroundTruthError(
        f"{file}: {len(bad)} of {len(reasons)} {what} cannot be read; mend them, take them out, or say "
        f"unreadable = skip:\n{listed}"
    )


def _unreadable(workers: int, photo: Photo) -> str:
    try:
        read_photo(photo, 64, processes=workers)
    except ResightError as error:
        return str(error)
    return ""


def numbered(places: NDArray[np.int64]) -> list[Copy]:
    """Each place with how often it was there before: copies of a photo in a batch get pictures of their own."""
    seen: Counter[int] = Counter()
    found = []
    for place in places.tolist():
        found.append((place, seen[place]))
        seen[place] += 1
    return found
