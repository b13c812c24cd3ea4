"""Hessian blobs, and what networks say of their surroundings: affine shape, orientation and descriptor.

Mishkin, Radenović & Matas, Repeatability Is Not Enough: Learning Affine Regions via Discriminability, ECCV 2018
(AffNet, OriNet); HardTFeat is the network of Balntas et al., BMVC 2016, learned with the loss of Mishchuk et al.,
Working Hard to Know Your Neighbor's Margins, NIPS 2017. After https://github.com/ducha-aiki/affnet (MIT), whose
parameters' names are kept. Blobs are sought as there, in a pyramid; ``regions.hessian_affine`` finds shapes by
iteration instead, and is for a hundred regions rather than a thousand.
"""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from resight.errors import RecipeError
from resight.images.image import Image
from resight.local.features import LocalFeatures
from resight.networks.weights import load_into, load_state

_SIDE = 32  # pixels of a patch, for all three networks
_REACH = 3 * np.sqrt(3)  # half its width in σ of the blob, as the networks' authors have it
_MOST_ANISOTROPIC = 6.0  # length by width of a shape that is kept
_BATCH = 256
_FINEST, _PER_OCTAVE = 1.6, 3  # σ of an octave's first level in its pixels, and levels to a doubling
_CAMERA = 0.5  # σ that a photograph is taken to have already


