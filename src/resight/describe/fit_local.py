"""Making a recipe's [local] stage ready: its weights beside it, and the reduction of its descriptors learned."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from resight.describe.local_features import load_local, load_network_features, weights_sha256
from resight.errors import RecipeError
from resight.recipes.local_stages import DelfFeatures, LayerStage, LocalStage, MapStage, Sift

if TYPE_CHECKING:
    from resight.images.image import Image


def place_local(stage: LocalStage, weights: Path | None, into: Path, recipe: str) -> LocalStage:
    """The stage with its files copied into a folder, with absolute paths and no reduction.

    weights: of the features, in place of the stage's own. recipe: its name, for messages.
    Raises RecipeError where weights are given to features that have none, or lack.
    """
    if isinstance(stage, Sift):
        if weights is not None:
            raise RecipeError(f"recipe {recipe} finds local features without a network; leave out --local-weights")
        return stage
    given = {"weights": str(weights.absolute()), "weights_sha256": ""} if weights else {}
    if weights and isinstance(stage, LayerStage):
        given["revision"] = ""
    stage = stage.model_copy(update=given | ({"reduction": ""} if isinstance(stage, MapStage) else {}))
    if not isinstance(stage, LayerStage):
        load_local(stage, recipe)  # says what is wrong with the weights, if anything is
    placed: dict[str, str] = {}
    if stage.weights:
        copy = _copy(Path(stage.weights), into)
        placed |= {"weights": str(copy), "weights_sha256": weights_sha256(copy)}
    if isinstance(stage, DelfFeatures) and stage.head:
        placed["head"] = str(_copy(Path(stage.head), into))
    return stage.model_copy(update=placed)


def learn_reduction(stage: LocalStage, images: "Iterable[Image]", into: Path, fitted_on: str) -> LocalStage:
    """The stage with the projection that reduces its descriptors, learned from images, if it has such."""
    if not isinstance(stage, MapStage):
        return stage
    features = load_network_features(stage)
    if features.detector.reduce == "none":
        return stage
    file = into.absolute() / "local-reduction.safetensors"
    features.fit(images, fitted_on=fitted_on).save(file)
    return stage.model_copy(update={"reduction": str(file)})


def relative(stage: LocalStage, into: Path) -> LocalStage:
    """The stage with paths relative to the folder that its files were copied into."""
    keys = {key: getattr(stage, key, "") for key in ("weights", "head", "reduction")}
    return stage.model_copy(update={k: Path(v).relative_to(into.absolute()).as_posix() for k, v in keys.items() if v})


def _copy(source: Path, into: Path) -> Path:
    """A file, with the facts that lie beside it, or a folder of weights, in a folder ``local`` of their own."""
    folder = into.absolute() / "local"
    folder.mkdir(exist_ok=True)
    if source.is_dir():
        target = folder / source.name
        target.mkdir(exist_ok=True)
        for file in sorted(source.iterdir()):
            if file.is_file():
                shutil.copyfile(file, target / file.name)
        return target
    shutil.copyfile(source, folder / source.name)
    meta = source.with_name("meta.json")
    if meta.is_file():
        shutil.copyfile(meta, folder / "meta.json")
    return folder / source.name
