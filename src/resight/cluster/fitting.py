"""Learning from all shards of a collection: each is read where a task runs, and only what was asked for comes back."""

from collections.abc import Sequence
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from resight.cluster.engine import in_order
from resight.cluster.files import Files
from resight.cluster.manifest import existing_manifest
from resight.cluster.shards import opened
from resight.errors import CollectionError
from resight.projection.covariance import RunningCovariance
from resight.projection.pca import pca, pca_whitening
from resight.projection.projection import Projection
from resight.recipes.recipe import Recipe
from resight.store.indexing import Sample, draw
from resight.store.store import read_features
from resight.store.vector_indexing import dimension, draw_images, vector_blocks

_Array = NDArray[np.uint8 | np.int8 | np.float32]


def sample_over(url: str, recipe: Recipe, shards: Sequence[str], seed: int) -> Sample:
    """The descriptors that one machine with all images would draw for a codebook, in its order."""
    local = recipe.local
    if local is None:
        raise ValueError("the recipe has no local features")
    with closing(in_order(feature_counts, ((url, name) for name in shards))) as found:
        counts = [table.reshape(-1, 2) for table in found]
    number = np.repeat(np.arange(len(shards)), [len(table) for table in counts])
    table = np.concatenate([np.empty((0, 2), np.int64), *counts])
    order = np.argsort(table[:, 0], kind="stable")
    drawn = draw(table[order, 1].tolist(), seed)
    ends = np.cumsum([len(rows) for rows in drawn])
    sample = np.empty((int(ends[-1]) if len(ends) else 0, local.dimension), local.stored)
    mine = [np.flatnonzero(number[order] == shard) for shard in range(len(shards))]
    arguments = (
        (url, name, table[order[places], 0].tolist(), [drawn[place] for place in places])
        for name, places in zip(shards, mine, strict=True)
    )
    with closing(in_order(drawn_descriptors, arguments)) as parts:
        for places, part in zip(mine, parts, strict=True):
            rows = [np.arange(ends[place] - len(drawn[place]), ends[place]) for place in places]
            sample[np.concatenate([np.empty(0, np.int64), *rows])] = part
    return sample, len(table)


def feature_counts(url: str, shard: str) -> NDArray[np.int64]:
    """N×2: a shard's images, by id, and how many local features each has. Runs on a node."""
    with opened(Files(url), shard) as store:
        return store.catalogue.table("SELECT id, features FROM images ORDER BY id", columns=2)


def drawn_descriptors(url: str, shard: str, images: list[int], rows: list[NDArray[np.int64]]) -> _Array:
    """The descriptors in some rows of each of a shard's images, one after the other. Runs on a node."""
    with opened(Files(url), shard) as store:
        stage, log = store.recipe.local, store.features_log()
        if stage is None:
            raise ValueError("the recipe has no local features")
        places = {
            image: (at, count)
            for image, at, count in store.catalogue.rows("SELECT id, features_at, features FROM images")
        }
        parts = [
            read_features(log, *places[image], stage).descriptors[take]
            for image, take in zip(images, rows, strict=True)
            if len(take)
        ]
    return np.concatenate([np.empty((0, stage.dimension), stage.stored), *parts])


def vectors_over(url: str, recipe: Recipe, shards: Sequence[str], count: int, seed: int) -> NDArray[np.float32]:
    """The global descriptors, `count` at most, that one machine with all images would draw, in its order; S×D."""
    if recipe.global_ is None:
        raise ValueError("the recipe has no global descriptor")
    with closing(in_order(images_with_vectors, ((url, name) for name in shards))) as found:
        tables = [table.reshape(-1, 2) for table in found]
    table = np.concatenate([np.empty((0, 2), np.int64), *tables])
    table = table[np.argsort(table[:, 0])]
    drawn = table[draw_images(table[:, 1] > 0, count, seed), 0]
    sample = np.empty((len(drawn), sum(recipe.global_.lengths)), np.float32)
    mine = [np.isin(drawn, own[:, 0]) for own in tables]
    arguments = ((url, name, drawn[own]) for name, own in zip(shards, mine, strict=True))
    with closing(in_order(drawn_vectors, arguments)) as parts:
        for own, part in zip(mine, parts, strict=True):
            sample[own] = part
    return sample


def images_with_vectors(url: str, shard: str) -> NDArray[np.int64]:
    """N×2: a shard's images, by id, and 1 where they have a global descriptor, else 0. Runs on a node."""
    with opened(Files(url), shard) as store:
        return store.catalogue.table("SELECT id, vector_at IS NOT NULL FROM images ORDER BY id", columns=2)


def drawn_vectors(url: str, shard: str, images: NDArray[np.int64]) -> NDArray[np.float32]:
    """The global descriptors of some of a shard's images, by ascending id. Runs on a node."""
    with opened(Files(url), shard) as store:
        snapshot = store.snapshot()
        part = snapshot.take(snapshot.positions(images))
        empty = np.empty((0, dimension(store)), np.float32)
        return np.concatenate([empty, *(vectors for _, vectors in vector_blocks(store, part))])


def fit_pca_over(
    url: str, dimensions: int, *, descriptor: str, whiten: bool = False, ridge: float = 10.0
) -> Projection:
    """PCA, or PCA-whitening, of the global descriptors of all shards, on the cluster that was joined.

    Each shard is reduced to its mean and scatter, which are merged: up to rounding the same as from one stream.
    descriptor, ridge and what is raised: as ``resight.projection.pca``; also CollectionError where the recipe has no
    global descriptor.
    """
    files = Files(url)
    manifest = existing_manifest(files)
    if manifest.recipe.global_ is None:
        raise CollectionError(f"{files.url}: recipe {manifest.recipe.name} has no global descriptors to learn from")
    moments = RunningCovariance()
    with closing(in_order(moments_of, ((files.url, name) for name in manifest.shards))) as parts:
        for part in parts:
            moments.merge(part)
    fitted_on = f"{files.url}, {moments.n:,} images"
    if whiten:
        return pca_whitening(moments, dimensions, fitted_on=fitted_on, descriptor=descriptor, ridge=ridge)
    return pca(moments, dimensions, fitted_on=fitted_on, descriptor=descriptor)


def moments_of(url: str, shard: str) -> RunningCovariance:
    """Mean and scatter of a shard's global descriptors. Runs on a node."""
    moments = RunningCovariance()
    with opened(Files(url), shard) as store:
        for _, vectors in vector_blocks(store, store.snapshot()):
            moments.update(vectors)
    return moments
