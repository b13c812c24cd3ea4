"""A recipe's [[rerank]] tables made runnable."""

from collections.abc import Callable, Sequence

from resight.recipes.rerank_stages import RerankStage
from resight.search.rerank.diffusion import Diffusion
from resight.search.rerank.egt import ExploreExploit
from resight.search.rerank.expansion import QueryExpansion
from resight.search.rerank.rdp import RegularisedDiffusion
from resight.search.rerank.reciprocal import KReciprocal
from resight.search.rerank.reranker import Reranker, compose
from resight.search.rerank.superglobal import SuperGlobal

METHODS: dict[str, Callable[..., Reranker]] = {
    "expansion": QueryExpansion,
    "k-reciprocal": KReciprocal,
    "diffusion": Diffusion,
    "rdp": RegularisedDiffusion,
    "egt": ExploreExploit,
    "superglobal": SuperGlobal,
}


def make_reranker(stages: Sequence[RerankStage]) -> Reranker:
    """The stages one after the other. Raises RecipeError for parameters that do not fit each other."""
    return compose(*(METHODS[stage.method](**stage.model_dump(exclude={"method"})) for stage in stages))
