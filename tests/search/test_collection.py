"""Searching a real collection of small photos: by path, array, id and box; and what it says about itself."""

import csv
import json

import numpy as np
import PIL.Image
import pytest

from resight.errors import CollectionError, ImageError, QueryError
from resight.geometry.homography import corners, project
from resight.images import digest
from resight.search.collection import Collection

OBJECTS = ("astronaut", "chelsea", "coffee", "rocket")


@pytest.fixture(scope="module")
def collection(indexed):
    with Collection.open(indexed) as opened:
        yield opened


@pytest.fixture(scope="module")
def ids(collection, photos) -> dict[str, int]:
    return {path.name: collection.find(str(path)) for path in photos.glob("*.*g")}


@pytest.mark.parametrize("name", OBJECTS)
def test_both_views_of_a_thing_are_accepted_and_nothing_else(collection, photos, ids, name):
    for query in (photos / f"{name}-1.png", photos / f"{name}-2.jpg"):
        ranking = collection.search(query)
        assert ranking.ids[0] == ids[query.name] and len(ranking) == 12 and ranking.calibrated
        assert set(ranking.ids[: ranking.accepted]) == {ids[f"{name}-1.png"], ids[f"{name}-2.jpg"]}


@pytest.mark.parametrize("name", OBJECTS)
def test_the_homography_is_the_one_the_view_was_made_with(collection, photos, ids, name):
    truth = np.array(json.loads((photos / "homographies.json").read_text())[name])
    ranking = collection.search(ids[f"{name}-1.png"])
    evidence = ranking.evidence[ranking.ids.tolist().index(ids[f"{name}-2.jpg"])]
    width, height = collection.entry(ids[f"{name}-1.png"]).size
    box = corners((0, 0, width - 1, height - 1))
    assert np.abs(project(evidence.homography, box) - project(truth, box)).max() < 3


def test_however_a_query_is_given_it_is_the_same(collection, photos, ids):
    path = photos / "coffee-1.png"
    with PIL.Image.open(path) as opened:
        pil = opened.convert("RGB")
    queries = [path, str(path), pil, np.asarray(pil), ids[path.name], np.int64(ids[path.name])]
    first, *others = [collection.search(query, top=5) for query in queries]
    assert len(first) == 5
    for other in others:
        np.testing.assert_array_equal(other.ids, first.ids)
        np.testing.assert_allclose(other.scores, first.scores, atol=1e-3)  # stored angles have three digits


def test_searching_twice_gives_the_same(collection, photos):
    one, two = (collection.search(photos / "chelsea-2.jpg") for _ in range(2))
    np.testing.assert_array_equal(one.ids, two.ids)
    np.testing.assert_array_equal(one.scores, two.scores)


def test_a_box_is_found_in_a_montage(collection, photos, pictures, ids, tmp_path, save):
    """Two things side by side; only the one in the box is asked for, and shown where it is."""
    left, right = (pictures[name][:213, :300] for name in ("coffee", "chelsea"))
    montage = save(tmp_path / "montage.png", np.hstack([left, right]))
    both = collection.search(montage)
    assert {int(i) for i in both.ids[:2]} <= {
        ids[f"{n}-{v}"] for n in ("coffee", "chelsea") for v in ("1.png", "2.jpg")
    }
    ranking = collection.search(montage, box=(300, 0, 600, 213))
    assert set(ranking.ids[: ranking.accepted]) == {ids["chelsea-1.png"], ids["chelsea-2.jpg"]}
    outline = ranking.evidence[ranking.ids.tolist().index(ids["chelsea-1.png"])].outline
    np.testing.assert_allclose(outline, corners((0, 0, 300, 213)), atol=2)


def test_a_box_in_an_image_of_the_collection(collection, ids):
    ranking = collection.search(ids["astronaut-1.png"], box=(50, 50, 250, 250))
    assert set(ranking.ids[: ranking.accepted]) == {ids["astronaut-1.png"], ids["astronaut-2.jpg"]}


def test_an_absent_thing_is_not_found(collection, pictures, view):
    """Nor is a mirrored one: it is not the same thing."""
    from skimage import data

    assert collection.search(np.ascontiguousarray(data.page())).accepted == 0
    for name in ("chelsea", "coffee", "rocket"):
        assert collection.search(np.ascontiguousarray(pictures[name][:, ::-1])).accepted == 0


