"""Collections whose recipes describe alike: what one has described, another need not describe again."""

import hashlib
from pathlib import Path

from resight.describe.describer import Describer
from resight.errors import CollectionError
from resight.recipes.recipe import Recipe
from resight.search.searcher import Searcher
from resight.store.metadata import facts
from resight.store.store import New, Store

_BATCH = 256


def descriptions(recipe: Recipe) -> str | None:
    """sha256, in hex, of all that decides what is stored of an image; None where that is more than a global descriptor.

    Raises RecipeError where the recipe's network cannot be loaded.
    """
    if recipe.global_ is None or recipe.local is not None:
        return None
    network = Describer(recipe).network
    learned = "" if network is None else network.fingerprint
    return hashlib.sha256(f"{recipe.dump({'image', 'global_'})} {learned}".encode()).hexdigest()


def copy_descriptions(source: Path, into: Path, recipe: Recipe) -> None:
    """Make a collection of a recipe, with the images that another has, as it describes them, and its failures.

    What re-ranking and codes need is made when images are next added. Facts that were given to images come along as if
    they were of the photos themselves.
    Raises CollectionError where there is no collection, ``into`` is not empty, or their ``descriptions`` differ.
    """
    with Store(source, write=False) as old:
        if (what := descriptions(recipe)) is None or what != descriptions(old.recipe):
            raise CollectionError(f"{source}: {old.recipe.name} described it, and {recipe.name} describes otherwise")
        searcher = Searcher(old)
        rows = old.catalogue.rows("SELECT id, origin, digest, bytes, modified_ns FROM images ORDER BY id")
        failures = old.catalogue.rows("SELECT origin, reason, bytes, modified_ns FROM failures ORDER BY origin")
        with Store.create(into, recipe, Describer(recipe).fingerprint) as new:
            for start in range(0, len(rows), _BATCH):
                images = [
                    New(origin, digest, length, modified, searcher.stored(position), facts(old.catalogue, image), image)
                    for position, (image, origin, digest, length, modified) in enumerate(
                        rows[start : start + _BATCH], start
                    )
                ]
                new.add(images, [], None)
            new.add([], failures, None)
