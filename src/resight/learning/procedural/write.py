"""The trained compact network as a folder with a recipe, which the ordinary describer loads, and a card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from resight.describe.folder import staged
from resight.learning.card import assembled, rows
from resight.networks.compact import Compact, save_compact
from resight.networks.weights import file_sha256
from resight.recipes.recipe import Recipe

WEIGHTS = "model.safetensors"


def write_compact(network: Compact, recipe: Recipe, into: Path, trained: Mapping[str, Any]) -> None:
    """Write the weights in 16 bits, the recipe ``compact`` that names them, and README.md, into a new folder.

    trained: facts for all three. Raises RecipeError where the folder cannot be written, and as ``save_compact``.
    """
    with staged(into) as staging:
        save_compact(network, staging / WEIGHTS, {"trained": dict(trained)})
        given = {"weights": WEIGHTS, "weights_sha256": file_sha256(staging / WEIGHTS)}
        if recipe.global_ is None or recipe.local is None:
            raise ValueError("the recipe compact has [global] and [local]")
        update = {
            "global_": recipe.global_.model_copy(update=given),
            "local": recipe.local.model_copy(update=given),
            "trained": dict(trained),
        }
        written = Recipe.model_validate(recipe.model_copy(update=update).model_dump(by_alias=True, exclude_none=True))
        table = written.model_dump(by_alias=True, exclude_none=True)
        (staging / "recipe.toml").write_text(tomli_w.dumps(table), encoding="utf-8")
        (staging / "README.md").write_text(procedural_card(written, trained), encoding="utf-8")


def procedural_card(recipe: Recipe, trained: Mapping[str, Any]) -> str:
    """Markdown. trained: as the recipe has it."""
    taught = "teacher" in trained
    teacher = (
        f"The global vector also learned from a teacher's vectors of those pictures: {trained['teacher']}."
        if taught
        else "No other network took part."
    )
    licence = (
        "The pictures are resight's own. What the teacher's licence asks of a network that learned from its vectors is "
        "for you to look up."
        if taught
        else "Weights and pictures are resight's own, and under its licence."
    )
    known = {"settings", "figures", "teacher"}
    facts = {key: value for key, value in trained.items() if key not in known}
    return assembled(
        recipe,
        "A network that gives a global vector, keypoints and their descriptors (`resight.networks.compact`). "
        f"It learned from pictures that resight rendered, and from no photograph. {teacher}",
        trained,
        learned=rows("what", facts),
        settings=rows("setting", trained.get("settings", {})),
        licence=licence,
    )
