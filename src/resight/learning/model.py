"""A recipe's [global] stage as a module that learns: from pictures to descriptors, in two parts, of which the first
is frozen (survey §5.1).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from resight.describe.describer import load_global
from resight.describe.fit import with_branches
from resight.errors import RecipeError
from resight.learning.heads import Head, make_trainable_head
from resight.learning.model_layers import HashLayer, LinearProjection, join, power
from resight.learning.model_settings import Learns as Learns
from resight.learning.model_trunk import after, learned_parameters
from resight.networks.backbone import Backbone, load_backbone
from resight.networks.chain import Chain, find_chain, from_grid, to_grid
from resight.networks.trunk import Tap, Trunk, run
from resight.networks.weights import check_sha256, file_sha256
from resight.pooling.sum_pooling import unit
from resight.projection.projection import Projection
from resight.recipes.network_stages import Branch, GlobalStage

_EXPONENT_RATE = 10.0  # of GeM's p, as in cirtorch


class Model(nn.Module):
    """``suffix`` ∘ ``prefix``: the descriptors that the stage makes of whole pictures at one scale, before a whitening
    that is fitted afterwards; made by ``make_model``.

    Batch normalisation keeps its statistics also in training, as in cirtorch, and dropout is off unless settings say
    so; so what a picture gives depends on no other picture.

    stage: the recipe's, its weights those that the model started from. learns: what of it does.
    network: timm's name. base_sha256: of the weights it started from. batchnorm_eps: as ``Backbone`` has it.
    multiple, least: sides of pictures are multiples of the one and at least the other, in pixels.
    dimension: D, of a descriptor. raw_dimension: before projection and hash layer.
    """

    def __init__(
        self,
        stage: GlobalStage,
        learns: Learns,
        backbone: Backbone,
        heads: Sequence[Head],
        reads: Sequence[tuple[int, int | None]],
        chain: Chain | None,
        cut: int,
    ) -> None:
        super().__init__()
        self.stage = stage
        self.learns = learns
        self.network = backbone.name
        self.base_sha256 = backbone.weights_sha256
        self.batchnorm_eps = backbone.batchnorm_eps
        self.multiple = backbone.multiple
        self.least = backbone.least
        self.trunk: Trunk = backbone.module
        self.heads = nn.ModuleList(heads)
        self.projection: LinearProjection | None = None
        self.hash: HashLayer | None = None
        self.raw_dimension = self.dimension = 0
        self._reads = tuple(reads)
        self._chain = chain
        self._cut = cut
        self.train(False)

    @property
    def splits(self) -> bool:
        """Whether ``prefix`` computes the network's frozen beginning, so that its outputs are worth keeping.

        Else it only normalises, because all learns or because the network is no chain of modules.
        """
        return self._cut > 0

    def train(self, mode: bool = True) -> Self:
        """As of any module, but that normalisation, and dropout unless it is asked for, stay as in evaluation."""
        super().train(False)
        self.training = mode
        if self.learns.dropout:
            for module in self.trunk.modules():
                if isinstance(module, nn.modules.dropout._DropoutNd) or type(module).__name__ == "DropPath":
                    module.training = mode
        return self

    @torch.no_grad()
    def prefix(self, images: Tensor) -> Tensor:
        """The network's frozen beginning, without gradients: what ``suffix`` takes, one row a picture.

        images: B×3×H×W RGB: uint8, or floating point in [0, 1]. Raises ValueError for others, and sides that are no
        multiples of ``multiple``.
        """
        return self._begun(images)

    def through(self, *scales: Tensor) -> Tensor:
        """``forward`` of pictures at one or several scales, with gradients also to their pixels; B×D.

        scales: of the same B pictures, each as ``prefix`` takes them, floating point; they join as the stage says.
        """
        outputs = [self._outputs(self._begun(images)) for images in scales]
        with torch.autocast(scales[0].device.type, enabled=False):
            return self._descriptors(*outputs)

    def _begun(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be B×3×H×W, not {tuple(images.shape)}")
        height, width = images.shape[2:]
        if height % self.multiple or width % self.multiple:
            raise ValueError(f"images for {self.network} must have sides in multiples of {self.multiple}")
        x = images.to(self.trunk.mean.device).float()
        x = ((x if images.is_floating_point() else x / 255) - self.trunk.mean) / self.trunk.std
        if self._chain is None or not self.splits:
            return x
        state = self._chain.run(x, 0, self._cut)[0]
        tap = self._tokens
        if tap is None or tap.layer.stride is None or state.ndim != 3:
            return state
        return to_grid(state, height // tap.layer.stride, width // tap.layer.stride)

    def suffix(self, state: Tensor) -> Tensor:
        """What ``prefix`` gave, B×…, to descriptors: B×D float32, ℓ2-normalised."""
        outputs = self._outputs(state)
        with torch.autocast(state.device.type, enabled=False):
            return self._descriptors(outputs)

    def forward(self, images: Tensor) -> Tensor:
        """B×3×H×W as ``prefix`` takes them to B×D float32, ℓ2-normalised."""
        return self.suffix(self.prefix(images))

    def groups(self) -> list[dict[str, Any]]:
        """Groups of what learns for a torch optimiser. lr: a factor of the run's rate. weight_decay: 0 where there is
        to be none, as of biases, normalisations and p; absent where the run's holds.
        """
        ends = {id(head.p) for head in self.branch_heads if head.p is not None}
        learned = [(name, x) for name, x in self.named_parameters() if x.requires_grad]
        trunk = [x for name, x in learned if name.startswith("trunk.")]
        head = [x for name, x in learned if not name.startswith("trunk.") and id(x) not in ends]
        found: list[dict[str, Any]] = []
        for name, parameters, rate in (("trunk", trunk, 1.0), ("head", head, self.learns.head_rate)):
            found.append({"name": name, "params": [x for x in parameters if x.ndim > 1], "lr": rate})
            flat = [x for x in parameters if x.ndim <= 1]
            found.append({"name": f"{name} without decay", "params": flat, "lr": rate, "weight_decay": 0.0})
        exponents = [x for _, x in learned if id(x) in ends]
        found.append({"name": "exponent", "params": exponents, "lr": _EXPONENT_RATE, "weight_decay": 0.0})
        return [group for group in found if group["params"]]

    @property
    def branch_heads(self) -> tuple[Head, ...]:
        """One a branch."""
        return tuple(head for head in self.heads if isinstance(head, Head))

    @property
    def _tokens(self) -> Tap | None:
        return next((tap for tap in self.trunk.taps if tap.layout == "BNC"), None)

    def _outputs(self, state: Tensor) -> list[Tensor]:
        """The outputs of the network's layers, a map or vector each."""
        taps, (height, width) = self.trunk.taps, state.shape[-2:]
        modules = tuple(dict.fromkeys(tap.layer.module for tap in taps))
        if self._chain is None or not self.splits:
            taken = run(self.trunk.network, state, modules, stop=True)
        else:
            tap = self._tokens
            if tap is not None and tap.layer.stride is not None and state.ndim == 4:
                state, rows, columns = from_grid(state, tap.prefix)
                height, width = rows * tap.layer.stride, columns * tap.layer.stride
            taken = self._chain.run(state, self._cut, len(self._chain.links), modules)[1]
        return [tap.shaped(taken[tap.layer.module], height, width) for tap in taps]

    def _descriptors(self, *scales: list[Tensor]) -> Tensor:
        raw = self._raw(*scales)
        if self.projection is not None:
            raw = self.projection(raw)
        if raw.ndim == 3:  # regions, each projected; R-MAC's sum
            raw = unit(raw.sum(dim=1))
        if self.hash is None:
            return raw
        codes: Tensor = self.hash(raw)
        return codes

    def _raw(self, *scales: list[Tensor]) -> Tensor:
        """B×D ℓ2-normalised, or B×R×D where regions are projected one by one. scales: the outputs of each."""
        stage = self.stage
        if stage.whitens_each and self.projection is not None:
            return torch.cat([self._regions(outputs) for outputs in scales], dim=1)
        given = zip(*map(self._inputs, scales), strict=True)
        vectors = [head.scales(own) for head, own in zip(self.branch_heads, given, strict=True)]
        fusion: Literal["concatenate", "orthogonal"] = "orthogonal" if stage.fusion == "orthogonal" else "concatenate"
        joined = join(vectors, [branch.weight for branch in stage.branches], fusion)
        return joined if stage.power == 1 else power(joined, stage.power)

    def _regions(self, outputs: list[Tensor]) -> Tensor:
        """B×R×C: what is projected of each region, of the one branch there is."""
        regions = self.branch_heads[0].regions(*self._inputs(outputs)[0])
        return regions if self.stage.whiten == "layer" else unit(regions)

    def _inputs(self, outputs: list[Tensor]) -> list[tuple[Tensor, Tensor | None]]:
        """Of each head: its layer's output, and that of the layer beside it."""
        return [(outputs[own], None if beside is None else outputs[beside]) for own, beside in self._reads]


