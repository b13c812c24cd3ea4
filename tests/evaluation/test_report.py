"""The report as JSON and as a table."""

import json

import pytest

from resight.evaluation.protocol import evaluate
from resight.evaluation.table import align

DATABASE = {"db/1": 1, "db/2": 2, "db/é <3>": 3}


@pytest.fixture
def report(write_set, recipe, number_collection):
    root = write_set(
        {**DATABASE, "q/a": 1.9, "q/none": 3},
        database=list(DATABASE),
        queries={"q/a": {"positives": ["db/1"], "subset": "near"}, "q/none": {"positives": []}},
    )
    return evaluate(root, recipe)


def test_json_is_stable_but_for_costs(report, write_set, recipe):
    again = evaluate(report.root, recipe)
    first, second = json.loads(report.to_json()), json.loads(again.to_json())
    assert list(first) == list(second)
    first.pop("costs"), second.pop("costs")
    assert json.dumps(first) == json.dumps(second)


def test_json_holds_the_figures_and_names(report):
    shape = json.loads(report.to_json())
    assert (shape["format"], shape["version"]) == ("resight-report", 1)
    assert shape["figures"]["mean_average_precision"] == pytest.approx(1 / 4)
    assert shape["figures"]["acceptance"]["rejected"] == 0.0
    assert shape["subsets"]["near"]["queries"] == 1
    assert shape["rows"][1]["results"][0]["path"] == "db/é <3>"
    assert shape["costs"]["milliseconds_per_image"] > 0


def test_the_table_is_aligned_and_says_the_protocol(report):
    text = report.table()
    ranking = text.split("\n\n")[0].splitlines()
    assert len({len(line) for line in ranking}) == 1
    head = ranking[0].split()
    assert dict(zip(head, ranking[1].split()[1:], strict=False))["mAP"] == "25.0"
    assert "N-S" not in head  # not defined for this set
    assert ranking[2].split()[0] == "near"
    for said in (
        "trapezoidal",
        "by image id",
        "removed from the ranking",
        "nearest-number",
        "1 of them without",
    ):
        assert said in text
    assert not any(line != line.rstrip() for line in text.splitlines())


def test_align_worked_by_hand():
    table = (("", "mAP"), ("all", "5.0"), ("b", "100.0"))
    assert align(table) == "       mAP\nall    5.0\nb    100.0"
    assert align((("a", "long text"), ("bbb", "x")), numbers=False) == "a    long text\nbbb  x"
