"""Facts of images: from photos, from sidecar files, and what becomes of them when images change, move or go."""

import json
import signal
import unicodedata
from pathlib import Path
from tempfile import TemporaryDirectory

import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL.ExifTags import Base

from resight.describe.description import Description
from resight.errors import CollectionError, QueryError, ResightError
from resight.search.collection import Collection
from resight.store.importing import import_sidecar
from resight.store.matching import matching_ids
from resight.store.metadata import Key, facts, set_facts, summary
from resight.store.sidecar import read_sidecar
from resight.store.store import New
from resight.store.where import Equals
from resight.store.where_text import parse_where


@pytest.fixture
def images(store, new, made_up):
    """/photos/a.jpg, /photos/sub/b.jpg, /photos/sub/c.jpg, /other/c.jpg and /photos/box.zip!/e.jpg, ids 1 to 5."""
    places = ("/photos/a.jpg", "/photos/sub/b.jpg", "/photos/sub/c.jpg", "/other/c.jpg", "/photos/box.zip!/e.jpg")
    store.add([new(place, made_up(0, 3)) for place in places], [], None)
    return store


@pytest.fixture
def sidecar(tmp_path):
    """Writes a file and gives its path."""

    def write(name: str, content):
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return write


def known(store) -> dict[int, dict]:
    ids = [image for (image,) in store.catalogue.rows("SELECT id FROM images ORDER BY id")]
    return {image: own for image in ids if (own := facts(store.catalogue, image))}


def typed(row) -> dict:
    return {key: (type(value).__name__, value) for key, value in row.items()}


def test_values_come_back_as_they_were_given(images):
    given = {
        "n": 1,
        "x": 1.0,
        "big": 2**63 - 1,
        "yes": True,
        "no": False,
        "t": "1",
        "é": "Zür\nich \U0001f4f7",
        "e": "",
    }
    set_facts(images.catalogue, {1: given, 2: {"n": 2}})
    assert typed(facts(images.catalogue, 1)) == typed(given) and list(facts(images.catalogue, 1)) == sorted(given)
    set_facts(images.catalogue, {1: {"n": "two", "x": None, "unknown": None}})
    assert typed(facts(images.catalogue, 1)) == typed({k: v for k, v in given.items() if k != "x"} | {"n": "two"})
    assert facts(images.catalogue, 2) == {"n": 2}


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"width": 3}, "itself knows"),
        ({"": 3}, "empty"),
        ({" a": 3}, "white space"),
        ({"k" * 101: 3}, "longer than 100"),
        ({"a\0": 3}, "NUL"),
        ({1: 3}, "a key is a text"),
        ({"a": float("inf")}, "finite"),
        ({"a": 2**63}, "64 bits"),
        ({"a": [1]}, "is a list"),
        ({"a": "\ud800"}, "Unicode"),
        ({"a": "x" * 65_537}, "longer than 65,536"),
    ],
)
def test_what_cannot_be_a_fact_is_refused_and_nothing_is_given(images, own, message):
    with pytest.raises(ValueError, match=message):
        set_facts(images.catalogue, {1: {"b": 1}, 2: own})
    with pytest.raises(QueryError, match="id:99"):
        set_facts(images.catalogue, {1: {"b": 1}, 99: {"b": 1}})
    assert known(images) == {}


def test_facts_end_with_their_image_and_stay_with_one_that_is_replaced(images, new, made_up):
    set_facts(images.catalogue, {1: {"place": "a"}, 2: {"place": "b"}, 3: {"place": "c"}})
    images.remove([2])
    images.add([new("/photos/a.jpg", made_up(1, 4))], [("/photos/sub/c.jpg", "damaged", 1, 1)], None)
    assert known(images) == {6: {"place": "a"}}
    assert images.catalogue.rows("SELECT count(*) FROM metadata") == [(1,)]


