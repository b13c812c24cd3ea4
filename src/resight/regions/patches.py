"""Patches of one size for a network pass each: regions cut out, and keypoints' surroundings made upright (§4.1.1)."""

from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from resight.errors import RecipeError
from resight.geometry.regions import Boxes, nms, round_outwards
from resight.regions.hessian_affine import hessian_affine
from resight.regions.pixels import check_pixels

# N×2 xy in pixels; N×2×2, unit circle → the keypoint's outline; strength. Strongest first.
_Keypoints = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]

_BINS = 36
_STABLE = 10  # grey levels over which an extremal region must keep its size; OpenCV's 5 repeats worse across views
_DIVERSE = 0.8  # intersection over union of extremal regions' boxes above which the smaller is the same again


def cut(image: NDArray[np.uint8], boxes: Boxes, side: int) -> NDArray[np.uint8]:
    """R×side×side×3 uint8: each box of an H×W×3 RGB image, whatever its shape, resized to a square.

    boxes: R×4 (x1, y1, x2, y2) in the image's pixels; every pixel that a box touches is taken (``round_outwards``).
    Sides above ``side`` shrink by area, those below grow bilinearly.
    """
    pixels = check_pixels(image)
    _check_side(side)
    patches = np.empty((len(boxes), side, side, 3), np.uint8)
    for patch, (x1, y1, x2, y2) in zip(
        patches, round_outwards(boxes, pixels.shape[1], pixels.shape[0]).tolist(), strict=True
    ):
        smaller = min(x2 - x1, side), min(y2 - y1, side)
        shrunk = cv2.resize(pixels[y1:y2, x1:x2], smaller, interpolation=cv2.INTER_AREA)
        patch[:] = cv2.resize(shrunk, (side, side), interpolation=cv2.INTER_LINEAR)
    return patches


