"""A shard put together is the collection that its images would make on one machine."""

import numpy as np
import pytest

from resight.cluster.files import Files
from resight.cluster.fitting import drawn_descriptors, drawn_vectors, feature_counts, images_with_vectors, moments_of
from resight.cluster.manifest import Learned, Words, shard_of
from resight.cluster.shards import Member, build_shard, fetch_shard, opened, shard_name, word_holders_of
from resight.describe.description import Description
from resight.embedding.codebook import Codebook
from resight.errors import CollectionError
from resight.local.features import LocalFeatures
from resight.recipes import Recipe, load_recipe
from resight.search.filters import cosine_similarity, squared_idf, word_weights
from resight.search.searcher import Searcher
from resight.store.hash_codes import hash_function, refresh_codes
from resight.store.indexing import draw
from resight.store.store import New, Store
from resight.store.word_filters import word_filter

pytest.importorskip("fsspec")

SIZES = (30, 0, 45, 60, 75, 90, 12, 33, 8, 50)
VECTORS = Recipe.model_validate(
    {"name": "vectors", "title": "-", "source": "-", "filter": "global", "global": {"network": "-", "dimensions": 24}}
)


def features(seed, n):
    rng = np.random.default_rng(seed)
    middle = np.random.default_rng(0).integers(40, 200, (40, 128))
    descriptors = middle[rng.integers(0, 40, n)] + rng.integers(-30, 30, (n, 128))
    xy, size, angle, score = (rng.uniform(0, 6, (n, k)).astype(np.float32) for k in (2, 1, 1, 1))
    return LocalFeatures(xy, size[:, 0] + 1, angle[:, 0], score[:, 0], descriptors.astype(np.uint8))


@pytest.fixture(scope="module")
def bow():
    recipe = load_recipe("rootsift-bow")
    return recipe.model_copy(update={"local": recipe.local.model_copy(update={"colours": 0})})


@pytest.fixture(scope="module")
def codebook():
    sample = np.concatenate([features(seed, 60).descriptors for seed in range(10)])
    return Codebook.fit(sample, 32, seed=0, fitted_on="made up")


@pytest.fixture(scope="module")
def items():
    return [New(f"/{i}", f"d{i}", 1, 2, Description((64, 48), None, features(i, n))) for i, n in enumerate(SIZES)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, bow, codebook, items):
    """All images in one collection."""
    with Store.create(tmp_path_factory.mktemp("one") / "c", bow, "f00d") as store:
        store.start_generation(codebook, {"words": 32, "fitted_on": "made up"})
        store.add(items, [], codebook)
        yield store


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def manifest(place, sharded, bow, items, codebook):
    return sharded(place, bow, items, codebook=codebook)


def test_each_image_is_in_its_shard_as_it_would_be_on_one_machine(place, manifest, whole):
    expected = Searcher(whole)
    seen = []
    for number, name in enumerate(manifest.shards):
        with opened(Files(place), name) as store:
            found = Searcher(store)
            for position, image in enumerate(found.snapshot.ids.tolist()):
                there = expected.position(image)
                assert shard_of(image, 3, 2) == number
                np.testing.assert_array_equal(found.words(image), expected.words(image))
                np.testing.assert_array_equal(found.local(position).descriptors, expected.local(there).descriptors)
                np.testing.assert_array_equal(found.local(position).xy, expected.local(there).xy)
                assert found.snapshot.sizes[position].tolist() == expected.snapshot.sizes[there].tolist()
                seen.append(image)
            columns = "origin, digest, bytes, modified_ns"
            rows = store.catalogue.rows(f"SELECT id, {columns} FROM images")
            assert all(
                whole.catalogue.rows(f"SELECT id, {columns} FROM images WHERE id = ?", r[:1]) == [r] for r in rows
            )
    assert sorted(seen) == list(range(1, 11)) and manifest.images == (4, 4, 2)


def test_weights_of_words_are_those_of_all_images(place, manifest, whole):
    snapshot = whole.snapshot()
    expected = word_weights(snapshot, word_filter(whole.recipe, snapshot.codebook, None))
    assert expected.squared_idf.any()
    idf = squared_idf(word_holders_of(Files(place), manifest.shards), sum(manifest.images))
    np.testing.assert_array_equal(idf, expected.squared_idf)
    norms = np.empty(len(snapshot))
    for name in manifest.shards:
        with opened(Files(place), name) as store:
            part = store.snapshot()
            weights = word_weights(part, word_filter(store.recipe, part.codebook, None), idf)
            norms[snapshot.positions(part.ids)] = weights.squared_norms
    np.testing.assert_array_equal(norms, expected.squared_norms)


def test_a_shard_that_is_there_is_not_made_again(place, manifest, bow, codebook, items):
    files, name = Files(place), manifest.shards[0]
    before = (place / name).stat().st_mtime_ns
    build_shard(files.url, bow, "f00d", name, [Member(1, "/0", "d0", 1, 2, "chunks/none", 0)], manifest.learned, None)
    assert (place / name).stat().st_mtime_ns == before


