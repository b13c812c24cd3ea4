"""Hash functions learned from more than a collection's vectors, beside the same done by hand with a small network."""

import shutil

import cv2
import numpy as np
import pytest
import tomli_w

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402

from resight.describe.describer import Describer  # noqa: E402
from resight.describe.fit import fit_recipe  # noqa: E402
from resight.errors import RecipeError  # noqa: E402
from resight.geometry.turning import turn  # noqa: E402
from resight.hashing.deepbit import fit_deepbit  # noqa: E402
from resight.hashing.function import HashFunction  # noqa: E402
from resight.hashing.regional import fit_regional  # noqa: E402
from resight.hashing.sah import aggregate_sets, fit_sah  # noqa: E402
from resight.hashing.ssdh import fit_ssdh  # noqa: E402
from resight.images.read import read_image  # noqa: E402
from resight.networks.architectures import create_network  # noqa: E402
from resight.recipes import load_recipe  # noqa: E402
from resight.search.collection import Collection  # noqa: E402
from resight.search.fit_hash import Labels, fit_hash  # noqa: E402
from resight.search.searcher import Searcher  # noqa: E402
from resight.search.vectors import read_vectors  # noqa: E402
from resight.store.region_log import RegionLog  # noqa: E402
from resight.store.store import Store  # noqa: E402

N, BITS = 7, 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """weights.safetensors and `photos`, seven pictures of soft colours."""
    folder = tmp_path_factory.mktemp("fit-hash")
    torch.manual_seed(0)
    weights = {k: v.contiguous() for k, v in create_network("resnet10t").state_dict().items()}
    safetensors.torch.save_file(weights, folder / "weights.safetensors")
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for i in range(N):
        cv2.imwrite(str(folder / f"photos/{i}.png"), cv2.resize(rng.integers(0, 255, (9, 12, 3), np.uint8), (64, 48)))
    return folder


def index(folder, into, table, more=None):
    """A collection of the photos by a small recipe. table: what differs of [global]. more: further tables."""
    stage = {"network": "resnet10t", "layer": "layer1", "max_side": 64, "whiten": "none", "dimensions": 64} | table
    facts = {"name": "tiny", "title": "", "source": "", "filter": "global", "image": {"max_side": 64}, "global": stage}
    file = into.with_suffix(".toml")
    file.write_text(tomli_w.dumps(facts | (more or {})))
    fitted = fit_recipe(file, [folder / "photos"], weights=folder / "weights.safetensors", into=into / "recipe")
    with Collection.create(into / "c", load_recipe(fitted)) as collection:
        collection.add([folder / "photos"], workers=1)
    return into / "c"


@pytest.fixture(scope="module")
def plain(folder, tmp_path_factory):
    return index(folder, tmp_path_factory.mktemp("plain"), {})


def same(one, other):
    assert one.fingerprint == other.fingerprint


def test_labels(plain):
    stored = read_vectors(plain)
    some = [origin for origin in stored.origins if not origin.endswith("3.png")]
    of = {origin: "ab"[place % 2] for place, origin in enumerate(some)} | {"/elsewhere.png": "c"}
    function = fit_hash(plain, "ssdh", BITS, labels=Labels("my set", of))
    assert function.n == N - 1 and function.fitted_on.endswith("(seed 0), labelled in my set")
    assert function.fitted_on.startswith("6 photos of ") and function.descriptor == stored.fingerprint
    assert function.photos.share_in(stored.digests) == pytest.approx(6 / 7)
    x = stored.x[[origin in of for origin in stored.origins]]
    same(function, fit_ssdh(x, ["a", "b"] * 3, BITS, seed=0, fitted_on=""))
    assert fit_hash(plain, "siamese", BITS, labels=Labels("my set", of)).kind == "siamese"


def test_labels_that_do_not_help(plain):
    origins = read_vectors(plain).origins
    for method, labels, said in (
        ("ssdh", None, "ssdh learns from labelled photos: name a set of them with --labels"),
        ("itq", Labels("s", {}), "itq learns without labels"),
        ("ssdh", Labels("s", {origins[0]: "a", "/x": "b"}), "1 of its photos are labelled in s: index the photos"),
        ("ssdh", Labels("s", dict.fromkeys(origins, "a")), "all photos bear the same label"),
        ("siamese", Labels("s", {o: o for o in origins}), "no two photos bear the same label"),
    ):
        with pytest.raises(RecipeError, match=said):
            fit_hash(plain, method, BITS, labels=labels)


