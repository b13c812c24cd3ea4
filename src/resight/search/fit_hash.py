"""A hash function learned from a collection: from its vectors, and from what else a method needs (survey §4.2.4)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resight.describe.describer import Describer
from resight.errors import CollectionError, ImageError, RecipeError
from resight.fitted import PhotoSketch
from resight.geometry.turning import turn
from resight.hashing.function import HashFunction
from resight.hashing.methods import check_bits, fit_method, wanted_method
from resight.images.apart import read_image_apart
from resight.images.image import Image
from resight.recipes.embeddings import GmpStage
from resight.recipes.recipe import Recipe
from resight.search.vectors import StoredVectors, read_vectors
from resight.store.region_log import RegionLog
from resight.store.store import Store

if TYPE_CHECKING:  # it imports torch
    from resight.describe.global_descriptor import GlobalDescriber

ANGLES = (-10.0, -5.0, 5.0, 10.0)  # degrees (Lin et al., CVPR 2016)
_SAMPLE = 20_000
_SAMPLE_OF_SETS = 2000  # whose hundreds of features each are all in memory

Told = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Labels:
    """What photos show. of: a photo's origin → the name of its object. name: of the set, for reports."""

    name: str
    of: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class _Lesson:
    """What a method learns from. stored: the photos that it is of. x, beside: as ``fit_method`` takes them.

    how: in words, what was done with the photos, "" for nothing. options: of the method.
    """

    stored: StoredVectors
    x: NDArray[np.float32] | Sequence[NDArray[np.float32]]
    beside: NDArray[Any] | None = None
    how: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


def fit_hash(
    collection: str | Path,
    method: str,
    bits: int,
    *,
    sample: int | None = None,
    seed: int = 0,
    labels: Labels | None = None,
    angles: Sequence[float] | None = None,
    progress: Told = lambda phase, done, total: None,
) -> HashFunction:
    """The hash function that a method of ``resight.hashing.methods`` learns from a collection's photos.

    sample: photos at most, drawn with the seed; by default 20 000, or 2000 where their local features are learned from.
    labels: for methods that learn from them; only photos that bear one are taken.
    angles: in degrees, by which photos are turned for methods that learn from views; by default ``ANGLES``.
    For views and local features the photos are read and described again; those that cannot be read any more are passed
    over. Regions are those that the collection keeps for [[rerank]].
    Raises RecipeError for labels that are lacking, for labels or angles in vain, and where the recipe of the collection
    does not make what the method learns from; and as ``read_vectors`` and ``fit_method``.
    """
    needs = wanted_method(method).needs
    check_bits(bits)
    if (labels is not None) != (needs == "labels"):
        raise RecipeError(
            f"{method} learns from labelled photos: name a set of them with --labels"
            if labels is None
            else f"{method} learns without labels: leave --labels out, or choose ssdh or siamese"
        )
    if angles is not None and needs != "views":
        raise RecipeError(f"{method} does not turn photos: leave --angles out, or choose deepbit")
    most = sample or (_SAMPLE_OF_SETS if needs == "sets" else _SAMPLE)
    stored = read_vectors(collection, sample=most, seed=seed, among=None if labels is None else labels.of)
    match needs:
        case "vectors":
            lesson = _Lesson(stored, stored.x)
        case "labels":
            lesson = _labelled(stored, labels, collection)
        case "views":
            lesson = _turned(stored, collection, ANGLES if angles is None else angles, progress)
        case "sets":
            lesson = _local(stored, collection, progress)
        case "regions":
            lesson = _regional(stored, collection)
    progress(f"learning {method}", 0, None)
    photos = lesson.stored
    return fit_method(
        method,
        lesson.x,
        bits,
        beside=lesson.beside,
        seed=seed,
        fitted_on=f"{len(photos.x):,} photos of {collection} (seed {seed}){lesson.how}",
        descriptor=photos.fingerprint,
        photos=PhotoSketch.of(photos.digests),
        **lesson.options,
    )


def _labelled(stored: StoredVectors, labels: Labels | None, collection: str | Path) -> _Lesson:
    if labels is None:
        raise ValueError("there are no labels")
    if len(stored.x) < 2:
        raise RecipeError(
            f"{collection}: {len(stored.x)} of its photos are labelled in {labels.name}: index the photos of that set "
            "into it first, from where the set has them"
        )
    return _Lesson(
        stored, stored.x, np.array([labels.of[origin] for origin in stored.origins]), f", labelled in {labels.name}"
    )


