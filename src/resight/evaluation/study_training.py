"""What a network was trained on, against how its results are re-ranked (the survey's Table 4), on labelled sets."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import ValidationError

from resight.errors import RecipeError
from resight.evaluation.labelled import LabelledSet
from resight.evaluation.measure import versions
from resight.evaluation.plot import Result, Study
from resight.evaluation.protocol import evaluate
from resight.evaluation.study import check_names, set_facts
from resight.recipes.recipe import Recipe
from resight.recipes.rerank_stages import RerankStage

if TYPE_CHECKING:
    from resight.search.collection import Progress

NONE, OWN = "none", "the recipe's own"


def study_training_set(
    sets: Sequence[LabelledSet],
    recipes: Mapping[str, Recipe],
    rerankings: Mapping[str, Sequence[RerankStage]] | None = None,
    *,
    workers: int | None = None,
    progress: "Callable[[Progress], None] | None" = None,
) -> Study:
    """mAP of each recipe under each re-ranking; every figure is one of `evaluate`, on a collection of its own.

    recipes: by the name of what each was trained or fitted on. rerankings: further ones, tables of [[rerank]] by name,
    in place of the recipe's own. Always there are ``none``, the filter's ranking, and, where the recipe re-ranks or
    verifies, its own.
    Raises RecipeError where a re-ranking does not fit a recipe, before anything is measured.
    """
    check_names(sets)
    if not recipes:
        raise RecipeError("no recipe to study: name at least one")
    cells = [
        (trained_on, name, variant)
        for trained_on, recipe in recipes.items()
        for name, variant in _variants(trained_on, recipe, rerankings or {}).items()
    ]
    results, facts = [], {}
    for labelled in sets:
        shares: list[float] = []
        unread: dict[str, str] = {}
        for trained_on, name, recipe in cells:
            report = evaluate(labelled, recipe, ap="trapezoidal", workers=workers, progress=progress)
            score = report.figures.mean_average_precision
            if score is None:
                raise ValueError(f"{labelled.name} has no query with an answer")
            lengths = () if recipe.global_ is None else recipe.global_.lengths
            results.append(Result(labelled.name, trained_on, name, sum(lengths), score))
            shares += report.protocol.fitted_share.values()
            unread |= report.not_indexed
        facts[labelled.name] = {**set_facts(labelled, {}, max(shares, default=None)), "unread": unread}
    protocol = {
        **{f"recipe {trained_on}": f"{r.name}, {r.fingerprint[:12]}" for trained_on, r in recipes.items()},
        "figures": "mAP, trapezoidal; by `evaluate`",
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "sets": facts,
    }
    return Study("training-set", protocol, tuple(results))


def _variants(trained_on: str, recipe: Recipe, rerankings: Mapping[str, Sequence[RerankStage]]) -> dict[str, Recipe]:
    plain = recipe.model_copy(update={"rerank": (), "verify": None, "expansion": None, "calibration": None})
    found = {NONE: plain}
    if recipe.rerank or recipe.verify is not None:
        found[OWN] = recipe
    for name, stages in rerankings.items():
        if name in found:
            raise RecipeError(f"two re-rankings are called {name!r}")
        found[name] = plain.model_copy(update={"rerank": tuple(stages)})
    for name, variant in found.items():
        try:
            Recipe.model_validate(variant.model_dump(by_alias=True))
        except ValidationError as error:
            problem = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise RecipeError(f"{trained_on}, re-ranked by {name}: {problem}") from error
    return found
