"""Our own compact network: from one trunk a global descriptor, keypoints and their descriptors.

Ordinary 3×3 convolutions, few channels where the map is large: on a CPU they are faster than as many depthwise ones.
The local side fuses strides 8, 16 and 32 at stride 8, and keypoints come from a branch of its own that sees only the
pixels of its cell and its neighbours, as in XFeat (Potje et al., CVPR 2024; its code is modules/model.py of
verlab/accelerated_features). The 65 logits of a cell are SuperPoint's (DeTone et al., CVPR Workshops 2018).
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from resight.artefact import load_artefact, save_artefact
from resight.errors import RecipeError
from resight.networks.weights import load_into

CELL = 8  # pixels a side
_KIND = "compact"
_WIDTHS = (32, 64, 128, 256)  # at strides 4, 8, 16, 32
_COARSE, _EMBEDDING, _LOCAL = 512, 256, 64


@dataclass(frozen=True, eq=False)
class CompactMaps:
    """What the network makes of B pictures.

    local: B×64×H/8×W/8, unit length over channels. keypoints: B×65×H/8×W/8 logits: the 64 pixels of a cell by row,
    then "none". reliability: B×1×H/8×W/8 logits. coarse: B×512×H/32×W/32, not negative, what is pooled.
    """

    local: Tensor
    keypoints: Tensor
    reliability: Tensor
    coarse: Tensor


class Compact(nn.Module):
    """The network, with random parameters.

    multiple: of which the sides of pictures must be multiples; for the global side alone any size will do.
    """

    multiple: ClassVar[int] = 32
    pretrained_cfg: ClassVar[dict[str, Any]] = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}

    def __init__(self) -> None:
        super().__init__()
        w4, w8, w16, w32 = _WIDTHS
        self.stem = ConvBlock(3, 16, stride=2)
        self.stages = nn.Sequential(_stage(16, w4, 1), _stage(w4, w8, 2), _stage(w8, w16, 2), _stage(w16, w32, 2))
        self.expand = ConvBlock(w32, _COARSE, window=1)
        self.lateral = nn.ModuleList(ConvBlock(width, _LOCAL, window=1, active=False) for width in (w8, w16, w32))
        self.fuse = nn.Sequential(ConvBlock(_LOCAL, _LOCAL), nn.Conv2d(_LOCAL, _LOCAL, 1))
        self.rely = nn.Sequential(ConvBlock(_LOCAL, _LOCAL // 2, window=1), nn.Conv2d(_LOCAL // 2, 1, 1))
        self.cells = nn.Sequential(
            ConvBlock(CELL**2, 64), ConvBlock(64, 64), ConvBlock(64, 64, window=1), nn.Conv2d(64, CELL**2 + 1, 1)
        )
        self.p = nn.Parameter(torch.tensor(3.0))
        self.embedding = nn.Linear(_COARSE, _EMBEDDING)

    def forward(self, images: Tensor) -> CompactMaps:
        """images: B×3×H×W RGB in [0, 1], float32. Raises ValueError unless its sides are multiples of 32."""
        if images.ndim != 4 or images.shape[1] != 3 or any(side % self.multiple for side in images.shape[2:]):
            raise ValueError(f"images must be B×3×H×W with sides in multiples of 32, not {tuple(images.shape)}")
        x = (images - self.pretrained_cfg["mean"][0]) / self.pretrained_cfg["std"][0]
        keypoints = self.cells(F.pixel_unshuffle(x.mean(dim=1, keepdim=True), CELL))
        x = self.stages[0](self.stem(x))
        levels = []
        for stage in list(self.stages)[1:]:
            x = stage(x)
            levels.append(x)
        size = levels[0].shape[2:]
        fused = self.lateral[0](levels[0])
        for lateral, level in zip(list(self.lateral)[1:], levels[1:], strict=True):
            fused = fused + F.interpolate(lateral(level), size=size, mode="bilinear", align_corners=False)
        fused = F.relu(fused)
        return CompactMaps(F.normalize(self.fuse(fused), dim=1), keypoints, self.rely(fused), self.expand(x))

    def embed(self, coarse: Tensor) -> Tensor:
        """B×256, unit length, of ``CompactMaps.coarse``: GeM (Radenović et al. 2019) with a learned p, and a matrix."""
        p = self.p.clamp(1, 20)
        pooled = coarse.clamp(min=1e-6).pow(p).mean(dim=(2, 3)).pow(1 / p)
        return F.normalize(self.embedding(pooled), dim=1)

    def forward_features(self, x: Tensor) -> Tensor:
        """``CompactMaps.coarse``, of pictures of any size, normalised by ``pretrained_cfg``'s mean and std."""
        return self.expand(self.stages(self.stem(x)))  # type: ignore[no-any-return]

    def forward_head(self, x: Tensor, pre_logits: bool = True) -> Tensor:
        """``embed``, under the name that timm's networks give the last of their halves."""
        return self.embed(x)

    def folded(self) -> "Compact":
        """A frozen copy for inference, its batch normalisations folded into the convolutions before them."""
        made = copy.deepcopy(self).eval()
        for module in made.modules():
            if isinstance(module, ConvBlock) and isinstance(module.norm, nn.BatchNorm2d):
                module.conv, module.norm = fuse_conv_bn_eval(module.conv, module.norm), nn.Identity()
        return made.requires_grad_(False)


