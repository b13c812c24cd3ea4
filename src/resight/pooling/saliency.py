"""Pooling by saliency from elsewhere: a second stream, or no training at all (survey §4.2.3; Mohedano et al., 2018).

Any model's saliency will do: it is brought to the map's size and to a sum of one, and weighs the positions.
"""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from resight.pooling.sum_pooling import check_map, weighted_sum
from resight.regions.pixels import check_pixels

_SPECTRUM = 64  # pixels a side: the scale at which the paper looks for salient things


def saliency_sum(x: Tensor, saliency: Tensor) -> Tensor:
    """B×C×H×W to B×C: Σ_{h,w} ``saliency_weights`` · x, the mean where saliency is even. Raises as these."""
    return weighted_sum(x, saliency_weights(x, saliency)).squeeze(1)


def saliency_gem(x: Tensor, saliency: Tensor, p: float | Tensor = 3.0) -> Tensor:
    """B×C×H×W to B×C: ``weighted_gem`` by ``saliency_weights``, GeM where saliency is even. Raises as these."""
    return weighted_gem(x, saliency_weights(x, saliency), p)


def saliency_weights(x: Tensor, saliency: Tensor) -> Tensor:
    """Saliency at the map's size, divided by its sum: B×1×H×W, of the dtype of x.

    x: B×C×H×W. saliency: B×1×h×w, finite, at least 0; of any scale. It is averaged over areas where both sides
    shrink, and else interpolated bilinearly. Where an image has none at all, every position weighs the same.
    Raises ValueError where these do not fit.
    """
    check_map(x)
    if saliency.ndim != 4 or saliency.shape[:2] != (len(x), 1) or 0 in saliency.shape[2:]:
        raise ValueError(f"saliency must be {len(x)}×1×h×w for this map, not {tuple(saliency.shape)}")
    saliency = saliency.to(x)
    if not saliency.isfinite().all() or (saliency < 0).any():
        raise ValueError("saliency must be finite and at least 0")
    height, width = x.shape[2:]
    if saliency.shape[2] >= height and saliency.shape[3] >= width:
        resized = F.interpolate(saliency, (height, width), mode="area")
    else:
        resized = F.interpolate(saliency, (height, width), mode="bilinear", antialias=True)
    total = resized.sum(dim=(2, 3), keepdim=True)
    return (resized / total.where(total > 0, 1.0)).where(total > 0, 1 / (height * width))


def weighted_gem(x: Tensor, weights: Tensor, p: float | Tensor = 3.0, eps: float = 1e-6) -> Tensor:
    """(Σ_{h,w} w · max(x, eps)^p / Σ_{h,w} w)^(1/p), ``gem`` where the weights are equal (Wu et al., ICIP 2018).

    x: B×C×H×W. weights: B×1×H×W, at least 0 and somewhere above in each image. p: as in ``gem``.
    Returns B×C. Raises ValueError where these do not fit.
    """
    check_map(x)
    if (
        weights.shape != (len(x), 1, *x.shape[2:])
        or (weights < 0).any()
        or not (weights > 0).any(dim=3).any(dim=2).all()
    ):
        raise ValueError(
            f"weights must be B×1×H×W for {tuple(x.shape)}, at least 0, and above 0 somewhere in each image"
        )
    if not isinstance(p, Tensor) and p <= 0:
        raise ValueError(f"p must be above 0, not {p}")
    # As in gem, by the ratio to the maximum: that of the positions that count, else all of them could vanish beside it.
    x = x.clamp(min=eps).where(weights > 0, eps)
    peak = x.amax(dim=(2, 3), keepdim=True).detach()
    share = weights / weights.sum(dim=(2, 3), keepdim=True)
    return (peak * (share * (x / peak).pow(p)).sum(dim=(2, 3), keepdim=True).pow(1.0 / p)).flatten(1)


def feature_saliency(x: Tensor) -> Tensor:
    """B×C×H×W to B×1×H×W: the Euclidean norm of the feature at each position, a saliency that needs no training.

    Features of background have small norms in networks trained to classify or to retrieve (Tolias, Jenicek & Chum,
    HOW, ECCV 2020). Raises ValueError for another shape.
    """
    check_map(x)
    norm: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return norm


def spectral_residual(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What a picture's spectrum has beyond its own smoothed course (Hou & Zhang, CVPR 2007); no training.

    image: H×W×3 uint8 RGB. Returns H×W float32, from 0 to 1; ones for a picture of one grey, which has no such thing.
    Step by step as ``cv2.saliency.StaticSaliencySpectralResidual``, which only OpenCV's contributed modules have.
    Raises ValueError for anything else than such an image.
    """
    grey = cv2.cvtColor(check_pixels(image), cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (_SPECTRUM, _SPECTRUM), interpolation=cv2.INTER_LINEAR_EXACT).astype(np.float64)
    if small.min() == small.max():
        return np.ones(grey.shape, np.float32)
    spectrum = np.fft.fft2(small)
    log_amplitude = np.log1p(np.abs(spectrum))
    residual = log_amplitude - cv2.blur(log_amplitude, (3, 3))
    amplitude = np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum))))
    smooth = cv2.GaussianBlur(amplitude, (5, 5), sigmaX=8) ** 2
    saliency = (smooth / smooth.max()).astype(np.float32)
    full = cv2.resize(saliency, (grey.shape[1], grey.shape[0]), interpolation=cv2.INTER_LINEAR_EXACT)
    return np.asarray(full, np.float32)


class SaliencySum(nn.Module):
    """``saliency_sum``; B×C×H×W and saliency, B×1×h×w, to B×C."""

    def forward(self, x: Tensor, saliency: Tensor) -> Tensor:
        return saliency_sum(x, saliency)


class SaliencyGeM(nn.Module):
    """``saliency_gem`` with p learned, one for all channels; B×C×H×W and saliency, B×1×h×w, to B×C.

    p: where learning starts, above 0, else ValueError.
    """

    def __init__(self, p: float = 3.0) -> None:
        super().__init__()
        if p <= 0:
            raise ValueError(f"p must be above 0, not {p}")
        self.p = nn.Parameter(torch.tensor(float(p)))

    def forward(self, x: Tensor, saliency: Tensor) -> Tensor:
        return saliency_gem(x, saliency, self.p)
