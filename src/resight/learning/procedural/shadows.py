"""Where solids stand between a point and the sun."""

import numpy as np
import torch
from torch import Tensor

from resight.learning.procedural.casting import FAR, enter, slots
from resight.learning.procedural.hits import Hits
from resight.learning.procedural.solids import KINDS

_CASTS = 3.0
"""Solids that extend farther from their middle, as floors and walls do, throw no shadow."""


def sunlit(hits: Hits) -> Tensor:
    """V×H×W float32: 0 where a solid stands between the point and the sun, 1 elsewhere and where there is no shadow."""
    views, seen = hits.views, hits.seen
    casts = np.zeros((len(views), seen.places), bool)
    kinds = np.zeros_like(casts, dtype=np.int64)
    for number, view in enumerate(views):
        shadows = view.light.shadows and any(view.light.sun)
        kinds[number, : len(view.solids)] = [KINDS.index(s.kind) for s in view.solids]
        casts[number, : len(view.solids)] = [shadows and s.half.max() < _CASTS for s in view.solids]
    # The sun's direction in the unit frames: the ray's parameter is a length here.
    towards = hits.table([np.stack([s.axes @ np.array(v.light.towards) / s.half for s in v.solids]) for v in views])
    lit = torch.ones_like(hits.depth)
    for kind in range(len(KINDS)):
        for rows, places in slots(casts & (kinds == kind)):
            where = torch.from_numpy(rows).to(hits.device)
            which = torch.from_numpy(rows * seen.places + places).to(hits.device)
            r, o = seen.ray[:, :, which, None, None], seen.origin[:, which, None, None]
            depth = hits.depth[where]
            at = [o[i] + depth * (r[i, 0] * hits.x + r[i, 1] * hits.y + r[i, 2]) for i in range(3)]
            # What is nearer than the nearest that is seen, as the surface itself, stops nothing.
            stopped = enter(kind, at, list(towards[which].T[:, :, None, None])) < FAR
            lit[where] = lit[where].masked_fill(stopped, 0.0)
    return lit
