"""A trained model as a recipe's folder, which the ordinary describer loads, with a card that says what it is."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from resight.artefact import add_meta
from resight.describe.describer import Describer, load_global
from resight.describe.fit import copy_learned, copy_model, with_branches
from resight.describe.fit_local import place_local, relative
from resight.describe.folder import check_empty, staged
from resight.embedding.layers import LayerEmbedding
from resight.errors import RecipeError
from resight.fitted import PhotoSketch
from resight.hashing.function import HashFunction, Layer
from resight.learning.card import card, header_of
from resight.learning.heads import Head
from resight.learning.model import Model
from resight.learning.model_settings import Learns
from resight.networks.weights import file_sha256
from resight.pooling.attention_gem import AttentionGeM
from resight.projection.projection import Projection
from resight.recipes.attention import ClassToken, Saliency
from resight.recipes.embeddings import LayerStage
from resight.recipes.local_stages import MapStage
from resight.recipes.network_stages import GlobalStage
from resight.recipes.poolings import Gem
from resight.recipes.recipe import HashStage, Recipe


@dataclass(frozen=True)
class _Origin:
    """What the learned parts say of themselves. n: photos; fitted_on: which, in words; photos: which, if known."""

    n: int
    fitted_on: str
    photos: PhotoSketch | None


def write_recipe(
    model: Model,
    recipe: Recipe,
    into: Path,
    *,
    trained: Mapping[str, Any],
    weights_name: str = "model.safetensors",
    photos: PhotoSketch | None = None,
) -> Path:
    """Write the recipe with what the model learned, and copies of the rest, into a folder, which appears when complete.

    recipe: of whose [global] stage the model was made, as ``load_recipe`` gave it.
    trained: facts for the recipe, the weights and README.md, None left out: ``on``, ``revision``, ``split``,
        ``classes``, ``photos`` (how many), ``settings``, ``figures``, and whatever else.
    photos: which photos those are.
    A projection becomes the recipe's whitening, a hash layer its codes. A whitening of the descriptors from before is
    left out, so that without a projection the recipe is yet to be whitened (``whiten``), unless it has none or codes.
    Returns ``into``. Raises RecipeError where that is no empty folder or cannot be written, the recipe has a stage
    that does not go with what was learned, or that is not finite.
    """
    into = into.absolute()
    check_goes(recipe, model.learns)
    check_empty(into)
    _check_finite(model)
    facts = _plain(trained)
    count = facts.get("photos", 0)
    text = f"{facts.get('on') or 'labelled photos'}, learned with the network"
    origin = _Origin(count if isinstance(count, int) else 0, text, photos)
    with staged(into) as staging:
        written = _write(model, recipe, staging, facts, weights_name, origin)
        table = written.model_dump(by_alias=True, exclude_none=True)
        (staging / "recipe.toml").write_text(tomli_w.dumps(table), encoding="utf-8")
        (staging / "README.md").write_text(card(written, model.base_sha256, facts), encoding="utf-8")
    return into


def check_goes(recipe: Recipe, learns: Learns) -> None:
    """Raises RecipeError where the recipe has no [global] stage, or others that codes do not go with."""
    if recipe.global_ is None:
        raise RecipeError(f"recipe {recipe.name} has no [global] table: nothing of it makes a descriptor")
    joins = recipe.expansion is not None and recipe.expansion.joins == "vectors"
    if learns.hash_bits and (recipe.rerank or joins):
        table = "[[rerank]]" if recipe.rerank else '[expansion] joins = "vectors"'
        raise RecipeError(f"recipe {recipe.name}: {table} does not go with codes: leave it out, or hash_bits at 0")


def _write(
    model: Model, recipe: Recipe, into: Path, facts: dict[str, Any], weights_name: str, origin: _Origin
) -> Recipe:
    """The files, and the recipe that names them relative to the folder."""
    _write_network(model, into / weights_name, facts)
    sha256 = file_sha256(into / weights_name)
    changes = {
        place: {
            "weights": weights_name,
            "revision": "",
            "weights_sha256": sha256,
            "whitening": "",
            "quantised": "",
            **_write_head(head, into, place, origin),
        }
        for place, head in enumerate(model.branch_heads)
    }
    stage = with_branches(model.stage, changes)
    update: dict[str, Any] = {"trained": facts or None, "adapters": None, **_copied(recipe, into)}
    if model.projection is not None:
        stage = _write_projection(model, stage, into, recipe.name, origin)
    elif model.hash is not None or stage.whiten == "none":
        stage = stage.model_copy(update={"whiten": "none", "dimensions": model.raw_dimension})
    update["global_"] = stage
    if model.hash is not None:
        bits = len(model.hash.weight)
        codes = HashStage(method="siamese", bits=bits, path="hash.safetensors")
        update |= {"filter": "hash", "hash": codes}
    written = _checked(recipe.model_copy(update=update))
    if model.hash is not None:
        placed = written.model_copy(update={"global_": _absolute(stage, into)})
        layer = Layer(_array(model.hash.weight), _array(model.hash.bias))
        descriptor = Describer(placed).fingerprint
        function = HashFunction((layer,), "siamese", origin.n, origin.fitted_on, descriptor, origin.photos)
        function.save(into / "hash.safetensors")
    return written


def _write_network(model: Model, path: Path, facts: dict[str, Any]) -> None:
    # Copies, as safetensors takes no tensors that share memory.
    state = {
        name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.trunk.network.state_dict().items()
    }
    header = {"network": model.network, "base_sha256": model.base_sha256, "trained": facts}
    save_file(state, path, metadata=header_of(header))
    if model.batchnorm_eps is not None:
        meta = json.dumps({"bn_eps": model.batchnorm_eps}) + "\n"
        path.with_name("meta.json").write_text(meta, encoding="utf-8")


def _write_head(head: Head, into: Path, place: int, origin: _Origin) -> dict[str, Any]:
    """A branch's own files; the keys of the recipe that name them, or hold what was learned."""
    branch, number = head.branch, "" if place == 0 else f"-{place + 1}"
    keys: dict[str, Any] = {}
    if head.p is not None and isinstance(branch.pooling, Gem):
        p = head.p.detach().double().flatten().tolist()
        keys["pooling"] = Gem(p=p[0] if head.p.ndim == 0 else tuple(p))
    if head.attention is not None and not isinstance(branch.attention, Saliency | ClassToken | None):
        file = into / f"attention{number}.safetensors"
        state = {name: x.detach().cpu().contiguous().clone() for name, x in head.attention.state_dict().items()}
        if isinstance(head.attention, AttentionGeM) and head.p is not None:
            state["gem.p"] = head.p.detach().cpu().clone()
        save_file(state, file)
        named = {"weights": file.name, "weights_sha256": file_sha256(file), "prefix": ""}
        keys["attention"] = branch.attention.model_copy(update=named)
    if head.embedding is not None and isinstance(branch.embedding, LayerStage):
        name = f"embedding{number}.safetensors"
        _write_embedding(head, branch.embedding, into / name, origin)
        keys["learned"] = name
    elif branch.learned:
        keys["learned"] = copy_learned(Path(branch.learned), into, place)
    if branch.reduction:
        keys["reduction"] = copy_learned(Path(branch.reduction), into, place)
    return keys


