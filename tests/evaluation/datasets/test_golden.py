"""The protocols' figures: worked by hand, and by second implementations written from the definitions.

Those walk a whole ranking as the published evaluators do; ours goes through `LabelledSet`, `judge` and `figures`.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from resight.errors import GroundTruthError
from resight.evaluation.datasets import load_dataset
from resight.evaluation.datasets.groundtruth import read_gnd
from resight.evaluation.datasets.recognition import (
    Prediction,
    read_predictions,
    read_recognition,
    recognise,
    write_predictions,
)
from resight.evaluation.figures import figures
from resight.evaluation.judge import judge
from resight.evaluation.labelled import LabelledSet, Query
from resight.evaluation.metrics import micro_average_precision
from resight.search.ranking import Ranking

LEVELS = {
    "easy": (["easy"], ["junk", "hard"]),
    "medium": (["easy", "hard"], ["junk"]),
    "hard": (["hard"], ["junk", "easy"]),
}


def ranked(ids):
    ids = np.asarray(ids, np.int64)
    return Ranking(ids, np.linspace(1, 0, len(ids), dtype=np.float32), (None,) * len(ids), 2.0, calibrated=False)


def measured(labelled, orders, kind=None):
    """Figures of one ranking of paths a query."""
    ids = {path: number for number, path in enumerate(labelled.database, 1)}
    outcomes = [
        judge(query, ranked([ids[path] for path in order]), ids)
        for query, order in zip(labelled.queries, orders, strict=True)
    ]
    return figures(outcomes, kind or labelled.average_precision, in_fours=labelled.in_fours)


def revisitop_map(ranks, entries, kappas):
    """mAP and mP@k as the revisited benchmark defines them: ranks N×Q of places, entries of `ok` and `junk` places."""
    aps, precisions = [], []
    for column, entry in zip(ranks.T, entries, strict=True):
        if not entry["ok"]:
            continue
        kept = [place for place in column.tolist() if place not in entry["junk"]]
        at = [rank for rank, place in enumerate(kept) if place in entry["ok"]]
        area = 0.0
        for j, rank in enumerate(at):
            left = 1.0 if rank == 0 else j / rank
            area += (left + (j + 1) / (rank + 1)) / 2 / len(entry["ok"])
        aps.append(area)
        last = at[-1] + 1
        precisions.append([sum(rank < min(last, k) for rank in at) / min(last, k) for k in kappas])
    return float(np.mean(aps)), np.mean(precisions, axis=0)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["roxford5k", pytest.param("rparis6k", marks=pytest.mark.slow)])
def test_the_real_revisited_ground_truth_as_revisitop_scores_it(revisitop, name, level):
    """On a ranking that is good but not perfect, with Q×N scores by a seed."""
    gnd = read_gnd(revisitop / f"gnd_{name}.pkl", ("easy", "hard", "junk"))
    positive, junk = LEVELS[level]
    labelled = LabelledSet(
        name=name,
        file=gnd.file,
        root=gnd.file.parent,
        database=gnd.images,
        queries=tuple(
            Query(path, gnd.named(place, positive), gnd.named(place, junk)) for place, path in enumerate(gnd.queries)
        ),
    )
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(len(gnd.queries), len(gnd.images)))
    for place, answers in enumerate(gnd.answers):
        for key, gain in (("easy", 3.0), ("hard", 1.5), ("junk", 2.0)):
            scores[place, list(answers[key])] += gain
    ranks = np.argsort(-scores, axis=1, kind="stable").T
    entries = [
        {"ok": {p for key in positive for p in each[key]}, "junk": {p for key in junk for p in each[key]}}
        for each in gnd.answers
    ]
    expected, at = revisitop_map(ranks, entries, (1, 5, 10))
    found = measured(labelled, [[gnd.images[place] for place in column] for column in ranks.T])
    assert found.mean_average_precision == pytest.approx(expected, abs=1e-12)
    assert 0.05 < expected < 0.95
    assert [found.precision_at_1, found.revisited_precision_at_5, found.revisited_precision_at_10] == pytest.approx(at)
    assert found.unanswerable == sum(not entry["ok"] for entry in entries)


@settings(max_examples=60)
@given(data=st.data())
def test_revisited_junk_wherever_it_stands(data):
    order = data.draw(st.permutations(range(14)))
    labels = data.draw(st.lists(st.sampled_from("ehjn"), min_size=14, max_size=14).filter(lambda x: {"e", "h"} & {*x}))
    lists = {key: {p for p, label in enumerate(labels) if label == key[0]} for key in ("easy", "hard", "junk")}
    names = [str(place) for place in range(14)]
    for positive, junk in LEVELS.values():
        ok, gone = (set().union(*(lists[key] for key in keys)) for keys in (positive, junk))
        if not ok:
            continue
        labelled = LabelledSet(
            "x",
            "x",
            "x",
            tuple(names),
            (Query("q", frozenset(names[p] for p in ok), frozenset(names[p] for p in gone)),),
        )
        expected, at = revisitop_map(np.array([order]).T, [{"ok": ok, "junk": gone}], (5, 10))
        found = measured(labelled, [[names[p] for p in order]])
        assert found.mean_average_precision == pytest.approx(expected)
        assert [found.revisited_precision_at_5, found.revisited_precision_at_10] == pytest.approx(at)


def test_hard_by_hand(revisited):
    """hall_1 is junk, 0 and 2 are easy and so junk too: 3, 4 remain in front; the only hard one is second."""
    labelled = load_dataset("roxford5k", revisited, "hard", partial=True)
    order = [f"jpg/hall_{number:06d}.jpg" for number in (0, 1, 3, 2, 4, 5)]
    found = measured(labelled, [order, order])
    assert found.mean_average_precision == pytest.approx((0 + 1 / 2) / 2)
    assert (found.queries, found.unanswerable) == (1, 1)
    assert (found.precision_at_1, found.revisited_precision_at_10) == (0, 1 / 2)  # the plain P@10 is 1/10
    assert found.precision_at_10 == 1 / 10


def compute_ap(positives, junk, order):
    """Oxford's compute_ap.cpp: the area under precision over recall, junk passed over, whatever asked counted."""
    old_recall, old_precision, area, seen, found = 0.0, 1.0, 0.0, 0, 0
    for image in order:
        if image in junk:
            continue
        found += image in positives
        seen += 1
        recall, precision = found / len(positives), found / seen
        area += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
    return area


