"""What a subject is: solids, and the textures that they ask for."""

from dataclasses import dataclass, field

import numpy as np

from resight.learning.procedural.prints import SIDE
from resight.learning.procedural.solids import Solid


@dataclass(eq=False)
class Wants:
    """Textures that solids ask for, by number in order of asking.

    Each is (aspect, side) for a print of the subject's own, of that width by height and so many texels across, or
    (0, n) for the pool's n-th.
    """

    asked: list[tuple[float, int]] = field(default_factory=list)

    def own(self, aspect: float, *, small: bool = False) -> int:
        """A print that is this subject's own. small: it is not the first that one looks at, and costs less."""
        self.asked.append((aspect, SIDE // 2 if small else SIDE))
        return len(self.asked) - 1

    def common(self, rng: np.random.Generator) -> int:
        """A surface of the pool."""
        self.asked.append((0.0, int(rng.integers(1 << 30))))
        return len(self.asked) - 1


@dataclass(frozen=True, eq=False)
class Subject:
    """solids: in a frame of their own, resting on z = 0, their front towards -y, before y = 0 if upon a wall.

    extent: width or height, the greater. middle: where cameras look. wall: whether it hangs on or is a wall. lying:
    whether its front is above. pure: how often its prints are paintings, with nothing printed on them.
    """

    solids: tuple[Solid, ...]
    extent: float
    middle: tuple[float, float, float]
    wall: bool = False
    lying: bool = False
    pure: float = 0.0


def gloss(rng: np.random.Generator) -> float:
    """Strength of a surface's highlights; most have none."""
    return float(rng.uniform(0, 0.8)) if rng.random() < 0.4 else 0.0
