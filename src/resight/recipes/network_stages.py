"""The [global] table: which network, which of its layers, fed how, pooled how, fused how (survey §3, §4.1)."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from resight.features.fusion import Late
from resight.recipes.attention import MASKS, Attention, ClassToken, obstacle
from resight.recipes.embeddings import BowStage, Embedding
from resight.recipes.poolings import Gem, Pooling
from resight.recipes.stage import Stage, check_one_place

# Keys whose values are paths of files.
LEARNED = ("whitening", "learned", "reduction", "quantised")
FILES = ("weights", *LEARNED, "model")
# Keys that say which weights a network has.
WEIGHTS = ("weights", "revision", "weights_sha256")


class Whole(Stage):
    """The whole image, in one pass a scale."""

    kind: Literal["whole"] = "whole"


class _Regions(Stage):
    """Regions of an image, each with a vector of its own.

    on: ``map`` pools the regions of one pass's feature map; ``pixels`` sends each region through the network, as a
        square of `side` pixels.
    aggregate: of the regions' ℓ2-normalised vectors: their sum, their maximum, or their concatenation.
    """

    on: Literal["map", "pixels"] = "map"
    side: int = Field(default=224, ge=32, le=1024)
    aggregate: Literal["sum", "max"] = "sum"


class Grid(_Regions):
    """R-MAC's rigid grid (Tolias, Sicre & Jégou 2016) of `levels` levels, as published or as cirtorch makes it."""

    kind: Literal["grid"]
    levels: int = Field(default=3, ge=1, le=8)
    variant: Literal["paper", "cirtorch"] = "paper"


class Pyramid(_Regions):
    """Spatial pyramid: n×n cells for each n of `cells`. Only these can be concatenated: their number is always one."""

    kind: Literal["pyramid"]
    cells: tuple[Annotated[int, Field(ge=1, le=16)], ...] = Field(default=(1, 2), min_length=1)
    aggregate: Literal["sum", "max", "concatenate"] = "sum"  # type: ignore[assignment]


class Dense(_Regions):
    """Sliding windows. sides, stride: in pixels of the image at max_side (MOP-CNN: 256, 128 and 64, stride 32)."""

    kind: Literal["dense"]
    on: Literal["map", "pixels"] = "pixels"
    sides: tuple[Annotated[int, Field(ge=16)], ...] = Field(default=(256, 128), min_length=1)
    stride: int = Field(default=32, ge=4)


class Proposals(_Regions):
    """Object proposals, the best `top` after suppression of those that overlap by more than `overlap`, and the whole.

    seen: longest side in pixels of the picture in which they are looked for; the time it takes grows with its area.
    model: trained model of BING (folder), of the RPN (weights) or of edge boxes (optional), relative to the recipe.
    """

    kind: Literal["selective-search", "edge-boxes", "bing", "rpn"]
    top: int = Field(default=50, ge=1, le=2000)
    overlap: float = Field(default=0.7, gt=0, le=1)
    seen: int = Field(default=256, ge=64, le=4096)
    model: str = ""


class MapRpn(Stage):
    """Regions that a network proposes on the map itself, as Deep Retrieval (Gordo et al. 2016), and the whole of it.

    top, overlap: as of other proposals. model: of the network, which `resight train` makes, relative to the recipe.
    """

    kind: Literal["map-rpn"]
    on: Literal["map"] = "map"
    aggregate: Literal["sum", "max"] = "sum"
    top: int = Field(default=32, ge=1, le=2000)
    overlap: float = Field(default=0.7, gt=0, le=1)
    model: str = ""


class Keypoints(Stage):
    """Rectified patches around the strongest `top` keypoints, of `scale` times their size; one pass for each."""

    kind: Literal["dog", "mser", "hessian-affine"]
    top: int = Field(default=100, ge=1, le=5000)
    scale: float = Field(default=6.0, gt=0)
    side: int = Field(default=64, ge=32, le=512)
    aggregate: Literal["sum", "max"] = "sum"


Scheme = Annotated[Whole | Grid | Pyramid | Dense | Proposals | MapRpn | Keypoints, Field(discriminator="kind")]


