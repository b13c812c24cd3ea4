"""What is round a subject: ground and walls, things beside and behind it, and things before it that hide a part."""

from collections.abc import Sequence

import numpy as np

from resight.learning.procedural.camera import Camera
from resight.learning.procedural.settings import Rendering
from resight.learning.procedural.solids import Face, Kind, Solid, solid
from resight.learning.procedural.subject import Subject, Wants

_KINDS: tuple[Kind, ...] = ("box", "box", "cylinder", "ellipsoid")


def surroundings(
    rng: np.random.Generator, thing: Subject, cameras: Sequence[Camera], wants: Wants, settings: Rendering
) -> list[Solid]:
    """Solids round a subject, none of which holds one of the cameras or hides the subject's middle from it."""
    solids = []
    if thing.lying or rng.random() < 0.9:
        repeat = float(rng.uniform(4, 20))
        solids.append(solid("box", (0, 0, -0.05), (8, 8, 0.05), Face(wants.common(rng), (repeat, repeat))))
    back = max(float(s.corners()[:, 1].max()) for s in thing.solids)
    if thing.wall or rng.random() < 0.5:
        away = 0.01 if thing.wall else float(rng.uniform(0.05, 1.5))
        across = float(rng.uniform(2, 10))
        wall = Face(wants.common(rng), (across, across / 2))
        solids.append(solid("box", (0, back + away + 0.1, 3.9), (8, 0.1, 4), wall))
    low = min(float(s.corners()[:, 2].min()) for s in thing.solids)
    for _ in range(int(rng.integers(0, settings.clutter + 1))):
        at = (float(rng.uniform(-2, 2)), float(rng.uniform(-0.6, back)), max(0.0, low * (rng.random() < 0.5)))
        item = _item(rng, wants, at, float(rng.uniform(0.15, 0.9)))
        if np.hypot(at[0], at[1]) > thing.extent / 2 + item.half[:2].max() and _clear(item, thing, cameras):
            solids.append(item)
    for _ in range(int(rng.integers(0, settings.occluders + 1))):
        camera = cameras[int(rng.integers(len(cameras)))]
        line = np.array(thing.middle) - camera.position
        aside = np.array([-line[1], line[0], 0]) / max(np.hypot(line[0], line[1]), 1e-6)
        near = float(rng.uniform(0.35, 0.75))
        place = camera.position + near * line
        place = place + aside * rng.choice([-1, 1]) * rng.uniform(0.1, 0.6) * thing.extent * near
        item = _item(rng, wants, (place[0], place[1], 0.0), float(rng.uniform(0.2, 1.2)) * near)
        if _clear(item, thing, cameras):
            solids.append(item)
    return solids


def _item(rng: np.random.Generator, wants: Wants, at: tuple[float, float, float], size: float) -> Solid:
    repeat = float(rng.choice([1, 1, 2, 3]))
    face = Face(wants.common(rng), (repeat, repeat), gloss=float(rng.uniform(0, 0.6)) * (rng.random() < 0.3))
    kind = _KINDS[int(rng.integers(len(_KINDS)))]
    half = size / 2 * np.exp(rng.uniform(-0.9, 0.3, 3))
    if kind != "box":
        half[1] = half[0]
    if rng.random() < 0.15:
        half = np.array([0.04, 0.04, 1.2]) * np.exp(rng.uniform(-0.5, 0.5))
    faces = {"front": Face(wants.common(rng)), "top": Face(wants.common(rng))} if kind == "box" else None
    return solid(kind, (at[0], at[1], at[2] + half[2]), half, face, faces, turn=float(rng.uniform(-1.5, 1.5)))


def _clear(item: Solid, thing: Subject, cameras: Sequence[Camera]) -> bool:
    """Whether an item neither holds a camera nor hides the subject's middle from it, seen from above."""
    radius = float(np.hypot(item.half[0], item.half[1]))
    for camera in cameras:
        towards = (item.centre - camera.position)[:2]
        line = (np.array(thing.middle) - camera.position)[:2]
        length = float(np.hypot(*line))
        along = float(towards @ line) / max(length, 1e-9)
        across = abs(float(towards[0] * line[1] - towards[1] * line[0])) / max(length, 1e-9)
        if np.hypot(*towards) < radius + 0.15 or (0 < along < length and across < 1.1 * radius):
            return False
    return True
