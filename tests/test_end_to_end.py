"""The command line as a user meets it, over a small folder of photos; nothing is faked."""

import csv
import io
import json
import os
import re
import shutil
from pathlib import Path

import PIL.Image
import pytest
from typer.testing import CliRunner

from resight.cli.main import app

OBJECTS = ("astronaut", "chelsea", "coffee", "rocket")


def run(*arguments: object, code: int = 0, stdin: bytes | str | None = None):
    result = CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, (result.stdout, result.stderr)
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory, photos) -> Path:
    """The photos, with one that is broken, and a collection of them beside."""
    root = tmp_path_factory.mktemp("end to end")
    shutil.copytree(photos, root / "my photos")
    (root / "my photos/broken.jpg").write_bytes(b"broken")
    out = run("index", root / "my photos", "--into", root / "c", "--workers", 1, "--json")
    report = json.loads(out.stdout)
    assert (report["added"], report["failed"]) == (12, 1) and "1 file" in out.stderr
    return root


def found(output: str) -> list[str]:
    return [Path(line).name for line in output.splitlines()]


def test_searching_by_path_finds_both_views(folder):
    for name in OBJECTS:
        query = folder / f"my photos/{name}-1.png"
        paths = run("search", folder / "c", query, "--paths").stdout
        assert found(paths) == [f"{name}-1.png", f"{name}-2.jpg"]
        assert all(Path(line).is_file() for line in paths.splitlines())


def test_the_table_says_how_many_and_how_sure(folder):
    out = run("search", folder / "c", folder / "my photos/coffee-2.jpg").stdout
    assert re.search(r"coffee-2\.jpg: 2 matches among 12 images", out)
    assert re.search(r"1 +id:\d+ +[01]\.\d+ .*coffee-2\.jpg", out)


def test_searching_by_id_leaves_the_image_itself_out(folder):
    run("export", folder / "c", folder / "all.csv")
    with (folder / "all.csv").open(newline="") as file:
        ids = {Path(row["path"]).name: row["id"] for row in csv.DictReader(file)}
    assert len(ids) == 12
    assert found(run("search", folder / "c", f"id:{ids['rocket-1.png']}", "--paths").stdout) == ["rocket-2.jpg"]
    assert "no image with this id" in run("search", folder / "c", "id:999", code=2).stderr


def test_json_has_all_the_evidence(folder):
    answer = json.loads(run("search", folder / "c", folder / "my photos/astronaut-1.png", "--json", "--all").stdout)
    (query,) = answer["queries"]
    assert query["found"] and len(query["results"]) == 12 and set(query["timing"]) >= {"describe", "filter", "verify"}
    first, second = query["results"][:2]
    assert first["rank"] == 1 and first["accepted"] and first["score"] >= second["score"] >= query["threshold"]
    assert Path(second["path"]).name == "astronaut-2.jpg" and second["inliers"] > 20 and len(second["homography"]) == 3
    assert not query["results"][-1]["accepted"]


def test_a_box_is_searched_and_shown_in_the_result(folder):
    answer = run("search", folder / "c", folder / "my photos/chelsea-1.png", "--box", "60,30,260,190", "--csv").stdout
    rows = list(csv.DictReader(io.StringIO(answer)))
    assert [Path(row["path"]).name for row in rows] == ["chelsea-1.png", "chelsea-2.jpg"]
    box = [float(rows[0][key]) for key in ("x1", "y1", "x2", "y2")]
    assert max(abs(a - b) for a, b in zip(box, (60, 30, 260, 190), strict=True)) < 2
    out = run("search", folder / "c", folder / "my photos/chelsea-1.png", "--box", "0,0,999,10", code=2)
    assert "leaves the image, which is 320×213" in out.stderr


def test_a_picture_on_standard_input(folder):
    data = (folder / "my photos/rocket-2.jpg").read_bytes()
    assert found(run("search", folder / "c", "-", "--paths", stdin=data).stdout) == ["rocket-2.jpg", "rocket-1.png"]


def test_many_queries_and_one_that_fails(folder):
    lines = "\n".join([str(folder / "my photos/moon.png"), "id:1", str(folder / "no-such.jpg")])
    out = run("search", folder / "c", "@-", "--json", stdin=lines, code=2)
    queries = json.loads(out.stdout)["queries"]
    assert [q["found"] for q in queries] == [True, True, False] and "does not exist" in queries[2]["error"]


def test_nothing_found_is_said_and_is_exit_code_1(folder, tmp_path):
    from skimage import data

    PIL.Image.fromarray(data.page()).save(tmp_path / "page.png")
    out = run("search", folder / "c", tmp_path / "page.png", code=1)
    assert "page.png: nothing found among 12 images" in out.stdout


