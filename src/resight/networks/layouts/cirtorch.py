"""cnnimageretrieval-pytorch: GeM networks of Radenović, Tolias & Chum (``init_network``, ``examples/test.py``)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from resight.errors import RecipeError
from resight.networks.layouts.affine import with_linear
from resight.networks.layouts.published import Gem, Layout, Projection, Published, exponent, normalisation
from resight.networks.layouts.sequential import besides, last_activation, named, under
from resight.networks.weights import Checkpoint

# The scales of the repository's README for networks whitened afterwards, and of examples/test_e2e.py for those
# whitened by a layer of their own.
_SCALES = (1.0, 2**-0.5, 0.5)
_SCALES_WHITENED = (1.0, 2**0.5, 2**-0.5)
_PREFERRED = "retrieval-SfM-120k"


def _recognises(checkpoint: Checkpoint) -> bool:
    meta = checkpoint.facts.get("meta")
    return isinstance(meta, Mapping) and "pooling" in meta and any(n.startswith("features.") for n in checkpoint.state)


def _convert(checkpoint: Checkpoint, single_scale: bool) -> Published:
    origin, state, meta = str(checkpoint.path), checkpoint.state, checkpoint.facts.get("meta")
    if not isinstance(meta, Mapping) or not isinstance(meta.get("architecture"), str):
        raise RecipeError(f"{origin}: cirtorch's checkpoints name their architecture under 'meta'; this one does not")
    network = meta["architecture"]
    trunk = named(under(state, "features."), network, origin)
    published = Published(
        network,
        trunk,
        layer=last_activation(trunk, network),
        head=besides(state, "features."),
        normalisation=normalisation(meta.get("mean"), meta.get("std"), origin),
    )
    obstacle = _obstacle(checkpoint, meta)
    if obstacle:
        return replace(published, obstacle=obstacle)
    p = exponent(state["pool.p"], origin)
    if "whiten.weight" in state:
        gem = Gem(p, (1.0,) if single_scale else _SCALES_WHITENED)
        fitted_on = f"layer whiten of {checkpoint.path.name}, learned with the network"
        weight, bias = state["whiten.weight"], state.get("whiten.bias")
        return with_linear(published, gem, weight, bias, fitted_on=fitted_on, normalised=True)
    projection, notes = _learned_afterwards(checkpoint, meta, single_scale)
    gem = Gem(p, (1.0,), "mean", projection) if single_scale else Gem(p, _SCALES, "gem", projection)
    return replace(published, gem=gem, notes=notes)


def _obstacle(checkpoint: Checkpoint, meta: Mapping[str, Any]) -> str:
    if meta.get("pooling") != "gem":
        return f"its pooling is {meta.get('pooling')}, and a recipe of this version has gem only"
    if meta.get("regional"):
        return "its pooling is regional, and a recipe of this version pools the whole photo only"
    if meta.get("local_whitening"):
        return "it whitens local features before pooling, which a recipe of this version cannot say"
    p = checkpoint.state.get("pool.p")
    if p is None:
        raise RecipeError(f"{checkpoint.path}: its pooling is gem, but it holds no pool.p")
    return "" if p.numel() == 1 else f"its GeM has {p.numel()} exponents, and that of a recipe has one"


def _learned_afterwards(
    checkpoint: Checkpoint, meta: Mapping[str, Any], single_scale: bool
) -> tuple[Projection | None, tuple[str, ...]]:
    """``Lw[set]["ss" or "ms"]``: m D×1 and P D×D of ``whitenapply``: P(x - m), for one or several scales."""
    sets = meta.get("Lw")
    if not sets:
        return None, ()
    if not isinstance(sets, Mapping):
        raise RecipeError(f"{checkpoint.path}: meta Lw is no mapping from training sets to whitenings")
    kind = "ss" if single_scale else "ms"
    chosen = _PREFERRED if _PREFERRED in sets else min(sets)
    try:
        m = np.asarray(sets[chosen][kind]["m"], np.float64).reshape(-1)
        matrix = np.asarray(sets[chosen][kind]["P"], np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise RecipeError(f"{checkpoint.path}: meta Lw {chosen} {kind} is not m and P: {error!r}") from error
    if matrix.ndim != 2 or matrix.shape[1] != len(m):
        raise RecipeError(f"{checkpoint.path}: meta Lw {chosen} {kind} has m {m.shape} and P {matrix.shape}")
    others = sorted(set(sets) - {chosen})
    note = f"whitening learned on {chosen}" + (f"; it also has {', '.join(others)}" if others else "")
    return Projection(m, matrix, f"{chosen} ({kind}), Lw of {checkpoint.path.name}"), (note,)


CIRTORCH = Layout("cirtorch", "GeM: Radenović, Tolias & Chum, TPAMI 2019", _recognises, _convert)
