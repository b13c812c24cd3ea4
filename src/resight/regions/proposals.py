"""Object proposals from OpenCV's contributed modules: selective search, edge boxes, BING (§4.1.1).

Each takes an H×W×3 uint8 RGB image and gives boxes, R×4 float32 (x1, y1, x2, y2) in its pixels with x2 and y2
exclusive, and scores, (R,) float32, best first, at most ``top``. Scores compare within one image and method only.
The same image gives the same boxes every time. Each raises RecipeError where this OpenCV lacks the modules.
"""

import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from resight.errors import RecipeError
from resight.geometry.regions import Boxes
from resight.regions.pixels import check_pixels

Proposals = tuple[Boxes, NDArray[np.float32]]


def selective_search(
    image: NDArray[np.uint8], top: int, *, mode: Literal["fast", "quality"] = "fast", seed: int = 0
) -> Proposals:
    """Selective search (Uijlings, van de Sande, Gevers & Smeulders, IJCV 2013), with OpenCV's grouping.

    mode: how many colour spaces and similarities are grouped by.
    seed: of the ranking, which as in the paper (§3.3) is by i·RND with i the place in the hierarchy, 1 for the whole
        image, so that large regions do not take all of the top. OpenCV hides the hierarchy and ranks anew at every
        call by C's rand(), so here i is the place by area. A score is 1 - i·RND/R.
    """
    bgr = check_pixels(image)[:, :, ::-1]
    search = _contributed("ximgproc").segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(bgr))
    match mode:
        case "fast":
            search.switchToSelectiveSearchFast()
        case "quality":
            search.switchToSelectiveSearchQuality()
        case _:
            raise RecipeError(f"mode must be 'fast' or 'quality', not {mode!r}")
    boxes = np.unique(_corners(search.process()), axis=0)
    # np.unique has sorted them, so that boxes of one area come in a fixed order.
    largest_first = np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), kind="stable")
    places = np.arange(1, len(boxes) + 1) * np.random.default_rng(seed).random(len(boxes))
    return _best(boxes[largest_first], 1 - places / max(len(boxes), 1), image, top)


def edge_boxes(
    image: NDArray[np.uint8], top: int, *, model: str | Path | None = None, alpha: float = 0.65, beta: float = 0.75
) -> Proposals:
    """Edge Boxes (Zitnick & Dollár, ECCV 2014); of boxes below 1000 pixels in area there are none.

    model: OpenCV's structured-forests file (``model.yml.gz`` of opencv_extra), the edges of the paper. None takes
        the plain variant, thinned Sobel gradients, which answer to texture as much as to outlines: weaker proposals.
    alpha: intersection over union of neighbouring sliding windows. beta: that above which a worse box is dropped.
    Raises RecipeError where the model is missing or none.
    """
    pixels = check_pixels(image)
    edges, normals = _sobel_edges(pixels) if model is None else _structured_edges(pixels, Path(model))
    search = _contributed("ximgproc").createEdgeBoxes(alpha=alpha, beta=beta, maxBoxes=max(top, 1))
    boxes, scores = search.getBoundingBoxes(edges, normals)
    return _best(_corners(boxes), () if scores is None else np.ravel(scores), image, top)


def bing(image: NDArray[np.uint8], top: int, *, model: str | Path) -> Proposals:
    """BING (Cheng, Zhang, Lin & Torr, CVPR 2014): binarised gradients of windows resized to 8×8, in three colourings.

    model: folder with the nine trained files ``ObjNessB2W8{MAXBGR,HSV,I}.{wS1,wS2,idx}.yml.gz``
        (opencv_contrib/modules/saliency/samples/ObjectnessTrainedModel).
    A score is 300/(300 + r) of the r-th box by maximum gradient, a third of that by hue, and a fifth by grey, which
    is how its authors merge the three. OpenCV prints three lines of timing to stdout at each call.
    Raises RecipeError where a file is missing or not of that kind.
    """
    folder = Path(model)
    for space in ("MAXBGR", "HSV", "I"):
        for part in ("wS1", "wS2", "idx"):
            if not (file := folder / f"ObjNessB2W8{space}.{part}.yml.gz").is_file():
                raise RecipeError(f"{file}: no such file; model must be the folder of BING's nine trained files")
    bgr = np.ascontiguousarray(check_pixels(image)[:, :, ::-1])
    detector = _contributed("saliency").ObjectnessBING.create()
    detector.setTrainingPath(str(folder))
    with tempfile.TemporaryDirectory() as scratch:
        detector.setBBResDir(scratch)  # it writes its boxes to a file, by default in the root folder
        try:
            _, found = detector.computeSaliency(bgr)
        except cv2.error as error:
            raise RecipeError(f"{folder}: not BING's trained files: {error.err or error}") from error
    boxes = np.reshape(found, (-1, 4)).astype(np.float32) - (1, 1, 0, 0)  # from 1, with the last pixel inside
    scores = 300 / np.ravel(detector.getobjectnessValues())
    # The colourings propose many of the same windows.
    by_score = np.argsort(-scores, kind="stable")
    first = np.sort(np.unique(boxes[by_score], axis=0, return_index=True)[1])
    return _best(boxes[by_score[first]], scores[by_score[first]], image, top)


