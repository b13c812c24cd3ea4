"""The recipe that a training of local features leaves: its [local] table with new weights, head or reduction."""

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from resight.describe.fit_local import learn_reduction
from resight.errors import ImageError, RecipeError
from resight.images.apart import read_image_apart
from resight.images.image import Image
from resight.learning.datasets.photos import TrainingSet
from resight.learning.schemes.delf_trunk import MapTrunk
from resight.learning.schemes.reranking_copy import copied, write_card, write_table
from resight.learning.task import Lesson
from resight.local.delf import DelfHead
from resight.networks.weights import file_sha256
from resight.recipes.local_stages import LocalStage, MapStage
from resight.recipes.recipe import Recipe, load_recipe
from resight.recipes.stage import Stage

REDUCED_ON = 5000
"""Photos, at most, that a reduction is learned from, as in ``resight fit`` and in HOW's training."""


def fitted_on(photos: TrainingSet) -> str:
    """Which photos these are, in words for reports."""
    return f"{len(photos.photos):,} photos of {len(photos.classes):,} objects of {photos.name}"


def facts_of(lesson: Lesson, **taken: Stage) -> dict[str, Any]:
    """Of a training, for the recipe and for the headers of what it made.

    taken: tables of settings that were taken where the settings name none, such as ``loss``.
    """
    photos, settings = lesson.photos, lesson.settings.model_dump(mode="json", exclude_none=True)
    return {
        "on": photos.name,
        "revision": photos.revision,
        "split": photos.selection,
        "classes": len(photos.classes),
        "photos": len(photos.photos),
        "settings": settings
        | {name: stage.model_dump(mode="json", exclude_none=True) for name, stage in taken.items()},
    }


def images_of(photos: TrainingSet, max_side: int, seed: int) -> Iterator[Image]:
    """Whole images, each once, at most ``REDUCED_ON``, drawn with the seed. RecipeError where one is unreadable."""
    paths = list(dict.fromkeys(photo.path for photo in photos.photos))
    drawn = np.sort(np.random.default_rng(seed).permutation(len(paths))[:REDUCED_ON])
    for place in drawn.tolist():
        try:
            yield read_image_apart(paths[place], max_side=max_side)
        except ImageError as error:
            raise RecipeError(f"{paths[place]}: {error.reason}; mend it or take it out") from error


def without_learned(recipe: Recipe, *, network: bool) -> Recipe:
    """The recipe without what was learned from its local features as they were: head, reduction, codebook, signatures.

    network: without its weights too.
    """
    stage = _local(recipe)
    stale = ["reduction", "head", *(("weights", "revision", "weights_sha256") if network else ())]
    kept = {key: "" for key in stale if key in type(stage).model_fields}
    changes: dict[str, Any] = {"local": stage.model_copy(update=kept)}
    if recipe.codebook is not None:
        changes["codebook"] = recipe.codebook.model_copy(update={"path": ""})
    if recipe.hamming is not None:
        changes["hamming"] = recipe.hamming.model_copy(update={"path": ""})
    return recipe.model_copy(update=changes)


def write_local(
    recipe: Recipe,
    into: Path,
    phase: str,
    facts: Mapping[str, Any],
    *,
    trunk: MapTrunk | None = None,
    head: DelfHead | None = None,
) -> Recipe:
    """A recipe, all its files and its card in the folder ``into``, with what was learned of it; as loaded again.

    phase, facts: of the training, which the recipe keeps under ``trained``. What ``without_learned`` leaves out is left
    out. Raises RecipeError where a file cannot be read or written.
    """
    table = copied(without_learned(recipe, network=trunk is not None), into)
    if trunk is not None:
        (into / "local").mkdir(exist_ok=True)
        trunk.save(into / "local" / "model.safetensors", facts)
        sha256 = file_sha256(into / "local" / "model.safetensors")
        table["local"] |= {"weights": "local/model.safetensors", "weights_sha256": sha256}
    write_table({**table, "trained": {**table.get("trained", {}), phase: dict(facts)}}, into)
    if head is not None:
        put_head(into, head, facts)
    write_card(into)
    return load_recipe(into)


def put_head(into: Path, head: DelfHead, facts: Mapping[str, Any], *, network: str = "") -> None:
    """Put a head into a written recipe's folder. network: the table whose weights [local] shares; "" for its own."""
    (into / "local").mkdir(exist_ok=True)
    _save_head(head, into / "local" / "head.safetensors", facts)
    table = _table(into)
    table["local"]["head"] = "local/head.safetensors"
    if network:
        table["local"] |= {key: table[network][key] for key in ("weights", "weights_sha256")}
    write_table(table, into)


def add_reduction(written: Recipe, into: Path, photos: TrainingSet, seed: int) -> None:
    """Learn the reduction of a written recipe's descriptors, if it asks for one, and put it into the recipe's folder.

    Raises RecipeError as ``images_of`` and ``NetworkFeatures.fit``.
    """
    images = images_of(photos, written.image.max_side, seed)
    local = learn_reduction(_local(written), images, into, fitted_on(photos))
    if isinstance(local, MapStage) and local.reduction:
        set_reduction(into, Path(local.reduction).name)


def set_reduction(into: Path, name: str) -> None:
    """Name a file in a written recipe's folder as its reduction."""
    table = _table(into)
    table["local"]["reduction"] = name
    write_table(table, into)


def _table(into: Path) -> dict[str, Any]:
    return tomllib.loads((into / "recipe.toml").read_text(encoding="utf-8"))


def _save_head(head: DelfHead, file: Path, facts: Mapping[str, Any]) -> None:
    state = {
        name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in head.state_dict().items()
    }
    try:
        save_file(state, file, metadata={"resight": json.dumps(dict(facts), sort_keys=True)})
    except (OSError, SafetensorError) as error:
        raise RecipeError(f"{file}: cannot be written: {error}") from error


def _local(recipe: Recipe) -> LocalStage:
    if recipe.local is None:
        raise RecipeError(f"recipe {recipe.name} has no local features: give it a table [local]")
    return recipe.local
