"""Reranking Transformer, RRT (Tan, Yuan & Ordonez, ICCV 2021, §3): do two images show the same thing?

A transformer encoder reads the global and the local descriptors of both, [CLS; g; l₁ … l_L; SEP; g′; l′₁ … l′_L′], and
the CLS token's last state gives one logit. A token is a descriptor of unit length plus a learned embedding of which
image and kind it is of and, for local ones, of the scale at which it was found; there are no positions, so that the
order of an image's local descriptors does not matter. Trained by binary cross-entropy on pairs.

Architecture, names and defaults are those of the authors' published networks for DELG descriptors
(github.com/uvavision/RerankingTransformer, ``RRT_GLD/models``).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, normalize

from resight.artefact import load_artefact, save_artefact
from resight.errors import QueryError, RecipeError
from resight.networks.weights import load_into, unpickled
from resight.search.ranking import Ranking
from resight.search.rerank.reranker import best, check_depth, first

KIND = "reranking-transformer"
SCALES = (0.5, 0.70710677, 1.0, 1.41421354, 2.0, 2.82842708, 4.0)
"""Of DELG's local features, as it stores them: the inverse of the factor by which the image was resized."""

_QUERY, _GALLERY, _CLS, _SEP, _QUERY_GLOBAL, _GALLERY_GLOBAL = range(6)  # rows of seg_encoder


@dataclass(frozen=True, eq=False)
class Tokens:
    """What the transformer sees of an image.

    vector: (G,) float32, the global descriptor. descriptors: N×D float32, local ones, N 0 or more.
    scales: (N,) int64, the row of ``SCALES`` of each. Raises QueryError where these do not fit or are not finite.
    """

    vector: NDArray[np.float32]
    descriptors: NDArray[np.float32]
    scales: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.vector.ndim != 1 or self.descriptors.ndim != 2 or self.scales.shape != (len(self.descriptors),):
            shapes = self.vector.shape, self.descriptors.shape, self.scales.shape
            raise QueryError(f"tokens are a vector (G,), descriptors N×D and scales (N,), not {shapes}")
        if not (np.isfinite(self.vector).all() and np.isfinite(self.descriptors).all()):
            raise QueryError("vector and descriptors of tokens must be finite")
        if len(self.scales) and not 0 <= self.scales.min() <= self.scales.max() < len(SCALES):
            raise QueryError(f"scales of tokens are rows of SCALES, 0 to {len(SCALES) - 1}: make them by Tokens.of")

    @classmethod
    def of(cls, vector: ArrayLike, descriptors: ArrayLike, scales: ArrayLike, *, limit: int = 500) -> Self:
        """From local features, strongest first, of which `limit` are kept; scales (N,): the nearest of ``SCALES``.

        limit: 500 as published; attention takes time by the square of it.
        """
        kept = np.asarray(scales, np.float64)[:limit]
        if not np.all(kept > 0):
            raise QueryError("scales of local features must be above 0")
        rows = np.abs(np.log(kept[:, None] / np.array(SCALES))).argmin(axis=1).astype(np.int64)
        return cls(np.asarray(vector, np.float32), np.asarray(descriptors, np.float32)[:limit], rows)


class Batch(NamedTuple):
    """Tokens of B images, padded to the longest: vectors B×G, descriptors B×N×D, scales B×N, padding B×N boolean."""

    vectors: Tensor
    descriptors: Tensor
    scales: Tensor
    padding: Tensor

    @classmethod
    def of(cls, tokens: Sequence[Tokens], device: torch.device | str = "cpu") -> Self:
        """Float32; scales int64. QueryError where descriptors of the images are not of one length."""
        if len({(t.vector.shape, t.descriptors.shape[1]) for t in tokens}) != 1:
            raise QueryError("a batch needs images whose vectors and whose local descriptors are of one length")
        n = max(len(t.descriptors) for t in tokens)
        descriptors = torch.zeros(len(tokens), n, tokens[0].descriptors.shape[1])
        scales = torch.zeros(len(tokens), n, dtype=torch.int64)
        padding = torch.ones(len(tokens), n, dtype=torch.bool)
        for i, t in enumerate(tokens):
            descriptors[i, : len(t.descriptors)] = torch.as_tensor(t.descriptors)
            scales[i, : len(t.scales)] = torch.as_tensor(t.scales)
            padding[i, : len(t.scales)] = False
        vectors = torch.as_tensor(np.stack([t.vector for t in tokens]))
        return cls(*(part.to(device) for part in (vectors, descriptors, scales, padding)))


class Pair(NamedTuple):
    """Two images and whether they show the same thing."""

    query: Tokens
    gallery: Tokens
    match: bool


