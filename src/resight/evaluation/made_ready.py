"""Recipes made ready to index, as their comments say to: weights from a folder, learned parts from photos."""

import hashlib
import os
import shutil
import tempfile
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from resight.errors import RecipeError
from resight.evaluation.labelled import LabelledSet
from resight.evaluation.objects import objects
from resight.recipes.local_stages import (
    AlikedFeatures,
    CompactFeatures,
    DoapFeatures,
    LayerStage,
    LocalStage,
    PatchFeatures,
)
from resight.recipes.recipe import Recipe, load_recipe
from resight.recipes.rerank_stages import SeparationStage

Report = Callable[[str, int, int | None], None]

_OWN = "compact"
_SUFFIXES = (".safetensors", ".npz", ".pth", ".pt")


@dataclass(frozen=True)
class Kit:
    """What recipes are made ready with.

    photos: paths of photos to learn from, as ``find_sources`` takes them.
    weights_from: a folder as ``find_weights`` has it; None leaves weights to the libraries' downloads.
    labels: a set for what is learned from labels; None where there is none.
    sample, seed: at most so many of the photos are read, drawn with the seed.
    """

    photos: tuple[str, ...]
    weights_from: Path | None = None
    labels: LabelledSet | None = None
    sample: int = 5000
    seed: int = 0

    @property
    def identity(self) -> str:
        """sha256, in hex, of all but the weights."""
        labels = "" if self.labels is None else f"{self.labels.name} {self.labels.revision} {self.labels.selection}"
        return _sha256(self.photos, labels, self.sample, self.seed)


def find_weights(folder: Path, name: str) -> Path:
    """The weights of a network in a folder: NAME.safetensors, .npz, .pth or .pt; or the only such file of NAME/.

    Raises RecipeError where there is none, or several.
    """
    found = _candidates(folder, name)
    if len(found) == 1:
        return found[0].absolute()
    if not found:
        raise RecipeError(f"{folder} has no weights of {name}: put {name}.safetensors, .npz or .pth there")
    raise RecipeError(f"{folder} has weights of {name} more than once: keep one of {', '.join(f.name for f in found)}")


def _candidates(folder: Path, name: str) -> list[Path]:
    found = [file for suffix in _SUFFIXES if (file := folder / f"{name}{suffix}").is_file()]
    if (folder / name).is_dir():
        found += sorted(file for file in (folder / name).iterdir() if file.suffix in _SUFFIXES)
    return found


def is_ready(name: str) -> bool:
    """Whether a recipe is taken as it is: a file or folder, which whoever named it has made ready."""
    return Path(name).exists()


