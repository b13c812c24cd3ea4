"""What a network's layers are, found by running it on shapes alone: no weights, no memory, no arithmetic."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from resight.errors import RecipeError
from resight.networks.architectures import check_name, create_free_size
from resight.networks.layers import HEAD, Layer, plain_names
from resight.networks.trunk import Tap, run, watch

# Pixels that the sides of pictures may have to be multiples of: 1, patch sizes, strides, windows of maps.
_MULTIPLES = (1, 2, 4, 7, 8, 14, 16, 28, 32, 56, 64, 112, 128, 224, 256)
_TRIED = ((150, 205), (366, 276))  # sides that leave different remainders at every halving
_LIMIT = 2048
_REFUSALS = (RuntimeError, ValueError, AssertionError)  # how networks say that a size does not suit them


class Sketch:
    """The network ``name`` on PyTorch's meta device, taking pictures of every size it can.

    options: what its constructor was told so that it does.
    plain: plain name → module.
    multiple: pixels of which a picture's sides must be multiples.
    Raises RecipeError where there is no such network or it takes one size only.
    """

    def __init__(self, name: str) -> None:
        check_name(name)
        self.name = name
        with torch.device("meta"):
            self.network, self.options = create_free_size(name)
        self.plain = plain_names(self.network)
        self._watched: set[str] = set()
        self.multiple = self._find_multiple()

    def layers(self) -> tuple[Layer, ...]:
        """Every layer with a plain name whose output is one map or vector."""
        modules = list(dict.fromkeys(self.plain.values()))
        try:
            outputs = self._probe(modules)
        except _REFUSALS:  # a head may pool maps of one size only
            outputs = self._probe([module for module in modules if module != HEAD])
        taps = (self._tap(name, module, *outputs[module]) for name, module in self.plain.items() if module in outputs)
        return tuple(tap.layer for tap in taps if tap)

    def taps(self, names: Sequence[str]) -> tuple[Tap, ...]:
        """Where and how the layers ``names``, plain or dotted, are taken. RecipeError where one cannot be."""
        modules = [self._module(name) for name in names]
        try:
            outputs = self._probe(list(dict.fromkeys(modules)))
        except _REFUSALS as error:
            layers = ", ".join(names)
            raise RecipeError(f"{self.name} does not compute {layers} for pictures of any size: {error}") from error
        found = []
        for name, module in zip(names, modules, strict=True):
            if module not in outputs:
                raise RecipeError(f"layer {name!r} takes no part in computing the features of {self.name}")
            tap = self._tap(name, module, *outputs[module])
            if tap is None:
                raise RecipeError(f"layer {name!r} of {self.name} gives neither a map nor a vector: choose another")
            found.append(tap)
        return tuple(found)

    def least(self, names: Sequence[str]) -> int:
        """The smallest side in pixels of a square picture for which the layers ``names`` have an output."""
        modules = [tap.layer.module for tap in self.taps(names)]
        return least_side(lambda side: self._run(side, side, modules).values(), self.multiple)

    @property
    def _probed(self) -> tuple[int, int]:
        """Height and width, 2:3, of the smaller picture that layouts are told from; a power of two of multiples."""
        unit = self.multiple
        while unit < 256:
            unit *= 2
        return 2 * unit, 3 * unit

    def _probe(self, modules: Sequence[str]) -> dict[str, tuple[Any, Any]]:
        """Outputs by module, for the smaller picture and for one twice as high; none of modules that do not run."""
        height, width = self._probed
        small, tall = self._run(height, width, modules), self._run(2 * height, width, modules)
        return {module: (small[module], tall[module]) for module in modules if module in small}

    def _tap(self, name: str, module: str, small: Any, tall: Any) -> Tap | None:
        """Told by which axis grew; None for what is no map or vector."""
        if not isinstance(small, Tensor) or not isinstance(tall, Tensor) or small.ndim != tall.ndim:
            return None
        height, width = self._probed
        match small.ndim, [axis for axis in range(small.ndim) if small.shape[axis] != tall.shape[axis]]:
            case 2, []:
                return Tap(Layer(name, module, "vector", small.shape[1], None), "BC")
            case 3, [1] if name == "cls":
                return Tap(Layer(name, module, "vector", small.shape[2], None), "first")
            case 3, [1]:
                # With p tokens before the map's n, the sequences are p + n and p + 2n long.
                area = tall.shape[1] - small.shape[1]
                prefix, stride = small.shape[1] - area, math.isqrt(height * width // area)
                if prefix >= 0 and area * stride**2 == height * width:
                    return Tap(Layer(name, module, "map", small.shape[2], stride), "BNC", prefix)
            case 4, [1 | 2 as axis]:
                stride, rest = divmod(height, tall.shape[axis] - small.shape[axis])
                if rest == 0:
                    channels = small.shape[1 if axis == 2 else 3]
                    return Tap(Layer(name, module, "map", channels, stride), "BCHW" if axis == 2 else "BHWC")
        return None

    def _module(self, name: str) -> str:
        if name in self.plain:
            return self.plain[name]
        if name and name in dict(self.network.named_modules()):
            return name
        if name == "cls" and "tokens" in self.plain:
            raise RecipeError(f"{self.name} has no class token, so no layer 'cls': take pooled or tokens")
        choice = ", ".join(dict.fromkeys(["features", *self.plain]))
        raise RecipeError(f"{self.name} has no layer {name!r}; try one of {choice}, or a module's dotted path")

    def _find_multiple(self) -> int:
        for multiple in _MULTIPLES:
            try:
                for sides in _TRIED:
                    height, width = (multiple * math.ceil(side / multiple) for side in sides)
                    self._run(height, width, [""])
                return multiple
            except _REFUSALS as error:
                reason = error
        raise RecipeError(f"network {self.name} takes pictures of one size only: {reason}; choose another")

    def _run(self, height: int, width: int, modules: Sequence[str]) -> dict[str, Any]:
        for module in set(modules) - self._watched:
            watch(self.network, module)
            self._watched.add(module)
        with torch.device("meta"), torch.no_grad():
            return run(self.network, torch.empty(1, 3, height, width), modules, stop=True)


def least_side(outputs: Callable[[int], Iterable[Tensor]], multiple: int) -> int:
    """The smallest multiple of ``multiple`` that works, if all larger ones do.

    outputs: of a network for a square picture of that side, in pixels; works where it gives no empty ones.
    """

    def works(count: int) -> bool:
        try:
            return all(output.numel() for output in outputs(count * multiple))
        except _REFUSALS:
            return False

    low, high = 0, 1
    while not works(high):
        low, high = high, 2 * high
        if low * multiple > _LIMIT:
            raise RecipeError(
                f"the network takes no square picture of up to {_LIMIT} pixels a side: choose another layer"
            )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if works(middle) else (middle, high)
    return high * multiple