def _contributed(module: str) -> Any:
    if not hasattr(cv2, module):
        raise RecipeError(
            f"this OpenCV has no cv2.{module}: pip uninstall opencv-python-headless opencv-python, "
            "then pip install opencv-contrib-python-headless"
        )
    return getattr(cv2, module)


def _corners(boxes: ArrayLike) -> Boxes:
    """OpenCV's (x, y, width, height) as (x1, y1, x2, y2)."""
    rectangles = np.reshape(np.asarray(boxes, np.float32), (-1, 4))
    return np.concatenate([rectangles[:, :2], rectangles[:, :2] + rectangles[:, 2:]], axis=1)


def _best(boxes: NDArray[np.floating], scores: ArrayLike, image: NDArray[np.uint8], top: int) -> Proposals:
    if top < 1:
        raise RecipeError(f"top must be at least 1, not {top}")
    height, width = image.shape[:2]
    values = np.asarray(scores, np.float64)
    order = np.argsort(-values, kind="stable")[:top]
    inside = np.clip(boxes[order], 0, (width, height, width, height))
    return inside.astype(np.float32), values[order].astype(np.float32)


def _sobel_edges(image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """H×W edge strength, at most 1, thinned to ridges, and the direction across the edge in [0, π)."""
    smooth = cv2.GaussianBlur(image, (0, 0), 1.0).astype(np.float32)
    dx, dy = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    strongest = np.hypot(dx, dy).argmax(axis=2, keepdims=True)
    dx, dy = (np.take_along_axis(d, strongest, axis=2)[:, :, 0] for d in (dx, dy))
    strength = np.hypot(dx, dy)
    across = np.arctan2(dy, dx)
    y, x = np.indices(strength.shape, np.float32)
    ridge = np.ones(strength.shape, bool)
    for step in (-1, 1):
        at = x + step * np.cos(across), y + step * np.sin(across)
        ridge &= strength >= cv2.remap(strength, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    edges = strength * ridge / max(float(strength.max()), np.finfo(np.float32).tiny)
    return edges.astype(np.float32), (across % np.pi).astype(np.float32)


def _structured_edges(image: NDArray[np.uint8], model: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """As ``_sobel_edges``, by Dollár & Zitnick's structured forests (PAMI 2015)."""
    forest = _forest(model)
    edges = forest.detectEdges(image.astype(np.float32) / 255)
    across = forest.computeOrientation(edges)
    return forest.edgesNms(edges, across), across


@lru_cache(maxsize=1)
def _forest(model: Path) -> Any:
    if not model.is_file():
        raise RecipeError(f"{model}: no such file; model must be OpenCV's structured-forests model.yml.gz, or None")
    create = _contributed("ximgproc").createStructuredEdgeDetection
    try:
        # Of a file without these OpenCV would make a detector that reads past its arrays.
        storage = cv2.FileStorage()
        storage.open(str(model), cv2.FILE_STORAGE_READ)
        parts = ("options", "childs", "featureIds", "thresholds", "edgeBoundaries", "edgeBins")
        missing = [part for part in parts if storage.getNode(part).empty()]
        storage.release()
        if missing:
            raise RecipeError(f"{model}: not a structured-forests model: it lacks {', '.join(missing)}")
        return create(str(model))
    except cv2.error as error:
        raise RecipeError(f"{model}: not a structured-forests model: {error.err or error}") from error
