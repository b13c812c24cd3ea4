"""The page, read back as HTML: what is framed how, and that it needs and leaks nothing."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image

from resight.errors import ResightError
from resight.evaluation.page import write_page
from resight.evaluation.protocol import evaluate
from resight.evaluation.report import Result, Row

VOID = {"meta", "img", "br", "link", "input"}


class Reader(HTMLParser):
    """Elements in order, with their attributes and enclosing classes; complains of tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], ""
        self.feed(text)
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes, [classes for _, classes in self.open]))
        if tag not in VOID:
            self.open.append((tag, attributes.get("class", "")))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [(attributes, classes) for name, attributes, classes in self.elements if name == tag]


EVIL = '"><img src=x onerror=y>&'


@pytest.fixture
def report(write_set, recipe, number_collection):
    """A report of numbers, whose row is then put in the place of pictures."""
    root = write_set({"db/1": 1, "q/a": 1}, database=["db/1"], queries={"q/a": {"positives": ["db/1"]}})
    Image.new("RGB", (400, 200), "red").save(root / "query.png")
    Image.new("RGB", (50, 100), "blue").save(root / "result.png")
    results = (
        Result("result.png", 0.9, True, "junk", None),
        Result("result.png", 0.8, True, "positive", 31),
        Result(EVIL, 0.2, False, "wrong", None),
    )
    row = Row("query.png", (100, 50, 300, 150), "near", 2, 1, 0.75, 1, 1, 1, results)
    fooled = replace(row, query="fooled.png", positives=0, average_precision=None, box=None, accepted=2)
    worse = replace(fooled, query="worse.png", accepted=5)
    fair = replace(fooled, query="fair.png", accepted=0)
    perfect = replace(row, query="perfect.png", average_precision=1.0)
    made = evaluate(root, recipe)
    return replace(made, rows=(perfect, row, fooled, worse, fair), groups={"result.png": "a <b>cup</b>"})


@pytest.fixture
def page(report, tmp_path):
    write_page(report, tmp_path / "page.html")
    return (tmp_path / "page.html").read_text("utf-8")


def test_worst_false_accepts_and_best_each_once(page):
    reader = Reader(page)
    shown = [a["alt"] for a, classes in reader.all("img") if "asked" in classes]
    assert shown == ["Query query.png"]  # the only query whose picture exists
    order = re.findall(r"<h[23]>(.*?)</h[23]>", page)
    assert order[order.index("Lowest average precision") :] == [
        "Lowest average precision",
        "query.png",
        "No answer, yet accepted",
        "worse.png",
        "fooled.png",
        "Highest average precision",
        "perfect.png",
    ]


def test_results_are_framed_by_verdict_and_said_in_words(page):
    entries = re.findall(r'<li class="(\w+)">.*?<b>(.*?)</b>(.*?)</figcaption>', page, re.S)[:3]
    assert [(verdict, word) for verdict, word, _ in entries] == [
        ("junk", "removed junk"),
        ("positive", "1 match"),
        ("wrong", "2 wrong"),
    ]
    assert "accepted" in entries[1][2]
    assert "31 inliers" in entries[1][2]
    assert "accepted" not in entries[2][2]
    assert "AP 75.0 · first match at rank 1 · 1 of 2 positives ranked · 1 accepted, 1 of them right" in page


def test_the_box_is_placed_in_per_cent_of_the_picture(page):
    style = next(a["style"] for a, _ in Reader(page).all("span") if a.get("class") == "box")
    assert style == "left:25.000%;top:25.000%;width:50.000%;height:50.000%"


def test_pictures_are_embedded_small_and_described(page):
    for attributes, _ in Reader(page).all("img"):
        assert attributes["alt"]
        kind, data = attributes["src"].split(",")
        assert kind == "data:image/jpeg;base64"
        picture = Image.open(io.BytesIO(base64.b64decode(data)))
        assert picture.size == (int(attributes["width"]), int(attributes["height"]))
        assert max(picture.size) <= 240


def test_it_needs_nothing_else_and_names_are_escaped(page):
    reader = Reader(page)
    assert not reader.all("script")
    assert not reader.all("link")
    assert "<b>cup" not in page
    assert EVIL in reader.text
    outside = [a[k] for _, a, _ in reader.elements for k in ("src", "href") if k in a and not a[k].startswith("data:")]
    assert outside == []
    assert reader.all("html")[0][0]["lang"] == "en"
    assert "http" not in re.sub(r'<meta http-equiv="Content-Security-Policy"', "", page)


def test_a_picture_that_is_gone_is_said_to_be(page):
    assert re.search(r'alt="Query perfect|class="gone">[^<]+<', page)
    assert 'class="gone"' in page


def test_the_page_holds_figures_and_protocol(page):
    for said in ("mAP", "trapezoidal", "nearest-number", "by image id", "Protocol", "100.0"):
        assert said in page


def test_how_many_are_shown_can_be_chosen(report, tmp_path):
    write_page(report, tmp_path / "few.html", worst=0, best=1)
    assert (tmp_path / "few.html").read_text("utf-8").count("<article>") == 1


def test_a_folder_that_is_not_there_is_named(report, tmp_path):
    with pytest.raises(ResightError, match=r"cannot write .*gone/page\.html"):
        write_page(report, tmp_path / "gone" / "page.html")