def test_exif_is_read_anew_and_what_was_given_stands_before_it(images, made_up):
    def photo(**exif):
        return New("/photos/a.jpg", "d", 1, 2, Description((4, 3), None, made_up(0, 3)), exif)

    images.add([photo(taken="2001", artist="A", lens="L")], [], None)
    set_facts(images.catalogue, {6: {"artist": "B", "lens": None, "place": "x"}})
    assert known(images) == {6: {"artist": "B", "lens": "L", "place": "x", "taken": "2001"}}
    images.add([photo(taken="2002", artist="C")], [], None)
    assert known(images) == {7: {"artist": "B", "place": "x", "taken": "2002"}}
    set_facts(images.catalogue, {7: {"artist": None, "taken": None}})
    assert known(images) == {7: {"place": "x", "taken": "2002"}}
    images.add([photo(taken="2002", artist="C")], [], None)
    assert known(images) == {8: {"artist": "C", "place": "x", "taken": "2002"}}


def test_the_keys_and_their_values(images):
    places = dict(zip(range(1, 6), ["x", "y", "x", "x", "y"], strict=True))
    set_facts(images.catalogue, {image: {"place": place} for image, place in places.items()})
    set_facts(images.catalogue, {1: {"year": 1900, "sold": True}, 2: {"year": 1850.5}, 3: {"year": "ca."}})
    assert summary(images.catalogue) == [
        Key("place", "text", 5, "x", "y", (("x", 3), ("y", 2))),
        Key("sold", "truth", 1, None, None, ((True, 1),)),
        Key("year", "number", 2, 1850.5, 1900, ()),
        Key("year", "text", 1, "ca.", "ca.", (("ca.", 1),)),
    ]


def columns(text: str) -> dict[str, list]:
    rows = read(text)
    return {name: [row.facts[name] for row in rows] for name in (rows[0].facts if rows else ())}


def read(text: str):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_bytes(text.encode())
        return read_sidecar(path)


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1", "-2", "3.5"], [1, -2, 3.5]),
        (["1", "", "2"], [1, None, 2]),
        (["007", "12", "3"], ["007", "12", "3"]),
        (["1998.1", "1998.10", "2"], ["1998.1", "1998.10", "2"]),
        (["12.50", "13.00", "0.5"], [12.5, 13.0, 0.5]),
        (["1", "x", "2"], ["1", "x", "2"]),
        (["1e3", "1e4", "1e5"], ["1e3", "1e4", "1e5"]),
        (["TRUE", "false", ""], [True, False, None]),
        (["true", "1", ""], ["true", "1", None]),
        (["", "", ""], [None, None, None]),
        (["12345678901234567890", "1", "2"], ["12345678901234567890", "1", "2"]),
        ([" a ", '"b, c"', '"say ""x"""'], ["a", "b, c", 'say "x"']),
    ],
)
def test_the_type_of_a_column(cells, values):
    text = "path,x\n" + "".join(f"{i}.jpg,{cell}\n" for i, cell in enumerate(cells))
    assert [typed({"x": v}) for v in columns(text)["x"]] == [typed({"x": v}) for v in values]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.sampled_from("0123456789.-e+ tru"), max_size=6), min_size=1, max_size=5))
def test_a_column_keeps_apart_what_was_apart(cells):
    stripped = [cell.strip() for cell in cells]
    text = "path,x\n" + "".join(f'{i}.jpg,"{cell}"\n' for i, cell in enumerate(cells))
    values = columns(text)["x"]
    assert [value is None for value in values] == [cell == "" for cell in stripped]
    assert len({type(v) for v in values if v is not None} - {int, float}) in (0, 1)
    if not any(isinstance(v, bool) for v in values):
        for a, one in zip(stripped, values, strict=True):
            for b, two in zip(stripped, values, strict=True):
                assert (a == b) == (one == two)
            if one is not None:
                assert one == a or float(a) == one


