"""An index over the global descriptors of a collection, through faiss: finds candidates without comparing all.

It holds codes, not the vectors, which stay in the collection's log: what it finds is compared exactly with those. It
never changes. New images are compared one by one until there are enough for ``extended``, which encodes them as the
others are; removed ones are dropped by whoever searches. So adding and removing needs no rebuild, and a file that a
search is reading is never written to (survey §7 (1); Douze et al., "The Faiss library", 2024).
"""

import os
import re
import shutil
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from resight.errors import CollectionError
from resight.store.log import sync_folder
from resight.store.mapped import Mapped

_CODES, _IDS = "codes.faiss", "ids"
_READ = 1 << 20  # bytes read at a time
_CELL = 64  # vectors that a cell of an inverted file is trained from
_SAMPLE = 1 << 16  # vectors that codes are trained from
_GRAPH_EFFORT = 40  # neighbours kept while a graph is built, faiss's default
_SWIG: Any = faiss  # whose type stubs do not name all that is there
_NUMBER = re.compile(r"IVF(\d+)")


@dataclass(frozen=True)
class IndexChoice:
    """Which index, and how it is asked.

    kind: in the language of faiss's ``index_factory``, by inner product.
    depth: candidates compared exactly with the query for each result that is wanted.
    effort: cells visited (IVF…) or nodes kept (HNSW…); without meaning for the others.
    """

    kind: str
    depth: int = 1
    effort: int = 1

    def __post_init__(self) -> None:
        if self.depth < 1 or self.effort < 1:
            raise ValueError(f"depth and effort must be at least 1, not {self.depth} and {self.effort}")

    @property
    def cells(self) -> int:
        """Of an inverted file; 0 for what has none."""
        found = _NUMBER.match(self.kind)
        return int(found.group(1)) if found else 0

    @property
    def graph(self) -> bool:
        """Whether it walks a graph, which takes long to build."""
        return self.kind.startswith("HNSW")

    @property
    def sample(self) -> int:
        """How many vectors it is trained from, at most."""
        return max(_SAMPLE, _CELL * self.cells)


