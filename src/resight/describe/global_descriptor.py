"""The `[global]` stage made runnable: views → networks → pooling → regions → scales → whitening (survey Fig. 2)."""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, tee
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resight.describe.attention import check_trained
from resight.describe.head import Head, Scales, check_layer, make_head
from resight.describe.views import Feeding, Views
from resight.errors import RecipeError
from resight.features.fusion import append_orthogonal, concatenate, count_pairs
from resight.features.multiscale import l2_normalise
from resight.fitted import Fitted
from resight.networks.backbone import Backbone, load_backbone, load_classifier
from resight.networks.engine import Engine, make_engine
from resight.networks.layers import Layer
from resight.networks.quantise import QuantisedEngine, quantise
from resight.networks.sketch import Sketch
from resight.networks.weights import check_sha256, file_sha256
from resight.projection.power import power
from resight.projection.projection import Projection
from resight.recipes.network_stages import GlobalStage, Proposals

Prepared = tuple[Views, ...]  # of one image, one for each network of the stage


@dataclass(frozen=True, eq=False)
class _Network:
    """One network fed in one way. branches: place in the stage of each branch that reads it, and its output's.

    beside: by place, the output of the layer that a branch's attention needs besides.
    """

    feeding: Feeding
    engine: Engine
    layers: tuple[Layer, ...]
    branches: tuple[tuple[int, int], ...]
    beside: Mapping[int, int]
    identity: tuple[str | float | None, ...]  # name, weights' sha256, batch normalisation's ε; and the engine's if any
    backbone: Backbone


@dataclass(frozen=True, eq=False)
class _Begun:
    """An image some of whose pictures have gone through a network. parts: by picture and branch, features."""

    views: Views
    parts: dict[int, dict[int, NDArray[np.floating]]] = field(default_factory=dict)

    def scales(self) -> dict[int, Scales]:
        """By branch, once all pictures are there."""
        parts = [self.parts[number] for number in range(len(self.views.pictures))]
        joined: Callable[..., Scales] = (lambda *own: (np.concatenate(own),)) if self.views.each else (lambda *own: own)
        return {place: joined(*(part[place] for part in parts)) for place in parts[0]}


