"""Points of surfaces that pixels show, and where these lie in another picture."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resight.learning.procedural.camera import Camera, Vector, transfer
from resight.learning.procedural.casting import FAR, World
from resight.learning.procedural.solids import Solid
from resight.learning.procedural.views import View


class Hits:
    """Of each pixel the point of a solid's surface that it shows. Tensors are V×H×W.

    What is the same all over a flat face is looked up for it; what varies over a curved one is worked out for the few
    pixels that show one (``bent``, their places in a flattened tensor).
    """

    def __init__(self, views: Sequence[View], seen: World, depth: Tensor, index: Tensor) -> None:
        self.views, self.seen = views, seen
        self.device = depth.device
        self.depth, self.index = depth.contiguous(), index.contiguous()
        self.some = self.depth < FAR
        side = depth.shape[1]
        self.x = torch.arange(side, device=self.device, dtype=torch.float32)
        self.y = self.x[:, None]
        o = self.looked_up(seen.origin, self.index)
        r = self.looked_up(seen.ray.reshape(9, -1), self.index)
        ray = torch.stack([r[3 * i] * self.x + r[3 * i + 1] * self.y + r[3 * i + 2] for i in range(3)])
        # A ray along a slab has always been in it.
        entered = torch.where(ray == 0, -torch.inf, -(o + ray.sign()) / ray)
        kind = seen.kind[self.index]
        axis = torch.where(entered[1] > entered[0], 1, 0)
        axis = torch.where(entered[2] > torch.maximum(entered[0], entered[1]), 2, axis)
        # A box is entered through the last of its slabs; a cylinder through its top or bottom if at that slab's depth.
        cap = (kind == 1) & (entered[2] >= self.depth * (1 - 1e-5))
        axis = torch.where(cap, 2, axis)
        along = ray.gather(0, axis[None])[0]
        curved = (kind > 0) & ~cap
        self.face = self.index * 6 + torch.where(curved, 3, 2 * axis + (along > 0))
        self.bent = (curved & self.some).reshape(-1).nonzero()[:, 0]
        self.solid = self.index.reshape(-1)[self.bent]
        self.kind = kind.reshape(-1)[self.bent]
        self.ray = ray.reshape(3, -1)[:, self.bent]
        self.point = o.reshape(3, -1)[:, self.bent] + self.depth.reshape(-1)[self.bent] * self.ray
        # Outwards, in the unit frame: the gradient of the solid's equation.
        self.outwards = torch.stack([*self.point[:2], torch.where(self.kind == 1, 0.0, self.point[2])])
        # One over the length of the pixel's ray whose depth is 1.
        rays = self.of_views([v.camera.rays.ravel() for v in views])
        world_ray = [rays[:, 3 * i] * self.x + rays[:, 3 * i + 1] * self.y + rays[:, 3 * i + 2] for i in range(3)]
        self.shortening = dot(world_ray, world_ray).rsqrt_()
        self.along = along.abs_()

    def edges(self) -> Tensor:
        """V×H×W: pixels that show another face than the one to the left, right, above or below."""
        shown = torch.where(self.some, self.face, -1)
        across, down = shown[:, :, 1:] != shown[:, :, :-1], shown[:, 1:] != shown[:, :-1]
        edges = torch.zeros_like(self.some)
        edges[:, :, 1:] |= across
        edges[:, :, :-1] |= across
        edges[:, 1:] |= down
        edges[:, :-1] |= down
        return edges

    def correspondences(self) -> tuple[Tensor, Tensor]:
        """Warp V×H×W×2 float32 and visible V×H×W bool, as in ``Scenes``; each two views in turn are of one scene.

        All solids are convex, so a point is visible in the other view exactly where its face is turned to that camera
        and no other solid is before it. The latter is read off the other picture, at the nearest pixel: it is right to
        half a pixel, and needs no tolerance of depths.
        """
        views, side = self.views, self.depth.shape[1]
        others = [views[i ^ 1] for i in range(len(views))]
        maps = [transfer(v.camera, w.camera) for v, w in zip(views, others, strict=True)]
        m, s = self.of_views([matrix.ravel() for matrix, _ in maps]), self.of_views([shift for _, shift in maps])
        xw, yw, z = (
            self.depth * (m[:, 3 * i] * self.x + m[:, 3 * i + 1] * self.y + m[:, 3 * i + 2]) + s[:, i] for i in range(3)
        )
        before = z > 1e-3
        inverse = torch.where(before, z, 1e-3).reciprocal_()
        limit = 16.0 * side  # of what lies nearly beside the camera; no pixel is there
        x, y = xw.mul_(inverse).clamp_(-limit, limit), yw.mul_(inverse).clamp_(-limit, limit)
        column, row = ((a + 0.5).floor_() for a in (x, y))
        inside = before & (column >= 0) & (row >= 0) & (column < side) & (row < side)
        column, row = (a.clamp_(0, side - 1).to(torch.int64) for a in (column, row))
        number = torch.arange(len(views), device=self.device)[:, None, None]
        place = torch.where(self.some, self.index - number * self.seen.places, -1)
        pixel = ((number ^ 1) * side + row).mul_(side).add_(column)
        there = place.reshape(-1).index_select(0, pixel.reshape(-1)).reshape(place.shape)
        common = torch.tensor([v.common for v in views], device=self.device)[:, None, None]
        away = [away_from(v.solids, w.camera) for v, w in zip(views, others, strict=True)]
        # A flat face is turned to the camera if that is beyond its plane in the unit frame.
        flat = self.table([both_ways(a) > 1 for a in away]).reshape(-1) > 0
        turned = flat[self.face]
        beyond = self.looked_up(self.table(away).T.contiguous(), self.solid) - self.point
        turned.view(-1)[self.bent] = dot(self.outwards, beyond) > 0
        visible = inside & (place >= 0) & (place < common) & (there == place) & turned
        return torch.stack([x, y], dim=-1), visible

    def of_views(self, values: Sequence[Sequence[float] | Vector]) -> Tensor:
        """V×K×1×1 float32 of K numbers for each view."""
        return torch.from_numpy(np.array(values, np.float32)).to(self.device)[:, :, None, None]

    def looked_up(self, table: Tensor, at: Tensor) -> Tensor:
        """K×… of K×M."""
        return table.index_select(1, at.reshape(-1)).reshape(len(table), *at.shape)

    def table(self, rows: Sequence[NDArray[np.generic]]) -> Tensor:
        """(V·P)×… float32 of an array P'×… for each view."""
        full = np.zeros((self.seen.views, self.seen.places, *rows[0].shape[1:]), np.float32)
        for view, row in enumerate(rows):
            full[view, : len(row)] = row
        return torch.from_numpy(full.reshape(-1, *full.shape[2:])).to(self.device)


def away_from(solids: Sequence[Solid], camera: Camera) -> Vector:
    """P×3: a camera's position in the unit frames."""
    return np.stack([(s.axes @ (camera.position - s.centre)) / s.half for s in solids])


def both_ways(values: Vector) -> Vector:
    """P×6 of P×3: along x, against it, along y …"""
    return np.stack([values, -values], axis=2).reshape(len(values), 6)


def dot(a: Sequence[Tensor] | Tensor, b: Sequence[Tensor] | Tensor) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
