"""DELF and DELG: attentive local features (Noh et al., ICCV 2017; Cao, Araujo & Sim, ECCV 2020; survey §4.2.2).

Every cell of a map of the fourth block, at seven scales, is a candidate; a trained scorer says which are worth
keeping. DELF's descriptors are ℓ2-normalised, reduced by PCA and ℓ2-normalised (code: tensorflow/models,
``research/delf/delf/python/feature_extractor.py``). DELG's are reduced by an autoencoder that is learned with the
network, and what is scored is its reconstruction (``training/model/delf_model.py``).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from resight.artefact import artefact_fingerprint
from resight.errors import RecipeError
from resight.features.multiscale import l2_normalise
from resight.local.features import LocalFeatures
from resight.local.maps import FeatureMap, apart, strongest
from resight.networks.weights import load_into, load_state
from resight.pooling.delf_attention import DelfAttention
from resight.projection.projection import Projection

PYRAMID = (0.25, 0.3536, 0.5, 0.7071, 1.0, 1.4142, 2.0)
"""The scales of both publications' configurations (``delf_config_example.pbtxt``)."""


class DelgAutoencoder(nn.Module):
    """1×1 convolution to ``reduced`` dimensions; its reconstruction is a 1×1 convolution back and ReLU.

    B×C×H×W to (B×reduced×H×W, B×C×H×W). Names are those of ``AutoencoderModel`` in the authors' code.
    """

    def __init__(self, channels: int, reduced: int = 128) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, reduced, 1)
        self.conv2 = nn.Conv2d(reduced, channels, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        reduced = self.conv1(x)
        return reduced, F.relu(self.conv2(reduced))


class DelfHead(nn.Module):
    """A trained scorer and, for DELG, the autoencoder before it: C×h×w to descriptors D×h×w and scores h×w above 0."""

    def __init__(self, attention: DelfAttention, autoencoder: DelgAutoencoder | None = None) -> None:
        super().__init__()
        self.attention, self.autoencoder = attention, autoencoder

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.unsqueeze(0)
        descriptors, scored = (x, x) if self.autoencoder is None else self.autoencoder(x)
        return descriptors.squeeze(0), self.attention(scored)[0, 0]

    @property
    def fingerprint(self) -> str:
        """sha256 of all parameters, in hex."""
        return artefact_fingerprint("delf-head", {name: t.cpu().numpy() for name, t in self.state_dict().items()})


def read_delf_head(path: str | Path) -> DelfHead:
    """The head that a weights file holds as ``attention.conv1.weight`` …, and for DELG ``autoencoder.conv1.weight`` ….

    Sizes are the file's; a scorer without ``attention.bn_conv1`` has no normalisation (``DelfAttention``).
    Raises RecipeError, naming the file, where names are missing, unknown or do not fit.
    """
    state = load_state(path)
    try:
        hidden, channels = state["attention.conv1.weight"].shape[:2]
        encoder = state.get("autoencoder.conv1.weight")
        autoencoder = None if encoder is None else DelgAutoencoder(encoder.shape[1], encoder.shape[0])
    except (KeyError, ValueError, IndexError) as error:
        raise RecipeError(f"{path}: not the head of a DELF or DELG: it has no convolution {error}") from error
    normalise = any(name.startswith("attention.bn_conv1.") for name in state)
    head = DelfHead(DelfAttention(channels, hidden, normalise=normalise), autoencoder)
    load_into(head, state, path, without=())
    return head.eval().requires_grad_(False)


@dataclass(frozen=True)
class Delf:
    """A ``Detector``.

    head: what scores features, and for DELG reduces them; None scores by a feature's length, as HOW does, which needs
        no training.
    top: features an image. threshold: of the score; 100 in DELF's and 454.6 in DELG's configuration, for their heads.
    overlap: as ``apart`` takes it; 1, the published value, thins nothing.
    field: side of what a feature describes, in strides; 291 pixels at stride 16 by the published code.
    reduce, dimensions: of the features, ℓ2-normalised, at 40 or 128 dimensions; "none" with DELG's autoencoder.
    """

    kind: Literal["delf"] = "delf"
    head: DelfHead | None = None
    scales: tuple[float, ...] = PYRAMID
    top: int = 1000
    threshold: float = 0.0
    overlap: float = 1.0
    field: float = 291 / 16
    reduce: Literal["none", "pca", "pca-whitening"] = "pca"
    dimensions: int = 40

    def __post_init__(self) -> None:
        if self.head is not None and self.head.autoencoder is not None and self.reduce != "none":
            raise RecipeError(f'reduce = "{self.reduce}": DELG\'s autoencoder reduces already, so say reduce = "none"')

    @property
    def identity(self) -> str:
        head = self.head.fingerprint if self.head is not None else ""
        return json.dumps([self.kind, head, self.scales, self.top, self.threshold, self.overlap, self.field])

    def detect(self, maps: Sequence[FeatureMap]) -> LocalFeatures:
        """As ``Detector``'s; descriptors are ℓ2-normalised."""
        values, scores = zip(*(self._scored(each.values) for each in maps), strict=True)
        points = strongest(scores, self.top if self.overlap >= 1 else None, self.threshold)
        xy, size = points.place(maps, self.field)
        kept = apart(xy, size, points.score, self.overlap, self.top)
        points = points[kept]
        descriptors = l2_normalise(points.take(values)).astype(np.float32)
        return LocalFeatures(xy[kept], size[kept], np.zeros(len(kept), np.float32), points.score, descriptors)

    def finish(self, descriptors: NDArray[np.float32], projection: Projection | None) -> NDArray[np.float32]:
        """Reduced and ℓ2-normalised again."""
        return descriptors if projection is None else projection.transform(descriptors)

    @torch.inference_mode()
    def _scored(self, values: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Descriptors D×h×w and scores h×w."""
        if self.head is None:
            return values, np.linalg.norm(values, axis=0)
        descriptors, scores = self.head(torch.from_numpy(values))
        return descriptors.numpy(), scores.numpy()
