"""LightGlue: correspondences by a network that looks at both images' features (survey §4.2.2).

Lindenberger, Sarlin & Pollefeys, ICCV 2023, §3. Layers of self- and cross-attention refine each feature's state from
its own image, by relative position, and from the other; then a similarity S and a matchability z give each pair a
probability P(i, j) = σ(z_i) σ(z_j) softmax_i(S)(i, j) softmax_j(S)(i, j), and mutual maxima above a threshold are
matches. Reading stops at the layer where the features are confident, and those unlikely to match are dropped on the
way. Names of parameters are those of cvg/LightGlue's checkpoints, read from a local file.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, scaled_dot_product_attention

from resight.errors import QueryError, RecipeError
from resight.local.features import LocalFeatures
from resight.networks.weights import load_into, load_state

_SIFT_SIDE = 1024  # pixels of the longest side in which the published SIFT network saw keypoints' sizes


@dataclass(frozen=True)
class Variant:
    """What a published network takes. dimension: of the descriptors. oriented: whether also size and angle."""

    dimension: int
    oriented: bool = False


VARIANTS = {
    "superpoint": Variant(256),
    "disk": Variant(128),
    "aliked": Variant(128),
    "sift": Variant(128, oriented=True),
    "doghardnet": Variant(128, oriented=True),
}


def rotated(encoding: Tensor, x: Tensor) -> Tensor:
    """Rotary position encoding (§3.1): the pairs of entries of (heads, N, D) x turned by 2×N×D cosines and sines."""
    even, odd = x[..., ::2], x[..., 1::2]
    turned = torch.stack([-odd, even], -1).flatten(-2)
    return x * encoding[0] + turned * encoding[1]


class PositionEncoding(nn.Module):
    """Learned Fourier features of N×P positions: 2×N×D, cosines and sines, each twice in a row."""

    def __init__(self, inputs: int, dimension: int) -> None:
        super().__init__()
        self.Wr = nn.Linear(inputs, dimension // 2, bias=False)

    def forward(self, positions: Tensor) -> Tensor:
        """positions: N×P."""
        angle = self.Wr(positions)
        return torch.stack([angle.cos(), angle.sin()]).repeat_interleave(2, -1)


def _mlp(dimension: int) -> nn.Sequential:
    """Updates a state from [state, message] (§3.1)."""
    double = 2 * dimension
    return nn.Sequential(nn.Linear(double, double), nn.LayerNorm(double), nn.GELU(), nn.Linear(double, dimension))


class SelfBlock(nn.Module):
    """Attention among the features of one image, by content and relative position (§3.1)."""

    def __init__(self, dimension: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.Wqkv = nn.Linear(dimension, 3 * dimension)
        self.out_proj = nn.Linear(dimension, dimension)
        self.ffn = _mlp(dimension)

    def forward(self, x: Tensor, encoding: Tensor) -> Tensor:
        """x: N×D. encoding: 2×N×(D/heads)."""
        q, k, v = self.Wqkv(x).reshape(len(x), self.heads, -1, 3).transpose(0, 1).unbind(-1)
        context = scaled_dot_product_attention(rotated(encoding, q), rotated(encoding, k), v)
        message = self.out_proj(context.transpose(0, 1).flatten(1))
        return torch.as_tensor(x + self.ffn(torch.cat([x, message], -1)))


class CrossBlock(nn.Module):
    """Attention of each image's features to the other's, with one projection for keys and queries (§3.1)."""

    def __init__(self, dimension: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qk = nn.Linear(dimension, dimension)
        self.to_v = nn.Linear(dimension, dimension)
        self.to_out = nn.Linear(dimension, dimension)
        self.ffn = _mlp(dimension)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x: M×D, y: N×D."""
        keys = [self._split(self.to_qk(side)) for side in (x, y)]
        values = [self._split(self.to_v(side)) for side in (x, y)]
        return self._update(x, keys[0], keys[1], values[1]), self._update(y, keys[1], keys[0], values[0])

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), self.heads, x.shape[1] // self.heads).transpose(0, 1)

    def _update(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        context = scaled_dot_product_attention(q, k, v)
        message = self.to_out(context.transpose(0, 1).flatten(1))
        return torch.as_tensor(x + self.ffn(torch.cat([x, message], -1)))


class Layer(nn.Module):
    """A self block on each image, then a cross block."""

    def __init__(self, dimension: int, heads: int) -> None:
        super().__init__()
        self.self_attn = SelfBlock(dimension, heads)
        self.cross_attn = CrossBlock(dimension, heads)

    def forward(self, x: Tensor, y: Tensor, at_x: Tensor, at_y: Tensor) -> tuple[Tensor, Tensor]:
        """x: M×D, y: N×D, and the encodings of their positions."""
        found: tuple[Tensor, Tensor] = self.cross_attn(self.self_attn(x, at_x), self.self_attn(y, at_y))
        return found


class Assignment(nn.Module):
    """The log-probability that two features match (§3.2)."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.matchability = nn.Linear(dimension, 1)
        self.final_proj = nn.Linear(dimension, dimension)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x: M×D, y: N×D; M×N."""
        similarity = self.final_proj(x) @ self.final_proj(y).T / x.shape[-1] ** 0.5
        both = similarity.log_softmax(1) + similarity.log_softmax(0)
        return torch.as_tensor(both + logsigmoid(self.matchability(x)) + logsigmoid(self.matchability(y)).T)

    def matchable(self, x: Tensor) -> Tensor:
        """The probability that a feature has a match at all (§3.2); (M,)."""
        return torch.sigmoid(self.matchability(x))[:, 0]


class Confidence(nn.Module):
    """Whether a feature's match, or lack of one, will change no more (§3.3)."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.token = nn.Sequential(nn.Linear(dimension, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """x: M×D; (M,)."""
        return torch.as_tensor(self.token(x)[:, 0])


class LightGlue(nn.Module):
    """The network of a variant; ``load_lightglue`` makes it with published weights.

    depth_confidence: the share of features that must be confident for later layers to be left out; None reads all.
    width_confidence: features are dropped that are confident and whose matchability is at most one less this; None
        keeps all. Both defaults are published.
    """

    def __init__(
        self,
        variant: Variant,
        *,
        dimension: int = 256,
        heads: int = 4,
        layers: int = 9,
        depth_confidence: float | None = 0.95,
        width_confidence: float | None = 0.99,
    ) -> None:
        super().__init__()
        self.variant = variant
        self.depth_confidence, self.width_confidence = depth_confidence, width_confidence
        same = variant.dimension == dimension
        self.input_proj = nn.Identity() if same else nn.Linear(variant.dimension, dimension)
        self.posenc = PositionEncoding(4 if variant.oriented else 2, dimension // heads)
        self.transformers = nn.ModuleList(Layer(dimension, heads) for _ in range(layers))
        self.log_assignment = nn.ModuleList(Assignment(dimension) for _ in range(layers))
        self.token_confidence = nn.ModuleList(Confidence(dimension) for _ in range(layers - 1))

    def forward(self, x: Tensor, y: Tensor, at_x: Tensor, at_y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities of matches between M×D and N×D descriptors at M×P and N×P positions, all of float32.

        Returns M'×N' log-probabilities, and which M' rows of x and N' rows of y they are of.
        """
        x, y = self.input_proj(x), self.input_proj(y)
        encoded_x, encoded_y = self.posenc(at_x), self.posenc(at_y)
        rows_x, rows_y = (torch.arange(len(side), device=side.device) for side in (x, y))
        features, last = len(x) + len(y), len(self.transformers) - 1
        for layer, transformer in enumerate(self.transformers):
            x, y = transformer(x, y, encoded_x, encoded_y)
            if layer == last:
                break
            sure_x, sure_y = (self.token_confidence[layer](side) for side in (x, y))
            unsure = int((torch.cat([sure_x, sure_y]) < self._threshold(layer)).sum())
            if self.depth_confidence is not None and 1 - unsure / features > self.depth_confidence:
                break
            kept_x, kept_y = self._kept(layer, x, sure_x), self._kept(layer, y, sure_y)
            x, rows_x, encoded_x = x[kept_x], rows_x[kept_x], encoded_x[:, kept_x]
            y, rows_y, encoded_y = y[kept_y], rows_y[kept_y], encoded_y[:, kept_y]
            if len(x) == 0 or len(y) == 0:
                break
        return self.log_assignment[layer](x, y), rows_x, rows_y

    def _threshold(self, layer: int) -> float:
        """The confidence that counts as confident after a layer (cvg/LightGlue, confidence_threshold)."""
        return 0.8 + 0.1 * math.exp(-4 * layer / len(self.transformers))

    def _kept(self, layer: int, x: Tensor, sure: Tensor) -> Tensor:
        if self.width_confidence is None:
            return torch.ones_like(sure, dtype=torch.bool)
        matchable = cast(Assignment, self.log_assignment[layer]).matchable(x)
        return (matchable > 1 - self.width_confidence) | (sure <= self._threshold(layer))

    @torch.inference_mode()
    def match(
        self,
        query: LocalFeatures,
        query_size: tuple[int, int],
        result: LocalFeatures,
        result_size: tuple[int, int],
        *,
        threshold: float = 0.1,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Correspondences of two images' features: rows of the query, ascending, rows of the result, probabilities.

        query_size, result_size: (width, height) of the images in the keypoints' pixels. threshold: a match's
        probability is above this, and the largest of its row and of its column. Descriptors kept as integers are
        ℓ2-normalised first. Raises QueryError for descriptors of another length than the network's.
        """
        if len(query) == 0 or len(result) == 0:
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
        sides = [self._inputs(query, query_size), self._inputs(result, result_size)]
        scores, rows_x, rows_y = self(sides[0][0], sides[1][0], sides[0][1], sides[1][1])
        if scores.numel() == 0:
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
        best, j = scores.max(1)
        mutual = scores.argmax(0)[j] == torch.arange(len(j), device=j.device)
        kept = mutual & (best.exp() > threshold)
        return rows_x[kept].cpu().numpy(), rows_y[j[kept]].cpu().numpy(), best[kept].exp().cpu().numpy()

    def _inputs(self, features: LocalFeatures, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Descriptors and positions as the network was trained with: centred, and over half the longest side."""
        if features.descriptors.shape[1] != self.variant.dimension:
            raise QueryError(
                f"the network takes descriptors of {self.variant.dimension} entries, not "
                f"{features.descriptors.shape[1]}; match the features it was trained on"
            )
        descriptors = features.descriptors.astype(np.float32)
        if features.descriptors.dtype != np.float32:
            length = np.linalg.norm(descriptors, axis=1, keepdims=True)
            descriptors = descriptors / np.maximum(length, np.finfo(np.float32).tiny)
        half, longest = np.array(size, np.float32) / 2, max(size)
        position = (features.xy - half) / (longest / 2)
        if self.variant.oriented:
            # The published extractor enlarges or reduces to this side, and leaves sizes as they were found there.
            position = np.column_stack([position, features.size * (_SIFT_SIDE / longest), features.angle])
        device = self.posenc.Wr.weight.device
        return torch.from_numpy(descriptors).to(device), torch.from_numpy(position.astype(np.float32)).to(device)


def load_lightglue(path: str | Path, features: str) -> LightGlue:
    """A published network from a local file, a .safetensors or PyTorch checkpoint of cvg/LightGlue.

    features: which it is for: one of ``VARIANTS``. Raises RecipeError where the file is missing, damaged, or does not
    fit the network exactly.
    """
    if features not in VARIANTS:
        raise RecipeError(f"no LightGlue for {features!r} features; there are {', '.join(VARIANTS)}")
    network = LightGlue(VARIANTS[features])
    state = {_renamed(name): tensor for name, tensor in load_state(path).items()}
    state.pop("confidence_thresholds", None)  # a constant, in newer files
    load_into(network, state, path, without=())
    return network.eval().requires_grad_(False)


def _renamed(name: str) -> str:
    """The newer name of a parameter: transformers.0.self_attn.… was self_attn.0.…, and so with cross_attn."""
    block, _, rest = name.partition(".")
    if block not in ("self_attn", "cross_attn"):
        return name
    layer, _, rest = rest.partition(".")
    return f"transformers.{layer}.{block}.{rest}"