def make_model(
    stage: GlobalStage,
    *,
    weights: Path | None,
    learns: Learns,
    recipe_name: str,
    seed: int,
    initial: Projection | None = None,
) -> Model:
    """The trainable form of a recipe's stage, on the CPU, as the recipe is now.

    weights: of the network, in place of the recipe's own. seed: of all that is new.
    initial: what ``projection`` starts from; by default the recipe's whitening where that has as many dimensions, else
        it is drawn.
    Raises RecipeError where something of the stage has no gradient, saying what to choose; where nothing would learn,
    or a setting does not fit; where that whitening is of other weights or parameters than the stage's; and as
    ``load_backbone`` and ``make_trainable_head``.
    """
    with torch.random.fork_rng(devices=[]):  # networks draw their parameters before they get their weights
        return _made(stage, weights, learns, recipe_name, seed, initial)


def _made(
    stage: GlobalStage, weights: Path | None, learns: Learns, recipe_name: str, seed: int, initial: Projection | None
) -> Model:
    if weights is not None:
        given = {"weights": str(weights.absolute()), "revision": "", "weights_sha256": ""}
        stage = with_branches(stage, dict.fromkeys(range(len(stage.branches)), given))
    branches = stage.branches
    _check(stage, branches, recipe_name)
    first = branches[0]
    file = Path(first.weights) if first.weights else None
    if file is not None:
        check_sha256(file_sha256(file), first.weights_sha256, str(file))
    pairs = [(branch.layer, branch.beside) for branch in branches]
    names = tuple(dict.fromkeys(name for pair in pairs for name in pair if name is not None))
    backbone = load_backbone(first.network, layers=names, weights=file, revision=first.revision or None)
    if file is None:
        check_sha256(backbone.weights_sha256, first.weights_sha256, f"the downloaded weights of {first.network}")
    heads = [
        make_trainable_head(
            branch,
            backbone.layers[names.index(branch.layer)],
            first.network,
            recipe_name,
            learn_p=learns.exponent,
            seed=seed + place,
        )
        for place, branch in enumerate(branches)
    ]
    if learns.exponent and all(head.p is None for head in heads):
        raise RecipeError(f"recipe {recipe_name}: exponent is GeM's over a map: choose pooling gem, or leave it out")
    network = backbone.module.network
    modules = tuple(dict.fromkeys(layer.module for layer in backbone.layers))
    wanted = learned_parameters(network, learns.layers, first.network)
    probe = _probe(backbone)
    chain = None if learns.layers == "all" else find_chain(network, modules, (probe.shape[2], probe.shape[3]))
    cut = 0 if chain is None else after(chain, wanted)
    reads = [(names.index(own), None if beside is None else names.index(beside)) for own, beside in pairs]
    model = Model(stage, learns, backbone, heads, reads, chain, cut)
    _add_layers(model, recipe_name, probe, seed, initial)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in wanted)
    _freeze_unused(model, probe)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise RecipeError(
            f"recipe {recipe_name}: nothing learns with layers = {learns.layers!r}: name an earlier layer, or all, or "
            "a layer that is new, by projection, exponent or hash_bits"
        )
    return model


