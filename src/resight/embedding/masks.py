"""Which cells of a feature map to aggregate (survey §4.2.1; Hoang et al., ACM MM 2017, "Selective Deep Convolutional
Features for Image Retrieval", §3.2). Their features then go to any embedding of sets.
"""

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def sift_mask(shape: tuple[int, int], keypoints: NDArray[np.floating], size: tuple[int, int]) -> Mask:
    """H×W bool: cells with at least one keypoint.

    shape: (H, W) of the map. keypoints: N×2 (x, y) in pixels of the image that was described, (0, 0) the centre of its
    first; those outside count for the nearest border cell. size: (width, height) of that image.
    Raises ValueError for keypoints of another shape or a size below 1.
    """
    if keypoints.ndim != 2 or keypoints.shape[1] != 2 or min(size) < 1:
        raise ValueError(f"keypoints must be N×2 in an image of at least 1×1, not {keypoints.shape} in {size}")
    height, width = shape
    cells = np.floor((keypoints + 0.5) * (width / size[0], height / size[1])).astype(np.int64)
    x, y = np.clip(cells, 0, (width - 1, height - 1)).T
    mask = np.zeros(shape, np.bool_)
    mask[y, x] = True
    return mask


def sum_mask(x: NDArray[np.floating]) -> Mask:
    """C×H×W to H×W bool: cells whose sum over channels is at least the median of these sums."""
    sums = _checked(x).sum(axis=0, dtype=np.float64)
    return np.asarray(sums >= np.median(sums))


def max_mask(x: NDArray[np.floating]) -> Mask:
    """C×H×W to H×W bool: cells where some channel has its maximum, the first by row and column if several have it.

    A channel that is the same everywhere, such as a dead one after a ReLU, marks none: ours, the paper leaves it open.
    """
    flat = _checked(x).reshape(len(x), -1)
    mask = np.zeros(flat.shape[1], np.bool_)
    mask[flat.argmax(axis=1)[flat.max(axis=1) > flat.min(axis=1)]] = True
    return mask.reshape(x.shape[1:])


def select(x: NDArray[np.floating], mask: Mask) -> NDArray[np.floating]:
    """C×H×W and H×W to n×C: the features of the cells that the mask holds, by row and column; the dtype of x.

    Raises ValueError where the two do not fit.
    """
    if mask.shape != _checked(x).shape[1:] or mask.dtype != np.bool_:
        raise ValueError(f"mask must be bool of shape {x.shape[1:]}, not {mask.dtype} of {mask.shape}")
    return np.ascontiguousarray(x[:, mask].T)


def _checked(x: NDArray[np.floating]) -> NDArray[np.floating]:
    if x.ndim != 3 or 0 in x.shape:
        raise ValueError(f"x must be C×H×W with none of them 0, not {x.shape}")
    return x
