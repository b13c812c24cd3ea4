"""Fit a recipe's [calibration]: the probability of a true match, from inliers and similarity, on labelled sets.

Logistic regression (maximum likelihood) over all verified results of all queries, with the recipe's own formula
(`resight.search.verify.log_odds`). What an inlier weighs against similarity is given, not fitted: it decides the order
of the results, where likelihood on a few sets would trust similarity far beyond them. Every set weighs the same,
within a set every query, within a query every result.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from numpy.typing import NDArray
from scipy.optimize import minimize

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
from resight.errors import RecipeError
from resight.evaluation import LabelledSet, Query
from resight.evaluation.acceptance import Acceptance, Outcome, acceptance
from resight.evaluation.judge import judge
from resight.recipes import Recipe, load_recipe
from resight.recipes.recipe import Calibration
from resight.search.searcher import Searcher
from resight.search.verify import calibrated_ranking, log_odds, probability, support
from resight.store.store import Store

_LEAST = 1e-3  # of the coefficient of inliers, which a recipe wants above 0
_BINS = np.array([0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0])


@dataclass(frozen=True, eq=False)
class Observed:
    """What one query's search says of all N images, by ascending id.

    inliers: N float64 by `support`, 0 where not verified; similarity: N float32. true: N bool, by the ground truth.
    counted: N bool, verified and neither junk nor the query itself: what is fitted to.
    """

    query: Query
    ids: NDArray[np.int64]
    inliers: NDArray[np.float64]
    similarity: NDArray[np.float32]
    true: NDArray[np.bool_]
    counted: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ObservedSet:
    """A set's queries. ids: path in the set → image id."""

    labelled: LabelledSet
    ids: dict[str, int]
    queries: tuple[Observed, ...]


def observe(labelled: LabelledSet, recipe: Recipe, folder: Path, workers: int) -> ObservedSet:
    """Search for every query of a set. Raises RecipeError for a recipe that does not verify."""
    if recipe.verify is None:
        raise RecipeError(f"recipe {recipe.name} has no [verify] table, so there is nothing to calibrate")
    path = database(labelled, recipe, folder, workers)
    describer = Describer(recipe)
    found = []
    with Store(path, write=False) as store:
        ids = image_ids(store, labelled)
        searcher = Searcher(store, recipe)
        for query in labelled.queries:
            description, _ = described(query, labelled, ids, searcher, describer)
            ranking, _ = searcher.rank(description, query.box, None)
            all_ids = searcher.snapshot.ids
            inliers = np.zeros(len(all_ids))
            verified = np.zeros(len(all_ids), bool)
            for place, evidence in zip(searcher.snapshot.positions(ranking.ids), ranking.evidence, strict=True):
                if evidence is not None:
                    inliers[place], verified[place] = support(evidence), True
            ignored = [ids[p] for p in {query.path} | query.junk if p in ids]
            true = np.isin(all_ids, [ids[p] for p in query.positives if p in ids])
            counted = verified & ~np.isin(all_ids, ignored)
            found.append(Observed(query, all_ids, inliers, searcher.similarity(description), true, counted))
    return ObservedSet(labelled, ids, tuple(found))


