"""COLMAP's models as text: lines of words, comments behind #."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resight.errors import GroundTruthError

Raw = tuple[str, NDArray[np.float64], int, NDArray[np.int64]]
"""Name, pose (w, x, y, z, t), camera, and the point that each keypoint is of, −1 for none."""


def cameras(path: Path) -> dict[int, float]:
    """Focal length in pixels, the first of any model's parameters, by the camera's id."""
    found = {}
    for number, line in _lines(path):
        words = line.split()
        try:
            found[int(words[0])] = float(words[4])
        except (IndexError, ValueError) as error:
            raise _damaged(path, number, "CAMERA_ID MODEL WIDTH HEIGHT PARAMS") from error
    return found


def images(path: Path) -> list[Raw]:
    """Registered images, each of two lines, of which the second, of its keypoints, may be empty."""
    found: list[Raw] = []
    lines = _lines(path, empty=True)
    for number, line in lines:
        if not line:
            continue
        words = line.split(maxsplit=9)
        try:
            pose, camera, name = np.array(words[1:8], np.float64), int(words[8]), words[9]
        except (IndexError, ValueError) as error:
            raise _damaged(path, number, "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME") from error
        number, line = next(lines, (number, ""))
        keypoints = line.split()
        try:
            if len(keypoints) % 3:
                raise ValueError("not in threes")
            found.append((name, pose, camera, np.array(keypoints[2::3], np.int64)))
        except ValueError as error:
            raise _damaged(path, number, "X Y POINT3D_ID of each keypoint") from error
    return found


def points(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(P,) ids and P×3 places of the points."""
    ids: list[int] = []
    places: list[list[float]] = []
    for number, line in _lines(path):
        words = line.split(maxsplit=4)
        try:
            ids.append(int(words[0]))
            places.append([float(words[1]), float(words[2]), float(words[3])])
        except (IndexError, ValueError) as error:
            raise _damaged(path, number, "POINT3D_ID X Y Z R G B ERROR TRACK") from error
    return np.array(ids, np.int64), np.array(places, np.float64).reshape(-1, 3)


def _lines(path: Path, *, empty: bool = False) -> Iterator[tuple[int, str]]:
    """Numbers, from 1, and lines that are no comments; with or without the empty ones."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.startswith("#") and (empty or line.strip()):
                    yield number, line.strip()
    except (OSError, UnicodeDecodeError) as error:
        raise GroundTruthError(f"{path}: cannot be read: {error}") from error


def _damaged(path: Path, number: int, wanted: str) -> GroundTruthError:
    return GroundTruthError(f"{path}: line {number} should be {wanted}; export the model from COLMAP again")