def with_weights_from(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with each of its networks' weights from a folder. Raises RecipeError where one is not there.

    Our own network's may be absent: then those that come with it are used.
    """
    from resight.describe.fit import with_branches

    update: dict[str, Any] = {}
    if recipe.global_ is not None:
        found = ((place, _network_weights(folder, b.network)) for place, b in enumerate(recipe.global_.branches))
        places = {place: _given(file) for place, file in found if file is not None}
        update["global_"] = with_branches(recipe.global_, places)
    if recipe.local is not None and (file := _local_weights(recipe.local, folder)) is not None:
        given = {key: value for key, value in _given(file).items() if key in type(recipe.local).model_fields}
        update["local"] = recipe.local.model_copy(update=given)
    return recipe.model_copy(update=update)


def readiness(name: str, kit: Kit) -> str:
    """sha256, in hex, of all that decides what ``make_ready`` gives: another one is made anew.

    Of weights only the recipe's own count, so that those of another network can join the folder.
    """
    recipe = load_recipe(name)
    if is_ready(name):
        return _sha256(recipe.fingerprint, _stats(Path(name)))
    return _sha256(recipe.fingerprint, [_stats(path) for path in _weights(recipe, kit.weights_from)], kit.identity)


def make_ready(
    name: str, kit: Kit, into: Path, *, like: Path | None = None, workers: int | None = None, report: Report
) -> Recipe:
    """A recipe that indexes: one that comes with resight, fitted into a folder; or a file or folder, as it is.

    What a hash function or a re-ranking learns without `resight train` is learned too. ``into`` appears when complete,
    and where it is there it is taken to be what this would make.
    like: what this made with the same kit of a recipe whose ``what_is_fitted`` is the same, to be fitted no more.
    Raises ResightError where weights or photos lack, or a part has to be trained first.
    """
    if is_ready(name):
        return load_recipe(name)
    if not into.exists():
        into.parent.mkdir(parents=True, exist_ok=True)
        staging = into.with_name(f".{into.name}.{os.getpid()}.tmp")
        try:
            recipe = load_recipe(name)
            if kit.weights_from is not None:
                recipe = with_weights_from(recipe, kit.weights_from)
            fit_all(recipe, kit, staging, like=like, workers=workers, report=report)
            staging.rename(into)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return load_recipe(into)


def what_is_fitted(name: str) -> str:
    """What a recipe fits, as text, where that is its global descriptor alone; "" where it fits other things."""
    recipe = load_recipe(name)
    others = recipe.local is not None or recipe.codebook is not None or (recipe.hash is not None and recipe.hash.path)
    return "" if recipe.global_ is None or others else recipe.dump({"image", "global_"})


def fit_all(
    recipe: Recipe, kit: Kit, into: Path, *, like: Path | None = None, workers: int | None = None, report: Report
) -> Recipe:
    """The recipe with all that is learned without `resight train`, written into a folder, which is empty or not there.

    like: as of ``make_ready``.
    Raises as ``make_ready``.
    """
    from resight.describe.fit import fit_recipe

    _check_trained(recipe)
    with tempfile.TemporaryDirectory(prefix="resight-ready-") as temporary:
        plain = Path(temporary) / "recipe.toml"
        plain.write_text(tomli_w.dumps(recipe.model_dump(by_alias=True, exclude_none=True)), encoding="utf-8")
        if like is None:
            fit_recipe(plain, kit.photos, weights=None, into=into, sample=kit.sample, seed=kit.seed, progress=report)
        else:
            _take_over(recipe, like, into)
        fitted = load_recipe(into)
        if fitted.hash is not None and fitted.hash.from_file:
            _learn_hash(fitted, kit, Path(temporary) / "learning", workers, report)
        for place, stage in enumerate(fitted.rerank):
            if isinstance(stage, SeparationStage) and not stage.model:
                _learn_separation(fitted, place, kit, into, Path(temporary) / f"learning-{place}", workers)
    return load_recipe(into)


def _take_over(recipe: Recipe, like: Path, into: Path) -> None:
    shutil.copytree(like, into, ignore=shutil.ignore_patterns("recipe.toml", "rerank-*"))
    table = recipe.model_dump(by_alias=True, exclude_none=True)
    table["global"] = tomllib.loads((like / "recipe.toml").read_text(encoding="utf-8"))["global"]
    (into / "recipe.toml").write_text(tomli_w.dumps(table), encoding="utf-8")


def _check_trained(recipe: Recipe) -> None:
    """Raises RecipeError where a re-ranking has nothing to go by but what `resight train` makes."""
    for stage in recipe.rerank:
        if stage.method in ("transformer", "nonmetric") and not stage.model:
            raise RecipeError(
                f"[[rerank]] {stage.method} has to be trained: make it by `resight train`, and check the folder that "
                "leaves"
            )


def _learn_hash(recipe: Recipe, kit: Kit, learning: Path, workers: int | None, report: Report) -> None:
    from resight.search.collection import Collection
    from resight.search.fit_hash import Labels, fit_hash

    if recipe.hash is None:
        raise ValueError("the recipe has no [hash]")
    labels, photos = None, list(kit.photos)
    if recipe.hash.method in ("ssdh", "siamese"):
        if kit.labels is None:
            raise RecipeError(f"{recipe.hash.method} learns from labelled photos, and none are given to learn from")
        known = {str(kit.labels.locate(path)): shows for path, shows in objects(kit.labels).items()}
        labels, photos = Labels(kit.labels.name, known), sorted(known)
    with Collection.create(learning, recipe) as collection:
        collection.add(photos, workers=workers)
    method, bits = recipe.hash.method, recipe.hash.bits
    fit_hash(learning, method, bits, seed=kit.seed, labels=labels, progress=report).save(recipe.hash.path)


def _learn_separation(recipe: Recipe, place: int, kit: Kit, into: Path, learning: Path, workers: int | None) -> None:
    from resight.search.collection import Collection
    from resight.search.rerank.gss import GssModel
    from resight.search.vectors import read_vectors

    with Collection.create(learning, recipe.model_copy(update={"rerank": ()})) as collection:
        collection.add(list(kit.photos), workers=workers)
    x = read_vectors(learning).x
    file = f"rerank-{place + 1}.safetensors"
    GssModel.fit(x, fitted_on=f"{len(x):,} photos (seed {kit.seed})", seed=kit.seed).save(into / file)
    table = tomllib.loads((into / "recipe.toml").read_text(encoding="utf-8"))
    table["rerank"][place]["model"] = file
    (into / "recipe.toml").write_text(tomli_w.dumps(table), encoding="utf-8")


def _weights(recipe: Recipe, folder: Path | None) -> list[Path]:
    """The files and folders of weights that a recipe made ready would read; none where one of them lacks."""
    from resight.networks.compact import compact_weights

    try:
        given = recipe if folder is None else with_weights_from(recipe, folder)
        named = [(b.network, b.weights) for b in (() if given.global_ is None else given.global_.branches)]
        if given.local is not None:
            named.append((given.local.detector, getattr(given.local, "weights", "")))
        return [Path(file) if file else compact_weights() for network, file in named if file or network == _OWN]
    except RecipeError:
        return []


def _given(file: Path) -> dict[str, str]:
    return {"weights": str(file), "revision": "", "weights_sha256": ""}


def _network_weights(folder: Path, name: str) -> Path | None:
    """As ``find_weights``; None for our own network where the folder has none of it."""
    return None if name == _OWN and not _candidates(folder, name) else find_weights(folder, name)


def _local_weights(stage: LocalStage, folder: Path) -> Path | None:
    """What the local features' weights are; None where they have none."""
    if isinstance(stage, LayerStage):
        return find_weights(folder, stage.network)
    if isinstance(stage, CompactFeatures):
        return _network_weights(folder, stage.detector)
    if isinstance(stage, AlikedFeatures):
        return find_weights(folder, stage.model)
    if isinstance(stage, (PatchFeatures, DoapFeatures)):
        if not (folder / stage.detector).is_dir():
            own = "HardTFeat.pth" if isinstance(stage, PatchFeatures) else "DOAP.mat"
            raise RecipeError(f"{folder} has no folder {stage.detector} with {own}, AffNet.pth and OriNet.pth")
        return (folder / stage.detector).absolute()
    return None


def _stats(path: Path) -> list[tuple[str, int, int]]:
    """Of a file, or of all files in a folder: where it is, bytes, and when it was changed."""
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    return [(str(each.absolute()), (stat := each.stat()).st_size, stat.st_mtime_ns) for each in files]


def _sha256(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogateescape")).hexdigest()