@dataclass(frozen=True, eq=False)
class Samples:
    """Verified results, flattened: inliers, similarity, truth and weight (sum 1) of each."""

    inliers: NDArray[np.float64]
    similarity: NDArray[np.float32]
    true: NDArray[np.bool_]
    weight: NDArray[np.float64]

    @classmethod
    def of(cls, sets: Sequence[ObservedSet]) -> "Samples":
        parts = []
        for observed in sets:
            asked = [q for q in observed.queries if q.counted.any()]
            for q in asked:
                n = int(q.counted.sum())
                weight = np.full(n, 1 / (len(sets) * len(asked) * n))
                parts.append((q.inliers[q.counted], q.similarity[q.counted], q.true[q.counted], weight))
        return cls(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def fit(samples: Samples, accept: float, fitted_on: str, ratio: float) -> Calibration:
    """The intercept and slope of least weighted log-loss, with `similarity` = `ratio` × `inliers`.

    Raises RecipeError where all samples are true or all are false.
    """
    if samples.true.all() or not samples.true.any():
        raise RecipeError("a calibration needs both true and false results among those verified: add queries")
    sign = np.where(samples.true, 1.0, -1.0)

    def calibration(intercept: float, slope: float) -> Calibration:
        inliers, similarity = round(slope, 3), round(ratio * slope, 3)
        return Calibration(
            intercept=round(intercept, 3), inliers=inliers, similarity=similarity, accept=accept, fitted_on=fitted_on
        )

    # The recipe's own formula gives the column, so that there is one definition.
    evidence = log_odds(calibration(0, 1), samples.inliers, samples.similarity)
    columns = np.column_stack([np.ones(len(sign)), evidence])

    def loss(coefficients: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        margin = sign * (columns @ coefficients)
        slope = -samples.weight * sign * 0.5 * (1 - np.tanh(0.5 * margin))
        return float(samples.weight @ np.logaddexp(0, -margin)), columns.T @ slope

    exactly = {"ftol": 1e-15, "gtol": 1e-9, "maxiter": 1000}
    bounds = [(None, None), (_LEAST, None)]
    found = minimize(loss, [-4.0, 1.0], jac=True, bounds=bounds, method="L-BFGS-B", options=exactly)
    return calibration(float(found.x[0]), float(found.x[1]))


def accepted(observed: ObservedSet, calibration: Calibration) -> Acceptance:
    """How well the set's matches are told from the rest with these coefficients."""
    outcomes: list[Outcome] = []
    for q in observed.queries:
        ranking = calibrated_ranking(calibration, q.ids, q.inliers, q.similarity, {})
        outcomes.append(judge(q.query, ranking, observed.ids))
    return acceptance(outcomes)


def reliability(samples: Samples, calibration: Calibration) -> list[tuple[str, int, float, float]]:
    """Bin of predicted probability, results in it, and their weighted mean prediction and fraction true."""
    predicted = probability(log_odds(calibration, samples.inliers, samples.similarity))
    place = np.clip(np.searchsorted(_BINS, predicted, "right") - 1, 0, len(_BINS) - 2)
    rows = []
    for b in np.unique(place).tolist():
        inside = place == b
        weight = samples.weight[inside]
        mean, seen = (float(np.average(v[inside], weights=weight)) for v in (predicted, samples.true))
        rows.append((f"{_BINS[b]:g} – {_BINS[b + 1]:g}", int(inside.sum()), mean, seen))
    return rows


def main(arguments: Sequence[str] | None = None) -> Calibration:
    """Fit, and print the TOML table and how well it holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_set_options(parser)
    parser.add_argument("--recipe", default="rootsift-asmk", help="name, file or folder (default: rootsift-asmk)")
    parser.add_argument("--accept", type=float, default=0.5, help="probability from which a result is a match")
    parser.add_argument(
        "--leave-one-set-out", action="store_true", help="also each set's figures with coefficients of the others"
    )
    parser.add_argument(
        "--ratio", type=float, default=30.0, help="weight of similarity ÷ weight of inliers (default: 30, for ASMK)"
    )
    options = parser.parse_args(arguments)
    options.collections.mkdir(parents=True, exist_ok=True)
    recipe = load_recipe(options.recipe)
    sets = []
    for labelled in labelled_sets(options):
        sets.append(observe(labelled, recipe, options.collections, options.workers))
        print(f"{labelled.name}: searched", flush=True)
    samples = Samples.of(sets)
    calibration = fit(samples, options.accept, _fitted_on(sets), options.ratio)
    protocol = f"{protocol_text(options)}; recipe {recipe.name}; {len(samples.true):,} verified results"
    rows = [_row("itself and the others", s, calibration) for s in sets]
    if options.leave_one_set_out and len(sets) > 1:
        for left in sets:
            others = [s for s in sets if s is not left]
            rows.append(
                _row("the others", left, fit(Samples.of(others), options.accept, _fitted_on(others), options.ratio))
            )
    bins = reliability(samples, calibration)
    print(header(protocol))
    print(tomli_w.dumps({"calibration": calibration.model_dump()}))
    shown = [(name, n, f"{predicted:.3f}", f"{seen:.3f}") for name, n, predicted, seen in bins]
    print(table(("predicted", "results", "mean predicted", "observed"), shown), end="\n\n")
    head = ("fitted on", "set", "intercept", "inliers", "similarity")
    figures = ("true match first and accepted", "missed", "misled", "precision of accepted", "no answer: rejected")
    print(table((*head, *figures), [row[:5] + tuple(map(percent, row[5:])) for row in rows]))
    results = {
        "recipe": recipe.name,
        "calibration": calibration.model_dump(),
        "reliability": bins,
        "sets": [dict(zip((*head, *figures), row, strict=True)) for row in rows],
        "acceptance": {s.labelled.name: asdict(accepted(s, calibration)) for s in sets},
    }
    write_json(options.out, protocol, results)
    return calibration


def _row(fitted: str, observed: ObservedSet, c: Calibration) -> tuple[Any, ...]:
    a = accepted(observed, c)
    figures = (a.found, a.missed, a.misled, a.precision, a.rejected)
    return (fitted, observed.labelled.name, c.intercept, c.inliers, c.similarity, *figures)


def _fitted_on(sets: Sequence[ObservedSet]) -> str:
    return ", ".join(f"{s.labelled.name} ({len(s.queries)} queries)" for s in sets)


if __name__ == "__main__":
    main()