class BlobFeatures:
    """Hessian blobs described by a network for patches in the frames of AffNet and OriNet, on the CPU.

    weights: a folder with the published AffNet.pth and OriNet.pth. describe: N×1×side×side float32 patches of grey
        levels, 0 … 255, to N×dimension descriptors of unit length.
    threshold: of the response (see ``hessian_blobs``).
    oriented: ``size`` and ``angle`` tell how a patch was seen.
    Raises RecipeError for files that are missing or not of these networks, and a negative threshold.
    """

    oriented: ClassVar[bool] = True

    def __init__(
        self,
        weights: Path,
        describe: Callable[[Tensor], Tensor],
        *,
        dimension: int,
        side: int = _SIDE,
        threshold: float = 1e-5,
    ) -> None:
        if not threshold >= 0:
            raise RecipeError(f"threshold must not be negative: {threshold}")
        self._describe, self._dimension, self._side = describe, dimension, side
        self._shape, self._orient = AffNet(), OriNet()
        for network, name in ((self._shape, "AffNet"), (self._orient, "OriNet")):
            load_patch_network(network, Path(weights) / f"{name}.pth")
        self._threshold = threshold

    @torch.inference_mode()
    def extract(self, image: Image, *, max_features: int) -> LocalFeatures:
        """The strongest `max_features` features of an image at the size its pixels have; ties by position (y, x).

        A blob of scale σ has size 2·√27 σ, the width of its patch, which AffNet stretches without changing its area.
        Those that leave the image while round are left out, and of the strongest those that AffNet stretches more
        than 6 times. angle: the direction in the image of the patch's first axis. score: the response. descriptors:
        N×dimension float32 of unit length. Raises RecipeError where max_features is not positive.
        """
        if max_features < 1:
            raise RecipeError(f"max_features must be at least 1, not {max_features}")
        grey = cv2.cvtColor(np.ascontiguousarray(image.pixels), cv2.COLOR_RGB2GRAY)
        octaves = octaves_of(grey)
        xy, frames, response = self.frames(grey, octaves, max_features)
        drawn = patches(octaves, xy, frames, self._side)
        descriptors = _batched(self._describe, drawn, (self._dimension,))
        frames = frames / np.array(image.scale)[:, None]
        angle = np.arctan2(frames[:, 1, 0], frames[:, 0, 0]).astype(np.float32)
        turn = np.float32(2 * np.pi)
        return LocalFeatures(
            image.original_xy(xy).astype(np.float32),
            (2 * np.sqrt(np.linalg.det(frames))).astype(np.float32),
            angle % turn % turn,  # a tiny negative angle is rounded to a whole turn once
            response.astype(np.float32),
            descriptors,
        )

    @torch.inference_mode()
    def frames(
        self, grey: NDArray[np.uint8], octaves: list[NDArray[np.float32]], count: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """xy N×2, frames N×2×2 as ``patches`` takes them, and responses (N,), of the strongest ``count`` blobs."""
        xy, sigma, response = hessian_blobs(grey, self._threshold)
        room = np.minimum(xy, np.array(grey.shape[::-1]) - 1 - xy).min(axis=1)
        kept = np.flatnonzero(room >= _REACH * sigma)[:count]
        xy, frames = xy[kept], _REACH * sigma[kept, None, None] * np.eye(2)
        shapes = _batched(self._shape, patches(octaves, xy, frames), (2, 2))
        stretched = np.linalg.cond(shapes) <= _MOST_ANISOTROPIC
        kept, xy, frames = kept[stretched], xy[stretched], (frames @ shapes)[stretched]
        frames = frames @ _batched(self._orient, patches(octaves, xy, frames), (2, 2))
        return xy, frames, response[kept]


class HardTFeat(BlobFeatures):
    """Those described by HardTFeat, whose published HardTFeat.pth is in the folder too."""

    def __init__(self, weights: Path, *, threshold: float = 1e-5) -> None:
        network = HardTFeatNet()
        load_patch_network(network, Path(weights) / "HardTFeat.pth")
        super().__init__(weights, network, dimension=128, threshold=threshold)


def load_patch_network(network: nn.Module, path: Path) -> None:
    """A published file of one of these networks. Raises RecipeError where it is missing or of another."""
    # The file of HardTFeat also holds the filters of a SIFT, which it does not use.
    state = {key: value for key, value in load_state(path).items() if not key.startswith("SIFT.")}
    load_into(network, state, path)
    network.eval()


def hessian_blobs(
    grey: NDArray[np.uint8], threshold: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """xy N×2 (pixels), σ (N,) and response (N,) of an H×W image's blobs and saddles, strongest first, ties by (y, x).

    They are the maxima in position and scale of σ⁴·|det Hessian|, for intensities in [0, 1], above ``threshold``,
    placed by the quadratic through their neighbours (Brown & Lowe, BMVC 2002). A Gaussian blob of contrast c and
    width σ has response c²/16.
    """
    level = cv2.GaussianBlur(grey.astype(np.float32) / 255, (0, 0), np.sqrt(_FINEST**2 - _CAMERA**2))
    sigmas = _FINEST * 2 ** (np.arange(_PER_OCTAVE + 2) / _PER_OCTAVE)
    found, pixel = [np.empty((0, 4))], 1.0
    while min(level.shape) >= 3:
        steps = np.sqrt(sigmas[1:] ** 2 - _FINEST**2)
        levels = np.stack([level, *(cv2.GaussianBlur(level, (0, 0), step) for step in steps)])
        at, responses = _maxima(_response(levels) * sigmas.astype(np.float32)[:, None, None] ** 4, threshold)
        sigma = _FINEST * 2 ** (at[:, 0] / _PER_OCTAVE)
        found.append(np.column_stack([at[:, :0:-1] * pixel, sigma * pixel, responses]))
        level, pixel = levels[_PER_OCTAVE, ::2, ::2], pixel * 2
    table = np.concatenate(found)
    table = table[np.lexsort((table[:, 2], table[:, 0], table[:, 1], -table[:, 3]))]
    return table[:, :2], table[:, 2], table[:, 3]


def _response(levels: NDArray[np.float32]) -> NDArray[np.float32]:
    """|det Hessian| of K×H×W levels by central differences; 0 on the border."""
    response = np.zeros_like(levels)
    mid = levels[:, 1:-1, 1:-1]
    xx = levels[:, 1:-1, 2:] - 2 * mid + levels[:, 1:-1, :-2]
    yy = levels[:, 2:, 1:-1] - 2 * mid + levels[:, :-2, 1:-1]
    xy = (levels[:, 2:, 2:] - levels[:, 2:, :-2] - levels[:, :-2, 2:] + levels[:, :-2, :-2]) / 4
    response[:, 1:-1, 1:-1] = np.abs(xx * yy - xy * xy)
    return response


def _maxima(volume: NDArray[np.float32], threshold: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(k, y, x) N×3 to sub-cell precision, and values (N,), of a K×H×W volume's maxima among 26 neighbours."""
    around = np.stack([cv2.dilate(level, np.ones((3, 3), np.uint8)) for level in volume])
    peak = np.zeros(volume.shape, bool)
    peak[1:-1] = (volume[1:-1] == around[1:-1]) & (volume[1:-1] > around[:-2]) & (volume[1:-1] > around[2:])
    cells = np.argwhere(peak & (volume > threshold))
    cells = cells[((cells[:, 1:] > 0) & (cells[:, 1:] < np.array(volume.shape[1:]) - 1)).all(axis=1)]
    z, y, x = cells.T[:, :, None, None, None] + np.indices((3, 3, 3))[:, None] - 1
    near = volume[z, y, x].astype(np.float64)
    slopes = np.einsum("nijk,aijk->na", near, [_difference(a) for a in range(3)])
    bends = np.einsum("nijk,abijk->nab", near, [[_difference(a, b) for b in range(3)] for a in range(3)])
    step = -np.einsum("nab,nb->na", np.linalg.pinv(bends, hermitian=True), slopes)
    return cells + np.clip(step, -1, 1), volume[tuple(cells.T)].astype(np.float64)


def _difference(*axes: int) -> NDArray[np.float64]:
    """3×3×3 weights of the central difference along one axis, or along two for the second derivative."""
    kernels = (0, 1, 0), (-0.5, 0, 0.5), (1, -2, 1)
    return np.asarray(np.einsum("i,j,k->ijk", *(np.array(kernels[axes.count(axis)]) for axis in range(3))), float)


def octaves_of(grey: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """The image and its halvings; pixel (x, y) of the l-th is (2^l x, 2^l y) of the image."""
    octaves = [grey.astype(np.float32)]
    while min(octaves[-1].shape) > 1:
        octaves.append(cv2.pyrDown(octaves[-1]))
    return octaves


def patches(
    octaves: list[NDArray[np.float32]], xy: NDArray[np.float64], frames: NDArray[np.float64], side: int = _SIDE
) -> NDArray[np.float32]:
    """N×side×side: the image at xy + frame @ (u, v), N×2 and N×2×2, for (u, v) in [−1, 1]², its border repeated beyond.

    Each from the octave that it shrinks by less than two.
    """
    out = np.empty((len(xy), side, side), np.float32)
    turns = frames * (2 / side)
    shrink = np.log2(np.sqrt(np.abs(np.linalg.det(turns))))
    chosen = np.clip(np.floor(shrink), 0, len(octaves) - 1).astype(int)
    maps = np.concatenate([turns, (xy - turns @ np.full(2, (side - 1) / 2))[:, :, None]], axis=2)
    maps /= 2.0 ** chosen[:, None, None]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for patch, octave, frame in zip(out, chosen, maps, strict=True):
        cv2.warpAffine(octaves[octave], frame, (side, side), patch, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return out


def _batched(
    network: Callable[[Tensor], Tensor], patches: NDArray[np.float32], shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """N×``shape``: the network's output for N patches."""
    out = np.empty((len(patches), *shape), np.float32)
    for start in range(0, len(patches), _BATCH):
        rows = slice(start, start + _BATCH)
        out[rows] = network(torch.from_numpy(patches[rows, None])).numpy()
    return out


def normalised(patches: Tensor) -> Tensor:
    """N×1×h×w patches, each with mean 0 and standard deviation 1; flat ones become 0."""
    deviation, mean = torch.std_mean(patches, dim=(1, 2, 3), keepdim=True)
    return (patches - mean) / (deviation + 1e-7)


def _trunk(outputs: int, padding: int) -> list[nn.Module]:
    """What AffNet and OriNet share, to their numbers: N×1×32×32 → N×outputs×1×1 in (−1, 1)."""
    layers: list[nn.Module] = []
    for inputs, width, stride in ((1, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)):
        convolution = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(width, affine=False), nn.ReLU()]
    last = nn.Conv2d(64, outputs, 8, padding=padding)
    return [*layers, nn.Dropout(0.25), last, nn.Tanh(), nn.AdaptiveAvgPool2d(1)]


class AffNet(nn.Module):
    """Affine shapes N×2×2 of N×1×32×32 patches: lower triangular, determinant 1: "up" stays up."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(*_trunk(3, padding=0))

    def forward(self, patches: Tensor) -> Tensor:
        xx, yx, yy = self.features(normalised(patches)).flatten(1).T
        shape = torch.stack([1 + xx, torch.zeros_like(xx), yx, 1 + yy], dim=1).reshape(-1, 2, 2)
        return shape / torch.sqrt((1 + xx) * (1 + yy) + 1e-10)[:, None, None]


class OriNet(nn.Module):
    """Rotations N×2×2 of N×1×32×32 patches: columns are the axes of the upright patch in the one that is given."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(*_trunk(2, padding=1))

    def forward(self, patches: Tensor) -> Tensor:
        sine, cosine = self.features(normalised(patches)).flatten(1).T + 1e-8
        length = torch.hypot(sine, cosine)
        sine, cosine = sine / length, cosine / length
        return torch.stack([cosine, sine, -sine, cosine], dim=1).reshape(-1, 2, 2)


class HardTFeatNet(nn.Module):
    """Descriptors N×128 of unit length of N×1×32×32 patches."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 32, 7), nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 6), nn.Tanh())
        self.classifier = nn.Sequential(nn.Dropout(0.1), nn.Conv2d(64, 128, 8), nn.Tanh())

    def forward(self, patches: Tensor) -> Tensor:
        return nn.functional.normalize(self.classifier(self.features(normalised(patches))).flatten(1), dim=1)
