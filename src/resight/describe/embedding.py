"""A recipe's embedding made runnable: the features of an image to one vector (survey §4.2.1)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from resight.artefact import add_meta, read_meta
from resight.embedding.binary_vlad import BinaryVlad
from resight.embedding.bow import Bow
from resight.embedding.codebook import Codebook
from resight.embedding.embedding import Embedding
from resight.embedding.faemb import Faemb
from resight.embedding.fisher import Fisher, Gmm
from resight.embedding.fisher_layer import FisherLayer
from resight.embedding.gmp import Gmp
from resight.embedding.layers import LayerEmbedding
from resight.embedding.learned_bof import LearnedBof
from resight.embedding.masks import Mask, max_mask, sift_mask, sum_mask
from resight.embedding.netvlad import NetVlad
from resight.embedding.triangulation import Triangulation
from resight.embedding.vlad import Vlad
from resight.errors import RecipeError
from resight.features.multiscale import l2_normalise
from resight.fitted import PhotoSketch
from resight.projection.covariance import RunningCovariance
from resight.projection.pca import pca
from resight.projection.projection import Projection
from resight.recipes.embeddings import (
    BinaryVladStage,
    BowStage,
    FaembStage,
    FisherStage,
    GmpStage,
    LayerStage,
    TriangulationStage,
    VladStage,
)
from resight.recipes.embeddings import Embedding as Stage

Features = NDArray[np.floating]

_KINDS: dict[str, type[Bow | Vlad | BinaryVlad | Fisher | Triangulation | Faemb | Gmp | LayerEmbedding]] = {
    "bow": Bow,
    "vlad": Vlad,
    "binary-vlad": BinaryVlad,
    "fisher": Fisher,
    "t-embedding": Triangulation,
    "faemb": Faemb,
    "gmp": Gmp,
    "netvlad": LayerEmbedding,
    "learned-bof": LayerEmbedding,
    "fisher-layer": LayerEmbedding,
}


@dataclass(frozen=True, eq=False)
class Embedder:
    """A learned embedding and the PCA before it, None where there is none.

    photos: which they were learned from, where that is known.
    weighted: whether a feature's length is how much it counts; else all count alike.
    """

    embedding: Embedding
    reduction: Projection | None
    photos: PhotoSketch | None = None
    weighted: bool = False

    @property
    def fitted_on(self) -> str:
        """What the embedding was learned from, in words."""
        return self.embedding.fitted_on

    @property
    def fingerprint(self) -> str:
        """Of what was learned."""
        return f"{self.reduction.fingerprint if self.reduction else ''} {self.embedding.fingerprint}"

    @property
    def input_dimension(self) -> int:
        """C, the length of a feature."""
        return self.embedding.input_dimension if self.reduction is None else len(self.reduction.mean)

    def transform_sets(self, sets: Sequence[Features]) -> NDArray[np.float64]:
        """N sets of n_i×C features to N×K, ℓ2-normalised."""
        weights = [np.linalg.norm(features, axis=1) for features in sets] if self.weighted else None
        return l2_normalise(self.embedding.transform_sets([self.reduced(features) for features in sets], weights))

    def memberships(self, features: Features) -> NDArray[np.float64]:
        """n×C features to n×W, how far each belongs to each visual word. Raises ValueError unless it is BoW."""
        if not isinstance(self.embedding, Bow):
            raise ValueError("only a bag of words has words")
        found = self.embedding.memberships(self.reduced(features)).astype(np.float64)
        return found * np.linalg.norm(features, axis=1, keepdims=True) if self.weighted else found

    def reduced(self, features: Features) -> NDArray[np.float32]:
        """n×C features to n×D float32 as the embedding takes them, ℓ2-normalised."""
        return reduced(features, self.reduction)

    @classmethod
    def load(cls, stage: Stage, learned: Path, reduction: Path | None, *, weighted: bool = False) -> Self:
        """Raises RecipeError, naming the file, where one is missing, damaged or something else."""
        embedding, facts = _KINDS[stage.kind].load(learned), read_meta(learned)
        if isinstance(embedding, Gmp) and isinstance(stage, GmpStage) and embedding.ridge != stage.ridge:
            raise RecipeError(
                f"{learned}: was made for ridge = {embedding.ridge:g}, and the recipe says {stage.ridge:g}: change it "
                "back, or leave `learned` and `reduction` out and fit the recipe again with `resight fit`"
            )
        try:
            photos = PhotoSketch.from_json(facts["photos"]) if "photos" in facts else None
        except (KeyError, TypeError, ValueError) as error:
            raise RecipeError(f"{learned}: does not say what this version can use of its photos: {error}") from error
        return cls(embedding, Projection.load(reduction) if reduction else None, photos, weighted)

    def save(self, learned: Path, reduction: Path) -> None:
        """Write the embedding and, if there is one, the PCA. Raises RecipeError where that fails."""
        self.embedding.save(learned)
        if self.photos is not None:  # the same fact of every kind of embedding
            add_meta(learned, {"photos": self.photos.to_json()})
        if self.reduction is not None:
            replace(self.reduction, photos=self.photos).save(reduction)


def reduced(features: Features, reduction: Projection | None) -> NDArray[np.float32]:
    """n×C to n×D float32, ℓ2-normalised before and after the reduction."""
    unit = l2_normalise(features).astype(np.float32)
    return unit if reduction is None else reduction.transform(unit)


def learn_reduction(stage: Stage, sets: Sequence[Features], fitted_on: str, descriptor: str) -> Projection | None:
    """The PCA of a stage that has one. Raises RecipeError for fewer features than dimensions."""
    if not stage.reduce:
        return None
    moments = RunningCovariance()
    for features in sets:
        moments.update(l2_normalise(features))
    return pca(moments, stage.reduce, fitted_on=fitted_on, descriptor=descriptor)


def learn_embedding(stage: Stage, sets: Sequence[NDArray[np.float32]], fitted_on: str) -> Embedding:
    """What a stage's embedding learns from the features of images, n_i×D each, normalised and reduced.

    Raises RecipeError where there are too few.
    """
    features = np.concatenate(sets)
    seed = stage.seed
    match stage:
        case BowStage():
            words = _words(features, stage.words, seed, fitted_on)
            bow = Bow(words, assignments=stage.assignments, root=stage.root)
            return bow.fit_idf(sets) if stage.idf else bow
        case VladStage():
            _check_enough(features, stage.words)
            options = stage.normalise
            return Vlad.fit(features, stage.words, seed=seed, fitted_on=fitted_on, normalisations=options)
        case BinaryVladStage():
            _check_enough(features, stage.words)
            return BinaryVlad.fit(features, stage.words, seed=seed, fitted_on=fitted_on)
        case FisherStage():
            return Fisher.fit(features, stage.components, seed=seed, fitted_on=fitted_on)
        case TriangulationStage():
            centroids = _centroids(features, stage.words, seed)
            return Triangulation.fit(
                features, centroids, seed=seed, fitted_on=fitted_on, aggregation=stage.aggregation, power=stage.power
            )
        case FaembStage():
            centroids = _centroids(features, stage.anchors, seed)
            return Faemb.fit(
                features, centroids, seed=seed, fitted_on=fitted_on, aggregation=stage.aggregation, power=stage.power
            )
        case GmpStage():
            return Gmp.fit(features, ridge=stage.ridge, fitted_on=fitted_on)
        case LayerStage():
            return _start_layer(stage, features, fitted_on)


def _start_layer(stage: LayerStage, features: NDArray[np.float32], fitted_on: str) -> LayerEmbedding:
    if stage.kind == "fisher-layer":
        gmm = Gmm.fit(features, stage.words, seed=stage.seed, fitted_on=fitted_on)
        return LayerEmbedding(stage.kind, FisherLayer.from_gmm(gmm.weights, gmm.means, gmm.variances), fitted_on)
    centroids = _centroids(features, stage.words, stage.seed)
    if stage.kind == "netvlad":
        return LayerEmbedding(stage.kind, NetVlad.from_kmeans(centroids, features), fitted_on)
    return LayerEmbedding(stage.kind, LearnedBof.from_kmeans(centroids, features), fitted_on)


def choose_positions(stage: Stage, features: NDArray[np.float32], picture: NDArray[np.uint8]) -> Mask:
    """H×W bool of C×H×W features of a picture: those that the stage's mask takes, or all where it would take none."""
    shape = features.shape[1], features.shape[2]
    match stage.mask:
        case "sum":
            mask = sum_mask(features)
        case "max":
            mask = max_mask(features)
        case "sift":
            found = cv2.SIFT.create().detect(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), None)
            points = np.array([keypoint.pt for keypoint in found], np.float64).reshape(-1, 2)
            mask = sift_mask(shape, points, (picture.shape[1], picture.shape[0]))
        case "none":
            return np.ones(shape, np.bool_)
    return mask if mask.any() else np.ones(shape, np.bool_)


def _centroids(features: NDArray[np.float32], words: int, seed: int) -> NDArray[np.float32]:
    """K×D, by plain k-means."""
    _check_enough(features, words)
    return Codebook.fit(features, words, seed=seed, fitted_on="", cells=1).words


def _words(features: NDArray[np.float32], words: int, seed: int, fitted_on: str) -> Codebook:
    _check_enough(features, words)
    return Codebook.fit(features, words, seed=seed, fitted_on=fitted_on)


def _check_enough(features: NDArray[np.float32], words: int) -> None:
    if len(features) < words:
        raise RecipeError(f"{len(features):,} features cannot make {words:,} visual words: give more photos")
