"""Grown image by image a collection ranks as one made at once, unless it learned from the first; then it says so."""

import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

from resight.embedding.codebook import Codebook  # noqa: E402
from resight.networks.architectures import create_network  # noqa: E402
from resight.recipes import Recipe  # noqa: E402
from resight.search.collection import Collection  # noqa: E402


@pytest.fixture(scope="module")
def words(recipe, indexed, tmp_path_factory) -> dict[str, Recipe]:
    """By words of a codebook that is learned from the collection, or given."""
    learned = recipe.model_copy(update={"local": recipe.local.model_copy(update={"max_features": 100})})
    path = tmp_path_factory.mktemp("codebook") / "codebook.safetensors"
    rng = np.random.default_rng(0)
    Codebook.fit(rng.integers(0, 128, (600, 128)).astype(np.uint8), 64, seed=0, fitted_on="others").save(path)
    stage = learned.codebook.model_copy(update={"path": str(path)})
    return {"learned": learned, "given": learned.model_copy(update={"codebook": stage})}


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Recipe:
    file = tmp_path_factory.mktemp("weights") / "w.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        safetensors.save_file(create_network("test_resnet.r160_in1k").state_dict(), file)
    table = {"network": "test_resnet.r160_in1k", "weights": str(file), "pooling": "gem", "scales": [1.0]}
    table |= {"whiten": "none", "max_side": 64, "dimensions": 96}
    head = {"name": "tiny", "title": "Tiny", "source": "-", "filter": "global", "image": {"max_side": 64}}
    return Recipe.model_validate({**head, "global": table})


def rankings(collection: Collection, photos: Path) -> list[tuple[list[str], np.ndarray]]:
    names = {entry.id: Path(entry.origin).name for entry in collection.entries()}
    found = [collection.search(photo) for photo in sorted(photos.glob("*.*g"))]
    return [([names[i] for i in r.ids.tolist()], r.scores) for r in found]


def same(a: list, b: list, tolerance: float) -> bool:
    return all(x == y and np.allclose(s, t, rtol=0, atol=tolerance) for (x, s), (y, t) in zip(a, b, strict=True))


def grown_and_made(tmp_path: Path, recipe: Recipe, photos: Path) -> tuple[Collection, Collection]:
    """Each photo indexed by a run of its own; and all at once, in the same order."""
    grown = Collection.create(tmp_path / "grown", recipe)
    (tmp_path / "photos").mkdir()
    for photo in sorted(photos.glob("*.*g")):
        shutil.copy(photo, tmp_path / "photos")
        grown.add([tmp_path / "photos"], workers=1)
    made = Collection.create(tmp_path / "made", recipe)
    made.add([tmp_path / "photos"], workers=1)
    return grown, made


@pytest.mark.parametrize("kind", ["given", "network"])
def test_what_learns_nothing_from_a_collection_ranks_alike(tmp_path, photos, words, network, kind):
    recipe = network if kind == "network" else words[kind]
    few = tmp_path / "few"
    few.mkdir()
    for name in ("astronaut-1.png", "astronaut-2.jpg", "coffee-1.png", "coffee-2.jpg", "moon.png"):
        shutil.copy(photos / name, few)
    grown, made = grown_and_made(tmp_path, recipe, few)
    with grown, made:
        # A network's sums depend a little on how many pictures go through it together.
        assert same(rankings(grown, few), rankings(made, few), 1e-5 if kind == "network" else 0)
        assert grown.info().advice is None


def test_a_codebook_of_the_first_images_is_told_of_and_refitted_ranks_alike(tmp_path, photos, words):
    few = tmp_path / "few"
    few.mkdir()
    for name in ("astronaut-1.png", "astronaut-2.jpg", "coffee-1.png", "coffee-2.jpg", "moon.png"):
        shutil.copy(photos / name, few)
    grown, made = grown_and_made(tmp_path, words["learned"], few)
    with grown, made:
        assert grown.info().codebook["images_at_fit"] == 1 and "resight refit" in grown.info().advice
        assert not same(rankings(grown, few), rankings(made, few), 1e-5)
        grown.refit()
        assert same(rankings(grown, few), rankings(made, few), 0) and grown.info().advice is None


def test_a_hash_function_of_the_first_images_is_told_of(tmp_path, photos, network):
    hashed = Recipe.model_validate(
        network.model_dump(by_alias=True, exclude_none=True) | {"filter": "hash", "hash": {"bits": 8, "method": "lsh"}}
    )
    first = sorted(photos.glob("*.*g"))[:9]
    with Collection.create(tmp_path / "c", hashed) as collection:
        assert collection.add(first, workers=1).advice is None
        copies = [shutil.copy(photos / "moon.png", tmp_path / f"{n}.png") for n in range(27)]
        assert collection.add(copies[:26], workers=1).advice is None  # 35 images
        advice = collection.add(copies[26:], workers=1).advice
        assert "learned from 9 images; now there are 36" in advice and collection.info().advice == advice
        collection.refit()
        assert collection.info().advice is None
