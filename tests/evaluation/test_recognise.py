"""Recognition worked by hand, on numbers that are similar as they are near; GAP beside a second implementation."""

import csv
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from resight.cli.main import app
from resight.errors import GroundTruthError, ResightError
from resight.evaluation import LabelledSet, Query, load_labelled
from resight.evaluation.datasets.recognition import Prediction, recognise
from resight.evaluation.recognise import predict, read_set_predictions, solution, write_set_predictions

# The database: two photos of ten, two of twenty, one of which no object is known. Queries, of which the last two show
# nothing that is there, the last being next to the unknown one.
NUMBERS = {"a/1.txt": 10, "a/2.txt": 10.4, "b/1.txt": 20, "b/2.txt": 20.5, "x.txt": 30}
ASKED = {"q/ten.txt": 10.1, "q/twenty.txt": 19, "q/near.txt": 15.3, "q/none.txt": 13, "q/x.txt": 30.2}
TRUTH = {
    "images": {path: {"instance": path[0]} for path in NUMBERS if path != "x.txt"},
    "database": list(NUMBERS),
    "queries": {
        "q/ten.txt": {"positives": ["a/1.txt", "a/2.txt"]},
        "q/twenty.txt": {"positives": ["b/1.txt", "b/2.txt"]},
        "q/near.txt": {"positives": ["a/1.txt", "a/2.txt"]},
        "q/none.txt": {"positives": []},
        "q/x.txt": {"positives": []},
    },
}


@pytest.fixture
def numbers(write_set, number_collection):
    return load_labelled(write_set(NUMBERS | ASKED, **TRUTH))


def test_each_query_is_called_by_what_it_finds_first(numbers, recipe):
    assert solution(numbers) == {
        "q/ten.txt": {"a"},
        "q/twenty.txt": {"b"},
        "q/near.txt": {"a"},
        "q/none.txt": set(),
        "q/x.txt": set(),
    }
    told = predict(numbers, recipe)
    assert {query: (p.label, pytest.approx(p.confidence, abs=1e-5)) for query, p in told.items()} == {
        "q/ten.txt": ("a", -0.1),
        "q/twenty.txt": ("b", -1),
        "q/near.txt": ("b", -4.7),  # 20 is 4.7 away, 10.4 is 4.9
        "q/none.txt": ("a", -2.6),
    }  # the last is nearest to what nobody has named
    # In order: ten right, twenty right, none wrong, near wrong.
    found = recognise(solution(numbers), told)
    assert found.gap == pytest.approx((1 / 1 + 2 / 2) / 3)
    assert (found.images, found.answerable, found.predicted, found.right) == (5, 3, 4, 2)


def test_votes_are_summed_and_what_is_not_accepted_does_not_vote(numbers, recipe):
    """The scores are negative, so that a sum of two is less than one of them."""
    told = predict(numbers, recipe, votes=3)
    # Of 15.3: 20 at 4.7, 10.4 at 4.9, 20.5 at 5.2. Of 30.2: 30 at 0.2, and further two of b.
    assert (told["q/near.txt"].label, told["q/near.txt"].confidence) == ("a", pytest.approx(-4.9))
    assert "q/x.txt" not in told
    assert set(predict(numbers, recipe, accepted=True)) == {"q/ten.txt"}  # within 0.5
    with pytest.raises(ResightError, match="at least one result has to vote, not 0"):
        predict(numbers, recipe, votes=0)


def test_a_query_and_junk_do_not_vote(write_set, number_collection, recipe):
    truth = {
        "images": {path: {"instance": path[0]} for path in NUMBERS},
        "database": list(NUMBERS),
        "queries": {"a/1.txt": {"positives": ["b/1.txt"], "junk": ["a/2.txt"]}},
    }
    labelled = load_labelled(write_set(NUMBERS, **truth))
    told = predict(labelled, recipe)
    assert told == {"a/1.txt": Prediction("b", -10.0)} and recognise(solution(labelled), told).gap == 1


def test_what_several_subsets_ask_is_answered_once_for_all_of_them(write_set, number_collection, recipe):
    """As of Revisited Oxford's easy and hard answers, each of which is junk where the others are asked for."""
    easy = Query("q/ten.txt", frozenset({"a/1.txt"}), junk=frozenset({"a/2.txt", "b/1.txt"}), subset="easy")
    hard = Query("q/ten.txt", frozenset({"a/2.txt"}), junk=frozenset({"a/1.txt", "b/1.txt"}), subset="hard")
    plain = load_labelled(write_set(NUMBERS | ASKED, **TRUTH))
    for queries in ((easy, hard), (hard, easy)):
        labelled = replace(plain, queries=queries, groups={"a/1.txt": "a", "a/2.txt": "A", "b/1.txt": "b"})
        assert solution(labelled) == {"q/ten.txt": {"a", "A"}}
        told = predict(labelled, recipe)
        assert told == {"q/ten.txt": Prediction("a", pytest.approx(-0.1, abs=1e-5))}


