"""Photos with labels: whose class is known, which are refused; and the division of a set by object."""

import os
from pathlib import Path

import pytest
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st

from resight.errors import GroundTruthError
from resight.evaluation.labelled import LabelledSet, Query
from resight.evaluation.load import load_labelled
from resight.learning.datasets.photos import Photo, TrainingSet, split_by_object, training_set

DATA = Path(os.environ.get("RESIGHT_TEST_DATA", Path(__file__).resolve().parents[4] / "shared/data"))
ROOT = Path("/set")


def labelled(database, queries, **more):
    return LabelledSet("set", ROOT / "gt.json", ROOT, tuple(database), tuple(queries), **more)


def query(path, positives="", junk="", box=None):
    return Query(path, frozenset(positives), frozenset(junk), box)


def shown(photos):
    """Class → its photos, by name and box."""
    found = {}
    for photo in photos.photos:
        found.setdefault(photos.classes[photo.label], set()).add((photo.path.name, photo.box))
    return found


def test_classes_are_the_groups():
    given_set = labelled(
        "abcdefz",
        [query("q", "a"), query("a", "b"), query("n")],
        groups=dict.fromkeys("abq", "cup") | {"c": "jug", "d": "jug"},
    )
    photos = training_set(given_set)
    assert photos.classes == ("cup", "jug")
    assert shown(photos) == {"cup": {("a", None), ("b", None), ("q", None)}, "jug": {("c", None), ("d", None)}}
    assert all(photo.path == ROOT / photo.path.name for photo in photos.photos)
    assert photos.labels.tolist() == [photo.label for photo in photos.photos]
    assert (photos.name, photos.file, photos.selection) == ("set", ROOT / "gt.json", "")


def test_without_groups_classes_are_what_answers_link():
    photos = training_set(
        labelled("abcdez", [query("q", "ab"), query("r", "b"), query("s", "de", junk="c"), query("n")])
    )
    assert sorted(map(sorted, ([name for name, _ in of] for of in shown(photos).values()))) == [
        ["a", "b", "q", "r"],
        ["d", "e", "s"],
    ]


def test_a_query_without_a_group_shows_what_its_positives_do():
    groups = dict.fromkeys("ab", "cup") | dict.fromkeys("cd", "jug")
    photos = training_set(labelled("abcdx", [query("q", "ab"), query("both", "ac"), query("r", "x")], groups=groups))
    assert shown(photos)["cup"] == {("a", None), ("b", None), ("q", None)}
    assert shown(photos)["jug"] == {("c", None), ("d", None)}


def test_the_box_is_the_picture_unless_it_is_to_be_whole():
    queries = [query("q", "a", box=(1, 2, 3, 4)), query("b", "c", box=(0, 0, 5, 5)), query("c", "b")]
    given_set = labelled("abc", queries)
    assert shown(training_set(given_set)) == {
        "a": {("a", None), ("q", (1, 2, 3, 4))},
        "b": {("b", (0, 0, 5, 5)), ("c", None)},
    }
    assert {photo.box for photo in training_set(given_set, whole=True).photos} == {None}


def test_a_class_of_one_photo_is_refused_by_name_and_folder_or_dropped():
    groups = {"cup/1": "cup", "cup/2": "cup", "jug/1": "jug", "jug/2": "jug", "vase/1": "vase"}
    given_set = labelled([*groups, "z"], [query("cup/1", ["cup/2"])], groups=groups, selection="half")
    with pytest.raises(GroundTruthError) as caught:
        training_set(given_set)
    assert str(caught.value).startswith("/set/gt.json: class vase has one photo, /set/vase/1; add another to /set/vase")
    assert "singletons = 'drop'" in str(caught.value)
    photos = training_set(given_set, singletons="drop")
    assert photos.classes == ("cup", "jug")
    assert photos.selection == "half; without 1 objects of one photo"


def test_a_set_is_checked_when_it_is_made():
    def made(*photos, classes=("cup", "jug")):
        return TrainingSet("set", tuple(Photo(Path(name), label) for name, label in photos), classes, ROOT)

    made(("a", 0), ("b", 0), ("c", 1), ("d", 1))
    with pytest.raises(ValueError, match="label 2 is none of 2 classes"):
        made(("a", 0), ("b", 2))
    with pytest.raises(GroundTruthError, match="/set: a is there twice"):
        made(("a", 0), ("a", 0), ("c", 1), ("d", 1))
    with pytest.raises(GroundTruthError, match="class jug has no photo"):
        made(("a", 0), ("b", 0))
    with pytest.raises(GroundTruthError, match=r"all photos show cup.*another"):
        made(("a", 0), ("b", 0), classes=("cup",))
    with pytest.raises(GroundTruthError, match="nothing to learn from"):
        made()


def paths_of(part):
    return {*part.database, *(q.path for q in part.queries)}


@st.composite
def sets(draw):
    """Sets with linked objects, junk, absent objects, ungrouped images and distractors."""
    names = [f"d{i}" for i in range(draw(st.integers(8, 16)))]
    queries = []
    for i in range(draw(st.integers(2, 6))):
        positives, junk = (draw(st.frozensets(st.sampled_from(names), max_size=n)) for n in (2, 1))
        queries.append(Query(f"q{i}", positives, junk - positives))
    paths = [*names, *(q.path for q in queries)]
    groups = draw(st.dictionaries(st.sampled_from(paths), st.sampled_from("uvwxyz"), max_size=6))
    assume(any(q.positives for q in queries))
    far = tuple(f"/far/{i}" for i in range(draw(st.integers(0, 3))))
    return labelled((*names, *far), queries, groups=groups, distractors=len(far))


