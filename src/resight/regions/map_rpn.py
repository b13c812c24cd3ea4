"""A region proposal network on a layer's map, which it shares with the descriptor (Ren et al., NIPS 2015, §3).

Deep Retrieval (Gordo et al., ECCV 2016, §3.3) pools the regions that it proposes in place of a rigid grid's. Boxes of
objects teach it: at each position of the map, anchors of several sizes and aspects are told apart into object and
background, and moved onto the object. Sizes are fractions of the picture's longest side, so that one network serves
every scale.
"""

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from resight.artefact import artefact_fingerprint, load_artefact, save_artefact
from resight.errors import RecipeError
from resight.geometry.regions import Boxes, nms
from resight.networks.torchvision_ops import ensure_torchvision

KIND = "map-rpn"
SIZES = (0.16, 0.32, 0.64)
"""√area of anchors: 128, 256 and 512 of a side of 800 pixels."""
RATIOS = (0.5, 1.0, 2.0)
"""Heights of anchors over their widths."""

# Of an anchor with a box, above which it is an object and below which background; and of both how many are drawn from
# a picture, and how many of them at most are objects (Ren et al., §3.1.2 and 3.1.3).
_OBJECT, _BACKGROUND, _DRAWN, _SHARE = 0.7, 0.3, 256, 0.5
_LEAST = 1e-3  # side of a proposal, in pixels
_AHEAD = 10  # times as many proposals as asked for are compared with each other


def make_anchors(
    cells: tuple[int, int], picture: tuple[int, int], sizes: Sequence[float] = SIZES, ratios: Sequence[float] = RATIOS
) -> Tensor:
    """(h·w·K)×4 float32: K = sizes × ratios boxes (x1, y1, x2, y2), centred on each cell of a map, by row and column.

    cells: (width, height) of the map. picture: of what it is of, in pixels, which boxes may leave.
    """
    (columns, rows), (width, height) = cells, picture
    root = torch.tensor(ratios, dtype=torch.float64).sqrt()
    side = torch.tensor(sizes, dtype=torch.float64)[:, None] * max(picture)
    halves = torch.stack([(side / root).flatten(), (side * root).flatten()], dim=1) / 2
    x = (torch.arange(columns, dtype=torch.float64) + 0.5) * width / columns
    y = (torch.arange(rows, dtype=torch.float64) + 0.5) * height / rows
    centres = torch.stack([x.repeat(rows), y.repeat_interleave(columns)], dim=1)[:, None]
    return torch.cat([centres - halves, centres + halves], dim=2).reshape(-1, 4).float()


