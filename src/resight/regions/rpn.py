"""Region proposals from a trained network: the RPN of torchvision's Faster R-CNN (§4.1.1; Ren et al., NIPS 2015)."""

import importlib
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from resight.errors import RecipeError
from resight.geometry.regions import Boxes
from resight.networks.torchvision_ops import ensure_torchvision
from resight.networks.weights import load_into, load_state, read_batchnorm_eps, set_batchnorm_eps
from resight.regions.pixels import check_pixels

# ε of batch normalisation in the published checkpoints: torchvision sets 0 for the first, which was converted from
# Detectron's frozen layers, and leaves its own for the second.
_EPS = {"fasterrcnn_resnet50_fpn": 0.0, "fasterrcnn_resnet50_fpn_v2": 1e-5}


class Rpn:
    """The transform, backbone and RPN of a trained Faster R-CNN; its detection head is not loaded.

    weights: a checkpoint of the network ``name``, for any number of classes, as ``load_state`` reads. A
        ``meta.json`` beside it may give its ``bn_eps``.
    min_size, max_size: the image is resized so that its short side has min_size pixels, or less where its long one
        would exceed max_size. nms_threshold: intersection over union above which the worse of two boxes of one
        pyramid level goes.
    Raises RecipeError where the name is another, or the weights cannot be had or do not fit.
    """

    def __init__(
        self,
        weights: str | Path,
        *,
        name: Literal["fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2"] = "fasterrcnn_resnet50_fpn",
        min_size: int = 800,
        max_size: int = 1333,
        nms_threshold: float = 0.7,
        device: str | torch.device = "cpu",
    ) -> None:
        if name not in _EPS:
            raise RecipeError(f"the region proposal network is of {' or '.join(_EPS)}, not {name!r}")
        state, eps = load_state(weights), read_batchnorm_eps(weights)
        ensure_torchvision()
        detection = importlib.import_module("torchvision.models.detection")
        model = getattr(detection, name)(
            weights=None, weights_backbone=None, min_size=min_size, max_size=max_size, rpn_nms_thresh=nms_threshold
        )
        self._transform, self._backbone, self._rpn = model.transform, model.backbone, model.rpn
        network = nn.ModuleDict({"backbone": model.backbone, "rpn": model.rpn})
        kept = {_renamed(key): tensor for key, tensor in state.items() if key.partition(".")[0] in network}
        load_into(network, kept, weights)
        set_batchnorm_eps(network, _EPS[name] if eps is None else eps)
        model.eval().requires_grad_(False)
        network.to(device)
        self._device = torch.device(device)

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.uint8], top: int) -> tuple[Boxes, NDArray[np.float32]]:
        """Boxes R×4 float32 (x1, y1, x2, y2) in the pixels of an H×W×3 uint8 RGB image, and objectness in [0, 1].

        Best first, at most ``top``, and at most the 1000 that torchvision keeps.
        """
        if top < 1:
            raise RecipeError(f"top must be at least 1, not {top}")
        pixels = torch.tensor(check_pixels(image), device=self._device).permute(2, 0, 1).float() / 255
        images, _ = self._transform([pixels])
        boxes, scores = self._propose(images)
        (height, width), (resized_height, resized_width) = image.shape[:2], images.image_sizes[0]
        scale = np.array([width / resized_width, height / resized_height] * 2)
        found = np.clip(boxes[:top].cpu().numpy() * scale, 0, (width, height, width, height))
        return found.astype(np.float32), scores[:top].cpu().numpy()

    def _propose(self, images: Any) -> tuple[Tensor, Tensor]:
        """What the RPN's forward() does for one image in evaluation; that keeps the scores to itself."""
        flatten = importlib.import_module("torchvision.models.detection.rpn").concat_box_prediction_layers
        maps = list(self._backbone(images.tensors).values())
        objectness, deltas = self._rpn.head(maps)
        counts = [level[0].numel() for level in objectness]
        anchors = self._rpn.anchor_generator(images, maps)
        objectness, deltas = flatten(objectness, deltas)
        decoded = self._rpn.box_coder.decode(deltas, anchors).view(1, -1, 4)
        boxes, scores = self._rpn.filter_proposals(decoded, objectness, images.image_sizes, counts)
        return boxes[0], scores[0]


def _renamed(name: str) -> str:
    """torchvision's published checkpoints have older names than its networks."""
    name = re.sub(r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1", name)
    return re.sub(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2", name)