def test_oxfords_query_counts_as_its_own_positive(oxford):
    labelled = load_dataset("oxford5k", oxford, partial=True)
    first = labelled.queries[0]
    paths = [f"jpg/hall_{number:06d}.jpg" for number in (0, 3, 5, 1, 6, 2, 4)]  # itself, junk, wrong, ok …
    found = measured(labelled, [paths, paths])
    expected = np.mean([compute_ap(query.positives, query.junk, paths) for query in labelled.queries])
    assert found.mean_average_precision == pytest.approx(expected)
    by_hand = (1 + (1 / 2 + 2 / 3) / 2 + (2 / 4 + 3 / 5) / 2) / 3  # itself first, then 0-based ranks 2 and 4
    assert compute_ap(first.positives, first.junk, paths) == pytest.approx(by_hand)
    assert found.precision_at_1 == 1.0 and found.ns_score is None


@given(st.permutations(range(7)))
def test_oxford_on_any_ranking(order):
    names = [str(number) for number in range(7)]
    query = Query("0", frozenset("012"), frozenset("3"), keeps_itself=True)
    labelled = LabelledSet("x", "x", "x", tuple(names), (query,))
    paths = [names[place] for place in order]
    assert measured(labelled, [paths]).mean_average_precision == pytest.approx(compute_ap({*"012"}, {"3"}, paths))


def test_only_a_query_that_keeps_itself_may_be_its_own_positive():
    with pytest.raises(GroundTruthError, match="is its own positive"):
        LabelledSet("x", "x", "x", ("0", "1"), (Query("0", frozenset("01")),))


