"""Fitting a codebook makes a recipe that works wherever it is moved. (The whitening is tested with the networks.)"""

import hashlib
import shutil

import numpy as np
import pytest
import tomli_w

from resight.describe.fit import fit_recipe
from resight.embedding.codebook import Codebook
from resight.errors import RecipeError
from resight.fitted import PhotoSketch
from resight.images import digest
from resight.recipes import load_recipe
from resight.search.collection import Collection


@pytest.fixture
def fitted(tmp_path, photos):
    (photos / "broken.jpg").write_bytes(b"broken")
    try:
        return fit_recipe("rootsift-asmk", [photos], weights=None, into=tmp_path / "fitted")
    finally:
        (photos / "broken.jpg").unlink()


def test_a_fitted_recipe_holds_its_codebook_and_says_what_it_was_fitted_on(fitted, photos):
    recipe = load_recipe(fitted)
    assert recipe.codebook.path == str(fitted / "codebook.safetensors")
    codebook = Codebook.load(fitted / "codebook.safetensors")
    assert codebook.fitted_on == f"13 photos of {photos} (seed 0)" and codebook.dimension == 128
    read = [digest(path.read_bytes()) for path in photos.glob("*.*g")]
    assert codebook.photos == PhotoSketch.of(read) and codebook.photos.count == 12
    default = load_recipe("rootsift-asmk")
    emptied = recipe.model_copy(update={"codebook": recipe.codebook.model_copy(update={"path": ""})})
    assert emptied == default and recipe.fingerprint == default.fingerprint


def test_it_works_where_it_was_moved_to(fitted, photos, tmp_path):
    moved = shutil.move(fitted, tmp_path / "elsewhere")
    with Collection.create(tmp_path / "c", load_recipe(moved)) as collection:
        collection.add([photos / "coffee-1.png", photos / "coffee-2.jpg", photos / "brick.png"], workers=1)
        assert collection.info().codebook["fitted_on"].startswith("13 photos of")
        shutil.rmtree(moved)  # the collection has its own copy
        ranking = collection.search(photos / "coffee-2.jpg")
        assert ranking.accepted == 2 and collection.verify() == []


def test_the_sample_is_drawn_by_the_seed(photos, tmp_path):
    books = {}
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        fit_recipe("rootsift-asmk", [photos], weights=None, into=tmp_path / name, sample=3, seed=seed)
        books[name] = Codebook.load(tmp_path / name / "codebook.safetensors")
        assert books[name].fitted_on == f"3 photos of {photos} (seed {seed})"
    np.testing.assert_array_equal(books["one"].words, books["same"].words)
    assert not np.array_equal(books["one"].words, books["other"].words)


def test_progress_counts_every_photo(photos, tmp_path):
    seen = []
    fit_recipe(
        "rootsift-asmk",
        [photos / "moon.png", photos / "brick.png"],
        weights=None,
        into=tmp_path / "f",
        progress=lambda *step: seen.append(step),
    )
    assert seen == [("learning the codebook", 1, 2), ("learning the codebook", 2, 2)]


def test_what_cannot_be_fitted_is_said(photos, tmp_path, pictures, save):
    full, empty, flat = tmp_path / "full", tmp_path / "empty", tmp_path / "flat"
    full.mkdir()
    (full / "file").touch()
    empty.mkdir()
    save(flat / "flat.png", pictures["brick"] * 0)

    def fit(paths, into=tmp_path / "f", weights=None):
        fit_recipe("rootsift-asmk", paths, weights=weights, into=into)

    with pytest.raises(RecipeError, match="full: is not an empty folder; choose another --into"):
        fit([photos], into=full)
    with pytest.raises(RecipeError, match=r"no photos in .*empty"):
        fit([empty])
    with pytest.raises(RecipeError, match="has no network; leave out --weights"):
        fit([photos], weights=tmp_path / "w")
    with pytest.raises(RecipeError, match="0 features cannot make 1 visual words: give more photos"):
        fit([flat])


def test_what_a_stage_of_re_ranking_learned_goes_with_the_recipe(tmp_path, photos):
    torch = pytest.importorskip("torch")
    import safetensors.torch

    from resight.networks.architectures import create_network
    from resight.search.rerank.gss import GssModel

    (tmp_path / "made").mkdir()
    weights = {k: v.contiguous() for k, v in create_network("resnet10t").state_dict().items()}
    safetensors.torch.save_file(weights, tmp_path / "made" / "w.safetensors")
    GssModel(8, seed=1).save(tmp_path / "made" / "gss.safetensors")
    table = load_recipe("gem-densenet169").model_dump(by_alias=True, exclude_none=True)
    table["global"] |= {"network": "resnet10t", "weights": "w.safetensors", "dimensions": 8, "max_side": 64}
    table |= {"rerank": [{"method": "expansion"}, {"method": "gss", "model": "gss.safetensors"}]}
    (tmp_path / "made" / "recipe.toml").write_text(tomli_w.dumps(table))
    fit_recipe(tmp_path / "made", [photos], weights=None, into=tmp_path / "fitted")
    shutil.rmtree(tmp_path / "made")
    shutil.move(tmp_path / "fitted", tmp_path / "moved")
    stage = load_recipe(tmp_path / "moved").rerank[1]
    assert stage.model == str(tmp_path / "moved" / "rerank-2.safetensors")
    assert stage.model_sha256 == hashlib.sha256((tmp_path / "moved" / "rerank-2.safetensors").read_bytes()).hexdigest()
    copied = GssModel.load(stage.model).layers[0].weight
    assert torch.equal(copied, GssModel(8, seed=1).layers[0].weight)
