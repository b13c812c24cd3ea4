"""What a labelled set teaches a recipe without training its network: fusion weights, and a whitening by matches."""

import shutil
import tempfile
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tomli_w
from numpy.typing import NDArray

from resight.describe.describer import load_global
from resight.describe.folder import check_empty
from resight.errors import RecipeError
from resight.evaluation.figures import figures
from resight.evaluation.judge import judge
from resight.evaluation.labelled import LabelledSet, Query
from resight.evaluation.variants import Report, Variants, cosines, measure, reading, silent
from resight.features.fusion import fuse
from resight.fitted import PhotoSketch
from resight.images.read import digest, load
from resight.projection.learned_whitening import learned_whitening_of_pairs
from resight.projection.projection import Projection
from resight.recipes.network_stages import GlobalStage
from resight.recipes.recipe import Recipe, load_recipe, recipe_names, recipe_text
from resight.search.ranking import Ranking

if TYPE_CHECKING:
    from resight.search.collection import Progress

_GRID = tuple(2.0 ** (half / 2) for half in range(-8, 9))
_SWEEPS = 4


@dataclass(frozen=True)
class Tuning:
    """weights: one a branch. before, after: mAP with the recipe's own weights and with these, on the set learned on."""

    weights: tuple[float, ...]
    before: float
    after: float


@dataclass(frozen=True, eq=False)
class Discriminative:
    """A whitening, and mAP without any and with it, on the set learned on."""

    whitening: Projection
    before: float
    after: float


def tune_fusion(
    labelled: LabelledSet,
    recipe: Recipe,
    *,
    workers: int | None = None,
    progress: "Callable[[Progress], None] | None" = None,
) -> Tuning:
    """Weights that give the largest mAP on a labelled set, by coordinate search over powers of √2.

    The first branch's weight stays, as only ratios count. Every image is described once. Of weights that do equally
    well the nearest to 1 is taken, so that what does not matter is left alone.
    Raises RecipeError unless the recipe fuses branches late and does not verify: a verified order is not the fusion's.
    """
    from resight.search.collection import Collection

    stage = recipe.global_
    if stage is None or not stage.late or stage.fusion == "concatenate" or recipe.verify is not None:
        raise RecipeError(
            f"recipe {recipe.name}: there are no weights to learn: it must fuse branches by scores, ranks or "
            "exponential, and not verify"
        )
    with (
        tempfile.TemporaryDirectory(prefix="resight-tune-") as folder,
        Collection.create(Path(folder) / "collection", recipe) as collection,
    ):
        collection.add([labelled.locate(path) for path in labelled.database], workers=workers, progress=progress)
        found = {path: collection.find(str(labelled.locate(path))) for path in labelled.database}
        ids = {path: image for path, image in found.items() if image is not None}
        asked = [_cosines(collection, labelled, query, ids) for query in labelled.queries]
    return learn_weights(labelled.queries, asked, ids, stage)


def learn_weights(
    queries: Sequence[Query],
    asked: Sequence[tuple[NDArray[np.int64], NDArray[np.float32]]],
    ids: Mapping[str, int],
    stage: GlobalStage,
) -> Tuning:
    """As ``tune_fusion``, from image ids, (N,), and the branches' cosines, N×B, for each query."""
    method = stage.late
    if method is None:
        raise ValueError("joined vectors have no weights that can be learned afterwards")

    def quality(weights: Sequence[float]) -> float:
        outcomes = []
        for query, (images, each) in zip(queries, asked, strict=True):
            score = fuse(each, weights, method)
            order = np.lexsort((images, -score))
            ranking = Ranking(images[order], score[order].astype(np.float32), (None,) * len(order), -np.inf, False)
            outcomes.append(judge(query, ranking, ids))
        return figures(outcomes).mean_average_precision or 0.0

    weights = [branch.weight for branch in stage.branches]
    before = best = quality(weights)
    for _ in range(_SWEEPS):
        started = best
        for place in range(1, len(weights)):
            tried = {value: quality([*weights[:place], value, *weights[place + 1 :]]) for value in _GRID}
            top = max(tried.values())
            if top > best:
                best = top
                weights[place] = min((v for v, q in tried.items() if q == top), key=lambda v: abs(np.log(v)))
        if best == started:
            break
    return Tuning(tuple(weights), before, best)


