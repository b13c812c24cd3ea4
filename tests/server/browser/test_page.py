"""The page in a real browser, over a real service."""

import csv
import json
import re
import shutil
import urllib.request
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import cv2
import numpy as np
import pytest
from skimage import data

from resight.search.collection import Collection

pytestmark = pytest.mark.browser

AXE = Path(__file__).parents[3] / "web/node_modules/axe-core/axe.min.js"
DOT = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 3"><circle cx="2" cy="1.5" r="1"/></svg>'
VIEWS = ("", "#/browse", "#/duplicates", "#/jobs", "#/collection")


def search_with(page, file: Path) -> None:
    """Choose a photo; comes back when it was searched for."""
    page.set_input_files("input[type=file] >> nth=0", file)
    done(page)


def done(page) -> None:
    page.get_by_role("button", name="Searched").wait_for()
    page.locator(".results[aria-busy=false]").wait_for()


def found(page) -> dict:
    """What the service says of the search that the page shows."""
    base, name = re.match(r"(http://[^/]+)/#/search/([\w-]+)", page.url).groups()
    return json.load(urllib.request.urlopen(f"{base}/v1/searches/{name}"))


def draw(page, box: tuple[float, float, float, float]) -> None:
    """Drag from corner to corner; `box` in parts of the picture's sides."""
    area = page.locator(".boxed-area").bounding_box()
    (x1, y1), (x2, y2) = (
        (area["x"] + x * area["width"], area["y"] + y * area["height"]) for x, y in (box[:2], box[2:])
    )
    page.mouse.move(x1, y1)
    page.mouse.down()
    page.mouse.move((x1 + x2) / 2, (y1 + y2) / 2)
    page.mouse.move(x2, y2)
    page.mouse.up()


def fields(page) -> list[int]:
    return [int(page.get_by_label(name, exact=True).input_value()) for name in ("Left", "Top", "Width", "Height")]


def names(page) -> list[str]:
    return page.locator(".results .card .name").all_inner_texts()


def test_a_photo_its_part_and_why_a_result_is_one(open_page, photos):
    page = open_page()
    search_with(page, photos / "chelsea-1.png")
    page.get_by_role("heading", name="Found in 2 pictures").wait_for()
    assert set(names(page)) == {"chelsea-1.png", "chelsea-2.jpg"}

    draw(page, (0.2, 0.1, 0.9, 0.9))
    size = found(page)["results"][0]
    expected = [0.2 * size["width"], 0.1 * size["height"], 0.7 * size["width"], 0.8 * size["height"]]
    assert fields(page) == pytest.approx(expected, abs=3)
    page.get_by_role("button", name="Search for this part").click()
    done(page)
    x, y, width, height = fields(page)
    assert found(page)["request"]["examples"][0]["box"] == [x, y, x + width, y + height]

    page.get_by_role("link", name="chelsea-2.jpg").click()
    dialog = page.get_by_role("dialog", name="chelsea-2.jpg")
    result = next(one for one in found(page)["results"] if one["name"] == "chelsea-2.jpg")
    dialog.locator(".lines line").nth(0).wait_for(state="attached")
    assert dialog.locator(".lines line").count() == result["evidence"]["inliers"]
    dialog.get_by_label("Lines").uncheck()
    assert dialog.locator(".lines line").count() == 0
    dialog.get_by_label("Heat map").check()
    assert dialog.locator("canvas.heat").count() == 2


@pytest.mark.parametrize(
    "event",
    [
        "new ClipboardEvent('paste', {clipboardData: held, bubbles: true, cancelable: true})",
        "new DragEvent('drop', {dataTransfer: held, bubbles: true, cancelable: true})",
    ],
    ids=["paste", "drop"],
)
def test_a_photo_is_pasted_or_dropped(open_page, photos, event):
    page = open_page()
    page.locator(".drop").wait_for()
    page.evaluate(
        "(bytes) => { const held = new DataTransfer();"
        " held.items.add(new File([new Uint8Array(bytes)], 'held.png', {type: 'image/png'}));"
        f" document.body.dispatchEvent({event}); }}",
        list((photos / "rocket-1.png").read_bytes()),
    )
    done(page)
    assert set(names(page)) == {"rocket-1.png", "rocket-2.jpg"}


