"""From the output of one layer to one vector: regions, pooling, embedding, scales (survey Fig. 2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resight.describe.attention import Attention, make_attention
from resight.describe.embedding import Embedder, choose_positions
from resight.describe.pooling import ChannelStatistics, Places, Pool, learns, make_places, make_pool
from resight.describe.proposals import RegionProposals
from resight.describe.views import regions_of
from resight.errors import RecipeError
from resight.features.multiscale import combine_scales, l2_normalise
from resight.fitted import Fitted
from resight.geometry.regions import round_outwards
from resight.networks.layers import Layer
from resight.pooling.rmac import region_maxima
from resight.recipes.network_stages import Branch, Keypoints, MapRpn, Scheme, Whole
from resight.recipes.poolings import Crow, Gem, Plain

Scales = tuple[NDArray[np.floating], ...]  # R×C features of an image at each scale


@dataclass(frozen=True, eq=False)
class Head:
    """What a branch makes of its layer's output.

    pool: of a map, or of a region's part of it. places: where what it pools comes from.
    embedder: None where the recipe has none, or has yet to learn it.
    learned: fingerprint of what was learned, "" without.
    fitted: what was learned, by name: ``pooling``, ``embedding``, ``reduction``.
    attention: None where the recipe has none. rpn: what proposes regions on the map, where the scheme is that.
    """

    branch: Branch
    layer: Layer
    pool: Pool
    places: Places
    embedder: Embedder | None
    learned: str
    fitted: Mapping[str, Fitted]
    attention: Attention | None
    rpn: RegionProposals | None = None

    @property
    def ready(self) -> bool:
        """Whether all that it learns has been learned."""
        return bool(self.learned) or not needs_learning(self.branch)

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """Of what was learned, "" without, and of the attention and what proposes regions, where there are such."""
        parts = (part.fingerprint for part in (self.attention, self.rpn) if part is not None)
        return self.learned, *parts

    def attended(self, output: Tensor, picture: NDArray[np.uint8], beside: Tensor | None) -> Tensor:
        """The layer's output for a picture under the branch's attention, if it has one. beside: as ``features``."""
        return output if self.attention is None else self.attention.attend(output, picture, beside)

    def features(
        self,
        output: Tensor,
        picture: NDArray[np.uint8],
        boxes: NDArray[np.float32] | None,
        beside: Tensor | None = None,
    ) -> NDArray[np.floating]:
        """R×C features of a picture: vectors of its regions; for an embedding, and before learning, of map positions.

        Where the embedding counts positions by weights, their features are as long as these.
        output: the layer's, 1×C×h×w or 1×C. boxes: of proposals on the map, as fractions. beside: the output of the
        layer that the branch's attention needs besides, if it does. Both on any device: what has learned nothing
        pools there, which spares a CUDA device's map the way to the CPU.
        """
        scheme = self.branch.scheme
        if self.layer.kind == "vector":
            return output.double().cpu().numpy()
        if self.attention is not None or not isinstance(self.branch.pooling, Gem | Plain | Crow):
            output, beside = output.cpu(), None if beside is None else beside.cpu()
        embedding = self.branch.embedding
        weigh = self.attention.weigh if self.attention is not None and self.branch.weighted else None
        weights = None if weigh is None else weigh(output, picture, beside)[0, 0].numpy()
        if self.rpn is not None:
            boxes = self.rpn.boxes(output, picture)
        output = output if weights is not None else self.attended(output, picture, beside)
        if embedding is not None and isinstance(scheme, Whole):
            maps = output[0].float().cpu().numpy()
            chosen = choose_positions(embedding, maps, picture)
            features = np.ascontiguousarray(maps[:, chosen].T)
            return features if weights is None else l2_normalise(features) * weights[chosen][:, np.newaxis]
        if embedding is None and not self.ready:  # what its pooling learns from
            return output[0].flatten(1).T.float().cpu().numpy()
        cells = cells_on_map(scheme, output, picture, boxes)
        if self.branch.pooling.kind == "mac" and len(cells) > 1:
            return region_maxima(output, cells)[0].double().cpu().numpy()
        parts = [self.pool(output[:, :, y1:y2, x1:x2]) for x1, y1, x2, y2 in cells]
        return torch.cat(parts).double().cpu().numpy()

    def vectors(self, images: list[Scales]) -> NDArray[np.float64]:
        """N×D of N images' features; ℓ2-normalised."""
        if self.embedder is not None:
            return self.embedder.transform_sets([np.concatenate(scales) for scales in images])
        gem = np.asarray(self.branch.pooling.p) if self.branch.pooling.kind == "gem" else 1.0
        return np.stack(
            [combine_scales(np.stack([self._aggregate(x) for x in s]), self.branch.scale_pooling, gem) for s in images]
        )

    def memberships(self, scales: Scales) -> NDArray[np.float64]:
        """R×W of an image: how far each feature belongs to each word of the branch's bag of words."""
        if self.embedder is None:
            raise ValueError("the branch has no embedding")
        return self.embedder.memberships(np.concatenate(scales))

    def _aggregate(self, regions: NDArray[np.floating]) -> NDArray[np.float64]:
        if len(regions) == 1:
            return l2_normalise(regions[0])
        vectors = l2_normalise(regions)
        match getattr(self.branch.scheme, "aggregate", "sum"):
            case "max":
                return np.asarray(vectors.max(axis=0))
            case "concatenate":
                return vectors.ravel()
        return np.asarray(vectors.sum(axis=0))


