"""What of a recipe is trained, and in which phases.

embedding: the [global] descriptor. deep-retrieval: that, and then the proposals of regions. delf, how: the [local]
features; with delf also DELG's descriptor of the same network. patches: DOAP's network for patches. reranking: what
compares two photos, in [[rerank]].
A scheme's own file, or those that begin with its name, say how; each gives ``phases``.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from resight.errors import RecipeError
from resight.learning.task import Phase
from resight.recipes.local_stages import DelfFeatures, DoapFeatures, HowFeatures
from resight.recipes.recipe import Recipe
from resight.recipes.rerank_stages import NonMetricStage, TransformerStage

if TYPE_CHECKING:
    from resight.learning.settings import Training

Scheme = Callable[[Recipe, "Training"], Sequence[Phase]]


def _scheme(module: str) -> Scheme:
    """A scheme whose module is imported when it is asked for."""

    def phases(recipe: Recipe, settings: "Training") -> Sequence[Phase]:
        found: Sequence[Phase] = import_module(f"{__name__}.{module}").phases(recipe, settings)
        return found

    return phases


SCHEMES: dict[str, Scheme] = {
    "embedding": _scheme("embedding"),
    "deep-retrieval": _scheme("deep_retrieval"),
    "delf": _scheme("delf"),
    "how": _scheme("how"),
    "patches": _scheme("patches"),
    "reranking": _scheme("reranking"),
}


def scheme_of(recipe: Recipe, settings: "Training") -> str:
    """The name of the scheme that settings ask for, or, for "auto", that the recipe's stages do.

    Raises RecipeError for an unknown name, or a recipe of which nothing can be trained.
    """
    if settings.scheme != "auto":
        if settings.scheme not in SCHEMES:
            raise RecipeError(f"no scheme is called {settings.scheme!r}; choose one of auto, {', '.join(SCHEMES)}")
        return settings.scheme
    if any(isinstance(s, TransformerStage | NonMetricStage) and not s.model for s in recipe.rerank):
        return "reranking"
    if isinstance(recipe.local, DelfFeatures):
        return "delf"
    if isinstance(recipe.local, HowFeatures):
        return "how"
    if isinstance(recipe.local, DoapFeatures):
        return "patches"
    if recipe.global_ is None:
        raise RecipeError(
            f"recipe {recipe.name} has nothing that learns from labels: it needs [global], [local] with detector delf, "
            "how or doap, or [[rerank]] transformer or nonmetric without a model"
        )
    return "embedding"
