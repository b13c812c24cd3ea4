"""What each re-ranking gains and takes: global alone, local alone, global → verified, and the methods of search/rerank.

Most methods see one vector an image, and the last ones local features. Regional diffusion and patches need vectors of
regions, the Reranking Transformer a model that `resight train` makes and LightGlue published weights: these are left
out, and are rows of accuracy.py by recipes with such a [[rerank]].
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import compress
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from common import (
    add_set_options,
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
from resight.describe.describer import Describer
from resight.describe.description import Description
from resight.errors import RecipeError
from resight.evaluation import LabelledSet
from resight.evaluation.figures import Figures, figures
from resight.evaluation.judge import judge
from resight.recipes import Recipe, load_recipe
from resight.recipes.rerank_stages import RerankStage
from resight.search.examples import DescribedExample
from resight.search.ranking import Ranking
from resight.search.rerank import (
    Database,
    Diffusion,
    ExploreExploit,
    KReciprocal,
    ManifoldLayer,
    OfflineDiffusion,
    QueryExpansion,
    RegularisedDiffusion,
    Reranker,
    SuperGlobal,
    VerifiedExpansion,
    augmented,
)
from resight.search.rerank.cache import Cache
from resight.search.rerank.reranker import best, first, head
from resight.search.rerank.stages import Asked as AskedStages
from resight.search.rerank.stages import Source, prepare
from resight.search.searcher import Searcher
from resight.store.store import Store

_PROTOCOL = (
    "A query leaves its own ranking before that is re-ranked, but stays in the database that DBA, offline diffusion, "
    "IME and GSS were built on. ms: median a query, one at a time; of global and local and "
    "what verifies them filter and verification, of "
    "the others what the method adds to the ranking it re-ranks, in memory, that of the row global unless said "
    "otherwise; neither counts describing the query. Parameters, below, are defaults and tuned to none of these sets"
)
_DIMENSIONS = 2048  # of IME's embedding, the authors'
_NEIGHBOURS, _THRESHOLD = 250, 0.42  # of EGT, from the authors' run_all.py, for their descriptors

Start = Literal["global", "verified", "expanded"]


_CHECKED: dict[Start, str] = {"verified": "global → verified", "expanded": "global → verified → expanded"}


@dataclass(frozen=True)
class Answer:
    """seconds: what the ranking took beside describing the query."""

    ranking: Ranking
    seconds: float


@dataclass(frozen=True)
class Asked:
    """A set's queries of one collection: vectors and answers in their order; ids: of its images by path.

    queries: their descriptions, and source: the collection's, for stages that read local features; None without.
    """

    ids: dict[str, int]
    database: Database
    vectors: list[NDArray[np.float32]]
    answers: Mapping[Start, list[Answer]]
    queries: Sequence[Description] = ()
    source: Source | None = None


@dataclass(frozen=True)
class Method:
    """A row of the table.

    make: the re-ranker of all queries, from the database and the name of a folder that it may make.
    built: whether `make` does work that is to be timed. start: the ranking that it re-ranks.
    """

    name: str
    parameters: str
    make: Callable[[Database, Path], Reranker]
    built: bool = True
    start: Start = "global"


# The stages that read local features, as a recipe names them, with their defaults.
LOCAL: dict[str, dict[str, str]] = {
    "matching": {"method": "matching"},
    **{kernel: {"method": "kernel", "kernel": kernel} for kernel in ("smk", "asmk", "r-asmk", "dynamic")},
}


@dataclass(frozen=True)
class Result:
    """One system on one set. ms: median a query. build: seconds for the whole database, None without any work."""

    set: str
    system: str
    figures: Figures
    ms: float
    build: float | None


@dataclass(frozen=True, eq=False)
class Augmented:
    """Database-side augmentation: ranks by other vectors of the same images, then re-ranks with these."""

    database: Database
    then: Reranker | None = None

    def rerank(self, query: NDArray[np.float32], ranking: Ranking, database: Database) -> Ranking:
        ids, vectors = head(ranking, self.database, None)
        found = first(ranking, *best(ids, vectors @ query))
        return found if self.then is None else self.then.rerank(query, found, self.database)


def methods(epochs: int, seed: int) -> list[Method]:
    """The rows that re-rank, with published parameters where there are such. epochs, seed: of GSS."""

    def online(name: str, reranker: Reranker, start: Start = "global") -> Method:
        return Method(name, str(reranker), lambda *_: reranker, built=False, start=start)

    def manifold(vectors: Database, _: Path) -> Reranker:
        return ManifoldLayer.fit(vectors, min(_DIMENSIONS, len(vectors)))

    def separation(vectors: Database, _: Path) -> Reranker:
        from resight.search.rerank.gss import Gss, GssModel  # imports torch

        model = GssModel.fit(vectors.vectors, fitted_on="the database", epochs=epochs, seed=seed)
        return Gss.encode(model, vectors)

    expansion = QueryExpansion()
    k, alpha = expansion.k, expansion.alpha
    return [
        online("AQE", QueryExpansion(alpha=0.0)),
        online("αQE", expansion),
        Method("DBA", f"augmented(k={k}, alpha={alpha})", lambda v, _: Augmented(augmented(v, k, alpha))),
        Method("DBA + αQE", f"both as above, αQE on {k} augmented vectors",
               lambda v, _: Augmented(augmented(v, k, alpha), expansion)),
        online("k-reciprocal", KReciprocal()),
        online("diffusion, CG", Diffusion()),
        Method("diffusion, offline", "OfflineDiffusion.build's defaults: truncation=1000, else as diffusion, CG",
               lambda v, folder: OfflineDiffusion.build(folder, v)),
        online("RDP", RegularisedDiffusion()),
        online("EGT", ExploreExploit(_THRESHOLD, k=_NEIGHBOURS)),
        Method("IME", f"ManifoldLayer.fit's defaults; {_DIMENSIONS} dimensions or as many as there are images",
               manifold),
        online("SuperGlobal", SuperGlobal()),
        Method("GSS", f"GssModel.fit's defaults, but {epochs} epochs (published: 200), seed {seed}; without labels",
               separation),
        online("verified → QE", VerifiedExpansion(), "verified"),
    ]  # fmt: skip


def without(ranking: Ranking, image_id: int | None) -> Ranking:
    """The ranking less one image, if it has it."""
    kept = ranking.ids != (-1 if image_id is None else image_id)
    evidence = tuple(compress(ranking.evidence, kept))
    return Ranking(ranking.ids[kept], ranking.scores[kept], evidence, ranking.threshold, ranking.calibrated)


def ask_global(labelled: LabelledSet, recipe: Recipe, folder: Path, workers: int) -> Asked:
    """The set asked of a recipe with one global vector an image: by that, verified, and with its [expansion] if any.

    Raises RecipeError for another recipe.
    """
    if recipe.global_ is None or recipe.global_.late is not None or recipe.filter != "global" or recipe.verify is None:
        raise RecipeError(f"recipe {recipe.name}: give --recipe one with one global vector an image, and [verify]")
    verified = recipe.model_copy(update={"expansion": None})
    halves: dict[Start, Recipe] = {
        "global": verified.model_copy(update={"verify": None, "calibration": None}),
        "verified": verified,
    }
    if recipe.expansion is not None:
        halves["expanded"] = recipe
    with Store(database(labelled, recipe, folder, workers), write=False) as store:
        ids, searcher = image_ids(store, labelled), Searcher(store)
        snapshot, blank = searcher.snapshot, np.zeros(sum(recipe.global_.lengths), np.float32)
        stored = (searcher.stored(position).global_descriptor for position in range(len(snapshot)))
        vectors = np.stack([blank if vector is None else vector for vector in stored])
        describer = Describer(recipe)
        queries = [described(query, labelled, ids, searcher, describer)[0] for query in labelled.queries]
        answers = {start: _answers(labelled, ids, Searcher(store, half), queries) for start, half in halves.items()}
    asked = [blank if query.global_descriptor is None else query.global_descriptor for query in queries]
    known = Database(snapshot.ids, vectors)
    source = Source(
        known,
        Cache(folder / "unused"),  # these stages build nothing
        descriptions=searcher.descriptions,
        codebook=snapshot.codebook,
        words=searcher.words,
        max_side=recipe.local_side,
        oriented=recipe.local is not None and recipe.local.oriented,
    )
    return Asked(ids, known, asked, answers, queries, source)


def ask_local(labelled: LabelledSet, recipe: Recipe, folder: Path, workers: int) -> Result:
    """The set asked of a recipe as it is."""
    with Store(database(labelled, recipe, folder, workers), write=False) as store:
        ids, searcher, describer = image_ids(store, labelled), Searcher(store, recipe), Describer(recipe)
        queries = [described(query, labelled, ids, searcher, describer)[0] for query in labelled.queries]
        return summarise(labelled, f"local: {recipe.name}", ids, _answers(labelled, ids, searcher, queries))


def run_methods(labelled: LabelledSet, asked: Asked, chosen: Sequence[Method]) -> Iterator[Result]:
    """The methods, one after another, each on all queries."""
    for method in chosen:
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            reranker = method.make(asked.database, Path(folder) / "made")
            build = time.perf_counter() - began if method.built else None
            pairs = zip(asked.vectors, asked.answers[method.start], strict=True)
            found = [_reranked(reranker, vector, answer.ranking, asked.database) for vector, answer in pairs]
            yield summarise(labelled, method.name, asked.ids, found, build)


def run_local(labelled: LabelledSet, asked: Asked, source: Source) -> Iterator[Result]:
    """The stages of ``LOCAL``, one after another, each on all queries."""
    for name, table_of in LOCAL.items():
        prepared = prepare([TypeAdapter[RerankStage](RerankStage).validate_python(table_of)], source)
        found = []
        for query, vector, answer in zip(asked.queries, asked.vectors, asked.answers["global"], strict=True):
            began = time.perf_counter()
            whole = AskedStages(vector, vector[None], (DescribedExample(query),))
            ranking = prepared.rerank(whole, answer.ranking)
            found.append(Answer(ranking, time.perf_counter() - began))
        yield summarise(labelled, name, asked.ids, found)


def summarise(
    labelled: LabelledSet, system: str, ids: Mapping[str, int], answers: Sequence[Answer], build: float | None = None
) -> Result:
    """The figures of a system's answers, in the order of the set's queries, as `evaluate` computes them."""
    pairs = zip(labelled.queries, answers, strict=True)
    found = figures([judge(query, answer.ranking, ids) for query, answer in pairs], in_fours=labelled.in_fours)
    return Result(labelled.name, system, found, 1000 * float(np.median([a.seconds for a in answers])), build)


def run(
    labelled: LabelledSet, recipe: Recipe, local: Recipe, folder: Path, workers: int, chosen: Sequence[Method]
) -> list[Result]:
    """All rows of one set. recipe: the global one, which verifies."""
    asked = ask_global(labelled, recipe, folder, workers)
    return [
        summarise(labelled, "global", asked.ids, asked.answers["global"]),
        ask_local(labelled, local, folder, workers),
        *(
            summarise(labelled, system, asked.ids, asked.answers[start])
            for start, system in _CHECKED.items()
            if start in asked.answers
        ),
        *run_methods(labelled, asked, chosen),
        *(() if asked.source is None else run_local(labelled, asked, asked.source)),
    ]


def render(results: Sequence[Result], chosen: Sequence[Method]) -> str:
    """mAP and time as two Markdown tables, a row a system and a column a set, and the methods' parameters below."""
    sets, systems = (list(dict.fromkeys(names)) for names in ([r.set for r in results], [r.system for r in results]))
    of = {(r.system, r.set): r for r in results}
    good = [(system, *(_accuracy(of[system, name].figures) for name in sets)) for system in systems]
    took = [(system, *(_time(of[system, name]) for name in sets)) for system in systems]
    return "\n\n".join(
        (
            table(("mAP, %", *sets), good),
            table(("ms a query; build", *sets), took),
            "\n".join(f"- {name}: {parameters}" for name, parameters in parameters_of(chosen).items()),
        )
    )