@pytest.mark.parametrize(
    "text", ["path,x\na.jpg,1\n", "path;x\na.jpg;1\n", "x\tpath\r\n1\ta.jpg\r\n", "\ufeffpath,x\n\na.jpg,1"]
)
def test_csv_of_all_sorts(text):
    (row,) = read(text)
    assert (row.path, dict(row.facts)) == ("a.jpg", {"x": 1}) and row.number in (2, 3)


def test_columns_without_name_and_values_are_those_of_a_spreadsheet():
    assert columns("path,x,,\na.jpg,1,,\n") == {"x": [1]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "path\n", "is named .csv or .json"),
        ("a.csv", "", "the heading has no column path; --key"),
        ("a.csv", "file,x\n", "the heading has no column path; --key"),
        ("a.csv", "path,x,x\n", "two columns 'x'"),
        ("a.csv", "path,width\n", "column 'width' is what the collection itself knows"),
        ("a.csv", "path,x\na.jpg\n", "line 2: has 1 values, the heading 2"),
        ("a.csv", "path,x\na.jpg,1,2\n", "line 2: has 3 values, the heading 2"),
        ("a.csv", "path,\na.jpg,1\n", "column '' is empty"),
        ("a.csv", 'path,x\na.jpg,"1\n', "line 2: "),
        ("a.csv", "path,x\na.jpg,1\0\n", "NUL"),
        ("a.csv", b"path,x\na.jpg,Z\xfcrich\n", "is not UTF-8"),
        ("a.json", "{", "is not JSON"),
        ("a.json", "3", "neither a list of objects nor an object"),
        ("a.json", [3], "entry 1: is not an object"),
        ("a.json", {"a.jpg": 3}, "entry 'a.jpg': is not an object"),
        ("a.json", [{"path": 3}], "entry 1: path is not a text"),
        ("a.json", [{"path": "a", "x": {"y": 1}}], "entry 1: 'x' is nested"),
        ("a.json", {"a": {"tags": []}}, "entry 'a': 'tags' is nested"),
        ("a.json", [{"path": "a", "width": 1}], "key 'width' is what the collection itself"),
        ("a.json", '[{"path": "a", "x": 1, "x": 2}]', "has 'x' twice"),
        ("a.json", '[{"path": "a", "x": NaN}]', "NaN is not JSON"),
        ("a.json", '[{"path": "a", "x": 1e999}]', "not a finite number"),
        ("a.json", f'[{{"path": "a", "x": {"9" * 5000}}}]', "too long"),
        ("a.json", f'[{{"path": "a", "x": {2**63}}}]', "64 bits"),
        ("a.json", "[" * 100_000, "is not JSON"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_what_is_wrong(images, sidecar, name, content, message):
    path = sidecar(name, content)
    with pytest.raises(ResightError, match=message) as raised:
        import_sidecar(images.catalogue, path)
    assert str(path) in str(raised.value) and known(images) == {}
    with pytest.raises(ResightError, match="cannot be read"):
        read_sidecar(path.with_name("nowhere.csv"))


def test_json_values_keep_their_type(images, sidecar):
    values = {"a": 1, "b": 1.5, "c": "1", "d": True, "e": None}
    for content in ([{"path": "a.jpg", **values}], {"a.jpg": values}, [{"file": "a.jpg", **values}]):
        key = "file" if "file" in content[0 if isinstance(content, list) else "a.jpg"] else "path"
        report = import_sidecar(images.catalogue, sidecar("a.json", content), key=key)
        assert (report.images, report.facts, report.problems) == (1, 4, ())
        assert typed(facts(images.catalogue, 1)) == typed({k: v for k, v in values.items() if v is not None})
        set_facts(images.catalogue, {1: dict.fromkeys("abcd")})
        assert known(images) == {}


def test_rows_find_their_images(images, sidecar):
    rows = {
        "/photos/a.jpg": 1,
        "sub/b.jpg": 2,
        "./sub/../sub/c.jpg": 3,
        "/other/c.jpg": 4,
        "box.zip!/e.jpg": 5,
    }
    report = import_sidecar(images.catalogue, sidecar("a.json", {path: {"n": i} for path, i in rows.items()}))
    assert report.problems == () and known(images) == {i: {"n": i} for i in rows.values()}


def test_rows_of_no_image_or_several_are_named(images, sidecar):
    rows = ["a.jpg,1", "c.jpg,2", "z.jpg,3", ",4", "/photos/a.jpg,5", "/a.jpg,6", "../a.jpg,7", "hotos/a.jpg,8"]
    path = sidecar("a.csv", "\n".join(["path,n", *rows]))
    report = import_sidecar(images.catalogue, path)
    assert (report.images, report.facts) == (1, 1) and known(images) == {1: {"n": 1}}
    none = "no image has this path"
    assert [(p.number, p.path, p.reason) for p in report.problems] == [
        (3, "c.jpg", "2 images have a path that ends in it"),
        (4, "z.jpg", none),
        (5, "", "it names no image"),
        (6, "/photos/a.jpg", "row 2 is of the same image"),
        (7, "/a.jpg", none),
        (8, "../a.jpg", none),
        (9, "hotos/a.jpg", none),
    ]
    assert report.shown.startswith("7 rows are not of one image: row 3 (c.jpg): 2 images") and report.shown[-1] == "…"
    set_facts(images.catalogue, {1: {"n": None}})
    with pytest.raises(ResightError, match=r"a.csv: nothing was imported: 7 rows are .* row 3 \(c.jpg\)"):
        import_sidecar(images.catalogue, path, strict=True)
    assert known(images) == {}


def test_a_path_from_the_files_folder_comes_before_one_that_ends_alike(store, new, made_up, tmp_path, sidecar):
    store.add([new(f"{folder}/c.jpg", made_up(0, 3)) for folder in ("/other", tmp_path, "/third")], [], None)
    report = import_sidecar(store.catalogue, sidecar("a.csv", "path,n\nc.jpg,1\n"))
    assert report.problems == () and known(store) == {2: {"n": 1}}


def test_an_accent_may_be_a_character_of_its_own(store, new, made_up, sidecar):
    store.add([new(unicodedata.normalize("NFD", "/photos/é.jpg"), made_up(0, 3))], [], None)
    report = import_sidecar(store.catalogue, sidecar("a.csv", unicodedata.normalize("NFC", "path,n\né.jpg,1\n")))
    assert report.problems == () and known(store) == {1: {"n": 1}}


def test_an_empty_cell_takes_back_what_was_given(images, sidecar):
    import_sidecar(images.catalogue, sidecar("a.csv", "path,x,y\na.jpg,1,2\nb.jpg,3,4\n"))
    report = import_sidecar(images.catalogue, sidecar("b.csv", "path,x\na.jpg,\nb.jpg,5\n"))
    assert (report.images, report.facts) == (2, 1)
    assert known(images) == {1: {"y": 2}, 2: {"x": 5, "y": 4}}


def test_an_import_that_fails_within_leaves_nothing(images, sidecar):
    with images.catalogue.transaction() as db:
        db.execute(
            "CREATE TRIGGER full BEFORE INSERT ON metadata WHEN NEW.image = 3 BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
    path = sidecar("a.csv", "path,x\na.jpg,1\nb.jpg,2\nphotos/sub/c.jpg,3\n")
    with pytest.raises(Exception, match="full"):
        import_sidecar(images.catalogue, path)
    assert known(images) == {}


CRASH = """
import os, signal, sys
from pathlib import Path
from resight.store import importing
from resight.store.catalogue import Catalogue

def give(db, image, values, left=[2000], whole=importing.give):
    whole(db, image, values)
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)

importing.give = give
catalogue = Catalogue(Path(sys.argv[1]), write=True)
catalogue._db.execute("PRAGMA cache_size = 5")  # so that half of the transaction is in the file before it is committed
importing.import_sidecar(catalogue, sys.argv[2])
"""


def test_a_killed_import_leaves_nothing(store, sidecar, python):
    with store.catalogue.transaction() as db:
        db.executemany(
            "INSERT INTO images (origin, digest, bytes, modified_ns, width, height) VALUES (?, '', 1, 1, 4, 3)",
            [(f"/{i}.jpg",) for i in range(3000)],
        )
    path = sidecar("a.csv", "path,note\n" + "".join(f"{i}.jpg,{str(i) * 40}\n" for i in range(3000)))
    store.close()
    killed = python(CRASH, store.folder, path)
    assert killed.wait(timeout=60) == -signal.SIGKILL, killed.stderr.read()
    with Collection.open(store.folder, write=True) as opened:
        assert opened.metadata_keys() == [] and opened.verify() == []
        assert opened.import_metadata(path).images == 3000


def photo(path, shade: int, **tags):
    exif = PIL.Image.Exif()
    for tag, value in tags.items():
        exif[Base[tag]] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (40, 30), (shade, 0, 0)).save(path, exif=exif)


@pytest.mark.usefixtures("in_this_process")
def test_what_photos_say_is_indexed_and_given_facts_follow_them(tmp_path, recipe, sidecar):
    """A photo that is changed, moved, copied, or moved in the place of another."""
    folder = tmp_path / "photos"
    photo(folder / "a.jpg", 10, Model="EOS", Artist="Ann")
    photo(folder / "b.jpg", 90, Model="X100")
    photo(folder / "c.png", 200)
    with Collection.create(tmp_path / "collection", recipe) as collection:

        def told() -> dict:
            return {entry.origin.rpartition("/")[2]: collection.metadata(entry.id) for entry in collection.entries()}

        collection.add([folder])
        assert told() == {
            "a.jpg": {"artist": "Ann", "camera_model": "EOS"},
            "b.jpg": {"camera_model": "X100"},
            "c.png": {},
        }
        collection.import_metadata(sidecar("photos/facts.csv", "path,place,artist\na.jpg,Paris,Eve\nb.jpg,Rome,\n"))
        assert told()["a.jpg"] == {"artist": "Eve", "camera_model": "EOS", "place": "Paris"}
        photo(folder / "a.jpg", 15, Model="EOS R", Artist="Ann")
        (folder / "b.jpg").rename(folder / "moved.jpg")
        assert collection.add([folder]).moved == 1
        assert told() == {
            "a.jpg": {"artist": "Eve", "camera_model": "EOS R", "place": "Paris"},
            "moved.jpg": {"camera_model": "X100", "place": "Rome"},
            "c.png": {},
        }
        (folder / "copy.jpg").write_bytes((folder / "a.jpg").read_bytes())
        collection.add([folder])
        assert told()["copy.jpg"] == {"artist": "Ann", "camera_model": "EOS R"}  # it is another image
        (folder / "moved.jpg").replace(folder / "a.jpg")
        collection.add([folder])
        assert told()["a.jpg"] == {"camera_model": "X100", "place": "Rome"}
        (found,) = matching_ids(collection._store.catalogue, Equals("place", "Rome"))
        assert collection.entry(found).origin == str(folder / "a.jpg")
        collection.remove([int(found)])
        with pytest.raises(QueryError, match="no image has metadata place"):
            matching_ids(collection._store.catalogue, parse_where("place = Rome"))


def test_a_collection_open_for_reading_is_given_nothing(indexed, sidecar):
    path = sidecar("a.csv", "path,x\ncoffee-1.png,1\n")
    with Collection.open(indexed) as collection:
        for change in (lambda: collection.set_metadata({1: {"a": 1}}), lambda: collection.import_metadata(path)):
            with pytest.raises(CollectionError, match="open for reading"):
                change()
        with pytest.raises(QueryError, match="id:99"):
            collection.metadata(99)
        assert collection.metadata(1) == {} and collection.metadata_keys() == []