class VectorEngine(Protocol):
    """What finds candidates for a query among the vectors it was given with their image ids."""

    @property
    def choice(self) -> IndexChoice: ...

    @property
    def newest(self) -> int:
        """The highest id it has been given, −1 for none: images above it are not in it."""
        ...

    def __len__(self) -> int:
        """How many vectors it holds, those of removed images too."""
        ...

    def candidates(self, queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """Q×k image ids of each of Q×D queries, −1 where there are fewer, in no particular order."""
        ...


class VectorIndex:
    """A trained faiss index over N vectors. ids: (N,) ascending int64, the image of each.

    file: that faiss maps its codes from, if it does.
    """

    def __init__(self, index: Any, ids: NDArray[np.int64], choice: IndexChoice, file: Mapped | None = None) -> None:
        self._index, self.choice, self._file = index, choice, file
        self._or_none = np.append(ids, -1)  # by row, which faiss gives as −1 for none
        self._ids = self._or_none[:-1]

    @classmethod
    def build(
        cls,
        choice: IndexChoice,
        sample: NDArray[np.float32],
        blocks: Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]],
        *,
        seed: int = 0,
    ) -> Self:
        """Trained on a sample, S×D, and filled with blocks of ids and N×D vectors, by ascending id.

        Memory: the sample, one block and the codes. Raises ValueError for a kind that faiss does not know or that
        does not suit D, and for a sample with fewer vectors than cells.
        """
        try:
            index: Any = faiss.index_factory(sample.shape[1], choice.kind, faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as error:
            raise ValueError(f"faiss knows no index {choice.kind!r} of {sample.shape[1]} dimensions") from error
        if len(sample) < choice.cells:
            raise ValueError(f"{choice.kind} needs {choice.cells:,} vectors to learn from, not {len(sample):,}")
        if choice.cells:
            index.cp.seed = seed
        if choice.graph:
            index.hnsw.efConstruction = _GRAPH_EFFORT
        index.train(sample)
        return cls(index, _fill(index, np.empty(0, np.int64), blocks), choice)

    def extended(self, blocks: Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]]) -> Self:
        """One that holds further vectors too, with ids above all that are there; this one stays as it is."""
        index = _copy(self._index)
        return type(self)(index, _fill(index, self._ids, blocks), self.choice)

    def without(self, blocks: Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]]) -> Self:
        """One that holds only these vectors, encoded as before."""
        index = _copy(self._index)
        index.reset()
        return type(self)(index, _fill(index, np.empty(0, np.int64), blocks), self.choice)

    def asked(self, choice: IndexChoice) -> Self:
        """The same, asked as another choice of the same kind says."""
        if choice.kind != self.choice.kind:
            raise ValueError(f"this index is {self.choice.kind}, not {choice.kind}")
        return type(self)(self._index, self._ids, choice, self._file)

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def dimension(self) -> int:
        """D."""
        return int(self._index.d)

    @property
    def newest(self) -> int:
        """The highest id, −1 for none."""
        return int(self._ids[-1]) if len(self._ids) else -1

    @property
    def bytes(self) -> int:
        """Of memory: codes, what was trained, and ids."""
        return len(faiss.serialize_index(self._index)) + self._ids.nbytes

    def candidates(self, queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """As ``VectorEngine.candidates``: those of the k nearest codes.

        CollectionError where the file has been cut short since it was opened.
        """
        if self._file is not None:
            self._file.check()
        wanted = min(k, len(self))
        if wanted == 0 or len(queries) == 0:
            return np.full((len(queries), k), -1, np.int64)
        _, rows = self._index.search(np.ascontiguousarray(queries), wanted, params=_parameters(self.choice, wanted))
        found = self._or_none[rows]
        return np.pad(found, ((0, 0), (0, k - wanted)), constant_values=-1) if wanted < k else found

    def save(self, folder: Path) -> int:
        """Write to a folder, in place of what a failed saving left there; its CRC-32, once it is on the disk.

        Raises OSError where it cannot be written.
        """
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        # Not by name: faiss then says nothing where a full disk refuses the last block, at closing.
        with (folder / _CODES).open("wb") as codes:
            faiss.write_index(self._index, _SWIG.PyCallbackIOWriter(codes.write))
        (folder / _IDS).write_bytes(self._ids.astype("<i8").tobytes())
        for name in (_CODES, _IDS):
            with (folder / name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(folder)
        sync_folder(folder.parent)
        return index_crc(folder)

    @classmethod
    def open(cls, folder: Path, choice: IndexChoice) -> Self:
        """Raises CollectionError where the index is missing or damaged."""
        try:
            file = Mapped(folder / _CODES)
            index = faiss.read_index(str(folder / _CODES), faiss.IO_FLAG_MMAP_IFC)
            ids = np.fromfile(folder / _IDS, "<i8").astype(np.int64, copy=False)
        except (OSError, RuntimeError) as error:
            raise CollectionError(f"{folder}: cannot be read; `resight tune` builds it anew") from error
        if index.ntotal != len(ids):
            raise CollectionError(f"{folder}: is damaged; `resight tune` builds it anew")
        return cls(index, ids, choice, file)


def _copy(index: Any) -> Any:
    """faiss's own clone_index does not know every kind."""
    return faiss.deserialize_index(faiss.serialize_index(index))


def _fill(
    index: Any, ids: NDArray[np.int64], blocks: Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]]
) -> NDArray[np.int64]:
    """The ids of what a faiss index holds, once the blocks are added to it."""
    parts = [ids]
    for new, vectors in blocks:
        if np.any(np.diff(new, prepend=max((part[-1] for part in parts if len(part)), default=-1)) <= 0):
            raise ValueError("ids must ascend from block to block, above those that the index holds")
        index.add(np.ascontiguousarray(vectors))
        parts.append(new)
    return np.concatenate(parts)


def index_crc(folder: Path) -> int:
    """CRC-32 of an index's files."""
    crc = 0
    for name in (_CODES, _IDS):
        with (folder / name).open("rb") as file:
            while block := file.read(_READ):
                crc = zlib.crc32(block, crc)
    return crc


def _parameters(choice: IndexChoice, k: int) -> Any:
    """faiss's search parameters, or None where the kind has none."""
    if choice.cells:
        return _SWIG.SearchParametersIVF(nprobe=choice.effort)
    if choice.graph:
        return _SWIG.SearchParametersHNSW(efSearch=max(choice.effort, k))
    return None