def keypoint_patches(
    image: NDArray[np.uint8],
    detector: Literal["dog", "mser", "hessian-affine"] = "dog",
    *,
    side: int,
    top: int,
    scale: float | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Rectified surroundings of an H×W×3 uint8 RGB image's strongest keypoints, strongest first, ties by position.

    dog: differences of Gaussians with SIFT's orientations (Lowe, IJCV 2004): rotation and scale are undone. One
        outline radius is σ. A point with several orientations has a patch for each.
    mser: maximally stable extremal regions, dark and bright (Matas et al., BMVC 2002), as the ellipses of their
        moments; larger ones count as stronger, as OpenCV does not tell how stable they are. Up to a tenth of the image.
    hessian-affine: see ``hessian_affine``; one outline radius is σ. For this and mser the affine shape is undone, and
        rotation by the strongest gradient direction of the patch.
    scale: half the patch's width in outline radii; by default 6 (12σ, SIFT's window), and 3 for mser.
    Returns patches N×side×side×3 uint8, N ≤ top, which repeat the image's border beyond it; and frames N×2×3 float32:
    patch pixel (u, v) is image pixel frame @ (u, v, 1), both with (0, 0) the centre of the top-left pixel.
    Raises RecipeError for another detector, or a side, top or scale that is not positive.
    """
    pixels = check_pixels(image)
    _check_side(side)
    if detector not in _DETECTORS:
        raise RecipeError(f"detector must be one of {', '.join(_DETECTORS)}, not {detector!r}")
    detect, default_scale, oriented = _DETECTORS[detector]
    scale = default_scale if scale is None else scale
    if top < 1 or not scale > 0:
        raise RecipeError(f"top must be at least 1 and scale positive, not {top} and {scale}")
    xy, shapes, _ = detect(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), top)
    octaves = _octaves(pixels)
    patches = np.empty((len(xy), side, side, 3), np.uint8)
    frames = np.empty((len(xy), 2, 3), np.float32)
    for i, (point, shape) in enumerate(zip(xy, shapes, strict=True)):
        if not oriented:
            upright = _warp(octaves, _frame(point, shape, scale, side), side)
            shape = shape @ _rotation(_dominant_angle(upright))
        frames[i] = frame = _frame(point, shape, scale, side)
        patches[i] = _warp(octaves, frame, side)
    return patches, frames


def _dog(grey: NDArray[np.uint8], top: int) -> _Keypoints:
    found = cv2.SIFT.create().detect(grey, None)
    table = np.array([(*k.pt, k.size, k.angle, k.response) for k in found], np.float64).reshape(-1, 5)
    x, y, diameter, degrees, response = table[np.lexsort((table[:, 3], table[:, 0], table[:, 1], -table[:, 4]))[:top]].T
    turns = np.moveaxis(_rotation(np.deg2rad(degrees)), -1, 0)
    return np.stack([x, y], axis=1), turns * diameter[:, None, None] / 2, response


def _mser(grey: NDArray[np.uint8], top: int) -> _Keypoints:
    # OpenCV's own min_diversity drops stable regions next to ones that it does not report; nms below does its work.
    mser = cv2.MSER.create(delta=_STABLE, min_diversity=0.0, max_area=grey.size // 10)
    found, bounds = mser.detectRegions(grey) if min(grey.shape) >= 3 else ((), ())  # OpenCV refuses smaller images
    regions = [np.asarray(region, np.float64) for region in found]
    areas = np.array([len(region) for region in regions], np.float32)
    centres = np.array([region.mean(axis=0) for region in regions]).reshape(-1, 2)
    order = np.lexsort((centres[:, 0], centres[:, 1], -areas))
    corners = np.reshape(np.asarray(bounds, np.float32), (-1, 4))[order]
    corners[:, 2:] += corners[:, :2]
    order = order[nms(corners, areas[order], _DIVERSE, top)]
    # A pixel is a square, not a point, and spreads by 1/12 about its centre; an ellipse by a quarter of its radii².
    spreads = [np.cov(regions[i].T, bias=True) + np.eye(2) / 12 for i in order]
    lengths, directions = np.linalg.eigh(np.reshape(spreads, (-1, 2, 2)))
    shapes = (directions * 2 * np.sqrt(lengths)[:, None, :]) @ directions.transpose(0, 2, 1)
    return centres[order], shapes, areas[order].astype(np.float64)


# What finds the keypoints, how many outline radii make half a patch, and whether a shape holds its orientation.
_DETECTORS: dict[str, tuple[Callable[[NDArray[np.uint8], int], _Keypoints], float, bool]] = {
    "dog": (_dog, 6.0, True),
    "mser": (_mser, 3.0, False),
    "hessian-affine": (hessian_affine, 6.0, False),
}


def _frame(point: NDArray[np.float64], shape: NDArray[np.float64], scale: float, side: int) -> NDArray[np.float64]:
    """2×3, patch pixels → image pixels: the middle of the patch on the point."""
    turn = shape * (2 * scale / side)
    return np.column_stack([turn, point - turn @ np.full(2, (side - 1) / 2)])


def _octaves(pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """The image and its halvings; pixel (x, y) of the l-th is (2^l x, 2^l y) of the image."""
    octaves = [pixels]
    while min(octaves[-1].shape[:2]) > 1:
        octaves.append(cv2.pyrDown(octaves[-1]))
    return octaves


def _warp(octaves: list[NDArray[np.uint8]], frame: NDArray[np.floating], side: int) -> NDArray[np.uint8]:
    """The side×side patch that a frame shows, from the octave that it shrinks by less than two."""
    shrink = np.sqrt(abs(np.linalg.det(frame[:, :2])))
    octave = int(np.clip(np.floor(np.log2(shrink)), 0, len(octaves) - 1))
    return np.asarray(
        cv2.warpAffine(
            octaves[octave],
            np.asarray(frame, np.float64) / 2**octave,
            (side, side),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
    )


def _dominant_angle(patch: NDArray[np.uint8]) -> float:
    """Radians from x to y of the strongest gradients' direction, by Lowe's histogram of 36 bins (IJCV 2004, §5)."""
    side = len(patch)
    grey = cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY).astype(np.float32)
    dx, dy = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    bell = cv2.getGaussianKernel(side, side / 6)
    bins = np.arctan2(dy, dx) * (_BINS / (2 * np.pi))
    low = np.floor(bins).astype(int)
    votes = np.hypot(dx, dy) * (bell @ bell.T)
    histogram = np.zeros(_BINS)
    # Shared between the two bins on either side, so that the peak moves smoothly with the patch.
    np.add.at(histogram, low % _BINS, votes * (low + 1 - bins))
    np.add.at(histogram, (low + 1) % _BINS, votes * (bins - low))
    smooth = np.convolve(np.pad(histogram, 2, mode="wrap"), (1, 4, 6, 4, 1), mode="valid")
    peak = int(np.argmax(smooth))
    before, at, after = (smooth[(peak + k) % _BINS] for k in (-1, 0, 1))
    bend = before - 2 * at + after
    return float((peak + ((before - after) / (2 * bend) if bend < 0 else 0)) * 2 * np.pi / _BINS)


def _rotation(angle: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """2×2, or 2×2×N for N angles: turns x towards y, which in an image is clockwise."""
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _check_side(side: int) -> None:
    if side < 1:
        raise RecipeError(f"side must be at least 1 pixel, not {side}")
