"""DOAP's networks for patches (He, Lu & Sclaroff, Local Descriptors Optimized for Average Precision, CVPR 2018).

The network is L2-Net's (Tian, Fan & Wu, CVPR 2017), in the _ST models after a spatial transformer (Jaderberg et al.,
NIPS 2015), learned by average precision, as ``learning.losses.listwise`` has it. Descriptors are ℓ2-normalised, or, for
256 bits, the signs. Published models (http://cs-people.bu.edu/hekun/papers/DOAP) are MatConvNet's DagNN ``.mat`` files.
None was at hand: they are read by what MatConvNet's and HF-Net's code say of them (hfnet/models/doap.py), and the
reader is tested with files made up alike.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample, normalize, pad

from resight.errors import RecipeError
from resight.local.patch_network import BlobFeatures, normalised
from resight.matfile import load_mat
from resight.networks.weights import load_into, load_state

SIDE, TRANSFORMED_SIDE = 32, 42  # pixels of a patch, without and with the spatial transformer
_EPS = 1e-5
FILES = ("DOAP.mat", "DOAP.safetensors", "DOAP.pth")


class DoapFeatures(BlobFeatures):
    """Hessian blobs in the frames of AffNet and OriNet, described by DOAP.

    weights: a folder with AffNet.pth, OriNet.pth and one of DOAP.mat, as published, DOAP.safetensors and DOAP.pth.
    dimension, binary: of the descriptors; binary ones are ±1/√dimension, so that their distances order as Hamming's do.
    Raises RecipeError for files that are missing or of another network.
    """

    def __init__(self, weights: Path, *, dimension: int = 128, binary: bool = False, threshold: float = 1e-5) -> None:
        found = [path for name in FILES if (path := Path(weights) / name).is_file()]
        if len(found) != 1:
            raise RecipeError(f"{weights}: needs one of {', '.join(FILES)}, and has {len(found)}")
        network = read_doap(found[0], dimension, binary=binary)
        super().__init__(weights, network, dimension=dimension, side=network.side, threshold=threshold)


class Doap(nn.Module):
    """Descriptors N×D of unit length of N×1×side×side patches of any contrast.

    features: N×1×32×32 to N×D×1×1. locate: N×1×42×42 to the six numbers of the spatial transformer; None without one.
    """

    def __init__(self, features: nn.Module, locate: nn.Module | None = None, *, binary: bool = False) -> None:
        super().__init__()
        self.features, self.locate, self._binary = features, locate, binary

    @property
    def side(self) -> int:
        """Pixels of the patches that it takes."""
        return SIDE if self.locate is None else TRANSFORMED_SIDE

    def logits(self, patches: Tensor) -> Tensor:
        """N×D, before they are made descriptors."""
        seen = normalised(patches)
        if self.locate is not None:
            seen = resample(seen, self.locate(seen).flatten(1))
        found: Tensor = self.features(seen).flatten(1)
        return found

    def forward(self, patches: Tensor) -> Tensor:
        logits = self.logits(patches)
        raw = torch.where(logits > 0, 1.0, -1.0) if self._binary else logits
        unit: Tensor = normalize(raw, dim=1)
        return unit


def l2net(outputs: int = 128) -> nn.Sequential:
    """L2-Net, N×1×32×32 → N×outputs×1×1, at random; parameters are called as HardNet's published ones are."""
    layers: list[nn.Module] = []
    for inputs, width, stride in ((1, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1)):
        convolution = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(width, affine=False), nn.ReLU()]
    last = nn.Conv2d(128, outputs, 8, bias=False)
    return nn.Sequential(*layers, nn.Dropout(0.3), last, nn.BatchNorm2d(outputs, affine=False))


def resample(patches: Tensor, affine: Tensor) -> Tensor:
    """N×1×32×32: N×1×S×S patches under N×6 maps, by MatConvNet's conventions; their border is repeated beyond.

    With v and u down and right, −1 … 1 from the first to the last pixel, output (v, u) is taken from
    (a1 v + a2 u + a5, a3 v + a4 u + a6) of the patch. The border is repeated for half a side only, as by the authors'
    layer: beyond that there is 0.
    """
    a1, a2, a3, a4, a5, a6 = affine.unbind(1)
    theta = torch.stack([torch.stack([a4, a3, a6], 1), torch.stack([a2, a1, a5], 1)], 1)
    grid = affine_grid(theta, [len(patches), 1, SIDE, SIDE], align_corners=True)
    room = round(patches.shape[2] / 2)
    padded = pad(patches, (room, room, room, room), mode="replicate")
    sampled: Tensor = grid_sample(padded, grid / 2, align_corners=True)
    return sampled