class ConvBlock(nn.Module):
    """Convolution, batch normalisation and, where ``active``, ReLU; a map's sides are divided by the stride."""

    def __init__(self, inputs: int, outputs: int, *, window: int = 3, stride: int = 1, active: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, window, stride, padding=window // 2, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return F.relu(x) if self.active else x


class Residual(nn.Module):
    """Two convolutions whose sum with their input is rectified (He et al., CVPR 2016, basic block)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = ConvBlock(width, width), ConvBlock(width, width, active=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(ConvBlock(inputs, outputs, stride=2), *(Residual(outputs) for _ in range(blocks)))


def save_compact(network: Compact, path: str | Path, metadata: Mapping[str, Any]) -> str:
    """Write the network as a safetensors file for ``load_compact``: matrices in float16, vectors in float32.

    Vectors are few, and running variances may be beyond float16. metadata: JSON-serialisable facts, such as how it was
    trained. Returns the file's fingerprint. Raises RecipeError for entries that are not finite or too large for
    float16, such as those of a training that diverged, and where the file cannot be written.
    """
    tensors = {}
    for name, value in network.state_dict().items():
        if name.endswith("num_batches_tracked"):  # training's alone
            continue
        kept = value.detach().cpu().to(torch.float16 if value.ndim > 1 else torch.float32)
        if not bool(kept.isfinite().all()):
            raise RecipeError(
                f"{path}: not written: {name} has entries that are not finite in 16 bits, as of a training "
                "that diverged: lower its rate"
            )
        tensors[name] = kept.numpy()
    return save_artefact(path, _KIND, tensors, metadata)


def load_compact(path: str | Path) -> Compact:
    """The network of a file that ``save_compact`` wrote, in float32, in evaluation mode; it can be trained further.

    Raises RecipeError, naming the file, where it is missing, damaged, or of anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise RecipeError(f"{path}: no such weights file; check the path")
    tensors, _ = load_artefact(path, _KIND)
    network = Compact()
    load_into(network, {name: torch.from_numpy(value) for name, value in tensors.items()}, path)
    return network.eval()


def compact_weights() -> Path:
    """The file of trained weights that comes with resight. RecipeError where this copy has none."""
    path = Path(str(resources.files("resight.networks") / "compact.safetensors"))
    if not path.is_file():
        raise RecipeError(
            "this copy of resight comes without trained weights of the compact network: name a file of them as "
            "`weights`; `resight train --procedural` makes one"
        )
    return path
