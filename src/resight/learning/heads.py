"""From the output of a layer to a branch's vector, as ``describe.head`` makes it, with gradients, in batches."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from resight.describe.attention import (
    Attend,
    Attention,
    attention_of,
    check_trained,
    load_attention,
    make_attention,
    new_attention,
)
from resight.describe.embedding import Embedder, choose_positions
from resight.describe.head import cells_on_map, check_layer
from resight.describe.pooling import ChannelStatistics, Pool, exponent, learns, make_pool
from resight.embedding.layers import LayerEmbedding
from resight.embedding.netvlad import columns
from resight.errors import RecipeError
from resight.networks.layers import Layer
from resight.pooling.attention_gem import AttentionGeM
from resight.pooling.gem import gem
from resight.pooling.rmac import region_maxima
from resight.pooling.sum_pooling import unit
from resight.recipes.attention import ClassToken, Saliency
from resight.recipes.embeddings import LayerStage
from resight.recipes.network_stages import Branch, Grid, Pyramid, Whole
from resight.recipes.poolings import CamCrow, Gem, Heat

_NO_PICTURE = np.empty((0, 0, 3), np.uint8)  # what can learn looks at maps alone


class Head(nn.Module):
    """What a branch makes of its layer's output; ``make_trainable_head`` makes it.

    attention: of the branch, where it is learned. p: of GeM, where it learns. embedding: a trainable layer. mean,
    matrix: of the PCA before it, fixed.
    """

    mean: Tensor | None
    matrix: Tensor | None

    def __init__(
        self,
        branch: Branch,
        layer: Layer,
        attention: nn.Module | None,
        p: Tensor | None,
        pool: Pool,
        embedder: Embedder | None,
    ) -> None:
        super().__init__()
        self.branch = branch
        self.layer = layer
        self.attention = attention
        self.p = None if p is None else nn.Parameter(p)
        self._pool = pool
        self.embedding = _layer_of(embedder)
        reduction = None if embedder is None else embedder.reduction
        for name in ("mean", "matrix"):
            value = None if reduction is None else torch.from_numpy(np.array(getattr(reduction, name)))
            self.register_buffer(name, value, persistent=False)

    def forward(self, output: Tensor, beside: Tensor | None = None) -> Tensor:
        """B×C×h×w or B×C to B×D, ℓ2-normalised, float32. beside: the class token, where the attention needs it."""
        x = output.float()
        if self.embedding is None:
            return unit(self._aggregate(self.regions(x, beside)))
        if not isinstance(self.branch.scheme, Whole):
            return unit(self.embedding(self._reduced(self.regions(x, beside))))
        attention = self._attention
        weights = None
        if attention is not None and attention.weigh is not None and self.branch.weighted:
            weights = self._over(attention.weigh, x, beside)
        elif attention is not None:
            x = self._over(attention.attend, x, beside)
        chosen = self._chosen(x)
        if chosen is not None:
            weights = chosen if weights is None else weights * chosen
        return unit(self.embedding(self._reduced(columns(x)), None if weights is None else weights.flatten(1)))

    def scales(self, given: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor:
        """What ``forward`` takes, of the same pictures at one or several scales, to B×D (``combine_scales``)."""
        vectors = [self(output, beside) for output, beside in given]
        if len(vectors) == 1:
            only: Tensor = vectors[0]
            return only
        if self.branch.embedding is not None:
            raise ValueError("an embedding is of the features of all scales together")
        stacked, pooling = torch.stack(vectors, dim=-1), self.branch.pooling
        if self.branch.scale_pooling == "mean" or not isinstance(pooling, Gem):
            return unit(stacked.mean(dim=-1))
        p = _exponent(pooling, self.layer) if self.p is None else self.p
        return unit(gem(stacked.unsqueeze(-1), p.to(stacked)))

    def regions(self, output: Tensor, beside: Tensor | None = None) -> Tensor:
        """B×C×h×w or B×C to B×R×D: each region as it is pooled, not normalised."""
        x = output.float()
        if self.layer.kind == "vector":
            return x.unsqueeze(1)
        attention = self._attention
        pool = self.pool if attention is None or attention.pool is None else attention.pool
        if attention is not None:
            x = self._over(attention.attend, x, beside)
        cells = cells_on_map(self.branch.scheme, x, _NO_PICTURE, None)
        if self.branch.pooling.kind == "mac" and len(cells) > 1:
            return region_maxima(x, cells)
        return torch.stack([pool(x[:, :, y1:y2, x1:x2]) for x1, y1, x2, y2 in cells], dim=1)

    def pool(self, x: Tensor) -> Tensor:
        """B×C×h×w to B×D."""
        return self._pool(x) if self.p is None else gem(x, self.p)

    @property
    def _attention(self) -> Attention | None:
        stage = self.branch.attention
        if self.attention is not None:
            return attention_of(self.attention)
        return None if stage is None else make_attention(self.branch, self.layer, Path())

    def _over(self, weigh: Attend, x: Tensor, beside: Tensor | None) -> Tensor:
        """An attention's function of a map, of a batch of maps."""
        if not isinstance(self.branch.attention, Saliency):
            return weigh(x, _NO_PICTURE, beside)
        return torch.cat([weigh(x[place : place + 1], _NO_PICTURE, None) for place in range(len(x))])

    def _aggregate(self, regions: Tensor) -> Tensor:
        if regions.shape[1] == 1:
            return regions[:, 0]
        vectors, scheme = unit(regions), self.branch.scheme
        how = scheme.aggregate if isinstance(scheme, Grid | Pyramid) else "sum"
        if how == "concatenate":
            return vectors.flatten(1)
        return vectors.amax(dim=1) if how == "max" else vectors.sum(dim=1)

    def _reduced(self, features: Tensor) -> Tensor:
        """B×n×C to B×n×D, as ``describe.embedding.reduced``."""
        x = unit(features)
        return x if self.mean is None or self.matrix is None else unit((x - self.mean) @ self.matrix.T)

    def _chosen(self, x: Tensor) -> Tensor | None:
        """B×1×h×w: 1 at the positions that the embedding's mask takes; None where it takes all."""
        stage = self.branch.embedding
        if stage is None or stage.mask == "none":
            return None
        maps = x.detach().cpu().numpy()
        masks: NDArray[np.bool_] = np.stack([choose_positions(stage, each, _NO_PICTURE) for each in maps])
        return torch.from_numpy(masks).unsqueeze(1).to(x)


