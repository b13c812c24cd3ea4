"""The page is parsed as a browser would, and what is drawn is held against a known homography."""

import base64
import io
import re
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest

from resight.errors import ResightError
from resight.images.image import Image
from resight.search.drawing import GAP, LINES, SIDE
from resight.search.page import QueryResult, write_results_page
from resight.search.ranking import Evidence, Ranking

QUERY_SIZE, RESULT_SIZE = (640, 480), (900, 1200)
# Hand-chosen: turns, scales, moves and tilts a 640×480 picture to well inside a 900×1200 one.
H = np.array([[0.7, -0.3, 260.0], [0.25, 0.8, 300.0], [1e-4, -5e-5, 1.0]])


def project(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    x, y, w = matrix @ np.column_stack([points, np.ones(len(points))]).T
    return np.column_stack([x / w, y / w])


def evidence(points: np.ndarray) -> Evidence:
    corners = np.array([[0, 0], [639, 0], [639, 479], [0, 479]], np.float32)
    outline = project(corners, H).astype(np.float32)
    return Evidence(
        inliers=len(points),
        matches=len(points) + 7,
        homography=H,
        outline=outline,
        box=(*outline.min(0).tolist(), *outline.max(0).tolist()),
        query_xy=points.astype(np.float32),
        result_xy=project(points, H).astype(np.float32),
    )


def ranking(scores, pieces, calibrated=True) -> Ranking:
    return Ranking(np.arange(1, len(scores) + 1), np.float32(scores), tuple(pieces), 0.5, calibrated)


@dataclass
class FakeCollection:
    """What the page asks of a collection, and no more."""

    origins: dict[int, str]
    size: tuple[int, int] = RESULT_SIZE
    recipe: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(name="fake"))
    fingerprint: str = "f00d"

    def entry(self, image_id):
        return SimpleNamespace(id=image_id, origin=self.origins[image_id], size=self.size)

    def __len__(self):
        return 12_345


