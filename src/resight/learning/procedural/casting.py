"""The first surface that a pixel's ray meets, for pictures of a batch at once.

Each solid is an intersection of slabs and quadrics in its own unit frame, in which rays are straight and keep their
parameter (Kay and Kajiya, Ray tracing complex scenes, SIGGRAPH 1986), and the parameter is the depth. Pictures are cut
into square tiles; a tile's rays are tried only on solids whose outline may reach it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resight.learning.procedural.camera import Camera
from resight.learning.procedural.solids import KINDS, Solid

TILE = 16
NEAR = 0.02
"""Depth of the nearest surface that is seen; scenes are a few units large."""
FAR = 1e3
"""Depth that stands for "no surface"."""

_STEEP = 1e20  # stands for one over 0


@dataclass(frozen=True, eq=False)
class World:
    """V pictures' cameras and solids as tensors; of P places for solids in each, some empty.

    kind: (V·P,) int64. origin: 3×(V·P), the camera in the solids' unit frames. ray: 3×3×(V·P): [i, j] of the unit
    frame's i-th coordinate of a ray's direction by the pixel's (x, y, 1)[j]. reach: V×P×4 float64, the rectangle
    (x1, y1, x2, y2) in pixels that holds the solid's picture.
    """

    views: int
    places: int
    kind: Tensor
    origin: Tensor
    ray: Tensor
    reach: NDArray[np.float64]


def world(cameras: Sequence[Camera], solids: Sequence[Sequence[Solid]], device: str) -> World:
    """Cameras and the solids before each of them."""
    places = max(1, max(map(len, solids)))
    views = len(cameras)
    kind = np.zeros(views * places, np.int64)
    origin, ray = np.zeros((3, views * places)), np.zeros((3, 3, views * places))
    reach = np.full((views, places, 4), np.nan)
    for v, (camera, present) in enumerate(zip(cameras, solids, strict=True)):
        centres, halves, axes, corners = (
            np.stack(parts) for parts in zip(*((s.centre, s.half, s.axes, s.corners()) for s in present), strict=True)
        )
        n = slice(v * places, v * places + len(present))
        unit = axes / halves[:, :, None]
        kind[n] = [KINDS.index(s.kind) for s in present]
        origin[:, n] = np.einsum("pij,pj->ip", unit, camera.position - centres)
        ray[:, :, n] = np.einsum("pij,jk->ikp", unit, camera.rays)
        xy, depth = camera.project(corners.reshape(-1, 3))
        xy, depth = xy.reshape(-1, 8, 2), depth.reshape(-1, 8)
        box = np.concatenate([xy.min(1), xy.max(1)], axis=1)
        # A solid that crosses the camera's plane may be seen anywhere; one behind it nowhere.
        box[depth.min(1) < NEAR] = (-np.inf, -np.inf, np.inf, np.inf)
        box[depth.max(1) < NEAR] = np.nan
        reach[v, : len(present)] = box
    origins, rays = (torch.from_numpy(a.astype(np.float32)).to(device) for a in (origin, ray))
    return World(views, places, torch.from_numpy(kind).to(device), origins, rays, reach)


def cast(seen: World, side: int) -> tuple[Tensor, Tensor]:
    """Depth V×S×S float32 (``FAR`` where no surface is) and the solid's index V×S×S int64 into V·P.

    S: the side, up to a multiple of ``TILE``. Where no surface is, the index is of the view's first solid.
    """
    tiles = -(-side // TILE)
    device = seen.origin.device
    start = np.arange(tiles) * TILE
    x1, y1, x2, y2 = (seen.reach[..., i, None] for i in range(4))
    # Half a pixel more for the sake of float32; comparisons with nan are false.
    across = (x1 <= start + TILE - 0.5) & (x2 >= start - 0.5)
    down = (y1 <= start + TILE - 0.5) & (y2 >= start - 0.5)
    met = (down[:, :, :, None] & across[:, :, None, :]).transpose(0, 2, 3, 1).reshape(-1, seen.places)
    number = np.arange(seen.views).repeat(tiles * tiles)
    kinds = seen.kind.cpu().numpy().reshape(seen.views, seen.places)[number]
    offsets = np.stack([np.tile(np.tile(start, tiles), seen.views), np.tile(start.repeat(tiles), seen.views)])
    origin_of_tiles = torch.from_numpy(offsets.astype(np.float32)).to(device)
    pixels = torch.arange(TILE, device=device, dtype=torch.float32)
    depth = torch.full((len(met), TILE, TILE), FAR, device=device)
    index = torch.from_numpy(number * seen.places).to(device)[:, None, None].expand(-1, TILE, TILE).contiguous()
    for kind in range(len(KINDS)):
        of_kind = met & (kinds == kind)
        for rows, solids in slots(of_kind):
            where = torch.from_numpy(rows).to(device)
            which = torch.from_numpy(solids + number[rows] * seen.places).to(device)
            near = _depths(seen, kind, which, origin_of_tiles[:, where], pixels)
            before = depth[where]
            closer = near < before
            depth[where] = torch.where(closer, near, before)
            index[where] = torch.where(closer, which[:, None, None], index[where])
    return _untile(depth, seen.views, tiles), _untile(index, seen.views, tiles)


def slots(wanted: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Of a table R×P: rows, and of each of them a column that is wanted; the next time the next one, until all were."""
    counts = wanted.sum(1)
    order = np.argsort(-counts, kind="stable")
    columns = np.argsort(~wanted[order], axis=1, kind="stable")
    for slot in range(int(counts.max(initial=0))):
        n = int((counts > slot).sum())
        yield order[:n], columns[:n, slot]


