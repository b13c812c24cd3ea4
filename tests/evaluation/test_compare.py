"""Comparisons of reports that `evaluate` made, beside SciPy and by hand."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import scipy.stats

from resight.errors import ResightError
from resight.evaluation import evaluate, load_labelled
from resight.evaluation.bootstrap import holm
from resight.evaluation.compare import compare
from resight.evaluation.kept_report import read_report


@pytest.fixture
def report_of(number_collection, recipe, write_set, tmp_path):
    """The JSON of a report on 30 images of three numbers a group, after a change to what the images hold."""
    names = [f"{group}-{view}.txt" for group in range(10) for view in range(3)]
    queries = {
        name: {
            "positives": [other for other in names if other[0] == name[0] and other != name],
            "subset": "low" if int(name[0]) < 5 else "high",
        }
        for name in names
    }
    queries["none.txt"] = {"positives": []}

    def make(spread, seed=0, *, kind="trapezoidal", called="nearest-number", change=None):
        rng = np.random.default_rng(seed)
        files = {name: int(name[0]) + spread * rng.normal() for name in names}
        truth = {"database": names, "queries": copy.deepcopy(queries)}
        if change is not None:
            change(truth)
        folder = write_set({**files, "none.txt": -50}, **truth)
        number_collection.kept.clear()
        report = evaluate(folder, recipe.model_copy(update={"name": called}), ap=kind)
        path = tmp_path / f"{called}-{spread}-{seed}.json"
        path.write_text(report.to_json())
        return path

    return make


def test_the_figures_are_those_of_the_reports_and_the_tests_are_scipys(report_of):
    sharp, blurred = read_report(report_of(0.1, called="sharp")), read_report(report_of(0.6, called="blurred"))
    found = compare([sharp, blurred], seed=3)
    (other,) = found.others
    assert (found.first, other.name) == ("sharp", "blurred")
    by_name = {(d.figure, d.part): d for d in other.differences}
    # No junk, 29 results: P@10 can be told. No groups of four: N-S cannot.
    assert [name for name, part in by_name if part == "all"] == [
        *("mAP", "P@1", "P@10", "found", "accepted", "rejected")
    ]
    assert {part for _, part in by_name} == {"all", "high", "low"}
    d = by_name["mAP", "all"]
    assert d.first == pytest.approx(sharp.figures.mean_average_precision, abs=1e-12)
    assert d.other == pytest.approx(blurred.figures.mean_average_precision, abs=1e-12)
    assert (d.queries, by_name["rejected", "all"].queries, by_name["mAP", "low"].queries) == (30, 1, 15)
    first, second = (
        np.array([row.average_precision for row in report.rows if row.positives]) for report in (sharp, blurred)
    )
    assert d.difference == pytest.approx(np.mean(second - first), abs=1e-12)
    interval = scipy.stats.bootstrap(
        *((first, second), lambda x, y, axis: np.mean(y - x, axis=axis)),
        **{"paired": True, "n_resamples": 20_000, "rng": np.random.default_rng(0)},
    ).confidence_interval
    wide = interval.high - interval.low
    assert (d.low, d.high) == (pytest.approx(interval.low, abs=wide / 20), pytest.approx(interval.high, abs=wide / 20))
    assert d.differs and d.high < 0 and d.p == d.adjusted < 0.01
    assert not by_name["rejected", "all"].differs  # one query


def test_which_queries_changed_by_hand(report_of):
    sharp, blurred = read_report(report_of(0.1)), read_report(report_of(0.6, seed=1))
    (other,) = compare([sharp, blurred], changes=4).others
    before = {row.query: row for row in sharp.rows}
    moved = {
        row.query: row.average_precision - before[row.query].average_precision
        for row in blurred.rows
        if row.positives and row.average_precision != before[row.query].average_precision
    }
    assert other.better == sum(m > 0 for m in moved.values()) and other.worse == sum(m < 0 for m in moved.values())
    assert [abs(c.other - c.first) for c in other.changes] == sorted(map(abs, moved.values()), reverse=True)[:4]
    for change in other.changes:
        assert change.first_positive == before[change.query].first_positive


def test_equal_reports_have_no_difference(report_of):
    path = report_of(0.5)
    found = compare([read_report(path), read_report(path)])
    (other,) = found.others
    assert all((d.difference, d.low, d.high, d.p, d.p_sign) == (0, 0, 0, 1, 1) for d in other.differences)
    assert not any(d.differs for d in other.differences)
    assert (other.better, other.worse, other.changes) == (0, 0, ())
    assert "31 queries" in found.table() and "*" not in found.table().split("A difference")[0]


def test_several_reports_are_corrected(report_of):
    reports = [read_report(report_of(spread, seed)) for spread, seed in ((0.3, 0), (0.35, 1), (0.4, 2), (0.9, 3))]
    found = compare(reports, resamples=2000)
    for part in ("all", "low"):
        ds = [next(d for d in o.differences if (d.figure, d.part) == ("mAP", part)) for o in found.others]
        assert [d.adjusted for d in ds] == holm([d.p for d in ds])
        assert [d.differs for d in ds] == [(d.low > 0 or d.high < 0) and d.adjusted <= 0.05 + 1e-12 for d in ds]
    assert found.first == str(reports[0].file)  # all of one recipe: by their files
    assert "p Holm" in found.table() and "p Holm" not in compare(reports[:2]).table()
    pair = compare([reports[0], reports[3]], resamples=2000).others[0].differences[0]
    assert dataclasses.replace(pair, adjusted=0, differs=True) == dataclasses.replace(
        found.others[2].differences[0], adjusted=0, differs=True
    )


def test_json_is_the_comparison(report_of):
    reports = [read_report(report_of(spread)) for spread in (0.2, 0.5)]
    found = compare(reports)
    shape = json.loads(found.to_json())
    assert shape["format"] == "resight-comparison"
    assert shape["others"][0]["differences"][0]["difference"] == found.others[0].differences[0].difference
    assert found.to_json() == compare(reports).to_json() != compare(reports, seed=1).to_json()


def drop_a_query(truth):
    truth["queries"].pop("0-0.txt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "rectangular"}, "different kinds of average precision, 'trapezoidal' and 'rectangular'"),
        ({"change": drop_a_query}, "different revisions of the ground truth"),
        ({"change": lambda truth: truth.update(name="others")}, "different sets, 'numbers' and 'others'"),
    ],
)
def test_what_is_not_of_the_same_queries_is_refused(report_of, options, message):
    plain = read_report(report_of(0.2))
    with pytest.raises(ResightError, match=message):
        compare([plain, read_report(report_of(0.5, **options))])


def test_other_queries_of_one_revision_are_refused(report_of):
    one, two = read_report(report_of(0.2)), read_report(report_of(0.5))
    rows = dataclasses.replace(two, rows=two.rows[1:])
    with pytest.raises(ResightError, match=r"1 queries of the other report are not in it, such as 0-0\.txt"):
        compare([one, rows])
    with pytest.raises(ResightError, match="needs two reports"):
        compare([one])


def test_what_else_differs_is_noted(report_of):
    one, two = read_report(report_of(0.2)), read_report(report_of(0.5))
    older = dataclasses.replace(
        two,
        protocol=dataclasses.replace(
            two.protocol, versions={**two.protocol.versions, "numpy": "1.0"}, fitted_share={"whitening": 0.5}
        ),
        not_indexed={"a": "broken"},
    )
    whole = " ".join(compare([one, older]).notes)
    for part in ("numpy", "and 1.0", "whitening was fitted on 50 %", "1 images are not indexed"):
        assert part in whole


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda r: r["figures"].update(mean_average_precision=0.9), "its rows do not give its mAP of all"),
        (lambda r: r["rows"].pop(), "its rows do not give its rejected of all"),
        (lambda r: r["rows"][3].update(positives="many"), "rows → 3 → positives"),
        (lambda r: r.pop("protocol"), "protocol: Field required"),
        (lambda r: r.update(format="other"), "is no report"),
        (lambda r: r.update(version=2), "a report of version 2"),
    ],
)
def test_what_is_no_report_is_told(report_of, edit, message):
    path = report_of(0.4)
    shape = json.loads(path.read_text())
    edit(shape)
    path.write_text(json.dumps(shape))
    with pytest.raises(ResightError, match=message) as error:
        read_report(path)
    assert str(path) in str(error.value)


def test_what_is_no_file_or_no_json(tmp_path, write_set):
    with pytest.raises(ResightError, match="cannot be read"):
        read_report(tmp_path / "none.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ResightError, match="is no JSON"):
        read_report(tmp_path / "a.json")


def test_figures_that_junk_hides_are_left_out(report_of):
    def junk(truth):
        truth["queries"]["0-0.txt"]["junk"] = ["9-0.txt", "0-2.txt"]
        truth["queries"]["0-0.txt"]["positives"].remove("0-2.txt")

    one, two = (read_report(report_of(spread, change=junk)) for spread in (0.2, 0.5))
    assert load_labelled(one.file.parent).queries[0].junk
    figures = {(d.figure, d.part) for d in compare([one, two]).others[0].differences}
    assert ("P@10", "all") not in figures and ("P@10", "high") in figures and ("mAP", "all") in figures
