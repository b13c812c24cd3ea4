"""Small textured pictures, and views of them under known maps, that the tests of several rooms share."""

import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from resight.recipes import Recipe, load_recipe
from resight.search.collection import Collection

SIDE = 320
OBJECTS = ("astronaut", "chelsea", "coffee", "rocket")
OTHERS = ("brick", "grass", "hubble_deep_field", "moon")


@pytest.fixture(scope="session")
def sketched_once():
    """What is known of a network's layers is the same each time, and takes most of the time of making a small one."""
    from resight.networks.sketch import Sketch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("resight.networks.backbone.Sketch", functools.lru_cache(Sketch))
        yield


@pytest.fixture(scope="session", autouse=True)
def plain_engine(tmp_path_factory):
    """Networks run by PyTorch, which has nothing to convert; networks/test_engine.py tests the other engines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESIGHT_ENGINE", "torch")
        patch.setenv("RESIGHT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def _picture(name: str) -> NDArray[np.uint8]:
    pixels = getattr(data, name)()
    if pixels.ndim == 2:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    scale = SIDE / max(pixels.shape[:2])
    return cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _tilt(width: int, height: int, seed: int) -> NDArray[np.float64]:
    """A homography that moves each corner of a width×height picture inwards by up to an eighth of its sides."""
    rng = np.random.default_rng(seed)
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], float)
    inwards = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * (width, height)
    moved = corners + inwards * rng.uniform(0.02, 0.125, (4, 2))
    return cv2.getPerspectiveTransform(corners.astype(np.float32), moved.astype(np.float32))


@pytest.fixture(scope="session")
def pictures() -> dict[str, NDArray[np.uint8]]:
    """H×W×3 uint8 pictures of different things, 320 pixels on the longest side."""
    return {name: _picture(name) for name in OBJECTS + OTHERS}


@pytest.fixture(scope="session")
def view() -> Callable[[NDArray[np.uint8], int], tuple[NDArray[np.uint8], NDArray[np.float64]]]:
    """Makes another view of a picture by a seed: the view, and the homography from the picture to it."""

    def make(pixels: NDArray[np.uint8], seed: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        height, width = pixels.shape[:2]
        homography = _tilt(width, height, seed)
        tilted = cv2.warpPerspective(pixels, homography, (width, height), flags=cv2.INTER_CUBIC, borderValue=(90,) * 3)
        return cv2.convertScaleAbs(tilted, alpha=0.9, beta=10), homography

    return make


@pytest.fixture(scope="session")
def save() -> Callable[[Path, NDArray[np.uint8]], Path]:
    """Writes RGB pixels to a file by its suffix, making its folder; gives the path back."""

    def write(path: Path, pixels: NDArray[np.uint8]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
        return path

    return write


@pytest.fixture(scope="session")
def photos(tmp_path_factory, pictures, view, save) -> Path:
    """A folder of 12 files: two views of each of four things, as NAME-1.png and NAME-2.jpg, and four other things.

    NAME-2.jpg is NAME-1.png under the homography in homographies.json.
    """
    folder = tmp_path_factory.mktemp("photos")
    maps = {}
    for seed, name in enumerate(OBJECTS):
        save(folder / f"{name}-1.png", pictures[name])
        other, homography = view(pictures[name], seed)
        save(folder / f"{name}-2.jpg", other)
        maps[name] = homography.tolist()
    for name in OTHERS:
        save(folder / f"{name}.png", pictures[name])
    (folder / "homographies.json").write_text(json.dumps(maps))
    return folder


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    """The default recipe with a calibration that does not follow its re-fits: accepted from seven inliers or so."""
    default = load_recipe("rootsift-asmk")
    calibration = default.calibration.model_copy(
        update={"intercept": -6.0, "inliers": 3.0, "similarity": 10.0, "accept": 0.5, "fitted_on": "by hand"}
    )
    return default.model_copy(update={"calibration": calibration})


@pytest.fixture(scope="session")
def indexed(tmp_path_factory, photos, recipe) -> Path:
    """The folder of a collection of `photos`, indexed by real worker processes. Not to be written to."""
    path = tmp_path_factory.mktemp("indexed") / "collection"
    with Collection.create(path, recipe) as collection:
        report = collection.add([photos], workers=1)
    assert (report.added, report.failed) == (12, 0)
    return path


@pytest.fixture
def python():
    """Starts a Python program, given as text with its arguments, that can import resight; killed if it outlives us."""
    started = []
    source = str(Path(__file__).resolve().parents[1] / "src")
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))

    def start(program: str, *arguments: object) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", program, *map(str, arguments)],
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                # A test run started in the background ignores Ctrl-C, and its children would inherit that.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        )
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