def read_doap(path: Path, dimension: int, *, binary: bool = False) -> Doap:
    """A published model, ``.mat``; or a state of `l2net`, as `resight train` and HardNet's authors leave it.

    Raises RecipeError where it is none, or has another number of outputs.
    """
    if path.suffix == ".mat":
        network = _from_dagnn(path, binary)
    else:
        network = Doap(l2net(dimension), binary=binary)
        load_into(network, load_state(path), path)
    network.eval()
    with torch.inference_mode():
        try:
            shape = tuple(network.logits(torch.zeros(2, 1, network.side, network.side)).shape)
        except RuntimeError as error:
            raise RecipeError(f"{path}: its layers do not fit each other: {error}") from error
    if shape != (2, dimension):
        raise RecipeError(f"{path}: describes a patch by {shape[1]} numbers, not {dimension}: set dimension to that")
    return network


def _from_dagnn(path: Path, binary: bool) -> Doap:
    try:
        (net,) = load_mat(path.read_bytes(), others=True)["net"]
        parameters = {entry["name"]: entry["value"] for entry in net["params"]}
        chains: list[list[nn.Module]] = [[]]
        for layer in _until_logits(net["layers"]):
            kind = layer["type"].rpartition(".")[2]
            if kind == "AffineGridGenerator":
                chains.append([])
            elif kind not in ("PaddedBilinear", "BilinearSampler"):
                chains[-1].append(_module(kind, layer, parameters))
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise RecipeError(f"{path}: is no DagNN model of DOAP, or damaged: {error}") from error
    if len(chains) > 2:
        raise RecipeError(f"{path}: has several spatial transformers: it is no model of DOAP")
    *locate, features = (nn.Sequential(*chain) for chain in chains)
    return Doap(features, locate[0] if locate else None, binary=binary)


def _until_logits(layers: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for layer in layers:
        yield layer
        if "logits" in layer["outputs"]:
            return
    raise ValueError("no layer puts out logits")


def _module(kind: str, layer: Mapping[str, Any], parameters: Mapping[str, list[float]]) -> nn.Module:
    if kind == "ReLU":
        return nn.ReLU()
    if kind == "DropOut":
        return nn.Identity()
    given = [np.array(parameters[name], np.float32) for name in layer["params"]]
    if kind == "Conv":
        (block,) = layer["block"]
        height, width, inputs, outputs = (int(length) for length in block["size"])
        down, right = (int(step) for step in np.broadcast_to(block["stride"], 2))
        top, bottom, left, rest = (int(side) for side in np.broadcast_to(block["pad"], 4))
        if (top, left) != (bottom, rest) or any(step != 1 for step in block.get("dilate", [1])):
            raise ValueError(f"the convolution {layer['name']} is dilated, or padded more on one side")
        convolution = nn.Conv2d(inputs, outputs, (height, width), (down, right), (top, left), bias=len(given) > 1)
        weight = given[0].reshape((height, width, inputs, outputs), order="F").transpose(3, 2, 0, 1)
        _set(convolution, weight=weight, **({"bias": given[1]} if len(given) > 1 else {}))
        return convolution
    if kind == "BatchNorm":
        scale, shift, moments = given
        mean, deviation = moments.reshape((2, -1))
        norm = nn.BatchNorm2d(len(scale), eps=_EPS)
        # MatConvNet's deviation has its ε within already.
        _set(norm, weight=scale, bias=shift, running_mean=mean, running_var=deviation**2 - _EPS)
        return norm
    raise ValueError(f"a layer {layer['type']}, which DOAP has not")


def _set(module: nn.Module, **values: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    own = module.state_dict()
    for name, value in values.items():
        if own[name].shape != value.shape:
            raise ValueError(f"{name} is {value.shape}, not {tuple(own[name].shape)}")
        own[name].copy_(torch.from_numpy(value.copy()))
