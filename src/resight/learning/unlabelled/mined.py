"""What one mining gives, by any method; and its file, by which an interrupted training goes on with the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from resight.errors import RecipeError
from resight.learning.checkpoint import load_module, save_tensors
from resight.learning.datasets.photos import Photo
from resight.learning.unlabelled import stages as s
from resight.learning.unlabelled.clusters import dbscan_labels, kmeans_labels, matched, usual_distance
from resight.learning.unlabelled.colmap_pairs import PairGraph, pairs_of_folder
from resight.learning.unlabelled.gan import gan_pools
from resight.learning.unlabelled.manifold import by_affinity, mom
from resight.learning.unlabelled.neighbour_mean import neighbour_means
from resight.learning.unlabelled.pairs import parts_of, pools_of_pairs
from resight.learning.unlabelled.pools import Places, Pools
from resight.learning.unlabelled.sift import pools_of_sift, sift_neighbours
from resight.learning.unlabelled.verified import Compared, candidate_pairs, verified_pairs


@dataclass(frozen=True, eq=False)
class Labelling:
    """labels: (N,) int64, −1 for photos of no class."""

    labels: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Targets:
    """x: N×D float32, what each photo's descriptor should become."""

    x: NDArray[np.float32]


Mined = Pools | Labelling | Targets
Lasting = PairGraph | Places | Compared | None
"""What of a mining the network has no part in: COLMAP's or verified pairs, SIFT's neighbours, or nothing."""


def lasting(stage: s.MiningStage, photos: Sequence[Photo], root: Path, *, seed: int) -> Lasting:
    """Find it; it is the same in all minings. root: the folder of the photos. Raises as what finds it."""
    if isinstance(stage, s.ColmapStage):
        return pairs_of_folder(stage, root, [photo.path for photo in photos])
    if isinstance(stage, s.SiftStage):
        return sift_neighbours(photos, stage, seed=seed)
    return Compared() if isinstance(stage, s.VerifiedStage) else None


def mine(
    stage: s.MiningStage,
    x: NDArray[np.float32],
    photos: Sequence[Photo],
    root: Path,
    before: Mined | None = None,
    *,
    known: Lasting = None,
    scratch: Path | None = None,
    epoch: int,
    seed: int,
) -> Mined:
    """What the settings' method finds among N photos, by their ℓ2-normalised descriptors x, N×D.

    root: the folder of the photos. before: what was mined last, whose clusters keep their numbers as far as they can,
    and true neighbours of gan stay. known: what ``lasting`` gives, where it is there already.
    scratch: folder for what does not fit in memory; None for the system's temporary one.
    Decided by the arguments alone. Raises RecipeError where nothing is found, or x is not finite, and as the methods.
    """
    if not np.isfinite(x).all():
        raise RecipeError("descriptors are not finite: what was learned has diverged; lower the rate")
    match stage:
        case s.MomStage():
            return mom(x, stage)
        case s.AffinityStage():
            return by_affinity(x, stage, epoch=epoch, seed=seed)
        case s.KmeansStage():
            labels = kmeans_labels(x, stage.clusters, iterations=stage.iterations, seed=seed)
            numbered = before.labels if isinstance(before, Labelling) else labels
            return Labelling(matched(labels, numbered, stage.clusters))
        case s.DbscanStage():
            return Labelling(dbscan_labels(x, stage.distance or usual_distance(x), stage.least))
        case s.NeighbourMeanStage():
            return Targets(neighbour_means(x, stage.k))
        case s.ColmapStage():
            found = lasting(stage, photos, root, seed=seed) if known is None else known
            if not isinstance(found, tuple):
                raise ValueError("colmap mines pairs of models")
            return pools_of_pairs(*found, x, k=stage.k)
        case s.VerifiedStage():
            compared = known if isinstance(known, Compared) else None
            pairs = candidate_pairs(x, stage.candidates)
            links = verified_pairs(photos, pairs, stage, seed=seed, scratch=scratch, compared=compared)
            return pools_of_pairs(links, parts_of(links), x, k=stage.k)
        case s.SiftStage():
            found = lasting(stage, photos, root, seed=seed) if known is None else known
            if not isinstance(found, np.ndarray):
                raise ValueError("sift mines by SIFT's neighbours")
            return pools_of_sift(found, x, stage)
        case s.GanStage():
            return gan_pools(x, stage, before if isinstance(before, Pools) else None)


def save_mined(path: Path, mined: Mined) -> None:
    """Write it, whole or not at all. Raises RecipeError where it cannot be."""
    match mined:
        case Pools():
            arrays = {"anchors": mined.anchors}
            for name, pools in (("positives", mined.positives), ("negatives", mined.negatives)):
                arrays |= {f"{name}.counts": np.array([len(pool) for pool in pools]), name: np.concatenate(pools)}
        case Labelling():
            arrays = {"labels": mined.labels}
        case Targets():
            arrays = {"targets": mined.x}  # type: ignore[dict-item]
    save_tensors(path, {f"module.{name}": torch.from_numpy(array) for name, array in arrays.items()}, {})


def load_mined(path: Path) -> Mined:
    """What ``save_mined`` wrote. Raises RecipeError where it is missing or damaged."""
    arrays = {name: tensor.numpy() for name, tensor in load_module(path).items()}
    if "labels" in arrays:
        return Labelling(arrays["labels"])
    if "targets" in arrays:
        return Targets(arrays["targets"])
    try:
        pools = [
            tuple(np.split(arrays[name], np.cumsum(arrays[f"{name}.counts"])[:-1]))
            for name in ("positives", "negatives")
        ]
        return Pools(arrays["anchors"], pools[0], pools[1])
    except (KeyError, ValueError) as error:
        raise RecipeError(f"{path}: is damaged: {error}; train again without --resume") from error
