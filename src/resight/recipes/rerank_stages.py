"""The [[rerank]] tables: what re-orders the ranking by global descriptors, one after the other (survey §5.2)."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from resight.recipes.stage import Stage

# Keys whose values are paths of files.
RERANK_FILES = ("model", "hash")

Depth = Annotated[int | None, Field(ge=1)]
Levels = Annotated[int, Field(ge=1, le=5)]
Neighbours = Annotated[int, Field(ge=1)]


class ExpansionStage(Stage):
    """Query expansion by the first k results: averages (Chum et al. 2007), or weighted by cosine^alpha (αQE)."""

    method: Literal["expansion"]
    k: int = Field(default=10, ge=0)
    alpha: float = Field(default=3.0, ge=0)


class KReciprocalStage(Stage):
    """k-reciprocal re-ranking (Zhong et al. 2017). weight: of the cosine distance against Jaccard's."""

    method: Literal["k-reciprocal"]
    depth: Depth = 1000
    k1: Neighbours = 20
    k2: Neighbours = 6
    weight: float = Field(default=0.3, ge=0, le=1)


class DiffusionStage(Stage):
    """Diffusion on the graph of the first results (Iscen et al. 2017)."""

    method: Literal["diffusion"]
    depth: Depth = 1000
    k: Neighbours = 50
    sources: Neighbours = 10
    gamma: float = Field(default=3.0, gt=0)
    alpha: float = Field(default=0.99, gt=0, lt=1)


class RdpStage(Stage):
    """Regularised diffusion process (Bai et al. 2019)."""

    method: Literal["rdp"]
    depth: Depth = 1000
    k: Neighbours = 50
    gamma: float = Field(default=3.0, gt=0)
    alpha: float = Field(default=1 / 1.18, gt=0, lt=1)


class ExploreExploitStage(Stage):
    """Explore-exploit graph traversal (Chang et al. 2019). threshold: cosine at which a result is taken at once."""

    method: Literal["egt"]
    threshold: float = Field(ge=-1, le=1)
    depth: Depth = 1000
    k: Neighbours = 50


class SuperGlobalStage(Stage):
    """Re-ranking by refined descriptors of the first results (Shao et al. 2023)."""

    method: Literal["superglobal"]
    depth: int = Field(default=400, ge=1)
    k: Neighbours = 9
    beta: float = Field(default=0.15, ge=0)


class AugmentationStage(Stage):
    """Database-side augmentation, DBA (Arandjelović & Zisserman 2012): every vector joined by its k nearest others.

    The ranking is made anew with these vectors, and the tables that follow see them in place of the images' own.
    alpha: of the weights cosine^alpha; 0 for plain averages.
    """

    method: Literal["dba"]
    k: Neighbours = 10
    alpha: float = Field(default=0.0, ge=0)


class OfflineDiffusionStage(Stage):
    """Diffusion over the whole collection, solved in advance (Yang et al. 2019).

    truncation: images that an image's solution keeps.
    """

    method: Literal["offline-diffusion"]
    truncation: int = Field(default=1000, ge=2)
    k: Neighbours = 50
    sources: Neighbours = 10
    gamma: float = Field(default=3.0, gt=0)
    alpha: float = Field(default=0.99, gt=0, lt=1)


class ManifoldStage(Stage):
    """Iterative manifold embedding, IME (Xu et al. 2018), learned from the collection; for some thousands of images.

    dimensions: of the embedding, or as many as there are images. weight, ridge: of the published code.
    """

    method: Literal["ime"]
    dimensions: int = Field(default=2048, ge=1)
    k: Neighbours = 5
    weight: float = Field(default=2.0, ge=0)
    iterations: int = Field(default=2, ge=1)
    ridge: float = Field(default=1.0, gt=0)


class ModelStage(Stage):
    """model: path of what was learned, relative to the recipe's folder; "" before it is there.

    model_sha256: of it, checked when it is loaded.
    """

    model: str = ""
    model_sha256: str = ""


class SeparationStage(ModelStage):
    """Guided similarity separation, GSS (Liu et al. 2019); `resight learn-rerank gss` makes its model, without labels.

    query_neighbours: first results that join the query in the graph.
    """

    method: Literal["gss"]
    query_neighbours: int = Field(default=5, ge=0)


class TransformerStage(ModelStage):
    """Reranking Transformer (Tan et al. 2021), over the local features that the recipe's [local] keeps.

    model: the authors' checkpoint (.pt, .pth) or what ``resight.search.rerank.transformer`` learned (.safetensors).
    features: of an image at most, the strongest; time grows by the square of it.
    heads: of the authors' checkpoint, or of a network that is to learn. layers: of the latter, 6 as published; fewer
        learn sooner from few photos.
    """

    method: Literal["transformer"]
    depth: Depth = 100
    features: int = Field(default=500, ge=1)
    heads: int = Field(default=4, ge=1)
    layers: int = Field(default=6, ge=1)