def naive_gap(predictions, answers):
    """Of rows (query, label, confidence): by the definition, one after the other."""
    rows = sorted(predictions, key=lambda row: (-row[2], row[0]))
    score, right = 0.0, 0
    for place, (query, label, _) in enumerate(rows, 1):
        if label in answers[query]:
            right += 1
            score += right / place
    return score / sum(1 for labels in answers.values() if labels)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_gap_of_a_file_is_its_definition(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("gap")
    queries = [f"q {number}, é.jpg" for number in range(6)]
    positives = data.draw(st.lists(st.sets(st.sampled_from(["x/1.jpg", "y/1.jpg"])), min_size=6, max_size=6))
    positives[0] = {"x/1.jpg"}
    labelled = LabelledSet(
        name="six",
        file=folder,
        root=folder,
        database=("x/1.jpg", "y/1.jpg"),
        queries=tuple(Query(path, frozenset(right)) for path, right in zip(queries, positives, strict=True)),
        groups={"x/1.jpg": "X, the first", "y/1.jpg": 'the "Y"'},
    )
    labels = st.sampled_from(["X, the first", 'the "Y"', "neither"])
    asked = data.draw(st.lists(st.sampled_from(queries), unique=True, min_size=1))
    rows = [(query, data.draw(labels), data.draw(st.sampled_from([0.25, 0.5, 1e-9, 7.0]))) for query in asked]
    write_set_predictions({query: Prediction(label, value) for query, label, value in rows}, folder / "p.csv")
    told, strangers = read_set_predictions(folder / "p.csv", labelled)
    assert sorted((query, p.label, p.confidence) for query, p in told.items()) == sorted(rows) and not strangers
    answers = solution(labelled)
    assert recognise(answers, told).gap == pytest.approx(naive_gap(rows, answers))


def test_somebody_else_s_file_goes_by_names_and_is_checked(numbers, tmp_path):
    file = tmp_path / "theirs.csv"
    file.write_text("confidence,query,label,why\n0.5,ten,b,x\n0.1,near.txt,a,x\n,q/x.txt,,x\n1,other,a,x\n")
    told, strangers = read_set_predictions(file, numbers)
    assert told == {"q/ten.txt": Prediction("b", 0.5), "q/near.txt": Prediction("a", 0.1)} and strangers == ("other",)
    assert recognise(solution(numbers), told).gap == pytest.approx((1 / 2) / 3)
    for text, said in (
        ("query,label\nten,a\n", "has no column confidence"),
        ("query,label,confidence\nten,a,1\nq/ten.txt,b,1\n", "line 3: q/ten.txt has a prediction already"),
        ("query,label,confidence\nten,a,high\n", "line 2: the confidence must be a number, not 'high'"),
        ("query,label,confidence\nten,a,inf\n", "line 2: the confidence must be a number, not 'inf'"),
        ("query,label,confidence\nten,a\n", "line 2: has not as many cells as the header"),
        ("query,label,confidence\nten,a,1,2\n", "line 2: has not as many cells as the header"),
        ("query,label,confidence\nno,a,1\n", "none of its 1 queries is one of numbers, such as no"),
    ):
        file.write_text(text)
        with pytest.raises(GroundTruthError, match=said):
            read_set_predictions(file, numbers)


def run(*arguments):
    return CliRunner().invoke(app, ["recognise", *map(str, arguments)])


def test_the_command_predicts_writes_and_judges_alike(numbers, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("resight.cli.recognise.chosen_recipe", lambda name, weights: recipe)
    ours = run(numbers.root, "--into", tmp_path / "ours.csv", "--json", "-q")
    assert ours.exit_code == 0, ours.stderr
    found = json.loads(ours.stdout)["numbers"]
    assert found == {"images": 5, "answerable": 3, "predicted": 4, "right": 2, "gap": pytest.approx(2 / 3)}
    rows = list(csv.DictReader((tmp_path / "ours.csv").open()))
    assert [row["label"] for row in rows] == ["a", "b", "b", "a"] and rows[0]["query"] == "q/ten.txt"
    again = run(numbers.root, "--predictions", tmp_path / "ours.csv", "--json")
    assert json.loads(again.stdout)["numbers"] == found
    table = run(numbers.root, "--predictions", tmp_path / "ours.csv").stdout
    assert table.splitlines()[1].split() == ["numbers", "66.7", "2", "3", "4", "5"]
    lost = run(numbers.root, "--into", tmp_path / "none/p.csv")
    assert lost.exit_code == 2 and "there is no folder" in lost.stderr
    both = run(numbers.root, "--predictions", tmp_path / "ours.csv", "--recipe", "mac")
    assert both.exit_code == 2 and "leave out --recipe" in both.stderr
    both = run(numbers.root, "--predictions", tmp_path / "ours.csv", "--votes", 2, "--accepted")
    assert both.exit_code == 2 and "leave out --votes, --accepted" in both.stderr


def test_the_command_scores_a_submission_of_gldv2(tmp_path):
    truth, theirs = tmp_path / "recognition_solution_v2.1.csv", tmp_path / "submission.csv"
    truth.write_text("id,landmarks,Usage\na000,1 2,Public\nb000,,Public\nc000,3,Private\nd000,4,Ignored\n")
    theirs.write_text("id,landmarks\nb000,1 0.9\na000,2 0.5\nc000,3 0.1\n")
    found = json.loads(run(truth, "--predictions", theirs, "--json").stdout)
    assert {part: one["gap"] for part, one in found.items()} == {"public": 0.5, "private": 1.0}
    without = run(truth)
    assert without.exit_code == 2 and "has answers without photos: give --predictions" in without.stderr
    truth.write_text("id,landmarks,Usage\nb000,,Public\n")
    nothing = run(truth, "--predictions", theirs)
    assert nothing.exit_code == 2 and "no test image shows a landmark" in nothing.stderr
