"""What searching by regions does to mAP (the survey's Fig. 11 d): each has a vector of its own, under MAC."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resight.errors import GroundTruthError, ImageError, QueryError, RecipeError
from resight.evaluation.labelled import LabelledSet
from resight.evaluation.measure import versions
from resight.evaluation.plot import Result, Study
from resight.evaluation.study import POOLINGS, RANKED, network_stage, plain_table, set_facts
from resight.evaluation.variants import Picture, Report, Variants, measure, reading, silent
from resight.features.multiscale import l2_normalise
from resight.recipes.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Regions:
    """An image's vectors, R×C float32, ℓ2-normalised: the whole, then the grid's squares, level by level.

    upto: how many of them there are up to each level; 1 for none.
    """

    vectors: NDArray[np.float32]
    upto: tuple[int, ...]


def study_regions(sets: Sequence[LabelledSet], recipe: Recipe, *, levels: int = 3, report: Report = silent) -> Study:
    """mAP by number of regions: the whole image, then with squares of R-MAC's grid of 1 … ``levels`` levels.

    Squares lie on the map of the recipe's first layer, at its first scale, whose neighbours overlap by about 40 %, and
    each is pooled by MAC. An image is as similar as the query's regions find their best match in it, on average; with
    one region that is the cosine. Vectors of all regions of a set are in memory.
    Raises RecipeError where the recipe has no network, its layer no positions, or there is no level.
    """
    if not 1 <= levels <= 8:
        raise RecipeError(f"the grid has 1 to 8 levels, not {levels}")
    base = {**plain_table(network_stage(sets, recipe)), **POOLINGS["mac"]}
    base["scales"] = tuple(base["scales"])[:1]
    tables = {"whole": base} | {
        f"grid {level}": {**base, "scheme": {"kind": "grid", "levels": level}} for level in range(1, levels + 1)
    }
    variants = Variants.of(tables, reading(recipe), recipe.name)
    names = ["whole image", *(f"{level} level{'s' * (level > 1)}" for level in range(1, levels + 1))]
    results, facts, counts = [], {}, {}
    for labelled in sets:
        pictures: list[Picture] = [(labelled.locate(path), None) for path in labelled.database]
        described = list(describe_regions(variants, pictures, f"describing {labelled.name}", report))
        unread = {place: found.reason for place, found in enumerate(described) if isinstance(found, ImageError)}
        places = [place for place in range(len(described)) if place not in unread]
        if not places:
            raise GroundTruthError(f"{labelled.file}: none of the database's images can be read: {unread[0]}")
        database = [found for found in described if isinstance(found, Regions)]
        rows = {labelled.database[place]: row for row, place in enumerate(places)}
        queries = _queries(labelled, variants, database, rows, report)
        for level, name in enumerate(names):
            score = measure(labelled, cross_matches(queries, database, level), rows)
            results.append(Result(labelled.name, name, "none", database[0].vectors.shape[1], score))
        facts[labelled.name] = set_facts(labelled, unread, None)
        means = [float(np.mean([image.upto[level] for image in database])) for level in range(levels + 1)]
        counts[f"regions an image, {labelled.name}"] = ", ".join(
            f"{name} {mean:.3g}" for name, mean in zip(names, means, strict=True)
        )
    branch = variants.describer.stage.branches[0]
    protocol = {
        "recipe": recipe.name,
        "network": branch.network,
        "layer": branch.layer,
        "weights": variants.describer.weights_sha256[0],
        "pictures": f"of at most {branch.max_side} px, at scale {branch.scales[0]:g}",
        "pooling": "MAC of each region, not whitened",
        **counts,
        "figures": f"mAP, trapezoidal; by the mean over the query's regions of the best cosine in an image; {RANKED}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "sets": facts,
    }
    return Study("regions", protocol, tuple(results))


def cross_matches(queries: Sequence[Regions], database: Sequence[Regions], level: int) -> Iterator[NDArray[np.float32]]:
    """For each query, (N,): the mean over its regions, up to a level, of the best cosine among each image's."""
    x = np.concatenate([image.vectors[: image.upto[level]] for image in database])
    starts = np.cumsum([0, *(image.upto[level] for image in database[:-1])])
    for query in queries:
        cosines = query.vectors[: query.upto[level]] @ x.T
        yield np.maximum.reduceat(cosines, starts, axis=1).mean(axis=0)


def _queries(
    labelled: LabelledSet, variants: Variants, database: Sequence[Regions], rows: Mapping[str, int], report: Report
) -> list[Regions]:
    asked = labelled.queries
    new = [query for query in asked if query.box is not None or query.path not in rows]
    pictures: list[Picture] = [(labelled.locate(query.path), query.box) for query in new]
    described = zip(new, describe_regions(variants, pictures, f"queries of {labelled.name}", report), strict=True)
    found: list[Regions] = []
    for query in asked:
        if query.box is None and query.path in rows:
            found.append(database[rows[query.path]])
            continue
        _, regions = next(described)
        if isinstance(regions, ImageError):
            raise QueryError(f"query {query.path} of {labelled.name}: {regions.reason}")
        found.append(regions)
    return found


def describe_regions(
    variants: Variants, pictures: Sequence[Picture], phase: str, report: Report
) -> Iterator[Regions | ImageError]:
    """For each picture, its regions, or why it cannot be read.

    variants: the whole under some pooling, then grids of more and more levels under the same, at one scale.
    """
    describer = variants.describer
    for done, picture in enumerate(pictures, 1):
        try:
            view = describer.prepare(variants.read(*picture).pixels)
        except ImageError as error:
            yield error
        else:
            whole, *grids = [np.concatenate(image) for (image,) in describer.features([view])]
            # The squares of a grid come level by level, so the deepest begins with every other.
            vectors = l2_normalise(np.concatenate([whole, grids[-1]])).astype(np.float32)
            yield Regions(vectors, (1, *(1 + len(grid) for grid in grids)))
        report(phase, done, len(pictures))
