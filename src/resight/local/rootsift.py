"""RootSIFT: OpenCV's DoG keypoints and SIFT descriptors, ℓ1-normalised and square-rooted.

Lowe, IJCV 2004; Arandjelović & Zisserman, CVPR 2012. Descriptors are stored as uint8: a unit vector times `UNIT`,
rounded; a component above 255/512 is clipped.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from resight.images.image import Image
from resight.local.features import LocalFeatures

UNIT = 512.0


def root(sift: NDArray[np.float32]) -> NDArray[np.uint8]:
    """N×D non-negative SIFT descriptors → N×D uint8 RootSIFT; all-zero rows stay zero."""
    unit = np.sqrt(sift / np.maximum(sift.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny))
    return np.asarray(np.minimum(np.round(unit * UNIT), 255), np.uint8)


def rootsift(image: Image, *, max_features: int, contrast_threshold: float, edge_threshold: float) -> LocalFeatures:
    """The strongest `max_features` RootSIFT features of an image, at the size its pixels have.

    contrast_threshold, edge_threshold: as in Lowe's paper, in OpenCV's units. Ties in strength keep the detector's
    order.
    """
    grey = cv2.cvtColor(np.ascontiguousarray(image.pixels), cv2.COLOR_RGB2GRAY)
    sift = cv2.SIFT.create(nfeatures=max_features, contrastThreshold=contrast_threshold, edgeThreshold=edge_threshold)
    keypoints, descriptors = sift.detectAndCompute(grey, None)
    if not keypoints:
        none = np.empty(0, np.float32)
        return LocalFeatures(np.empty((0, 2), np.float32), none, none, none, np.empty((0, 128), np.uint8))
    table = np.array([(*k.pt, k.size, k.angle, k.response) for k in keypoints], np.float32)
    strongest = np.argsort(-table[:, 4], kind="stable")[:max_features]
    table = table[strongest]
    sx, sy = image.scale
    return LocalFeatures(
        image.original_xy(table[:, :2]).astype(np.float32),
        (table[:, 2] / np.sqrt(sx * sy)).astype(np.float32),
        np.deg2rad(table[:, 3]) % np.float32(2 * np.pi),
        table[:, 4],
        root(descriptors[strongest]),
    )
