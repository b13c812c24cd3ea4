"""mAP on objects never learned from, before and after training on photos without labels, by several ways to mine them.

As ``learning.py``: the same photos of half of each set's objects are learned from, but nothing is said of what they
show; the other half is asked for. No figure of the latter chooses anything: the last epoch's weights are measured,
once. A method is a kind of ``resight train --mine``, which may bring settings along, as in
``--method "kmeans unlabelled.clusters=40"``. ``colmap`` needs models of the photos, which ``sfm.py`` makes.
"""

import tempfile
from pathlib import Path

from learning import Asked, Trained, figures, halves, study
from resight.errors import RecipeError
from resight.learning.datasets.photos import Photo
from resight.learning.embedding_task import EmbeddingTask
from resight.learning.task import Lesson
from resight.learning.unlabelled.photos import UnlabelledPhotos
from resight.learning.unlabelled.run import make
from resight.learning.unlabelled.settings import load_unlabelled_settings
from resight.recipes import load_recipe

_POOLS = ("mom", "diffusion", "rdp", "geodesic", "verified", "sift", "gan")
METHODS = (*_POOLS, "kmeans", "dbscan", "knn-mean", "autoencoder")
_CLUSTER = 5  # photos of one of kmeans, which are as many as one must say, unless it is said otherwise


def trained(asked: Asked) -> Trained | None:
    """A training by a way to mine; None, saying why, for one that finds nothing to learn from in these photos."""
    kind, *own = asked.method.split()
    known, held_out = halves(asked.labelled)
    usual = (f"unlabelled.clusters={len(known.photos) // _CLUSTER}",) if kind == "kmeans" else ()
    settings = load_unlabelled_settings(None, (*usual, *asked.changes, *own), mining=kind)
    photos = UnlabelledPhotos(
        known.name,
        tuple(Photo(photo.path, place, photo.box) for place, photo in enumerate(known.photos)),
        (),
        known.file,
        known.revision,
        known.selection,
    )
    with tempfile.TemporaryDirectory(prefix="resight-unlabelled-") as folder:
        try:
            task = make(load_recipe(asked.recipe), Lesson(photos, held_out, settings), Path(folder))
            if not isinstance(task, EmbeddingTask):
                raise SystemExit(f"{kind} trains no descriptor, but a re-ranker")
            before, after, seconds = figures(task, settings)
        except RecipeError as error:
            print(f"{asked.labelled.name} {asked.method} seed {asked.seed}: {error}", flush=True)
            return None
    return Trained(asked, before, after, seconds, len(photos.photos), len(known.classes), len(held_out.queries))


if __name__ == "__main__":
    study(__doc__, "--method", METHODS, trained, "Learned from without labels")