def _write_embedding(head: Head, stage: LayerStage, path: Path, origin: _Origin) -> None:
    layer = head.embedding
    if layer is None:
        raise ValueError("the branch has no embedding")
    copied = LayerEmbedding.load(head.branch.learned).layer
    copied.load_state_dict({name: x.detach().cpu() for name, x in layer.state_dict().items()})
    LayerEmbedding(stage.kind, copied, origin.fitted_on).save(path)
    if origin.photos is not None:
        add_meta(path, {"photos": origin.photos.to_json()})


def _write_projection(model: Model, stage: GlobalStage, into: Path, recipe: str, origin: _Origin) -> GlobalStage:
    if model.projection is None:
        raise ValueError("the model has no projection")
    whiten = stage.whiten if stage.whitens_each else "image"
    dimensions = len(model.projection.matrix)
    stage = stage.model_copy(update={"whiten": whiten, "dimensions": dimensions})
    (descriptor,) = load_global(_absolute(stage, into), recipe).raw_fingerprints
    mean, matrix = _array(model.projection.mean), _array(model.projection.matrix)
    Projection(mean, matrix, "learned-whitening", origin.n, origin.fitted_on, descriptor, origin.photos).save(
        into / "whitening.safetensors"
    )
    return stage.model_copy(update={"whitening": "whitening.safetensors"})


