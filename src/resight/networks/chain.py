"""A network as a chain of modules, so that its beginning can be computed once and what follows many times.

Whether a network is one is not told from its kind but measured: the chain's outputs for a random picture must be the
network's own. What branches or looks back over several modules, as U-Nets and rotary transformers do, is none.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from resight.networks.layers import HEAD
from resight.networks.trunk import run

_CLOSE = 1e-5  # of the largest output; float32 differs by less between two ways of computing the same
_REFUSALS = (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError)  # of what a module is not for


@dataclass(frozen=True, eq=False)
class Link:
    """A step from one tensor to the next. name: dotted path of its module in the network, or of what it stands for."""

    name: str
    call: Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Chain:
    """Links from the normalised picture on. ends: by the module (``Layer.module``), after how many links its output is.

    Links share the network's modules, so they follow its parameters.
    """

    links: tuple[Link, ...]
    ends: Mapping[str, int]

    def run(self, x: Tensor, start: int, stop: int, wanted: Sequence[str] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        """What comes of x after the links from ``start`` to before ``stop``, and the outputs of wanted modules.

        x: what the links before ``start`` gave; it stays as it is. Modules that end before ``start`` are not found.
        """
        x = x.clone()  # the next module may work in place
        found: dict[str, Tensor] = {}
        for place in range(start, stop + 1):
            for module in wanted:
                if self.ends[module] == place:
                    found[module] = x if place == stop else x.clone()
            if place < stop:
                x = self.links[place].call(x)
        return x, found


def find_chain(network: nn.Module, modules: Sequence[str], size: tuple[int, int]) -> Chain | None:
    """The chain of a network up to the last of some modules; None where it is none, or one of them ends within a link.

    modules: watched ones (``trunk.watch``), as ``Layer.module``. size: (height, width) that the network takes, of the
    random picture for which chain and network are compared.
    """
    device = next(network.parameters()).device
    x = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():
        return _measured(network, list(_links(network)), dict.fromkeys(modules), x)


def _measured(network: Any, links: Sequence[Link], modules: Mapping[str, None], x: Tensor) -> Chain | None:
    wanted = run(network, x.clone(), modules, stop=True)
    named = {module: _last(links, module) for module in modules if module not in ("", HEAD)}
    unnamed = "" in modules or HEAD in modules
    features = network.forward_features(x.clone()) if unnamed else None
    needed, end = max(named.values(), default=0), 0
    for place, link in enumerate(links, 1):
        try:
            x = link.call(x.clone())
        except _REFUSALS:
            break
        if any(named[module] == place and not _equal(x, wanted.get(module)) for module in named):
            return None
        # The last that changes nothing: blocks that have learned nothing yet may not, and still belong to the chain.
        if unnamed and _equal(x, features):
            end = place
        elif place >= needed and (end or not unnamed):
            break
    ends = dict(named)
    if unnamed:
        ends |= {"": end} if "" in modules else {}
        ends |= {HEAD: end + 1} if HEAD in modules else {}
        if HEAD in modules and not _equal(_Head(network)(features), wanted.get(HEAD)):
            return None
    if end < unnamed or not all(ends.values()) or place < needed:
        return None
    own = [*links[:end], Link(HEAD, _Head(network))] if HEAD in modules else links
    return Chain(tuple(own[: max(ends.values())]), ends)


@dataclass(frozen=True, eq=False)
class _Head:
    network: Any

    def __call__(self, x: Any) -> Any:
        return self.network.forward_head(x, pre_logits=True)


@dataclass(frozen=True, eq=False)
class _Tokens:
    """What a ViT does before its blocks."""

    network: Any

    def __call__(self, x: Tensor) -> Any:
        tokens = self.network._pos_embed(self.network.patch_embed(x))
        return self.network.norm_pre(self.network.patch_drop(tokens))


def _last(links: Sequence[Link], module: str) -> int:
    """After how many links a module is done; 0 where it is none, or part of one."""
    return max((n for n, link in enumerate(links, 1) if f"{link.name}.".startswith(f"{module}.")), default=0)


def _equal(x: Any, other: Any) -> bool:
    """Up to rounding."""
    if not isinstance(x, Tensor) or not isinstance(other, Tensor) or x.shape != other.shape:
        return False
    return bool((x - other).abs().max() <= _CLOSE * other.abs().max().clamp(min=1e-6))


def _links(network: Any) -> Iterator[Link]:
    """A network's children in order, those of plain sequences one by one; of a ViT first what makes its tokens."""
    children = dict(network.named_children())
    embedding = ("patch_embed", "pos_drop", "patch_drop", "norm_pre")
    if hasattr(network, "_pos_embed") and children.keys() >= set(embedding):
        yield Link("patch_embed", _Tokens(network))
        children = {name: child for name, child in children.items() if name not in embedding}
    for name, child in children.items():
        yield from _flat(name, child)


def _flat(name: str, module: nn.Module) -> Iterator[Link]:
    if type(module).forward is nn.Sequential.forward and len(list(module.children())):
        for number, child in module.named_children():
            yield from _flat(f"{name}.{number}", child)
    else:
        yield Link(name, module)


def to_grid(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """B×N×C, p tokens and then those of a map in reading order, to B×r×columns×C: the map's rows last.

    Rows before them hold the p, filled up with zeros; so the shape says how the tokens lie. Raises ValueError for
    fewer tokens than the map has.
    """
    prefix = tokens.shape[1] - rows * columns
    if prefix < 0:
        raise ValueError(f"{tokens.shape[1]} tokens are no map of {rows}×{columns}")
    empty = tokens.new_zeros(len(tokens), -prefix % columns, tokens.shape[2])
    full = torch.cat([tokens[:, :prefix], empty, tokens[:, prefix:]], dim=1)
    return full.reshape(len(tokens), -1, columns, tokens.shape[2])


def from_grid(grid: Tensor, prefix: int) -> tuple[Tensor, int, int]:
    """What ``to_grid`` made its result of: tokens, rows and columns. prefix: p."""
    columns = grid.shape[2]
    rows = grid.shape[1] - -(-prefix // columns)
    flat = grid.flatten(1, 2)
    return torch.cat([flat[:, :prefix], flat[:, flat.shape[1] - rows * columns :]], dim=1), rows, columns
