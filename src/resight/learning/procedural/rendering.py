"""Pictures of scenes, and where the points that they show lie in each other."""

from collections.abc import Sequence

from torch import Tensor

from resight.learning.procedural.casting import cast, world
from resight.learning.procedural.hits import Hits
from resight.learning.procedural.shading import shaded
from resight.learning.procedural.textures import Textures
from resight.learning.procedural.views import View


def draw(
    views: Sequence[View], starts: Sequence[int], textures: Textures, side: int, device: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pictures of V views, of which each two in turn are of one scene, and their correspondences.

    starts: of each view the texture that its solids' number 0 is. Gives the light V×3×H×W float32, linear, not bounded;
    edges V×H×W bool, pixels that show another face than one beside them; warp V×H×W×2 float32 and visible V×H×W bool
    as in ``Scenes``.
    """
    seen = world([v.camera for v in views], [v.solids for v in views], device)
    depth, index = (part[:, :side, :side] for part in cast(seen, side))
    hits = Hits(views, seen, depth, index)
    warp, visible = hits.correspondences()
    return shaded(hits, starts, textures), hits.edges(), warp, visible
