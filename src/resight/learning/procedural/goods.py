"""Things that stand about: cartons, cans, bottles, balls, and groups of them."""

import numpy as np

from resight.learning.procedural.solids import Face, Solid, solid
from resight.learning.procedural.subject import Subject, Wants, gloss


def _carton(rng: np.random.Generator, wants: Wants, at: tuple[float, float], size: float) -> Solid:
    w, d, h = rng.uniform(0.25, 1.0, 3) / 2
    w, d, h = (np.array([w, d, h]) / max(w, d, h) * size / 2).tolist()
    shine = gloss(rng)
    front = Face(wants.own(w / h), gloss=shine)
    broad = Face(wants.own(d / h, small=True), gloss=shine)
    top = Face(wants.own(w / d, small=True), gloss=shine)
    back = front if rng.random() < 0.5 else Face(wants.common(rng), gloss=shine)
    faces = {"right": broad, "left": broad, "top": top, "bottom": top, "back": back}
    return solid("box", (*at, h), (w, d, h), front, faces, turn=float(rng.uniform(-0.5, 0.5)))


def box(rng: np.random.Generator, wants: Wants) -> Subject:
    """A carton, printed on all sides."""
    carton = _carton(rng, wants, (0, 0), 1.0)
    return Subject((carton,), 1.0, tuple(carton.centre.tolist()))


def _bottle(rng: np.random.Generator, wants: Wants, at: tuple[float, float], size: float) -> list[Solid]:
    """A can, a jar or a bottle with a label."""
    h = size / 2
    r = h * float(rng.uniform(0.25, 0.75))
    shine = gloss(rng)
    metal, turn = Face(wants.common(rng), gloss=shine), float(rng.uniform(-0.6, 0.6))
    form = int(rng.integers(3))
    if form == 0:
        label = Face(wants.own(np.pi * r / h), gloss=shine)
        return [solid("cylinder", (*at, h), (r, r, h), metal, {"front": label}, turn=turn)]
    body = h * float(rng.uniform(0.5, 0.75))
    glass = Face(wants.common(rng), (3, 1), gloss=shine)
    label = Face(wants.own(np.pi * r / (0.7 * body)), gloss=shine)
    solids = [
        solid("cylinder", (*at, body), (r, r, body), glass, turn=turn),
        solid("cylinder", (*at, body), (r * 1.01, r * 1.01, 0.7 * body), glass, {"front": label}, turn=turn),
    ]
    if form == 1:
        return [*solids, solid("cylinder", (*at, 2 * body + 0.06), (r * 0.9, r * 0.9, 0.06), metal)]
    neck = r * float(rng.uniform(0.25, 0.45))
    return [
        *solids,
        solid("ellipsoid", (*at, 2 * body), (r, r, (h - body) * 0.8), glass, turn=turn),
        solid("cylinder", (*at, body + h), (neck, neck, h - body), metal),
    ]


def can(rng: np.random.Generator, wants: Wants) -> Subject:
    """A can, a jar or a bottle."""
    return Subject(tuple(_bottle(rng, wants, (0, 0), 1.0)), 1.0, (0, 0, 0.5))


def ball(rng: np.random.Generator, wants: Wants) -> Subject:
    """A ball, more or less round."""
    r = 0.5 * np.exp(rng.uniform(-0.3, 0.1, 3))
    face = Face(wants.own(2.0), gloss=gloss(rng))
    return Subject((solid("ellipsoid", (0, 0, r[2]), r, face),), 1.0, (0, 0, float(r[2])))


def group(rng: np.random.Generator, wants: Wants) -> Subject:
    """Two to four things that stand together."""
    solids: list[Solid] = []
    count = int(rng.integers(2, 5))
    for number in range(count):
        at = ((number - (count - 1) / 2) * 0.42, float(rng.uniform(-0.25, 0.25)))
        size = float(rng.uniform(0.4, 0.9))
        solids += [_carton(rng, wants, at, size)] if rng.random() < 0.5 else _bottle(rng, wants, at, size)
    return Subject(tuple(solids), 0.42 * count + 0.2, (0, 0, 0.35))
