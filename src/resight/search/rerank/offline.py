"""Diffusion that is made before the queries come (Yang, Hinami, Matsui, Ly & Satoh, AAAI 2019).

(I − αS)⁻¹ is symmetric, so that f = (I − αS)⁻¹y adds up its rows at the few images where y is not 0. The rows are
solved for in advance, each on the T images nearest to its own: a query then costs one sparse product.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from resight.errors import QueryError, RecipeError
from resight.parsing import load_array, parse_json
from resight.search.ranking import Ranking
from resight.search.rerank.diffusion import check_alpha
from resight.search.rerank.neighbours import nearest
from resight.search.rerank.reranker import Database, best, check_query, first
from resight.search.rerank.truncated import solve_rows, transitions
from resight.store.indexing import Progress

_FORMAT = 1
_COPIED = 65_536  # vectors at a time
_ARRAYS: dict[str, type[np.generic]] = {
    "ids": np.int64,
    "vectors": np.float32,
    "columns": np.int32,
    "weights": np.float32,
}


@dataclass(frozen=True, eq=False)
class OfflineDiffusion:
    """Rows of (I − αS)⁻¹ in a folder of .npy files, memory-mapped: 8 bytes for each of N×T entries.

    ids: (N,) int64, ascending. vectors: N×D float32. columns: N×T int32, the images of each row's entries, and
    weights: N×T float32, the entries.
    sources, gamma: as of ``diffusion.sources``; they are the query's, and can be changed without a new build.
    """

    ids: NDArray[np.int64]
    vectors: NDArray[np.float32]
    columns: NDArray[np.int32]
    weights: NDArray[np.float32]
    sources: int
    gamma: float

    @classmethod
    def build(
        cls,
        folder: str | Path,
        database: Database,
        *,
        truncation: int = 1000,
        k: int = 50,
        gamma: float = 3.0,
        alpha: float = 0.99,
        sources: int = 10,
        tolerance: float = 1e-6,
        iterations: int = 20,
        progress: Callable[[Progress], None] | None = None,
    ) -> Self:
        """Make the folder, which must not exist yet; it appears when it is whole.

        truncation: T, the image itself among them; the smaller of it and N. k: neighbours of an image, below T.
        tolerance, iterations: of conjugate gradient. progress: called as images are done.
        Compares all vectors with all, then takes two milliseconds or so of one core an image for T = 1000. Memory is
        for the k neighbours of N images, and some hundred MiB; the vectors may be memory-mapped.
        Raises RecipeError for values out of range or a folder that exists or cannot be written, and QueryError for a
        database that is empty or has several rows an image.
        """
        folder, told = Path(folder), progress or (lambda state: None)
        check_alpha(alpha)
        if not 1 <= k < truncation or sources < 1 or gamma <= 0:
            raise RecipeError(f"1 ≤ k < truncation, sources ≥ 1 and gamma > 0 are needed, not {k}, {truncation}, "
                              f"{sources} and {gamma}")  # fmt: skip
        if len(database) == 0 or not database.one_row_an_image:
            raise QueryError("database must hold images, one row each")
        if folder.exists():
            raise RecipeError(f"{folder}: exists already; remove it or name another folder")
        partial = folder.with_name(f".{folder.name}.partial")
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            solver = {"alpha": alpha, "tolerance": tolerance, "iterations": iterations}
            n = len(database)
            _write(partial, database, min(truncation, n), min(k, n - 1), gamma, told, **solver)
            header = {"format": _FORMAT, "sources": sources, "gamma": gamma, "alpha": alpha, "k": k}
            (partial / "meta.json").write_text(json.dumps(header))
            partial.rename(folder)
        except OSError as error:
            raise RecipeError(f"{folder}: cannot be written: {error.strerror or error}") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Map a folder that ``build`` made. Raises RecipeError where it is missing, damaged or of another format."""
        folder = Path(folder)
        if not (folder / "meta.json").is_file():
            raise RecipeError(f"{folder}: holds no offline diffusion; make one with `OfflineDiffusion.build`")
        try:
            header = parse_json((folder / "meta.json").read_text())
            version, sources, gamma = int(header["format"]), int(header["sources"]), float(header["gamma"])
            arrays = {name: load_array(folder / f"{name}.npy", "r") for name in _ARRAYS}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RecipeError(f"{folder}: is damaged: {error}; build it again") from error
        if version != _FORMAT:
            raise RecipeError(f"{folder}: format {version}, but this version of resight reads format {_FORMAT}")
        shapes = {name: array.shape for name, array in arrays.items()}
        types = {name: array.dtype for name, array in arrays.items()}
        fits = all(len(s) == (1 if name == "ids" else 2) and s[0] == shapes["ids"][0] for name, s in shapes.items())
        if types != _ARRAYS or not fits or shapes["columns"] != shapes["weights"]:
            raise RecipeError(f"{folder}: its arrays do not fit each other; build it again")
        return cls(**arrays, sources=sources, gamma=gamma)

    def __len__(self) -> int:
        return len(self.ids)

    def diffuse(
        self, rows: NDArray[np.int64], similarity: NDArray[np.float32], top: int | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Images reached, best first, and their scores; from any search's first results: all that diffusion adds to it.

        rows: (K,) of ``ids``, and similarity: their cosines to the query.
        top: at most as many; to order 100 takes a third of the time of all.
        """
        y = np.maximum(similarity.astype(np.float64), 0) ** self.gamma
        spread = (self.weights[rows] * y[:, None]).ravel()
        scores = np.bincount(self.columns[rows].ravel(), weights=spread, minlength=len(self)).astype(np.float32)
        reached = np.flatnonzero(scores > 0)
        if top is not None and top < len(reached):
            least = np.partition(scores[reached], len(reached) - top)[len(reached) - top]
            reached = reached[scores[reached] >= least]
        # Floats above 0 are in the order of their bits, so one fast sort of integers has ties by row too.
        keys = (0xFFFF_FFFF - scores[reached].view(np.uint32)).astype(np.uint64) << np.uint64(32)
        keys |= reached.astype(np.uint64)
        keys.sort()
        reached = (keys[:top] & np.uint64(0xFFFF_FFFF)).astype(np.int64)
        return self.ids[reached], scores[reached]

    def search(
        self, query: NDArray[np.float32], top: int | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """As ``diffuse``, from a (D,) query's nearest vectors by exhaustive search. QueryError for another D."""
        check_query(query, self.vectors.shape[1])
        rows, similarity = nearest(query[None], self.vectors, self.sources)
        return self.diffuse(rows[0], similarity[0], top)

    def rerank(self, query: NDArray[np.float32], ranking: Ranking, database: Database) -> Ranking:
        """The images that diffusion reaches from the first of the ranking; the others follow in their order.

        Raises QueryError where those are not among the images that were built for.
        """
        check_query(query, database.dimension)
        asked = ranking.ids[: self.sources]
        rows = np.minimum(np.searchsorted(self.ids, asked), len(self) - 1)
        if np.any(missing := self.ids[rows] != asked):
            raise QueryError(f"image {asked[missing][0]} came after the offline diffusion was built; build it again")
        ids, scores = self.diffuse(rows, database.vectors[database.rows(asked)] @ query)
        return first(ranking, *best(ids, scores))


def _write(
    folder: Path, database: Database, t: int, k: int, gamma: float, progress: Callable[[Progress], None], **solver: Any
) -> None:
    n, order = len(database), np.argsort(database.ids)
    shapes: dict[str, Any] = {"ids": (n,), "vectors": database.vectors.shape, "columns": (n, t), "weights": (n, t)}
    made = {name: _mapped(folder / f"{name}.npy", dtype, shapes[name]) for name, dtype in _ARRAYS.items()}
    made["ids"][:] = database.ids[order]
    for start in range(0, n, _COPIED):
        made["vectors"][start : start + _COPIED] = database.vectors[order[start : start + _COPIED]]
    s = transitions(made["vectors"], made["columns"], k, gamma, progress)
    solve_rows(s, made["columns"], made["weights"], progress=progress, **solver)
    for array in made.values():
        array.flush()


def _mapped(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> "np.memmap[Any, Any]":
    """A new .npy file. OSError where the disk has no room for all of it: a full disk kills who writes to a map."""
    array = open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array