def _untile(values: Tensor, views: int, tiles: int) -> Tensor:
    tiled = values.reshape(views, tiles, tiles, TILE, TILE).transpose(2, 3)
    return tiled.reshape(views, tiles * TILE, tiles * TILE)


def _depths(seen: World, kind: int, which: Tensor, start: Tensor, pixels: Tensor) -> Tensor:
    """Depths n×T×T at which the rays of n tiles, begun at ``start`` (2×n), enter n solids; infinite if they do not."""
    o = seen.origin[:, which, None, None]
    r = seen.ray[:, :, which]
    at = r[:, 0] * start[0] + r[:, 1] * start[1] + r[:, 2]
    # 3 × n×T×T: the directions, linear in x and y.
    d = [
        (at[i, :, None, None] + r[i, 0, :, None, None] * pixels) + (r[i, 1, :, None, None] * pixels[:, None])
        for i in range(3)
    ]
    return enter(kind, [o[0], o[1], o[2]], d)


def enter(kind: int, o: list[Tensor], d: list[Tensor]) -> Tensor:
    """The ray's parameter at which o + t d enters a solid of a kind; infinite where it misses it or begins within."""
    round_axes = (0, 2, 3)[kind]
    near: Tensor | None = None
    far: Tensor | None = None
    for axis in range(round_axes, 3):
        # A ray along the slab is within it everywhere or nowhere: 0 · ∞ would say neither.
        inverse = d[axis].reciprocal().clamp_(-_STEEP, _STEEP)
        middle, half = -o[axis] * inverse, inverse.abs_()
        first, last = middle - half, middle.add_(half)
        near = first if near is None else torch.maximum(near, first, out=near)
        far = last if far is None else torch.minimum(far, last, out=far)
    if round_axes:
        a = sum((d[i] * d[i] for i in range(1, round_axes)), d[0] * d[0])
        b = sum((d[i] * o[i] for i in range(1, round_axes)), d[0] * o[0])
        c = sum((o[i] * o[i] for i in range(1, round_axes)), o[0] * o[0]) - 1
        root = (b * b).sub_(a * c).sqrt_()  # nan where the ray misses, and nan is not less than anything
        scale = a.reciprocal_()
        first, last = (-b - root).mul_(scale), (root - b).mul_(scale)
        near = first if near is None else torch.maximum(near, first)
        far = last if far is None else torch.minimum(far, last)
    assert near is not None and far is not None
    return near.masked_fill_(~((near <= far) & (near > NEAR)), float("inf"))
