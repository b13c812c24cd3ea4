"""Regions of a collection's images, described one by one for [[rerank]]: squares of R-MAC's grid, as if queries.

A collection keeps one vector an image. What a small object needs, and regional diffusion walks on, is one a region
(Razavian et al., CVPR Workshops 2014; Iscen et al., CVPR 2017, §4.2); the whole image is the first of them.
"""

from collections.abc import Callable

import numpy as np

from resight.describe.describer import Describer
from resight.errors import ImageError
from resight.geometry.boxes import Box
from resight.geometry.regions import rigid_grid
from resight.search.searcher import Searcher
from resight.store.indexing import Progress
from resight.store.region_log import RegionLog
from resight.store.store import Store, writing


def grid(size: tuple[int, int], levels: int) -> list[Box]:
    """The squares of R-MAC's grid in an image of (width, height) pixels that are at least a pixel wide."""
    squares = rigid_grid(*size, levels).astype(np.float64)
    squares[:, 2:] = np.minimum(squares[:, 2:], size)
    sides = squares[:, 2:] - squares[:, :2]
    return [(x1, y1, x2, y2) for x1, y1, x2, y2 in squares[(sides >= 1).all(axis=1)].tolist()]


def describe_regions(
    store: Store, describer: Describer, searcher: Searcher, levels: int, progress: Callable[[Progress], None]
) -> None:
    """Describe the regions of images that have none yet, from their photos, which are read again.

    searcher: of the store's present state. An image whose photo cannot be read any more keeps its whole as its only
    region. What is done is kept when this is interrupted. Raises CollectionError where it cannot be written.
    """
    snapshot = searcher.snapshot
    log = RegionLog(store.data, levels, sum(store.recipe.global_.lengths) if store.recipe.global_ else 0)
    described = snapshot.vectors_at >= 0
    todo = np.flatnonzero(described & ~np.isin(snapshot.ids, log.ids()))
    if len(todo) == 0:
        return
    origins = dict(store.catalogue.rows("SELECT id, origin FROM images"))
    with writing(store.folder), log.writer() as writer:
        for done, position in enumerate(todo.tolist(), 1):
            image, vector = int(snapshot.ids[position]), searcher.stored(position).global_descriptor
            if vector is None:
                raise ValueError(f"image {image} has no global descriptor")
            width, height = (int(v) for v in snapshot.sizes[position])
            boxes, vectors = [(0.0, 0.0, float(width), float(height))], vector[None]
            squares = grid((width, height), levels)
            try:
                vectors = np.concatenate([vectors, describer.describe_regions(origins[image], squares)])
                boxes += squares
            except ImageError:
                pass  # its photo is gone; the collection still answers with what it knows of it
            writer.add(image, boxes, vectors)
            progress(Progress("describing regions", done, len(todo)))