def test_overlay_lies_where_the_known_homography_puts_it(open_page, photos):
    page = open_page()
    search_with(page, photos / "astronaut-1.png")
    page.get_by_role("link", name="astronaut-2.jpg").click()
    page.get_by_role("button", name="Overlay").click()
    warped, pane = page.locator(".warped"), page.locator(".pane")
    warped.wait_for()
    size = next(one for one in found(page)["results"] if one["name"] == "astronaut-2.jpg")
    homography = np.array(json.loads((photos / "homographies.json").read_text())["astronaut"])
    width, height = size["width"], size["height"]  # of both pictures
    corners = homography @ np.array([[0, width, width, 0], [0, 0, height, height], [1, 1, 1, 1]])
    corners = (corners[:2] / corners[2]).T
    over, under = warped.bounding_box(), pane.bounding_box()
    scale = under["width"] / width
    shown = [(over["x"] - under["x"]) / scale, (over["y"] - under["y"]) / scale]
    assert shown == pytest.approx(corners.min(axis=0), abs=3)
    assert [over["width"] / scale, over["height"] / scale] == pytest.approx(np.ptp(corners, axis=0), abs=4)

    page.get_by_label("How much of the query is seen").fill("100")
    assert page.locator(".clip").evaluate("e => getComputedStyle(e).opacity") == "1"
    page.get_by_role("button", name="Zoom in").click()
    page.wait_for_timeout(400)
    assert pane.bounding_box()["width"] == pytest.approx(under["width"] * np.exp(0.4), rel=0.02)


def opacities(page) -> set[str]:
    """Of the query over the result, in the time of two turns and a half."""
    look = """e => new Promise(done => {
        const seen = [];
        const timer = setInterval(() => seen.push(getComputedStyle(e).opacity), 50);
        setTimeout(() => { clearInterval(timer); done(seen); }, 1750);
    })"""
    return set(page.locator(".clip").evaluate(look))


def test_flicker_turns_by_itself_and_by_hand(open_page, photos):
    page = open_page()
    search_with(page, photos / "coffee-1.png")
    page.get_by_role("link", name="coffee-2.jpg").click()
    page.get_by_role("button", name="Flicker").click()
    assert opacities(page) == {"0", "1"}
    page.get_by_role("button", name="Stop").click()
    assert len(opacities(page)) == 1
    before = page.locator(".clip").evaluate("e => getComputedStyle(e).opacity")
    page.get_by_role("button", name=re.compile("Show the")).click()
    assert page.locator(".clip").evaluate("e => getComputedStyle(e).opacity") != before


def test_flicker_stands_still_where_motion_is_unwanted(open_page, photos):
    page = open_page(reduced_motion="reduce")
    search_with(page, photos / "coffee-1.png")
    page.get_by_role("link", name="coffee-2.jpg").click()
    page.get_by_role("button", name="Flicker").click()
    page.locator(".stage-tools").get_by_role("button", name="Flicker").wait_for()


def test_filters_in_search_and_browse(open_page, photos):
    page = open_page("#/browse")
    page.get_by_role("heading", name="12 pictures").wait_for()
    page.get_by_label("Value").fill("rocket-")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="2 pictures", exact=True).wait_for()
    assert page.locator(".gallery li").count() == 2
    other = open_page(at=page.url)  # the address keeps the filters
    other.get_by_role("heading", name="2 pictures", exact=True).wait_for()
    page.get_by_role("button", name="Search with rocket-1.png").click()
    done(page)
    assert found(page)["request"]["where"] == {"op": "contains", "key": "path", "text": "rocket-"}
    assert set(names(page)) == {"rocket-1.png", "rocket-2.jpg"}
    page.get_by_role("button", name="Remove filter path contains “rocket-”").click()
    page.get_by_role("button", name="Search", exact=True).click()
    done(page)
    assert (found(page)["request"]["where"], found(page)["total"]) == (None, 12)
    page.go_back()
    page.go_back()
    page.get_by_role("heading", name="2 pictures", exact=True).wait_for()


