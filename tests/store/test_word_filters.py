"""Bag of words and Hamming embedding over the inverted file, against the library's of whole sets, after any history."""

import numpy as np
import pytest

from resight.embedding.bow import Bow
from resight.embedding.hamming import HammingEmbedding
from resight.errors import CollectionError
from resight.local.hamming_filter import Signer
from resight.recipes import Recipe
from resight.recipes.recipe import BowStage, HammingStage
from resight.search.searcher import Searcher
from resight.store import inverted
from resight.store.check import problems
from resight.store.store import Store

TABLES = {
    "bow": BowStage(),
    "bow-root": BowStage(root=True),
    "bow-plain": BowStage(idf=False),
    "hamming": HammingStage(query_assignments=1),
    "hamming-short": HammingStage(query_assignments=1, bits=24, threshold=8, sigma=6.0),
    "hamming-2008": HammingStage(query_assignments=1, sigma=0.0, idf=False, threshold=24),
}
SIZES = (0, 5, 40, 80)


def of(recipe: Recipe, name: str) -> Recipe:
    """The recipe with another filter over visual words, and without verification."""
    kind = name.split("-")[0]
    stages = {"asmk": None, "verify": None, "calibration": None, "filter": kind, kind: TABLES[name]}
    return recipe.model_copy(update=stages)


@pytest.fixture(scope="module")
def signer(made_up, codebook):
    """Fitted to other descriptors than any image's, so that none lies at a median, where float32 would be undecided."""
    sample = np.concatenate([made_up(seed, 60).descriptors for seed in range(90_000, 90_010)])
    return lambda bits: Signer.fit(codebook, sample, bits, seed=1, fitted_on="made up")


@pytest.fixture
def make(tmp_path, recipe, codebook, signer):
    opened = []

    def create(name: str, folder: str) -> Store:
        store = Store.create(tmp_path / folder, of(recipe, name), "f00d")
        opened.append(store)
        hamming = store.recipe.hamming
        store.start_generation(codebook, {"words": 32}, signer(hamming.bits) if hamming else None)
        return store

    yield create
    for store in opened:
        store.close()


def whole_sets(recipe, codebook, signer, images: list[np.ndarray], query: np.ndarray) -> np.ndarray:
    """Similarities by ``resight.embedding``, which knows nothing of inverted files."""
    idf = Bow(codebook).fit_idf(images).idf
    if recipe.bow is not None:
        bow = Bow(codebook, idf if recipe.bow.idf else None, root=recipe.bow.root)
        return bow.transform_sets(images) @ bow.transform(query)
    stage = recipe.hamming
    made = signer(stage.bits)
    embedding = HammingEmbedding(codebook, made.projection, made.thresholds, stage.threshold, stage.sigma or None)
    asked, idf = embedding.encode(query), idf if stage.idf else None
    return np.array([embedding.similarity(asked, embedding.encode(image), idf) for image in images])


@pytest.mark.parametrize("name", TABLES)
def test_no_history_shows(make, new, made_up, codebook, signer, monkeypatch, name):
    """Batches are added, images replaced and removed, segments merged, and read in small chunks: similarities are the
    library's, and to the last bit those of a collection made in one go.
    """
    monkeypatch.setattr(inverted, "_CHUNK", 64)
    store, rng = make(name, "grown"), np.random.default_rng(0)
    expected: dict[str, tuple[int, int]] = {}
    segments = set()
    for step in range(9):
        batch = {
            f"/{rng.integers(0, 40)}": (int(rng.integers(0, 1000)), int(rng.choice(SIZES))) for _ in range(step % 4 + 1)
        }
        store.add([new(origin, made_up(*facts)) for origin, facts in batch.items()], [], codebook)
        expected |= batch
        if step % 3 == 2:
            for origin in map(str, rng.permutation(sorted(expected))[:2]):
                store.remove([store.catalogue.rows("SELECT id FROM images WHERE origin = ?", (origin,))[0][0]])
                del expected[origin]
        segments.add(len(store.snapshot().segments))
    order = [origin for (origin,) in store.catalogue.rows("SELECT origin FROM images ORDER BY id")]
    assert set(order) == set(expected) and max(segments) > 2 and len(segments) > 2

    monkeypatch.undo()
    fresh = make(name, "fresh")
    fresh.add([new(origin, made_up(*expected[origin])) for origin in order], [], codebook)
    assert len(fresh.snapshot().segments) == 1
    for seed in (7000, expected[order[0]][0]):
        query = new("/query", made_up(seed, 60)).description
        found = Searcher(store).similarity(query)
        np.testing.assert_array_equal(found, Searcher(fresh).similarity(query))
        images = [made_up(*expected[origin]).descriptors.astype(np.float32) for origin in order]
        asked = query.local.descriptors.astype(np.float32)
        np.testing.assert_allclose(found, whole_sets(store.recipe, codebook, signer, images, asked), atol=2e-6)
        assert found.max() > 0.05
    assert problems(store, lambda _: None) == []