def check_trainable(branch: Branch, recipe: str) -> None:
    """Raises RecipeError, saying what to choose instead, for a branch with a part that has no gradient.

    recipe: its name, for the message.
    """
    what = f"recipe {recipe} cannot learn from labels"
    scheme, attention, embedding = branch.scheme, branch.attention, branch.embedding
    if not isinstance(scheme, Whole | Grid | Pyramid) or branch.crops:
        on = " of pixels" if branch.crops else ""
        raise RecipeError(
            f"{what}: regions by scheme {scheme.kind}{on} are not found by what learns here: train the recipe with "
            'scheme = { kind = "grid" } on the map, or without a scheme, and then put its own back'
        )
    if isinstance(branch.pooling, Heat | CamCrow):
        raise RecipeError(
            f"{what}: pooling {branch.pooling.kind} rests on what its network was before: choose gem, or another of "
            "mac, average, sum, spoc, crow, gram and sba"
        )
    if embedding is not None and not isinstance(embedding, LayerStage):
        raise RecipeError(
            f"{what}: embedding {embedding.kind} is fitted, not learned by gradients: choose netvlad, learned-bof or "
            "fisher-layer, which start as vlad, bow and fisher"
        )
    if embedding is not None and embedding.mask == "sift":
        raise RecipeError(f'{what}: mask = "sift" looks at pictures, and training at maps: choose sum, max or none')
    if isinstance(attention, Saliency) and attention.by == "spectral-residual":
        raise RecipeError(
            f"{what}: a spectral residual is of the picture, and training sees maps: choose saliency by norms, centre "
            "or sums"
        )


