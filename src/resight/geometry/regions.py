"""Where to look in a picture without looking at it: rigid grids, pyramids, windows; and thinning them (§4.1.1, Fig. 4).

Boxes are R×4 float32 (x1, y1, x2, y2) inside width×height, x2 and y2 exclusive, in a fixed order. The unit is
whatever width and height are given in: pixels for a pass a region, feature-map cells for one pass in all. Edges may
fall between cells; ``round_outwards`` then gives the cells to slice.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from resight.errors import RecipeError

Boxes = NDArray[np.float32]


def rigid_grid(
    width: int,
    height: int,
    levels: int,
    *,
    variant: Literal["paper", "cirtorch"] = "paper",
    whole: bool | None = None,
) -> Boxes:
    """The R-MAC grid (Tolias, Sicre & Jégou, ICLR 2016, §3.2), ordered by level, row and column.

    At level l = 1 … levels, squares of side 2·min(W, H)/(l+1) lie evenly from border to border, l along the short
    side and l+m-1 along the long one. m is 1 for a square, else the number of largest squares, two at least, whose
    neighbours overlap by as near 40 % as can be; the fewer where two numbers are as near. Only the largest squares
    are sure to overlap: in long images the smaller ones can leave gaps.

    variant: ``cirtorch`` gives the regions of ``rmac()`` in filipradenovic/cnnimageretrieval-pytorch, on which
        published networks were trained. It differs from ``paper`` so: sides and corners are rounded down to whole
        cells, so a level can stop short of the far border; m is at most 7, so very long maps have gaps; which m wins
        a tie is left to float32; and levels whose side is below one cell are left out.
    whole: put the whole image before the squares. By default no for ``paper`` and yes for ``cirtorch``, as theirs.
    Raises RecipeError for a number below one or another variant.
    """
    _check_positive(width=width, height=height, levels=levels)
    if variant not in ("paper", "cirtorch"):
        raise RecipeError(f"variant must be 'paper' or 'cirtorch', not {variant!r}")
    exact = variant == "paper"
    short, long = min(width, height), max(width, height)
    extra = _extra(short, long) if exact else _cirtorch_extra(short, long)
    along = _even if exact else _cirtorch_even
    include_whole = not exact if whole is None else whole
    boxes = [np.array([[0, 0, width, height]], np.float32)] if include_whole else []
    for level in range(1, levels + 1):
        side = 2 * short / (level + 1) if exact else 2 * short // (level + 1)
        if side > 0:
            xs = along(width, side, level + extra * (width > height))
            ys = along(height, side, level + extra * (height > width))
            boxes.append(_windows(xs, ys, side, side))
    return np.concatenate([np.empty((0, 4), np.float32), *boxes])


def spatial_pyramid(width: int, height: int, cells: Sequence[int] = (1, 2, 4)) -> Boxes:
    """n×n equal cells for each n of ``cells`` (Lazebnik, Schmid & Ponce, CVPR 2006), by level, row and column.

    The cells of a level share their edges and so partition the image. ``round_outwards`` of them are the bins of
    adaptive pooling (He et al., SPP-net, 2014). Raises RecipeError for a number below one or no levels.
    """
    _check_positive(width=width, height=height, **{f"cells[{i}]": n for i, n in enumerate(cells)})
    if not cells:
        raise RecipeError("cells must name at least one level, such as (1, 2, 4)")
    boxes = []
    for n in cells:
        x, y = np.arange(n + 1) * width / n, np.arange(n + 1) * height / n
        y1, x1 = np.meshgrid(y[:-1], x[:-1], indexing="ij")
        y2, x2 = np.meshgrid(y[1:], x[1:], indexing="ij")
        boxes.append(np.stack([x1, y1, x2, y2], axis=-1).reshape(-1, 4))
    return np.concatenate(boxes).astype(np.float32)


def dense_windows(width: int, height: int, side: int, stride: int) -> Boxes:
    """side×side windows every ``stride``, by row and column; the last ones end at the far borders, so all is seen.

    A window is cut to a width or height below ``side``; a side above both gives the whole image. MOP-CNN (Gong et
    al., ECCV 2014) takes images of 256×256 pixels and the sides 256, 128 and 64 at stride 32: 1, 25 and 49 windows.
    Raises RecipeError for a number below one.
    """
    _check_positive(width=width, height=height, side=side, stride=stride)
    xs, ys = (np.append(np.arange(0, end, stride), end) for end in (max(0, width - side), max(0, height - side)))
    return _windows(xs, ys, min(side, width), min(side, height))


def round_outwards(boxes: NDArray[np.floating], width: int, height: int) -> NDArray[np.int64]:
    """R×4 int64: every cell of width×height that a box touches, one at least in each direction.

    ``map[y1:y2, x1:x2]`` is then the region. Parts of a box outside width×height are cut off.
    """
    first = np.clip(np.floor(boxes[:, :2]), 0, (width - 1, height - 1))
    last = np.clip(np.ceil(boxes[:, 2:]), first + 1, (width, height))
    return np.concatenate([first, last], axis=1).astype(np.int64)


def nms(boxes: Boxes, scores: NDArray[np.float32], threshold: float, top: int | None = None) -> NDArray[np.int64]:
    """Indices of the boxes that greedy non-maximum suppression keeps, best score first; ties in the given order.

    boxes: R×4. scores: (R,). A box goes if its intersection over union with a better one that was kept is above
    ``threshold``. top: stop after so many. The rule is that of ``networks.torchvision_ops.nms``, for proposals that
    know no torch. cv2.dnn.NMSBoxes would not do: it measures overlap in float32, which moves boxes at the threshold.
    Raises ValueError for other shapes.
    """
    if boxes.shape != (len(scores), 4) or scores.ndim != 1:
        raise ValueError(f"boxes must be R×4 and scores (R,), not {boxes.shape} and {scores.shape}")
    left = np.argsort(-scores, kind="stable")
    x1, y1, x2, y2 = corners = boxes[left].T.astype(np.float64, order="C")
    area = (x2 - x1) * (y2 - y1)
    kept: list[int] = []
    while len(left) and (top is None or len(kept) < top):
        kept.append(int(left[0]))
        x1, y1, x2, y2 = corners
        width = np.minimum(x2, x2[0]) - np.maximum(x1, x1[0])
        height = np.minimum(y2, y2[0]) - np.maximum(y1, y1[0])
        overlap = np.maximum(width, 0) * np.maximum(height, 0)
        stay = overlap <= threshold * (area[0] + area - overlap)
        stay[0] = False
        left, corners, area = left[stay], corners[:, stay], area[stay]
    return np.array(kept, np.int64)


def _windows(xs: NDArray[np.floating], ys: NDArray[np.floating], width: float, height: float) -> Boxes:
    """Boxes of one size with their top left corners at every (x, y), row by row."""
    y, x = np.meshgrid(ys, xs, indexing="ij")
    return np.stack([x, y, x + width, y + height], axis=-1).reshape(-1, 4).astype(np.float32)


def _extra(short: int, long: int) -> int:
    """m - 1, in exact arithmetic: the number k of steps whose overlap 1 - (long - short)/(k·short) is nearest 2/5."""
    if long == short:
        return 0
    fewer = max(1, 5 * (long - short) // (3 * short))
    return min((fewer, fewer + 1), key=lambda k: abs(Fraction(long - short, k * short) - Fraction(3, 5)))


def _even(length: int, side: float, count: int) -> NDArray[np.floating]:
    return np.linspace(0, length - side, count)


def _cirtorch_extra(short: int, long: int) -> int:
    if long == short:
        return 0
    square = np.float32(short * short)
    shift = np.float32(long - short) / np.arange(1, 7, dtype=np.float32)
    return 1 + int(np.argmin(np.abs((square - np.float32(short) * shift) / square - np.float32(0.4))))


def _cirtorch_even(length: int, side: float, count: int) -> NDArray[np.floating]:
    # It adds half a side before rounding down and takes it off after: no change but to what float32 rounds away.
    half = np.float32(side // 2 - 1)
    step = np.float32((length - side) / max(count - 1, 1))
    return np.asarray(np.floor(half + np.arange(count, dtype=np.float32) * step) - half)


def _check_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise RecipeError(f"{name} must be at least 1, not {number}")