def test_an_address_of_filters_that_was_cut_off_shows_all_pictures(open_page):
    open_page("#/browse/%5B%7B%22op").get_by_role("heading", name="12 pictures").wait_for()


def test_pictures_taken_between_two_days(serve, open_page, indexed, tmp_path):
    shutil.copytree(indexed, tmp_path / "collection")
    with Collection.open(tmp_path / "collection", write=True) as collection:
        ids = [entry.id for entry in collection.entries()]
        collection.set_metadata({ident: {"taken": f"2019-05-{day:02}T10:00:00"} for day, ident in enumerate(ids, 1)})
        wanted = {Path(entry.origin).name for entry in collection.entries() if entry.id in ids[2:5]}
    page = open_page("#/browse", at=serve(tmp_path / "collection"))
    page.get_by_label("from", exact=True).fill("2019-05-03")
    page.get_by_role("heading", name="10 pictures", exact=True).wait_for()
    page.get_by_label("to", exact=True).fill("2019-05-05")
    page.get_by_role("heading", name="3 pictures", exact=True).wait_for()
    assert set(page.locator(".gallery .name").all_inner_texts()) == wanted
    page.get_by_role("button", name=f"Search with {min(wanted)}").click()
    done(page)
    assert set(names(page)) <= wanted and found(page)["total"] == 3


def test_vectors_are_compared_for_what_is_looked_for(serve, open_page, photos, tmp_path):
    pytest.importorskip("torch")
    from two_adapters import built, parts

    with Collection.create(tmp_path / "collection", built(parts(tmp_path))[0]) as collection:
        collection.add([photos], workers=1)
        wanted = {}
        for name in ("joint", "goods"):
            collection.adapter = name
            wanted[name] = collection.search(photos / "chelsea-1.png").scores
    page = open_page(at=serve(tmp_path / "collection"))
    search_with(page, photos / "chelsea-1.png")
    assert [one["score"] for one in found(page)["results"]] == pytest.approx(wanted["joint"].tolist(), abs=1e-6)
    page.get_by_role("heading", name="The 12 most alike pictures").wait_for()  # the recipe cannot tell matches
    page.get_by_role("link", name="chelsea-2.jpg").click()
    page.get_by_text("alike. Ranked by likeness alone").wait_for()
    page.keyboard.press("Escape")
    page.get_by_text("Where to look").click()
    assert page.get_by_label("Compare for").input_value() == "joint"
    page.get_by_label("Compare for").select_option("goods")
    page.get_by_role("button", name="Search", exact=True).click()
    done(page)
    assert [one["score"] for one in found(page)["results"]] == pytest.approx(wanted["goods"].tolist(), abs=1e-6)

    again = open_page(at=page.url)
    done(again)
    assert again.get_by_label("Compare for").input_value() == "goods"
    page.get_by_label("Compare for").select_option("joint")
    page.get_by_role("button", name="Search", exact=True).click()
    done(page)
    assert found(page)["request"]["adapter"] is None


def test_nothing_found_is_said_and_the_tail_is_folded(open_page, save, tmp_path):
    page = open_page()
    search_with(page, save(tmp_path / "coins.png", np.dstack([data.coins()] * 3)))
    page.get_by_role("heading", name="Nothing found").wait_for()
    assert page.get_by_text("Draw a box closely round the thing").is_visible()
    assert page.locator(".results .card").count() == 0
    page.get_by_text("12 pictures not accepted").click()
    page.locator(".tail .card").nth(0).wait_for()
    assert page.locator(".tail li").nth(0).get_attribute("aria-setsize") == "12"


def test_from_which_probability_on_is_the_users_choice(open_page, photos):
    page = open_page()
    search_with(page, photos / "chelsea-1.png")
    page.get_by_role("slider", name="A match has").fill("0")
    page.get_by_role("heading", name="Found in 12 pictures").wait_for()
    assert page.url.endswith("?least=0") and len(names(page)) == 12
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as CSV").click()
    rows = list(csv.DictReader(Path(download.value.path()).read_text("utf-8").splitlines()))
    assert [row["accepted"] for row in rows] == ["True"] * 12
    page.locator(".results .card a").nth(11).click()
    assert page.get_by_role("dialog").get_by_text("not accepted").count() == 0

    other = open_page(at=page.url)
    other.get_by_role("dialog").wait_for()
    other.keyboard.press("Escape")
    other.get_by_role("heading", name="Found in 12 pictures").wait_for()
    other.get_by_role("slider", name="A match has").press("End")
    other.get_by_role("heading", name=re.compile("Nothing found|Found in 1 picture")).wait_for()
    other.get_by_role("button", name="Back to 50 %").click()
    other.get_by_role("heading", name="Found in 2 pictures").wait_for()
    assert "least" not in other.url


