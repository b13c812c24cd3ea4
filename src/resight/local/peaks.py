"""Sub-pixel peaks of a score map: DKD, the detector of ALIKE (Zhao et al., IEEE TMM 2022) and of ALIKED."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_RADIUS = 2  # half-width of its window in pixels


def soft_peaks(
    scores: NDArray[np.float32], threshold: float, top: int, *, temperature: float = 0.1
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """xy N×2 (sub-pixel) and values (N,) of an H×W score map's strongest ``top`` peaks above ``threshold``.

    A peak is the largest of its 5×5 window once what lies around larger peaks is taken out, not within 2 pixels of
    the border. Its position is the mean of the window's under softmax(score / temperature), ALIKE's soft-argmax, whose
    temperature is 0.1; of logarithms of likelihoods at 1 it is their mean position. Strongest first, ties by (y, x).
    """
    y, x = np.nonzero(_peaks(scores) & (scores > threshold))
    strongest = np.argsort(-scores[y, x], kind="stable")[:top]
    y, x = y[strongest], x[strongest]
    step = np.arange(-_RADIUS, _RADIUS + 1)
    windows = scores[y[:, None, None] + step[:, None], x[:, None, None] + step]
    share = np.exp((windows - scores[y, x, None, None]) / temperature)
    share /= share.sum(axis=(1, 2), keepdims=True)
    xy = np.column_stack([x + share.sum(axis=1) @ step, y + share.sum(axis=2) @ step])
    return xy.astype(np.float32), scores[y, x]


def _peaks(scores: NDArray[np.float32]) -> NDArray[np.bool_]:
    """H×W bool: what is left of an H×W map by three rounds of non-maximum suppression, without its border."""

    def around(values: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(cv2.dilate(values, np.ones((2 * _RADIUS + 1,) * 2, np.uint8)))

    peaks = scores == around(scores)
    for _ in range(2):
        near = around(peaks.astype(np.uint8)) > 0
        rest = np.where(near, np.float32(-np.inf), scores)
        peaks |= (rest == around(rest)) & ~near
    inside = np.zeros_like(peaks)
    inside[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS] = True
    return np.asarray(peaks & inside)
