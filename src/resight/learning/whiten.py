"""The whitening of a trained recipe, learned from the photos that it was trained on (survey §4.2, §5.1)."""

import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import tomli_w
from numpy.typing import ArrayLike, NDArray

from resight.describe.describer import Describer
from resight.describe.fit import fit_whitenings
from resight.describe.learn import prepared_batches
from resight.errors import RecipeError
from resight.files import replacing
from resight.fitted import PhotoSketch
from resight.hashing.labels import pairs_of
from resight.images.image import Image
from resight.images.read import digest, load
from resight.projection.learned_whitening import learned_whitening_of_pairs
from resight.projection.projection import Projection
from resight.recipes.network_stages import GlobalStage
from resight.recipes.recipe import load_recipe

if TYPE_CHECKING:
    from resight.learning.datasets.photos import Photo, TrainingSet

Told = Callable[[str, int, int | None], None]  # phase, done, total
How = Literal["learned", "pca", "none"]

RIDGE = 0.01
"""Of "learned", where nothing else is asked for."""
_PAIRS = 100_000


def whiten(
    folder: Path,
    learned: "TrainingSet",
    *,
    how: How = "learned",
    seed: int = 0,
    dimensions: int = 0,
    photos: int = 5000,
    pairs: int = _PAIRS,
    ridge: float = RIDGE,
    progress: Told = lambda phase, done, total: None,
) -> Projection | None:
    """Learn a written recipe's whitening by its own describer, at all its scales, and put it into its folder.

    learned: the photos that the recipe was trained on; at most ``photos`` of them are read, and so many pairs used,
        drawn with the seed.
    how: "learned" from pairs of photos of one object (Lw; Radenović et al., TPAMI 2019); "pca", which is what the
        recipe's `projection` names; or "none", for which the recipe becomes one with whiten = "none".
    dimensions: after it; 0 for the recipe's, or as many as the descriptor has where these are fewer.
    ridge: of "learned", as ``learned_whitening`` takes it; "pca" has the recipe's.
    A recipe that has its whitening, as by a projection, or says whiten = "none", is left as it is. None is returned
    where nothing is learned.
    Raises RecipeError as ``check_photos``, and where photos are of one object or vary too little; ImageError for one
    that cannot be read.
    """
    recipe = load_recipe(folder)
    stage = recipe.global_
    if stage is None:
        raise RecipeError(f"{folder}: recipe {recipe.name} has no [global] table to whiten")
    if stage.whitening or stage.whiten == "none":
        return None
    describer = Describer(recipe)
    network = describer.network
    if network is None:
        raise ValueError("the recipe has no network")
    length = len(network.raw(_blank(stage.max_side)))
    if how == "none":
        _rewrite(folder, {"whiten": "none", "dimensions": length})
        return None
    dimensions = min(dimensions or stage.dimensions, length)
    if dimensions != stage.dimensions:
        describer = Describer(
            recipe.model_copy(update={"global_": stage.model_copy(update={"dimensions": dimensions})})
        )
        network = describer.network or network
    chosen = drawn(learned.photos, photos, seed)
    check_photos(stage, len(chosen), learned.name, how, dimensions=dimensions)
    digests: list[str] = []
    images = read_photos(describer, chosen, digests, progress)
    if how == "pca":
        text = f"{len(chosen):,} photos of {learned.name}, which the network was trained on"
        (whitening,) = fit_whitenings(network, images, text)
    else:
        first, second = matching_pairs([photo.label for photo in chosen], learned.name, seed, pairs)
        whitening = learned_whitening_of_pairs(
            np.concatenate([network.samples(batch)[0] for batch in prepared_batches(network, images)]),
            first,
            second,
            dimensions,
            fitted_on=f"{len(first):,} matching pairs of {learned.name}, which the network was trained on",
            descriptor=network.raw_fingerprints[0],
            ridge=ridge,
        )
    whitening = replace(whitening, photos=PhotoSketch.of(digests))
    whitening.save(folder / "whitening.safetensors")
    _rewrite(folder, {"whitening": "whitening.safetensors", "dimensions": dimensions})
    return whitening


def check_photos(stage: GlobalStage, photos: int, name: str, how: How, *, dimensions: int = 0) -> None:
    """Raises RecipeError where a whitening cannot be learned so, of so many photos; what to ask before a training.

    name: of the photos' set. dimensions: after it; 0 for the recipe's.
    """
    if how == "none" or stage.whiten == "none":
        return
    if how == "learned" and stage.whiten != "image":
        raise RecipeError(
            f'{name}: the recipe whitens by {stage.whiten}, of which no pairs match: choose whitening "pca"'
        )
    wanted = dimensions or stage.dimensions
    if photos <= wanted and stage.whiten == "image":
        raise RecipeError(
            f"{name}: a whitening of {wanted} dimensions is learned from more photos than that, and here are {photos}: "
            f'choose fewer dimensions, such as {max(2, photos // 2)}, or whitening "none", or give more photos'
        )


def drawn(photos: Sequence["Photo"], most: int, seed: int) -> list["Photo"]:
    """At most so many photos, in their order; those of an object are drawn together, so that they make pairs."""
    if len(photos) <= most:
        return list(photos)
    labels = np.array([photo.label for photo in photos])
    kept = np.zeros(len(photos), np.bool_)
    for label in np.random.default_rng(seed).permutation(np.unique(labels)):
        own = np.flatnonzero(labels == label)
        kept[own[: most - int(kept.sum())]] = True
    return [photo for photo, keep in zip(photos, kept, strict=True) if keep]


def matching_pairs(
    shown: ArrayLike, name: str, seed: int, most: int = _PAIRS
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places in labels (N,) of a set's photos, of which the m-th of each are of one object; at most so many, drawn.

    Raises RecipeError where all are of one object.
    """
    labels = np.unique(shown, return_inverse=True)[1].astype(np.int64)
    if labels.max() == 0:
        raise RecipeError(f"{name}: photos of one object teach no whitening: give photos of several")
    pairs, match = pairs_of(labels, seed=seed, most=most)
    first, second = pairs[match].T
    return first, second


def read_photos(describer: Describer, photos: Sequence["Photo"], digests: list[str], progress: Told) -> Iterator[Image]:
    """The photos, or the parts of them that are asked about, as queries are read."""
    for done, photo in enumerate(photos, 1):
        digests.append(digest(load(str(photo.path))))
        yield describer.read(photo.path, photo.box)[0]
        progress("learning the whitening", done, len(photos))


def _blank(side: int) -> NDArray[np.uint8]:
    return np.zeros((min(side, 224), min(side, 224), 3), np.uint8)


def _rewrite(folder: Path, changes: dict[str, str | int]) -> None:
    """Change keys of [global] in the folder's recipe, which is the old or the new one at any moment."""
    path = folder / "recipe.toml"
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    table["global"] |= changes
    try:
        with replacing(path) as temporary:
            temporary.write_text(tomli_w.dumps(table), encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{path}: cannot be written: {error}") from error
