"""What is seen of a scene: a camera, the light, and the solids before the camera."""

from collections.abc import Sequence
from dataclasses import dataclass

from resight.learning.procedural.camera import Camera
from resight.learning.procedural.solids import Solid

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Light:
    """towards: unit vector to the sun or lamp, which is far. ambient, sun: colours that multiply the surface's, linear.

    ground: how much of the ambient light comes from below, as a share of that from above. shadows: whether solids stop
    the sun's light.
    """

    towards: Colour = (0.0, 0.0, 1.0)
    ambient: Colour = (1.0, 1.0, 1.0)
    sun: Colour = (0.0, 0.0, 0.0)
    ground: float = 1.0
    shadows: bool = False


@dataclass(frozen=True, eq=False)
class View:
    """A camera, the light, and all that is before the camera.

    common: how many of the solids, the first ones, are also in the other view, at the same places. sky: texture of
    what lies behind all solids.
    """

    camera: Camera
    light: Light
    solids: Sequence[Solid]
    common: int
    sky: int = 0
