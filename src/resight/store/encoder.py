"""Visual words of images by one codebook: their log, and the segments of the inverted file that they make.

A codebook that takes another's place encodes all images beside what is searched by: in the tables ``renewed`` and
``renewed_segments``, which take the place of the others' in one commit when the last image is encoded. So there is no
moment at which a search finds only a part of the images.
"""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resight.embedding.codebook import Codebook
from resight.local.asmk import Encoding
from resight.local.features import LocalFeatures
from resight.local.hamming_filter import Signer
from resight.recipes.recipe import Recipe
from resight.store.catalogue import Catalogue
from resight.store.inverted import Segment, merged, write_segment
from resight.store.log import LogWriter
from resight.store.word_filters import word_filter

_TOGETHER = 64  # images whose descriptors are assigned in one go, which is faster and bounds memory
_MERGE = 4  # segments of a like size that are merged into one


class Encoder:
    """Encodes images with a codebook, inside transactions.

    words: the log of their words. renewed: whether beside what is searched by.
    """

    def __init__(
        self,
        folder: Path,
        catalogue: Catalogue,
        recipe: Recipe,
        learned: tuple[Codebook, Signer | None],
        words: Path,
        *,
        renewed: bool,
    ) -> None:
        self._folder, self._catalogue, self._words = folder, catalogue, words
        self._codebook = learned[0]
        self._filter = word_filter(recipe, *learned)
        self._end = "renewed_words_end" if renewed else "words_end"
        self._segments = "renewed_segments" if renewed else "segments"
        self._row = (
            "INSERT INTO renewed (words_at, words, words_crc, id) VALUES (?, ?, ?, ?)"
            if renewed
            else "UPDATE images SET words_at = ?, words = ?, words_crc = ? WHERE id = ?"
        )

    def encode(self, ids: Sequence[int], local: Sequence[LocalFeatures]) -> None:
        """Add images, by ascending id, to the log and to a new segment; merge what there is enough of."""
        encodings: list[Encoding] = []
        with LogWriter(self._words, self._catalogue.get(self._end) or 0) as log:
            for start in range(0, len(ids), _TOGETHER):
                part = [f.descriptors.astype(np.float32) for f in local[start : start + _TOGETHER]]
                words = self._codebook.assign(np.concatenate(part))
                ends = np.cumsum([len(descriptors) for descriptors in part])
                split = np.split(words, ends[:-1])
                for image, descriptors, own in zip(ids[start : start + _TOGETHER], part, split, strict=True):
                    encodings.append(self._filter.encode(descriptors, own))
                    at, crc = log.append(own[:, 0].astype("<i4").tobytes())
                    self._catalogue.run(self._row, (at, len(encodings[-1]), crc, image))
            log.sync()
            self._catalogue.set(self._end, log.end)
        self._add_segment(Segment.build(ids, encodings, self._filter.code_bytes))

    def _add_segment(self, segment: Segment) -> None:
        self._insert_segment([segment], len(segment))
        while names := self._mergeable():
            segments = [Segment.open(self._folder / name) for name in names]
            live = self._catalogue.table("SELECT id FROM images", 1)[:, 0]
            alive = np.zeros(max(int(s.images.max(initial=0)) for s in segments) + 1, bool)
            alive[live[live < len(alive)]] = True
            self._insert_segment(merged(segments, alive.__getitem__), None)
            marks = ",".join("?" * len(names))
            self._catalogue.run(f"DELETE FROM {self._segments} WHERE name IN ({marks})", names)

    def _insert_segment(self, parts: Iterable[Segment], postings: int | None) -> None:
        number = int(self._catalogue.get("segment") or 0) + 1
        name = f"inverted-{number:08}"
        shutil.rmtree(self._folder / name, ignore_errors=True)
        crc = write_segment(self._folder / name, parts)
        if postings is None:
            postings = len(Segment.open(self._folder / name))
        self._catalogue.set("segment", number)
        values: tuple[Any, ...] = name, postings, crc
        self._catalogue.run(f"INSERT INTO {self._segments} VALUES (?, ?, ?)", values)

    def _mergeable(self) -> list[str]:
        """The newest segments, once there are enough of a like size: amortised, each posting moves log₄ times."""
        rows = self._catalogue.rows(f"SELECT name, postings FROM {self._segments} ORDER BY name DESC")
        tail = [name for name, postings in rows if postings <= _MERGE * max(1, rows[0][1])]
        return tail if len(tail) >= _MERGE else []
