"""DELG in one training: its losses, what its gradients reach, and the recipe of both kinds of features it leaves."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402
from lightning_fabric import Fabric  # noqa: E402

from resight.describe.describer import Describer  # noqa: E402
from resight.errors import RecipeError  # noqa: E402
from resight.evaluation.load import load_labelled  # noqa: E402
from resight.learning.datasets.augment import NONE  # noqa: E402
from resight.learning.datasets.photos import training_set  # noqa: E402
from resight.learning.schemes.delf import phases  # noqa: E402
from resight.learning.settings import Training  # noqa: E402
from resight.learning.task import Batch, Lesson  # noqa: E402
from resight.learning.trainer import run  # noqa: E402
from resight.local.delf import read_delf_head  # noqa: E402
from resight.networks.architectures import create_network  # noqa: E402
from resight.networks.backbone import load_backbone  # noqa: E402
from resight.recipes import load_recipe  # noqa: E402
from resight.recipes.recipe import Recipe  # noqa: E402
from resight.search.collection import Collection  # noqa: E402

SIDE = 64


@pytest.fixture(scope="module")
def photos(tmp_path_factory, pictures, view, save):
    """Four views of each of three things."""
    folder = tmp_path_factory.mktemp("things")
    for name in ("astronaut", "chelsea", "coffee"):
        for seed in range(4):
            save(folder / name / f"{seed}.png", view(pictures[name], seed)[0])
    return folder


def settings(**changes):
    table = {"side": SIDE, "augment": NONE, "rate": 1e-3, "epochs": 10, "schedule": "constant", "accelerator": "cpu"}
    table |= {"sampling": {"kind": "shuffled", "classes": 3, "each": 2}, "learns": {"projection": 16}, "chunk": 4}
    return Training.model_validate(table | changes)


def recipe_of(weights, local=None, **stages):
    network = {"network": "test_resnet", "max_side": SIDE, "weights": str(weights)}
    table = load_recipe("reranking-transformer").model_dump(by_alias=True, exclude_none=True)
    table |= {"rerank": (), "global": {**network, "layer": "layer4", "pooling": {"kind": "gem"}, "dimensions": 32}}
    features = {"detector": "delf", "layer": "layer2", "scales": [1.0], "max_features": 40, "dimensions": 8}
    return Recipe.model_validate(table | {"local": {**features, **network, **(local or {})}} | stages)


def lesson_of(photos, given):
    return Lesson(training_set(load_labelled(photos)), None, given)


def made(photos, weights, given, **changes):
    recipe = recipe_of(weights, **changes)
    (phase,) = phases(recipe, given)
    return phase, phase.make(recipe, lesson_of(photos, given)), recipe


@pytest.fixture(scope="module")
def trained(tmp_path_factory, photos, weights):
    folder, given = tmp_path_factory.mktemp("delg"), settings()
    phase, task, recipe = made(photos, weights, given, local={"reduce": "none"})
    assert phase.name == "delg"
    before = task.backward(Batch(np.arange(12)), 0, 0, lambda loss: None)
    run(task, given, folder / "run", Fabric(accelerator="cpu", devices=1), identity={})
    after = task.backward(Batch(np.arange(12)), 0, 0, lambda loss: None)
    state = {name: tensor.clone() for name, tensor in task.module.state_dict().items()}
    phase.write(task, recipe, lesson_of(photos, given), folder / "recipe")
    return load_recipe(folder / "recipe"), task, before, after, state


def test_all_three_losses_fall(trained):
    _, _, before, after, _ = trained
    for name in ("loss", "attention", "global", "reconstruction"):
        assert after[name] < before[name], (before, after)
    assert before["loss"] == pytest.approx(before["attention"] + before["global"], rel=1e-5)


def losses_by_hand(task, places):
    """(of the descriptors, of the head), with one graph, the maps by the network itself run to that layer."""
    pictures = torch.stack([task.feed.pictures.picture(place, 0) for place in places])
    labels = task.labels[places]
    x = task.model(pictures)
    cosine = torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(task.loss.weight).T
    angle = cosine.clamp(-1 + 1e-6, 1 - 1e-6).acos()
    rows = torch.arange(len(labels))
    logits = cosine.index_put((rows, labels), (angle[rows, labels] + 0.1).cos()) * 2048**0.5
    vector = torch.nn.functional.cross_entropy(logits, labels)
    network, trunk = task.model.trunk.network, task.model.trunk
    maps = network.layer2(network.layer1(network.maxpool(network.act1(network.bn1(network.conv1(
        (pictures / 255 - trunk.mean) / trunk.std)))))).detach()  # fmt: skip
    made = task.head.autoencoder(maps)[1]
    scores = task.head.attention(made)
    pooled = (torch.nn.functional.normalize(made, dim=1) * scores).mean(dim=(2, 3))
    attention = torch.nn.functional.cross_entropy(task.classifier.logits(pooled), labels)
    return vector, attention + 10 * torch.nn.functional.mse_loss(made, maps)


@pytest.mark.parametrize("chunk", [2, 5])
def test_gradients_are_those_of_both_losses_written_out(photos, weights, chunk):
    """Of the network, those of the global one alone."""
    places = np.array([0, 5, 9, 2, 7])
    _, task, _ = made(photos, weights, settings(chunk=chunk), local={"reduce": "none"})
    named = dict(task.module.named_parameters())
    vector, local = losses_by_hand(task, places)
    wanted = {}
    for name, parameter in named.items():
        own = local if name.startswith(("head.", "classifier.")) else vector
        (wanted[name],) = (
            torch.autograd.grad(own, parameter, retain_graph=True, allow_unused=True)
            if (parameter.requires_grad)
            else (None,)
        )
    figures = task.backward(Batch(places), 0, 0, lambda loss: loss.backward())
    assert figures["global"] == pytest.approx(vector.item(), rel=1e-4)
    assert figures["attention"] == pytest.approx(local.item(), rel=1e-4)
    for name, parameter in named.items():
        if wanted[name] is None:
            assert parameter.grad is None or not parameter.grad.any(), name
        else:
            torch.testing.assert_close(parameter.grad, wanted[name], atol=2e-5, rtol=2e-3, msg=name)


def test_the_written_recipe_describes_with_what_was_learned(trained, photos):
    recipe, task, _, _, state = trained
    assert recipe.local.weights == recipe.global_.weights and recipe.local.weights_sha256
    network = load_backbone("test_resnet", layers=("layer4",), weights=recipe.local.weights).module.network
    learned = {n.removeprefix("trunk.trunk.network."): t for n, t in state.items() if ".network." in n}
    assert all(torch.equal(tensor, learned[name]) for name, tensor in network.state_dict().items())
    head = read_delf_head(recipe.local.head)
    assert head.fingerprint == task.head.fingerprint and head.autoencoder is not None
    with torch.no_grad():
        expected = task.model(task.feed.pictures.picture(0, 0)[None])[0].numpy()
    single = recipe.model_copy(update={"global_": recipe.global_.model_copy(update={"scales": (1.0,)})})
    picture = task.feed.pictures.picture(0, 0).permute(1, 2, 0).numpy()
    found = Describer(single).describe(picture)
    np.testing.assert_allclose(found.global_descriptor, expected, atol=1e-5)
    assert found.local.descriptors.shape[1] == 8


@pytest.mark.slow
def test_the_trained_recipe_indexes_and_finds(trained, photos, tmp_path):
    with Collection.create(tmp_path / "c", trained[0]) as collection:
        report = collection.add([photos], workers=1)
        assert (report.added, report.failed) == (12, 0)
        photo = next(collection.entries())
        assert collection.search(photo.origin).ids[0] == photo.id


def test_a_recipe_that_reduces_by_pca_gets_one(photos, weights, tmp_path):
    given = settings(epochs=1)
    phase, task, recipe = made(photos, weights, given)
    assert task.head.autoencoder is None
    phase.write(task, recipe, lesson_of(photos, given), tmp_path / "recipe")
    written = load_recipe(tmp_path / "recipe")
    described = Describer(written).describe(photos / "coffee" / "0.png")
    assert described.local.descriptors.shape[1] == 8 and len(described.local) > 5


def test_what_does_not_suit_is_refused(photos, weights):
    with pytest.raises(RecipeError, match="DELF learns by classification"):
        phases(recipe_of(weights), settings(loss={"kind": "triplet"}))
    with pytest.raises(RecipeError, match="DELG is trained without views"):
        phases(recipe_of(weights), settings(views=1))
    other = photos / "other.safetensors"
    torch.manual_seed(9)
    safetensors.torch.save_file(dict(create_network("test_resnet").state_dict()), other)
    with pytest.raises(RecipeError, match=r"DELG trains one network, but .* name one file in both"):
        phases(recipe_of(weights, local={"weights": str(other)}), settings())
    with pytest.raises(RecipeError, match=r"layer4 of \[local\] comes after"):
        stage = recipe_of(weights).model_dump(by_alias=True, exclude_none=True)["global"]
        made(photos, weights, settings(), local={"layer": "layer4"}, **{"global": stage | {"layer": "layer2"}})


def test_another_network_in_global_leaves_delf_its_own_phases(weights):
    stage = recipe_of(weights).model_dump(by_alias=True, exclude_none=True)["global"]
    recipe = recipe_of(weights, **{"global": stage | {"network": "test_vit", "layer": "cls", "weights": ""}})
    assert [phase.name for phase in phases(recipe, settings(learns={}))] == ["classification", "attention"]
