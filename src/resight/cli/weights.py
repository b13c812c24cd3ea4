"""Weights: make a recipe's folder of a published checkpoint, or show what a weights file holds."""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resight.cli import output
from resight.cli.options import Json
from resight.errors import RecipeError

if TYPE_CHECKING:
    from resight.networks.layouts import Layout, Projection, Published

app = typer.Typer(no_args_is_help=True, help="Import a published retrieval checkpoint, or show a weights file.")
_MAX_SIDE = 1024  # pixels: the side at which these publications evaluate
_DIMENSIONS = 512  # of a whitening that is yet to be fitted


@app.command("import")
def import_(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A .pth, .pt, .pyth or .safetensors file.")],
    into: Annotated[Path, typer.Option("--into", metavar="FOLDER", help="Where weights and recipe are written.")],
    layout: Annotated[
        str | None, typer.Option("--layout", metavar="NAME", help="Of which publication; recognised if not given.")
    ] = None,
    network: Annotated[
        str | None, typer.Option("--network", metavar="NAME", help="timm's name, for a network's plain state dict.")
    ] = None,
    single_scale: Annotated[
        bool, typer.Option("--single-scale", help="Describe photos at their own size only, which is quicker.")
    ] = False,
) -> None:
    """Convert a published checkpoint into a folder to name with --recipe.

    It gets the network's weights, the whitening if the checkpoint has one, and the recipe if this version can
    compute what the publication does. Layouts: cirtorch, dirtorch, netvlad, how, delg, dinov2, plain.
    """
    for remark in import_weights(checkpoint, into, layout=layout, network=network, single_scale=single_scale):
        output.note(remark)
    output.line(str(into))


@app.command()
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A weights file.")],
    as_json: Json = False,
) -> None:
    """List what a weights file holds: its layout, the facts beside the tensors, and each tensor."""
    facts = describe_weights(file)
    if as_json:
        output.line(output.as_json(facts))
        return
    output.line(output.printable(f"layout  {facts['layout'] or 'not recognised'}"))
    for name, value in _flat(facts["facts"]):
        output.line(output.printable(f"{name}  {value}"))
    rows = [
        (output.printable(name), tensor["dtype"], "×".join(map(str, tensor["shape"])) or "scalar")
        for name, tensor in facts["tensors"].items()
    ]
    output.columns([("tensor", "dtype", "shape"), *rows], left=[0, 1])


