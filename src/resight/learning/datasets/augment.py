"""Changes to pictures that leave what they show the same: other crops, colours, sharpness.

Parameters are drawn from a generator that is given; torchvision's own classes draw from torch's global one.
"""

import math
from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from resight.networks.torchvision_ops import ensure_torchvision
from resight.recipes.stage import Stage

Fit = Literal["square", "aspect"]
"""The form of a picture: a square, so that pictures stack; or its own, the longest side given."""

Share = Annotated[float, Field(gt=0, le=1)]
Chance = Annotated[float, Field(ge=0, le=1)]
Strength = Annotated[float, Field(ge=0, le=1)]


class Augmentation(Stage):
    """What is changed, and how much.

    scale: share of the picture's area that a crop has, drawn evenly from a range; None for the whole picture, which a
        square then bends. aspect: range of a crop's width by its height, drawn evenly in logarithm; of the picture's
        own where pictures keep that. Both as in GoogLeNet (Szegedy et al., CVPR 2015).
    brightness, contrast, saturation: a factor drawn from 1 ± strength, in an order that is drawn too. hue: a turn of
        the circle of colours, drawn from ± strength, at most a half.
    rotation: drawn from ± so many degrees; the corners take the picture's mean colour.
    flip, grayscale, blur, erase: how often. A mirrored label or façade is another object, so nothing is flipped by
        default; nor is it in the code of DELF and DELG, which crops only (scale 0.08 to 1, aspect 3/4 to 4/3).
        sigma: range of the blur in pixels of the result. erased: range of the share of the area that noise covers
        (Zhong et al., AAAI 2020).
    """

    scale: tuple[Share, Share] | None = (0.5, 1.0)
    aspect: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (3 / 4, 4 / 3)
    flip: Chance = 0.0
    brightness: Strength = 0.2
    contrast: Strength = 0.2
    saturation: Strength = 0.2
    hue: float = Field(default=0.0, ge=0, le=0.5)
    grayscale: Chance = 0.0
    rotation: float = Field(default=0.0, ge=0, le=180)
    blur: Chance = 0.0
    sigma: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0, le=16)]] = (0.5, 2.0)
    erase: Chance = 0.0
    erased: tuple[Share, Share] = (0.02, 0.2)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, bounds in (
            ("scale", self.scale),
            ("aspect", self.aspect),
            ("sigma", self.sigma),
            ("erased", self.erased),
        ):
            if bounds is not None and bounds[0] > bounds[1]:
                raise ValueError(f"{name} is a range, the smaller first, not {bounds[0]} to {bounds[1]}")
        return self


NONE = Augmentation(scale=None, brightness=0, contrast=0, saturation=0)
"""Pictures as they are."""


def window(stage: Augmentation, size: tuple[int, int], fit: Fit, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """The crop (x1, y1, x2, y2) of a picture of (width, height), in whole pixels.

    Where none of ten draws fits, the largest in the middle that the range of aspects allows, as torchvision has it.
    """
    width, height = size
    if stage.scale is None:
        return 0, 0, width, height
    low, high = (value * (1.0 if fit == "square" else width / height) for value in stage.aspect)
    for _ in range(10):
        area = rng.uniform(*stage.scale) * width * height
        aspect = math.exp(rng.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return x, y, x + w, y + h
    aspect = min(max(width / height, low), high)
    w = min(width, max(1, round(height * aspect)))
    h = min(height, max(1, round(width / aspect)))
    x, y = (width - w) // 2, (height - h) // 2
    return x, y, x + w, y + h


def alter(picture: Tensor, stage: Augmentation, rng: np.random.Generator) -> Tensor:
    """A picture 3×H×W uint8 with all but the crop done to it; as large as it was."""
    ensure_torchvision()
    from torchvision.transforms.v2 import InterpolationMode, functional

    height, width = picture.shape[-2:]
    if rng.random() < stage.flip:
        picture = functional.horizontal_flip(picture)
    if stage.rotation:
        colour = picture.float().mean(dim=(1, 2)).tolist()
        angle = rng.uniform(-stage.rotation, stage.rotation)
        picture = functional.rotate(picture, angle, interpolation=InterpolationMode.BILINEAR, fill=colour)
    picture = _recoloured(picture, stage, rng)
    if rng.random() < stage.grayscale:
        picture = functional.rgb_to_grayscale(picture, num_output_channels=3)
    if rng.random() < stage.blur:
        sigma = rng.uniform(*stage.sigma)
        # Borders are reflected, which reaches no further than the picture does.
        kernel = [2 * min(math.ceil(3 * sigma), side - 1) + 1 for side in (width, height)]
        picture = functional.gaussian_blur(picture, kernel, [sigma, sigma])
    if rng.random() < stage.erase:
        share = Augmentation(scale=stage.erased, aspect=(0.3, 1 / 0.3))
        x1, y1, x2, y2 = window(share, (width, height), "square", rng)
        picture = picture.clone()
        noise = rng.integers(0, 256, (3, y2 - y1, x2 - x1), np.uint8)
        picture[:, y1:y2, x1:x2] = torch.from_numpy(noise)
    return picture


def _recoloured(picture: Tensor, stage: Augmentation, rng: np.random.Generator) -> Tensor:
    from torchvision.transforms.v2 import functional

    changes = (
        (functional.adjust_brightness, stage.brightness, 1.0),
        (functional.adjust_contrast, stage.contrast, 1.0),
        (functional.adjust_saturation, stage.saturation, 1.0),
        (functional.adjust_hue, stage.hue, 0.0),
    )
    for number in rng.permutation(len(changes)):
        change, strength, still = changes[number]
        if strength:
            picture = change(picture, still + rng.uniform(-strength, strength))
    return picture
