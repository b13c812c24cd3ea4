"""A recipe's [[rerank]] tables made runnable: bound to a database, with what they build for it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resight.describe.description import Description
from resight.embedding.codebook import Codebook
from resight.errors import RecipeError
from resight.hashing.function import HashFunction
from resight.recipes.recipe import VerifyStage
from resight.recipes.rerank_stages import (
    AugmentationStage,
    ChannelMatchStage,
    FuzzyStage,
    KernelStage,
    ManifoldStage,
    MatchingStage,
    NonMetricStage,
    OfflineDiffusionStage,
    PatchStage,
    RegionalDiffusionStage,
    RerankStage,
    SeparationStage,
    TransformerStage,
)
from resight.search.examples import DescribedExample
from resight.search.ranking import Ranking
from resight.search.rerank.cache import Cache
from resight.search.rerank.channels import ChannelReranker
from resight.search.rerank.diffusion import Diffusion
from resight.search.rerank.egt import ExploreExploit
from resight.search.rerank.expansion import QueryExpansion, augmented, load_augmented, save_augmented
from resight.search.rerank.fuzzy import FuzzyReranker
from resight.search.rerank.ime import ManifoldLayer
from resight.search.rerank.kernel import KernelReranker
from resight.search.rerank.matching import MatchReranker, lightglue_matcher, mutual_matcher
from resight.search.rerank.offline import OfflineDiffusion
from resight.search.rerank.patches import PatchReranker, RegionCodes, Regions
from resight.search.rerank.rdp import RegularisedDiffusion
from resight.search.rerank.reciprocal import KReciprocal
from resight.search.rerank.regional import RegionalDiffusion, RegionGraph
from resight.search.rerank.reranker import Database, Reranker, best, first
from resight.search.rerank.superglobal import SuperGlobal
from resight.store.indexing import Progress

_MANIFOLD = 10_000  # images that IME compares all with all in memory: four matrices of 0.8 GB


@dataclass(frozen=True, eq=False)
class Source:
    """What stages may draw on.

    database: one row an image. cache: for what they build. regions: of all its images, of a grid with so many levels,
        where there are any. descriptions: by image id, with local features, where there are any. codebook: their
        words. words: those of an image's features, by its id, where they are kept.
    max_side: in pixels, of the pictures at scale 1 that these are of. oriented: whether their keypoints have scales and
        orientations of their own. progress: told what is built.
    """

    database: Database
    cache: Cache
    regions: Callable[[int], Regions] | None = None
    descriptions: Mapping[int, Description] | None = None
    codebook: Codebook | None = None
    words: Callable[[int], NDArray[np.int32]] | None = None
    max_side: int = 1024
    oriented: bool = True
    progress: Callable[[Progress], None] = lambda state: None


@dataclass(frozen=True, eq=False)
class Asked:
    """A query as stages take it, all ℓ2-normalised.

    vector: (D,) float32. vectors: Q×D, of its regions or else the one vector. examples: its pictures, for stages that
        read local features.
    """

    vector: NDArray[np.float32]
    vectors: NDArray[np.float32]
    examples: tuple[DescribedExample, ...] = ()


Step = Callable[[Asked, Ranking], Ranking]


@dataclass(frozen=True, eq=False)
class Prepared:
    """Stages bound to a database: what a searcher keeps for one state of a collection."""

    steps: tuple[Step, ...]

    def rerank(self, asked: Asked, ranking: Ranking) -> Ranking:
        """The ranking after all stages, one after the other."""
        for step in self.steps:
            ranking = step(asked, ranking)
        return ranking


# Those that need nothing but the vectors, by their parameters.
ONLINE: dict[str, Callable[..., Reranker]] = {
    "expansion": QueryExpansion,
    "k-reciprocal": KReciprocal,
    "diffusion": Diffusion,
    "rdp": RegularisedDiffusion,
    "egt": ExploreExploit,
    "superglobal": SuperGlobal,
}


def prepare(stages: Sequence[RerankStage], source: Source) -> Prepared:
    """The stages made ready for a database; what they build for it is read from the cache where it is there.

    Raises RecipeError for parameters that do not fit each other, a model that cannot be read, or a source without what
    a stage needs, and QueryError for a database that does not suit a stage.
    """
    steps: list[Step] = []
    if len(source.database) == 0:
        return Prepared(())
    for stage in stages:
        if stage.method in ONLINE:
            method = ONLINE[stage.method](**stage.model_dump(exclude={"method"}))
            steps.append(_bound(method, source.database))
            continue
        step, database = _BUILT[stage.method](stage, source)
        steps.append(step)
        source = replace(source, database=database)
    return Prepared(tuple(steps))


def _bound(method: Reranker, database: Database) -> Step:
    return lambda asked, ranking: method.rerank(asked.vector, ranking, database)


def _augmentation(stage: AugmentationStage, source: Source) -> tuple[Step, Database]:
    """Ranks by the augmented vectors, which the later stages see."""
    made = source.cache.get(
        stage.method,
        source.database,
        _parameters(stage),
        lambda path: save_augmented(path, augmented(source.database, stage.k, stage.alpha)),
        lambda path: load_augmented(path, source.database),
    )
    return _bound(QueryExpansion(k=0), made), made


def _offline_diffusion(stage: OfflineDiffusionStage, source: Source) -> tuple[Step, Database]:
    parameters = stage.model_dump(exclude={"method"})
    made = source.cache.get(
        stage.method,
        source.database,
        _parameters(stage),
        lambda path: OfflineDiffusion.build(path, source.database, progress=source.progress, **parameters),
        OfflineDiffusion.open,
    )
    return _bound(made, source.database), source.database


def _manifold(stage: ManifoldStage, source: Source) -> tuple[Step, Database]:
    images = len(source.database)
    if images > _MANIFOLD:
        raise RecipeError(f"[[rerank]] ime compares all images with all in memory: it takes {_MANIFOLD:,} images at "
                          f"most, not {images:,}; offline-diffusion takes more")  # fmt: skip
    parameters = stage.model_dump(exclude={"method", "dimensions"})
    dimensions = min(stage.dimensions, images)
    made = source.cache.get(
        stage.method,
        source.database,
        _parameters(stage),
        lambda path: ManifoldLayer.fit(source.database, dimensions, **parameters).save(path),
        ManifoldLayer.load,
    )
    return _bound(made, source.database), source.database


def _separation(stage: SeparationStage, source: Source) -> tuple[Step, Database]:
    from resight.search.rerank.gss import Gss, GssModel  # imports torch

    sha256, database = _checked(stage), source.database
    model = GssModel.load(stage.model)
    made = source.cache.get(
        stage.method,
        database,
        f"{_parameters(stage)} {sha256}",
        lambda path: Gss.encode(model, database, query_neighbours=stage.query_neighbours).save(path),
        lambda path: Gss.load(path, model, database),
    )
    return _bound(made, database), database


def _transformer(stage: TransformerStage, source: Source) -> tuple[Step, Database]:
    from resight.search.rerank.tokens import StoredTokens, tokens_of
    from resight.search.rerank.transformer import RerankingTransformer, TransformerReranker  # imports torch

    descriptions = _descriptions(stage.method, source)
    _checked(stage)
    published = Path(stage.model).suffix in (".pt", ".pth")
    model = (
        RerankingTransformer.from_published(stage.model, heads=stage.heads)
        if published
        else RerankingTransformer.load(stage.model)
    )
    stored = StoredTokens(descriptions, stage.features, source.max_side)
    method = TransformerReranker(model, stored, stage.depth)

    def step(asked: Asked, ranking: Ranking) -> Ranking:
        """Of several wanted pictures the one that an image matches best counts."""
        ids = ranking.ids[: stage.depth]
        wanted = [example.description for example in asked.examples if example.weight > 0]
        queries = [tokens_of(each, stage.features, source.max_side) for each in wanted]
        return first(ranking, *best(ids, np.max([method.logits(query, ids) for query in queries], axis=0)))

    return step, source.database


def _nonmetric(stage: NonMetricStage, source: Source) -> tuple[Step, Database]:
    from resight.search.rerank.nonmetric import NonMetric, SimilarityNetwork  # imports torch

    _checked(stage)
    network = SimilarityNetwork.load(stage.model)
    if network.dimension != source.database.dimension:
        raise RecipeError(
            f"{stage.model}: compares vectors of {network.dimension} entries, the collection has "
            f"{source.database.dimension}: train it again with `resight train`"
        )
    return _bound(NonMetric(network, stage.depth), source.database), source.database


def _matching(stage: MatchingStage, source: Source) -> tuple[Step, Database]:
    descriptions = _descriptions(stage.method, source)
    if stage.matcher == "lightglue":
        _checked(stage)
        matcher = lightglue_matcher(stage.model, stage.trained_on)
    else:
        matcher = mutual_matcher(stage.ratio)
    maps = VerifyStage(model=stage.map, max_error=stage.max_error, seed=stage.seed)
    method = MatchReranker(descriptions, matcher, maps, stage.depth, source.oriented)
    return lambda asked, ranking: method.rerank(asked.examples, ranking), source.database


def _kernel(stage: KernelStage, source: Source) -> tuple[Step, Database]:
    descriptions = _descriptions(stage.method, source)
    if source.codebook is None:
        raise RecipeError(
            "[[rerank]] kernel matches in visual words: it needs a collection whose recipe has [codebook]"
        )
    method = KernelReranker(stage, source.codebook, source.database, descriptions, source.words)
    return lambda asked, ranking: method.rerank(asked.examples, ranking), source.database


def _channels(stage: ChannelMatchStage, source: Source) -> tuple[Step, Database]:
    method = ChannelReranker(_descriptions(stage.method, source), stage.depth, stage.max_error, stage.max_scale_change)
    return lambda asked, ranking: method.rerank(asked.examples, ranking), source.database


def _regional_diffusion(stage: RegionalDiffusionStage, source: Source) -> tuple[Step, Database]:
    regions = _regions(stage, source)
    method = RegionalDiffusion(
        stage.depth, stage.pooling, Diffusion(k=stage.k, sources=stage.sources, gamma=stage.gamma, alpha=stage.alpha)
    )
    rows = Database(regions.ids, regions.vectors)
    if stage.depth is not None:
        return lambda asked, ranking: method.rerank(asked.vectors, ranking, rows), source.database
    made = source.cache.get(
        stage.method,
        source.database,
        f"{_parameters(stage)} {rows.fingerprint}",
        lambda path: method.graph(rows).save(path),
        RegionGraph.load,
    )
    return lambda asked, ranking: method.rerank(asked.vectors, ranking, rows, made), source.database


def _patches(stage: PatchStage, source: Source) -> tuple[Step, Database]:
    regions = _regions(stage, source)
    codes = RegionCodes.of(HashFunction.load(stage.hash), regions) if stage.hash else None
    method = PatchReranker(regions, stage.depth, stage.weight, codes)
    return _bound(method, source.database), source.database


def _fuzzy(stage: FuzzyStage, source: Source) -> tuple[Step, Database]:
    method = FuzzyReranker(_regions(stage, source), stage.depth, stage.objects, stage.sparsity, stage.seed)
    return lambda asked, ranking: method.rerank(asked.vectors, ranking, source.database), source.database


_BUILT: dict[str, Callable[[Any, Source], tuple[Step, Database]]] = {
    "dba": _augmentation,
    "offline-diffusion": _offline_diffusion,
    "ime": _manifold,
    "gss": _separation,
    "transformer": _transformer,
    "nonmetric": _nonmetric,
    "matching": _matching,
    "kernel": _kernel,
    "dsm": _channels,
    "regional-diffusion": _regional_diffusion,
    "patches": _patches,
    "fuzzy-objects": _fuzzy,
}


def _regions(stage: RegionalDiffusionStage | PatchStage | FuzzyStage, source: Source) -> Regions:
    if source.regions is None:
        raise RecipeError(
            f"{stage.method} compares regions of images, of which this file has none: give it several rows an image, "
            "and their boxes (x1, y1, x2, y2) as an array boxes"
        )
    return source.regions(stage.levels)


def _descriptions(method: str, source: Source) -> Mapping[int, Description]:
    if source.descriptions is None:
        raise RecipeError(f"[[rerank]] {method} reads local features: it needs a collection whose recipe has [local]")
    return source.descriptions


def _parameters(stage: RerankStage) -> str:
    return stage.model_dump_json(exclude={"model"})


def _checked(stage: SeparationStage | TransformerStage | NonMetricStage | MatchingStage) -> str:
    """The sha256 of a stage's model. RecipeError where there is none, or not the one that the recipe was made with."""
    from resight.networks.weights import check_sha256, file_sha256  # imports torch

    if not stage.model:
        raise RecipeError(
            f"[[rerank]] {stage.method} has no model yet: name one as `model`. `resight recipes show gss`, "
            "reranking-transformer or nonmetric says where it comes from"
        )
    found = file_sha256(stage.model)
    check_sha256(found, stage.model_sha256, stage.model)
    return found
