"""Arguments and options that several verbs share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resight.errors import RecipeError

if TYPE_CHECKING:
    from resight.recipes.recipe import Recipe

CollectionPath = Annotated[Path, typer.Argument(metavar="COLLECTION", help="The collection's folder.")]
CollectionPlace = Annotated[
    str, typer.Argument(metavar="COLLECTION", help="The collection's folder; one in shards may be at an fsspec URL.")
]
Cluster = Annotated[
    str | None,
    typer.Option("--cluster", metavar="HOST:PORT", help="A Ray cluster's address: with a collection in shards there."),
]
Photos = Annotated[
    list[str],
    typer.Argument(
        metavar="PHOTOS",
        help="Folders, files, glob patterns, zip or tar archives, @LIST (one path a line), or - for such a "
        "list on standard input.",
    ),
]
RecipeName = Annotated[
    str | None,
    typer.Option("--recipe", envvar="RESIGHT_RECIPE", metavar="NAME|FILE|FOLDER", help="See `resight recipes`."),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        envvar="RESIGHT_WEIGHTS",
        metavar="FILE",
        help="The network's weights (.safetensors, .npz or .pth), for recipes that have a network.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", envvar="RESIGHT_WORKERS", min=1, metavar="N", help="Processes; by default one a core."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", envvar="RESIGHT_QUIET", help="No progress and no remarks.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object.")]

DEFAULT_RECIPE = "rootsift-asmk"


def chosen_recipe(name: str | None, weights: Path | None) -> "Recipe":
    """The recipe a command line names, with `weights` in place of those it names itself.

    Raises RecipeError if there is no such recipe, or if it has no network for the weights.
    """
    from resight.recipes import load_recipe

    recipe = load_recipe(name or DEFAULT_RECIPE)
    if weights is None:
        return recipe
    if recipe.global_ is None:
        raise RecipeError(f"recipe {recipe.name} has no network: leave --weights out, or choose another --recipe")
    if not weights.is_file():
        raise RecipeError(f"there is no weights file {weights}; check --weights (or RESIGHT_WEIGHTS)")
    stage = recipe.global_.model_copy(update={"weights": str(weights.absolute()), "revision": ""})
    return recipe.model_copy(update={"global_": stage})