class Branch(Stage):
    """One layer of one network, fed and pooled in one way.

    layer: a plain name of `resight networks show NETWORK`.
    max_side: longest side in pixels of what the network sees; smaller images are not enlarged.
    scales: of max_side; scale_pooling combines them.
    attention: what weighs or re-writes the positions of a feature map first; not taken over by further branches, as
        its weights are of one layer. Before an embedding of positions, its weights say how much each counts.
    pooling: of a feature map over positions; a layer that is a vector has none.
    embedding: of the features at a map's positions, or of regions' vectors, in place of the pooling or aggregation.
    weight: of this branch in the fusion.
    dimensions: after whitening.
    weights: path of a local weights file, relative to the recipe's folder, or "" for the library's own download.
    revision: commit or tag of the downloaded weights' repository on the Hugging Face hub; "" for its newest.
    whitening: path of a PCA-whitening artefact made by `resight fit`, relative to the recipe's folder; "" = unfitted.
    learned, reduction: likewise of what pooling or embedding learn, and of the PCA before an embedding.
    quantised: likewise of the network in 8 bits, which `resight fit --int8` makes; then that is what runs.
    """

    network: str
    layer: str = "features"
    max_side: int = Field(default=1024, ge=32, le=4096)
    scales: tuple[Annotated[float, Field(gt=0, le=4)], ...] = Field(default=(1.0,), min_length=1)
    attention: Attention | None = None
    pooling: Pooling = Field(default_factory=Gem)
    embedding: Embedding | None = None
    scale_pooling: Literal["mean", "gem"] = "mean"
    scheme: Scheme = Field(default_factory=Whole)
    weight: float = Field(default=1.0, gt=0)
    dimensions: int = Field(default=512, ge=2)
    weights: str = ""
    revision: str = ""
    weights_sha256: str = ""
    whitening: str = ""
    learned: str = ""
    reduction: str = ""
    quantised: str = ""

    @property
    def crops(self) -> bool:
        """Whether regions of pixels go through the network, not whole pictures."""
        return isinstance(self.scheme, Keypoints) or (not isinstance(self.scheme, Whole) and self.scheme.on == "pixels")

    @property
    def weighted(self) -> bool:
        """Whether the embedding counts positions by the attention's weights."""
        whole = self.embedding is not None and isinstance(self.scheme, Whole)
        return whole and isinstance(self.attention, MASKS)

    @property
    def beside(self) -> str | None:
        """The layer that the attention needs besides the branch's own."""
        return "cls" if isinstance(self.attention, ClassToken) else None

    @property
    def files(self) -> tuple[str, ...]:
        """Of the files beside the recipe that it names."""
        names = [*(getattr(self, key) for key in ("weights", *LEARNED)), getattr(self.attention, "weights", "")]
        return tuple(name for name in names if name)

    @property
    def feeding(self) -> tuple[str, ...]:
        """What decides which pictures go through which network: branches that agree in it share the passes."""
        cut = self.scheme.model_dump_json(exclude={"aggregate"}) if self.crops else ""
        return self.network, self.weights, self.revision, self.quantised, str(self.max_side), str(self.scales), cut

    def dump_parameters(self) -> str:
        """All that decides what the branch computes from its network, as JSON; without places of files."""
        outside = {"network", "weight", "dimensions", "revision", "weights_sha256", *FILES}
        if self.attention is None:
            outside.add("attention")  # what was fitted before there was any still fits
        moving = {"scheme": {"model"}, "attention": {"weights", "weights_sha256"}}
        return self.model_dump_json(include=set(Branch.model_fields) - outside, exclude=moving)

    @model_validator(mode="after")
    def _keypoints_have_one_scale(self) -> Self:
        if self.crops and len(self.scales) > 1:
            raise ValueError("regions of pixels are fed at one scale: give scales = [1.0]")
        return self

    @model_validator(mode="after")
    def _weights_come_from_one_place(self) -> Self:
        check_one_place(self.weights, self.revision)
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.scale_pooling == "gem" and (self.pooling.kind != "gem" or self.embedding is not None):
            raise ValueError('scale_pooling = "gem" goes with pooling = "gem", whose p it takes')
        whole = isinstance(self.scheme, Whole)
        if self.attention is not None:
            why = obstacle(
                self.attention,
                layer=self.layer,
                pooling=self.pooling.kind,
                embedding=None if self.embedding is None else self.embedding.kind,
                whole=whole,
                crops=self.crops,
            )
            if why:
                raise ValueError(why)
        if self.pooling.kind == "cam-crow" and not whole:
            raise ValueError("cam-crow makes regions itself, one a class: leave the scheme out")
        if self.embedding is not None:
            if self.pooling.kind in ("sba", "cam-crow", "heat"):
                raise ValueError(f"an embedding takes the place of pooling {self.pooling.kind}: leave one out")
            if not whole and self.embedding.mask != "none":
                raise ValueError("an embedding's mask chooses positions of the whole map: leave the scheme out")
        return self


