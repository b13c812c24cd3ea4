"""The card beside a trained recipe: what its network is, what it learned from and how well, and how to use it."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

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
    """Markdown. base_sha256: of the weights that training began with. trained: as ``write_recipe`` takes them."""
    stage = recipe.global_
    if stage is None:
        raise ValueError("a trained recipe has a [global] stage")
    known = {*_FACTS, "settings", "figures"}
    learned = [f"| {label} | {trained[key]} |" for key, label in _FACTS.items() if key in trained]
    learned += [f"| {key} | {value} |" for key, value in trained.items() if key not in known]
    return "\n".join(
        [
            f"# {recipe.name}",
            "",
            recipe.title,
            "",
            f"{stage.network}, layer {', '.join(branch.layer for branch in stage.branches)}, trained from weights with "
            f"sha256 `{base_sha256}`. {recipe.source}",
            "",
            "## Use",
            "",
            "    resight index PHOTOS --into COLLECTION --recipe THIS_FOLDER",
            "    resight search COLLECTION PICTURE",
            "",
            *_readiness(recipe),
            "## Learned from",
            "",
            *_table("what", learned),
            "## Figures",
            "",
            *_table("figure", [f"| {key} | {_figure(value)} |" for key, value in _of(trained, "figures")]),
            "## Settings",
            "",
            *_table("setting", [f"| {key} | `{value}` |" for key, value in _flat(trained.get("settings", {}))]),
            "## Made with",
            "",
            ", ".join(f"{package} {version(package)}" for package in _PACKAGES) + ".",
            "",
            "## Licence",
            "",
            "Not known: it follows from the licence of the weights that training began with, and from what the photos "
            "that it learned from allow. Look both up before you pass this folder on.",
            "",
        ]
    )


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


def _table(head: str, rows: list[str]) -> list[str]:
    return [f"| {head} | value |", "| --- | --- |", *rows, ""] if rows else ["Nothing was said.", ""]


def _of(trained: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    return _flat(trained.get(key, {}))


def _flat(value: Any, above: str = "") -> list[tuple[str, Any]]:
    """Dotted keys of nested tables."""
    if not isinstance(value, Mapping):
        return [(above, value)]
    return [pair for key, each in value.items() for pair in _flat(each, f"{above}.{key}" if above else str(key))]


def _figure(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
