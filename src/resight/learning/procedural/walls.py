"""Things on walls, and walls: pictures, posters, the fronts of houses."""

from dataclasses import replace

import numpy as np

from resight.learning.procedural.solids import Face, solid
from resight.learning.procedural.subject import Subject, Wants, gloss


def hung(rng: np.random.Generator, wants: Wants) -> Subject:
    """A picture or poster on a wall, or lying, with a frame or without."""
    aspect = float(np.exp(rng.uniform(np.log(0.5), np.log(2.0))))
    w, h = (0.5, 0.5 / aspect) if aspect > 1 else (0.5 * aspect, 0.5)
    z, deep = h + 0.5, float(rng.uniform(0.005, 0.04))
    side = Face(wants.common(rng), (1, 1))
    print_ = Face(wants.own(aspect), gloss=gloss(rng))
    lying = rng.random() < 0.2
    if lying:
        return Subject(
            (solid("box", (0, 0, deep), (w, h, deep), side, {"top": print_}),), 1.0, (0, 0, deep), lying=True, pure=0.4
        )
    solids = [solid("box", (0, -deep, z), (w, deep, h), side, {"front": print_})]
    if rng.random() < 0.6:
        broad, thick = rng.uniform(0.02, 0.09), deep + rng.uniform(0.005, 0.04)
        wood = Face(wants.common(rng), (4, 1), gloss=gloss(rng))
        for s in (-1, 1):
            solids.append(solid("box", (0, -thick, z + s * (h + broad)), (w + 2 * broad, thick, broad), wood))
            solids.append(solid("box", (s * (w + broad), -thick, z), (broad, thick, h), replace(wood, repeat=(1, 4))))
    return Subject(tuple(solids), 1.05, (0, -deep, z), wall=True, pure=0.7)


def facade(rng: np.random.Generator, wants: Wants) -> Subject:
    """The front of a house: rows of windows, and some of a door, a sign, columns, ledges."""
    columns, rows = int(rng.integers(2, 6)), int(rng.integers(2, 5))
    w, h = 0.8, float(rng.uniform(0.5, 1.0))
    wall = Face(wants.own(w / h))
    plain = Face(wants.common(rng), (2, 2))
    trim = Face(wants.common(rng), (1, 1))
    cell_w, cell_h = 2 * w / columns, 2 * h / rows
    a, b = cell_w * rng.uniform(0.2, 0.38), cell_h * rng.uniform(0.25, 0.42)
    out = float(rng.uniform(0.01, 0.05))
    pane = Face(wants.own(a / b, small=True), gloss=0.3)
    solids = [solid("box", (0, 0.2, h), (w, 0.2, h), plain, {"front": wall})]
    door = int(rng.integers(columns))
    for row in range(rows):
        for column in range(columns):
            x, z = -w + (column + 0.5) * cell_w, (row + 0.5) * cell_h
            if row == 0 and column == door:
                face = Face(wants.own(1.2 * a / cell_h, small=True))
                solids.append(solid("box", (x, 0, 0.42 * cell_h), (1.2 * a, out, 0.42 * cell_h), trim, {"front": face}))
                continue
            solids.append(solid("box", (x, 0, z), (a, out, b), trim, {"front": pane}))
    if rng.random() < 0.6:
        solids += [solid("cylinder", (-w + n * cell_w, 0, h), (0.03, 0.05, h), trim) for n in range(columns + 1)]
    if rng.random() < 0.6:
        ledge = (w + 0.03, 2 * out, 0.02)
        solids += [solid("box", (0, 0, n * cell_h), ledge, trim) for n in range(1, rows + 1)]
    if rng.random() < 0.5:
        sign = Face(wants.own(5.0))
        solids.append(solid("box", (0, -out, cell_h), (w * 0.5, out * 1.5, w * 0.1), trim, {"front": sign}))
    return Subject(tuple(solids), 2 * max(w, h), (0, 0, h), wall=True)
