"""How well, and for how much matching work: resight's recipes beside brute-force SIFT and plain GeM cosine."""

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import brute
from common import (
    add_set_options,
    cache_name,
    database,
    described,
    header,
    image_ids,
    labelled_sets,
    percent,
    protocol_text,
    table,
    write_json,
)
from resight.describe.describer import Describer, load_global
from resight.errors import RecipeError
from resight.evaluation import LabelledSet
from resight.evaluation.acceptance import Outcome
from resight.evaluation.figures import Figures, figures
from resight.evaluation.judge import judge
from resight.geometry.boxes import Box
from resight.recipes import Recipe, load_recipe
from resight.search.collection import Collection
from resight.search.ranking import Ranking
from resight.search.searcher import Searcher, Timing
from resight.store.store import Store

# The Internet photo collections (tag "phototourism") of scenes_multiview, but for us_capitol and its two pictures.
LANDMARKS = frozenset({"sacre_coeur", "piazza_san_marco", "st_pauls", "tower_bridge"})

_TIMED = 12  # images that are described anew to see how fast that goes

Answers = Iterable[tuple[Ranking, Timing]]  # in the order of the set's queries


@dataclass(frozen=True)
class Result:
    """One system on one set. landmarks: mAP of the queries of LANDMARKS, None in other sets.

    calibrated: whether the system says which results are matches. comparisons, describe, filter, verify: descriptor
    comparisons and seconds, mean a query. work: comparisons ÷ those of brute force, None where that did not run.
    images_per_second: described, by processor time; bytes_per_image: of the collection. None where there is no recipe.
    """

    set: str
    system: str
    figures: Figures
    landmarks: float | None
    calibrated: bool
    comparisons: float
    work: float | None
    describe: float
    filter: float
    verify: float
    images_per_second: float | None = None
    bytes_per_image: float | None = None


def summarise(
    labelled: LabelledSet, system: str, ids: dict[str, int], answers: Answers, brute_work: float | None
) -> Result:
    """The figures of a system's answers, by resight's own metrics."""
    outcomes: list[Outcome] = []
    timings: list[Timing] = []
    calibrated = False
    for query, (ranking, timing) in zip(labelled.queries, answers, strict=True):
        outcomes.append(judge(query, ranking, ids))
        timings.append(timing)
        calibrated = ranking.calibrated
    of_landmarks = [
        outcome
        for query, outcome in zip(labelled.queries, outcomes, strict=True)
        if labelled.groups.get(query.path) in LANDMARKS
    ]
    comparisons = float(np.mean([t.comparisons for t in timings]))
    return Result(
        set=labelled.name,
        system=system,
        figures=figures(outcomes, in_fours=labelled.in_fours),
        landmarks=figures(of_landmarks).mean_average_precision if of_landmarks else None,
        calibrated=calibrated,
        comparisons=comparisons,
        work=comparisons / brute_work if brute_work else None,
        describe=float(np.mean([t.describe for t in timings])),
        filter=float(np.mean([t.filter for t in timings])),
        verify=float(np.mean([t.verify for t in timings])),
    )


def run_brute(labelled: LabelledSet, folder: Path, *, workers: int, mutual: bool) -> Result:
    """`sift-brute`: ranked by inliers, ties by id. Its queries run on one core each, `workers` at a time."""
    images = [labelled.locate(path) for path in labelled.database]
    kept = folder / f"{cache_name(labelled.name, images)}-sift"
    brute.FeatureTable.make(images, kept, workers)
    queries = [(labelled.locate(query.path), query.box) for query in labelled.queries]
    found = brute.answers(queries, kept, workers=workers, mutual=mutual)
    answers = ((ranked(a.inliers), Timing(0.0, a.match_seconds, a.verify_seconds, a.comparisons)) for a in found)
    result = summarise(labelled, "sift-brute" + "-mutual" * mutual, _by_order(labelled), answers, None)
    return Result(**{**vars(result), "work": 1.0})


def run_gem(labelled: LabelledSet, recipe: Recipe, folder: Path, brute_work: float | None) -> Result:
    """`gem-cosine`: the recipe's network and pooling, neither whitened nor reduced, ranked by cosine."""
    if recipe.global_ is None:
        raise RecipeError(f"recipe {recipe.name} has no [global] table: give --gem one that has")
    network = load_global(recipe.global_.model_copy(update={"whitening": ""}), recipe.name)
    describer = Describer(recipe)  # reads the pixels as the recipe says; its own network is not loaded

    def raw(path: Path, box: Box | None) -> NDArray[np.float32]:
        return network.raw(describer.read(path, box)[0].pixels)

    def kept(name: str, images: Sequence[Path]) -> NDArray[np.float32]:
        file = folder / f"{cache_name(name, images, *network.raw_fingerprints, str(recipe.image))}-gem.npy"
        if not file.is_file():
            np.save(file, np.stack([raw(path, None) for path in images]))
        return np.asarray(np.load(file))

    images = [labelled.locate(path) for path in labelled.database]
    own = len(labelled.own)
    vectors = kept(labelled.name, images[:own])
    if labelled.distractors:
        vectors = np.concatenate([vectors, kept("distractors", images[own:])])
    position = _by_order(labelled)

    def answers() -> Iterator[tuple[Ranking, Timing]]:
        for query in labelled.queries:
            began = time.perf_counter()
            if query.box is None and query.path in position:
                vector = vectors[position[query.path]]
            else:
                vector = raw(labelled.locate(query.path), query.box)
            filtering = time.perf_counter()
            ranking = ranked(vectors @ vector)
            ended = time.perf_counter()
            yield ranking, Timing(filtering - began, ended - filtering, 0.0, len(vectors))

    return summarise(labelled, f"gem-cosine ({recipe.global_.network})", position, answers(), brute_work)


