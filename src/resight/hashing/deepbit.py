"""DeepBit: codes that rotating the image leaves as they are (survey §4.2.4; Lin et al., CVPR 2016)."""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from resight.fitted import PhotoSketch
from resight.hashing.centring import Centring, check_vectors
from resight.hashing.function import HashFunction
from resight.hashing.training import Descent, Progress, layers_of, perceptron

_DESCENT = Descent()


def angle_weights(angles: ArrayLike, sigma: float) -> NDArray[np.float32]:
    """C(θ) = exp(−θ²/2σ²) of angles, in the unit of sigma: the more a view is turned, the less its code must agree.

    Raises ValueError unless sigma is above 0.
    """
    if not sigma > 0:
        raise ValueError(f"sigma must be above 0, not {sigma}")
    return np.exp(-np.square(np.asarray(angles, np.float32)) / (2 * sigma**2)).astype(np.float32)


def deepbit_loss(
    outputs: Tensor,
    views: Tensor,
    weights: Tensor,
    *,
    quantisation: float = 1.0,
    balance: float = 1.0,
    rotation: float = 1.0,
) -> Tensor:
    """α·mean (f − (b − ½))² + β·mean_bits (mean f)² + γ·mean C(θ)(f_θ − f)², of images and rotated views of them.

    outputs: f of the hash layer, N×B, where b = [f > 0]; f + ½ stands for b, which has no gradient, in the second and
        third term. views: f_θ, N×R×B. weights: C(θ), (R,).
    quantisation, balance, rotation: α, β, γ. The terms are means where the paper has sums; the first two are of images
        and views, as in the published code.
    Raises ValueError where the shapes do not fit.
    """
    if outputs.ndim != 2 or views.ndim != 3 or views.shape[::2] != outputs.shape or weights.shape != views.shape[1:2]:
        shapes = tuple(outputs.shape), tuple(views.shape), tuple(weights.shape)
        raise ValueError(f"outputs must be N×B, views N×R×B and weights (R,), not {', '.join(map(str, shapes))}")
    every = torch.cat([outputs, views.flatten(0, 1)])
    code = torch.where(every > 0, 0.5, -0.5)
    turned = (views - outputs[:, None]).square().mean(dim=(0, 2))
    return (
        quantisation * (every - code).square().mean()
        + balance * every.mean(dim=0).square().mean()
        + rotation * (weights * turned).mean()
    )


def fit_deepbit(
    x: ArrayLike,
    views: ArrayLike,
    bits: int,
    *,
    seed: int,
    fitted_on: str,
    descriptor: str = "",
    photos: PhotoSketch | None = None,
    weights: ArrayLike | None = None,
    quantisation: float = 1.0,
    balance: float = 1.0,
    rotation: float = 1.0,
    descent: Descent = _DESCENT,
    on_epoch: Progress | None = None,
) -> HashFunction:
    """One layer, learned by ``deepbit_loss`` from a random start; the paper's last layer, on a frozen network.

    x: N×D. views: N×R×D of each image turned by R angles; the paper's are ±5° and ±10°.
    weights: (R,), from ``angle_weights`` as in the paper; 1 by default.
    Raises ValueError where shapes do not fit or values are out of range; RecipeError as ``check_vectors`` and
    ``Centring``.
    """
    vectors, turned = check_vectors(x, bits), np.asarray(views, np.float32)
    if turned.ndim != 3 or turned.shape[::2] != vectors.shape or 0 in turned.shape or not np.isfinite(turned).all():
        raise ValueError(f"views must be N×R×D and finite for x N×D = {vectors.shape}, not of shape {turned.shape}")
    each = np.ones(turned.shape[1], np.float32) if weights is None else np.asarray(weights, np.float32)
    if each.shape != turned.shape[1:2] or not (np.isfinite(each).all() and (each >= 0).all()):
        raise ValueError(f"weights must be {turned.shape[1]} finite numbers of at least 0, not {each}")
    centring = Centring.of(vectors)
    inputs, rotated, share = (torch.from_numpy(a) for a in (centring(vectors), centring(turned), each))
    network = perceptron((vectors.shape[1], bits), torch.Generator().manual_seed(seed))

    def loss(rows: NDArray[np.int64], _: int) -> Tensor:
        return deepbit_loss(
            network(inputs[rows]),
            network(rotated[rows]),
            share,
            quantisation=quantisation,
            balance=balance,
            rotation=rotation,
        )

    descent.run(network.parameters(), loss, len(vectors), seed=seed, on_epoch=on_epoch)
    return HashFunction(layers_of(network, centring), "deepbit", len(vectors), fitted_on, descriptor, photos)