@pytest.mark.parametrize("name", TABLES)
def test_what_is_stored_is_found_again_when_opened_anew(make, new, made_up, codebook, name):
    store = make(name, "c")
    store.add([new(f"/{i}", made_up(i, 60)) for i in range(5)], [], codebook)
    query = new("/query", made_up(3, 60)).description
    before = Searcher(store).similarity(query)
    # To itself an image is as similar as can be: wholly, but for Hamming matches among its own features.
    assert before.argmax() == 3 and (before[3] == pytest.approx(1) or name.startswith("hamming"))
    store.close()
    with Store(store.folder, write=False) as reading:
        np.testing.assert_array_equal(Searcher(reading).similarity(query), before)


def test_idf_is_of_the_images_there_are(make, new, made_up, codebook):
    """A word that all images hold tells nothing; once others come, it does."""
    store = make("bow", "c")
    one = new("/a", made_up(0, 60))
    store.add([one], [], codebook)
    assert Searcher(store).similarity(one.description).tolist() == [0]
    store.add([new("/b", made_up(1, 0))], [], codebook)
    assert Searcher(store).similarity(one.description).tolist() == [1, 0]
    store.remove([2])
    assert Searcher(store).similarity(one.description).tolist() == [0]


def test_an_empty_collection_and_an_empty_query(make, new, made_up, codebook):
    for name in TABLES:
        store = make(name, name)
        nothing, something = new("/q", made_up(0, 0)).description, new("/r", made_up(1, 40)).description
        assert Searcher(store).similarity(something).shape == (0,)
        store.add([new("/0", made_up(0, 0)), new("/1", made_up(1, 40))], [], codebook)
        assert Searcher(store).similarity(nothing).tolist() == [0, 0]
        assert Searcher(store).similarity(something)[0] == 0 < Searcher(store).similarity(something)[1]


def test_a_searcher_may_weigh_otherwise_but_not_read_other_postings(make, new, made_up, codebook):
    store = make("hamming", "c")
    store.add([new(f"/{i}", made_up(i, 60)) for i in range(3)], [], codebook)
    query = new("/q", made_up(1, 60)).description
    near = store.recipe.model_copy(update={"hamming": HammingStage(query_assignments=3, threshold=4)})
    assert not np.array_equal(Searcher(store, near).similarity(query), Searcher(store).similarity(query))
    for name in ("bow", "hamming-short"):
        with pytest.raises(CollectionError, match="describes images otherwise"):
            Searcher(store, of(store.recipe.model_copy(update={"hamming": None}), name))


def test_damage_of_the_medians_is_found_and_named(make, new, made_up, codebook, flip):
    store = make("hamming", "c")
    store.add([new("/0", made_up(0, 60))], [], codebook)
    store.close()
    medians = store.folder / "hamming-1.safetensors"
    flip(medians, medians.stat().st_size - 1)
    with Store(store.folder, write=False) as reading:
        with pytest.raises(CollectionError, match=f"{medians}: .*`resight refit` learns a new one"):
            Searcher(reading)
        (found,) = problems(reading, lambda _: None)
        assert found.startswith(f"{medians}: ") and found.endswith("`resight refit` learns a new one")
        medians.unlink()
        with pytest.raises(CollectionError, match=f"{medians}: no such file"):
            Searcher(reading)


@pytest.mark.parametrize("kind", ["codes", "words"])
def test_postings_of_another_make_are_refused(make, new, made_up, codebook, kind):
    store = make("hamming", "c")
    store.add([new("/0", made_up(0, 60))], [], codebook)
    (segment,) = store.folder.glob("inverted-*")
    data = (segment / kind).read_bytes()
    # Codes of half the length still fit the images; a word beyond the codebook still fits the offsets.
    (segment / kind).write_bytes(data[: len(data) // 2] if kind == "codes" else data[:-4] + b"\x40\x00\x00\x00")
    with pytest.raises(CollectionError, match=f"{segment}: is damaged; `resight refit` rebuilds it"):
        Searcher(store)


def test_a_codebook_without_medians_is_refused(make, codebook):
    store = make("hamming", "c")
    with pytest.raises(ValueError, match=r"\[hamming\], which needs a signer"):
        store.start_generation(codebook, {"words": 32})
    assert store.generation == 1


def test_medians_left_by_a_crash_are_swept(make):
    store = make("hamming", "c")
    (store.folder / "hamming-7.safetensors").write_bytes(b"half")
    store.close()
    Store(store.folder, write=True).close()
    assert {p.name for p in store.folder.glob("hamming-*")} == {"hamming-1.safetensors"}