class NonMetricStage(ModelStage):
    """A learned similarity that is no metric, of the query's descriptor with each (Garcia & Vogiatzis 2019).

    model: what `resight train` learns.
    """

    method: Literal["nonmetric"]
    depth: Depth = 100


class MatchingStage(Stage):
    """The first images by how many matches of local features agree on one map; for recipes with [local].

    matcher: mutual nearest neighbours with Lowe's ratio, 1 without; or LightGlue (Lindenberger et al. 2023).
    model: LightGlue's published weights, relative to the recipe's folder. trained_on: the features these are for.
    map, max_error, seed: as model, max_error and seed of [verify].
    """

    method: Literal["matching"]
    depth: int = Field(default=100, ge=1)
    matcher: Literal["mutual", "lightglue"] = "mutual"
    ratio: float = Field(default=0.9, gt=0, le=1)
    model: str = ""
    model_sha256: str = ""
    trained_on: Literal["superpoint", "disk", "aliked", "sift", "doghardnet"] = "aliked"
    map: Literal["homography", "similarity", "affine"] = "homography"
    max_error: float = Field(default=0.01, gt=0, lt=1)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        if (self.matcher == "lightglue") != bool(self.model):
            raise ValueError('matcher = "lightglue" goes with model, the path of its weights')
        return self


class KernelStage(Stage):
    """The first images by a match kernel in full; for recipes with [local] and [codebook].

    kernel: SMK or ASMK (Tolias, Avrithis & Jégou 2013/2016), R-ASMK with the squares of R-MAC's grid and the whole as
        regions (Teichmann et al. 2019), or the dynamic match kernel (Yang et al. 2018).
    query_assignments: nearest words of a query's descriptor; an image's has one. alpha, threshold: of the selectivity.
    levels: of R-ASMK's grid. fraction, decay: of the dynamic kernel's threshold.
    """

    method: Literal["kernel"]
    kernel: Literal["smk", "asmk", "r-asmk", "dynamic"]
    depth: int = Field(default=100, ge=1)
    query_assignments: int = Field(default=5, ge=1, le=32)
    alpha: float = Field(default=3.0, gt=0)
    threshold: float = Field(default=0.0, ge=-1, lt=1)
    levels: Levels = 2
    fraction: float = Field(default=0.6, gt=0, le=1)
    decay: float = Field(default=0.5, ge=0)


class ChannelMatchStage(Stage):
    """Deep spatial matching (Siméoni, Avrithis & Chum 2019): the first images by features of the same channels that one
    affine map aligns; for recipes with detector = "dsm".

    max_error: of an inlier, in cells of the map. max_scale_change: of the map, in length, either way.
    """

    method: Literal["dsm"]
    depth: int = Field(default=100, ge=1)
    max_error: float = Field(default=2.0, gt=0)
    max_scale_change: float = Field(default=3.0, ge=1)


class RegionalDiffusionStage(Stage):
    """Diffusion over the images' regions (Iscen et al. 2017, §4.2). levels: as of ``PatchStage``."""

    method: Literal["regional-diffusion"]
    levels: Levels = 2
    depth: Depth = None
    pooling: Literal["max", "sum", "gmp"] = "gmp"
    k: Neighbours = 200
    sources: Neighbours = 200
    gamma: float = Field(default=3.0, gt=0)
    alpha: float = Field(default=0.99, gt=0, lt=1)


class PatchStage(Stage):
    """Patch-wise search (Razavian et al. 2014): an image is as similar as its most similar region, whose box it gets.

    levels: of R-MAC's grid, whose squares a collection describes beside the whole image; a file of vectors brings
        regions of its own. weight: of the region against the whole image.
    hash: a function that `resight hash fit` learned, relative to the recipe's folder: then codes of regions are
        compared in place of their vectors, as in deep region hashing (Song et al. 2018).
    """

    method: Literal["patches"]
    levels: Levels = 2
    depth: Depth = 100
    weight: float = Field(default=1.0, ge=0, le=1)
    hash: str = ""


class FuzzyStage(Stage):
    """Fuzzy objects matching (Yu et al. 2017): a few objects stand for an image's regions, which `levels` tells.

    objects, sparsity: of an image, and of those that a region is coded by.
    """

    method: Literal["fuzzy-objects"]
    levels: Levels = 4
    depth: Depth = 100
    objects: int = Field(default=10, ge=1)
    sparsity: int = Field(default=3, ge=1)
    seed: int = 0


RerankStage = Annotated[
    ExpansionStage
    | AugmentationStage
    | KReciprocalStage
    | DiffusionStage
    | OfflineDiffusionStage
    | RegionalDiffusionStage
    | RdpStage
    | ExploreExploitStage
    | SuperGlobalStage
    | ManifoldStage
    | SeparationStage
    | TransformerStage
    | NonMetricStage
    | MatchingStage
    | KernelStage
    | ChannelMatchStage
    | PatchStage
    | FuzzyStage,
    Field(discriminator="method"),
]