class Page(HTMLParser):
    """Every element with its attributes, the text, and a failure if tags do not nest."""

    VOID = frozenset({"meta", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text += data

    def all(self, tag, **wanted):
        wanted = {key.rstrip("_"): value for key, value in wanted.items()}
        return [a for t, a in self.elements if t == tag and all(a.get(k) == v for k, v in wanted.items())]


TIMING = SimpleNamespace(describe=0.1, filter=0.05, verify=0.35, comparisons=9)
PICTURE = Image(np.full((240, 320, 3), 90, np.uint8), QUERY_SIZE, "query.jpg")


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "result.png"
    PIL.Image.new("RGB", RESULT_SIZE, "olive").save(path)
    return str(path)


@pytest.fixture
def write(tmp_path):
    def write(collection, *results) -> Page:
        out = tmp_path / "out.html"
        write_results_page(out, collection, results)
        return Page(out.read_text("utf-8"))

    return write


def result(scores, pieces, box=None, **changes) -> QueryResult:
    return replace(QueryResult("query.jpg", PICTURE, box, ranking(scores, pieces), TIMING), **changes)


def test_lines_join_the_points_that_the_homography_joins(write, photo):
    points = np.array([[0.0, 0.0], [320.5, 17.25], [600.0, 470.0]])
    page = write(FakeCollection({1: photo}), result([0.9], [evidence(points)]))
    # A 640×480 query is 480×360 in the drawing, a 900×1200 result 360×480 beside it; both are centred.
    expected_start = (points + 0.5) * 480 / 640 + [0, (480 - 360) / 2]
    expected_end = (project(points, H) + 0.5) * 480 / 1200 + [480 + GAP, 0]
    lines = page.all("line")
    drawn = np.array([[float(line[key]) for key in ("x1", "y1", "x2", "y2")] for line in lines])
    np.testing.assert_allclose(drawn, np.hstack([expected_start, expected_end]), atol=0.06)


def test_each_picture_is_drawn_where_its_lines_end(write, photo):
    page = write(FakeCollection({1: photo}), result([0.9], [evidence(np.zeros((4, 2)))]))
    (pair,) = page.all("svg", class_="pair")
    assert pair["viewbox"] == f"0 0 {480 + GAP + 360:.1f} 480.0"
    placed = [a for tag, a in page.elements if tag == "svg" and "x" in a]
    assert [[float(a[k]) for k in ("x", "y", "width", "height")] for a in placed] == [
        [0, 60, 480, 360],
        [480 + GAP, 0, 360, 480],
    ]
    sizes = {a["id"]: (float(a["width"]), float(a["height"])) for a in page.all("image")}
    assert sizes == {"query1": (480, 360), "image1": (360, 480)}


def test_the_outline_is_in_the_results_own_frame(write, photo):
    piece = evidence(np.zeros((4, 2)))
    page = write(FakeCollection({1: photo}), result([0.9], [piece]))
    (polygon,) = page.all("polygon", class_="outline")
    drawn = np.array([[float(v) for v in pair.split(",")] for pair in polygon["points"].split()])
    np.testing.assert_allclose(drawn, (piece.outline + 0.5) * 480 / 1200, atol=0.06)


def test_a_region_is_outlined_and_not_called_verified(write, photo):
    corners = np.array([[0, 0], [300, 0], [300, 400], [0, 400]], np.float32)
    none = np.empty((0, 2), np.float32)
    region = Evidence(0, 0, None, corners, (0.0, 0.0, 300.0, 400.0), none, none)
    page = write(FakeCollection({1: photo}), result([0.9], [region]))
    assert "most similar region, not verified" in page.text and "points agree" not in page.text
    assert len(page.all("polygon", class_="outline")) == 1


def test_the_query_box_is_drawn_in_the_querys_frame(write, photo):
    page = write(FakeCollection({1: photo}), result([0.9], [evidence(np.zeros((4, 2)))], box=(64, 32, 320, 160)))
    boxes = page.all("rect", class_="box")
    assert len(boxes) == 2  # on the query alone and beside the result
    for box in boxes:
        assert [float(box[k]) for k in ("x", "y", "width", "height")] == [48, 24, 192, 96]


def test_the_overlay_puts_query_points_on_result_points(write, photo):
    points = np.array([[0.0, 0.0], [639.0, 0.0], [200.0, 333.0], [500.0, 90.0]])
    page = write(FakeCollection({1: photo}), result([0.9], [evidence(points)]))
    (warp,) = page.all("svg", class_="warp")
    numbers = re.search(r"matrix3d\(([^)]*)\)", warp["style"]).group(1).split(",")
    matrix = np.array(numbers, float).reshape(4, 4).T  # CSS writes columns
    start = (points + 0.5) * 480 / 640
    x, y, _, w = matrix @ np.column_stack([start, np.zeros(4), np.ones(4)]).T
    np.testing.assert_allclose(np.column_stack([x / w, y / w]), (project(points, H) + 0.5) * 480 / 1200, atol=1e-4)


def test_many_lines_are_thinned_evenly(write, photo):
    points = np.column_stack([np.arange(1001) * 0.6, np.full(1001, 100.0)])
    rng = np.random.default_rng(0)
    page = write(FakeCollection({1: photo}), result([0.9], [evidence(rng.permutation(points))]))
    starts = np.array([float(line["x1"]) for line in page.all("line")])
    assert len(starts) == LINES
    gaps = np.diff(starts)
    assert gaps.min() > 0 and gaps.max() < 1.2 * gaps.mean()


def test_pictures_are_embedded_once_small_and_without_outside_resources(write, photo, tmp_path):
    one = result([0.9, 0.8], [evidence(np.zeros((4, 2))), None])
    collection = FakeCollection({1: photo, 2: photo})
    page = write(collection, one, one)
    assert [a["id"] for a in page.all("image")] == ["query1", "image1", "image2", "query2"]
    for image in page.all("image"):
        jpeg = base64.b64decode(image["href"].removeprefix("data:image/jpeg;base64,"))
        with PIL.Image.open(io.BytesIO(jpeg)) as opened:
            assert opened.format == "JPEG" and max(opened.size) <= SIDE
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:
        target = attributes.get("href", attributes.get("src", ""))
        assert tag not in {"script", "link", "iframe"}
        assert target.startswith(("#", "data:", "file:")) or not target
        assert tag == "a" or not target.startswith("file:")
        if target.startswith("#"):
            assert target[1:] in ids


def test_accepted_results_stand_before_a_folded_tail(write, photo):
    collection = FakeCollection(dict.fromkeys((1, 2, 3), photo))
    text = write(collection, result([0.997, 0.5, 0.004], [None] * 3)).text
    assert "2 matches" in text
    assert "The next 1, not accepted as a match" in text
    assert "> 99 %" in text and "50 %" in text and "< 1 %" in text and "100 %" not in text


def test_nothing_found_is_said_plainly(write, photo):
    page = write(FakeCollection({1: photo}), result([0.2], [None]))
    assert "Nothing found" in page.text and "None of the 12,345 pictures" in page.text
    assert "A match needs a probability of a true match of 50 %; the best has 20 %." in page.text
    assert page.all("details")
    assert not write(FakeCollection({}), result([], [])).all("details")


def test_similarities_are_not_called_probabilities(write, photo):
    page = write(FakeCollection({1: photo}), result([], [], ranking=ranking([0.75], [None], calibrated=False)))
    assert "0.750" in page.text and "%" not in page.text


def test_a_ranking_without_a_threshold_claims_no_match(write, photo):
    unjudged = Ranking(np.array([1]), np.float32([0.75]), (None,), -np.inf, calibrated=False)
    page = write(FakeCollection({1: photo}), result([], [], ranking=unjudged))
    assert "The 1 most similar" in page.text and "1 match" not in page.text


@pytest.mark.parametrize("place", [None, 2, 38])
def test_a_suspect_query_is_told_of(write, photo, place):
    judged = replace(ranking([0.9], [None]), place=place)
    page = write(FakeCollection({1: photo}), result([], [], ranking=judged))
    assert ("only number 38:" in page.text) == (place == 38)


def test_hostile_names_stay_text(write, tmp_path):
    origin = str(tmp_path / "<script>alert('&\"').jpg")
    page = write(FakeCollection({1: origin}), result([0.9], [None], query="</title><script>x"))
    assert not page.all("script")
    assert origin in page.text and "</title><script>x" in page.text


def test_a_file_name_that_is_no_text_is_written_all_the_same(write):
    assert "file does not exist" in write(FakeCollection({1: "/x/\udcff.jpg"}), result([0.9], [None])).text


def test_gone_files_have_a_placeholder_of_the_right_shape(write):
    page = write(FakeCollection({1: "/nowhere/a.jpg"}), result([0.9], [evidence(np.zeros((4, 2)))]))
    (gone,) = page.all("rect", class_="gone")
    assert (float(gone["width"]), float(gone["height"])) == (360, 480)
    assert "does not exist" in page.text
    assert page.all("polygon") and not page.all("line") and not page.all("svg", class_="warp")


def test_a_changed_file_is_not_drawn_over(write, photo):
    page = write(FakeCollection({1: photo}, size=(90, 90)), result([0.9], [evidence(np.zeros((4, 2)))]))
    assert "has changed since it was indexed" in page.text


def test_a_query_whose_file_is_gone_draws_no_lines(write, photo):
    page = write(FakeCollection({1: photo}), result([0.9], [evidence(np.zeros((4, 2)))], picture=None))
    assert "the query’s file is gone" in page.text
    assert not page.all("line")


def test_an_unwritable_place_is_named(tmp_path):
    with pytest.raises(ResightError, match=re.escape(str(tmp_path / "no" / "out.html"))):
        write_results_page(Path(tmp_path / "no" / "out.html"), FakeCollection({}), [result([], [])])