class MapRpn(nn.Module):
    """3×3 convolution to ``hidden``, ReLU, 1×1 convolutions to K objectness logits and 4K moves of anchors.

    channels: C of the map. sizes, ratios: of anchors, see ``make_anchors``. Names are those of torchvision's
    ``RPNHead``, which it is, initialised as there by the seed. Raises RecipeError for values out of range.
    """

    def __init__(
        self,
        channels: int,
        *,
        hidden: int = 256,
        sizes: Sequence[float] = SIZES,
        ratios: Sequence[float] = RATIOS,
        seed: int = 0,
        fitted_on: str = "nothing yet",
    ) -> None:
        super().__init__()
        if min(channels, hidden) < 1 or not sizes or not ratios or min(*sizes, *ratios) <= 0:
            raise RecipeError(
                "a region proposal network needs channels and hidden of 1 or more, and sizes and ratios above 0, not "
                f"{channels}, {hidden}, {list(sizes)} and {list(ratios)}"
            )
        ensure_torchvision()
        rpn = importlib.import_module("torchvision.models.detection.rpn")
        self.channels, self.hidden, self.fitted_on = channels, hidden, fitted_on
        self.sizes, self.ratios = tuple(sizes), tuple(ratios)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = rpn.RPNHead(hidden, len(self.sizes) * len(self.ratios))
            if hidden != channels:  # torchvision's takes as many
                self.head.conv[0][0] = nn.Conv2d(channels, hidden, 3, padding=1)
                nn.init.normal_(self.head.conv[0][0].weight, std=0.01)
                nn.init.zeros_(self.head.conv[0][0].bias)
        # Its generator of anchors is of whole pixels, and what filters proposals of float32: those are ours.
        self._rpn: Any = rpn.RegionProposalNetwork(
            None, nn.Identity(), _OBJECT, _BACKGROUND, _DRAWN, _SHARE, {}, {}, 0.7
        )
        self._flatten = rpn.concat_box_prediction_layers

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N,) of an object and moves N×4 of ``make_anchors`` for a map 1×C×h×w."""
        if x.ndim != 4 or x.shape[:2] != (1, self.channels):
            raise ValueError(f"the map must be 1×{self.channels}×h×w, not {tuple(x.shape)}")
        objectness, moves = self.head([x])
        logits, moves = self._flatten(objectness, moves)
        return logits[:, 0], moves

    def anchors(self, x: Tensor, picture: tuple[int, int]) -> Tensor:
        """``make_anchors`` for a map 1×C×h×w of a picture of (width, height), on the map's device."""
        return make_anchors((x.shape[3], x.shape[2]), picture, self.sizes, self.ratios).to(x.device)

    def losses(self, x: Tensor, picture: tuple[int, int], boxes: Tensor, seed: int) -> dict[str, Tensor]:
        """``objectness``, binary cross-entropy, and ``box``, smooth ℓ1 of moves, of a picture (Ren et al., Eq. 1).

        An anchor is an object where it overlaps a box by more than 0.7 or none overlaps that box more, and background
        where it overlaps none by 0.3. Of them 256 are drawn by the seed, half of which are objects at most. As in
        torchvision, β of smooth ℓ1 is 1/9, both are means over what was drawn, and anchors that leave the picture
        count. boxes: n×4, one at least, in pixels of the picture of (width, height), on the map's device.
        """
        logits, moves = self(x.float())
        anchors = self.anchors(x, picture)
        labels, nearest = self._rpn.assign_targets_to_anchors([anchors], [{"boxes": boxes}])
        targets = self._rpn.box_coder.encode(nearest, [anchors])
        with _drawing(seed, x.device):
            objectness, box = self._rpn.compute_loss(logits[:, None], moves, labels, targets)
        return {"objectness": objectness, "box": box}

    @torch.inference_mode()
    def propose(
        self, x: Tensor, picture: tuple[int, int], *, top: int, overlap: float
    ) -> tuple[Boxes, NDArray[np.float32]]:
        """Boxes R×4 float32 inside a picture of (width, height), R ≤ top, best first, and objectness in [0, 1].

        x: its map, 1×C×h×w. overlap: intersection over union above which the worse of two goes.
        """
        logits, moves = self(x.float())
        best = torch.argsort(logits, descending=True, stable=True)[: _AHEAD * top]
        decoded = self._rpn.box_coder.decode(moves[best], [self.anchors(x, picture)[best]]).reshape(-1, 4)
        boxes, scores = decoded.cpu().numpy(), torch.sigmoid(logits[best]).cpu().numpy()
        boxes = np.clip(boxes, 0, np.array([*picture, *picture], np.float32))
        solid = ((boxes[:, 2:] - boxes[:, :2]) >= _LEAST).all(axis=1)
        boxes, scores = boxes[solid], scores[solid]
        kept = nms(boxes, scores, overlap, top)
        return boxes[kept], scores[kept]

    def _tensors(self) -> dict[str, NDArray[Any]]:
        return {name: tensor.detach().cpu().numpy() for name, tensor in self.head.state_dict().items()} | {
            "sizes": np.array(self.sizes, np.float64),
            "ratios": np.array(self.ratios, np.float64),
        }

    @property
    def fingerprint(self) -> str:
        """sha256 of the kind, the weights and the anchors, in hex."""
        return artefact_fingerprint(KIND, self._tensors())

    def save(self, path: str | Path) -> str:
        """Write the artefact and return its fingerprint; raises as ``save_artefact``."""
        return save_artefact(path, KIND, self._tensors(), {"fitted_on": self.fitted_on})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """What ``save`` wrote. Raises RecipeError as ``load_artefact``, and where it is not such a network's."""
        tensors, meta = load_artefact(path, KIND)
        try:
            sizes, ratios = (tensors.pop(name).tolist() for name in ("sizes", "ratios"))
            hidden, channels = tensors["conv.0.0.weight"].shape[:2]
            model = cls(channels, hidden=hidden, sizes=sizes, ratios=ratios, fitted_on=str(meta["fitted_on"]))
            model.head.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in tensors.items()})
        except (KeyError, ValueError, RuntimeError) as error:
            raise RecipeError(f"{path}: not a region proposal network that this version can use: {error}") from error
        return model.eval().requires_grad_(False)


@contextmanager
def _drawing(seed: int, device: torch.device) -> Iterator[None]:
    """torch's generators, from which torchvision draws anchors, seeded, and as they were afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
