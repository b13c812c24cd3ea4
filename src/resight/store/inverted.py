"""The inverted file: immutable segments on disk, memory-mapped, merged as they grow (survey §4.2.2).

A segment lists, for each visual word that occurs in it, the images that hold the word, with a code: what a filter
(``resight.local.word_filter``) keeps of the image at the word, such as ASMK's packed residual signs. It is a folder of
four little-endian arrays; the catalogue names it once it is whole.
"""

import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resight.errors import CollectionError
from resight.local.asmk import Encoding
from resight.store.log import sync_folder
from resight.store.mapped import Mapped

_CHUNK = 1 << 19  # postings handled at a time, which bounds memory at query and at merge
_READ = 1 << 20  # bytes read at a time
_KINDS = {"words": "<i4", "offsets": "<i8", "images": "<i4", "codes": "u1"}


@dataclass(frozen=True, eq=False)
class Segment:
    """words: W ascending int32; offsets: W+1 int64; images: P int32 ids; codes: P×B uint8.

    The postings of words[k] are images[offsets[k]:offsets[k+1]], by ascending id, and the codes beside them. An image
    may have several for a word, in the order of its encoding; all its postings are in one segment.
    files: that the arrays are mapped from, where they are.
    """

    words: NDArray[np.int32]
    offsets: NDArray[np.int64]
    images: NDArray[np.int32]
    codes: NDArray[np.uint8]
    files: tuple[Mapped, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def build(cls, images: Sequence[int], encodings: Sequence[Encoding], code_bytes: int) -> "Segment":
        """The segment of some images, held in memory."""
        words = np.concatenate([np.empty(0, np.int32), *(e.words for e in encodings)])
        codes = np.concatenate([np.empty((0, code_bytes), np.uint8), *(e.codes for e in encodings)])
        ids = np.repeat(np.asarray(images, np.int32), [len(e) for e in encodings])
        return _sorted(words, ids, codes)

    def gather(self, words: NDArray[np.int32]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """All postings of ascending `words`, in chunks: positions in `words`, and positions of the postings.

        CollectionError where a file of the segment has been cut short since it was opened.
        """
        for file in self.files:
            file.check()
        if len(self.words) == 0 or len(words) == 0:
            return
        place = np.minimum(np.searchsorted(self.words, words), len(self.words) - 1)
        found = np.flatnonzero(self.words[place] == words)
        starts = self.offsets[place[found]]
        counts = self.offsets[place[found] + 1] - starts
        for part in _chunks(counts):
            start, count = starts[part], counts[part]
            ends = np.cumsum(count)
            postings = np.arange(int(ends[-1])) + np.repeat(start - ends + count, count)
            yield np.repeat(found[part], count), postings

    def parts(self) -> Iterator["Segment"]:
        """The segment in consecutive ranges of words, each of about a chunk of postings."""
        for part in _chunks(np.diff(self.offsets)):
            yield self.between(int(self.words[part[0]]), int(self.words[part[-1]]) + 1)

    def between(self, low: int, high: int) -> "Segment":
        """The part with low ≤ word < high."""
        a, b = np.searchsorted(self.words, [low, high])
        start, stop = self.offsets[a], self.offsets[b]
        return Segment(
            self.words[a:b], self.offsets[a : b + 1] - start, self.images[start:stop], self.codes[start:stop]
        )

    @property
    def posting_words(self) -> NDArray[np.int32]:
        """P int32, the word of each posting."""
        return np.repeat(self.words, np.diff(self.offsets))

    @classmethod
    def open(cls, folder: Path) -> "Segment":
        """Memory-map a segment; CollectionError if it is missing or its arrays do not fit each other."""
        try:
            files = {name: Mapped(folder / name) for name in _KINDS}
            arrays = {name: file.bytes.view(_KINDS[name]) for name, file in files.items()}
        except (OSError, ValueError) as error:
            raise CollectionError(f"{folder}: cannot be opened ({error}); `resight refit` rebuilds it") from error
        words, offsets, images, codes = (arrays[name] for name in _KINDS)
        fits = len(offsets) == len(words) + 1 and offsets[0] == 0 and offsets[-1] == len(images)
        fits = fits and not np.any(offsets[1:] < offsets[:-1])
        if not fits or (len(images) and len(codes) % len(images)):
            raise CollectionError(f"{folder}: is damaged; `resight refit` rebuilds it")
        codes = codes.reshape(len(images), -1) if len(images) else codes.reshape(0, 1)
        return cls(words, offsets, images, codes, tuple(files.values()))


def write_segment(folder: Path, parts: Iterable[Segment]) -> int:
    """Write a segment given as parts of ascending, disjoint word ranges; its CRC-32, once it is on the disk."""
    folder.mkdir()
    end = 0
    files = {name: (folder / name).open("wb") for name in _KINDS}
    try:
        files["offsets"].write(np.zeros(1, "<i8").tobytes())
        for part in parts:
            arrays = {
                "words": part.words,
                "offsets": part.offsets[1:] + end,
                "images": part.images,
                "codes": part.codes,
            }
            for name, array in arrays.items():
                files[name].write(np.ascontiguousarray(array, _KINDS[name]).tobytes())
            end += len(part)
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    finally:
        for file in files.values():
            file.close()
    sync_folder(folder)
    sync_folder(folder.parent)
    return segment_crc(folder)


def segment_crc(folder: Path) -> int:
    """CRC-32 of a segment's files."""
    crc = 0
    for name in _KINDS:
        with (folder / name).open("rb") as file:
            while block := file.read(_READ):
                crc = zlib.crc32(block, crc)
    return crc


def merged(segments: Sequence[Segment], alive: Callable[[NDArray[np.int32]], NDArray[np.bool_]]) -> Iterator[Segment]:
    """The postings of living images in several segments, as parts of ascending word ranges, in bounded memory."""
    words, place = np.unique(np.concatenate([s.words for s in segments]), return_inverse=True)
    counts = np.bincount(
        place, weights=np.concatenate([np.diff(s.offsets) for s in segments]), minlength=len(words)
    ).astype(np.int64)
    for part in _chunks(counts):
        low, high = int(words[part[0]]), int(words[part[-1]]) + 1
        slices = [s.between(low, high) for s in segments]
        ids = np.concatenate([s.images for s in slices])
        keep = alive(ids)
        yield _sorted(
            np.concatenate([s.posting_words for s in slices])[keep],
            ids[keep],
            np.concatenate([s.codes for s in slices if len(s)] or [slices[0].codes])[keep],
        )


def _sorted(words: NDArray[np.int32], ids: NDArray[np.int32], codes: NDArray[np.uint8]) -> Segment:
    order = np.lexsort((ids, words))
    unique, first = np.unique(words[order], return_index=True)
    return Segment(unique, np.append(first, len(words)).astype(np.int64), ids[order], codes[order])


def _chunks(counts: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Consecutive runs of positions whose counts sum to about a chunk; a run has at least one position."""
    cuts = np.searchsorted(np.cumsum(counts), np.arange(_CHUNK, int(counts.sum()), _CHUNK))
    yield from (part for part in np.split(np.arange(len(counts)), np.unique(cuts)) if len(part))
