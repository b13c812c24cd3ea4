"""How a set of features becomes one vector, as a recipe says it (survey §4.2.1)."""

from typing import Annotated, Literal

from pydantic import Field

from resight.recipes.stage import Stage


class _Embedding(Stage):
    """Features are ℓ2-normalised, then brought to `reduce` dimensions by PCA where that is not 0.

    mask: which positions of a feature map are taken (Hoang et al. 2017): ``sum``, ``max``, ``sift`` or all.
    seed: of what is learned.
    """

    mask: Literal["none", "sum", "max", "sift"] = "none"
    reduce: int = Field(default=0, ge=0)
    seed: int = 0


class BowStage(_Embedding):
    """Bag of visual words: each feature counts for its `assignments` nearest words; weighted by idf.

    words: an entry each of the descriptor; the table [bow] over local features takes a million, and stores few.
    root: of the counts, against bursts.
    """

    kind: Literal["bow"]
    words: int = Field(default=1000, ge=2, le=65_536)
    assignments: int = Field(default=1, ge=1)
    idf: bool = True
    root: bool = False


class VladStage(_Embedding):
    """VLAD. normalise: ``residual``, ``power`` and ``intra`` in any combination."""

    kind: Literal["vlad"]
    words: int = Field(default=64, ge=1)
    normalise: tuple[Literal["residual", "power", "intra"], ...] = ("intra",)


class BinaryVladStage(_Embedding):
    """Signs of VLAD's sums, whose cosines are Hamming similarities, word by word: leave them unwhitened."""

    kind: Literal["binary-vlad"]
    words: int = Field(default=64, ge=1)


class FisherStage(_Embedding):
    """Improved Fisher vector over a diagonal mixture of Gaussians."""

    kind: Literal["fisher"]
    components: int = Field(default=64, ge=1)


class TriangulationStage(_Embedding):
    """T-embedding with democratic aggregation, or the plain sum."""

    kind: Literal["t-embedding"]
    words: int = Field(default=32, ge=1)
    aggregation: Literal["democratic", "sum"] = "democratic"
    power: float = Field(default=0.5, gt=0, le=1)


class FaembStage(_Embedding):
    """FAemb, local approximation of second order; the features are best reduced to a few tens of dimensions."""

    kind: Literal["faemb"]
    anchors: int = Field(default=8, ge=2)
    aggregation: Literal["democratic", "sum"] = "democratic"
    power: float = Field(default=0.5, gt=0, le=1)


class GmpStage(_Embedding):
    """Generalised max pooling (Murray & Perronnin 2014), by which frequent features count no more than rare ones.

    ridge: the larger, the nearer it is to a sum. Of what it is made, SAH learns codes (`resight hash fit`).
    """

    kind: Literal["gmp"]
    ridge: float = Field(default=1.0, gt=0)


class LayerStage(_Embedding):
    """A trainable layer of so many words or components: NetVLAD, learned bag of features, Fisher layer.

    `resight fit` starts it from k-means or a mixture, where it is nearly VLAD, BoW or a Fisher vector; training
    changes it.
    """

    kind: Literal["netvlad", "learned-bof", "fisher-layer"]
    words: int = Field(default=64, ge=2)


Embedding = Annotated[
    BowStage | VladStage | BinaryVladStage | FisherStage | TriangulationStage | FaembStage | GmpStage | LayerStage,
    Field(discriminator="kind"),
]
