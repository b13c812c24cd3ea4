"""How a recipe's mAP falls as its queries are changed, by transformation and strength (survey §7).

The database stays as it is, so what is measured is what a search bears that the collection was not told of. Hendrycks &
Dietterich (ICLR 2019) measure classifiers so, by corruption and severity; here the curves are of mAP, and each has an
area of its own instead of one mean.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from resight.errors import ImageError, QueryError, RecipeError, ResightError
from resight.evaluation.acceptance import Outcome
from resight.evaluation.figures import figures
from resight.evaluation.judge import judge
from resight.evaluation.labelled import LabelledSet, Query
from resight.evaluation.measure import versions
from resight.evaluation.protocol import fitted_share, ids_of, opened
from resight.evaluation.study import check_names, set_facts
from resight.evaluation.variants import Report, silent
from resight.geometry.boxes import Box
from resight.images.apart import read_image_apart
from resight.images.image import Image
from resight.recipes.query_stage import QueryStage
from resight.recipes.recipe import Recipe
from resight.robustness.curves import Invariance, Measured
from resight.robustness.geometric import Pixels
from resight.robustness.transformations import TRANSFORMATIONS, UNCHANGED, Transformation

if TYPE_CHECKING:
    from resight.search.collection import Collection


def study_invariance(
    sets: Sequence[LabelledSet],
    recipes: Mapping[str, Recipe],
    *,
    only: Sequence[str] = (),
    queries: Mapping[str, QueryStage] | None = None,
    side: int = 1024,
    seed: int = 0,
    workers: int | None = None,
    report: Report = silent,
) -> Invariance:
    """mAP of each recipe under each transformation of the queries, at each of its strengths.

    recipes: by name. queries: ways to look at a query, by name, in which each recipe is measured besides its own.
    only: names of transformations; all by default. side: queries are brought to this longest side first, also those
        that are not changed, so that noise and blur are of comparable pixels.
    seed: with a query's path and box it decides what is drawn, so a query is turned the same way at every strength.
    Raises RecipeError where a way does not fit a recipe, ResightError for an unknown transformation, and QueryError
    that names a query that cannot be read; all but the last before anything is measured.
    """
    check_names(sets)
    changes = [_named(name) for name in only] or list(TRANSFORMATIONS.values())
    if not recipes:
        raise RecipeError("no recipe to study: name at least one")
    systems = {name: _systems(name, recipe, queries or {}) for name, recipe in recipes.items()}
    results: list[Measured] = []
    facts = {}
    for labelled in sets:
        unread: dict[str, str] = {}
        shares: list[float] = []
        for name, recipe in recipes.items():
            with opened(recipe, None) as index:
                database = [labelled.locate(path) for path in labelled.database]
                index.add(database, workers=workers, progress=lambda p: report(p.phase, p.done, p.total))
                unread |= {failure.origin: failure.reason for failure in index.failures()}
                shares += fitted_share(index.learned(), labelled, index).values()
                results += _curves(index, labelled, systems[name], changes, side, seed, report)
        facts[labelled.name] = {**set_facts(labelled, {}, max(shares, default=None)), "unread": unread}
    protocol = {
        **{f"recipe {name}": f"{recipe.name}, {recipe.fingerprint[:12]}" for name, recipe in recipes.items()},
        "queries": f"of at most {side} px before they are changed, seed {seed}; the database is as it is",
        "figures": "mAP, trapezoidal; junk removed, and a query that is in the database from its own ranking",
        "area": "∫ mAP(s) / mAP(0) ds over strengths from 0 to the greatest, by trapezoids, over that greatest; "
        "1 where nothing is lost",
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "sets": facts,
    }
    return Invariance(protocol, tuple(results))


def _curves(
    index: "Collection",
    labelled: LabelledSet,
    systems: Mapping[str, QueryStage | None],
    changes: Sequence[Transformation],
    side: int,
    seed: int,
    report: Report,
) -> Iterator[Measured]:
    """Every point of every curve of one recipe on one set, those without a change first."""
    ids = ids_of(index, labelled)
    points = [(UNCHANGED, 0.0), *((change, strength) for change in changes for strength in change.strengths)]
    outcomes: dict[tuple[int, str], list[Outcome]] = {}
    seconds: dict[tuple[int, str], list[float]] = {}
    for done, query in enumerate(labelled.queries):
        pixels, box = _picture(labelled, query, side)
        own = (seed, zlib.crc32(f"{query.path} {query.box}".encode()))
        for place, (change, strength) in enumerate(points):
            seen, asked = change.change(pixels, strength, own, box)
            image = Image(seen, (seen.shape[1], seen.shape[0]), query.path)
            for name, stage in systems.items():
                index.query = stage
                ranking, timing = index.search_timed(image, box=asked, exact=True)
                outcomes.setdefault((place, name), []).append(judge(query, ranking, ids))
                seconds.setdefault((place, name), []).append(timing.describe + timing.filter + timing.verify)
        report(f"{labelled.name}: changed queries", done + 1, len(labelled.queries))
    for (place, name), found in outcomes.items():
        score = figures(found).mean_average_precision
        if score is None:
            raise ValueError(f"{labelled.name} has no query with an answer")
        change, strength = points[place]
        milliseconds = 1000 * float(np.median(seconds[place, name]))
        yield Measured(labelled.name, name, change.name, change.unit, strength, score, milliseconds)


def _picture(labelled: LabelledSet, query: Query, side: int) -> tuple[Pixels, Box | None]:
    """A query's pixels, brought to a longest side, and its box in them."""
    try:
        image = read_image_apart(labelled.locate(query.path), max_side=side)
    except ImageError as error:
        raise QueryError(f"query {query.path} of {labelled.name}: {error}") from error
    if query.box is None:
        return image.pixels, None
    height, width = image.pixels.shape[:2]
    x, y = image.scale
    x1, y1, x2, y2 = np.multiply(query.box, (x, y, x, y)).tolist()
    x1, y1 = min(x1, width - 1), min(y1, height - 1)
    return image.pixels, (x1, y1, min(max(x2, x1 + 1), width), min(max(y2, y1 + 1), height))


def _named(name: str) -> Transformation:
    if name not in TRANSFORMATIONS:
        raise ResightError(f"no transformation {name!r}; there are {', '.join(TRANSFORMATIONS)}")
    return TRANSFORMATIONS[name]


def _systems(name: str, recipe: Recipe, queries: Mapping[str, QueryStage]) -> dict[str, QueryStage | None]:
    for called, stage in queries.items():
        if why := recipe.obstacle(stage):
            raise RecipeError(f"{name}, {called}: {why}")
    return {name: recipe.query, **{f"{name}, {called}": stage for called, stage in queries.items()}}