@settings(max_examples=60, deadline=None)
@given(sets(), st.floats(0.05, 0.95), st.integers(0, 5))
def test_no_image_and_no_object_is_on_both_sides(given_set, share, seed):
    try:
        learning, held = split_by_object(given_set, share, seed)
    except GroundTruthError as error:
        assert "linked" in str(error)
        reject()
    assert not paths_of(learning) & paths_of(held)
    assert paths_of(learning) | paths_of(held) == paths_of(given_set)
    assert not set(learning.groups.values()) & set(held.groups.values())
    assert {**learning.groups, **held.groups} == given_set.groups
    by_path = {q.path: q for q in given_set.queries}
    for part in (learning, held):
        assert any(q.positives for q in part.queries)
        assert all(by_path[q.path] == q for q in part.queries)  # with all its answers, and all its junk
        assert list(part.database) == [path for path in given_set.database if path in part.database]
        assert f"drawn with seed {seed}" in part.selection
    assert (learning.distractors, held.distractors) == (0, given_set.distractors)
    assert split_by_object(given_set, share, seed) == (learning, held)


def test_what_shows_no_object_is_held_out():
    given_set = labelled("abcdexy", [query("q", "ab"), query("r", "cd", junk="e"), query("n")])
    learning, held = split_by_object(given_set, 0.5, 0)
    assert {"n", "x", "y"} <= paths_of(held)
    assert ("e" in paths_of(held)) == ("r" in paths_of(held))
    assert held.selection == "1 of 2 objects held out, drawn with seed 0, and 3 images of no object"
    assert learning.selection == "1 of 2 objects held out, drawn with seed 0: the others"


def test_objects_without_a_query_are_shared_out_too():
    groups = {f"{name}{i}": name for name in "abcdefgh" for i in range(2)}
    given_set = labelled(groups, [query("a0", ["a1"]), query("b0", ["b1"])], groups=groups)
    learning, held = split_by_object(given_set, 0.5, 3)
    assert len(set(learning.groups.values())) == len(set(held.groups.values())) == 4
    assert len(learning.queries) == len(held.queries) == 1


def test_the_share_is_of_objects():
    groups = {f"{name}{i}": name for name in "abcdefghij" for i in range(3)}
    given_set = labelled(groups, [query(f"{name}0", [f"{name}1"]) for name in "abcdefghij"], groups=groups)
    for share, count in ((0.01, 1), (0.2, 2), (0.55, 6), (0.99, 9)):
        assert len(set(split_by_object(given_set, share, 0)[1].groups.values())) == count
    drawn = {frozenset(split_by_object(given_set, 0.2, seed)[1].groups.values()) for seed in range(30)}
    assert len(drawn) > 10


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan")])
def test_a_share_that_leaves_a_side_empty_is_refused(share):
    with pytest.raises(GroundTruthError, match="above 0 and below 1"):
        split_by_object(labelled("ab", [query("q", "a"), query("r", "b")]), share, 0)


def test_objects_that_photos_link_cannot_be_parted():
    both = query("both", "ac")
    with pytest.raises(GroundTruthError, match=r"/set/gt\.json: cannot hold objects out"):
        split_by_object(labelled("abcd", [query("q", "ab"), query("r", "cd"), both]), 0.5, 0)


@pytest.mark.parametrize("name", ["museum_mcv", "grocery_packages", "scenes_multiview", "ukbench1000"])
def test_real_sets_divide(name):
    if not (DATA / name).is_dir():
        pytest.skip(f"{DATA / name} is absent; RESIGHT_TEST_DATA names the folder of the sets")
    given_set = load_labelled(DATA / name)
    learning, held = split_by_object(given_set, 0.3, 0)
    assert not paths_of(learning) & paths_of(held)
    assert len(learning.queries) + len(held.queries) == len(given_set.queries)
    files = [{path.resolve() for path in map(part.locate, paths_of(part))} for part in (learning, held)]
    assert not files[0] & files[1]
    answers = [{path for q in part.queries for path in q.positives | q.junk} for part in (learning, held)]
    assert not answers[0] & answers[1]
    photos = training_set(learning)
    tested = training_set(held)
    assert not {photo.path for photo in photos.photos} & {photo.path for photo in tested.photos}
    assert not set(photos.classes) & set(tested.classes)
    every = training_set(given_set)
    assert len(photos.classes) + len(tested.classes) == len(every.classes)
    assert len(photos.photos) + len(tested.photos) == len(every.photos)
    assert 0.5 < len(photos.classes) / len(every.classes) < 0.9
    assert every.revision == photos.revision == given_set.revision


def test_views_of_one_castle_stay_together():
    """The set has the courtyard and its gate as two scenes, each the other's junk."""
    if not (DATA / "scenes_multiview").is_dir():
        pytest.skip(f"{DATA / 'scenes_multiview'} is absent; RESIGHT_TEST_DATA names the folder of the sets")
    given_set = load_labelled(DATA / "scenes_multiview")
    for seed in range(8):
        learning, _ = split_by_object(given_set, 0.5, seed)
        scenes = set(learning.groups.values())
        assert ("castle_courtyard" in scenes) == ("entry_P10" in scenes)