def run_recipe(
    labelled: LabelledSet, recipe: Recipe, folder: Path, *, workers: int, brute_work: float | None
) -> list[Result]:
    """The recipe and, where it verifies, its filter alone over the same collection. One query at a time."""
    halves = {recipe.name: recipe}
    if recipe.verify is not None:
        halves[f"{recipe.name}, filter only"] = recipe.model_copy(update={"verify": None, "calibration": None})
    path = database(labelled, recipe, folder, workers)
    describer = Describer(recipe)
    results = []
    speed = described_per_second(describer, [labelled.locate(p) for p in labelled.own])
    with Collection.open(path) as collection:
        size = collection.info().bytes_per_image
    with Store(path, write=False) as store:
        ids = image_ids(store, labelled)
        searcher = Searcher(store, recipe)
        queries = [(query.box, *described(query, labelled, ids, searcher, describer)) for query in labelled.queries]
        for name, half in halves.items():
            searcher = Searcher(store, half)
            answers = (searcher.rank(description, box, None, seconds) for box, description, seconds in queries)
            found = summarise(labelled, name, ids, answers, brute_work)
            results.append(replace(found, images_per_second=speed, bytes_per_image=size))
    return results


def described_per_second(describer: Describer, images: Sequence[Path]) -> float:
    """Images a second of processor time, with reading, of a few spread over the set; after one that is not counted."""
    few = images[:: max(1, len(images) // _TIMED)][:_TIMED]
    describer.describe(few[0])
    began = time.process_time()
    for image in few:
        describer.describe(image)
    return len(few) / (time.process_time() - began)


def render(results: Sequence[Result]) -> str:
    """The results as two Markdown tables: how good, and what it cost."""
    good, cost = [], []
    for r in results:
        f, a = r.figures, r.figures.acceptance
        found, precision, rejected = (a.found, a.precision, a.rejected) if r.calibrated else (None, None, None)
        good.append(
            (
                r.set,
                r.system,
                percent(f.mean_average_precision),
                percent(r.landmarks),
                percent(f.precision_at_1),
                percent(f.recall_at_10),
                None if f.ns_score is None else f"{f.ns_score:.3f}",
                percent(found),
                percent(precision),
                percent(rejected),
            )
        )
        rate = None if r.images_per_second is None else f"{r.images_per_second:.2g}"
        size = None if r.bytes_per_image is None else f"{r.bytes_per_image:,.0f}"
        times = (f"{1000 * seconds:.1f}" for seconds in (r.describe, r.filter, r.verify))
        ratio = None if r.work is None else f"{100 * r.work:.3g} %"
        cost.append((r.set, r.system, f"{r.comparisons:,.0f}", ratio, *times, rate, size))
    head = ("set", "system", "mAP", "mAP landmarks", "P@1", "R@10", "N-S")
    return "\n\n".join(
        (
            table((*head, "true match first and accepted", "precision of accepted", "no answer: rejected"), good),
            table(
                (
                    *("set", "system", "comparisons a query", "of brute force", "describe, ms", "filter, ms"),
                    *("verify, ms", "images described a second", "bytes an image"),
                ),
                cost,
            ),
        )
    )


def main(arguments: Sequence[str] | None = None) -> list[Result]:
    """Run the systems asked for on the sets asked for, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_set_options(parser)
    parser.add_argument(
        "--recipe", dest="recipes", action="append", default=[], help="name, file or folder; repeatable"
    )
    parser.add_argument("--gem", metavar="RECIPE", help="also gem-cosine with this recipe's network")
    parser.add_argument("--brute", action="store_true", help="also sift-brute, the measure of matching work")
    parser.add_argument("--mutual", action="store_true", help="sift-brute keeps mutual nearest neighbours only")
    options = parser.parse_args(arguments)
    options.collections.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    for labelled in labelled_sets(options):
        work: float | None = None
        if options.brute:
            results.append(run_brute(labelled, options.collections, workers=options.workers, mutual=options.mutual))
            work = results[-1].comparisons
        if options.gem:
            results.append(run_gem(labelled, load_recipe(options.gem), options.collections, work))
        for name in options.recipes:
            recipe = load_recipe(name)
            results += run_recipe(labelled, recipe, options.collections, workers=options.workers, brute_work=work)
        print(f"{labelled.name}: done", flush=True)
    protocol = (
        f"{protocol_text(options)}. Seconds are means a query; sift-brute runs {options.workers} queries at a time on "
        "one core each and filter is its matching, the others one at a time; describing a stored query is reading it"
    )
    print(header(protocol), render(results), sep="\n")
    write_json(options.out, protocol, [asdict(result) for result in results])
    return results


def ranked(score: np.ndarray) -> Ranking:
    """All images by a score, ties by id; ids are places in the set's database."""
    order = np.lexsort((np.arange(len(score)), -score))
    return Ranking(order, score[order].astype(np.float32), (None,) * len(order), -np.inf, calibrated=False)


def _by_order(labelled: LabelledSet) -> dict[str, int]:
    return {path: place for place, path in enumerate(labelled.database)}


if __name__ == "__main__":
    main()