def learn_whitening(labelled: LabelledSet, recipe: Recipe, *, ridge: float, report: Report = silent) -> Discriminative:
    """A whitening learned from a set's matching pairs, each query with each of its answers, for a recipe's descriptor.

    ridge: as in ``learned_whitening``; the fewer pairs than dimensions, the more it takes.
    Raises RecipeError unless the recipe has one descriptor that is whitened as a whole and does not verify, since its
    calibration would no longer hold; and as ``learned_whitening``.
    """
    stage = recipe.global_
    if stage is None or stage.late or stage.whiten != "image" or recipe.verify is not None:
        raise RecipeError(
            f"recipe {recipe.name}: its matching pairs teach it nothing: it must have a network, one descriptor with "
            'whiten = "image", and not verify'
        )
    describer = load_global(stage.model_copy(update={"whitening": ""}), recipe.name)
    variants = Variants((recipe.name,), describer, reading(recipe))
    pictures = [(labelled.locate(path), None) for path in labelled.database]
    described = variants.describe(pictures, f"describing {labelled.name}", report)
    rows, database = described.rows(labelled.database), described.vectors[recipe.name]
    queries = variants.queries(labelled, described, report)[recipe.name]
    pairs = [
        (len(database) + asked, rows[path])
        for asked, query in enumerate(labelled.queries)
        for path in sorted(query.positives)
        if path in rows and path != query.path
    ]
    if not pairs:
        raise RecipeError(f"{labelled.file}: no query has an answer that can be read")
    first, second = np.array(pairs).T
    whitening = learned_whitening_of_pairs(
        np.concatenate([database, queries]),
        first,
        second,
        stage.dimensions,
        fitted_on=f"{len(pairs):,} matching pairs of {labelled.name}",
        descriptor=describer.raw_fingerprints[0],
        ridge=ridge,
        photos=PhotoSketch.of(digest(load(str(pictures[place][0]))) for place in described.places),
    )
    before = measure(labelled, cosines(queries, database), rows)
    after = measure(labelled, cosines(whitening.transform(queries), whitening.transform(database)), rows)
    return Discriminative(whitening, before, after)


def write_whitened(recipe: str | Path, whitening: Projection, into: Path) -> None:
    """Copy a recipe, which must be a folder, into the folder ``into`` and give it the whitening; raises RecipeError."""
    table = _copied(recipe, into)
    whitening.save(into / "whitening.safetensors")
    table["global"]["whitening"] = "whitening.safetensors"
    (into / "recipe.toml").write_text(tomli_w.dumps(table), encoding="utf-8")


def write_tuned(recipe: str | Path, weights: Sequence[float], into: Path) -> None:
    """Copy a recipe, by name, file or folder, into the folder ``into`` and set its branches' weights.

    Raises RecipeError if ``into`` is not an empty folder, or the recipe is a file whose paths would not move with it.
    """
    table = _copied(recipe, into)
    table["global"]["weight"] = weights[0]
    for other, weight in zip(table["global"]["also"], weights[1:], strict=True):
        other["weight"] = weight
    (into / "recipe.toml").write_text(tomli_w.dumps(table), encoding="utf-8")


def _copied(recipe: str | Path, into: Path) -> dict[str, Any]:
    """Copy a recipe and all that it names into the folder ``into``; its table."""
    check_empty(into)
    path = Path(recipe)
    if path.is_dir():
        shutil.copytree(path, into, dirs_exist_ok=True)
        text = (into / "recipe.toml").read_text(encoding="utf-8")
    else:
        text = recipe_text(str(recipe)) if str(recipe) in recipe_names() else path.read_text(encoding="utf-8")
        stage = load_recipe(recipe).global_
        if stage is not None and any(branch.files for branch in stage.branches):
            raise RecipeError(f"{recipe}: names weights beside it: give the folder that holds them all")
        into.mkdir(parents=True, exist_ok=True)
    return tomllib.loads(text)


def _cosines(
    collection: Any, labelled: LabelledSet, query: Query, ids: Mapping[str, int]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    asked = ids[query.path] if query.box is None and query.path in ids else labelled.locate(query.path)
    found: tuple[NDArray[np.int64], NDArray[np.float32]] = collection.branch_similarities(asked, box=query.box)
    return found
