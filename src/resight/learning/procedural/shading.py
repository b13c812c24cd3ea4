"""The colours of surfaces, by their textures and the light."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from resight.learning.procedural.camera import Vector
from resight.learning.procedural.hits import Hits, away_from, both_ways, dot
from resight.learning.procedural.shadows import sunlit
from resight.learning.procedural.solids import mapping
from resight.learning.procedural.textures import Textures, sample
from resight.learning.procedural.views import View

_SHARPNESS = 5  # of highlights: Blinn's exponent is 2 to this power


def shaded(hits: Hits, starts: Sequence[int], textures: Textures) -> Tensor:
    """V×3×H×W float32, linear. starts: of each view the texture that its solids' number 0 is."""
    views = hits.views
    tables = [_faces(v, start, textures) for v, start in zip(views, starts, strict=True)]
    rows = hits.looked_up(_columns(hits, [flat for flat, _ in tables]), hits.face)
    u, v = (hits.depth * (rows[i] * hits.x + rows[i + 1] * hits.y + rows[i + 2]) + rows[i + 3] for i in (0, 4))
    density, gloss, lit, height, half = rows[8:]
    slant = (half * hits.along).mul_(hits.shortening)
    _bend(hits, _columns(hits, [curved for _, curved in tables]), (u, v, lit, height, slant))
    focal = hits.of_views([[view.camera.focal] for view in views])[:, 0]
    # Between the side of what a pixel sees across the slope and down it.
    footprint = density * hits.depth / (focal * slant.clamp(min=0.02).sqrt_())
    own = _sampled(hits, starts, textures, u, v, footprint)
    lights = hits.of_views([[*view.light.ambient, *view.light.sun, view.light.ground] for view in views])
    above = torch.where(hits.some, (1 + height + (1 - height) * lights[:, 6]) / 2, 1.0)
    suns = [view.light for view in views if any(view.light.sun)]
    if not suns:
        return torch.stack([own[c] * own[c] * (above * lights[:, c]) for c in range(3)], dim=1)
    lit = lit.clamp(min=0) * hits.some
    if any(light.shadows for light in suns):
        lit = lit * sunlit(hits)
    shine = _shine(hits, lit, slant) * gloss
    channels = []
    for c in range(3):
        ambient, sun = lights[:, c], lights[:, 3 + c]
        channels.append(own[c] * own[c] * (above * ambient + lit * sun) + shine * sun)
    return torch.stack(channels, dim=1)


def _shine(hits: Hits, lit: Tensor, slant: Tensor) -> Tensor:
    """V×H×W: highlights as by Blinn (SIGGRAPH 1977), of surfaces that the light reaches.

    n, l, e being the normal and the directions to the light and the eye, n·(l + e) = n·l + n·e, |l + e|² = 2 + 2 l·e.
    """
    m = hits.of_views([v.camera.rays.T @ np.array(v.light.towards) for v in hits.views])
    both = 2 - 2 * (m[:, 0] * hits.x + m[:, 1] * hits.y + m[:, 2]) * hits.shortening
    shine = ((lit + slant) * both.clamp_(min=1e-6).rsqrt_()).clamp_(0, 1)
    for _ in range(_SHARPNESS):
        shine = shine * shine
    return shine * (lit > 0)


