"""What a study of invariance does to queries: each transformation with its strengths, and the unit they are in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from resight.geometry.boxes import Box
from resight.robustness import geometric, photometric
from resight.robustness.geometric import Changed, Pixels, Seed


@dataclass(frozen=True)
class Transformation:
    """A change of pictures.

    change: (pixels, strength, seed, box) → (pixels, box); a strength of 0 leaves both as they are.
    strengths: ascending and above 0, in `unit`.
    """

    name: str
    unit: str
    strengths: tuple[float, ...]
    change: Callable[[Pixels, float, Seed, Box | None], Changed]


def _unmoved(change: Callable[[Pixels, float, Seed], Pixels]) -> Callable[[Pixels, float, Seed, Box | None], Changed]:
    return lambda pixels, strength, seed, box: (change(pixels, strength, seed), box)


UNCHANGED = Transformation("unchanged", "", (), lambda pixels, strength, seed, box: (pixels, box))

_ALL = (
    Transformation("rotation", "degrees", (15, 30, 45, 90, 180), geometric.rotate),
    Transformation("scale", "halvings of the sides", (0.5, 1, 1.5, 2, 3), geometric.shrink),
    Transformation("crop", "share of each side cut off", (0.1, 0.25, 0.4, 0.55, 0.7), geometric.cut),
    Transformation("occlusion", "share of the area", (0.1, 0.2, 0.35, 0.5, 0.65), geometric.cover),
    Transformation("viewpoint", "degrees from the front", (15, 30, 45, 60, 70), geometric.tilt),
    Transformation("blur", "σ, % of the longer side", (0.25, 0.5, 1, 2, 4), _unmoved(photometric.blur)),
    Transformation("noise", "σ, levels of 255", (10, 20, 40, 60, 80), _unmoved(photometric.noise)),
    Transformation("compression", "100 − JPEG quality", (50, 75, 90, 95, 98), _unmoved(photometric.compress)),
    Transformation("darker", "stops", (1, 2, 3, 4, 5), _unmoved(photometric.darken)),
    Transformation("brighter", "stops", (0.5, 1, 1.5, 2, 3), _unmoved(photometric.brighten)),
    Transformation("colour-cast", "stops of red and blue", (0.25, 0.5, 0.75, 1, 1.5), _unmoved(photometric.tint)),
    Transformation("grey", "share of colour lost", (0.25, 0.5, 0.75, 0.9, 1), _unmoved(photometric.fade)),
    Transformation("night-model", "share of a night", (0.2, 0.4, 0.6, 0.8, 1), _unmoved(photometric.night)),
)

TRANSFORMATIONS: Mapping[str, Transformation] = {each.name: each for each in _ALL}