def test_holidays_removes_the_query(tmp_path, photograph):
    for number in (100000, 100001, 100002, 100100, 100101):
        photograph(tmp_path / "jpg" / f"{number}.jpg")
    labelled = load_dataset("holidays", tmp_path, partial=True)
    one = [f"jpg/{number}.jpg" for number in (100000, 100101, 100001, 100100, 100002)]
    two = [f"jpg/{number}.jpg" for number in (100101, 100000, 100100, 100001, 100002)]
    first = ((0 + 1 / 2) / 2 + (1 / 3 + 2 / 4) / 2) / 2  # ranks 1 and 3 of the other four
    assert measured(labelled, [one, two]).mean_average_precision == pytest.approx((first + 1.0) / 2)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_ukbenchs_score_is_the_count_in_the_top_four(data):
    """Where each image is most similar to itself, as the definition has it."""
    names = [f"{number}" for number in range(12)]
    queries = tuple(
        Query(name, frozenset(names[place] for place in range(4 * (at // 4), 4 * (at // 4) + 4)) - {name})
        for at, name in enumerate(names)
    )
    labelled = LabelledSet("x", "x", "x", tuple(names), queries)
    orders, counts = [], []
    for at, name in enumerate(names):
        order = [name, *data.draw(st.permutations([other for other in names if other != name]))]
        orders.append(order)
        counts.append(sum(int(other) // 4 == at // 4 for other in order[:4]))
    assert measured(labelled, orders).ns_score == pytest.approx(np.mean(counts))


def landmarks_map(lists, solution, k):
    """GLDv2's mean average precision: duplicates are passed over but use a rank; a query without a list scores 0."""
    total = 0.0
    for query, answers in solution.items():
        right, seen, score = 0, set(), 0.0
        for rank, image in enumerate(lists.get(query, [])[:k], 1):
            if image in answers and image not in seen:
                right += 1
                score += right / rank
            seen.add(image)
        total += score / min(len(answers), k)
    return total / len(solution)


@pytest.mark.parametrize(("kind", "k"), [("truncated", 100), ("truncated-1000", 1000)])
def test_truncated_map_on_long_rankings(kind, k):
    rng = np.random.default_rng(1)
    names = [str(number) for number in range(2 * k)]
    queries, orders = [], []
    for place, count in enumerate((1, 7, k // 2, k + 50)):
        queries.append(Query(f"q{place}", frozenset(rng.choice(names, count, replace=False).tolist())))
        orders.append(rng.permutation(names).tolist())
    labelled = LabelledSet("x", "x", "x", tuple(names), tuple(queries))
    solution = {query.path: query.positives for query in queries}
    lists = {query.path: order for query, order in zip(queries, orders, strict=True)}
    found = measured(labelled, orders, kind).mean_average_precision
    assert found == pytest.approx(landmarks_map(lists, solution, k)) and found > 0


def test_ilias_is_the_papers_ap_times_found_over_min():
    """scikit-learn's AP of the first 1000, times the share of positives found there."""
    rng = np.random.default_rng(2)
    names = np.array([str(number) for number in range(3000)])
    for count in (3, 40, 1200):
        positives = frozenset(rng.choice(names, count, replace=False).tolist())
        order = rng.permutation(names)
        hits = np.isin(order[:1000], list(positives))
        expected = average_precision_score(hits, -np.arange(1000)) * hits.sum() / min(1000, count) if hits.any() else 0
        labelled = LabelledSet("x", "x", "x", tuple(names.tolist()), (Query("q", positives),))
        assert measured(labelled, [order], "truncated-1000").mean_average_precision == pytest.approx(expected)


def gap(predictions, solution):
    """The challenge's definition: Σ P(i)·rel(i) over all predictions in order, over images with a landmark."""
    order = sorted(predictions, key=lambda image: (-predictions[image][1], image, predictions[image][0]))
    total, right = 0.0, 0
    for place, image in enumerate(order, 1):
        if predictions[image][0] in solution[image]:
            right += 1
            total += right / place
    return total / sum(bool(labels) for labels in solution.values())


def test_gap_by_hand():
    solution = {"a": {1}, "b": {2, 3}, "c": set(), "d": {4}, "e": set()}
    predictions = {
        "a": Prediction(1, 0.9),  # right, first
        "c": Prediction(9, 0.8),  # shows nothing: wrong, takes the second place
        "b": Prediction(3, 0.7),  # either label is right: third
        "zz": Prediction(1, 5.0),  # of the other part
    }  # d is missing
    found = recognise(solution, predictions)
    assert found.gap == pytest.approx((1 / 1 + 2 / 3) / 3)
    assert (found.images, found.answerable, found.predicted, found.right) == (5, 3, 3, 2)


@settings(max_examples=60)
@given(data=st.data())
def test_gap_is_its_definition(data):
    images = [f"i{number}" for number in range(12)]
    labels = st.integers(0, 3)
    solution = {image: frozenset(data.draw(st.sets(labels, max_size=2))) for image in images}
    if not any(solution.values()):
        solution["i0"] = frozenset({1})
    asked = data.draw(st.sets(st.sampled_from(images)))
    predictions = {image: (data.draw(labels), data.draw(st.sampled_from([0.1, 0.5, 0.9]))) for image in sorted(asked)}
    found = recognise(solution, {image: Prediction(*each) for image, each in predictions.items()})
    assert found.gap == pytest.approx(gap(predictions, solution))


def test_recognition_files_keep_public_and_private_apart(tmp_path):
    file = tmp_path / "recognition_solution_v2.1.csv"
    lines = ["a000,1 2,Public", "b000,,Public", "c000,3,Private", "d000,4,Ignored"]
    file.write_text("id,landmarks,Usage\n" + "\n".join(lines) + "\n")
    parts = read_recognition(file)
    assert parts == {
        "public": {"a000": frozenset({1, 2}), "b000": frozenset()},
        "private": {"c000": frozenset({3})},
    }
    predictions = {"a000": Prediction(2, 0.25), "c000": Prediction(4, 1.0)}
    write_predictions(predictions, tmp_path / "submission.csv")
    assert read_predictions(tmp_path / "submission.csv") == predictions
    assert [recognise(part, predictions).gap for part in parts.values()] == [1.0, 0.0]


@pytest.mark.parametrize("cell", ["1", "1 2 3", "x 0.5", "1 nan"])
def test_a_prediction_that_is_none_is_refused(tmp_path, cell):
    file = tmp_path / "submission.csv"
    file.write_text(f"id,landmarks\na000,\nb000,{cell}\n")
    with pytest.raises(GroundTruthError, match="b000"):
        read_predictions(file)


def test_more_right_predictions_than_queries_with_an_answer_are_refused():
    with pytest.raises(ValueError, match="2 positives retrieved of 1"):
        micro_average_precision(np.array([True, False, True]), 1)


def test_nothing_to_recognise_is_an_error():
    with pytest.raises(GroundTruthError, match="no test image shows a landmark"):
        recognise({"a": set()}, {"a": Prediction(1, 1.0)})
