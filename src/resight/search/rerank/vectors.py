"""Re-ranking for somebody's own vector database: ids and vectors in a file, rankings out."""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from resight.errors import QueryError
from resight.recipes.rerank_stages import RerankStage
from resight.search.ranking import Ranking
from resight.search.rerank.reranker import Database, initial_ranking
from resight.search.rerank.stages import make_reranker


@dataclass(frozen=True, eq=False)
class VectorFile:
    """What `resight export` writes. database: N ids and vectors. paths: of the N images, or None."""

    database: Database
    paths: tuple[str, ...] | None


def read_vectors(path: str | Path) -> VectorFile:
    """ids (N,) and vectors N×D of an .npz or .safetensors file, with the images' paths where it has them.

    Vectors are ℓ2-normalised here. Raises QueryError, naming the file, where it is missing, damaged or lacks one.
    """
    path = Path(path)
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                ids, vectors = file["ids"], file["vectors"]
                paths = tuple(file["paths"].tolist()) if "paths" in file else None
        else:
            with safe_open(path, "numpy") as tensors:
                ids, vectors = tensors.get_tensor("ids"), tensors.get_tensor("vectors")
                listed = (tensors.metadata() or {}).get("paths")
                paths = None if listed is None else tuple(map(str, json.loads(listed)))
    except (OSError, KeyError, ValueError, SafetensorError, zipfile.BadZipFile) as error:
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
        return VectorFile(Database(ids.astype(np.int64), unit), paths)
    except QueryError as error:
        raise QueryError(f"{path}: {error}") from error


def rerank_vectors(
    database: Database, queries: NDArray[np.float32], stages: Sequence[RerankStage], top: int | None = None
) -> list[Ranking]:
    """A ranking of the database for each of Q×D ℓ2-normalised queries: by cosine, then as the stages say."""
    reranker = make_reranker(stages)
    return [
        reranker.rerank(query, initial_ranking(query, database), database).top(top or len(database))
        for query in queries
    ]
