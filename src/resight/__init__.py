"""resight finds the same thing again: instance retrieval with evidence, from a folder of photos.

    import resight as rs
    with rs.Collection.create("paintings", "rootsift-asmk") as collection:
        collection.add(["photos/"])
        ranking = collection.search("query.jpg", box=(10, 20, 300, 400))

Names are imported when first used, so that a command that needs no network starts without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resight.describe.description import Description as Description
    from resight.describe.fit import fit_recipe as fit_recipe
    from resight.describe.published import import_weights as import_weights
    from resight.errors import ResightError as ResightError
    from resight.evaluation import Report as Report
    from resight.evaluation import evaluate as evaluate
    from resight.images import Image as Image
    from resight.images import read_image as read_image
    from resight.learning.procedural.run import train_procedural as train_procedural
    from resight.learning.run import train as train
    from resight.learning.unlabelled.run import train_unlabelled as train_unlabelled
    from resight.recipes import Recipe as Recipe
    from resight.recipes import load_recipe as load_recipe
    from resight.search.collection import Collection as Collection
    from resight.search.examples import Example as Example
    from resight.search.ranking import Evidence as Evidence
    from resight.search.ranking import Ranking as Ranking
    from resight.server.client import connect as connect

_HOMES = {
    "Collection": "resight.search.collection",
    "Description": "resight.describe.description",
    "Evidence": "resight.search.ranking",
    "Example": "resight.search.examples",
    "Image": "resight.images",
    "Ranking": "resight.search.ranking",
    "Recipe": "resight.recipes",
    "Report": "resight.evaluation",
    "ResightError": "resight.errors",
    "connect": "resight.server.client",
    "evaluate": "resight.evaluation",
    "fit_recipe": "resight.describe.fit",
    "import_weights": "resight.describe.published",
    "load_recipe": "resight.recipes",
    "read_image": "resight.images",
    "train": "resight.learning.run",
    "train_procedural": "resight.learning.procedural.run",
    "train_unlabelled": "resight.learning.unlabelled.run",
}
__all__ = sorted(_HOMES)  # the one list of what is public


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'resight' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
