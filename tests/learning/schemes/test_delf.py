"""DELF and DELG learned from planted photos: what moves in each phase, what it learns, and the recipe it leaves."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402
from lightning_fabric import Fabric  # noqa: E402

from resight.errors import RecipeError  # noqa: E402
from resight.evaluation.load import load_labelled  # noqa: E402
from resight.images.read import read_image  # noqa: E402
from resight.learning.datasets.augment import NONE  # noqa: E402
from resight.learning.datasets.photos import training_set  # noqa: E402
from resight.learning.schemes.delf import AttentionTask, ClassificationTask, phases  # noqa: E402
from resight.learning.settings import Training  # noqa: E402
from resight.learning.task import Batch, Lesson  # noqa: E402
from resight.learning.trainer import run  # noqa: E402
from resight.local.delf import read_delf_head  # noqa: E402
from resight.networks.backbone import load_backbone  # noqa: E402
from resight.networks.weights import file_sha256  # noqa: E402
from resight.recipes import load_recipe  # noqa: E402
from resight.search.collection import Collection  # noqa: E402

SIDE, MARK = 96, 40
COLOURS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 40, 40), "yellow": (220, 210, 40)}


def marked(colour, seed):
    """Grey noise with a coloured square, and where that is: (x1, y1)."""
    rng = np.random.default_rng(seed)
    pixels = np.repeat(rng.integers(90, 160, (SIDE, SIDE, 1)), 3, axis=2).astype(np.uint8)
    x, y = rng.integers(0, SIDE - MARK, 2)
    stripes = np.where(np.arange(MARK) % 8 < 4, 1.0, 0.6)[:, None, None]
    pixels[y : y + MARK, x : x + MARK] = np.array(colour) * stripes
    return pixels, (int(x), int(y))


@pytest.fixture(scope="module")
def photos(tmp_path_factory, save):
    """Six photos of each of four marks."""
    folder = tmp_path_factory.mktemp("marks")
    for number, (name, colour) in enumerate(COLOURS.items()):
        for copy in range(6):
            save(folder / name / f"{copy}.png", marked(colour, 10 * number + copy)[0])
    return folder


def settings(**changes):
    table = {"side": SIDE, "augment": NONE, "rate": 1e-3, "epochs": 3, "schedule": "constant", "accelerator": "cpu"}
    return Training.model_validate(table | {"sampling": {"kind": "shuffled", "classes": 4, "each": 3}} | changes)


def recipe_of(weights, **changes):
    recipe = load_recipe("delf")
    small = {"network": "test_resnet", "layer": "layer2", "max_side": SIDE, "scales": (1.0, 0.7071), "dimensions": 8}
    local = recipe.local.model_copy(update={**small, "max_features": 60, "weights": str(weights), **changes})
    return recipe.model_copy(update={"local": local})


def lesson_of(photos, given, validation=None):
    return Lesson(training_set(load_labelled(photos)), validation, given)


def taught(task, given, folder):
    """Train; the loss of each epoch."""
    run(task, given, folder, Fabric(accelerator="cpu", devices=1), identity={})
    losses = []
    rows = [line.split(",") for line in (folder / "log.csv").read_text().splitlines()]
    columns = {name: place for place, name in enumerate(rows[0])}
    for epoch in range(1, given.epochs + 1):
        of_epoch = [
            float(row[columns["loss"]])
            for row in rows[1:]
            if row[columns["part"]] == "train" and int(row[columns["epoch"]]) == epoch
        ]
        losses.append(np.mean(of_epoch))
    return losses


def state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def network_of(recipe):
    local = recipe.local
    return load_backbone(local.network, layers=(local.layer,), weights=local.weights).module.network.state_dict()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, photos, weights):
    """Recipes after each phase, by its name; tasks; losses of each epoch; the trunk before it and after."""
    given = settings(rate=5e-3, epochs=10)
    lesson = lesson_of(photos, given)
    recipe = recipe_of(weights, reduce="none")
    found = {}
    for phase in phases(recipe, given):
        folder = tmp_path_factory.mktemp(phase.name)
        task = phase.make(recipe, lesson)
        before = state(task.trunk)
        losses = taught(task, given, folder / "run")
        phase.write(task, recipe, lesson, folder / "recipe")
        recipe = load_recipe(folder / "recipe")
        found[phase.name] = (recipe, task, losses, before)
    return found


def test_the_phases_are_what_the_recipe_and_the_settings_ask_for(weights):
    def names(recipe, **changes):
        return [phase.name for phase in phases(recipe, settings(**changes))]

    assert names(recipe_of(weights)) == ["classification", "attention"]
    assert names(recipe_of(weights, reduce="none")) == ["classification", "attention", "autoencoder"]
    assert names(recipe_of(weights), learns={"layers": "head"}) == ["attention"]
    assert names(recipe_of(weights), loss={"kind": "arcface"}) == ["classification", "attention"]


def test_losses_fall_in_each_phase(trained):
    for name, (_, _, losses, _) in trained.items():
        assert losses[-1] < losses[0], (name, losses)
    assert trained["classification"][2][-1] < 0.5 * np.log(4)
    facts = trained["autoencoder"][0].trained
    assert list(facts) == list(trained) and all(each["photos"] == 24 for each in facts.values())
    assert {each["settings"]["loss"]["kind"] for each in facts.values()} == {"cross-entropy"}


def test_the_network_learns_to_classify_and_is_then_left_alone_to_the_bit(trained, weights):
    start = safetensors.torch.load_file(weights)
    recipe, task, _, before = trained["classification"]
    assert not same(state(task.trunk), before)
    changed = network_of(recipe)
    assert any(not torch.equal(changed[name], start[name]) for name in changed)
    for name in ("attention", "autoencoder"):
        later, task, _, before = trained[name]
        assert same(state(task.trunk), before)
        assert same(dict(network_of(later)), dict(changed))
        assert later.local.weights_sha256 == recipe.local.weights_sha256


def test_layers_beyond_the_one_that_is_read_stay_as_they_are(trained, weights):
    start, changed = safetensors.torch.load_file(weights), network_of(trained["classification"][0])
    later = [name for name in changed if name.startswith(("layer3", "layer4"))]
    assert later and all(torch.equal(changed[name], start[name]) for name in later)
    assert all(torch.equal(changed[name], start[name]) for name in changed if "running" in name)  # frozen statistics


@pytest.mark.parametrize("name", ["attention", "autoencoder"])
def test_scores_are_higher_on_what_tells_the_classes_apart(trained, name):
    """On pictures that it has not seen, by the features that the written recipe detects.

    But for one class at most, which a classifier can tell by there being no sign of the others.
    """
    from resight.describe.local_features import load_network_features

    recipe, _, _, _ = trained[name]
    features = load_network_features(recipe.local.model_copy(update={"scales": (1.0,), "max_features": 1000}))
    inside, outside = [], []
    for number, colour in enumerate(COLOURS.values()):
        pixels, (x, y) = marked(colour, 900 + number)
        found = features.extract(read_image(pixels))
        within = ((found.xy > (x + 4, y + 4)) & (found.xy < (x + MARK - 4, y + MARK - 4))).all(axis=1)
        beyond = ((found.xy < (x - 12, y - 12)) | (found.xy > (x + MARK + 12, y + MARK + 12))).any(axis=1)
        assert within.any() and beyond.any()
        inside.append(found.score[within].mean())
        outside.append(found.score[beyond].mean())
    higher = [high > 1.2 * low for high, low in zip(inside, outside, strict=True)]
    assert sum(higher) >= len(COLOURS) - 1, (inside, outside)


@pytest.mark.parametrize("name", ["attention", "autoencoder"])
def test_the_written_head_gives_the_scores_that_were_learned(trained, name):
    recipe, task, _, _ = trained[name]
    head = read_delf_head(recipe.local.head)
    assert head.fingerprint == task.head.fingerprint
    assert (head.autoencoder is None) == (name == "attention")
    x = torch.rand(task.trunk.layers[0].channels, 5, 4)
    for got, wanted in zip(head(x), task.head(x), strict=True):
        torch.testing.assert_close(got, wanted.detach(), atol=1e-6, rtol=1e-6)


def test_the_autoencoder_reconstructs_and_its_scorer_starts_as_the_one_before(trained, photos):
    recipe, task, _, _ = trained["attention"]
    lesson = lesson_of(photos, settings())
    (*_, phase) = phases(recipe, lesson.settings)
    again = phase.make(recipe, lesson)
    assert same(state(again.head.attention), state(task.head.attention))
    pictures = torch.stack([task.feed.pictures.picture(place, 0) for place in range(4)])
    maps = task.trunk(pictures)[0].detach()

    @torch.no_grad()
    def error(head):
        return float((head.autoencoder(maps)[1] - maps).square().mean())

    assert error(trained["autoencoder"][1].head) < 0.7 * error(again.head)


@pytest.mark.slow
def test_the_trained_recipe_indexes_and_finds(trained, photos, tmp_path):
    recipe, _, _, _ = trained["autoencoder"]
    with Collection.create(tmp_path / "c", recipe) as collection:
        report = collection.add([photos], workers=1)
        assert (report.added, report.failed) == (24, 0)
        photo = next(collection.entries())
        assert collection.search(photo.origin).ids[0] == photo.id


def test_a_recipe_that_reduces_by_pca_gets_one_of_the_trained_features(photos, weights, tmp_path):
    """And one with a head, reduction and codebook before loses them with the network they were of."""
    given = settings(epochs=1)
    lesson = lesson_of(photos, given)
    recipe = recipe_of(weights)
    classification, attention = phases(recipe, given)
    task = classification.make(recipe, lesson)
    classification.write(task, recipe, lesson, tmp_path / "1")
    first = load_recipe(tmp_path / "1")
    task = attention.make(first, lesson)
    attention.write(task, first, lesson, tmp_path / "2")
    second = load_recipe(tmp_path / "2")
    assert (first.local.head, first.local.reduction) == ("", "")
    from resight.describe.local_features import load_local

    described = load_local(second.local, "mine").extract(read_image(photos / "red" / "0.png"))
    assert described.descriptors.shape[1] == 8 and len(described) > 10
    moved = tmp_path / "moved"
    (tmp_path / "2").rename(moved)
    again = load_recipe(moved)
    assert (
        load_local(again.local, "mine").fingerprint
        == load_local(
            second.local.model_copy(update={k: getattr(again.local, k) for k in ("weights", "head", "reduction")}),
            "mine",
        ).fingerprint
    )
    classification.write(classification.make(again, lesson), again, lesson, tmp_path / "3")
    third = load_recipe(tmp_path / "3").local
    assert (third.head, third.reduction) == ("", "") and third.weights_sha256


def gradients(task, chunk, places):
    task.feed.chunk = chunk
    task.module.zero_grad()
    figures = task.backward(Batch(places), 0, 0, lambda loss: loss.backward())
    return figures, {n: p.grad.clone() for n, p in task.module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("reduced", [None, 8])
def test_gradients_and_statistics_do_not_depend_on_the_pieces(photos, weights, reduced):
    """And are those of a plain backward pass of the whole batch, written out."""
    from resight.learning.schemes.delf_model import new_head
    from resight.learning.schemes.delf_trunk import MapTrunk

    places, found = np.array([0, 7, 14, 21, 3]), []
    for chunk in (2, 5):
        trunk = MapTrunk.of(recipe_of(weights).local)
        head = new_head(trunk.layers[0].channels, reduced, seed=0)
        task = AttentionTask(lesson_of(photos, settings()), trunk, head)
        figures, grads = gradients(task, chunk, places)
        found.append((figures, grads, state(task.head)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], atol=1e-6, rtol=1e-4)
    for name, tensor in found[0][2].items():
        torch.testing.assert_close(tensor, found[1][2][name], atol=1e-5, rtol=1e-4)

    pictures = torch.stack([task.feed.pictures.picture(place, 0) for place in places])
    head = new_head(trunk.layers[0].channels, reduced, seed=0).requires_grad_(True)
    maps = trunk(pictures)[0].detach()
    scored = maps if reduced is None else head.autoencoder(maps)[1]
    scores = head.attention(scored)
    pooled = (torch.nn.functional.normalize(scored, dim=1) * scores).mean(dim=(2, 3))
    loss = torch.nn.functional.cross_entropy(task.classifier.logits(pooled), task.labels[places])
    loss = loss + (0 if reduced is None else 10 * torch.nn.functional.mse_loss(scored, maps))
    loss.backward()
    assert loss.item() == pytest.approx(found[1][0]["loss"], rel=1e-5)
    for name, parameter in head.named_parameters():
        torch.testing.assert_close(parameter.grad, found[1][1][f"head.{name}"], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", ["cross-entropy", "arcface"])
def test_classification_gradients_do_not_depend_on_the_pieces(photos, weights, kind):
    from resight.learning.schemes.delf_trunk import MapTrunk

    places, found = np.array([0, 7, 14, 21, 3]), []
    for chunk in (2, 5):
        trunk = MapTrunk.of(recipe_of(weights).local)
        trunk.learn("layer2")
        task = ClassificationTask(lesson_of(photos, settings(loss={"kind": kind})), trunk)
        found.append(gradients(task, chunk, places))
    names = set(found[0][1])
    assert names == set(found[1][1]) and all("layer2" in name or "classifier" in name for name in names)
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for name in names:
        torch.testing.assert_close(found[0][1][name], found[1][1][name], atol=1e-5, rtol=1e-3)


def test_it_is_validated_by_retrieval_of_other_objects(photos, weights):
    labelled = load_labelled(photos)
    given = settings()
    task = phases(recipe_of(weights), given)[0].make(recipe_of(weights), lesson_of(photos, given, labelled))
    figures = task.validate()
    rows = [task.embed(task.feed.pictures.picture(n, 0)[None])[0].detach().numpy() for n in range(24)]
    names = [photo.path.parent.name for photo in task.feed.pictures.photos]
    precisions = []
    for query in range(24):
        order = [n for n in np.argsort(-(np.array(rows) @ rows[query]), kind="stable") if n != query]
        hits = [place for place, n in enumerate(order) if names[n] == names[query]]
        # Trapezoids between the precision before and at each hit.
        parts = [((i / place if place else 1.0) + (i + 1) / (place + 1)) / 2 for i, place in enumerate(hits)]
        precisions.append(np.mean(parts))
    assert figures == {"mAP": pytest.approx(np.mean(precisions), abs=1e-6)}


def test_what_does_not_suit_is_refused(weights, photos):
    with pytest.raises(RecipeError, match=r"not by siamese: say loss\.kind = cross-entropy"):
        phases(recipe_of(weights), settings(loss={"kind": "siamese"}))
    with pytest.raises(RecipeError, match=r"no DELF to train.*detector"):
        phases(load_recipe("how"), settings())
    with pytest.raises(RecipeError, match=r"trained without views, learns\.hash_bits"):
        phases(recipe_of(weights), settings(views=2, learns={"hash_bits": 8}))
    given = settings(learns={"layers": "layer4"})
    with pytest.raises(RecipeError, match="name an earlier layer"):
        phases(recipe_of(weights), given)[0].make(recipe_of(weights), lesson_of(photos, given))


def test_the_written_recipe_names_no_place_outside_itself(trained):
    folder = Path(trained["autoencoder"][0].local.weights).parents[1]
    assert str(folder.parent) not in (folder / "recipe.toml").read_text()


def test_a_card_says_of_each_phase_what_was_learned(trained, weights):
    folder = Path(trained["autoencoder"][0].local.weights).parents[1]
    text = (folder / "README.md").read_text()
    assert f"test_resnet, layer layer2, trained from weights with sha256 `{file_sha256(weights)}`" in text
    for phase in ("classification", "attention", "autoencoder"):
        assert text.count(f"### {phase}\n") == 2  # what it learned from, and its settings
    assert text.count("| Objects | 4 |") == 3 and text.count("| rate | `0.005` |") == 3
    assert "{" not in text  # no table is printed as Python has it
