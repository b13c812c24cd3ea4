"""A recipe and all files that it names, in a folder of its own, for one part of it to be changed."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from resight.errors import RecipeError
from resight.learning.card import base_of, card, network_weights
from resight.recipes.local_stages import LOCAL_FILES
from resight.recipes.network_stages import FILES
from resight.recipes.recipe import Recipe, load_recipe
from resight.recipes.rerank_stages import RERANK_FILES

_KEYS = frozenset((*FILES, *LOCAL_FILES, *RERANK_FILES, "path"))


def copied(recipe: Recipe, into: Path) -> dict[str, Any]:
    """Copy all that a recipe names into the folder ``into``; its table, with paths relative to that.

    What lies beside a file and belongs to it goes along: the ``meta.json`` of weights, the weights of an .xml network.
    Raises RecipeError where a file is missing, or cannot be copied.
    """
    table = recipe.model_dump(by_alias=True, exclude_none=True, mode="json")
    into.mkdir(parents=True, exist_ok=True)
    _copy_in({key: part for key, part in table.items() if key != "trained"}, into, {}, "")
    return table


def write_table(table: dict[str, Any], into: Path) -> None:
    """Write a recipe's table as the folder's recipe.toml. Raises RecipeError where that fails."""
    try:
        (into / "recipe.toml").write_text(tomli_w.dumps(table), encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{into / 'recipe.toml'}: cannot be written: {error.strerror or error}") from error


def finish(table: dict[str, Any], into: Path, part: str, facts: Mapping[str, Any]) -> None:
    """``write_table``, with facts of how a part of it was trained, in ``trained`` and in the card, README.md."""
    trained = {**table.get("trained", {}), part: dict(facts)}
    write_table({**table, "trained": trained}, into)
    write_card(into)


def write_card(into: Path) -> None:
    """Write the card of a folder's recipe, by what it says under ``trained``. Raises RecipeError where that fails."""
    recipe = load_recipe(into)
    weights = network_weights(recipe)
    try:
        text = card(recipe, base_of(weights) if weights else "", recipe.trained or {})
        (into / "README.md").write_text(text, encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{into / 'README.md'}: cannot be written: {error.strerror or error}") from error


def _copy_in(part: Any, into: Path, taken: dict[Path, str], where: str) -> None:
    """Copy what a table, or those in it, name. taken: what has been copied, and to where. where: the table's name."""
    if isinstance(part, list):
        for number, entry in enumerate(part, 1):
            _copy_in(entry, into, taken, where if number == 1 else f"{where}-{number}")
    if not isinstance(part, dict):
        return
    for key, value in part.items():
        if key in _KEYS and isinstance(value, str) and value:
            part[key] = _copy(Path(value), into, taken, where)
        else:
            _copy_in(value, into, taken, f"{where}-{key}" if where else key)


def _copy(source: Path, into: Path, taken: dict[Path, str], where: str) -> str:
    if source in taken:
        return taken[source]
    folder = Path(where)  # names could be the same in several tables, and a meta.json is of one network
    target = into / folder / source.name
    if target.exists():
        folder = folder / str(len(taken))
        target = into / folder / source.name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target)
            for beside in (source.with_name("meta.json"), source.with_suffix(".bin")):
                if beside.is_file() and (beside.suffix == ".json" or source.suffix == ".xml"):
                    shutil.copyfile(beside, target.with_name(beside.name))
    except OSError as error:
        raise RecipeError(f"{source}: cannot be copied to {target}: {error.strerror or error}") from error
    taken[source] = (folder / source.name).as_posix()
    return taken[source]
