"""`resight search` with --also and --not: how they are read, what is asked, and what is shown of each example."""

import json
import re
import zipfile
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resight.cli.queries import AskedExample, parse_example
from resight.errors import QueryError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, with files whose names hold the signs that boxes and weights begin with."""
    monkeypatch.chdir(tmp_path)
    for name in ("cat.jpg", "cat@1,2,30,40", "dog*2", "a@b*c.png", "photo.jpg*3"):
        (tmp_path / name).touch()
    with zipfile.ZipFile(tmp_path / "box.zip", "w") as archive:
        archive.writestr("in@side.jpg", b"any bytes")
    return tmp_path


BOX = (1.0, 2.0, 30.0, 40.0)


@pytest.mark.parametrize(
    ("text", "image", "box", "weight"),
    [
        ("cat.jpg", "cat.jpg", None, 1),
        ("cat.jpg@1,2,30,40", "cat.jpg", BOX, 1),
        ("cat.jpg*0.25", "cat.jpg", None, 0.25),
        ("cat.jpg@1,2,30,40*1e-1", "cat.jpg", BOX, 0.1),
        ("cat@1,2,30,40", "cat@1,2,30,40", None, 1),  # the longest that exists
        ("cat@1,2,30,40@1,2,30,40*2", "cat@1,2,30,40", BOX, 2),
        ("dog*2", "dog*2", None, 1),
        ("dog*2*2", "dog*2", None, 2),
        ("photo.jpg*3", "photo.jpg*3", None, 1),
        ("a@b*c.png@1,2,30,40", "a@b*c.png", BOX, 1),
        ("box.zip!/in@side.jpg", "box.zip!/in@side.jpg", None, 1),
        ("box.zip!/in@side.jpg@1,2,30,40", "box.zip!/in@side.jpg", BOX, 1),
        ("id:7", "id:7", None, 1),
        ("id:7@1,2,30,40*3", "id:7", BOX, 3),
        ("-*2", "-", None, 2),
        # None of these exists; the search will say so, of the file that was meant.
        ("gone.jpg@1,2,30,40*2", "gone.jpg", BOX, 2),
        ("gone@2x.jpg", "gone@2x.jpg", None, 1),
        ("me@home/gone.jpg*2", "me@home/gone.jpg", None, 2),
        ("gone", "gone", None, 1),
    ],
)
def test_an_example_is_an_image_a_box_and_a_weight(folder, text, image, box, weight):
    assert parse_example(text, "--also") == AskedExample(image, box, weight)
    assert parse_example(text, "--not") == AskedExample(image, box, -weight)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cat.jpg@1,2,3", "a box is four numbers"),
        ("cat.jpg@", "a box is four numbers"),
        ("cat.jpg@5,2,1,9*2", "from its top left"),
        ("cat.jpg*0", "a weight is a number above 0"),
        ("cat.jpg*-1", "a weight is a number above 0"),
        ("cat.jpg*", "a weight is a number above 0"),
        ("cat.jpg*nan", "a weight is a number above 0"),
        ("cat.jpg*inf", "a weight is a number above 0"),
        ("cat.jpg*2@1,2,30,40", "what follows the image"),
        ("cat.jpg@1,2,3,4@1,2,3,4", "what follows the image"),
        ("gone.jpg@1,2,3", "a box is four numbers"),
    ],
)
def test_what_is_none_is_refused_by_name(folder, text, said):
    with pytest.raises(QueryError, match=f"^{re.escape(f'--not {text}: ')}.*{said}"):
        parse_example(text, "--not")


@settings(max_examples=50)
@given(st.text(min_size=1, max_size=12), st.floats(1e-3, 1e3))
def test_any_name_keeps_its_weight(name, weight):
    """A name that no file has, and which does not itself end like a box or a weight."""
    text = f"/nowhere/{name}.jpg"
    assert parse_example(f"{text}*{weight!r}", "--also") == AskedExample(text, None, weight)


@pytest.fixture
def examples(fake, monkeypatch):
    """The fake collection answers queries of several examples as it does their first; gives what was asked."""
    asked = []

    def search_examples_timed(self, examples, *, top=None, where=None, exact=False):
        asked.append(([(e.image, e.box, e.weight) for e in examples], top))
        ranking, timing = self.search_timed(examples[0].image, top=top)
        evidence = tuple(None if e is None else replace(e, example=i) for i, e in enumerate(ranking.evidence))
        return replace(ranking, evidence=evidence), timing

    monkeypatch.setattr(fake, "search_examples_timed", search_examples_timed, raising=False)
    return asked


def test_examples_reach_the_search(resight, examples):
    also = ("--also", "b.jpg@1,2,30,40*2", "--also", "c.jpg")
    assert resight("search", "c", "a.jpg", "--box", "0,0,9,9", "--not", "d.jpg*0.5", *also).exit_code == 0
    ((asked, top),) = examples
    assert asked == [("a.jpg", (0, 0, 9, 9), 1), ("b.jpg", BOX, 2), ("c.jpg", None, 1), ("d.jpg", None, -0.5)]
    assert top == 50


def test_examples_of_the_collection_are_left_out_of_the_results(resight, examples):
    result = resight("search", "c", "a.jpg", "--also", "id:3", "--not", "id:2", "--paths", "--top", "1")
    assert result.stdout == "/photos/one.jpg\n" and examples[0][1] == 3


def test_examples_are_of_one_query(resight, examples):
    result = resight("search", "c", "a.jpg", "none.jpg", "--also", "b.jpg")
    assert result.exit_code == 2 and "--also and --not are examples of one query, and there are 2" in result.stderr
    assert resight("search", "c", "a.jpg", "--not", "b.jpg*0").exit_code == 2 and not examples


def test_json_names_the_example_of_each_evidence(resight, examples):
    run = resight("search", "c", "a.jpg", "--also", "b.jpg@1,2,30,40", "--not", "d.jpg", "--json", "--all")
    (answer,) = json.loads(run.stdout)["queries"]
    assert answer["examples"] == [
        {"query": "a.jpg", "box": None, "weight": 1},
        {"query": "b.jpg", "box": [1, 2, 30, 40], "weight": 1},
        {"query": "d.jpg", "box": None, "weight": -1},
    ]
    assert [result["example"] for result in answer["results"]] == [0, 1, None]


def test_the_table_names_the_example_of_each_evidence(resight, examples):
    _, columns, *rows = resight("search", "c", "a.jpg", "--also", "b\n.jpg", "--all").stdout.splitlines()
    assert columns.split()[-2:] == ["example", "path"]
    assert [row.split()[6] for row in rows[:2]] == ["a.jpg", "b\\n.jpg"]
    at = columns.index("path")
    assert [row[at:] for row in rows] == ["/photos/th\\tree.jpg", "/photos/one.jpg", "/photos/two, too.jpg"]


@pytest.fixture
def real():
    """Runs a command line over the real thing; the result has exit_code, stdout, stderr."""
    from typer.testing import CliRunner

    from resight.cli.main import app

    return lambda *arguments, stdin=None: CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)


def test_a_search_by_two_views_with_a_page(real, indexed, photos, tmp_path):
    """Over a real collection: JSON, and a page that shows each result beside the example it matched."""
    out = tmp_path / "out.html"
    also = f"{photos / 'chelsea-1.png'}@20,10,300,200*0.5"
    run = real("search", indexed, photos / "coffee-1.png", "--also", also, "--not", "id:1", "--json", "--html", out)
    assert run.exit_code == 0, run.output
    (answer,) = json.loads(run.stdout)["queries"]
    names = [(r["path"].rsplit("/", 1)[1], r["example"]) for r in answer["results"]]
    assert sorted(names) == [("chelsea-1.png", 1), ("chelsea-2.jpg", 1), ("coffee-1.png", 0), ("coffee-2.jpg", 0)]
    text = out.read_text("utf-8")
    assert f"also like × 0.5: {photos / 'chelsea-1.png'}" in text and "less like: id:1" in text
    for key in ("query1", "query1-1", "query1-2"):
        assert text.count(f'<image id="{key}"') == 1
    # Below the header, each card draws its own example: two of coffee, two of chelsea with its box.
    cards = text.split('<li class="card')[1:5]
    drawn = {
        name: re.search(r'<use href="#(query1[-\d]*)"', card)[1] for (name, _), card in zip(names, cards, strict=True)
    }
    assert drawn == {name: "query1-1" if example else "query1" for name, example in names}
    assert ['class="box"' in card for card in cards] == [example == 1 for _, example in names]
    assert all(
        re.search(rf"points agree(, colours by \d+ %)?, with {photos / ('chelsea' if e else 'coffee')}-1.png", c)
        for (_, e), c in zip(names, cards, strict=True)
    )


@pytest.mark.parametrize(
    ("example", "said"),
    [
        ("id:99", "example 2, id:99: there is no image with this id"),
        ("/no/such.jpg*2", "example 2, /no/such.jpg: the file does not exist"),
        ("id:1@0,0,999,9", "leaves the image, which is 320×320"),
        ("-", "-: "),
    ],
)
def test_an_example_that_cannot_be_read_is_named(real, indexed, photos, example, said):
    query = photos / "moon.png"
    run = real("search", indexed, query, "--also", example, stdin=b"no picture")
    assert run.exit_code == 2 and f"{query}: " in run.stderr and said in run.stderr


def test_a_picture_on_standard_input_may_be_an_example(real, indexed, photos):
    run = real(
        "search", indexed, photos / "moon.png", "--also", "-", "--paths", stdin=(photos / "brick.png").read_bytes()
    )
    assert sorted(run.stdout.split()) == sorted(map(str, (photos / "brick.png", photos / "moon.png")))