def test_a_suspect_query_is_told_of(open_page, photos):
    page = open_page()

    def misled(route):
        answer = route.fetch()
        route.fulfill(response=answer, json=answer.json() | {"suspect": True, "filter_rank": 38})

    page.route("**/v1/searches/s*", misled)
    search_with(page, photos / "chelsea-1.png")
    page.get_by_text("only as number 38").wait_for()


def test_more_and_less_like_this(open_page, photos):
    page = open_page()
    search_with(page, photos / "chelsea-1.png")
    page.get_by_role("button", name="More like chelsea-2.jpg").click()
    page.get_by_label("Weight of chelsea-2.jpg").wait_for()
    done(page)
    assert [one["weight"] for one in found(page)["request"]["examples"]] == [1, 1]
    page.get_by_label("Weight of chelsea-2.jpg").select_option(label="less like this")
    page.get_by_role("button", name="Search", exact=True).click()
    done(page)
    assert [one["weight"] for one in found(page)["request"]["examples"]] == [1, -1]
    page.get_by_role("button", name="Remove chelsea-2.jpg").click()
    page.get_by_role("button", name="Search", exact=True).click()
    done(page)
    assert len(found(page)["request"]["examples"]) == 1


def test_a_result_is_kept_as_csv_json_and_page(open_page, photos):
    page = open_page()
    search_with(page, photos / "rocket-1.png")
    saved = {}
    for kind in ("CSV", "JSON", "Page"):
        with page.expect_download() as download:
            page.get_by_role("button", name=f"Save as {kind}").click()
        saved[kind] = Path(download.value.path()).read_text("utf-8")
    ids = [one["image"] for one in found(page)["results"]]
    rows = list(csv.DictReader(saved["CSV"].splitlines()))
    assert len(rows) == len(json.loads(saved["JSON"])["results"]) == len(ids)
    assert saved["Page"].startswith("<!doctype html>")


def test_the_link_is_copied(open_page, photos):
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    search_with(page, photos / "rocket-1.png")
    page.get_by_role("button", name="Link", exact=True).click()
    page.get_by_text("Link copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == page.url


def test_a_link_brings_back_picture_box_and_match(open_page, photos):
    page = open_page()
    search_with(page, photos / "chelsea-1.png")
    draw(page, (0.1, 0.1, 0.8, 0.9))
    page.get_by_role("button", name="Search for this part").click()
    done(page)
    box = fields(page)
    page.get_by_role("link", name="chelsea-2.jpg").click()
    page.get_by_role("dialog").wait_for()

    other = open_page(at=page.url)
    other.get_by_role("dialog", name="chelsea-2.jpg").locator(".points circle").nth(0).wait_for()
    other.keyboard.press("Escape")
    other.get_by_role("dialog").wait_for(state="hidden")
    assert fields(other) == box
    assert other.get_by_role("button", name="Searched").is_disabled()
    page.go_back()
    page.get_by_role("dialog").wait_for(state="hidden")


def test_by_keyboard_alone(open_page):
    page = open_page()
    page.locator(".gallery img").nth(0).wait_for()

    def tab_to(name: str, most: int = 40) -> None:
        for _ in range(most):
            page.keyboard.press("Tab")
            said = page.locator(":focus").evaluate_all("found => found.map(e => e.ariaLabel ?? e.textContent).join()")
            if name in said:
                outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none", f"{said}: no visible focus"
                return
        raise AssertionError(f"Tab does not reach {name}")

    tab_to("Search with chelsea-1.png")
    page.keyboard.press("Enter")
    done(page)
    tab_to("Set a box")
    page.keyboard.press("Enter")
    page.locator(".frame:focus").wait_for()
    before = fields(page)
    for key in ("ArrowRight", "ArrowDown", "Shift+ArrowRight", "Shift+ArrowUp"):
        page.keyboard.press(key)
    after = fields(page)
    assert after[0] > before[0] and after[1] > before[1] and after[2] > before[2] and after[3] < before[3]
    tab_to("Search for this part")
    page.keyboard.press("Enter")
    done(page)
    tab_to("chelsea-2.jpg,")
    page.keyboard.press("Enter")
    page.get_by_role("dialog", name="chelsea-2.jpg").wait_for()
    page.keyboard.press("ArrowLeft")
    page.get_by_role("dialog", name="chelsea-1.png").wait_for()
    page.keyboard.press("3")
    page.locator(".tabs [aria-pressed=true]", has_text="Flicker").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="hidden")
    page.locator(".frame").focus()
    page.keyboard.press("Delete")
    page.get_by_role("button", name="Set a box").wait_for()