def _bend(hits: Hits, curved: Tensor, flat: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]) -> None:
    """Puts the values of curved surfaces in place of those of flat ones: u, v, cosines with the light, the vertical,
    the eye. curved: 13×(V·P·6), as the second table of ``_faces``.
    """
    if not len(hits.bent):
        return
    of_solids = [
        np.stack([np.concatenate([s.half, s.axes @ np.array(v.light.towards), s.axes[:, 2]]) for s in v.solids])
        for v in hits.views
    ]
    per_solid = hits.looked_up(_columns(hits, of_solids), hits.solid)
    half, towards, up = per_solid[:3], per_solid[3:6], per_solid[6:]
    normal = hits.outwards / half
    normal = normal * dot(normal, normal).rsqrt_()
    x, y, z = hits.point
    x = torch.atan2(x, -y) / math.pi
    z = torch.where(hits.kind == 2, torch.asin(z.clamp(-1, 1)) * (2 / math.pi), z)
    rows = hits.looked_up(curved, hits.solid * 6 + 3)
    values = (
        rows[0] * x - rows[1] + rows[2] * z + rows[3],
        rows[4] * x - rows[5] + rows[6] * z + rows[7],
        dot(normal, towards),
        dot(normal, up),
        -dot(normal, hits.ray * half) * hits.shortening.reshape(-1)[hits.bent],
    )
    for target, value in zip(flat, values, strict=True):
        target.view(-1)[hits.bent] = value


def _sampled(
    hits: Hits, starts: Sequence[int], textures: Textures, u: Tensor, v: Tensor, footprint: Tensor
) -> tuple[Tensor, ...]:
    """Red, green, blue in [0, 1], V×H×W; of the sky, by the direction, where there is no surface."""
    views, device = hits.views, hits.device
    which = np.zeros((len(views), hits.seen.places, 6), np.int64)
    for numbers, view, first in zip(which, views, starts, strict=True):
        numbers[: len(view.solids)] = [[first + f.texture for f in s.faces] for s in view.solids]
    texture = torch.from_numpy(which.reshape(-1)).to(device)[hits.face]
    miss = ~hits.some
    if miss.any():
        n, row, column = miss.nonzero(as_tuple=True)
        m = torch.from_numpy(np.stack([view.camera.rays for view in views]).astype(np.float32)).to(device)[n]
        dx, dy, dz = (m[:, i, 0] * column + m[:, i, 1] * row + m[:, i, 2] for i in range(3))
        u[miss] = torch.atan2(dx, dy) / math.pi
        v[miss] = 0.5 - torch.atan2(dz, (dx * dx + dy * dy).sqrt_()) / math.pi
        texture[miss] = torch.tensor([s + view.sky for s, view in zip(starts, views, strict=True)], device=device)[n]
        footprint[miss] = 1.0
    start, bits = (torch.from_numpy(a).to(device)[texture] for a in (textures.start, textures.bits))
    return sample(textures.texels, start, bits, u, v, footprint)


def _faces(view: View, start: int, textures: Textures) -> tuple[Vector, Vector]:
    """P×6×13 of a view's flat faces: u by depth · (x, y, 1) and 1, v likewise; texels to a unit of length; gloss;
    cosines of the normal with the light and the vertical; half of the solid's extent along it. And the same
    but u and v by the unit frame's (x, y, z, 1).
    """
    solids = view.solids
    across, down, density = mapping(solids)
    sides = 2.0 ** textures.bits[[[start + f.texture for f in s.faces] for s in solids]]
    gloss = np.array([[f.gloss for f in s.faces] for s in solids])
    axes, half = np.stack([s.axes for s in solids]), np.stack([s.half for s in solids])
    cosines = [both_ways(axes @ np.array(direction)) for direction in (view.light.towards, (0, 0, 1))]
    rest = np.stack([density * sides, gloss, *cosines, half.repeat(2, axis=1)], axis=2)
    rays, origin = axes / half[:, :, None] @ view.camera.rays, away_from(solids, view.camera)[:, :, None]
    seen = [np.concatenate([m[..., :3] @ rays, m[..., :3] @ origin + m[..., 3:]], axis=2) for m in (across, down)]
    return np.concatenate([*seen, rest], axis=2), np.concatenate([across, down, rest], axis=2)


def _columns(hits: Hits, rows: Sequence[Vector]) -> Tensor:
    """K×M of arrays …×K for each view."""
    return hits.table(rows).reshape(-1, rows[0].shape[-1]).T.contiguous()