def test_views_are_photos_turned(plain, folder, tmp_path):
    photos, angles = folder / "photos", (-7.5, 20.0)
    gone = (photos / "2.png").rename(tmp_path / "away.png")
    told = []
    try:
        function = fit_hash(plain, "deepbit", BITS, angles=angles, progress=lambda *state: told.append(state))
    finally:
        gone.rename(photos / "2.png")
    stored = read_vectors(plain)
    kept = [place for place, origin in enumerate(stored.origins) if not origin.endswith("2.png")]
    with Collection.open(plain) as collection:
        network = Describer(collection.recipe).network
    pixels = [read_image(stored.origins[place]).pixels for place in kept]
    views = np.array([[network.describe(turn(image, angle)) for angle in angles] for image in pixels])
    expected = fit_deepbit(stored.x[kept], views, BITS, seed=0, fitted_on="")
    np.testing.assert_allclose(function.project(stored.x), expected.project(stored.x), atol=1e-3)
    assert function.fitted_on.startswith("6 photos of") and function.fitted_on.endswith(", turned by -7.5°, 20°")
    assert ("turning photos", N, N) in told
    with pytest.raises(RecipeError, match="name one at least"):
        fit_hash(plain, "deepbit", BITS, angles=())


def test_photos_that_are_gone(folder, tmp_path):
    made = index(folder, tmp_path / "i", {})
    moved = shutil.move(folder / "photos", tmp_path / "away")
    try:
        with pytest.raises(RecipeError, match="0 of its photos can still be read"):
            fit_hash(made, "deepbit", BITS)
    finally:
        shutil.move(moved, folder / "photos")


def test_sets_are_local_features_as_the_recipe_aggregates_them(folder, plain, tmp_path):
    table = {"embedding": {"kind": "gmp", "mask": "max", "reduce": 12, "ridge": 0.3}, "dimensions": 12}
    made = index(folder, tmp_path / "i", table)
    function, stored = fit_hash(made, "sah", BITS), read_vectors(made)
    with Collection.open(made) as collection:
        network = Describer(collection.recipe).network
    sets = []
    for origin in stored.origins:
        (((features,),),) = network.features([network.prepare(read_image(origin).pixels)])
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        sets.append(network.heads[0].embedder.reduction.transform(unit.astype(np.float32)))
    np.testing.assert_allclose(aggregate_sets(sets, 0.3), stored.x, atol=1e-4)  # so that codes are of what is kept
    expected = fit_sah(sets, BITS, seed=0, fitted_on="", ridge=0.3)
    np.testing.assert_allclose(function.project(stored.x), expected.project(stored.x), atol=1e-2)
    assert function.fitted_on.endswith("from their local features") and function.n == N
    with pytest.raises(RecipeError, match=r'must have one branch with embedding = \{ kind = "gmp" \}'):
        fit_hash(plain, "sah", BITS)


def test_regions_end_to_end(folder, plain, tmp_path):
    """Learned from the regions that are kept, and then compared by their codes, with the box of the best."""
    patches = {"rerank": [{"method": "patches", "levels": 2}]}
    made = index(folder, tmp_path / "i", {}, patches)
    function, stored = fit_hash(made, "regional", BITS), read_vectors(made)
    ids, boxes, vectors = RegionLog(made, 2, 64).rows(stored.ids)
    same(function, fit_regional([vectors[ids == image] for image in stored.ids], BITS, seed=0, fitted_on=""))
    assert function.n == len(ids) > 5 * N and f"{len(ids)} regions of them" in function.fitted_on
    with pytest.raises(RecipeError, match=r"keeps no regions.*patches"):
        fit_hash(plain, "regional", BITS)
    function.save(tmp_path / "i/recipe/regions.safetensors")
    file = tmp_path / "i/recipe/recipe.toml"
    file.write_text(file.read_text().replace('hash = ""', 'hash = "regions.safetensors"'))
    recipe = load_recipe(file)
    assert HashFunction.load(recipe.rerank[0].hash).fingerprint == function.fingerprint
    with Store(made, write=False) as store:
        assert recipe.fingerprint != store.recipe.fingerprint
        by_codes, plainly = Searcher(store, recipe), Searcher(store)
        query = by_codes.stored(3)
        ranking, other = by_codes.rank(query, None, None)[0], plainly.rank(query, None, None)[0]
    signs = np.where(function.project(vectors) > 0, 1, -1)
    asked = np.where(function.project(stored.x[3:4]) > 0, 1, -1)[0]
    shares = signs @ asked / BITS
    for found, score, evidence in zip(ranking.ids, ranking.scores, ranking.evidence, strict=True):
        assert score == pytest.approx(shares[ids == found].max())
        np.testing.assert_array_equal(evidence.box, boxes[ids == found][shares[ids == found].argmax()])
    assert set(ranking.scores.tolist()) <= {k / 4 for k in range(-4, 5)} and len(ranking) == N
    assert not np.array_equal(ranking.scores, other.scores)
