"""Re-ranking for somebody's own vector database: ids and vectors in a file, rankings out."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from resight.errors import QueryError
from resight.features.multiscale import l2_normalise
from resight.parsing import load_arrays, parse_json
from resight.recipes.rerank_stages import RerankStage
from resight.search.ranking import Ranking
from resight.search.rerank.cache import Cache
from resight.search.rerank.patches import Regions
from resight.search.rerank.reranker import Database, check_query, initial_ranking
from resight.search.rerank.stages import Asked, Source, prepare
from resight.store.indexing import Progress


@dataclass(frozen=True, eq=False)
class VectorFile:
    """What `resight export` writes, or another vector database's vectors in the same form.

    rows: R ids and vectors as they lie in the file, an image's regions as several rows. boxes: R×4 float32 or None.
    paths: of the R rows' images, or None.
    """

    rows: Database
    boxes: NDArray[np.float32] | None
    paths: tuple[str, ...] | None

    @property
    def regions(self) -> Regions | None:
        """The rows as regions, where the file has boxes."""
        return None if self.boxes is None else Regions(self.rows.ids, self.boxes, self.rows.vectors)

    @property
    def database(self) -> Database:
        """One row an image: its only one, or the ℓ2-normalised sum of its regions (R-MAC's; Tolias et al. 2016)."""
        if self.rows.one_row_an_image:
            return self.rows
        ids, image = np.unique(self.rows.ids, return_inverse=True)
        total = np.zeros((len(ids), self.rows.dimension))
        np.add.at(total, image, self.rows.vectors)
        return Database(ids, l2_normalise(total).astype(np.float32))

    def queries(self) -> tuple[NDArray[np.int64], list[NDArray[np.float32]]]:
        """Ids of Q queries in the order they first occur, and the vectors of each, R×D."""
        ids, first = np.unique(self.rows.ids, return_index=True)
        ordered = ids[np.argsort(first)]
        return ordered, [self.rows.vectors[self.rows.ids == query] for query in ordered.tolist()]


def read_vectors(path: str | Path) -> VectorFile:
    """ids (R,), vectors R×D and, where it has them, boxes R×4 and paths, of an .npz or .safetensors file.

    Vectors are ℓ2-normalised here. Raises QueryError, naming the file, where it is missing, damaged or lacks one.
    """
    path = Path(path)
    boxes = None
    try:
        if path.suffix == ".npz":
            file = load_arrays(path)
            ids, vectors, boxes = file["ids"], file["vectors"], file.get("boxes")
            paths = tuple(map(str, file["paths"].tolist())) if "paths" in file else None
        else:
            with safe_open(path, "numpy") as tensors:
                ids, vectors = tensors.get_tensor("ids"), tensors.get_tensor("vectors")
                boxes = tensors.get_tensor("boxes") if "boxes" in tensors.keys() else None  # noqa: SIM118 (no mapping)
                listed = (tensors.metadata() or {}).get("paths")
                paths = None if listed is None else tuple(map(str, parse_json(listed)))
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise QueryError(
            f"{path}: is not a file of ids and vectors ({error}): give an .npz or .safetensors with the arrays ids and "
            "vectors, as `resight export` writes"
        ) from error
    if ids.dtype.kind not in "iu" or vectors.dtype.kind != "f" or vectors.ndim != 2:
        raise QueryError(f"{path}: ids must be integers and vectors N×D floats, not {ids.dtype} and {vectors.dtype}")
    unit = vectors.astype(np.float32)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    if paths is not None and len(paths) != len(ids):
        raise QueryError(f"{path}: has {len(paths)} paths for {len(ids)} ids")
    try:
        rows = Database(ids.astype(np.int64), unit)
        found = VectorFile(rows, None if boxes is None else boxes.astype(np.float32), paths)
        found.regions  # noqa: B018 - checks the boxes
    except QueryError as error:
        raise QueryError(f"{path}: {error}") from error
    return found


def rerank_vectors(
    database: Database,
    queries: Sequence[NDArray[np.float32]],
    stages: Sequence[RerankStage],
    top: int | None = None,
    *,
    regions: Regions | None = None,
    keep: Path | None = None,
    progress: Callable[[Progress], None] = lambda state: None,
) -> list[Ranking]:
    """A ranking of the database for each query: by cosine, then as the stages say.

    database: one row an image. queries: (D,) or R×D each, ℓ2-normalised; of several vectors, as its regions are,
        regional diffusion takes all and other stages their ℓ2-normalised sum. regions: of all images, for stages that
        need them. keep: folder for what stages build for the whole database, to be found there by the next call; None
        builds it for this call alone.
    """
    with tempfile.TemporaryDirectory(prefix="resight-") as temporary:
        cache = Cache(keep or Path(temporary))
        known = None if regions is None else lambda levels: regions
        prepared = prepare(stages, Source(database, cache, known, progress=progress))
        return [_ranked(np.atleast_2d(query), database, prepared.rerank).top(top or len(database)) for query in queries]


def _ranked(vectors: NDArray[np.float32], database: Database, rerank: Callable[[Asked, Ranking], Ranking]) -> Ranking:
    whole = vectors[0] if len(vectors) == 1 else l2_normalise(vectors.sum(axis=0, dtype=np.float64)).astype(np.float32)
    check_query(whole, database.dimension)
    return rerank(Asked(whole, vectors), initial_ranking(whole, database))