class GlobalDescriber:
    """Describes images by one vector each, as a recipe's `[global]` stage says.

    stage: the recipe's stage.
    folder: the recipe's folder, to which the stage's file names are relative; None for the working folder.
    recipe: the recipe's name, for messages. engine: as ``make_engine`` takes.
    Raises RecipeError where network, weights or whitening cannot be had or do not belong together.
    """

    def __init__(
        self, stage: GlobalStage, folder: Path | None, *, recipe: str = "RECIPE", engine: str | None = None
    ) -> None:
        self.stage = stage
        self._recipe = recipe
        for branch in stage.branches:
            check_trained(branch)  # before a network is downloaded in vain
        folder = folder or Path()
        shared: dict[tuple[str, ...], list[int]] = {}
        for place, branch in enumerate(stage.branches):
            shared.setdefault(branch.feeding, []).append(place)
        self._networks = [self._load(places, folder, engine) for places in shared.values()]
        self._heads = self._make_heads(folder)
        self.whitenings = self._load_whitenings(folder)

    def _load(self, places: list[int], folder: Path, engine: str | None) -> _Network:
        branches = [self.stage.branches[place] for place in places]
        first = branches[0]
        weights = folder / first.weights if first.weights else None
        if weights is not None:
            check_sha256(file_sha256(weights), first.weights_sha256, str(weights))
        pairs = [(branch.layer, branch.beside) for branch in branches]
        names = tuple(dict.fromkeys(name for pair in pairs for name in pair if name is not None))
        if weights is None:  # before they are downloaded in vain
            taps = dict(zip(names, Sketch(first.network).taps(names), strict=True))
            for branch in branches:
                check_layer(branch, taps[branch.layer].layer, first.network)
        backbone = load_backbone(first.network, layers=names, weights=weights, revision=first.revision or None)
        if weights is None:
            check_sha256(backbone.weights_sha256, first.weights_sha256, f"the downloaded weights of {first.network}")
        reads = tuple((place, names.index(branch.layer)) for place, branch in zip(places, branches, strict=True))
        beside = {place: names.index(name) for place, (_, name) in zip(places, pairs, strict=True) if name is not None}
        runs = QuantisedEngine(backbone, folder / first.quantised) if first.quantised else make_engine(backbone, engine)
        identity = backbone.name, backbone.weights_sha256, backbone.batchnorm_eps, *filter(None, [runs.identity])
        schemes = [branch.scheme for branch in branches]
        proposals = tuple(dict.fromkeys(s for s in schemes if isinstance(s, Proposals) and s.on == "map"))
        feeding = Feeding(first, backbone.multiple, backbone.least, proposals)
        return _Network(feeding, runs, backbone.layers, reads, beside, identity, backbone)

    def _make_heads(self, folder: Path) -> tuple[Head, ...]:
        layers = {place: network.layers[output] for network in self._networks for place, output in network.branches}
        heads = []
        for place, branch in enumerate(self.stage.branches):
            classifier = None
            if branch.pooling.kind == "cam-crow":
                weights = folder / branch.weights if branch.weights else None
                classifier = load_classifier(branch.network, weights, branch.revision or None)
            heads.append(make_head(branch, layers[place], folder, classifier, branch.network))
        return tuple(heads)

    @property
    def engine(self) -> str:
        """What computes the networks."""
        return self._networks[0].engine.name

    @property
    def feedings(self) -> tuple[Feeding, ...]:
        """How images are prepared, one for each network; needs no network, so worker processes can do it."""
        return tuple(network.feeding for network in self._networks)

    def prepare(self, pixels: NDArray[np.uint8]) -> Prepared:
        """The views of H×W×3 uint8 RGB that go through the networks."""
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
            raise ValueError(f"pixels must be H×W×3 uint8, not {pixels.shape} {pixels.dtype}")
        return tuple(feeding.views(pixels) for feeding in self.feedings)

    @property
    def heads(self) -> tuple[Head, ...]:
        """For each branch, what it makes of its layer's output."""
        return self._heads

    @property
    def unlearned(self) -> tuple[int, ...]:
        """Places of the branches whose pooling or embedding has yet to learn from photos."""
        return tuple(place for place, head in enumerate(self._heads) if not head.ready)

    @property
    def fitted(self) -> dict[str, Fitted]:
        """All that was learned, by name: ``embedding`` of the first branch, ``embedding 2``, ``whitening``, …"""
        whitenings = [{"whitening": whitening} for whitening in self.whitenings]
        return {
            name if number == 1 else f"{name} {number}": part
            for parts in ([head.fitted for head in self._heads], whitenings)
            for number, named in enumerate(parts, 1)
            for name, part in named.items()
        }

    @property
    def branch_fingerprints(self) -> tuple[str, ...]:
        """For each branch, sha256 of all that decides its features: weights and parameters, and what was learned."""
        return tuple(hashlib.sha256(json.dumps(facts).encode()).hexdigest() for facts in self._facts)

    @property
    def _facts(self) -> list[list[str | float | None]]:
        by_branch: dict[int, list[str | float | None]] = {
            place: [*network.identity, self.stage.branches[place].dump_parameters(), *self._heads[place].fingerprints]
            for network in self._networks
            for place, _ in network.branches
        }
        return [by_branch[place] for place in range(len(by_branch))]

    @property
    def raw_fingerprints(self) -> tuple[str, ...]:
        """For each whitening, sha256 of all that decides what it is learned from: weights and parameters."""
        facts = self._facts
        units = [[fact] for fact in facts] if self.stage.late else [facts]
        law = [] if self.stage.power == 1 else [self.stage.power]
        paired = self.stage.fusion if self.stage.fusion in ("orthogonal", "deep-index") else ""
        how = [self.stage.whiten if self.stage.whiten == "layer" else self.stage.whiten == "regions", paired, *law]
        return tuple(hashlib.sha256(json.dumps([*how, *unit]).encode()).hexdigest() for unit in units)

    @property
    def fingerprint(self) -> str:
        """sha256, in hex, of all that decides ``describe``: networks, parameters and whitenings."""
        learned = [whitening.fingerprint for whitening in self.whitenings]
        return hashlib.sha256(json.dumps([*self.raw_fingerprints, *learned]).encode()).hexdigest()

    @property
    def weights_sha256(self) -> tuple[str, ...]:
        """For each branch, of its weights file, or of the parameters where they were downloaded."""
        by_branch = {place: n.backbone.weights_sha256 for n in self._networks for place, _ in n.branches}
        return tuple(by_branch[place] for place in range(len(by_branch)))

    def describe(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(D,) float32 of H×W×3 uint8 RGB. Raises RecipeError before the recipe is fitted."""
        vector: NDArray[np.float32] = self.describe_views([self.prepare(pixels)])[0]
        return vector

    def describe_views(self, images: Sequence[Prepared]) -> NDArray[np.float32]:
        """N×D float32 of N prepared images: an ℓ2-normalised vector each, or one for each branch of a late fusion."""
        self._check_ready()
        return self._descriptors(self.features(images))

    def describe_each(self, images: Iterable[Prepared]) -> Iterator[NDArray[np.float32]]:
        """(D,) float32 of each prepared image, in order, as ``describe_views``.

        Images are taken ahead of the vectors given, so that the networks always have something to do.
        """
        self._check_ready()
        for image in self._features(images):
            yield self._descriptors([[scales] for scales in image])[0]

    def _check_ready(self) -> None:
        if self.unlearned:
            raise self._unfitted("not learned yet what its pooling or embedding needs")
        if self.stage.whiten != "none" and not self.whitenings:
            raise self._unfitted("no whitening yet")

    def _descriptors(self, features: list[list[Scales]]) -> NDArray[np.float32]:
        """N×D of features by branch and image."""
        stage = self.stage
        if stage.whiten == "none":
            vectors = self._vectors(features)
            self._check_lengths(vectors)
        elif stage.whitens_each:
            # R-MAC's aggregation: whitened, ℓ2-normalised, summed, ℓ2-normalised (Tolias et al. 2016, §3.2).
            vectors = [
                np.stack([l2_normalise(np.asarray(w.transform(self._rows(image)).sum(axis=0))) for image in branch])
                for w, branch in zip(self.whitenings, features, strict=True)
            ]
        else:
            pairs = zip(self.whitenings, self._vectors(features), strict=True)
            vectors = [w.transform(x).astype(np.float64) for w, x in pairs]
        return np.concatenate(vectors, axis=1).astype(np.float32)

    def _unfitted(self, lack: str) -> RecipeError:
        return RecipeError(
            f"recipe {self._recipe} has {lack}: run `resight fit {self._recipe} PHOTOS "
            "--weights FILE --into FOLDER` and use --recipe FOLDER"
        )

    def raw(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(C,) float64: the descriptor before whitening; in late fusion the branches' one after the other."""
        vector: NDArray[np.float64] = np.concatenate(self._vectors(self.features([self.prepare(pixels)])), axis=1)[0]
        return vector

    def samples(self, images: Sequence[Prepared]) -> list[NDArray[np.float64]]:
        """For each whitening, n×C float64: what it is learned from."""
        features = self.features(images)
        if self.stage.whitens_each:
            return [np.concatenate([self._rows(image) for image in branch]) for branch in features]
        return self._vectors(features)

    def _rows(self, scales: Scales) -> NDArray[np.float64]:
        """R×C: what is whitened of the regions of all scales of an image."""
        rows = np.concatenate(scales)
        return rows.astype(np.float64) if self.stage.whiten == "layer" else l2_normalise(rows)

    def _vectors(self, features: list[list[Scales]]) -> list[NDArray[np.float64]]:
        """For each whitening, N×C float64, ℓ2-normalised, of features by branch and image."""
        joined, alpha = self._joined(features), self.stage.power
        return joined if alpha == 1 else [power(vectors, alpha) for vectors in joined]

    def _joined(self, features: list[list[Scales]]) -> list[NDArray[np.float64]]:
        """``_vectors`` before the power law."""
        if self.stage.fusion == "deep-index":
            rows, columns = (
                [head.memberships(image) for image in of] for head, of in zip(self._heads, features, strict=True)
            )
            for a, b in zip(rows, columns, strict=True):
                if len(a) != len(b):
                    low, high = (branch.layer for branch in self.stage.branches)
                    raise RecipeError(
                        f"recipe {self._recipe}: fusion deep-index: layer {low} has {len(a)} regions in a picture in "
                        f"which layer {high} has {len(b)}: choose layers whose maps are of one size, or regions of "
                        'pixels, on = "pixels"'
                    )
            return [np.stack([count_pairs(a, b) for a, b in zip(rows, columns, strict=True)])]
        vectors = [head.vectors(of) for head, of in zip(self._heads, features, strict=True)]
        if self.stage.late:
            return vectors
        weights = [branch.weight for branch in self.stage.branches]
        if self.stage.fusion == "orthogonal":
            return [append_orthogonal(vectors[0], vectors[1], weights[1])]
        return [concatenate(vectors, weights)]

    def features(self, images: Iterable[Prepared]) -> list[list[Scales]]:
        """For each branch and image, its regions' vectors or a map's positions: R×C for each scale."""
        found: list[list[Scales]] = [[] for _ in self.stage.branches]
        for image in self._features(images):
            for branch, scales in zip(found, image, strict=True):
                branch.append(scales)
        return found

    def _features(self, images: Iterable[Prepared]) -> Iterator[list[Scales]]:
        """``features`` image by image, in order: for each branch."""
        copies = tee(images, len(self._networks))
        streams = [
            self._read_by(network, map(itemgetter(number), copy))
            for number, (network, copy) in enumerate(zip(self._networks, copies, strict=True))
        ]
        for parts in zip(*streams, strict=True):
            by_branch = {place: scales for part in parts for place, scales in part.items()}
            yield [by_branch[place] for place in range(len(by_branch))]

    def _read_by(self, network: _Network, images: Iterable[Views]) -> Iterator[dict[int, Scales]]:
        """Of each image, in order, the features of the branches that read a network, by their places."""
        begun: deque[_Begun] = deque()
        places, of = count(), {}  # of pictures of all images; → image, and which of its own

        def pictures() -> Iterator[NDArray[np.uint8]]:
            for views in images:
                begun.append(_Begun(views))
                for number, picture in enumerate(views.pictures):
                    of[next(places)] = begun[-1], number
                    yield picture

        for place, outputs in network.engine.each(pictures()):
            image, number = of.pop(place)
            image.parts[number] = self._pooled(network, outputs, image.views, number)
            while begun and len(begun[0].parts) == len(begun[0].views.pictures):
                yield begun.popleft().scales()

    def _pooled(
        self, network: _Network, outputs: tuple[Tensor, ...], views: Views, number: int
    ) -> dict[int, NDArray[np.floating]]:
        """By branch, the features of one picture of an image."""
        boxes: dict[object, NDArray[np.float32]] = dict(zip(network.feeding.proposals, views.boxes, strict=True))
        with one_thread():
            return {
                place: self._heads[place].features(
                    outputs[output],
                    views.pictures[number],
                    boxes.get(self._heads[place].branch.scheme),
                    outputs[network.beside[place]] if place in network.beside else None,
                )
                for place, output in network.branches
            }

    def outputs(self, image: Prepared) -> list[list[tuple[NDArray[np.uint8], Tensor]]]:
        """For each branch, the pictures of one image that its network sees, each with its layer's output.

        Outputs are 1×C×h×w, under the branch's attention, or 1×C; float32.
        """
        found: list[list[tuple[NDArray[np.uint8], Tensor]]] = [[] for _ in self.stage.branches]
        for network, views in zip(self._networks, image, strict=True):
            for picture in views.pictures:
                outputs = network.engine(np.stack([picture]))
                for place, output in network.branches:
                    beside = outputs[network.beside[place]].cpu() if place in network.beside else None
                    found[place].append((picture, self._heads[place].attended(outputs[output].cpu(), picture, beside)))
        return found

    def quantise(self, images: Sequence[Prepared], into: Path, fitted_on: str) -> dict[int, str]:
        """Write the networks in 8 bits, as prepared images ask for; by branch, the name of its file in ``into``.

        Raises RecipeError as ``resight.networks.quantise.quantise``.
        """
        files: dict[int, str] = {}
        for number, network in enumerate(self._networks):
            name = "network.xml" if number == 0 else f"network-{number + 1}.xml"
            pictures = [picture for image in images for picture in image[number].pictures]
            quantise(network.backbone, pictures, into / name, fitted_on=fitted_on)
            files |= {place: name for place, _ in network.branches}
        return files

    def _check_lengths(self, vectors: list[NDArray[np.float64]]) -> None:
        for length, x in zip(self.stage.lengths, vectors, strict=True):
            if x.shape[1] != length:
                raise RecipeError(
                    f"recipe {self._recipe}: the descriptor has {x.shape[1]} dimensions and is not whitened: "
                    f"say dimensions = {x.shape[1]}, not {length}"
                )

    def _load_whitenings(self, folder: Path) -> tuple[Projection, ...]:
        units = self.stage.branches if self.stage.late else (self.stage,)
        if not all(unit.whitening for unit in units):
            return ()
        found = []
        for unit, made_for, length in zip(units, self.raw_fingerprints, self.stage.lengths, strict=True):
            path = folder / unit.whitening
            whitening = Projection.load(path)
            if whitening.descriptor != made_for:
                raise RecipeError(
                    f"{path}: was fitted for another network, other weights or other parameters than the "
                    "recipe's [global] table has: fit it again with `resight fit`"
                )
            if whitening.dimension != length:
                raise RecipeError(
                    f"{path}: has {whitening.dimension} dimensions, the recipe says {length}: "
                    "fit it again with `resight fit`"
                )
            found.append(whitening)
        return tuple(found)


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: pooling ends before several have met, who wait for each other while others want cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
