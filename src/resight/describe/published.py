"""A published checkpoint made a folder that `--recipe` takes: weights, whitening and recipe."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from resight.describe.describer import load_global
from resight.describe.folder import check_empty, staged
from resight.describe.local_features import load_network_features
from resight.embedding.layers import LayerEmbedding
from resight.embedding.netvlad import NetVlad
from resight.errors import RecipeError
from resight.networks.layouts import Descriptor, Layout, Local, Projection, Published, check, convert_plain, recognise
from resight.networks.weights import file_sha256, read_checkpoint
from resight.projection.projection import Projection as FittedProjection
from resight.recipes.local_stages import HowFeatures
from resight.recipes.network_stages import GlobalStage
from resight.recipes.recipe import Recipe

_MAX_SIDE = 1024  # pixels: the side at which these publications evaluate
_DIMENSIONS = 512  # of a whitening that is yet to be fitted


def import_weights(
    checkpoint: Path, into: Path, *, layout: str | None = None, network: str | None = None, single_scale: bool = False
) -> tuple[str, ...]:
    """Convert a published checkpoint into the folder ``into``, which appears when it is complete.

    It holds ``model.safetensors`` (timm's names, the file's dtypes); where the checkpoint has more tensors,
    ``head.safetensors`` (its own names); where a recipe can say how the publication makes its descriptor,
    ``recipe.toml`` with, where the checkpoint has them, ``embedding.safetensors`` and ``whitening.safetensors``, or of
    local features ``local-reduction.safetensors``.
    layout: a name of ``resight.networks.layouts``, or None to recognise it.
    network: timm's name, for a plain state dict whose network is not recognised.
    single_scale: describe at one scale where the publication evaluates at several.
    Returns remarks, among them why there is no recipe. Raises RecipeError, with nothing left behind, where the
    checkpoint cannot be read or converted, does not fit the network, or ``into`` is not an empty folder.
    """
    into = into.absolute()
    check_empty(into)
    if network is not None and layout not in (None, "plain"):
        raise RecipeError(f"--network is for plain state dicts: the layout {layout} says itself what its network is")
    read = read_checkpoint(checkpoint)
    chosen = recognise(read, "plain" if network is not None else layout)
    published = convert_plain(read, network) if network is not None else chosen.convert(read, single_scale)
    obstacle = check(published, str(checkpoint)) or published.obstacle
    with staged(into) as staging:
        sha256 = _write_tensors(staging, published, chosen)
        remarks = _write_recipe(staging, published, chosen, checkpoint, sha256, obstacle)
    return (f"layout {chosen.name}, network {published.network}", *remarks)


def _write_tensors(folder: Path, published: Published, layout: Layout) -> str:
    """Returns the sha256 of model.safetensors."""
    header = {"network": published.network, "layer": published.layer, "layout": layout.name, "source": layout.source}
    metadata = {"resight": json.dumps(header, sort_keys=True)}
    for name, tensors in (("model", published.trunk), ("head", published.head)):
        if tensors:
            # Copies, as safetensors takes no tensors that share memory.
            owned = {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in tensors.items()}
            save_file(owned, folder / f"{name}.safetensors", metadata=metadata)
    if published.batchnorm_eps is not None:
        (folder / "meta.json").write_text(json.dumps({"bn_eps": published.batchnorm_eps}) + "\n", encoding="utf-8")
    return file_sha256(folder / "model.safetensors")


def _write_recipe(
    folder: Path, published: Published, layout: Layout, checkpoint: Path, sha256: str, obstacle: str
) -> tuple[str, ...]:
    """Writes projection and recipe, or neither where there is an obstacle; returns remarks."""
    stage: dict[str, Any] = {
        "network": published.network,
        "layer": published.layer,
        "max_side": _MAX_SIDE,
        "weights": "model.safetensors",
        "weights_sha256": sha256,
    }
    if obstacle:
        return _without_recipe(obstacle)
    if published.local is not None:
        return _write_local(folder, stage, published, published.local, layout, checkpoint)
    if published.descriptor is not None:
        return _write_global(folder, stage, published, published.descriptor, layout, checkpoint)
    return _without_recipe("nothing is known of how its publication describes photos")


def _write_global(
    folder: Path, stage: dict[str, Any], published: Published, made: Descriptor, layout: Layout, checkpoint: Path
) -> tuple[str, ...]:
    """The recipe of a global descriptor. stage: what any table of the network says."""
    stage |= {"scales": made.scales, "scale_pooling": made.scale_pooling, **made.table}
    if made.learned:
        _write_embedding(folder, made, checkpoint)
        stage["learned"] = "embedding.safetensors"
    try:
        describer = load_global(GlobalStage.model_validate(_absolute(stage, folder)), checkpoint.name)
    except RecipeError as error:  # the weights fit, so it is the network that cannot be pooled
        return _without_recipe(str(error))
    channels = len(describer.raw(np.zeros((64, 64, 3), np.uint8)))
    remarks = published.notes
    if made.projection is not None:
        stage["whitening"] = "whitening.safetensors"
        (descriptor,) = describer.raw_fingerprints
        stage["dimensions"] = len(made.projection.matrix)
        _write_projection(folder / "whitening.safetensors", made.projection, channels, descriptor, checkpoint)
    elif describer.stage.whiten == "none":
        stage["dimensions"] = channels
    else:
        stage["dimensions"] = min(_DIMENSIONS, channels)
        remarks = (*remarks, "it has no whitening: learn one with `resight fit FOLDER PHOTOS --into ANOTHER`")
    title = f"{made.title} on {published.network}" + (", whitened" if made.projection else "")
    return _write_toml(folder, title, {"filter": "global", "global": stage}, layout, checkpoint, remarks)


def _write_local(
    folder: Path, stage: dict[str, Any], published: Published, made: Local, layout: Layout, checkpoint: Path
) -> tuple[str, ...]:
    """The recipe of local features, for ASMK. stage: what any table of the network says."""
    stage |= {**made.table, "dimensions": len(made.reduction.matrix)}
    try:
        local = HowFeatures.model_validate(_absolute(stage, folder))
    except ValidationError as error:
        first = error.errors()[0]
        return _without_recipe(f"a recipe cannot say its {'.'.join(map(str, first['loc']))}: {first['msg']}")
    features = load_network_features(local)
    channels = features.backbone.layers[0].channels
    stage["reduction"] = "local-reduction.safetensors"
    _write_projection(folder / stage["reduction"], made.reduction, channels, features.raw_fingerprint, checkpoint)
    tables = {"filter": "asmk", "image": {"max_side": local.max_side}, "local": stage, "codebook": {}, "asmk": {}}
    title = f"{made.title} on {published.network}, ASMK"
    return _write_toml(folder, title, tables, layout, checkpoint, published.notes)


def _write_toml(
    folder: Path, title: str, tables: dict[str, Any], layout: Layout, checkpoint: Path, remarks: tuple[str, ...]
) -> tuple[str, ...]:
    """Returns the remarks, which also stand above the recipe."""
    table = {
        "name": re.sub(r"[^a-z0-9._-]+", "-", checkpoint.stem.lower()).strip("-._") or "imported",
        "title": title,
        "source": f"{layout.source}; {checkpoint.name}, sha256 {file_sha256(checkpoint)}",
        "image": {"max_side": _MAX_SIDE},
        **tables,
    }
    Recipe.model_validate(table)
    comments = "".join(f"# {remark}\n" for remark in ("Made by `resight weights import`.", *remarks))
    (folder / "recipe.toml").write_text(comments + tomli_w.dumps(table), encoding="utf-8")
    return remarks


def _without_recipe(obstacle: str) -> tuple[str, ...]:
    return (f"no recipe is written: {obstacle}", "the weights are, for recipes of one's own: see `resight recipes`")


def _absolute(stage: dict[str, Any], folder: Path) -> dict[str, Any]:
    return stage | {key: str(folder / stage[key]) for key in ("weights", "learned") if key in stage}


def _write_embedding(folder: Path, made: Descriptor, checkpoint: Path) -> None:
    layer = NetVlad.from_state(made.learned)
    LayerEmbedding("netvlad", layer, f"{checkpoint.name}, learned with the network").save(
        folder / "embedding.safetensors"
    )


def _write_projection(file: Path, projection: Projection, channels: int, descriptor: str, checkpoint: Path) -> None:
    """channels: of the vectors it will be given. descriptor: as ``FittedProjection`` keeps it."""
    if projection.matrix.shape[1] != channels:
        raise RecipeError(
            f"{checkpoint}: its whitening takes {projection.matrix.shape[1]} entries, its network gives {channels}"
        )
    FittedProjection(
        mean=projection.mean.astype(np.float32),
        matrix=projection.matrix.astype(np.float32),
        kind="pca-whitening",
        n=0,  # not published
        fitted_on=projection.fitted_on,
        descriptor=descriptor,
    ).save(file)