class RerankingTransformer(nn.Module):
    """The network. Parameters bear the published names; see the module's text for what they do.

    vector: G, length of global descriptors. dimension: D, of local ones, a multiple of `heads`.
    Raises RecipeError for values out of range.
    """

    def __init__(
        self,
        vector: int = 2048,
        dimension: int = 128,
        *,
        heads: int = 4,
        layers: int = 6,
        feedforward: int = 1024,
        dropout: float = 0.0,
        seed: int = 0,
        fitted_on: str = "nothing yet",
    ) -> None:
        if min(vector, dimension, heads, layers, feedforward) < 1 or dimension % heads or not 0 <= dropout < 1:
            raise RecipeError(
                "vector, dimension, heads, layers and feedforward must be 1 or more, dimension a multiple of heads "
                f"and dropout within [0, 1), not {vector}, {dimension}, {heads}, {layers}, {feedforward} and {dropout}"
            )
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layer = nn.TransformerEncoderLayer(dimension, heads, feedforward, dropout, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
            self.remap = nn.Linear(vector, dimension)
            self.scale_encoder = nn.Embedding(len(SCALES), dimension)
            self.seg_encoder = nn.Embedding(6, dimension)
            self.classifier = nn.Linear(dimension, 1)
            for parameter in self.parameters():
                if parameter.ndim > 1:
                    nn.init.xavier_uniform_(parameter)
        self.heads, self.fitted_on = heads, fitted_on

    def forward(self, query: Batch, gallery: Batch) -> Tensor:
        """B logits of a match, for B pairs. The two sides are not interchangeable: their segments differ.

        Raises QueryError where vectors or descriptors are of other lengths than the network's.
        """
        segment = self.seg_encoder.weight
        b = len(query.vectors)

        def side(images: Batch, local: int, whole: int) -> list[Tensor]:
            given = images.vectors.shape[-1], images.descriptors.shape[-1]
            if given != (self.remap.in_features, self.remap.out_features):
                wanted = f"{self.remap.in_features} and {self.remap.out_features}"
                raise QueryError(f"the network takes vectors and descriptors of {wanted} entries, not {given}")
            vectors = normalize(self.remap(images.vectors), dim=-1)
            descriptors = normalize(images.descriptors, dim=-1) + self.scale_encoder(images.scales)
            return [vectors[:, None] + segment[whole], descriptors + segment[local]]

        cls, sep = (segment[row].expand(b, 1, -1) for row in (_CLS, _SEP))
        tokens = torch.cat(
            [cls, *side(query, _QUERY, _QUERY_GLOBAL), sep, *side(gallery, _GALLERY, _GALLERY_GLOBAL)], dim=1
        )
        shown = query.padding.new_zeros(b, 2)
        padding = torch.cat([shown, query.padding, shown, gallery.padding], dim=1)
        state: Tensor = self.encoder(tokens, src_key_padding_mask=padding)
        return self.classifier(state[:, 0])[:, 0]  # type: ignore[no-any-return]

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return self.remap.weight.device

    @classmethod
    def from_published(cls, path: str | Path, *, heads: int = 4) -> Self:
        """The authors' checkpoint, ``{"state": parameters, "optim": …}``, such as ``rrt_gld_ckpts/r50_gldv2.pt``.

        Sizes are those of its tensors, which do not tell the number of heads; 4 as published.
        Raises RecipeError where it is missing, damaged, needs unpickling of objects, or has other parameters.
        """
        state = _read_published(Path(path))
        return cls._of(state, str(path), heads, f"published weights {Path(path).name}")

    def save(self, path: str | Path) -> str:
        """Write the artefact and return its fingerprint; raises as ``save_artefact``."""
        tensors = {name: tensor.detach().cpu().numpy() for name, tensor in self.state_dict().items()}
        return save_artefact(path, KIND, tensors, {"heads": self.heads, "fitted_on": self.fitted_on})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """What ``save`` wrote. Raises RecipeError as ``load_artefact``, and where the weights do not fit."""
        tensors, meta = load_artefact(path, KIND)
        state = {name: torch.as_tensor(tensor) for name, tensor in tensors.items()}
        try:
            heads, fitted_on = int(meta["heads"]), str(meta["fitted_on"])
        except (KeyError, TypeError, ValueError) as error:
            raise RecipeError(f"{path}: is damaged: {error}; fit it again") from error
        return cls._of(state, str(path), heads, fitted_on)

    @classmethod
    def _of(cls, state: Mapping[str, Tensor], origin: str, heads: int, fitted_on: str) -> Self:
        remap, hidden = state.get("remap.weight"), state.get("encoder.layers.0.linear1.weight")
        if remap is None or hidden is None or remap.ndim != 2 or heads < 1 or remap.shape[0] % heads:
            raise RecipeError(
                f"{origin}: not a Reranking Transformer of {heads} heads: it needs remap.weight, D×G with D a multiple "
                "of them, and encoder.layers.0.linear1.weight"
            )
        layers = {name.split(".")[2] for name in state if name.startswith("encoder.layers.")}
        dimension, vector = remap.shape
        model = cls(vector, dimension, heads=heads, layers=len(layers), feedforward=len(hidden), fitted_on=fitted_on)
        load_into(model, state, origin, without=())
        return model.eval()


def train_step(
    model: RerankingTransformer, optimiser: torch.optim.Optimizer, pairs: Sequence[Pair], max_norm: float = 0.0
) -> float:
    """One step on the mean binary cross-entropy of a batch of pairs, which it returns as it was before the step.

    max_norm: gradients are scaled down to this length; 0 leaves them.
    """
    device = model.device
    logits = model(Batch.of([p.query for p in pairs], device), Batch.of([p.gallery for p in pairs], device))
    loss = binary_cross_entropy_with_logits(logits, logits.new_tensor([float(p.match) for p in pairs]))
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    if max_norm > 0:
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimiser.step()
    return loss.item()


def fit(
    model: RerankingTransformer,
    pairs: Sequence[Pair],
    *,
    fitted_on: str,
    epochs: int = 15,
    batch: int = 72,
    learning_rate: float = 1e-4,
    weight_decay: float = 5e-4,
    max_norm: float = 0.0,
    seed: int = 0,
    on_epoch: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train the model in place, by AdamW on pairs in an order drawn anew each epoch; returns each epoch's mean loss.

    pairs: indexed as they are needed, so that a sequence may read them from disk; as many matches as not, of which the
        paper draws the latter from the global descriptor's first 100. Defaults are the published ones; their batch is
        36 triplets.
    on_epoch: told each epoch and its loss. Raises RecipeError for no pairs or values out of range.
    """
    if len(pairs) == 0 or epochs < 1 or batch < 1 or not learning_rate > 0:
        raise RecipeError("training needs pairs, 1 epoch or more, a batch of 1 or more and a learning rate above 0")
    optimiser = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=weight_decay)
    rng, losses = np.random.default_rng(seed), []
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for epoch in range(epochs):
            total = 0.0
            order = rng.permutation(len(pairs))
            for start in range(0, len(pairs), batch):
                drawn = [pairs[i] for i in order[start : start + batch].tolist()]
                total += len(drawn) * train_step(model, optimiser, drawn, max_norm)
            losses.append(total / len(pairs))
            if on_epoch is not None:
                on_epoch(epoch, losses[-1])
    model.eval()
    model.fitted_on = fitted_on
    return losses


@dataclass(frozen=True, eq=False)
class TransformerReranker:
    """Re-orders the first `depth` images of a ranking by the logit of a match; the query is given by its tokens.

    gallery: tokens by image id; any mapping, which may read them from disk. depth: None for all, 100 as published.
    batch: pairs in one pass.
    """

    model: RerankingTransformer
    gallery: Mapping[int, Tokens]
    depth: int | None = 100
    batch: int = 32

    def __post_init__(self) -> None:
        check_depth(self.depth)
        if self.batch < 1:
            raise RecipeError(f"batch must be 1 pair or more, not {self.batch}")

    def logits(self, query: Tokens, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """(N,) of a match with each image. Raises QueryError for an image without tokens or of other lengths."""
        self.model.eval()
        scores = np.empty(len(ids), np.float32)
        with torch.inference_mode():
            for start in range(0, len(ids), self.batch):
                tokens = [self._tokens(i) for i in ids[start : start + self.batch].tolist()]
                queries, gallery = (Batch.of(side, self.model.device) for side in ([query] * len(tokens), tokens))
                scores[start : start + len(tokens)] = self.model(queries, gallery).cpu().numpy()
        return scores

    def rerank(self, query: Tokens, ranking: Ranking) -> Ranking:
        """The ranking by logits, ties by image id, with the others of it behind them. Raises as ``logits``."""
        ids = ranking.ids[: self.depth]
        return first(ranking, *best(ids, self.logits(query, ids)))

    def _tokens(self, image: int) -> Tokens:
        try:
            return self.gallery[image]
        except KeyError:
            raise QueryError(f"no tokens for image {image}; give those of all images that are re-ranked") from None


def _read_published(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise RecipeError(f"{path}: no such weights file; check the path")
    loaded = unpickled(path)
    state = loaded.get("state") if isinstance(loaded, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise RecipeError(f"{path}: a published Reranking Transformer has its parameters under `state`; this has none")
    return {str(name).removeprefix("module."): tensor for name, tensor in state.items()}
