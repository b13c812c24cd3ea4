"""Affine-covariant blobs: maxima of the Hessian's determinant over scale, given the shape of their surroundings.

Mikolajczyk & Schmid, IJCV 2004; Beaudet's determinant rather than Harris's corners as in Mikolajczyk et al., IJCV
2005. The shape is iterated at the detected position and scale, which are not searched again (Perdoch, Chum & Matas,
CVPR 2009, do likewise).
"""

from bisect import bisect_right

import cv2
import numpy as np
from numpy.typing import NDArray

_FINEST, _PER_OCTAVE = 1.6, 3  # σ of the smallest blobs, in pixels, and levels to each doubling
_CAMERA = 0.5  # σ that a photograph is taken to have already
_FLOOR = 1e-5  # of the response, for intensities in [0, 1]: a blob of about 1 % contrast
_RADIUS, _STEPS = 6, 3  # half-width of the window for the shape in σ, and its samples to a σ
_ITERATIONS, _CONVERGED, _MOST_ANISOTROPIC = 16, 0.95, 6.0


def hessian_affine(
    grey: NDArray[np.uint8], top: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """xy N×2 (pixels), shapes N×2×2 and responses (N,), all float64, of the ``top`` strongest blobs of an H×W image.

    A shape is symmetric and maps the unit circle to the blob's ellipse at one σ: for a Gaussian blob of covariance Σ
    it is Σ^½. Strongest first, ties by position. Blobs whose shape does not settle in 16 steps, or is longer than 6
    times its width, are no blobs.
    """
    image = grey.astype(np.float32) / 255
    sigmas = _sigmas(min(grey.shape))
    levels = np.stack([cv2.GaussianBlur(image, (0, 0), np.sqrt(sigma**2 - _CAMERA**2)) for sigma in sigmas])
    points, sigma, response = _maxima(levels, sigmas)
    views, blurs = [image, *levels], [_CAMERA, *sigmas]
    order = np.lexsort((points[:, 0], points[:, 1], -response))
    found, shapes = [], []
    for i in order:
        # Blur that is round in the image makes shapes rounder, so little of it: half the distance of the samples.
        view = max(0, bisect_right(blurs, sigma[i] / (2 * _STEPS)) - 1)
        shape = _adapt(views[view], points[i], sigma[i])
        if shape is not None:
            found.append(i)
            shapes.append(shape)
            if len(found) == top:
                break
    return points[found], np.reshape(shapes, (-1, 2, 2)), response[found]


def _sigmas(side: int) -> NDArray[np.float64]:
    """σ of the levels, in pixels; the coarsest blob would fill an image whose shorter side is given."""
    octaves = max(1.0, np.log2(side / (4 * _FINEST)))
    return np.asarray(_FINEST * 2 ** (np.arange(-1, int(octaves * _PER_OCTAVE) + 2) / _PER_OCTAVE))


def _maxima(
    levels: NDArray[np.float32], sigmas: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """xy N×2, σ (N,) and response (N,) of the maxima of σ⁴·det Hessian among 26 neighbours, off the border."""
    padded = np.pad(levels, ((0, 0), (1, 1), (1, 1)), mode="edge")
    xx = padded[:, 1:-1, 2:] - 2 * levels + padded[:, 1:-1, :-2]
    yy = padded[:, 2:, 1:-1] - 2 * levels + padded[:, :-2, 1:-1]
    xy = (padded[:, 2:, 2:] - padded[:, 2:, :-2] - padded[:, :-2, 2:] + padded[:, :-2, :-2]) / 4
    response = (xx * yy - xy * xy) * sigmas.astype(np.float32)[:, None, None] ** 4
    around = np.stack([cv2.dilate(level, np.ones((3, 3), np.uint8)) for level in response])
    peak = (response[1:-1] == around[1:-1]) & (response[1:-1] > around[:-2]) & (response[1:-1] > around[2:])
    peak[:, [0, -1]] = peak[:, :, [0, -1]] = False
    k, y, x = np.nonzero(peak & (response[1:-1] > _FLOOR))
    k += 1
    here = np.stack([k, y, x], axis=1)
    steps = _newton(response, here)
    sigma = sigmas[0] * 2 ** ((k + steps[:, 0]) / _PER_OCTAVE)
    return (here + steps)[:, :0:-1], sigma, response[k, y, x].astype(np.float64)


def _newton(volume: NDArray[np.floating], at: NDArray[np.int64]) -> NDArray[np.float64]:
    """N×3: from N interior cells, the way to the vertex of the quadratic through their neighbours, a cell at most."""
    unit = np.eye(3, dtype=np.int64)

    def value(step: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(volume[tuple((at + step).T)], np.float64)

    def bend(e: NDArray[np.int64], f: NDArray[np.int64]) -> NDArray[np.float64]:
        if np.array_equal(e, f):
            return value(e) - 2 * value(0 * e) + value(-e)
        return (value(e + f) - value(e - f) - value(f - e) + value(-e - f)) / 4

    slopes = np.stack([value(e) - value(-e) for e in unit], axis=-1) / 2
    bends = np.stack([np.stack([bend(e, f) for f in unit], axis=-1) for e in unit], axis=-1)
    step = -np.einsum("nij,nj->ni", np.linalg.pinv(bends, hermitian=True), slopes)
    return np.asarray(np.clip(step, -1, 1))


def _adapt(view: NDArray[np.float32], point: NDArray[np.float64], sigma: float) -> NDArray[np.float64] | None:
    """The symmetric 2×2 shape of determinant σ² in whose frame gradients have no preferred direction, or None.

    Smoothing and window are round in the normalised frame, not in the image: so the true shape is a fixed point.
    """
    half = _RADIUS * _STEPS
    axis = np.arange(-half, half + 1) / _STEPS
    # The root of a Gaussian of 2σ, as it multiplies each of the two slopes whose product is summed.
    window = np.exp(-(axis[:, None] ** 2 + axis**2) / (4 * (_RADIUS / 3) ** 2)).ravel()
    shape = np.eye(2)
    for _ in range(_ITERATIONS):
        frame = np.empty((2, 3))
        frame[:, :2] = shape * sigma / _STEPS
        frame[:, 2] = point - frame[:, :2] @ (half, half)
        size = (2 * half + 1, 2 * half + 1)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        patch = cv2.warpAffine(view, frame, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
        smooth = cv2.GaussianBlur(patch, (0, 0), 0.7 * _STEPS)
        slopes = window * [cv2.Sobel(smooth, cv2.CV_32F, 1, 0).ravel(), cv2.Sobel(smooth, cv2.CV_32F, 0, 1).ravel()]
        moments = slopes @ slopes.T
        spread, axes = np.linalg.eigh(moments)
        if spread[0] <= 0:
            return None
        if spread[0] > _CONVERGED * spread[1]:
            lengths, directions = np.linalg.eigh(shape @ shape.T)
            return np.asarray(sigma * (directions * np.sqrt(lengths)) @ directions.T)
        shape = shape @ (axes / np.sqrt(spread)) @ axes.T
        shape /= np.sqrt(np.linalg.det(shape))
        if np.linalg.cond(shape) > _MOST_ANISOTROPIC:
            return None
    return None
