"""What is rendered, and how much it varies."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from resight.recipes.stage import Stage

Chance = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Amount = Annotated[float, Field(ge=0)]


class Rendering(Stage):
    """Ranges are (least, greatest), drawn evenly unless said.

    prints, boxes, cans, balls, facades, groups: how often a subject is such a thing, relative to the others.
    azimuth: degrees of the camera to either side of the subject's front. elevation: degrees above the horizontal.
    roll: greatest, degrees to either side. filled: of the picture's side that the subject takes, drawn evenly in
    logarithm. focal: in sides of the picture, likewise. aside: of the subject's middle from the picture's, in sides.
    shared: how often both views have the same surroundings. clutter: greatest number of solids round the subject.
    occluders: greatest number before it. twins: how often a subject has the shape and layout of the one before, but
    another print.
    shade: how much less light, at most, comes from below than from above. sun: how often there is a sun or lamp.
    shadows: how often it throws shadows. metering: how far the mean light is brought to the same, 1 for wholly.
    exposure: in stops to either side of that. balance: greatest change of a channel, as a factor's logarithm.
    vignette: greatest darkening of the corners.
    defocus, motion: how often; blur: greatest sigma, in pixels of a picture of side 160; motion reaches up to twice as
    many to both sides, and one pixel more.
    noisy: how often; noise: greatest standard deviation, of 1. jpeg: how often; quality: range.
    """

    prints: Amount = 3.0
    boxes: Amount = 3.0
    cans: Amount = 1.5
    balls: Amount = 0.5
    facades: Amount = 1.5
    groups: Amount = 1.5
    azimuth: Annotated[float, Field(ge=0, le=80)] = 50.0
    elevation: tuple[float, float] = (-5.0, 40.0)
    roll: Annotated[float, Field(ge=0, le=180)] = 25.0
    filled: tuple[Positive, Positive] = (0.4, 1.1)
    focal: tuple[Positive, Positive] = (0.8, 1.8)
    aside: Amount = 0.12
    shared: Chance = 0.5
    clutter: Annotated[int, Field(ge=0, le=24)] = 8
    occluders: Annotated[int, Field(ge=0, le=8)] = 2
    twins: Chance = 0.1
    shade: Chance = 0.6
    sun: Chance = 0.7
    shadows: Chance = 0.4
    metering: Chance = 0.7
    exposure: Amount = 0.6
    balance: Amount = 0.15
    vignette: Chance = 0.4
    defocus: Chance = 0.3
    motion: Chance = 0.15
    blur: Amount = 1.5
    noisy: Chance = 0.6
    noise: Amount = 0.04
    jpeg: Chance = 0.8
    quality: tuple[Annotated[int, Field(ge=1, le=100)], Annotated[int, Field(ge=1, le=100)]] = (25, 95)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("elevation", "filled", "focal", "quality"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} is a range, the smaller first, not {low} to {high}")
        if self.prints + self.boxes + self.cans + self.balls + self.facades + self.groups == 0:
            raise ValueError("of prints, boxes, cans, balls, facades and groups one must be more than 0")
        if self.elevation[0] < -30 or self.elevation[1] > 80:
            raise ValueError(f"elevation must lie within -30 to 80 degrees, not {self.elevation}")
        return self


PLAIN = Rendering(
    shade=0,
    sun=0,
    metering=0,
    exposure=0,
    balance=0,
    vignette=0,
    defocus=0,
    motion=0,
    noisy=0,
    jpeg=0,
)
"""The same scenes under even light, as a perfect camera sees them."""
