"""Collections that an evaluation keeps, so that another need not index again."""

from pathlib import Path
from typing import TYPE_CHECKING

from resight.errors import CollectionError
from resight.recipes.recipe import Recipe

if TYPE_CHECKING:
    from resight.search.collection import Collection


def open_kept(folder: Path, recipe: Recipe) -> "Collection":
    """The collection in a folder, open for writing, made if there is none. CollectionError for another recipe's."""
    from resight.search.collection import Collection

    if not Collection.exists(folder):
        return Collection.create(folder, recipe)
    index = Collection.open(folder, write=True)
    if index.recipe != recipe:
        index.close()
        raise CollectionError(f"{folder} was made by {index.recipe.name}, not this {recipe.name}; name another folder")
    return index