def import_weights(
    checkpoint: Path, into: Path, *, layout: str | None = None, network: str | None = None, single_scale: bool = False
) -> tuple[str, ...]:
    """Convert a published checkpoint into the folder ``into``, which appears when it is complete.

    It holds ``model.safetensors`` (timm's names, the file's dtypes); where the checkpoint has more tensors,
    ``head.safetensors`` (its own names); where the publication's descriptor is GeM, ``recipe.toml`` and, where
    the checkpoint has a whitening, ``whitening.safetensors``.
    layout: a name of ``resight.networks.layouts``, or None to recognise it.
    network: timm's name, for a plain state dict whose network is not recognised.
    single_scale: describe at one scale where the publication evaluates at several.
    Returns remarks, among them why there is no recipe. Raises RecipeError, with nothing left behind, where the
    checkpoint cannot be read or converted, does not fit the network, or ``into`` is not an empty folder.
    """
    from safetensors import SafetensorError

    from resight.networks.layouts import check, convert_plain, recognise
    from resight.networks.weights import read_checkpoint

    into = into.absolute()
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise RecipeError(f"{into}: is not an empty folder; choose another --into")
    if network is not None and layout not in (None, "plain"):
        raise RecipeError(f"--network is for plain state dicts: the layout {layout} says itself what its network is")
    read = read_checkpoint(checkpoint)
    chosen = recognise(read, "plain" if network is not None else layout)
    published = convert_plain(read, network) if network is not None else chosen.convert(read, single_scale)
    obstacle = check(published, str(checkpoint)) or published.obstacle
    staging = into.with_name(f".{into.name}.{os.getpid()}.tmp")
    try:
        staging.mkdir(parents=True)
        sha256 = _write_tensors(staging, published, chosen)
        remarks = _write_recipe(staging, published, chosen, checkpoint, sha256, obstacle)
        if into.exists():
            into.rmdir()
        staging.rename(into)
    except (OSError, SafetensorError) as error:
        raise RecipeError(f"{into}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return (f"layout {chosen.name}, network {published.network}", *remarks)


def describe_weights(file: Path) -> dict[str, Any]:
    """What a weights file holds, as JSON: ``layout`` (or None), ``facts``, and ``tensors`` with dtype and shape.

    Raises RecipeError as ``read_checkpoint``.
    """
    from resight.networks.layouts import LAYOUTS
    from resight.networks.weights import read_checkpoint

    read = read_checkpoint(file)
    found = next((layout for layout in LAYOUTS if layout.recognises(read)), None)
    return {
        "file": str(file),
        "layout": found and f"{found.name} ({found.source})",
        "facts": {name: _summary(value) for name, value in read.facts.items()},
        "tensors": {
            name: {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
            for name, tensor in read.state.items()
        },
    }


def _write_tensors(folder: Path, published: "Published", layout: "Layout") -> str:
    """Returns the sha256 of model.safetensors."""
    import torch
    from safetensors.torch import save_file

    from resight.networks.weights import file_sha256

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
    folder: Path, published: "Published", layout: "Layout", checkpoint: Path, sha256: str, obstacle: str
) -> tuple[str, ...]:
    """Writes whitening and recipe, or neither where there is an obstacle; returns remarks."""
    import numpy as np
    import tomli_w

    from resight.describe.describer import load_global
    from resight.networks.weights import file_sha256
    from resight.recipes.network_stages import GlobalStage
    from resight.recipes.recipe import Recipe

    gem = published.gem
    if obstacle or gem is None:
        return _without_recipe(obstacle)
    stage = {
        "network": published.network,
        "layer": published.layer,
        "max_side": _MAX_SIDE,
        "scales": gem.scales,
        "pooling": "gem",
        "p": gem.p,
        "scale_pooling": gem.scale_pooling,
        "weights": "model.safetensors",
        "weights_sha256": sha256,
    }
    absolute = stage | {"weights": str(folder / "model.safetensors")}
    try:
        describer = load_global(GlobalStage.model_validate(absolute), checkpoint.name)
    except RecipeError as error:  # the weights fit, so it is the network that cannot be pooled
        return _without_recipe(str(error))
    channels = len(describer.raw(np.zeros((64, 64, 3), np.uint8)))
    remarks = published.notes
    if gem.projection is not None:
        stage["whitening"] = "whitening.safetensors"
        (descriptor,) = describer.raw_fingerprints
        stage["dimensions"] = _write_whitening(folder, gem.projection, channels, descriptor, checkpoint)
    else:
        stage["dimensions"] = min(_DIMENSIONS, channels)
        remarks = (*remarks, "it has no whitening: learn one with `resight fit FOLDER PHOTOS --into ANOTHER`")
    table = {
        "name": re.sub(r"[^a-z0-9._-]+", "-", checkpoint.stem.lower()).strip("-._") or "imported",
        "title": f"GeM (p = {gem.p:.4g}) on {published.network}" + (", whitened" if gem.projection else ""),
        "source": f"{layout.source}; {checkpoint.name}, sha256 {file_sha256(checkpoint)}",
        "filter": "global",
        "image": {"max_side": _MAX_SIDE},
        "global": stage,
    }
    Recipe.model_validate(table)
    comments = "".join(f"# {remark}\n" for remark in ("Made by `resight weights import`.", *remarks))
    (folder / "recipe.toml").write_text(comments + tomli_w.dumps(table), encoding="utf-8")
    return remarks


def _without_recipe(obstacle: str) -> tuple[str, ...]:
    return (f"no recipe is written: {obstacle}", "the weights are, for recipes of one's own: see `resight recipes`")


def _write_whitening(folder: Path, projection: "Projection", channels: int, descriptor: str, checkpoint: Path) -> int:
    """Returns the number of dimensions."""
    import numpy as np

    from resight.projection.whitening import PcaWhitening

    if projection.matrix.shape[1] != channels:
        raise RecipeError(
            f"{checkpoint}: its whitening takes {projection.matrix.shape[1]} entries, its network gives {channels}"
        )
    PcaWhitening(
        mean=projection.mean.astype(np.float32),
        projection=projection.matrix.astype(np.float32),
        n=0,  # not published
        fitted_on=projection.fitted_on,
        descriptor=descriptor,
    ).save(folder / "whitening.safetensors")
    return len(projection.matrix)


def _summary(value: Any) -> Any:
    """JSON of a checkpoint's fact: arrays by dtype and shape, long lists and mappings by their length."""
    if hasattr(value, "shape") and hasattr(value, "dtype") and value.shape != ():
        return f"{str(value.dtype).removeprefix('torch.')} {'×'.join(map(str, value.shape))}"
    if isinstance(value, Mapping):
        return {str(k): _summary(v) for k, v in value.items()} if len(value) <= 16 else f"mapping of {len(value)}"
    if isinstance(value, list | tuple):
        return [_summary(v) for v in value] if len(value) <= 8 else f"list of {len(value)}"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            text = str(value)
            yield f"{prefix}{name}", text if len(text) <= 100 else f"{text[:99]}…"