def _copied(recipe: Recipe, into: Path) -> dict[str, Any]:
    """Copies of the files of the stages that were not trained; the stages that name them."""
    update: dict[str, Any] = {}
    if recipe.hash is not None and recipe.hash.path:
        # Not copied: it is of the descriptors from before.
        update["hash"] = recipe.hash.model_copy(update={"path": Path(recipe.hash.path).name})
    if recipe.rerank:
        update["rerank"] = tuple(copy_model(stage, into, place) for place, stage in enumerate(recipe.rerank))
    if (local := recipe.local) is not None:
        placed = place_local(local, None, into, recipe.name)
        if isinstance(local, MapStage) and local.reduction:
            file = into / "local-reduction.safetensors"
            shutil.copyfile(local.reduction, file)
            placed = placed.model_copy(update={"reduction": str(file)})
        update["local"] = relative(placed, into)
    for key in ("codebook", "hamming"):
        stage = recipe.codebook if key == "codebook" else recipe.hamming
        if stage is not None and stage.path:
            shutil.copyfile(stage.path, into / f"{key}.safetensors")
            update[key] = stage.model_copy(update={"path": f"{key}.safetensors"})
    return update


def _absolute(stage: GlobalStage, folder: Path) -> GlobalStage:
    """The stage with its files' places in the folder."""
    changes: dict[int, dict[str, Any]] = {}
    for place, branch in enumerate(stage.branches):
        keys = ("weights", "learned", "reduction", "whitening")
        changes[place] = {key: str(folder / getattr(branch, key)) for key in keys if getattr(branch, key)}
        attention = branch.attention
        if attention is not None and not isinstance(attention, Saliency | ClassToken):
            changes[place]["attention"] = attention.model_copy(update={"weights": str(folder / attention.weights)})
    return with_branches(stage, changes)


def _checked(recipe: Recipe) -> Recipe:
    """The recipe, its stages checked against one another."""
    try:
        return Recipe.model_validate(recipe.model_dump(by_alias=True, exclude_none=True))
    except ValidationError as error:
        raise RecipeError(f"recipe {recipe.name} does not go with what was learned: {error}") from error


def _check_finite(model: Model) -> None:
    for name, x in model.state_dict().items():
        if x.is_floating_point() and not bool(x.isfinite().all()):
            raise RecipeError(f"{name} is not finite: training has diverged; lower the rate")
    for head in model.branch_heads:
        if head.p is not None and not bool((head.p > 0).all()):
            raise RecipeError("GeM's p fell to 0 or below: training has diverged; lower the rate")


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is None, at any depth, which TOML cannot say; tuples as lists, paths as text."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): plain(each) for key, each in value.items() if each is not None}
        if isinstance(value, list | tuple):
            return [plain(each) for each in value if each is not None]
        if isinstance(value, np.generic):
            return value.item()
        return value if isinstance(value, str | bool | int | float) else str(value)

    return {str(key): plain(value) for key, value in facts.items() if value is not None}


def _array(x: Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = x.detach().cpu().float().numpy().copy()
    return found
