"""Every recipe with a network, from fit to search, on a small sibling of its network with random weights."""

import importlib.util
import json
import re
import shutil

import numpy as np
import pytest
import tomli_w

pytest.importorskip("torch")

from small_recipes import SIBLINGS, small_stage

from resight.cli.evaluate import learn_fusion, learn_whitening
from resight.describe.describer import Describer
from resight.describe.fit import fit_recipe
from resight.describe.global_descriptor import GlobalDescriber
from resight.errors import RecipeError
from resight.evaluation import evaluate
from resight.images.read import read_image
from resight.networks.engine import TOLERANCE
from resight.recipes import load_recipe, recipe_names
from resight.search.collection import Collection

_ALIKE = 0.9  # cosine; whitening of a few random features enlarges what bfloat16 rounds


def test_no_recipe_is_left_out():
    """Recipes that re-rank describe as gem-densenet169 does: search/rerank/test_recipes.py. Those that hash:
    test_hash_recipes.py.
    """
    recipes = {name: load_recipe(name) for name in recipe_names()}
    others = {name for name, recipe in recipes.items() if recipe.global_ and not (recipe.rerank or recipe.hash)}
    assert set(SIBLINGS) == others


@pytest.fixture(scope="module", params=SIBLINGS)
def fitted(request, tmp_path_factory, photos):
    """The folder of a recipe, ready to index; it goes before the next is made, as each holds a network."""
    tmp_path = tmp_path_factory.mktemp(request.param)
    recipe = load_recipe(request.param)
    if getattr(recipe.global_.attention, "weights", None) is not None:
        with pytest.raises(RecipeError, match=f"attention {recipe.global_.attention.kind} has to be trained"):
            fit_recipe(request.param, [photos], weights=None, into=tmp_path / "untrained")
    stage = small_stage(request.param, tmp_path)
    table = recipe.model_copy(update={"global_": stage}).model_dump(by_alias=True, exclude_none=True)
    (tmp_path / "small.toml").write_text(tomli_w.dumps(table))
    yield fit_recipe(tmp_path / "small.toml", [photos], weights=None, into=tmp_path / "fitted")
    shutil.rmtree(tmp_path)


def test_a_photo_finds_itself_by_file_and_by_id(fitted, photos, tmp_path):
    recipe = load_recipe(fitted)
    with Collection.create(tmp_path / "c", recipe) as collection:
        report = collection.add([photos], workers=1)
        assert report.failed == 0 and report.added == len(collection) > 10
        asked = photos / "rocket-1.png"
        by_file = collection.search(asked)
        image = collection.find(str(asked))
        by_id = collection.search(image)
        assert by_file.ids[0] == by_id.ids[0] == image
        np.testing.assert_allclose(by_file.scores, by_id.scores, atol=2e-3)
        assert collection.verify() == []
        fingerprint = collection.fingerprint
    with Collection.open(tmp_path / "c", recipe=load_recipe(fitted)) as again:
        assert again.fingerprint == fingerprint
        np.testing.assert_array_equal(again.search(asked).ids, by_file.ids)


def several(photos):
    """Pictures of four shapes, of which two share one."""
    pixels = [read_image(photos / name).pixels for name in ("rocket-1.png", "coffee-1.png", "moon.png")]
    return [pixels[0], pixels[1], pixels[2], pixels[2][:, 40:], np.ascontiguousarray(pixels[0][::-1])]


def test_a_batch_of_one_and_a_batch_of_many_give_the_same_descriptor(fitted, photos):
    network = Describer(load_recipe(fitted)).network
    prepared = [network.prepare(pixels) for pixels in several(photos)]
    together = network.describe_views(prepared)
    # Whitening of few photos enlarges rounding.
    np.testing.assert_allclose([network.describe(pixels) for pixels in several(photos)], together, atol=2e-3)
    np.testing.assert_allclose(list(network.describe_each(prepared)), together, atol=2e-3)


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
def test_openvino_gives_what_pytorch_does(fitted, photos):
    stage = load_recipe(fitted).global_
    plain, fast = (GlobalDescriber(stage, None, engine=engine) for engine in ("torch", "openvino"))
    prepared = [plain.prepare(pixels) for pixels in several(photos)[:2]]
    for image in prepared:
        for expected, found in zip(plain.outputs(image), fast.outputs(image), strict=True):
            for (_, a), (_, b) in zip(expected, found, strict=True):
                assert (a - b).abs().max() <= TOLERANCE * a.abs().max()
    np.testing.assert_allclose(fast.describe_views(prepared), plain.describe_views(prepared), atol=5e-3)


@pytest.mark.gpu
def test_a_cuda_device_gives_what_the_cpu_does(fitted, photos, monkeypatch):
    stage = load_recipe(fitted).global_
    there = GlobalDescriber(stage, None, engine="torch")
    assert there.engine.endswith("bfloat16")
    with monkeypatch.context() as without:
        without.setattr("torch.cuda.is_available", lambda: False)
        here = GlobalDescriber(stage, None, engine="torch")
    prepared = [here.prepare(pixels) for pixels in several(photos)]
    expected = here.describe_views(prepared)
    for found in (there.describe_views(prepared), list(there.describe_each(prepared))):
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
        assert (np.einsum("nd,nd->n", found, expected) / lengths).min() > _ALIKE


@pytest.mark.parametrize("fitted", ["gem-densenet169"], indirect=True)
def test_a_whitening_is_learned_from_the_matches_of_a_labelled_set(fitted, photos, tmp_path, capsys):
    label(photos)
    learn_whitening(str(fitted), photos, tmp_path / "tuned", ridge=0.1, quiet=True)
    said = capsys.readouterr().out
    after = float(re.search(r"(\d+\.\d) after", said)[1])
    assert "8 matching pairs of views" in said
    report = evaluate(photos, tmp_path / "tuned", workers=1)
    assert round(100 * report.figures.mean_average_precision, 1) == after
    assert "matching pairs of views" in str(report.protocol.fitted_on)
    with pytest.raises(RecipeError, match="not an empty folder"):
        learn_whitening(str(fitted), photos, tmp_path / "tuned", ridge=0.1, quiet=True)


def label(photos):
    """A gt.json by which photos whose names begin alike match."""
    names = sorted(path.name for path in photos.iterdir() if path.suffix in (".png", ".jpg"))
    queries = {name: {"positives": [n for n in names if n[:4] == name[:4] and n != name]} for name in names}
    truth = {"name": "views", "database": names, "queries": queries}
    (photos / "gt.json").write_text(json.dumps(truth))


@pytest.mark.parametrize("fitted", ["multilayer-cnn"], indirect=True)
def test_a_fusion_is_tuned_on_a_labelled_set(fitted, photos, tmp_path, capsys):
    label(photos)
    learn_fusion(str(fitted), photos, tmp_path / "tuned", workers=1, quiet=True)
    said = capsys.readouterr().out
    before, after = (float(x) for x in re.findall(r"(\d+\.\d) (?:before|after)", said))
    report = evaluate(photos, tmp_path / "tuned", workers=1)
    assert after >= before and round(100 * report.figures.mean_average_precision, 1) == after
    assert report.protocol.fitted_share == {"whitening": 1.0, "whitening 2": 1.0}  # fitted on these very photos
    assert "fitted on 100 % of these photos" in report.warnings[0]
