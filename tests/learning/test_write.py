"""A trained model written as a recipe and loaded by the ordinary describer gives the trained model's descriptors."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import safetensors  # noqa: E402
import tomli_w  # noqa: E402
from PIL import Image as PilImage  # noqa: E402

from resight.describe.describer import Describer  # noqa: E402
from resight.describe.fit import fit_recipe  # noqa: E402
from resight.errors import RecipeError  # noqa: E402
from resight.fitted import PhotoSketch  # noqa: E402
from resight.hashing.function import HashFunction  # noqa: E402
from resight.learning.model import Learns, make_model  # noqa: E402
from resight.learning.write import check_goes, write_recipe  # noqa: E402
from resight.networks.weights import file_sha256, load_state  # noqa: E402
from resight.recipes import load_recipe  # noqa: E402
from resight.search.collection import Collection  # noqa: E402

pytestmark = pytest.mark.usefixtures("sketched_once")

SMALL = {"network": "test_resnet", "layer": "layer3", "max_side": 96, "dimensions": 192, "whiten": "none"}
FACTS = {
    "on": "toys",
    "revision": "abc",
    "classes": 3,
    "photos": 8,
    "settings": {"epochs": 2, "loss": {"kind": "triplet"}},
}
PHOTOS = PhotoSketch.of([f"{number:012x}" for number in range(8)])

# Stage, what learns, whether the embedding is fitted first.
CASES = {
    "trunk": ({}, {"layers": "layer3"}, False),
    "all": ({}, {}, False),
    "transformer": ({"network": "test_vit", "layer": "cls", "dimensions": 64}, {"layers": "block.1"}, False),
    "exponent": ({}, {"layers": "head", "exponent": True}, False),
    "an exponent a channel": (
        {"pooling": {"kind": "gem", "p": np.linspace(2, 4, 192).tolist()}},
        {"layers": "head", "exponent": True},
        False,
    ),
    "projection": ({"whiten": "image"}, {"projection": 16, "exponent": True}, False),
    "projected regions": (
        {"whiten": "regions", "pooling": "mac", "scheme": {"kind": "grid", "levels": 2}},
        {"projection": 8},
        False,
    ),
    "r-mac": ({"pooling": "mac", "scheme": {"kind": "grid", "levels": 2}}, {}, False),
    "netvlad": ({"embedding": {"kind": "netvlad", "words": 3, "reduce": 4}}, {"layers": "head"}, True),
    "learned bof": ({"embedding": {"kind": "learned-bof", "words": 3}}, {}, True),
    "fisher layer": ({"embedding": {"kind": "fisher-layer", "words": 2, "reduce": 4}}, {"projection": 5}, True),
    "sba": ({"pooling": {"kind": "sba", "parts": 2}}, {}, True),
    "second-order": ({"attention": {"kind": "second-order", "reduction": 8}}, {"layers": "head"}, False),
    "crn": (
        {"attention": {"kind": "crn", "filters": ((3, 4),), "context": (3, 3)}, "pooling": "average"},
        {},
        False,
    ),
    "delf": ({"attention": {"kind": "delf", "hidden": 8}, "pooling": "sum"}, {"layers": "head"}, False),
    "regional": ({"attention": {"kind": "regional", "hidden": 8, "levels": 2}, "pooling": "mac"}, {}, False),
    "attention-gem": ({"attention": {"kind": "attention-gem", "hidden": 8}}, {"exponent": True}, False),
    "two branches": (
        {"also": ({"layer": "layer4", "pooling": "average", "weight": 0.5},)},
        {"exponent": True, "projection": 12},
        False,
    ),
    "dolg": (
        {
            "layer": "layer4",
            "also": (
                {
                    "layer": "layer3",
                    "attention": {"kind": "multi-atrous", "dimensions": 96, "inner": 8, "rates": (1, 2)},
                    "pooling": "average",
                },
            ),
            "fusion": "orthogonal",
        },
        {"layers": "layer4", "projection": 16},
        False,
    ),
    "orthogonal": (
        {"also": ({"attention": {"kind": "delf", "hidden": 8}, "pooling": "sum"},), "fusion": "orthogonal"},
        {},
        False,
    ),
}


def pictures_of(folder, count=3):
    return [np.asarray(PilImage.open(folder / f"{number}.png")) for number in range(count)]


def batch_of(pictures):
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def recipe_of(folder, weights, stage, **tables):
    """A recipe whose descriptors are as long as they come, read back from its file."""
    table = {"name": "x", "title": "X", "source": "a test", "filter": "global", "global": stage, **tables}
    table["global"] = SMALL | {"weights": str(weights)} | stage
    (folder / "r.toml").write_text(tomli_w.dumps(table))
    return load_recipe(folder / "r.toml")


def train(model, batch, steps=3):
    """A few steps towards fixed random directions, which move whatever can learn."""
    target = torch.randn(len(batch), model.dimension, generator=torch.Generator().manual_seed(7))
    groups = [{**group, "lr": 0.02 * group["lr"]} for group in model.groups()]
    optimiser = torch.optim.SGD(groups)
    model.train()
    for _ in range(steps):
        optimiser.zero_grad()
        (model(batch) - target / target.norm(dim=1, keepdim=True)).square().sum(dim=1).mean().backward()
        optimiser.step()
    return model.eval()


def learned_state(model):
    return {name: x.detach().clone() for name, x in model.named_parameters() if x.requires_grad}


def trained_model(recipe, noise, **learns):
    model = make_model(recipe.global_, weights=None, learns=Learns(**learns), recipe_name="x", seed=0)
    before = learned_state(model)
    train(model, batch_of(pictures_of(noise)))
    moved = {name for name, x in learned_state(model).items() if not torch.equal(x, before[name])}
    return model, set(before) - moved


@pytest.mark.parametrize("name", CASES)
def test_the_written_recipe_describes_as_the_trained_model(name, weights_of, noise, tmp_path):
    stage, learns, fitted = CASES[name]
    recipe = recipe_of(tmp_path, weights_of(stage.get("network", "test_resnet")), stage)
    if fitted:
        fit_recipe(tmp_path / "r.toml", [noise], weights=None, into=tmp_path / "fitted")
        recipe = load_recipe(tmp_path / "fitted")
    model, still = trained_model(recipe, noise, **learns)
    # A bias before a softmax has no gradient but rounding, and a scale among many may have one too small for float32.
    assert not {each for each in still if "bias" not in each and not each.startswith("trunk.")}
    assert len(still) < 0.1 * len(learned_state(model))
    into = write_recipe(model, recipe, tmp_path / "written", trained=FACTS, photos=PHOTOS)
    (tmp_path / "r.toml").unlink()
    moved = into.rename(tmp_path / "moved")  # all that it names lies in it
    written = load_recipe(moved)
    network = Describer(written).network
    pictures = pictures_of(noise)
    with torch.no_grad():
        expected = model(batch_of(pictures)).numpy()
    found = np.stack([network.describe(picture) for picture in pictures])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_codes_of_a_written_recipe_are_the_signs_of_the_trained_layer(weights_of, noise, tmp_path):
    recipe = recipe_of(tmp_path, weights_of("test_resnet"), {"whiten": "image"})
    model, still = trained_model(recipe, noise, layers="layer3", projection=12, hash_bits=16)
    assert not {name for name in still if not name.startswith("trunk.")}
    into = write_recipe(model, recipe, tmp_path / "written", trained=FACTS, photos=PHOTOS)
    written = load_recipe(into)
    assert (written.filter, written.hash.method, written.hash.bits) == ("hash", "siamese", 16)
    describer, function = Describer(written), HashFunction.load(written.hash.path)
    assert function.photos == PHOTOS
    pictures = pictures_of(noise)
    f = function.project(np.stack([describer.network.describe(picture) for picture in pictures]))
    relaxed = np.tanh(f) / np.linalg.norm(np.tanh(f), axis=1, keepdims=True)
    with torch.no_grad():
        np.testing.assert_allclose(relaxed, model(batch_of(pictures)).numpy(), atol=1e-5)
    with Collection.create(tmp_path / "collection", written) as collection:
        assert collection.add([noise], workers=1).added == 8
        found = collection.search(noise / "3.png")
        own = found.ids.tolist().index(collection.find(str(noise / "3.png")))
        assert found.scores[own] == found.scores.max()


def test_codes_of_a_descriptor_without_projection_leave_it_unwhitened(weights_of, noise, tmp_path):
    recipe = recipe_of(tmp_path, weights_of("test_resnet"), {"whiten": "image", "dimensions": 7})
    model, _ = trained_model(recipe, noise, layers="head", hash_bits=8)
    written = load_recipe(write_recipe(model, recipe, tmp_path / "written", trained={}))
    assert (written.global_.whiten, written.global_.dimensions) == ("none", 192)
    assert Describer(written).network.describe(pictures_of(noise)[0]).shape == (192,)


def test_the_folder_says_what_it_is(weights_of, noise, tmp_path):
    weights = weights_of("test_resnet")
    recipe = recipe_of(tmp_path, weights, {"whiten": "image"})
    model, _ = trained_model(recipe, noise, layers="layer3", projection=12)
    facts = FACTS | {
        "figures": {"mAP before": 0.25, "mAP": 0.5},
        "split": None,
        "settings": {"rate": 1e-3, "none": None},
    }
    into = write_recipe(model, recipe, tmp_path / "written", trained=facts, photos=PHOTOS)
    written = load_recipe(into)
    plain = {"on": "toys", "revision": "abc", "classes": 3, "photos": 8, "settings": {"rate": 1e-3}}
    assert written.trained == plain | {"figures": {"mAP before": 0.25, "mAP": 0.5}}
    assert written.fingerprint == written.model_copy(update={"trained": None}).fingerprint
    with safetensors.safe_open(into / "model.safetensors", framework="pt") as file:
        (header,) = (json.loads(value) for value in file.metadata().values())  # several make another file each time
    assert header == {"network": "test_resnet", "base_sha256": file_sha256(weights), "trained": written.trained}
    assert load_state(into / "model.safetensors").keys() == load_state(weights).keys()
    (whitening,) = Describer(written).network.whitenings
    assert (whitening.kind, whitening.n, whitening.photos) == ("learned-whitening", 8, PHOTOS)
    text = (into / "README.md").read_text()
    for said in ("toys", "test_resnet", file_sha256(weights), "mAP before", "0.5000", "rate", "timm ", "Licence"):
        assert said in text
    names = {path.name for path in into.iterdir()}
    assert names == {"recipe.toml", "README.md", "model.safetensors", "whitening.safetensors"}


def test_the_epsilon_of_normalisations_goes_with_the_weights(weights_of, noise, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(weights_of("test_resnet").read_bytes())
    (tmp_path / "meta.json").write_text('{"bn_eps": 0.02}')
    recipe = recipe_of(tmp_path, tmp_path / "w.safetensors", {})
    model, _ = trained_model(recipe, noise)
    into = write_recipe(model, recipe, tmp_path / "written", trained={})
    picture = pictures_of(noise, 1)
    with torch.no_grad():
        expected = model(batch_of(picture)).numpy()[0]
    np.testing.assert_allclose(Describer(load_recipe(into)).network.describe(picture[0]), expected, atol=1e-5)
    assert json.loads((into / "meta.json").read_text()) == {"bn_eps": 0.02}


def test_stages_that_were_not_trained_come_along(weights_of, noise, tmp_path):
    tables = {"local": {"detector": "sift"}, "codebook": {"words": 16}, "asmk": {}}
    recipe = recipe_of(tmp_path, weights_of("test_resnet"), {}, **tables)
    model, _ = trained_model(recipe, noise, layers="layer3")
    written = load_recipe(write_recipe(model, recipe, tmp_path / "written", trained={}))
    assert (written.local, written.codebook, written.asmk) == (recipe.local, recipe.codebook, recipe.asmk)


def test_nothing_is_left_where_it_cannot_be_written(weights_of, noise, tmp_path):
    recipe = recipe_of(tmp_path, weights_of("test_resnet"), {})
    model, _ = trained_model(recipe, noise, layers="layer3", exponent=True)
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").touch()
    with pytest.raises(RecipeError, match="not an empty folder"):
        write_recipe(model, recipe, full, trained={})
    with torch.no_grad():
        model.branch_heads[0].p.fill_(-1)
    with pytest.raises(RecipeError, match="p fell to 0"):
        write_recipe(model, recipe, tmp_path / "into", trained={})
    with torch.no_grad():
        model.branch_heads[0].p.fill_(float("nan"))
    with pytest.raises(RecipeError, match=r"heads\.0\.p is not finite: .*lower the rate"):
        write_recipe(model, recipe, tmp_path / "into", trained={})
    assert {path.name for path in tmp_path.iterdir()} == {"full", "r.toml"}


def test_codes_do_not_go_with_a_second_ranking(weights_of, noise, tmp_path):
    recipe = recipe_of(tmp_path, weights_of("test_resnet"), {}, rerank=[{"method": "expansion"}])
    with pytest.raises(RecipeError, match=r"\[\[rerank\]\] does not go with codes"):
        check_goes(recipe, Learns(hash_bits=8))
    check_goes(recipe, Learns())