def _check(stage: GlobalStage, branches: Sequence[Branch], recipe: str) -> None:
    what = f"recipe {recipe} cannot learn from labels"
    if stage.late or stage.fusion == "deep-index":
        raise RecipeError(
            f"{what}: fusion {stage.fusion} keeps several descriptors apart: train each as a recipe of its own, or "
            "choose concatenate or orthogonal"
        )
    first = branches[0]
    for branch in branches[1:]:
        for key in ("network", "weights", "revision", "max_side"):
            if getattr(branch, key) != getattr(first, key):
                raise RecipeError(
                    f"{what}: its branches differ in {key}, so that no pass is theirs in common: train each as a "
                    "recipe of its own, and join the trained ones"
                )


def _probe(backbone: Backbone) -> Tensor:
    """1×3×H×W, a random picture that the network takes, wider than high."""
    unit = backbone.multiple
    height = unit * -(-max(backbone.least, 96) // unit)
    return torch.rand(1, 3, height, height + unit * -(-32 // unit), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _add_layers(model: Model, recipe: str, probe: Tensor, seed: int, initial: Projection | None) -> None:
    """Projection and hash layer, whose sizes follow from what comes before."""
    stage, learns = model.stage, model.learns
    try:
        raw = model._raw(model._outputs(model.prefix(probe)))
    except RuntimeError as error:
        raise RecipeError(f"recipe {recipe}: its branches do not fit each other: {error}") from error
    model.raw_dimension = model.dimension = raw.shape[1]
    if learns.projection:
        each = raw.shape[1]
        if stage.whitens_each:  # a concatenation is of several regions
            each = model._regions(model._outputs(model.prefix(probe))).shape[2]
        model.projection = _projection(stage, recipe, each, learns.projection, seed, initial)
        model.dimension = learns.projection
    elif initial is not None:
        raise ValueError("a projection is given to start from, and projection is 0")
    if learns.hash_bits:
        model.hash = HashLayer(model.dimension, learns.hash_bits, learns.hash_beta, seed)
        model.dimension = learns.hash_bits


def _projection(
    stage: GlobalStage, recipe: str, dimension: int, dimensions: int, seed: int, initial: Projection | None
) -> LinearProjection:
    if dimensions > dimension:
        raise RecipeError(
            f"recipe {recipe}: projection = {dimensions}, but the descriptor has only {dimension} entries: lower it"
        )
    if initial is None and stage.whitening and stage.dimensions == dimensions:
        (initial,) = load_global(stage, recipe).whitenings  # says whether it is of other weights or parameters
    if initial is None:
        return LinearProjection.drawn(dimension, dimensions, seed)
    if initial.matrix.shape != (dimensions, dimension):
        raise RecipeError(
            f"recipe {recipe}: a projection of {initial.matrix.shape[1]} entries to {initial.matrix.shape[0]} cannot "
            f"start one of {dimension} to {dimensions}: learn it from this recipe's descriptors"
        )
    return LinearProjection.of(initial)


def _freeze_unused(model: Model, probe: Tensor) -> None:
    """What lies beside the way to the descriptor, as a network's last layers do where an earlier one is read."""
    learned = [x for x in model.trunk.parameters() if x.requires_grad]
    if not learned:
        return
    total = model(probe).sum()
    gradients = torch.autograd.grad(total, learned, allow_unused=True) if total.requires_grad else [None] * len(learned)
    for parameter, gradient in zip(learned, gradients, strict=True):
        if gradient is None:
            parameter.requires_grad_(False)
