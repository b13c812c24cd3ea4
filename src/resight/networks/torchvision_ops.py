"""Makes torchvision, and so timm, importable where its compiled operators do not fit the installed torch.

torchvision's wheel on PyPI is built for CUDA. Beside a CPU-only torch its extension fails to load, and the
import then dies with "operator torchvision::nms does not exist". There we declare those operators and put
plain PyTorch behind them. Where the extension loads, nothing is touched.
"""

import importlib
import math
import sys
from functools import cache
from typing import Any

import torch
from torch import Tensor

from resight.errors import RecipeError


@cache
def ensure_torchvision() -> None:
    """Import torchvision, with our operators only if the compiled ones do not load; call it before timm.

    Afterwards ``torchvision.ops.nms`` and ``torchvision.ops.roi_align`` work either way. Raises RecipeError
    where torchvision is not installed.
    """
    try:
        importlib.import_module("torchvision")
    except ImportError as error:
        raise RecipeError(f"{error}: a network needs it: pip install 'resight[deep]'") from error
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        _register()
        importlib.import_module("torchvision")
        # nms and roi_align ask these before they call the operators. They must say no during the import,
        # which would otherwise go on to register gradients for operators that do not exist.
        for name in ("torchvision.extension", "torchvision.ops.roi_align"):
            vars(sys.modules[name])["_has_ops"] = lambda: True


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes that non-maximum suppression keeps, best score first; ties in the given order.

    boxes: N×4 (x1, y1, x2, y2). scores: (N,). A box goes if its intersection over union with a better one
    that was kept is above ``iou_threshold``. Returns (K,) int64.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    boxes = boxes[order].to(torch.float64)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    alive = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    for i in range(len(boxes)):
        if alive[i]:
            corner = torch.maximum(boxes[i, :2], boxes[i + 1 :, :2])
            sides = (torch.minimum(boxes[i, 2:], boxes[i + 1 :, 2:]) - corner).clamp(min=0)
            overlap = sides.prod(dim=1)
            alive[i + 1 :] &= ~(overlap > iou_threshold * (area[i] + area[i + 1 :] - overlap))
    return order[alive]


def roi_align(
    features: Tensor,
    rois: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """RoIAlign with average pooling (He et al., Mask R-CNN, 2017, §3); differentiable in ``features``.

    features: B×C×H×W. rois: K×5 (batch index, x1, y1, x2, y2); ``spatial_scale`` takes pixels to the map.
    sampling_ratio: bilinear samples per bin along each axis; 0 or less takes ⌈RoI side / bins⌉.
    aligned: shift by half a cell, so that cell centres are at integers + ½ (Detectron2); else the RoI is at
        least one cell wide and high.
    Returns K×C×pooled_height×pooled_width.
    """
    height, width = features.shape[2:]
    out = features.new_zeros(len(rois), features.shape[1], pooled_height, pooled_width)
    offset = 0.5 if aligned else 0.0
    for k, (index, *corners) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (c * spatial_scale - offset for c in corners)
        if not aligned:
            x2, y2 = max(x2, x1 + 1), max(y2, y1 + 1)
        # The samples of a bin are a grid, so their bilinear weights are the product of one matrix an axis.
        rows = _axis_weights(y1, y2, pooled_height, sampling_ratio, height).to(features)
        columns = _axis_weights(x1, x2, pooled_width, sampling_ratio, width).to(features)
        out[k] = rows @ features[int(index)] @ columns.T
    return out


def _axis_weights(start: float, end: float, bins: int, sampling_ratio: int, size: int) -> Tensor:
    """bins×size float64: each bin's mean of linear interpolation at its samples along one axis."""
    step = (end - start) / bins
    samples = sampling_ratio if sampling_ratio > 0 else math.ceil(step)
    weights = torch.zeros(bins, size, dtype=torch.float64)
    for i in range(bins):
        for j in range(samples):
            at = start + step * (i + (j + 0.5) / samples)
            # A sample just outside takes the border's value; one further out counts as zero.
            if -1.0 <= at <= size:
                at = min(max(at, 0.0), size - 1.0)
                low = min(int(at), size - 1)
                weights[i, low] += (low + 1 - at) / samples
                weights[i, min(low + 1, size - 1)] += (at - low) / samples
    return weights


def _register() -> None:
    library = _library()
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define(
        "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, "
        "SymInt pooled_width, int sampling_ratio, bool aligned) -> Tensor"
    )
    # Not "Implicit": torchvision adds fake (shape-only) kernels of its own to nms and qnms.
    library.impl("nms", nms, "CompositeExplicitAutograd")
    library.impl("qnms", nms, "CompositeExplicitAutograd")
    library.impl("roi_align", roi_align, "CompositeImplicitAutograd")


@cache
def _library() -> Any:
    """Kept for the life of the process: operators vanish with the Library object that defined them."""
    return torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