def make_trainable_head(branch: Branch, layer: Layer, network: str, recipe: str, *, learn_p: bool, seed: int) -> Head:
    """The head of a branch as the recipe has it.

    An attention without weights starts as its module does, drawn with the seed. network, recipe: names, for messages.
    learn_p: whether p learns, where the branch has one.
    Raises RecipeError as ``check_trainable``, where a stage does not fit the layer or a file cannot be used, and where
    an embedding has nothing to start from.
    """
    check_trainable(branch, recipe)
    check_layer(branch, layer, network)
    p = _exponent(branch.pooling, layer) if isinstance(branch.pooling, Gem) else None
    attention = _attention_of(branch, layer, p, seed)
    embedder, statistics = None, None
    if branch.embedding is not None:
        if not branch.learned:
            raise RecipeError(
                f"recipe {recipe}: embedding {branch.embedding.kind} has nothing to start from: run `resight fit` "
                "with photos like those to be searched, and train the recipe that it makes"
            )
        reduction = Path(branch.reduction) if branch.reduction else None
        embedder = Embedder.load(branch.embedding, Path(branch.learned), reduction, weighted=branch.weighted)
        if isinstance(branch.scheme, Whole) and embedder.input_dimension != layer.channels:
            raise RecipeError(
                f"{branch.learned}: takes features of {embedder.input_dimension} entries, layer {layer.name} gives "
                f"{layer.channels}: fit the recipe again with `resight fit`"
            )
    elif learns(branch.pooling):
        if not branch.learned:
            raise RecipeError(
                f"recipe {recipe}: pooling {branch.pooling.kind} has not learned its channels: run `resight fit` first"
            )
        statistics = ChannelStatistics.load(Path(branch.learned))
    pool = make_pool(branch.pooling, statistics, None)
    return Head(branch, layer, attention, p if learn_p and has_exponent(branch, layer) else None, pool, embedder)


def has_exponent(branch: Branch, layer: Layer) -> bool:
    """Whether it is GeM that makes the branch's vector, or vectors of regions."""
    embedded = branch.embedding is not None and isinstance(branch.scheme, Whole)
    return isinstance(branch.pooling, Gem) and layer.kind == "map" and not embedded


def _exponent(pooling: Gem, layer: Layer) -> Tensor:
    if np.size(pooling.p) not in (1, layer.channels):
        raise RecipeError(
            f"pooling gem: {np.size(pooling.p)} exponents for the {layer.channels} channels of layer {layer.name}: "
            "give one, or as many as channels"
        )
    return torch.as_tensor(exponent(pooling), dtype=torch.float32)


def _attention_of(branch: Branch, layer: Layer, p: Tensor | None, seed: int) -> nn.Module | None:
    """The module of an attention that learns, from its file, or else as it starts."""
    stage = branch.attention
    if stage is None or isinstance(stage, Saliency | ClassToken):
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = new_attention(stage, layer.channels)
    if stage.weights:
        check_trained(branch)
        what = f"attention {stage.kind} over the {layer.channels} channels of layer {layer.name}"
        load_attention(module, stage, Path(stage.weights), what)
    module.eval().requires_grad_(True)
    if isinstance(module, AttentionGeM):
        if p is None or p.numel() != 1:
            raise RecipeError('attention attention-gem has one p: say pooling = { kind = "gem", p = 3.0 }')
        with torch.no_grad():
            module.gem.p.copy_(p.reshape(()))
        module.gem.requires_grad_(False)  # the head's p stands for it
    return module


def _layer_of(embedder: Embedder | None) -> nn.Module | None:
    if embedder is None:
        return None
    if not isinstance(embedder.embedding, LayerEmbedding):
        raise ValueError("only trainable layers are embeddings here")
    return embedder.embedding.layer.requires_grad_(True)
