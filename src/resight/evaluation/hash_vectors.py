"""The vectors of a labelled set that hash functions are compared on, and those that they learn from."""

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from resight.describe.describer import Describer
from resight.errors import GroundTruthError, ImageError, QueryError
from resight.evaluation.kept import open_kept
from resight.evaluation.labelled import LabelledSet, with_distractors
from resight.evaluation.objects import objects
from resight.fitted import PhotoSketch
from resight.recipes.recipe import Recipe
from resight.search.vectors import check_one_vector, read_vectors
from resight.store.indexing import Progress

if TYPE_CHECKING:
    pass

Vectors = NDArray[np.float32]
Told = Callable[[Progress], None] | None


@dataclass(frozen=True, eq=False)
class Described:
    """A labelled set's vectors.

    database: N×D, ℓ2-normalised, of the images that have one. rows: their paths in the set → row. queries: Q×D.
    learn: M×D, of the photos that hash functions learn from; fitted_on, photos: which they are.
    recipe, fingerprint: of what made the vectors. fitted_share: learned part → share of the set's own photos, without
        its distractors, that it was fitted on. digests: of the database's photos, by row.
    """

    labelled: LabelledSet
    database: Vectors
    rows: Mapping[str, int]
    queries: Vectors
    learn: Vectors
    fitted_on: str
    photos: PhotoSketch
    recipe: str
    fingerprint: str
    fitted_share: Mapping[str, float]
    digests: tuple[str, ...] = ()

    @property
    def own_digests(self) -> tuple[str, ...]:
        """Of the photos that are no distractors."""
        return tuple(self.digests[row] for path in self.labelled.own if (row := self.rows.get(path)) is not None)


@dataclass(frozen=True, eq=False)
class Taught:
    """Labelled photos that hash functions learn from.

    x: N×D. labels: (N,), the object of each. fitted_on, photos: which they are. share: of the compared set's own photos
        that are among them, by the name of what was learned; nothing where that is unknown.
    """

    x: Vectors
    labels: NDArray[np.str_]
    fitted_on: str
    photos: PhotoSketch
    share: Mapping[str, float]


def teach(
    labelled: LabelledSet, recipe: Recipe, compared: Described, *, workers: int | None = None, progress: Told = None
) -> Taught:
    """The labelled photos of a set, to learn from what then is compared on another.

    Raises as ``describe``, and GroundTruthError where fewer than two photos are labelled and can be read.
    """
    described = describe(labelled, recipe, workers=workers, progress=progress)
    known = objects(labelled)
    rows = {path: row for path, row in described.rows.items() if path in known}
    if len(rows) < 2:
        raise GroundTruthError(
            f"{labelled.file}: {len(rows)} of its photos are labelled and readable: name a larger set"
        )
    taken = list(rows.values())
    photos = PhotoSketch.of(described.digests[row] for row in taken)
    share = photos.share_in(compared.own_digests)
    return Taught(
        described.database[taken],
        np.array([known[path] for path in rows]),
        f"{len(rows):,} labelled photos of {labelled.name}",
        photos,
        {} if share is None else {"hash functions by labels": share},
    )


def describe(
    labelled: LabelledSet,
    recipe: Recipe,
    *,
    distractors: Iterable[str | Path] = (),
    collection: str | Path | None = None,
    workers: int | None = None,
    progress: Told = None,
) -> Described:
    """The vectors of a labelled set, those of its database as a collection stores them.

    distractors: folders whose images join the database. Hash functions learn from the vectors of these and of the set's
        own distractors, and where there are none from the whole database.
    collection: a folder to keep the collection in, or one with the set's images, whatever else it holds.
    Raises RecipeError where the recipe makes no vector or several, CollectionError where the collection is another
    recipe's, and QueryError naming a query that cannot be read.
    """
    check_one_vector(recipe)
    labelled = with_distractors(labelled, distractors)
    with tempfile.TemporaryDirectory(prefix="resight-hash-") as temporary:
        folder = Path(temporary) / "collection" if collection is None else Path(collection)
        with open_kept(folder, recipe) as index:
            index.add([labelled.locate(path) for path in labelled.database], workers=workers, progress=progress)
            learned = index.learned()
        stored = read_vectors(folder)
    places = {origin: place for place, origin in enumerate(stored.origins)}
    known = {path: at for path in labelled.database if (at := places.get(str(labelled.locate(path)))) is not None}
    if not known:
        raise GroundTruthError(f"{labelled.file}: none of the database's images can be read")
    kept = list(known.values())
    database, digests = stored.x[kept], [stored.digests[at] for at in kept]
    rows = {path: row for row, path in enumerate(known)}
    added = frozenset(labelled.database) - frozenset(labelled.own)
    apart = [row for path, row in rows.items() if path in added]
    learn = apart or list(range(len(rows)))
    own = [digests[row] for path, row in rows.items() if path not in added]
    photos = PhotoSketch.of(digests[row] for row in learn)
    sketches = {part: artefact.photos for part, artefact in learned.items()} | {"hash functions": photos}
    shares = {part: sketch.share_in(own) for part, sketch in sketches.items() if sketch is not None}
    return Described(
        labelled,
        database,
        rows,
        _queries(labelled, recipe, database, rows),
        database[learn],
        f"{len(learn):,} {'distractors' if apart else 'photos, all there are,'} of {labelled.name}",
        photos,
        recipe.name,
        stored.fingerprint,
        {part: share for part, share in shares.items() if share is not None},
        tuple(digests),
    )


def _queries(labelled: LabelledSet, recipe: Recipe, database: Vectors, rows: Mapping[str, int]) -> Vectors:
    """The queries' vectors: the database's own where a whole image of it is asked about."""
    describer = Describer(recipe)
    found = np.empty((len(labelled.queries), database.shape[1]), np.float32)
    for place, query in enumerate(labelled.queries):
        if query.box is None and query.path in rows:
            found[place] = database[rows[query.path]]
            continue
        try:
            vector = describer.describe(labelled.locate(query.path), query.box).global_descriptor
        except (ImageError, QueryError) as error:
            raise QueryError(f"query {query.path} of {labelled.name}: {error}") from error
        if vector is None:
            raise QueryError(f"query {query.path} of {labelled.name}: has no vector")
        found[place] = vector
    return found
