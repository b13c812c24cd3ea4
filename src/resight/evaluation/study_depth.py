"""What the depth of a network does to mAP (the survey's Fig. 11 a): one layer of each, under MAC."""

from collections.abc import Sequence

from resight.errors import RecipeError
from resight.evaluation.labelled import LabelledSet
from resight.evaluation.plot import Study
from resight.evaluation.study import POOLINGS, network_stage, plain_table, run_study
from resight.evaluation.variants import Report, Variants, reading, silent
from resight.recipes.recipe import Recipe


def study_depth(sets: Sequence[LabelledSet], recipes: Sequence[Recipe], *, report: Report = silent) -> Study:
    """mAP by network, of the first network and layer of each recipe, at its sides and scales, under MAC.

    recipes: in the order of the plot, from shallow to deep; each by its name. One network at a time is in memory. The
    survey fine-tunes each alike before; so does who gives weights that were.
    Raises RecipeError where there is none, a recipe has no network, or two have one name.
    """
    if not recipes:
        raise RecipeError("no network to study: name at least one")
    names = [recipe.name for recipe in recipes]
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(f"two of the networks are called {name}: give one another name")
    stages = [network_stage(sets, recipe) for recipe in recipes]  # all, before the hours of work
    studies = []
    for recipe, stage in zip(recipes, stages, strict=True):
        table = {**plain_table(stage), **POOLINGS["mac"]}
        variants = Variants.of({recipe.name: table}, reading(recipe), recipe.name)
        studies.append(run_study("depth", sets, recipe, variants, {}, None, report))
    own = ("recipe", "network", "layer", "weights", "pictures")
    facts = {}
    for study in studies:
        recipe_name, network, layer, weights, pictures = (study.protocol[name] for name in own)
        facts[f"network {recipe_name}"] = f"{network}, layer {layer}, pictures {pictures}, weights {weights}"
    shared = {name: value for name, value in studies[0].protocol.items() if name not in own}
    results = tuple(result for study in studies for result in study.results)
    return Study("depth", {"pooling": "MAC, not whitened", **facts, **shared}, results)