def test_a_shard_grows_from_the_one_before(place, manifest, bow, whole):
    files = Files(place)
    rows = whole.catalogue.rows("SELECT id, origin, digest, bytes, modified_ns FROM images ORDER BY id")
    old = [row for row in rows if shard_of(row[0], 3, 2) == 0 and row[0] != 7]  # 7 was removed
    fresh = next(row for row in rows if row[0] == 9)
    members = [*(Member(*row, None, 0) for row in old), Member(13, "/new", *fresh[2:], "chunks/all", 8)]
    name = shard_name(0, members, manifest.learned, bow, "f00d")
    assert name not in manifest.shards
    build_shard(files.url, bow, "f00d", name, members, manifest.learned, manifest.shards[0])
    with opened(files, name) as store:
        found, expected = Searcher(store), Searcher(whole)
        assert found.snapshot.ids.tolist() == [1, 2, 8, 13]
        for image, like in ((1, 1), (2, 2), (8, 8), (13, 9)):
            np.testing.assert_array_equal(found.words(image), expected.words(like))
    assert not (fetch_shard(files, manifest.shards[1]).parent / manifest.shards[0].split("/")[1]).exists()


def test_a_name_says_what_is_in_a_shard(bow):
    one, other = Member(1, "/0", "d", 1, 2, "c", 0), Member(1, "/0", "e", 1, 2, "c", 0)
    none = Learned()
    learned = [Learned(Words("w", "s", {})), Learned(Words("w", None, {})), Learned(hash="h")]
    asked = [(0, [one], none), (0, [other], none), (1, [one], none), (0, [], none), *((0, [one], x) for x in learned)]
    names = [shard_name(*given, bow, "f") for given in asked]
    names += [shard_name(0, [one], none, bow, "g"), shard_name(0, [one], none, VECTORS, "f")]
    assert len(set(names)) == len(names)
    assert shard_name(0, [Member(1, "/0", "d", 1, 2, None, 5)], none, bow, "f") == names[0]


def test_a_damaged_or_absent_shard_is_named(place):
    files = Files(place)
    files.write("shards/0009-bad.tar", b"no tar")
    with pytest.raises(CollectionError, match=r"0009-bad\.tar: is damaged"):
        fetch_shard(files, "shards/0009-bad.tar")
    with pytest.raises(CollectionError, match=r"0009-none\.tar: is not there"):
        fetch_shard(files, "shards/0009-none.tar")


def test_descriptors_are_drawn_as_on_one_machine(place, manifest, whole):
    """The parts that tasks run; test_cluster.py runs the whole."""
    drawn = draw([SIZES[i] for i in range(10)], seed=3)
    expected = Searcher(whole)
    for name in manifest.shards:
        table = feature_counts(str(place), name)
        assert table[:, 1].tolist() == [SIZES[image - 1] for image in table[:, 0]]
        rows = [drawn[image - 1][::2] for image in table[:, 0]]
        found = drawn_descriptors(str(place), name, table[:, 0].tolist(), rows)
        parts = [
            expected.local(int(image) - 1).descriptors[take] for image, take in zip(table[:, 0], rows, strict=True)
        ]
        np.testing.assert_array_equal(found, np.concatenate(parts))


@pytest.fixture(scope="module")
def vectors():
    x = np.random.default_rng(0).normal(size=(41, 24)).astype(np.float32)
    x[30] = x[2]  # a copy in another shard
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_cosines_do_not_depend_on_the_shard(tmp_path, sharded, vectors):
    items = [New(f"/{i}", str(i), 1, 2, Description((8, 8), v, None)) for i, v in enumerate(vectors)]
    with Store.create(tmp_path / "one", VECTORS, "f00d") as store:
        store.add(items, [], None)
        expected = cosine_similarity(store.snapshot(), store.vectors_log(), vectors[7], (24,))[:, 0]
    assert expected[30] == expected[2]
    manifest = sharded(tmp_path / "shards", VECTORS, items, shards=4, together=3)
    moments = [moments_of(str(tmp_path / "shards"), name) for name in manifest.shards]
    assert [m.n for m in moments] == list(manifest.images)
    for name in manifest.shards:
        with opened(Files(tmp_path / "shards"), name) as store:
            snapshot = store.snapshot()
            found = cosine_similarity(snapshot, store.vectors_log(), vectors[7], (24,))[:, 0]
            np.testing.assert_array_equal(found, expected[snapshot.ids - 1])
    assert sum(images_with_vectors(str(tmp_path / "shards"), name)[:, 1].sum() for name in manifest.shards) == 41
    np.testing.assert_array_equal(
        drawn_vectors(str(tmp_path / "shards"), manifest.shards[0], np.array([2, 14])), vectors[[1, 13]]
    )
    for part in moments[1:]:
        moments[0].merge(part)
    np.testing.assert_allclose(moments[0].covariance, np.cov(vectors.T.astype(float)), atol=1e-12)


@pytest.mark.parametrize("distance", ["hamming", "asymmetric"])
def test_codes_are_those_of_one_machine(tmp_path, sharded, vectors, distance):
    table = VECTORS.model_dump(by_alias=True) | {"filter": "hash"}
    table["hash"] = {"method": "itq", "bits": 16, "distance": distance}
    recipe = Recipe.model_validate(table)
    items = [New(f"/{i}", str(i), 1, 2, Description((8, 8), v, None)) for i, v in enumerate(vectors)]
    query = Description((8, 8), vectors[7], None)
    with Store.create(tmp_path / "one", recipe, "f00d") as store:
        store.add(items, [], None)
        refresh_codes(store, lambda _: None)
        function = hash_function(store)
        expected = Searcher(store).similarity(query)
    assert expected.argmax() == 7 and len(np.unique(expected)) > 4
    manifest = sharded(tmp_path / "shards", recipe, items, shards=4, together=3, function=function)
    for name in manifest.shards:
        with opened(Files(tmp_path / "shards"), name) as store:
            found = Searcher(store)
            assert hash_function(store).fingerprint == function.fingerprint and list(store.folder.glob("codes-*"))
            np.testing.assert_array_equal(found.similarity(query), expected[found.snapshot.ids - 1])
