"""COLMAP's sparse models: which photo sees which points, from where. Only what pairs are chosen by is read.

The layout is that of https://colmap.github.io/format.html.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resight.errors import GroundTruthError
from resight.learning.unlabelled import colmap_binary, colmap_text

_FILES = ("cameras", "images", "points3D")


@dataclass(frozen=True, eq=False)
class View:
    """A registered photo.

    name: its path below the images' folder. focal: in pixels, along x. rotation, translation: 3×3 and (3,), from the
    world to the camera, whose z looks forward. points: (n,) int64 ids of what it sees, ascending, each once.
    """

    name: str
    focal: float
    rotation: NDArray[np.float64]
    translation: NDArray[np.float64]
    points: NDArray[np.int64]

    @property
    def centre(self) -> NDArray[np.float64]:
        """(3,) where the camera is, −Rᵀt."""
        return np.asarray(-self.rotation.T @ self.translation)


@dataclass(frozen=True, eq=False)
class ColmapModel:
    """views: by name. ids: (P,) int64 of the points, ascending. xyz: P×3, where they are."""

    folder: Path
    views: tuple[View, ...]
    ids: NDArray[np.int64]
    xyz: NDArray[np.float64]

    def places(self, points: NDArray[np.int64]) -> NDArray[np.float64]:
        """n×3, where points of these ids are."""
        return self.xyz[np.searchsorted(self.ids, points)]


def find_models(folder: Path) -> list[Path]:
    """The folder, if it is a model, or else its sub-folders that are, at any depth, by path.

    Raises GroundTruthError where there is none.
    """
    found = sorted({file.parent for suffix in ("bin", "txt") for file in folder.rglob(f"images.{suffix}")})
    if not found:
        raise GroundTruthError(
            f"{folder}: holds no COLMAP model, a folder of cameras, images and points3D, each .bin or .txt"
        )
    return [folder] if folder in found else found


def read_model(folder: Path) -> ColmapModel:
    """A model; of one that is there in both forms the binary one, as COLMAP reads it.

    Raises GroundTruthError, naming the file, where one is missing or damaged, or they do not fit each other.
    """
    binary = all((folder / f"{name}.bin").is_file() for name in _FILES)
    paths = [folder / f"{name}.{'bin' if binary else 'txt'}" for name in _FILES]
    if missing := [path for path in paths if not path.is_file()]:
        raise GroundTruthError(f"{missing[0]}: there is no such file; a model has cameras, images and points3D")
    form = colmap_binary if binary else colmap_text
    focal, raw, (ids, xyz) = form.cameras(paths[0]), form.images(paths[1]), form.points(paths[2])
    order = np.argsort(ids, kind="stable")
    ids, xyz = ids[order], xyz[order]
    views = []
    for name, pose, camera, seen in raw:
        if camera not in focal:
            raise GroundTruthError(f"{paths[1]}: {name} is of camera {camera}, which {paths[0].name} does not list")
        own = np.unique(seen[seen >= 0])
        if len(strange := np.setdiff1d(own, ids)):
            raise GroundTruthError(f"{paths[1]}: {name} sees point {strange[0]}, which {paths[2].name} does not list")
        if not np.isfinite(pose).all() or not pose[:4].any():
            raise GroundTruthError(f"{paths[1]}: {name} has no pose, but {pose.tolist()}")
        views.append(View(name, focal[camera], rotation_of(pose[:4]), pose[4:], own))
    return ColmapModel(folder, tuple(sorted(views, key=lambda view: view.name)), ids, xyz)


def rotation_of(quaternion: NDArray[np.float64]) -> NDArray[np.float64]:
    """3×3, of Hamilton's quaternion (w, x, y, z), which need not be of length 1 but not 0."""
    w, x, y, z = (quaternion / np.linalg.norm(quaternion)).tolist()
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