def test_a_query_without_features_finds_nothing(collection):
    ranking, timing = collection.search_timed(np.full((200, 300, 3), 77, np.uint8))
    assert ranking.accepted == 0 and len(ranking) == 12 and timing.comparisons == 0
    assert collection.search(np.full((200, 300, 3), 77, np.uint8), box=(10, 10, 50, 50)).accepted == 0


@pytest.mark.parametrize(
    ("query", "box", "error", "said"),
    [
        (99, None, QueryError, "id:99: there is no image with this id"),
        (99, (0, 0, 9, 9), QueryError, "id:99: there is no image with this id"),
        (1, (0, 0, 999, 9), QueryError, "leaves the image, which is 320×320"),
        (1, (9, 9, 9, 20), QueryError, "is empty"),
        ("/no/such.jpg", None, ImageError, "does not exist"),
        (np.zeros((2, 2)), None, ImageError, "is no picture"),
    ],
)
def test_queries_that_cannot_be_answered_say_why(collection, query, box, error, said):
    with pytest.raises(error, match=said):
        collection.search(query, box=box)


def test_what_it_says_about_itself(collection, indexed, recipe):
    info = collection.info()
    assert (info.path, info.recipe, info.images) == (str(indexed), "rootsift-asmk", 12)
    assert (info.missing, info.failures, info.pending, info.advice) == (0, 0, 0, None)
    on_disk = sum(path.stat().st_size for path in indexed.rglob("*") if path.is_file())
    assert info.bytes_on_disk == on_disk and info.bytes_per_image == pytest.approx(on_disk / 12)
    assert info.codebook["fitted_on"] == "the collection itself, 12 images" and info.codebook["words"] >= 64
    assert collection.recipe == recipe and len(collection) == 12 and collection.fingerprint == info.fingerprint


def test_digests_and_learned_parts(collection, photos):
    digests = dict(collection.digests())
    assert list(digests) == sorted(digests) and len(digests) == 12
    assert digests[str(photos / "moon.png")] == digest((photos / "moon.png").read_bytes())
    learned = collection.learned()
    assert list(learned) == ["codebook"] and learned["codebook"].photos is None
    assert learned["codebook"].fitted_on == "the collection itself, 12 images"


def test_entries_are_listed_by_id_and_in_pages(collection, photos, monkeypatch):
    monkeypatch.setattr("resight.store.catalogue._PAGE", 5)
    everything = list(collection.entries())
    assert [entry.id for entry in everything] == list(range(1, 13))
    assert {entry.origin for entry in everything} == {str(path) for path in photos.glob("*.*g")}
    assert list(collection.entries(after=4, limit=3)) == everything[4:7]
    assert collection.entry(np.int64(3)) == everything[2] and collection.find("/nowhere") is None


def test_the_catalogue_is_exported(collection, tmp_path):
    for form in ("csv", "json"):
        assert collection.export(tmp_path / f"out.{form}", format=form) == 12
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [{**row, "id": int(row["id"])} for row in rows] == [
        {"id": e.id, "path": e.origin, "width": str(e.size[0]), "height": str(e.size[1])} for e in collection.entries()
    ]
    assert json.loads((tmp_path / "out.json").read_text()) == [
        {"id": e.id, "path": e.origin, "width": e.size[0], "height": e.size[1]} for e in collection.entries()
    ]
    with pytest.raises(CollectionError, match="has no global descriptors to export; use csv or json"):
        collection.export(tmp_path / "out.npz", format="npz")


def test_a_searcher_may_search_otherwise_but_not_describe_otherwise(collection, recipe, photos):
    from resight.describe.describer import Describer
    from resight.search.searcher import Searcher

    query = Describer(recipe).describe(photos / "rocket-1.png")
    unverified = recipe.model_copy(update={"verify": None, "calibration": None})
    ranking, _ = Searcher(collection._store, unverified).rank(query, None, None)
    assert not ranking.calibrated and ranking.evidence[0] is None and len(ranking) == 12
    assert collection.entry(ranking.ids[0]).origin == str(photos / "rocket-1.png")
    other = recipe.model_copy(update={"local": recipe.local.model_copy(update={"max_features": 99})})
    with pytest.raises(CollectionError, match=r"describes images otherwise"):
        Searcher(collection._store, other)
