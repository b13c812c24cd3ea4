"""A subject's scene: itself, its prints, two cameras, two lights and what is round it."""

import math

import numpy as np

from resight.learning.procedural.camera import Camera, look
from resight.learning.procedural.pool import Pool
from resight.learning.procedural.prints import print_
from resight.learning.procedural.settings import Rendering
from resight.learning.procedural.subject import Subject, Wants
from resight.learning.procedural.subjects import subject
from resight.learning.procedural.surroundings import surroundings
from resight.learning.procedural.textures import Pyramid, pyramid
from resight.learning.procedural.views import Light, View

_TWIN, SHAPE, _LAYOUT, _PRINT, _CAMERA, _AROUND, _LIGHT, FILM = range(2, 10)
"""Streams of random numbers of a subject; the pool's is 1."""


def generator(seed: int, number: int, stream: int) -> np.random.Generator:
    """Random numbers of a subject for one purpose."""
    return np.random.default_rng(np.random.SeedSequence([seed, stream, number]))


def model(seed: int, number: int, settings: Rendering) -> int:
    """The subject whose shape and layout this one has: itself, or, if it is a twin, that of the one before."""
    while number and generator(seed, number, _TWIN).random() < settings.twins:
        number -= 1
    return number


def staged(
    seed: int, number: int, side: int, settings: Rendering, pool: Pool
) -> tuple[tuple[View, View], list[Pyramid]]:
    """The two views of a subject, and the textures that their solids number."""
    shape, wants = model(seed, number, settings), Wants()
    thing = subject(generator(seed, shape, SHAPE), wants, settings)
    rng = generator(seed, number, _CAMERA)
    cameras = [_camera(rng, thing, side, settings) for _ in range(2)]
    around = generator(seed, number, _AROUND)
    if around.random() < settings.shared:
        both = surroundings(around, thing, cameras, wants, settings)
        rounds, common = [both, both], len(thing.solids) + len(both)
    else:
        rounds = [surroundings(around, thing, [camera], wants, settings) for camera in cameras]
        common = len(thing.solids)
    sky = wants.common(around)
    light = generator(seed, number, _LIGHT)
    views = [
        View(camera, _light(light, settings), (*thing.solids, *others), common, sky)
        for camera, others in zip(cameras, rounds, strict=True)
    ]
    layout, content = generator(seed, shape, _LAYOUT), generator(seed, number, _PRINT)
    pyramids = [
        pyramid(print_(layout, content, aspect, pool.pixels, pure=thing.pure, side=which))
        if aspect
        else pool.pyramid(which)
        for aspect, which in wants.asked
    ]
    return (views[0], views[1]), pyramids


def _camera(rng: np.random.Generator, thing: Subject, side: int, settings: Rendering) -> Camera:
    focal = side * _log_uniform(rng, settings.focal)
    distance = max(focal * thing.extent / (_log_uniform(rng, settings.filled) * side), thing.extent * 0.7)
    azimuth = math.radians(rng.uniform(-settings.azimuth, settings.azimuth))
    elevation = math.radians(rng.uniform(*settings.elevation))
    if thing.lying:
        elevation = math.radians(rng.uniform(35, 80))
    middle = np.array(thing.middle)
    away = np.array([math.sin(azimuth), -math.cos(azimuth), math.tan(elevation)]) * math.cos(elevation)
    position = middle + distance * away
    position[2] = max(position[2], 0.08)
    roll = math.radians(rng.uniform(-settings.roll, settings.roll)) * rng.random()
    centre = ((side - 1) / 2, (side - 1) / 2)
    straight = look(position, middle, focal, centre)
    aside = rng.uniform(-settings.aside, settings.aside, 2) * side / focal * np.linalg.norm(middle - position)
    return look(position, middle + aside @ straight.axes[:2], focal, centre, roll)


def _light(rng: np.random.Generator, settings: Rendering) -> Light:
    ground = 1 - settings.shade * rng.random()
    turn, height = rng.uniform(-1.4, 1.4), rng.uniform(0.2, 1.4)
    towards = (math.sin(turn) * math.cos(height), -math.cos(turn) * math.cos(height), math.sin(height))
    if rng.random() >= settings.sun:
        return Light(towards, ground=ground)
    share, warm = rng.uniform(0.3, 0.85), rng.uniform(-0.1, 0.15)
    ambient, sun = (1 - share) * (1 - warm * np.array([1, 0, -1])), 1.6 * share * (1 + warm * np.array([1, 0, -1]))
    shadows = bool(rng.random() < settings.shadows)
    return Light(towards, tuple(ambient.tolist()), tuple(sun.tolist()), ground, shadows)


def _log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    return math.exp(rng.uniform(math.log(bounds[0]), math.log(bounds[1])))