def cells_on_map(
    scheme: Scheme, output: Tensor, picture: NDArray[np.uint8], boxes: NDArray[np.float32] | None
) -> list[list[int]]:
    """R (x1, y1, x2, y2), the cells of a 1×C×h×w map that each region takes; all, unless regions are pooled on the map.

    picture: what the map is of. boxes: of proposals, as fractions.
    """
    height, width = output.shape[2:]
    if isinstance(scheme, Whole | Keypoints) or scheme.on == "pixels":
        return [[0, 0, width, height]]
    regions = regions_of(scheme, (width, height), (picture.shape[1], picture.shape[0]), boxes)
    cells: list[list[int]] = round_outwards(regions, width, height).tolist()
    return cells


def needs_learning(branch: Branch) -> bool:
    """Whether pooling or embedding learn from photos."""
    return branch.embedding is not None or learns(branch.pooling)


def make_head(
    branch: Branch, layer: Layer, folder: Path, classifier: tuple[Tensor, Tensor] | None, network: str
) -> Head:
    """The head of a branch, with what it learned where the recipe names it.

    folder: what the recipe's files are relative to. classifier: of the network, where the pooling asks for it.
    Raises RecipeError where stages do not fit each other, with the reason, or a file cannot be used.
    """
    check_layer(branch, layer, network)
    if branch.pooling.kind == "gem" and np.size(branch.pooling.p) not in (1, layer.channels):
        raise RecipeError(
            f"pooling gem: {np.size(branch.pooling.p)} exponents for the {layer.channels} channels of layer "
            f"{layer.name}: give one, or as many as channels"
        )
    attention = make_attention(branch, layer, folder)
    rpn = None if not isinstance(branch.scheme, MapRpn) else RegionProposals.load(branch.scheme, layer, folder)
    if classifier is not None and classifier[0].shape[1] != layer.channels:
        raise RecipeError(
            f"pooling cam-crow: the classifier of {network} takes {classifier[0].shape[1]} channels, layer "
            f"{layer.name} has {layer.channels}: choose the layer that the classifier works on"
        )
    statistics, embedder, learned = None, None, ""
    fitted: dict[str, Fitted] = {}
    if branch.embedding is not None and branch.learned:
        if bool(branch.embedding.reduce) != bool(branch.reduction):
            raise RecipeError("embedding: `reduce` and `reduction` go together: fit the recipe with `resight fit`")
        reduction = folder / branch.reduction if branch.reduction else None
        embedder = Embedder.load(branch.embedding, folder / branch.learned, reduction, weighted=branch.weighted)
        learned = embedder.fingerprint
        fitted = {"embedding": embedder} | ({} if embedder.reduction is None else {"reduction": embedder.reduction})
        takes = embedder.input_dimension
        if takes != layer.channels:
            raise RecipeError(
                f"{folder / branch.learned}: takes features of {takes} entries, layer {layer.name} gives "
                f"{layer.channels}: fit the recipe again with `resight fit`"
            )
    elif learns(branch.pooling) and branch.learned:
        statistics = ChannelStatistics.load(folder / branch.learned)
        learned = statistics.fingerprint
        fitted = {"pooling": statistics}
        if len(statistics.mean) != layer.channels:
            raise RecipeError(
                f"{folder / branch.learned}: is of {len(statistics.mean)} channels, layer {layer.name} has "
                f"{layer.channels}: fit the recipe again with `resight fit`"
            )
    pool = make_pool(branch.pooling, statistics, classifier)
    places = make_places(branch.pooling, statistics, classifier)
    if attention is not None:
        pool, places = attention.pool or pool, attention.places or places
    return Head(branch, layer, pool, places, embedder, learned, fitted, attention, rpn)


def check_layer(branch: Branch, layer: Layer, network: str) -> None:
    """Raises RecipeError where the branch asks a layer without positions for what only a map has."""
    if layer.kind == "map":
        return
    what = f"layer {layer.name} of {network} is one vector, without positions"
    scheme = branch.scheme
    if not isinstance(scheme, Whole | Keypoints) and scheme.on == "map":
        raise RecipeError(f'{what}: scheme {scheme.kind} cannot take regions of it; give it on = "pixels"')
    if branch.attention is not None:
        raise RecipeError(f"{what}: attention {branch.attention.kind} has none to weigh; choose a map, or leave it out")
    if branch.embedding is not None and isinstance(scheme, Whole):
        raise RecipeError(f"{what}: embedding {branch.embedding.kind} needs a set: choose a map, or regions")
    if branch.pooling.kind not in ("gem", "average"):
        raise RecipeError(f"{what}: pooling {branch.pooling.kind} has nothing to pool; leave it out")