def parameters_of(chosen: Sequence[Method]) -> dict[str, str]:
    """What each row that re-ranks was run with."""
    stages = {name: TypeAdapter[RerankStage](RerankStage).validate_python(local) for name, local in LOCAL.items()}
    return {method.name: method.parameters for method in chosen} | {name: str(stage) for name, stage in stages.items()}


def main(arguments: Sequence[str] | None = None) -> list[Result]:
    """Run all rows on the sets asked for, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_set_options(parser)
    parser.add_argument("--recipe", required=True, help="a fitted recipe of one global vector that verifies")
    parser.add_argument("--local", default="rootsift-asmk", help="the local recipe (default: rootsift-asmk)")
    parser.add_argument("--epochs", type=int, default=30, help="that GSS learns (default: 30; published: 200)")
    options = parser.parse_args(arguments)
    options.collections.mkdir(parents=True, exist_ok=True)
    recipe, local = load_recipe(options.recipe), load_recipe(options.local)
    chosen = methods(options.epochs, options.seed)
    results: list[Result] = []
    for labelled in labelled_sets(options):
        results += run(labelled, recipe, local, options.collections, options.workers, chosen)
        print(f"{labelled.name}: done", flush=True)
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    protocol = (
        f"{protocol_text(options)}; global: {recipe.name}, local: {local.name}. {_PROTOCOL}. Processes that "
        f"ran or waited to run at the end: {load}; where these are more than the cores, times are rough"
    )
    print(header(protocol), render(results, chosen), sep="\n")
    rows = [asdict(result) for result in results]
    write_json(options.out, protocol, {"parameters": parameters_of(chosen), "rows": rows})
    return results


def _answers(
    labelled: LabelledSet, ids: Mapping[str, int], searcher: Searcher, descriptions: Sequence[Description]
) -> list[Answer]:
    """One query after another, each left out of its own ranking."""
    found = []
    for query, description in zip(labelled.queries, descriptions, strict=True):
        ranking, timing = searcher.rank(description, query.box, None)
        found.append(Answer(without(ranking, ids.get(query.path)), timing.filter + timing.verify))
    return found


def _reranked(reranker: Reranker, vector: NDArray[np.float32], ranking: Ranking, vectors: Database) -> Answer:
    began = time.perf_counter()
    found = reranker.rerank(vector, ranking, vectors)
    return Answer(found, time.perf_counter() - began)


def _accuracy(found: Figures) -> str | None:
    """mAP, and in sets of fours the N-S score."""
    mean = percent(found.mean_average_precision)
    return mean if found.ns_score is None else f"{mean} (N-S {found.ns_score:.3f})"


def _time(result: Result) -> str:
    return f"{result.ms:.1f}" if result.build is None else f"{result.ms:.1f}; {result.build:.2f} s"


if __name__ == "__main__":
    main()
