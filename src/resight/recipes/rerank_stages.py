"""The [[rerank]] tables: what re-orders the ranking by global descriptors, one after the other (survey §5.2)."""

from typing import Annotated, Literal

from pydantic import Field

from resight.recipes.stage import Stage

Depth = Annotated[int | None, Field(ge=1)]
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


RerankStage = Annotated[
    ExpansionStage | KReciprocalStage | DiffusionStage | RdpStage | ExploreExploitStage | SuperGlobalStage,
    Field(discriminator="method"),
]