def test_a_page_to_look_at_is_one_file(folder, tmp_path):
    page = tmp_path / "out.html"
    run("search", folder / "c", folder / "my photos/coffee-1.png", "--html", page)
    text = page.read_text()
    assert text.lower().startswith("<!doctype html>") and "coffee-2.jpg" in text
    assert "data:image/jpeg;base64," in text and not re.search(r'(src|href)="https?:', text)


def test_failures_info_verify_and_export(folder, tmp_path):
    assert re.search(r"broken\.jpg: not an image", run("failures", folder / "c").stdout)
    (failure,) = json.loads(run("failures", folder / "c", "--json").stdout)["failures"]
    assert Path(failure["path"]).name == "broken.jpg"
    info = json.loads(run("info", folder / "c", "--json").stdout)
    assert (info["images"], info["failures"], info["recipe"]) == (12, 1, "rootsift-asmk")
    assert "12" in run("info", folder / "c").stdout
    assert "is sound" in run("verify", folder / "c").stdout
    run("export", folder / "c", tmp_path / "all.json")
    assert len(json.loads((tmp_path / "all.json").read_text())) == 12
    assert "has no global descriptors" in run("export", folder / "c", tmp_path / "v.npz", code=2).stderr


def test_a_collection_grows_shrinks_and_is_refitted(folder, tmp_path, photos):
    shutil.copytree(folder / "c", tmp_path / "c")
    later = tmp_path / "later"
    later.mkdir()
    os.link(photos / "moon.png", later / "moon-again.png")
    run("index", later, "--into", tmp_path / "c", "--workers", 1, "-q")
    assert found(run("search", tmp_path / "c", photos / "moon.png", "--paths").stdout) == ["moon.png", "moon-again.png"]
    assert "1" in run("remove", tmp_path / "c", folder / "my photos/moon.png").stdout
    assert "visual words, learned from the collection itself, 12 images" in run("refit", tmp_path / "c").stdout
    assert found(run("search", tmp_path / "c", photos / "moon.png", "--paths").stdout) == ["moon-again.png"]
    run("remove", tmp_path / "c", "/nowhere", code=1)
    run("verify", tmp_path / "c")
    damaged = tmp_path / "c/features.log"
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    assert "its description is damaged" in run("verify", tmp_path / "c", code=1).stdout


def test_evaluating_a_folder_with_a_sub_folder_an_object(tmp_path, photos):
    for name in OBJECTS:
        (tmp_path / "set" / name).mkdir(parents=True)
        for file in photos.glob(f"{name}-*"):
            shutil.copy(file, tmp_path / "set" / name)
    (tmp_path / "others").mkdir()
    shutil.copy(photos / "brick.png", tmp_path / "others")
    out = run("evaluate", tmp_path / "set", "--distractors", tmp_path / "others", "--workers", 1, "--json", "-q").stdout
    report = json.loads(out)
    assert report["protocol"]["average_precision"] == "trapezoidal" and report["protocol"]["queries"] == 8
    assert report["figures"]["mean_average_precision"] == report["figures"]["acceptance"]["found"] == 1
    assert report["costs"]["indexed_now"] == 9


def test_recipes_are_listed_shown_and_fitted(folder, tmp_path):
    assert "rootsift-asmk" in run("recipes").stdout
    (tmp_path / "mine.toml").write_text(run("recipes", "show", "rootsift-asmk").stdout)
    photos = folder / "my photos"
    run("fit", tmp_path / "mine.toml", photos, "--into", tmp_path / "fitted", "-q")
    index = ("index", photos / "coffee-1.png", photos / "coffee-2.jpg", "--workers", 1, "-q")
    run(*index, "--into", tmp_path / "c", "--recipe", tmp_path / "fitted")
    assert found(run("search", tmp_path / "c", photos / "coffee-1.png", "--paths").stdout)[-1] == "coffee-2.jpg"
    (tmp_path / "mine.toml").write_text("name = 1\n")
    out = run(*index, "--into", tmp_path / "d", "--recipe", tmp_path / "mine.toml", code=2)
    assert "mine.toml: name" in out.stderr and not (tmp_path / "d").exists()


def test_mistakes_are_said_without_a_traceback(folder, tmp_path):
    assert "no collection here; make one with `resight index" in run("search", tmp_path, "a.jpg", code=2).stderr
    assert "no collection here" in run("verify", tmp_path / "nowhere", code=2).stderr
    assert "is not an empty folder" in run("index", folder, "--into", folder / "my photos", code=2).stderr
