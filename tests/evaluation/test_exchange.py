"""Rankings out and in; theirs scored beside a second implementation written from the definitions."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resight.errors import GroundTruthError, ResightError
from resight.evaluation import LabelledSet, Query, evaluate, load_labelled
from resight.evaluation.compare import compare
from resight.evaluation.exchange import questions, read_rankings, write_rankings
from resight.evaluation.forms import FORMATS, Ranked
from resight.evaluation.kept_report import read_report
from resight.evaluation.qrels import with_qrels, write_qrels
from resight.evaluation.rank import rank
from resight.evaluation.score import score

DATABASE = ("x/a.jpg", "x/b c.jpg", "x/d%20e.jpg", "x/d e.jpg", "y/a.jpg", "q.jpg")
HAND = LabelledSet(
    name="hand",
    file=Path("gt.json"),
    root=Path("/photos"),
    database=DATABASE,
    queries=(
        Query("q.jpg", positives=frozenset({"x/a.jpg", "x/d e.jpg"}), junk=frozenset({"x/b c.jpg"}), subset="one"),
        Query("out.jpg", positives=frozenset({"y/a.jpg"}), box=(0, 0, 5, 5), subset="two"),
        Query("un asked.jpg", positives=frozenset({"x/a.jpg"}), subset="two"),
    ),
    revision="0" * 64,
)


def ranked(places, scores=None):
    return Ranked(np.array(places, np.int64), None if scores is None else np.array(scores, float))


def naive_ap(results, positives, junk, itself, kind):
    """From the definitions: walk down the list, dropping junk and the query, counting repeats as wrong."""
    rank, found, total = 0, [], 0.0
    for image in results:
        if image in junk or image == itself:
            continue
        rank += 1
        if kind == "truncated" and rank > 100:
            break
        right = image in positives and image not in found
        if right:
            found.append(image)
            if kind == "trapezoidal":
                before = 1.0 if rank == 1 else (len(found) - 1) / (rank - 1)
                total += (before + len(found) / rank) / 2
            else:
                total += len(found) / rank
    return total / (min(len(positives), 100) if kind == "truncated" else len(positives))


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_written_is_read(form, tmp_path):
    found = {
        ("q.jpg", None): ranked([1, 3, 5, 0, 2, 4], [0.9, 0.9, 0.5, 1 / 3, -1e-9, -7.25e10]),
        ("un asked.jpg", None): ranked([4, 2], [1e-30, 1e-31]),
    }
    write_rankings(tmp_path / "r", HAND, found, form)
    back = read_rankings(tmp_path / "r", HAND, form)
    assert back.found.keys() == found.keys() and back.strangers == () and back.format == form
    for question, one in found.items():
        np.testing.assert_array_equal(back.found[question].places, one.places)
        if form in ("trec", "csv"):
            np.testing.assert_array_equal(back.found[question].scores, one.scores)
    assert [p.name for p in tmp_path.iterdir()] == ["r"]


def test_ranks_are_revisitops_array(tmp_path):
    write_rankings(tmp_path / "r.npy", HAND, {("q.jpg", None): ranked([3, 0]), ("un asked.jpg", None): ranked([4])})
    array = np.load(tmp_path / "r.npy")
    assert array.dtype == np.int64
    assert array.tolist() == [[3, -1, 4], [0, -1, -1]]


def test_a_run_is_trec_evals(tmp_path):
    write_rankings(tmp_path / "r.run", HAND, {("un asked.jpg", None): ranked([1, 2], [0.5, 0.25])})
    assert (tmp_path / "r.run").read_text() == (
        "un%20asked.jpg Q0 x/b%20c.jpg 1 0.5 resight\nun%20asked.jpg Q0 x/d%2520e.jpg 2 0.25 resight\n"
    )
    write_qrels(tmp_path / "qrels", HAND)
    assert (tmp_path / "qrels").read_text().splitlines()[:3] == [
        *("q.jpg 0 x/a.jpg 1", "q.jpg 0 x/d%20e.jpg 1", "q.jpg 0 x/b%20c.jpg -1")
    ]


def test_figures_by_hand(tmp_path):
    """q: itself and junk go; right, wrong, right: trapezia (1 + 1)/2 and (1/2 + 2/3)/2. out: second. un asked: 0."""
    (tmp_path / "r.csv").write_text(
        "query,image,rank\nq.jpg,q.jpg,1\nq.jpg,x/b c.jpg,2\nq.jpg,x/a.jpg,3\nq.jpg,x/d%20e.jpg,4\nq.jpg,x/d e.jpg,5\n"
        "out,x/a.jpg,1\nout,y/a.jpg,7\nother,x/a.jpg,1\n"
    )
    found = score(HAND, read_rankings(tmp_path / "r.csv", HAND))
    aps = [row.average_precision for row in found.rows]
    assert aps == pytest.approx([(1 + 7 / 12) / 2, (0 + 1 / 2) / 2, 0])
    assert found.figures.mean_average_precision == pytest.approx(sum(aps) / 3)
    assert found.figures.precision_at_1 == pytest.approx(1 / 3)
    assert found.subsets["two"].mean_average_precision == pytest.approx(1 / 8)
    assert (found.missing, found.strangers, found.repeats) == (("un asked.jpg",), ("other",), 0)
    assert found.figures.acceptance.found is None  # a file does not say what it accepts
    assert found.protocol.ties == "as the file has them"
    assert "1 queries have no ranking and score 0, such as un asked.jpg" in found.warnings[0]
    assert "missing" in found.table() and "un asked" not in found.table()
    assert [(r.path, r.verdict) for r in found.rows[0].results][:2] == [("x/b c.jpg", "junk"), ("x/a.jpg", "positive")]


def test_a_repeat_uses_up_a_rank(tmp_path):
    (tmp_path / "r.csv").write_text("id,images\nq.jpg,x/a.jpg x/a.jpg x/d%20e.jpg\n")
    found = score(HAND, read_rankings(tmp_path / "r.csv", HAND, "gldv2"), ap="rectangular")
    assert found.rows[0].average_precision == pytest.approx((1 + 2 / 3) / 2)
    assert found.repeats == 1
    assert [r.verdict for r in found.rows[0].results] == ["positive", "wrong", "positive"]


def test_ties_go_by_place_whatever_the_files_order(tmp_path):
    lines = ["q.jpg Q0 y/a.jpg 1 0.5 t", "q.jpg Q0 x/d%20e.jpg 2 0.5 t", "q.jpg Q0 x/a.jpg 3 0.5 t"]
    (tmp_path / "r.run").write_text("\n".join(lines))
    found = score(HAND, read_rankings(tmp_path / "r.run", HAND))
    assert [r.path for r in found.rows[0].results] == ["x/a.jpg", "x/d e.jpg", "y/a.jpg"]
    assert found.protocol.ties == "equal scores are ordered by image id"


IMAGES = tuple(f"{i}.jpg" for i in range(12))


@settings(deadline=None, max_examples=60)
@given(data=st.data(), kind=st.sampled_from(["trapezoidal", "rectangular", "truncated"]))
def test_figures_are_the_second_implementations(data, kind, tmp_path_factory):
    queries, found = [], {}
    for q in range(3):
        roles = data.draw(st.lists(st.sampled_from("pjw"), min_size=12, max_size=12))
        path = f"{q}.jpg" if q < 2 else "outside.jpg"
        of = {r: frozenset(i for i, role in zip(IMAGES, roles, strict=True) if role == r and i != path) for r in "pj"}
        queries.append(Query(path, of["p"] or frozenset({"11.jpg"}), of["j"] - {"11.jpg"}))
        places = data.draw(st.lists(st.integers(0, 11), max_size=20))  # repeats among them
        if places:
            found[path, None] = ranked(places)
    labelled = LabelledSet("drawn", Path("gt.json"), Path("/p"), IMAGES, tuple(queries))
    if not found:
        return
    file = tmp_path_factory.mktemp("r") / "r.csv"
    write_rankings(file, labelled, found)
    scored = score(labelled, read_rankings(file, labelled), ap=kind)
    expected = [
        naive_ap(
            [IMAGES[p] for p in found[q.path, None].places] if (q.path, None) in found else [],
            *(q.positives, q.junk, q.path, kind),
        )
        for q in queries
    ]
    assert [row.average_precision for row in scored.rows] == pytest.approx(expected, abs=1e-12)
    assert scored.figures.mean_average_precision == pytest.approx(np.mean(expected), abs=1e-12)


@pytest.fixture
def numbers(number_collection, write_set):
    """Numbers, similar as they are near: two of a kind, junk, a query outside the database and one in it."""
    files = {
        "d 1.txt": 1,
        "d2.txt": 1.25,
        "d3.txt": 4,
        "sub/d4.txt": 4.5,
        "d5.txt": 1.5,
        "out.txt": 4.1,
        "bad.txt": "?",
    }
    queries = {
        "d 1.txt": {"positives": ["d2.txt", "d3.txt"], "junk": ["d5.txt"]},
        "out.txt": {"positives": ["sub/d4.txt", "bad.txt"], "box": [0, 0, 1, 1]},
    }
    images = {"out.txt": {"size": [5, 5]}}
    database = [path for path in files if path != "out.txt"]
    return load_labelled(write_set(files, database=database, queries=queries, images=images))


@pytest.mark.parametrize("form", FORMATS)
def test_ours_scored_as_theirs_has_our_figures(numbers, recipe, form, tmp_path):
    report = evaluate(numbers, recipe)
    labelled, found = rank(numbers, recipe)
    write_rankings(tmp_path / "ours", labelled, found, form)
    scored = score(labelled, read_rankings(tmp_path / "ours", labelled, form))
    same = dataclasses.replace(scored.figures, acceptance=report.figures.acceptance)
    assert same == report.figures and 0 < same.mean_average_precision < 1
    assert [r.average_precision for r in scored.rows] == [r.average_precision for r in report.rows]
    assert [[e.path for e in r.results] for r in scored.rows] == [[e.path for e in r.results] for r in report.rows]


def test_a_score_is_compared_with_a_report(numbers, recipe, tmp_path):
    labelled, found = rank(numbers, recipe, top=2)
    assert [len(one.places) for one in found.values()] == [2, 2]
    write_rankings(tmp_path / "theirs.run", labelled, found)
    (tmp_path / "a.json").write_text(evaluate(numbers, recipe).to_json())
    (tmp_path / "b.json").write_text(score(labelled, read_rankings(tmp_path / "theirs.run", labelled)).to_json())
    both = compare([read_report(tmp_path / "a.json"), read_report(tmp_path / "b.json")])
    assert (both.first, both.others[0].name) == ("nearest-number", "theirs.run")
    # No acceptance, and lists of two do not tell P@10.
    assert [d.figure for d in both.others[0].differences] == ["mAP", "P@1"]
    assert json.loads((tmp_path / "b.json").read_text())["costs"] is None


def test_judgements_out_and_in(numbers, tmp_path):
    write_qrels(tmp_path / "qrels", numbers)
    judged = with_qrels(numbers, tmp_path / "qrels")
    assert judged.queries == numbers.queries and judged.revision != numbers.revision
    (tmp_path / "other").write_text("out 0 d2 1\nout 0 d3.txt 0\nout 0 d4 -2\n")
    other = with_qrels(numbers, tmp_path / "other")
    (query,) = other.queries
    assert (query.path, query.positives, query.junk) == ("out.txt", {"d2.txt"}, {"sub/d4.txt"})
    assert query.box == (0, 0, 1, 1) and "judgements of other" in other.protocol


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("out 0 d2\n", "line 1: is not QUERY 0 IMAGE RELEVANCE"),
        ("out 0 d2 1\nout 0 d2.txt 1\n", "line 2: d2.txt is judged for out already"),
        ("out 0 d2 1\nwho 0 d2 1\n", "line 2: numbers has no query who"),
        ("out 0 d9 1", "no database image d9"),
        ("\n", "judges nothing"),
    ],
)
def test_judgements_that_are_none(numbers, tmp_path, text, message):
    (tmp_path / "qrels").write_text(text)
    with pytest.raises(GroundTruthError, match=message):
        with_qrels(numbers, tmp_path / "qrels")


CSV = "query,image,rank,score\n"


@pytest.mark.parametrize(
    ("form", "text", "message"),
    [
        ("csv", "", "line 1: the header is ''"),
        ("csv", "query,image\n", "the header is 'query,image', not"),
        ("csv", CSV + "q,x/a.jpg,1\n", "line 2: 3 cells, and the header has 4"),
        ("csv", CSV + "q,x/a.jpg,1.5,0\n", "line 2: rank '1.5' is no whole number"),
        ("csv", CSV + "q,x/a.jpg,1,nan\n", "line 2: score 'nan' is no finite number"),
        ("csv", CSV + "q,x/a.jpg,1,0\nq,y/a.jpg,1,0\n", "line 3: rank 1 of q is given twice"),
        ("csv", CSV + "q,x/a.jpg,1,0\nq,y/a.jpg,2,1\n", "line 3: rank 2 of q has a higher score"),
        ("csv", CSV + "q,a,1,0\n", "line 2: hand has no database image a, or several of that name"),
        ("csv", CSV + "q,zz.jpg,1,0\n", "line 2: hand has no database image zz.jpg"),
        ("csv", CSV + "who,x/a.jpg,1,0\n", "none of its 1 queries is one of hand, such as who"),
        ("csv", CSV + 'q,"x/a.jpg,1,0\n', "line 2: unexpected end of data"),
        ("trec", "q Q0 x/a.jpg 1 0.5\n", "line 1: 5 fields, not QUERY Q0 IMAGE RANK SCORE TAG"),
        ("trec", "q Q0 x/a.jpg 1 0.5 t\nq Q0 y/a.jpg 2 high t\n", "line 2: score 'high' is no finite number"),
        ("trec", "", "none of its 0 queries"),
        ("gldv2", "id,image\n", "the header is 'id,image', not id,images"),
        ("gldv2", "id,images\nq,x/a.jpg\nq,y/a.jpg\n", "line 3: query q has a line already"),
        ("ranks", "text", "is no .npy array"),
        ("ranks", "", "is no .npy array"),
    ],
)
def test_what_is_malformed_is_named_with_its_line(form, text, message, tmp_path):
    file = tmp_path / "r.txt"
    file.write_text(text)
    with pytest.raises(ResightError, match=message) as error:
        read_rankings(file, HAND, form)
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 4), int), "has 4 columns for the 3 queries of hand: transpose it"),
        (np.zeros((3, 6), int), "transpose it"),
        (np.full((6, 3), 6), "column 0 has 6, and hand has the images 0 to 5: places count from 0"),
        (np.array([[0, -1, 0], [-2, -1, 0]]), "column 0 has -2"),
        (np.array([[0, -1, 0], [1, 2, 0]]), "column 1 goes on after -1"),
        (np.full((6, 3), -1), "none of its 0 queries"),
        (np.zeros((6, 3)), "one array of integers"),
        (np.zeros(3, int), "one array of integers"),
    ],
)
def test_ranks_that_do_not_fit(array, message, tmp_path):
    np.save(tmp_path / "r.npy", array)
    with pytest.raises(ResightError, match=message):
        read_rankings(tmp_path / "r.npy", HAND)


def test_pickles_are_not_opened(tmp_path):
    np.save(tmp_path / "r.npy", np.array([[print]], object), allow_pickle=True)
    with pytest.raises(ResightError, match=r"is no \.npy array"):
        read_rankings(tmp_path / "r.npy", HAND)


def test_what_cannot_be_written(tmp_path):
    found = {("q.jpg", None): ranked([1])}
    with pytest.raises(ResightError, match=r"trec_eval orders by score, and q\.jpg has none"):
        write_rankings(tmp_path / "r.run", HAND, found)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ResightError, match=r"its suffix does not tell its form: give --format ranks, trec, csv, gldv2"):
        write_rankings(tmp_path / "r.txt", HAND, found)
    with pytest.raises(ResightError, match="no form of rankings is called 'xml'"):
        write_rankings(tmp_path / "r.txt", HAND, found, "xml")
    with pytest.raises(ResightError, match="cannot write"):
        write_rankings(tmp_path / "none/r.npy", HAND, found)
    boxes = dataclasses.replace(
        HAND, queries=tuple(Query("q.jpg", frozenset({"x/a.jpg"}), box=(0, 0, side, 1)) for side in (1, 2))
    )
    both = {question: ranked([0]) for question in questions(boxes)}
    with pytest.raises(ResightError, match=r"q\.jpg is asked with several boxes"):
        write_rankings(tmp_path / "r.csv", boxes, both)
    write_rankings(tmp_path / "r.npy", boxes, both)
    assert len(read_rankings(tmp_path / "r.npy", boxes).found) == 2


def test_subsets_that_ask_the_same_share_a_ranking(tmp_path):
    easy, hard = frozenset({"x/a.jpg"}), frozenset({"y/a.jpg"})
    twice = dataclasses.replace(
        HAND, queries=(Query("q.jpg", easy, hard, subset="easy"), Query("q.jpg", hard, easy, subset="hard"))
    )
    write_rankings(tmp_path / "r.npy", twice, {("q.jpg", None): ranked([1, 0, 4])})
    found = score(twice, read_rankings(tmp_path / "r.npy", twice), ap="rectangular")
    assert [row.average_precision for row in found.rows] == [0.5, 0.5]  # the other's answer is junk
    with pytest.raises(ResightError, match="several subsets"):
        write_qrels(tmp_path / "qrels", twice)
