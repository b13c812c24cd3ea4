"""Pairs of photos that see the same points of a COLMAP model (Radenović, Tolias & Chum, TPAMI 2019, §4.2)."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from resight.errors import GroundTruthError
from resight.learning.unlabelled.colmap import ColmapModel, View, find_models, read_model
from resight.learning.unlabelled.pairs import parts_of
from resight.learning.unlabelled.stages import ColmapStage

PairGraph = tuple[csr_array, NDArray[np.int64]]
"""N×N, how good each photo is as a positive of another; and (N,) the part that each is in, −1 for none."""


def pairs_of_folder(stage: ColmapStage, root: Path, paths: Sequence[Path]) -> PairGraph:
    """Pairs, as ``pairs_of_models`` has them, of the models that the settings name, of N photos by their paths.

    root: where the models' names begin, unless settings say ``images``. Raises GroundTruthError where no photo is in
    any model, and as ``read_model``.
    """
    base = (Path(stage.images) if stage.images else root).absolute()
    place = {path: number for number, path in enumerate(paths)}
    models = [read_model(folder) for folder in find_models(Path(stage.model))]
    places = {name: place[base / name] for model in models for name in _names(model) if base / name in place}
    if not places:
        example = next((name for model in models for name in _names(model)), "nothing")
        raise GroundTruthError(
            f"{stage.model}: none of its photos, such as {example}, is one of the {len(paths)} below {base}: say where "
            "their names begin (unlabelled.images)"
        )
    return pairs_of_models(models, places, len(paths), stage)


def pairs_of_models(models: Sequence[ColmapModel], places: Mapping[str, int], n: int, stage: ColmapStage) -> PairGraph:
    """N×N numbers of shared points, (i, j) where j is a positive of i; and (N,) the part of each photo, −1 for none.

    places: of photos by name; others are left out. Photos of one model are of one part, and models with a common photo.
    """
    found: dict[tuple[int, int], int] = {}
    for model in models:
        for one, other, shared in positives(model, stage):
            if one.name in places and other.name in places:
                pair = places[one.name], places[other.name]
                found[pair] = max(shared, found.get(pair, 0))
    rows, columns = np.array(list(found), np.int64).reshape(-1, 2).T
    pairs = csr_array(coo_array((np.array(list(found.values()), np.int64), (rows, columns)), shape=(n, n)))
    members = [
        (places[name], n + number) for number, model in enumerate(models) for name in _names(model) if name in places
    ]
    photos, groups = np.array(members, np.int64).reshape(-1, 2).T
    size = n + len(models)
    parts = parts_of(csr_array(coo_array((np.ones(len(members)), (photos, groups)), shape=(size, size))))[:n]
    known = np.isin(np.arange(n), photos)
    return pairs, np.where(known, parts, -1)


def positives(model: ColmapModel, stage: ColmapStage) -> Iterator[tuple[View, View, int]]:
    """(anchor, positive, shared points) of the pairs that the settings allow, by name."""
    lengths = [len(view.points) for view in model.views]
    columns = np.searchsorted(model.ids, np.concatenate([np.empty(0, np.int64), *(v.points for v in model.views)]))
    starts = np.concatenate([[0], np.cumsum(lengths)])
    sees = csr_array((np.ones(len(columns), np.int32), columns, starts), shape=(len(lengths), len(model.ids)))
    shared = coo_array(sees @ sees.T)
    order = np.lexsort((shared.col, shared.row))
    for i, j, count in zip(
        shared.row[order].tolist(), shared.col[order].tolist(), shared.data[order].tolist(), strict=True
    ):
        if i == j or count < stage.points or count < stage.overlap * lengths[i]:
            continue
        one, other = model.views[i], model.views[j]
        xyz = model.places(np.intersect1d(one.points, other.points, assume_unique=True))
        change = scale_change(one, other, xyz)
        if max(change, 1 / change) <= stage.scale and (
            not stage.angle or angle_between(one, other, xyz) <= stage.angle
        ):
            yield one, other, count


def scale_change(one: View, other: View, xyz: NDArray[np.float64]) -> float:
    """How much larger n×3 points are in one photo than in the other, f/z of each; their median."""

    def size(view: View) -> NDArray[np.float64]:
        depth = xyz @ view.rotation[2] + view.translation[2]
        return np.asarray(view.focal / np.maximum(depth, np.finfo(float).tiny))

    return float(np.median(size(one) / size(other)))


def angle_between(one: View, other: View, xyz: NDArray[np.float64]) -> float:
    """The angle between the rays from both cameras to n×3 points, in degrees; its median."""
    a, b = xyz - one.centre, xyz - other.centre
    cosine = np.einsum("nd,nd->n", a, b) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-300)
    return float(np.median(np.degrees(np.arccos(np.clip(cosine, -1, 1)))))


def _names(model: ColmapModel) -> Iterator[str]:
    return (view.name for view in model.views)