class GlobalStage(Branch):
    """One global descriptor of one or several branches.

    also: further branches, each a table of what differs from the first.
    fusion: early, before the whitening: ``concatenate`` joins the weighted vectors; ``orthogonal`` appends to the first
        what of the second is orthogonal to it; ``deep-index`` counts pairs of two layers' words.
        Late, which keeps the vectors apart, each with its own whitening, and joins similarities to each image:
        ``scores`` their weighted mean, ``ranks`` their reciprocal ranks (Cormack et al. 2009), ``exponential`` refines
        the first's by the others', ``index-matrix`` counts places among each one's 100 nearest.
    power: entries z of the descriptor become sign(z)·|z|^power, before it is whitened; 0.5 is square-rooting.
    whiten: ``image`` the descriptor; ``regions`` each region before they are aggregated, as R-MAC does; ``layer``
        likewise, but regions as they are pooled, not ℓ2-normalised, as a fully connected layer takes them; ``none``.
    projection: what `resight fit` learns for it: PCA-whitening, with `ridge` times the mean variance added to every
        one, or PCA alone. (`resight learn-whitening` learns one from matching pairs.)
    """

    also: tuple[dict[str, Any], ...] = ()
    fusion: Literal["concatenate", "orthogonal", "deep-index"] | Late = "concatenate"
    power: float = Field(default=1.0, gt=0, le=1)
    whiten: Literal["image", "regions", "layer", "none"] = "image"
    projection: Literal["pca-whitening", "pca"] = "pca-whitening"
    ridge: float = Field(default=10.0, ge=0)

    @property
    def branches(self) -> tuple[Branch, ...]:
        """All branches, the first first."""
        own = self.model_dump(include=set(Branch.model_fields))
        fresh = {**dict.fromkeys(LEARNED, ""), "weight": 1.0, "attention": None}
        none = dict.fromkeys(WEIGHTS, "")
        changed = (none if {"network", "weights", "revision"} & other.keys() else {} for other in self.also)
        return tuple(
            Branch.model_validate(table)
            for table in (own, *({**own, **fresh, **c, **other} for c, other in zip(changed, self.also, strict=True)))
        )

    @property
    def whitens_each(self) -> bool:
        """Whether regions are whitened one by one, before they are summed."""
        return self.whiten in ("regions", "layer")

    @property
    def late(self) -> Late | None:
        """How branches are fused by similarity; None where they are by vector."""
        match self.fusion:
            case "scores" | "ranks" | "exponential" | "index-matrix" if self.also:
                return self.fusion
        return None

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths of the vectors that make up the stored one: one a branch in late fusion, else one."""
        return tuple(branch.dimensions for branch in self.branches) if self.late else (self.dimensions,)

    @model_validator(mode="after")
    def _branches_fit(self) -> Self:
        try:
            branches = self.branches
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ValueError(f"also: {place}: {first['msg']}") from error
        if self.fusion in ("orthogonal", "deep-index"):
            _check_pair(self.fusion, branches)
        if self.whitens_each and any(branch.embedding for branch in branches):
            raise ValueError(f'whiten = "{self.whiten}" is for regions that are summed, not embedded')
        if self.whitens_each and len(branches) > 1 and not self.late:
            raise ValueError(f'whiten = "{self.whiten}" fits one branch, or several under late fusion')
        if self.whitens_each and self.power != 1:
            raise ValueError(
                f'power is of the whole descriptor, and whiten = "{self.whiten}" of its regions: choose one'
            )
        if not self.late and any(b.whitening for b in branches[1:]):
            raise ValueError("also: concatenated branches share one whitening, which is the first table's")
        if self.whiten == "none" and any(b.whitening for b in branches):
            raise ValueError('whiten = "none" has no use for a whitening')
        return self


def _check_pair(fusion: str, branches: tuple[Branch, ...]) -> None:
    if len(branches) != 2:
        raise ValueError(f"fusion {fusion} is of two branches: give one table of `also`")
    if fusion == "deep-index":
        if not all(isinstance(branch.embedding, BowStage) for branch in branches):
            raise ValueError('fusion deep-index counts pairs of visual words: give both embedding = { kind = "bow" }')
        fed = [(*branch.feeding[4:], branch.scheme, branch.embedding and branch.embedding.mask) for branch in branches]
        if fed[0] != fed[1]:
            raise ValueError("fusion deep-index pairs the words of the same regions: give both the same scheme")
