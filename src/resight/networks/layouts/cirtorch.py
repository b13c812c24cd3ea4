"""cnnimageretrieval-pytorch: GeM networks of Radenović, Tolias & Chum (``init_network``, ``examples/test.py``)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from resight.errors import RecipeError
from resight.networks.layouts.affine import with_linear
from resight.networks.layouts.published import Descriptor, Layout, Projection, Published, exponent, gem, normalisation
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
    descriptor = _pooling(meta["pooling"], state, origin)
    if "whiten.weight" in state:
        descriptor = replace(descriptor, scales=(1.0,) if single_scale else _SCALES_WHITENED)
        fitted_on = f"layer whiten of {checkpoint.path.name}, learned with the network"
        weight, bias = state["whiten.weight"], state.get("whiten.bias")
        return with_linear(published, descriptor, weight, bias, fitted_on=fitted_on, normalised=True)
    projection, notes = _learned_afterwards(checkpoint, meta, single_scale)
    descriptor = replace(descriptor, projection=projection)
    if not single_scale:
        # Its test script pools scales by their generalised mean where the pooling is GeM.
        descriptor = replace(descriptor, scales=_SCALES, scale_pooling="gem" if meta["pooling"] == "gem" else "mean")
    return replace(published, descriptor=descriptor, notes=notes)


def _pooling(name: str, state: Mapping[str, Tensor], origin: str) -> Descriptor:
    if name == "gem":
        return gem(exponent(state["pool.p"], origin))
    if name == "rmac":
        return Descriptor("R-MAC", {"pooling": "mac", "scheme": {"kind": "grid", "levels": 3, "variant": "cirtorch"}})
    # What it calls SPoC is the plain average.
    return Descriptor(name.upper(), {"pooling": "average" if name == "spoc" else "mac"})


def _obstacle(checkpoint: Checkpoint, meta: Mapping[str, Any]) -> str:
    if meta.get("pooling") not in ("gem", "mac", "spoc", "rmac"):
        return f"its pooling is {meta.get('pooling')}, which a recipe of this version cannot say"
    if meta.get("regional"):
        return "its pooling is regional, and a recipe of this version pools the whole photo only"
    if meta.get("local_whitening"):
        return "it whitens local features before pooling, which a recipe of this version cannot say"
    if meta["pooling"] != "gem":
        return ""
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
