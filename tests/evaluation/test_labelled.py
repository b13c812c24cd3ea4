"""Reading labelled sets: both forms, every contradiction refused by name, and the real sets' known counts."""

import json

import pytest
from PIL import Image

from resight.errors import GroundTruthError
from resight.evaluation.labelled import LabelledSet, Query, sample, subset, with_distractors
from resight.evaluation.load import load_labelled

FILES = {"db/a.jpg": 1, "db/b.jpg": 2, "db/c.jpg": 3, "q/x.jpg": 1, "q/y.jpg": 9}
DATABASE = ["db/a.jpg", "db/b.jpg", "db/c.jpg"]
X = {"positives": ["db/a.jpg"], "junk": ["db/b.jpg"], "subset": "easy"}
Y = {"positives": [], "subset": "none"}


def test_the_json_form(write_set):
    images = {"db/a.jpg": {"instance": "cup", "size": [3, 4], "tags": ["kept out"]}}
    root = write_set(FILES, protocol="p", images=images, database=DATABASE, queries={"q/x.jpg": X, "q/y.jpg": Y})
    labelled = load_labelled(root)
    assert labelled == load_labelled(root / "gt.json")
    assert (labelled.name, labelled.protocol, labelled.root) == ("numbers", "p", root)
    assert labelled.database == tuple(DATABASE)
    assert labelled.queries == (
        Query("q/x.jpg", frozenset({"db/a.jpg"}), frozenset({"db/b.jpg"}), None, "easy"),
        Query("q/y.jpg", frozenset(), frozenset(), None, "none"),
    )
    assert labelled.groups == {"db/a.jpg": "cup"}
    assert not labelled.leave_one_out
    assert labelled.locate("db/a.jpg") == root / "db" / "a.jpg"


def test_a_query_of_the_database_leaves_itself_out(write_set):
    query = {"positives": ["db/a.jpg", "db/b.jpg"], "junk": ["db/a.jpg", "db/c.jpg"]}
    labelled = load_labelled(write_set(FILES, database=DATABASE, queries={"db/a.jpg": query}))
    assert labelled.leave_one_out
    assert labelled.queries[0].positives == {"db/b.jpg"}
    assert labelled.queries[0].junk == {"db/c.jpg"}


def test_the_revision_follows_the_file(write_set):
    before = load_labelled(write_set(FILES, database=DATABASE, queries={"q/x.jpg": X})).revision
    after = load_labelled(write_set(FILES, database=DATABASE, queries={"q/x.jpg": {**X, "junk": []}})).revision
    assert len(before) == 64
    assert before != after


