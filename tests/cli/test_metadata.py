"""The verbs about metadata, on a real collection of images that are made up."""

import json

import PIL.Image
import pytest
from typer.testing import CliRunner

from resight.cli.main import app
from resight.describe.description import Description
from resight.recipes import load_recipe
from resight.search.collection import Collection
from resight.store.store import New, Store


@pytest.fixture
def collection(tmp_path):
    """Images /photos/a.jpg, /photos/b.jpg and /photos/sub/b.jpg, of which the first is by Ann."""
    path = tmp_path / "collection"
    description = Description((4, 3), None, None)
    with Store.create(path, load_recipe("rootsift-asmk"), "f00d") as store:
        places = {"/photos/a.jpg": {"artist": "Ann"}, "/photos/b.jpg": {}, "/photos/sub/b.jpg": {}}
        store.add([New(place, "", 1, 2, description, exif) for place, exif in places.items()], [], None)
    return path


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "facts.csv"
    path.write_text(
        "path,inventory,year,note\na.jpg,007,1900,\x1b[31mred\nsub/b.jpg,008,1950,\nb.jpg,009,1960,\nz,,,\n"
    )
    return path


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def test_import_says_what_it_did_and_what_it_left_out(collection, csv):
    result = run("metadata", "import", collection, csv)
    assert result.stdout == "5 facts given to 2 images\n"
    assert "2 rows are not of one image: row 4 (b.jpg): 2 images" in result.stderr
    assert "row 5 (z): no image has this path" in result.stderr
    told = json.loads(run("metadata", "import", collection, csv, "--json").stdout)
    assert (told["images"], told["facts"], [p["number"] for p in told["problems"]]) == (2, 5, [4, 5])
    quiet = run("metadata", "import", collection, csv, "--quiet")
    assert quiet.stdout == "" and "2 rows" in quiet.stderr


def test_strict_imports_all_or_nothing(collection, csv):
    result = run("metadata", "import", collection, csv, "--strict", code=2)
    assert f"{csv}: nothing was imported: 2 rows" in result.stderr
    assert "year" not in run("metadata", "keys", collection).stdout


def test_another_column_may_hold_the_paths(collection, tmp_path):
    path = tmp_path / "facts.csv"
    path.write_text("file;year\na.jpg;1900\n")
    assert "no column path; --key" in run("metadata", "import", collection, path, code=2).stderr
    assert run("metadata", "import", collection, path, "--key", "file").stdout == "1 fact given to 1 image\n"


def test_show(collection, csv):
    run("metadata", "import", collection, csv)
    lines = run("metadata", "show", collection, "/photos/a.jpg").stdout.splitlines()
    assert [line.split() for line in lines] == [
        ["artist", "Ann"],
        ["inventory", "007"],
        ["note", "\\x1b[31mred"],
        ["year", "1900"],
    ]
    told = json.loads(run("metadata", "show", collection, "id:3", "--json").stdout)
    assert told == {"id": 3, "path": "/photos/sub/b.jpg", "metadata": {"inventory": "008", "year": 1950}}
    assert run("metadata", "show", collection, "id:2").stdout == ""
    assert "id:9" in run("metadata", "show", collection, "id:9", code=2).stderr
    assert "no image of the collection is at /nowhere" in run("metadata", "show", collection, "/nowhere", code=2).stderr


def test_keys(collection, csv):
    run("metadata", "import", collection, csv)
    with Collection.open(collection, write=True) as opened:
        opened.set_metadata({1: {"sold": True, "long": "x" * 50}, 2: {"sold": False}, 3: {"sold": True}})
    lines = run("metadata", "keys", collection).stdout.splitlines()
    assert [line.split(maxsplit=3) for line in lines] == [
        ["key", "kind", "images", "values"],
        ["artist", "text", "1", "Ann (1)"],
        ["inventory", "text", "2", "007 (1), 008 (1)"],
        ["long", "text", "1", f"{'x' * 39}… (1)"],
        ["note", "text", "1", "\\x1b[31mred (1)"],
        ["sold", "truth", "3", "true (2), false (1)"],
        ["year", "number", "2", "1900 to 1950"],
    ]
    told = json.loads(run("metadata", "keys", collection, "--json").stdout)["keys"]
    assert told[-1] == {"name": "year", "kind": "number", "images": 2, "low": 1900, "high": 1950, "frequent": []}
    assert told[4]["frequent"] == [[True, 2], [False, 1]]


def test_index_reads_the_sidecar_first_and_imports_it_last(tmp_path):
    photos, into = tmp_path / "photos", tmp_path / "collection"
    photos.mkdir()
    PIL.Image.effect_noise((64, 64), 80).convert("RGB").save(photos / "a.png")
    wrong, right = photos / "wrong.csv", photos / "right.csv"
    wrong.write_text("file,year\na.png,1900\n")
    right.write_text("path,year\na.png,1900\nz.png,1901\n")
    result = run("index", photos, "--into", into, "--metadata", wrong, "--quiet", code=2)
    assert "no column path" in result.stderr and not into.exists()
    result = run("index", photos, "--into", into, "--metadata", right, "--quiet", "--workers", "1")
    assert result.stdout == "" and "row 3 (z.png)" in result.stderr
    with Collection.open(into) as opened:
        assert opened.metadata(1) == {"year": 1900}
    told = json.loads(run("index", photos, "--into", into, "--metadata", right, "--json", "--workers", "1").stdout)
    assert told["unchanged"] == 1 and told["metadata"]["images"] == 1
