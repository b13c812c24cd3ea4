"""`resight search`: formats, exit codes and queries, over a collection that answers from a dictionary."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resight.cli.queries import parse_box
from resight.cli.search import NEAR
from resight.errors import ImageError, QueryError
from resight.search.ranking import Ranking
from resight.store.where import All, Between, Equals


def asked(fake):
    return [call[1:] for call in fake.calls if call[0] == "search"]


def test_the_table_shows_accepted_results_and_escapes_names(resight):
    result = resight("search", "c", "a.jpg")
    assert result.exit_code == 0
    heading, columns, first, second = result.stdout.splitlines()
    assert heading == "a.jpg: 2 matches among 3 images (1.00 s)"
    assert columns.split() == ["rank", "id", "probability", "match", "inliers", "box", "path"]
    assert first.split() == ["1", "id:3", "0.980", "yes", "5", "10,20,210,120", "/photos/th\\tree.jpg"]
    assert second.split() == ["2", "id:1", "0.750", "yes", "5", "10,20,210,120", "/photos/one.jpg"]
    assert first.index("/photos") == second.index("/photos") == columns.index("path")


def test_conditions_are_joined_and_given_on(resight, fake):
    given = ("--where", "year >= 1900", "--where", 'place = "Saint-Denis"', "--exact")
    assert resight("search", "c", "a.jpg", *given).exit_code == 0
    assert resight("search", "c", "a.jpg").exit_code == 0
    scopes = [call[1:] for call in fake.calls if call[0] == "scope"]
    assert scopes == [(All((Between("year", low=1900), Equals("place", "Saint-Denis"))), True), (None, False)]
    result = resight("search", "c", "a.jpg", "--where", "year >>")
    assert result.exit_code == 2 and "condition 'year >>'" in result.stderr


def test_all_adds_the_tail(resight):
    last = resight("search", "c", "a.jpg", "--all").stdout.splitlines()[-1]
    assert last.split(maxsplit=4) == ["3", "id:2", "0.100", "no", "/photos/two, too.jpg"]


def test_the_score_of_a_match_is_the_users_choice(resight):
    assert "1 match among" in resight("search", "c", "a.jpg", "--least", "0.8").stdout
    assert "3 matches among" in resight("search", "c", "a.jpg", "--least", "0.1").stdout
    strict = resight("search", "c", "a.jpg", "--least", "0.99", "--json")
    answer = json.loads(strict.stdout)["queries"][0]
    assert (strict.exit_code, answer["found"], answer["threshold"], answer["results"]) == (1, False, 0.99, [])
    wrong = resight("search", "c", "a.jpg", "--least", "98")
    assert wrong.exit_code == 2 and "as 0.9 for 90 %" in wrong.stderr


def test_a_recipe_that_only_ranks_tells_matches_by_a_score_that_the_user_chooses(resight, fake):
    fake.answers["a.jpg"] = Ranking(np.array([3, 1]), np.float32([41, 7]), (None, None), -np.inf, False)
    heading, _, first = resight("search", "c", "a.jpg", "--least", "12").stdout.splitlines()
    assert "1 match among" in heading and first.split()[:4] == ["1", "id:3", "41.000", "yes"]
    assert resight("search", "c", "a.jpg", "--least", "50").exit_code == 1


@pytest.mark.parametrize("form", [(), ("--json",), ("--csv",), ("--paths",), ("--all",)])
def test_nothing_found_exits_with_1_in_every_form(resight, form):
    assert resight("search", "c", "none.jpg", *form).exit_code == 1


def test_nothing_found_is_said_on_the_right_stream(resight):
    table = resight("search", "c", "none.jpg")
    assert "nothing found" in table.stdout and "0.200" in table.stdout and not table.stderr
    for form in ("--paths", "--csv"):
        result = resight("search", "c", "none.jpg", form)
        assert "nothing found" in result.stderr and "nothing" not in result.stdout
        assert not resight("search", "c", "none.jpg", form, "--quiet").stderr
    assert json.loads(resight("search", "c", "none.jpg", "--json").stdout)["queries"][0]["found"] is False


def test_a_recipe_that_cannot_tell_matches_is_not_said_to_have_found_any(resight, fake):
    fake.answers["a.jpg"] = Ranking(np.array([3, 1]), np.float32([0.9, 0.4]), (None, None), -np.inf, False)
    result = resight("search", "c", "a.jpg", "-k", "2")
    heading, columns, first, _ = result.stdout.splitlines()
    assert "the 2 most similar" in heading and "match" not in heading.replace("which are matches", "")
    assert "similarity" in columns and first.split() == ["1", "id:3", "0.900", "/photos/th\\tree.jpg"]
    assert result.exit_code == 0 and not result.stderr
    answer = resight("search", "c", "a.jpg", "--json").stdout
    assert "Infinity" not in answer and json.loads(answer)["queries"][0]["threshold"] is None


def test_one_query_found_is_enough(resight):
    assert resight("search", "c", "none.jpg", "a.jpg").exit_code == 0


def test_a_bad_query_is_named_and_stops_no_other(resight, fake):
    fake.answers["bad.jpg"] = ImageError("truncated file")
    result = resight("search", "c", "bad.jpg", "a.jpg", "--json")
    assert result.exit_code == 2
    assert result.stderr == "resight: bad.jpg: truncated file\n"
    bad, good = json.loads(result.stdout)["queries"]
    assert bad == {"query": "bad.jpg", "box": None, "found": False, "results": [], "error": "truncated file"}
    assert good["found"]


def test_json_is_one_object_with_all_the_evidence(resight):
    (answer,) = json.loads(resight("search", "c", "a.jpg", "--json").stdout)["queries"]
    assert {key: answer[key] for key in ("query", "box", "found", "calibrated", "threshold")} == {
        "query": "a.jpg",
        "box": None,
        "found": True,
        "calibrated": True,
        "threshold": 0.5,
    }
    assert answer["timing"] == {"describe": 0.25, "filter": 0.5, "verify": 0.25, "comparisons": 7}
    assert len(answer["results"]) == 2
    assert answer["results"][0] == {
        "rank": 1,
        "id": 3,
        "path": "/photos/th\tree.jpg",
        "score": 0.98,
        "accepted": True,
        "inliers": 5,
        "matches": 9,
        "agreement": 1.0,
        "homography": [[2.0, 0.0, 10.0], [0.0, 2.0, 20.0], [0.0, 0.0, 1.0]],
        "outline": [[10.0, 20.0], [210.0, 20.0], [210.0, 120.0], [10.0, 120.0]],
        "box": [10.0, 20.0, 210.0, 120.0],
        "others": [],
    }


def test_json_lists_the_boxes_of_further_instances(resight, fake):
    first = fake.answers["a.jpg"]
    other = replace(first.evidence[0], inliers=3, box=(1.0, 2.0, 3.456, 4.0), outline=None)
    evidence = (replace(first.evidence[0], others=(other,)), None, None)
    fake.answers["a.jpg"] = replace(first, evidence=evidence)
    found = json.loads(resight("search", "c", "a.jpg", "--json").stdout)["queries"][0]["results"][0]
    (listed,) = found["others"]
    assert set(listed) == {"inliers", "matches", "agreement", "homography", "outline", "box"}
    assert listed["box"] == [1, 2, 3.46, 4] and listed["inliers"] == 3 and listed["outline"] is None


def test_json_says_null_where_nothing_was_verified(resight):
    tail = json.loads(resight("search", "c", "a.jpg", "--json", "--all").stdout)["queries"][0]["results"][2]
    assert tail["accepted"] is False
    assert [tail[key] for key in ("inliers", "matches", "agreement", "homography", "outline", "box")] == [None] * 6


def test_json_of_no_query_at_all_is_still_json(resight):
    result = resight("search", "c", "@-", "--json", stdin="\n")
    assert json.loads(result.stdout) == {"queries": []}
    assert result.exit_code == 1


def test_csv_has_a_heading_and_quotes(resight):
    rows = list(csv.DictReader(io.StringIO(resight("search", "c", "a.jpg", "--csv", "--all").stdout)))
    assert rows[0] == {
        "query": "a.jpg",
        "rank": "1",
        "id": "3",
        "path": "/photos/th\tree.jpg",
        "score": "0.98",
        "accepted": "True",
        "inliers": "5",
        "matches": "9",
        "x1": "10.0",
        "y1": "20.0",
        "x2": "210.0",
        "y2": "120.0",
    }
    assert rows[2]["path"] == "/photos/two, too.jpg" and rows[2]["x1"] == rows[2]["inliers"] == ""


def test_paths_are_plain_and_can_end_in_zero(resight):
    assert resight("search", "c", "a.jpg", "--paths").stdout == "/photos/th\tree.jpg\n/photos/one.jpg\n"
    assert resight("search", "c", "a.jpg", "-0").stdout == "/photos/th\tree.jpg\0/photos/one.jpg\0"


def test_an_image_of_the_collection_is_left_out_of_its_own_results(resight, fake):
    result = resight("search", "c", "id:3", "--paths", "--top", "1")
    assert result.stdout == "/photos/one.jpg\n"
    assert asked(fake) == [(3, None, 2)]


def test_standard_input_is_one_picture(resight, fake, photo):
    assert resight("search", "c", "-", stdin=photo.read_bytes()).exit_code == 0
    ((query, *_),) = asked(fake)
    assert query.size == (200, 100)
    broken = resight("search", "c", "-", stdin=b"no picture")
    assert broken.exit_code == 2 and broken.stderr.startswith("resight: -: ")


def test_lists_of_queries(resight, fake, tmp_path):
    (tmp_path / "list.txt").write_text("x.jpg\n\nid:3\n/abs/y.jpg\n")
    resight("search", "c", f"@{tmp_path}/list.txt")
    assert [query for query, *_ in asked(fake)] == [str(tmp_path / "x.jpg"), 3, "/abs/y.jpg"]
    assert resight("search", "c", "@-", stdin="a.jpg\nnone.jpg\n").stdout.count("among 3 images") == 2
    missing = resight("search", "c", "@nowhere.txt")
    assert missing.exit_code == 2 and "nowhere.txt" in missing.stderr


def test_top_comes_from_the_flag_before_the_environment(resight, fake):
    result = resight("search", "c", "a.jpg", env={"RESIGHT_TOP": "1"})
    assert "only the first 1 are shown" in result.stderr
    resight("search", "c", "a.jpg", "--top", "9", env={"RESIGHT_TOP": "1"})
    assert [top for *_, top in asked(fake)] == [1, 9]


def test_the_box_reaches_the_search_and_is_for_one_query(resight, fake):
    resight("search", "c", "a.jpg", "--box", "1,2.5,30,40")
    assert asked(fake) == [("a.jpg", (1.0, 2.5, 30.0, 40.0), 50)]
    several = resight("search", "c", "a.jpg", "none.jpg", "--box", "1,2,3,4")
    assert several.exit_code == 2 and "one query" in several.stderr


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "a,b,c,d", "3,0,2,9", "0,5,9,5", "-1,0,2,2", "0,0,nan,9"])
def test_bad_boxes_are_refused(text):
    with pytest.raises(QueryError, match="--box"):
        parse_box(text)


@given(st.tuples(*[st.floats(0, 1e6)] * 2), st.tuples(*[st.floats(0.001, 1e6)] * 2))
def test_good_boxes_come_back(corner, extent):
    box = (*corner, corner[0] + extent[0], corner[1] + extent[1])
    if box[0] < box[2] and box[1] < box[3]:
        assert parse_box(",".join(map(repr, box))) == box


def test_forms_exclude_each_other(resight):
    result = resight("search", "c", "a.jpg", "--json", "--csv")
    assert result.exit_code == 2 and "exclude each other" in result.stderr


def test_html_is_written_beside_any_form(resight, tmp_path, fake, photo):
    fake.answers[str(photo)] = fake.answers["a.jpg"]
    out = tmp_path / "out.html"
    result = resight("search", "c", photo, "none.jpg", "--paths", "--html", out)
    assert result.stdout.count("\n") == 2
    text = out.read_text("utf-8")
    assert str(photo) in text and "Nothing found" in text and text.startswith("<!doctype html>")
    unwritable = resight("search", "c", "none.jpg", "--html", Path(tmp_path, "no", "out.html"))
    assert unwritable.exit_code == 2 and "out.html" in unwritable.stderr


def test_the_page_shows_only_the_nearest_misses_unless_told(resight, tmp_path, fake, monkeypatch):
    many = np.arange(1, 31)
    fake.answers["b.jpg"] = Ranking(many, np.linspace(0.4, 0.1, 30, dtype=np.float32), (None,) * 30, 0.5, True)
    monkeypatch.setattr(fake, "origins", dict.fromkeys(many.tolist(), "/gone.jpg"))
    out = tmp_path / "out.html"
    resight("search", "c", "b.jpg", "--html", out)
    assert f"The next {NEAR}, not accepted" in out.read_text("utf-8")
    resight("search", "c", "b.jpg", "--html", out, "--all")
    assert "The next 30, not accepted" in out.read_text("utf-8")


def test_errors_are_messages_without_a_traceback(resight):
    result = resight("search", "nowhere", "a.jpg")
    assert result.exit_code == 2
    assert (result.stdout, result.stderr) == ("", "resight: nowhere is not a collection\n")
    assert resight("search", "c", "id:x").exit_code == 2


def test_a_failed_query_is_named_once(resight, fake, monkeypatch):
    monkeypatch.setitem(fake.answers, "b.jpg", QueryError("b.jpg: the box leaves the image"))
    result = resight("search", "c", "b.jpg", "unknown.jpg")
    assert result.exit_code == 2
    assert result.stderr == "resight: b.jpg: the box leaves the image\nresight: unknown.jpg: no such query\n"
