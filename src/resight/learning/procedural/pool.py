"""Textures of a seed, made when first asked for and kept while there is room."""

import threading
from collections import OrderedDict

import numpy as np

from resight.learning.procedural.colours import Pixels, resized
from resight.learning.procedural.materials import SIDE
from resight.learning.procedural.patterns import pattern
from resight.learning.procedural.prints import print_
from resight.learning.procedural.textures import Pyramid, pyramid

SIZE = 384
"""Different surfaces of a seed. What a subject shows is its own; its surroundings and details draw on these."""

_STREAM = 1
_PRINTED = 4
"""Each so many-th surface is a print."""


class Pool:
    """Surfaces of a seed by number, modulo ``SIZE``: the same whatever was asked for before.

    Not more than ``SIZE`` are kept, of 128² texels: some 90 MB with their pyramids.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._pixels: dict[int, Pixels] = {}
        self._pyramids: dict[int, Pyramid] = {}

    def pixels(self, number: int) -> Pixels:
        """128×128×3 uint8; not to be written to."""
        number %= SIZE
        if number not in self._pixels:
            rng = np.random.default_rng([self.seed, _STREAM, number])
            if number % _PRINTED:
                made = pattern(rng)
            else:  # of patterns, which are none of these numbers
                made = resized(print_(rng, rng, 1.0, lambda n: self.pixels(n * _PRINTED + 1), pure=0.3), SIDE, SIDE)
            self._pixels[number] = made
        return self._pixels[number]

    def pyramid(self, number: int) -> Pyramid:
        """As ``pixels``, ready to be sampled."""
        number %= SIZE
        if number not in self._pyramids:
            self._pyramids[number] = pyramid(self.pixels(number))
        return self._pyramids[number]


_pools: OrderedDict[int, Pool] = OrderedDict()
_lock = threading.Lock()
_KEPT = 2


def pool(seed: int) -> Pool:
    """The pool of a seed; of the last two seeds they are kept, for training and its validation."""
    with _lock:
        if seed not in _pools:
            _pools[seed] = Pool(seed)
        _pools.move_to_end(seed)
        while len(_pools) > _KEPT:
            _pools.popitem(last=False)
        return _pools[seed]