def _turned(stored: StoredVectors, collection: str | Path, angles: Sequence[float], progress: Told) -> _Lesson:
    if not angles or not np.isfinite(angles).all():
        raise RecipeError("photos are turned by angles in degrees: name one at least")
    describer = _describer(collection, stored.fingerprint)
    network, kept = _network(describer), list[int]()
    turned = (
        network.prepare(turn(image.pixels, angle))
        for image in _images(stored, describer.recipe, kept, "turning photos", progress)
        for angle in angles
    )
    vectors = list(network.describe_each(turned))
    _check_read(kept, collection)
    views = np.array(vectors, np.float32).reshape(len(kept), len(angles), -1)
    how = f", turned by {', '.join(f'{angle:g}°' for angle in angles)}"
    return _Lesson(stored.take(kept), stored.x[kept], views, how)


def _local(stored: StoredVectors, collection: str | Path, progress: Told) -> _Lesson:
    from resight.describe.learn import prepared_batches

    describer = _describer(collection, stored.fingerprint)
    ridge = _ridge(describer.recipe)
    network, kept, sets = _network(describer), list[int](), list[NDArray[np.float32]]()
    embedder = network.heads[0].embedder
    if embedder is None:
        raise ValueError("the collection was made without an embedding")
    images = _images(stored, describer.recipe, kept, "reading local features", progress)
    for batch in prepared_batches(network, images):
        (features,) = network.features(batch)
        sets += [embedder.reduced(np.concatenate(scales)) for scales in features]
    _check_read(kept, collection)
    return _Lesson(stored.take(kept), sets, how=", from their local features", options={"ridge": ridge})


def _regional(stored: StoredVectors, collection: str | Path) -> _Lesson:
    with Store(Path(collection), write=False) as store:
        levels = store.recipe.region_levels
        if not levels:
            raise RecipeError(
                f"{collection}: recipe {store.recipe.name} keeps no regions: choose one with a table [[rerank]] of "
                'method = "patches"'
            )
        # The finest grid has the squares of the others too.
        ids, _, vectors = RegionLog(store.data, levels[-1], stored.x.shape[1]).rows(stored.ids)
    regions = np.split(vectors, np.flatnonzero(np.diff(ids)) + 1)
    return _Lesson(stored, regions, how=f", {len(vectors):,} regions of them")


def _ridge(recipe: Recipe) -> float:
    """Of ``gmp``; RecipeError unless an image's vector is that of its features and nothing else."""
    stage = recipe.global_
    if (
        stage is None
        or stage.also
        or not isinstance(stage.embedding, GmpStage)
        or stage.weighted
        or (stage.whiten, stage.power) != ("none", 1)
    ):
        raise RecipeError(
            f"recipe {recipe.name}: SAH learns from how local features are aggregated, so [global] must have one "
            'branch with embedding = { kind = "gmp" }, whiten = "none", power = 1 and no attention that weighs '
            "positions: see `resight recipes show sah`"
        )
    return stage.embedding.ridge


def _describer(collection: str | Path, fingerprint: str) -> Describer:
    """What described a collection's images. Raises CollectionError where weights or learned parts have changed."""
    with Store(Path(collection), write=False) as store:
        describer = Describer(store.recipe)
    if describer.fingerprint != fingerprint:
        raise CollectionError(
            f"{collection}: was described with other weights or learned parts than its recipe names now: put these "
            "back, or index its photos again into another folder"
        )
    return describer


def _network(describer: Describer) -> "GlobalDescriber":
    network = describer.network
    if network is None:
        raise ValueError("the recipe has no network")
    return network


def _images(stored: StoredVectors, recipe: Recipe, kept: list[int], phase: str, progress: Told) -> Iterator[Image]:
    """The photos that can be read, as they were described. kept: gets their places."""
    for place, origin in enumerate(stored.origins):
        try:
            image = read_image_apart(origin, max_side=recipe.image.max_side)
        except ImageError:
            continue
        finally:
            progress(phase, place + 1, len(stored.origins))
        kept.append(place)
        yield image


def _check_read(kept: Sequence[int], collection: str | Path) -> None:
    if len(kept) < 2:
        raise RecipeError(
            f"{collection}: {len(kept)} of its photos can still be read, and the method reads them again: put them back"
        )
