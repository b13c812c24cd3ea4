"""ASMK's inverted file: immutable segments on disk, memory-mapped, merged as they grow (survey §4.2.2).

A segment lists, for each visual word that occurs in it, the images that hold the word and their packed residual
signs. Files: header, then words, offsets, images, codes as little-endian arrays.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resight.errors import CollectionError
from resight.local.asmk import Encoding

_MAGIC = b"resight inverted 1\n".ljust(32)
_CHUNK = 1 << 20  # postings handled at a time, which bounds memory at query and at merge


@dataclass(frozen=True, eq=False)
class Segment:
    """words: W ascending int32; offsets: W+1 int64; images: P int64 ids; codes: P×B/8 uint8.

    The postings of words[k] are images[offsets[k]:offsets[k+1]], by ascending id, and the codes beside them.
    """

    words: NDArray[np.int32]
    offsets: NDArray[np.int64]
    images: NDArray[np.int64]
    codes: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def build(cls, images: Sequence[int], encodings: Sequence[Encoding], code_bytes: int) -> "Segment":
        """The segment of some images."""
        words = np.concatenate([np.empty(0, np.int32), *(e.words for e in encodings)])
        codes = np.concatenate([np.empty((0, code_bytes), np.uint8), *(e.codes for e in encodings)])
        ids = np.repeat(np.asarray(images, np.int64), [len(e) for e in encodings])
        order = np.lexsort((ids, words))
        unique, first = np.unique(words[order], return_index=True)
        return cls(unique, np.append(first, len(words)).astype(np.int64), ids[order], codes[order])

    def gather(self, words: NDArray[np.int32]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """(positions in `words`, positions of postings) of all postings of ascending `words`, in bounded chunks."""
        place = np.searchsorted(self.words, words)
        found = np.flatnonzero(self.words[np.minimum(place, len(self.words) - 1)] == words) if len(self) else []
        place = place[found]
        starts = self.offsets[place]
        counts = self.offsets[place + 1] - starts
        cuts = np.searchsorted(np.cumsum(counts), np.arange(_CHUNK, int(counts.sum()), _CHUNK))
        for part in np.split(np.arange(len(place)), np.unique(cuts)):
            if len(part):
                count, start = counts[part], starts[part]
                ends = np.cumsum(count)
                postings = np.arange(int(ends[-1])) + np.repeat(start - ends + count, count)
                yield np.repeat(np.asarray(found)[part], count), postings

    def write(self, path: Path) -> None:
        """Write the segment and return when it is on the disk."""
        with path.open("wb") as file:
            for block in _blocks(self):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())

    @classmethod
    def open(cls, path: Path) -> "Segment":
        """Memory-map a segment; CollectionError if it is missing or damaged."""
        try:
            data = np.memmap(path, np.uint8, mode="r")
        except (OSError, ValueError) as error:
            raise CollectionError(f"{path}: cannot be opened ({error}); run `resight refit` to rebuild it") from error
        sizes = data[32:56].view("<i8") if len(data) >= 56 else np.zeros(3, np.int64)
        words, postings, code_bytes = (int(v) for v in sizes)
        widths = (words * 4, (words + 1) * 8, postings * 8, postings * code_bytes)
        starts = np.cumsum([56 + (-words * 4) % 8 * 0, *widths])
        if data[:32].tobytes() != _MAGIC or starts[-1] != len(data):
            raise CollectionError(f"{path}: is damaged; run `resight refit` to rebuild it")
        part = [data[a:b] for a, b in zip(starts[:-1], starts[1:], strict=True)]
        return cls(
            part[0].view("<i4"),
            part[1].view("<i8"),
            part[2].view("<i8"),
            part[3].reshape(postings, code_bytes),
        )


def _blocks(segment: Segment) -> Iterator[bytes]:
    sizes = np.array([len(segment.words), len(segment), segment.codes.shape[1]], "<i8")
    yield _MAGIC + sizes.tobytes()
    yield segment.words.astype("<i4").tobytes()
    yield segment.offsets.astype("<i8").tobytes()
    for array, kind in ((segment.images, "<i8"), (segment.codes, "u1")):
        for start in range(0, len(array), _CHUNK):
            yield array[start : start + _CHUNK].astype(kind).tobytes()
