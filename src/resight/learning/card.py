"""The card beside a trained recipe: what its network is, what it learned from and how well, and how to use it."""

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from resight.learning.settings import flat
from resight.networks.weights import read_checkpoint
from resight.recipes.local_stages import DoapFeatures, LayerStage
from resight.recipes.recipe import Recipe

_FACTS = {
    "on": "Set",
    "revision": "Revision of its ground truth",
    "split": "Split",
    "classes": "Objects",
    "photos": "Photos",
}
_PACKAGES = ("resight", "torch", "timm")


def card(recipe: Recipe, base_sha256: str, trained: Mapping[str, Any]) -> str:
    """Markdown. trained: facts as ``write_recipe`` takes them, or such facts by the name of the phase, or both.

    base_sha256: of the weights that the network's training began with; "" where it did not learn.
    Raises ValueError for a recipe without a network.
    """
    phases = {"": {key: value for key, value in trained.items() if not _is_phase(key, value)}}
    phases |= {key: value for key, value in trained.items() if _is_phase(key, value)}
    if len(phases) > 1 and not phases[""].keys() - {"figures"}:
        del phases[""]
    begun = "trained from random weights" if _of_patches(recipe) else "with weights that did not learn"
    if base_sha256:
        begun = f"trained from weights with sha256 `{base_sha256}`"
    return assembled(
        recipe,
        f"{_network(recipe)}, {begun}. {recipe.source}",
        trained,
        ready=_readiness(recipe),
        learned=_by_phase(phases, "what", _learned),
        settings=_by_phase(phases, "setting", _settings),
        licence="Not known: it follows from the licence of the weights that training began with, and from what the "
        "photos that it learned from allow. Look both up before you pass this folder on.",
    )


def assembled(
    recipe: Recipe,
    about: str,
    trained: Mapping[str, Any],
    *,
    ready: Sequence[str] = (),
    learned: Sequence[str],
    settings: Sequence[str],
    licence: str,
) -> str:
    """The sections that every card has. about: what the network is. trained: facts, whose figures are told.

    ready: lines of what is yet to be done before it is used. learned, settings: lines of tables.
    """
    made_with = ", ".join(f"{package} {version(package)}" for package in _PACKAGES)
    return "\n".join(
        [
            f"# {recipe.name}",
            "",
            recipe.title,
            "",
            about,
            "",
            "## Use",
            "",
            "    resight index PHOTOS --into COLLECTION --recipe THIS_FOLDER",
            "    resight search COLLECTION PICTURE",
            "",
            *ready,
            "## Learned from",
            "",
            *learned,
            "## Figures",
            "",
            *rows("figure", trained.get("figures", {})),
            "## Settings",
            "",
            *settings,
            "## Made with",
            "",
            f"{made_with}.",
            "",
            "## Licence",
            "",
            licence,
            "",
        ]
    )


def header_of(facts: Mapping[str, Any]) -> dict[str, str]:
    """JSON facts as a safetensors file's metadata: one entry, since several come in an order that changes the file."""
    return {"resight": json.dumps(dict(facts), sort_keys=True)}


def base_of(weights: str | Path) -> str:
    """sha256 of the weights that a file's training began with, by the header that training gives it; "" without one."""
    try:
        facts = json.loads(read_checkpoint(weights).facts.get("resight", "{}"))
    except (TypeError, ValueError):  # another program's entry of this name
        return ""
    return str(facts.get("base_sha256", "")) if isinstance(facts, dict) else ""


def network_weights(recipe: Recipe) -> str:
    """The file of the network that a card is about: of [global], or else of [local]; "" where none is named."""
    if recipe.global_ is not None:
        return recipe.global_.weights
    if isinstance(recipe.local, DoapFeatures):
        return str(Path(recipe.local.weights) / "DOAP.safetensors")
    return recipe.local.weights if isinstance(recipe.local, LayerStage) else ""


def _network(recipe: Recipe) -> str:
    if recipe.global_ is not None:
        layers = ", ".join(branch.layer for branch in recipe.global_.branches)
        return f"{recipe.global_.network}, layer {layers}"
    if isinstance(recipe.local, LayerStage):
        return f"{recipe.local.network}, layer {recipe.local.layer}"
    if isinstance(recipe.local, DoapFeatures):
        return f"L2-Net for patches, {recipe.local.dimensions} {'bits' if recipe.local.binary else 'numbers'}"
    raise ValueError("a trained recipe has a network")


def _of_patches(recipe: Recipe) -> bool:
    return recipe.global_ is None and isinstance(recipe.local, DoapFeatures)


def _is_phase(key: str, value: Any) -> bool:
    return isinstance(value, Mapping) and key not in ("settings", "figures")


def _by_phase(
    phases: Mapping[str, Mapping[str, Any]], head: str, rows_of: Callable[[Mapping[str, Any]], list[str]]
) -> list[str]:
    lines = []
    for name, facts in phases.items():
        lines += [*([f"### {name}", ""] if name else []), *_table(head, rows_of(facts))]
    return lines


def _learned(facts: Mapping[str, Any]) -> list[str]:
    known = {*_FACTS, "settings", "figures"}
    rows = [f"| {label} | {facts[key]} |" for key, label in _FACTS.items() if key in facts]
    return rows + [f"| {key} | {value} |" for key, value in facts.items() if key not in known]


def _settings(facts: Mapping[str, Any]) -> list[str]:
    return [f"| {key} | `{value}` |" for key, value in flat(facts.get("settings", {}))]


def _readiness(recipe: Recipe) -> list[str]:
    stage = recipe.global_
    lines = []
    if stage is not None and stage.whiten != "none" and not stage.whitening:
        lines += ["It has no whitening yet: `resight fit THIS_FOLDER PHOTOS --into ANOTHER` learns one.", ""]
    if recipe.hash is not None and recipe.hash.path and recipe.hash.method != "siamese":
        lines += ["Its codes were of the descriptors from before: `resight hash fit` learns them anew.", ""]
    if recipe.calibration is not None:
        lines += ["Its probabilities were calibrated with the network as it was before.", ""]
    return lines


def rows(head: str, facts: Mapping[str, Any]) -> list[str]:
    """Lines of a table of facts, those of tables in them by dotted keys."""
    return _table(head, [f"| {key} | {_figure(value)} |" for key, value in flat(facts)])


def _table(head: str, rows: list[str]) -> list[str]:
    return [f"| {head} | value |", "| --- | --- |", *rows, ""] if rows else ["Nothing was said.", ""]


def _figure(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
