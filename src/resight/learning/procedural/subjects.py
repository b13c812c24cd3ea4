"""Things to be found again."""

from collections.abc import Callable, Sequence

import numpy as np

from resight.learning.procedural.goods import ball, box, can, group
from resight.learning.procedural.settings import Rendering
from resight.learning.procedural.subject import Subject, Wants
from resight.learning.procedural.walls import facade, hung


def subject(rng: np.random.Generator, wants: Wants, settings: Rendering) -> Subject:
    """A subject, of a kind as often as the settings say. Lengths are about 1."""
    kinds: Sequence[tuple[Callable[[np.random.Generator, Wants], Subject], float]] = (
        (hung, settings.prints),
        (box, settings.boxes),
        (can, settings.cans),
        (ball, settings.balls),
        (facade, settings.facades),
        (group, settings.groups),
    )
    shares = np.array([share for _, share in kinds])
    make, _ = kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]
    return make(rng, wants)