@pytest.mark.parametrize(
    ("database", "queries", "said"),
    [
        ([], {"q/x.jpg": X}, "the database is empty"),
        (DATABASE, {}, "none of the 0 queries has a positive"),
        (DATABASE, {"q/y.jpg": Y}, "none of the 1 queries has a positive"),
        ([*DATABASE, "db/a.jpg"], {"q/x.jpg": X}, "lists db/a.jpg twice"),
        ([*DATABASE, "db/gone.jpg"], {"q/x.jpg": X}, "1 of 5 images are missing, the first db/gone.jpg"),
        (DATABASE, {"q/gone.jpg": X}, "the first q/gone.jpg"),
        (
            DATABASE,
            {"q/x.jpg": {"positives": ["db/z.jpg"]}},
            "query q/x.jpg: positive db/z.jpg is not in the data",
        ),
        (
            DATABASE,
            {"q/x.jpg": {**X, "junk": ["db/z.jpg"]}},
            "query q/x.jpg: junk db/z.jpg is not in the database",
        ),
        (
            DATABASE,
            {"q/x.jpg": {**X, "junk": ["db/a.jpg"]}},
            "query q/x.jpg: db/a.jpg is both positive and junk",
        ),
        (DATABASE, {"db/a.jpg": X}, "query db/a.jpg has only itself as a positive"),
        (DATABASE, {"q/x.jpg": {"junk": []}}, "queries → q/x.jpg → positives: Field required"),
        (DATABASE, {"q/x.jpg": {**X, "bbox": [0, 0, 1, 1]}}, "query q/x.jpg has the key 'bbox' where 'box'"),
        (DATABASE, {"q/x.jpg": {**X, "box": [0, 0, 1]}}, "queries → q/x.jpg → box"),
        ([*DATABASE, "db/../db/c.jpg"], {"q/x.jpg": X}, "write db/../db/c.jpg as db/c.jpg"),
        ("db/a.jpg", {"q/x.jpg": X}, "database: Input should be a valid list"),
    ],
)
def test_contradictions_are_refused_naming_file_and_entry(write_set, database, queries, said):
    root = write_set(FILES, database=database, queries=queries)
    with pytest.raises(GroundTruthError) as caught:
        load_labelled(root)
    assert str(caught.value).startswith(f"{root / 'gt.json'}: ")
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"name"', "\xff"])
def test_what_is_no_ground_truth_is_refused_naming_the_file(tmp_path, text):
    (tmp_path / "gt.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(GroundTruthError, match=r"gt\.json: "):
        load_labelled(tmp_path)


def test_a_query_listed_twice_is_refused_not_half_read(write_set):
    root = write_set(FILES, database=DATABASE, queries={"q/x.jpg": X})
    text = (root / "gt.json").read_text()
    (root / "gt.json").write_text(text.replace('"queries": {', f'"queries": {{"q/x.jpg": {json.dumps(Y)}, '))
    with pytest.raises(GroundTruthError, match=r"q/x\.jpg is there twice"):
        load_labelled(root)


def picture(path, size, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "red").save(path, **options)


@pytest.mark.parametrize(
    ("box", "fits"),
    [
        ([0, 0, 20, 30], True),
        ([1.5, 2, 3, 4], True),
        ([0, 0, 21, 30], False),
        ([0, 0, 20, 31], False),
        ([-1, 0, 5, 5], False),
        ([5, 5, 5, 9], False),
        ([5, 9, 9, 5], False),
        ([float("nan"), 0, 5, 5], False),
    ],
)
@pytest.mark.parametrize("where", ["gt.json", "header"])
def test_a_box_lies_in_the_upright_image(write_set, box, fits, where):
    """The file is 30 × 20 lying on its side: upright it is 20 × 30."""
    images = {"q/x.jpg": {"size": [20, 30]}} if where == "gt.json" else {}
    root = write_set(FILES, images=images, database=DATABASE, queries={"q/x.jpg": {**X, "box": box}})
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(root / "q/x.jpg", (30, 20), exif=exif)
    if fits:
        assert load_labelled(root).queries[0].box == tuple(box)
    else:
        with pytest.raises(GroundTruthError, match=r"query q/x\.jpg: box .* leaves the image of 20 × 30"):
            load_labelled(root)


def test_a_box_in_a_query_that_is_no_image_is_refused(write_set):
    root = write_set(FILES, database=DATABASE, queries={"q/x.jpg": {**X, "box": [0, 0, 1, 1]}})
    with pytest.raises(GroundTruthError, match=r"query q/x\.jpg has a box but cannot be read"):
        load_labelled(root)


def test_the_folder_form(tmp_path):
    for path in ["cup/1.jpg", "cup/deep/2.PNG", "dog/1.jpg", "dog/2.jpg", "dog/3.jpg", "owl/1.jpg"]:
        picture(tmp_path / path, (4, 4))
    picture(tmp_path / "_distractors/far/1.jpg", (4, 4))
    (tmp_path / "cup/notes.txt").write_text("not an image")
    labelled = load_labelled(tmp_path)
    answers = {query.path: set(query.positives) for query in labelled.queries}
    assert answers == {
        "cup/1.jpg": {"cup/deep/2.PNG"},
        "cup/deep/2.PNG": {"cup/1.jpg"},
        "dog/1.jpg": {"dog/2.jpg", "dog/3.jpg"},
        "dog/2.jpg": {"dog/1.jpg", "dog/3.jpg"},
        "dog/3.jpg": {"dog/1.jpg", "dog/2.jpg"},
    }
    assert set(labelled.own) == {*answers, "owl/1.jpg"}
    assert labelled.database == (*labelled.own, "_distractors/far/1.jpg")
    assert labelled.leave_one_out
    assert labelled.distractors == 1
    assert labelled.groups["owl/1.jpg"] == "owl"
    assert "_distractors/far/1.jpg" not in labelled.groups


def test_the_folder_form_needs_an_object_seen_twice(tmp_path):
    picture(tmp_path / "cup/1.jpg", (4, 4))
    with pytest.raises(GroundTruthError, match="no sub-folder with two images"):
        load_labelled(tmp_path)


def test_a_loose_image_is_refused_by_name(tmp_path):
    for path in ["cup/1.jpg", "cup/2.jpg", "loose.jpg"]:
        picture(tmp_path / path, (4, 4))
    with pytest.raises(GroundTruthError, match=r"loose\.jpg: lies beside"):
        load_labelled(tmp_path)


def test_no_such_folder(tmp_path):
    with pytest.raises(GroundTruthError, match="no such folder"):
        load_labelled(tmp_path / "nowhere")


def made(tmp_path, n=20):
    database = tuple(f"db/{i}.jpg" for i in range(n))
    queries = tuple(
        Query(f"q/{i}.jpg", frozenset({database[i]}), subset="even" if i % 2 == 0 else "odd") for i in range(n)
    )
    return LabelledSet("made", tmp_path / "gt.json", tmp_path, database, queries)


def test_distractors_join_the_database_once_and_by_absolute_path(tmp_path):
    labelled = made(tmp_path / "set")
    picture(tmp_path / "set/db/0.jpg", (4, 4))
    picture(tmp_path / "far/1.jpg", (4, 4))
    picture(tmp_path / "far/2.jpg", (4, 4))
    more = with_distractors(labelled, [tmp_path / "far", tmp_path / "far", tmp_path / "set/db"])
    far = (str(tmp_path / "far/1.jpg"), str(tmp_path / "far/2.jpg"))
    assert more.database == (*labelled.database, *far)
    assert more.distractors == 2
    assert more.queries == labelled.queries
    assert str(more.locate(far[0])) == far[0]


def test_a_query_of_the_database_may_lie_among_the_distractors(tmp_path):
    for path in ["cup/1.jpg", "cup/2.jpg"]:
        picture(tmp_path / "set" / path, (4, 4))
    labelled = load_labelled(tmp_path / "set")
    assert with_distractors(labelled, [tmp_path / "set"]) == labelled


def test_distractors_that_are_missing_or_queries_are_refused(tmp_path):
    labelled = made(tmp_path / "set")
    with pytest.raises(GroundTruthError, match="nowhere: no such folder"):
        with_distractors(labelled, [tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(GroundTruthError, match="empty: no images"):
        with_distractors(labelled, [tmp_path / "empty"])
    picture(tmp_path / "set/q/3.jpg", (4, 4))
    with pytest.raises(GroundTruthError, match=r"q/3\.jpg: a query of made cannot be a distractor"):
        with_distractors(labelled, [tmp_path / "set/q"])


def test_a_sample_is_seeded_and_in_order_and_says_so(tmp_path):
    labelled = made(tmp_path)
    drawn = sample(labelled, 7, seed=3)
    assert drawn == sample(labelled, 7, seed=3)
    assert drawn.queries != sample(labelled, 7, seed=4).queries
    assert len(set(drawn.queries)) == 7
    assert [q for q in labelled.queries if q in drawn.queries] == list(drawn.queries)
    assert drawn.selection == "7 of 20 queries drawn with seed 3"
    assert sample(labelled, 20, seed=3) == labelled
    with pytest.raises(GroundTruthError, match="0 queries"):
        sample(labelled, 0, seed=3)


def test_a_subset_by_name(tmp_path):
    labelled = made(tmp_path)
    odd = subset(labelled, ["odd"])
    assert {query.subset for query in odd.queries} == {"odd"}
    assert len(odd.queries) == 10
    assert sample(odd, 2, seed=0).selection == "subset odd; 2 of 10 queries drawn with seed 0"
    with pytest.raises(GroundTruthError, match="no subset is called 'od'; choose from even, odd"):
        subset(labelled, ["od"])


@pytest.mark.parametrize(
    ("name", "database", "queries", "unanswerable", "leave_one_out", "in_fours"),
    [
        ("museum_mcv", 287, 231, 20, False, False),
        ("grocery_packages", 472, 385, 0, False, False),
        ("scenes_multiview", 256, 256, 0, True, False),
        ("ukbench1000", 600, 600, 0, True, True),
    ],
)
def test_the_real_sets(photographs, name, database, queries, unanswerable, leave_one_out, in_fours):
    labelled = load_labelled(photographs / name)
    assert (len(labelled.database), len(labelled.queries)) == (database, queries)
    assert sum(not query.positives for query in labelled.queries) == unanswerable
    assert (labelled.leave_one_out, labelled.in_fours) == (leave_one_out, in_fours)