def test_on_a_phone_nothing_is_cut_off_and_a_finger_draws(open_page, photos):
    page = open_page(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    search_with(page, photos / "astronaut-1.png")
    page.locator(".boxed-area").scroll_into_view_if_needed()
    area = page.locator(".boxed-area").bounding_box()
    touch = page.context.new_cdp_session(page)
    for kind, part in (("touchStart", 0.2), ("touchMove", 0.5), ("touchMove", 0.8), ("touchEnd", None)):
        points = (
            [] if part is None else [{"x": area["x"] + part * area["width"], "y": area["y"] + part * area["height"]}]
        )
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert fields(page)[2] == pytest.approx(0.6 * found(page)["results"][0]["width"], abs=4)
    wide = "() => [document.documentElement.scrollWidth, innerWidth]"
    shown = page.evaluate(wide)
    page.get_by_role("link", name="astronaut-2.jpg").click()
    page.get_by_role("dialog").locator(".points circle").nth(0).wait_for()
    query, result = (page.locator(".pane").nth(n).bounding_box() for n in (0, 1))
    assert query["y"] + query["height"] <= result["y"]  # one above the other
    close = page.get_by_role("button", name="Close").bounding_box()
    assert close["x"] + close["width"] <= 360
    page.get_by_role("button", name="Close").click()
    for view in VIEWS:
        page.goto(f"{page.url.partition('#')[0]}{view or '#/'}")
        page.locator("main h1").wait_for()
        assert page.evaluate(wide) == shown == [360, 360], view


def test_dark_by_the_system_and_by_the_switch(open_page):
    page = open_page(color_scheme="dark")
    ground = "() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    page.get_by_role("button", name="Light colours").wait_for()
    assert max(page.evaluate(ground)) < 50
    page.get_by_role("button", name="Light colours").click()
    assert min(page.evaluate(ground)) > 200
    page.reload()
    page.get_by_role("button", name="Dark colours").wait_for()
    assert min(page.evaluate(ground)) > 200


def test_photos_are_added_and_their_duplicates_decided(serve, open_page, indexed, pictures, save, tmp_path):
    shutil.copytree(indexed, tmp_path / "collection")
    smaller = cv2.resize(pictures["brick"], None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA)
    save(tmp_path / "more/brick-again.png", smaller)
    page = open_page("#/jobs", at=serve(tmp_path / "collection", "--write", "--photos", str(tmp_path / "more")))
    page.get_by_role("button", name="Add photos").click()
    page.locator(".joblist li", has_text="added 1").wait_for()
    page.get_by_role("button", name="Look for duplicates").click()
    page.locator(".joblist li", has_text="compared 13").wait_for(timeout=30_000)
    page.get_by_role("link", name="Duplicates").click()
    group = page.locator(".clusters > li", has_text="brick-again.png")
    group.wait_for()
    assert group.locator(".name").all_inner_texts() == ["brick.png", "brick-again.png"]
    with page.expect_response("**/v1/duplicates/decision") as answer:
        group.get_by_label("Different").check()
    assert answer.value.status == 204
    page.reload()
    group.wait_for()
    assert group.get_by_label("Different").is_checked()
    page.get_by_role("link", name="Browse").click()
    page.get_by_role("heading", name="13 pictures").wait_for()


def test_a_hundred_thousand_pictures_are_paged_and_few_are_in_the_document(open_page):
    """The list of images comes from here, since indexing so many takes hours; all else is the service's."""
    page = open_page("#/jobs")

    def listed(route):
        asked = parse_qs(urlsplit(route.request.url).query)
        after, limit = int(asked.get("after", ["0"])[0]), int(asked["limit"][0])
        ids = range(after + 1, min(after + limit, 100_000) + 1)
        sizes = ((640, 480), (480, 640), (900, 300))
        entries = [
            {"id": i, "name": f"{i}.jpg", "folder": "", "width": sizes[i % 3][0], "height": sizes[i % 3][1]}
            for i in ids
        ]
        route.fulfill(json={"images": entries, "next": ids[-1] if ids[-1] < 100_000 else None})

    page.route("**/v1/images?**", listed)
    page.route("**/v1/images/*/thumbnail?**", lambda route: route.fulfill(content_type="image/svg+xml", body=DOT))
    page.get_by_role("link", name="Browse").click()
    page.locator(".gallery li").nth(0).wait_for()
    for _ in range(12):
        page.mouse.wheel(0, 20_000)
        page.wait_for_timeout(30)
    places = page.locator(".gallery li").evaluate_all("found => found.map(e => Number(e.ariaPosInSet))")
    assert len(places) < 100
    assert min(places) > 600  # some pages on
    assert sorted(places) == list(range(min(places), min(places) + len(places)))


def test_what_is_no_picture_is_refused_in_words(browser, url, tmp_path):
    (tmp_path / "notes.jpg").write_text("no picture")
    page = browser.new_page()  # the browser itself writes the refusal to its console
    page.goto(url)
    page.set_input_files(".drop input", tmp_path / "notes.jpg")
    assert page.get_by_role("alert").inner_text() != ""
    assert page.get_by_text("Drop a photo here").is_visible()
    page.close()


def test_with_a_token(browser, serve, indexed, monkeypatch):
    monkeypatch.setenv("RESIGHT_TOKEN", "let-me-in-by-the-door")
    address = serve(indexed).partition("#")[0]
    page = browser.new_page()
    page.goto(address)
    page.get_by_label("Token").fill("wrong")
    page.keyboard.press("Enter")
    page.get_by_label("Token").fill("let-me-in-by-the-door")
    page.keyboard.press("Enter")
    page.locator(".gallery img").nth(0).wait_for()
    page.goto("about:blank")
    page.evaluate("() => 0")
    other = browser.new_page()
    other.goto(f"{address}#token=let-me-in-by-the-door")
    image = other.locator(".gallery img").nth(0)
    image.wait_for()
    other.wait_for_timeout(300)
    assert image.evaluate("e => e.decode().then(() => e.naturalWidth)") > 0
    assert "token" not in other.url
    page.close()
    other.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility(browser, url, photos, scheme):
    if not AXE.is_file():
        pytest.skip("axe-core is not installed: npm ci in web/")
    context = browser.new_context(color_scheme=scheme, bypass_csp=True)  # axe is injected
    page = context.new_page()

    def violations(where: str) -> list[str]:
        page.evaluate(AXE.read_text("utf-8"))
        told = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")["violations"]
        return [
            f"{where}: {one['id']}: {one['nodes'][0]['html'][:200]}: {one['nodes'][0]['failureSummary']}"
            for one in told
            if one["impact"] in ("serious", "critical")
        ]

    wrong = []
    for view in VIEWS:
        page.goto(f"{url}{view or '#/'}")
        page.locator("main h1").wait_for()
        wrong += violations(view)
    page.goto(f"{url}#/")
    search_with(page, photos / "astronaut-1.png")
    page.get_by_role("button", name="Set a box").click()
    page.get_by_text("not accepted").nth(0).click()
    page.get_by_text("Where to look").nth(0).click()
    wrong += violations("results")
    page.get_by_role("link", name="astronaut-2.jpg").click()
    page.locator(".points circle").nth(0).wait_for()
    wrong += violations("match")
    context.close()
    assert wrong == []
