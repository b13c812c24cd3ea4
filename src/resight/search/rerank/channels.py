"""Re-ranking by deep spatial matching, DSM: how many features of the same channels one affine map aligns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from resight.describe.description import Description
from resight.geometry.boxes import Box
from resight.geometry.homography import corners, project
from resight.local.dsm import ChannelFeatures, match_channels
from resight.search.examples import DescribedExample
from resight.search.ranking import Evidence, Ranking
from resight.search.rerank.matching import by_inliers, features_of


@dataclass(frozen=True, eq=False)
class ChannelReranker:
    """Re-orders the first `depth` images of a ranking by inliers, and those with as many as they were.

    descriptions: by image id, with DSM's features. max_error, max_scale_change: as ``match_channels`` takes them.
    """

    descriptions: Mapping[int, Description]
    depth: int = 100
    max_error: float = 2.0
    max_scale_change: float = 3.0

    def rerank(self, examples: Sequence[DescribedExample], ranking: Ranking) -> Ranking:
        """Scores are inliers. Of several examples as ``best_evidence`` has it; QueryError without features."""
        results = [self.descriptions[image] for image in ranking.ids[: self.depth].tolist()]
        each = [[self._evidence(e.description, e.box, result) for result in results] for e in examples]
        return by_inliers(each, examples, ranking)

    def _evidence(self, query: Description, box: Box | None, result: Description) -> Evidence:
        """The outline is of the box, or of the whole query: its regions are too large to cover anything closely."""
        asked, held = (ChannelFeatures.unpacked(features_of(side)) for side in (query, result))
        found = match_channels(asked, held, max_error=self.max_error, max_scale_change=self.max_scale_change)
        matches = int(np.isin(asked.channel, held.channel).sum())
        points = asked.xy[found.query], held.xy[found.result]
        if found.affine is None:
            return Evidence(0, matches, None, None, None, *points)
        homography = np.vstack([found.affine, [0.0, 0.0, 1.0]])
        width, height = query.size
        outline = project(homography, corners(box or (0.0, 0.0, float(width), float(height)))).astype(np.float32)
        low, high = (np.clip(edge, 0, result.size) for edge in (outline.min(axis=0), outline.max(axis=0)))
        inside = (high - low >= 1).all()
        shown = (float(low[0]), float(low[1]), float(high[0]), float(high[1])) if inside else None
        return Evidence(len(found), matches, homography, outline, shown, *points)
