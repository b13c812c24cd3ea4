"""A learned linear layer as a projection of centred vectors, where that is exact."""

from dataclasses import replace

import numpy as np
from torch import Tensor

from resight.errors import RecipeError
from resight.networks.layouts.published import Descriptor, Projection, Published

_TOLERANCE = 1e-4  # of the length that the layer gives to a typical unit vector
_AVERAGED = (
    "its publication applies the linear layer at each scale and then averages; here scales are averaged before it, "
    "which differs a little (--single-scale is exact)"
)


def centred(weight: Tensor, bias: Tensor | None, fitted_on: str) -> Projection:
    """P and m with P(x - m) = W x + b: P = W and m = -W⁺b.

    weight: K×D. bias: (K,) or None. Raises RecipeError where b is outside the range of W, or W is so nearly
    singular that float32 would lose m.
    """
    w = weight.detach().double().numpy()
    b = np.zeros(len(w)) if bias is None else bias.detach().double().numpy()
    if w.ndim != 2 or b.shape != (len(w),) or not (np.isfinite(w).all() and np.isfinite(b).all()):
        raise RecipeError(f"its linear layer is not a finite K×D matrix and K bias: {w.shape}, {b.shape}")
    mean = -np.linalg.lstsq(w, b, rcond=None)[0]
    stored = mean.astype(np.float32).astype(np.float64)
    rounding = float(np.finfo(np.float32).eps) * np.linalg.norm(mean) * np.linalg.norm(w, 2)
    error = np.linalg.norm(w @ stored + b) + rounding
    typical = np.linalg.norm(w) / np.sqrt(w.shape[1])
    if not error <= _TOLERANCE * typical:
        raise RecipeError(
            f"its linear layer Wx + b cannot be written as W(x - m): the residual is {error:.2g}, where a typical "
            f"output has length {typical:.2g}"
        )
    return Projection(mean, w, fitted_on)


def with_linear(
    published: Published,
    descriptor: Descriptor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    fitted_on: str,
    normalised: bool,
) -> Published:
    """``published`` with a pooling, a linear layer and ℓ2 at each scale; with an obstacle where a recipe cannot say so.

    normalised: whether the layer takes ℓ2-normalised vectors. Without a bias that changes only the result's length.
    """
    raw = not normalised and bias is not None and bool(bias.any())
    if raw and "scheme" in descriptor.table:
        return replace(
            published,
            obstacle="a linear layer with a bias follows its pooling of regions without ℓ2-normalisation in between, "
            "and a recipe of this version normalises regions",
        )
    try:
        projection = centred(weight, bias, fitted_on)
    except RecipeError as error:
        return replace(published, obstacle=str(error))
    descriptor = replace(descriptor, projection=projection)
    if len(descriptor.scales) == 1 and not raw:
        return replace(published, descriptor=descriptor)
    if "scheme" in descriptor.table:
        return replace(published, descriptor=descriptor, notes=(*published.notes, _AVERAGED))
    # Each scale of the whole is one region: projected, ℓ2-normalised and summed, as the publications do.
    table = {**descriptor.table, "whiten": "layer" if raw else "regions"}
    return replace(published, descriptor=replace(descriptor, table=table))
