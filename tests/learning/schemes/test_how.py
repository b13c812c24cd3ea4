"""HOW learned from planted photos: the descriptor it learns by, its gradients, mining, and the recipe it leaves."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from lightning_fabric import Fabric  # noqa: E402

from resight.describe.local_features import load_local, load_network_features  # noqa: E402
from resight.errors import RecipeError  # noqa: E402
from resight.evaluation.load import load_labelled  # noqa: E402
from resight.images.read import read_image  # noqa: E402
from resight.learning.datasets.augment import NONE  # noqa: E402
from resight.learning.datasets.photos import training_set  # noqa: E402
from resight.learning.schemes.how import loss_stage, miner_stage, phases  # noqa: E402
from resight.learning.settings import Training  # noqa: E402
from resight.learning.task import Lesson  # noqa: E402
from resight.learning.trainer import run  # noqa: E402
from resight.local.how import how_global  # noqa: E402
from resight.projection.projection import Projection  # noqa: E402
from resight.recipes import load_recipe  # noqa: E402
from resight.search.collection import Collection  # noqa: E402

SIDE, MARK = 96, 40
COLOURS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 40, 40), "yellow": (220, 210, 40)}
POOL = {"kind": "pool", "queries": 12, "pool": 20, "negatives": 2, "tuples_per_batch": 4, "form": "pairs"}


def marked(colour, seed, width):
    """Grey noise with a striped square of a colour."""
    rng = np.random.default_rng(seed)
    pixels = np.repeat(rng.integers(60, 190, (SIDE, width, 1)), 3, axis=2).astype(np.uint8)
    x, y = rng.integers(0, (width - MARK, SIDE - MARK))
    stripes = np.where(np.arange(MARK) % 8 < 4, 1.0, 0.6)[:, None, None]
    pixels[y : y + MARK, x : x + MARK] = np.array(colour) * stripes
    return pixels


@pytest.fixture(scope="module")
def photos(tmp_path_factory, save):
    """Five photos of each of four marks, of two forms."""
    folder = tmp_path_factory.mktemp("marks")
    for number, (name, colour) in enumerate(COLOURS.items()):
        for copy in range(5):
            save(folder / name / f"{copy}.png", marked(colour, 10 * number + copy, 96 if copy % 2 else 64))
    return folder


def settings(**changes):
    table = {"side": SIDE, "fit": "aspect", "augment": NONE, "rate": 1e-3, "epochs": 6, "schedule": "constant"}
    table |= {"accelerator": "cpu", "miner": POOL}
    return Training.model_validate(table | changes)


def recipe_of(weights, **changes):
    recipe = load_recipe("how")
    small = {"network": "test_resnet", "layer": "layer2", "max_side": SIDE, "scales": (1.0, 0.7071), "dimensions": 8}
    local = recipe.local.model_copy(update={**small, "max_features": 60, "weights": str(weights), **changes})
    return recipe.model_copy(update={"local": local})


def lesson_of(photos, given, validation=None):
    return Lesson(training_set(load_labelled(photos)), validation, given)


def made(photos, weights, given, **changes):
    recipe = recipe_of(weights, **changes)
    (phase,) = phases(recipe, given)
    return phase, phase.make(recipe, lesson_of(photos, given)), recipe


@pytest.fixture(scope="module")
def trained(tmp_path_factory, photos, weights):
    """The recipe, its task, losses before and after on the same tuples, and its state as learning started."""
    folder, given = tmp_path_factory.mktemp("how"), settings()
    phase, task, recipe = made(photos, weights, given)
    start = {name: tensor.clone() for name, tensor in task.module.state_dict().items()}
    batches = task.batches(0)
    with torch.no_grad():
        before = [loss_of_batch(task, batch) for batch in batches]
    run(task, given, folder / "run", Fabric(accelerator="cpu", devices=1), identity={})
    with torch.no_grad():
        after = [loss_of_batch(task, batch) for batch in batches]
    phase.write(task, recipe, lesson_of(photos, given), folder / "recipe")
    return load_recipe(folder / "recipe"), task, (np.mean(before), np.mean(after)), start


def loss_of_batch(task, batch):
    """By the definition: ½D² of matching pairs and ½max(0, m − D)² of others, of the rows that tuples name."""
    x = [task.embed(task.feed.pictures.picture(int(place), 0)[None])[0].detach().numpy() for place in batch.places]
    matching = {(a, p) for a, p, _, _ in batch.tuples.tolist()}
    values = [0.5 * np.linalg.norm(x[a] - x[p]) ** 2 for a, p in matching]
    values += [0.5 * max(0.0, 0.8 - np.linalg.norm(x[b] - x[n])) ** 2 for _, _, b, n in batch.tuples]
    return np.mean(values)


def test_it_learns_by_the_descriptor_of_inference(photos, weights):
    """``how_global`` of the map that the recipe's network gives of the same picture, reduced as the recipe would."""
    _, task, recipe = made(photos, weights, settings())
    features = load_network_features(recipe.local.model_copy(update={"scales": (1.0,)}))
    for place in (0, 1):
        picture = task.feed.pictures.picture(place, 0)
        values = features.backbone(picture[None])[0][0].numpy()
        expected = how_global([values], task.projection)
        np.testing.assert_allclose(task.embed(picture[None])[0].detach(), expected, atol=1e-5)


def test_the_reduction_is_a_whitening_of_the_networks_features_as_learning_starts(photos, weights):
    """Of numpy's covariance of all photos' features at scale 1."""
    _, task, recipe = made(photos, weights, settings())
    features = load_network_features(recipe.local.model_copy(update={"scales": (1.0,)}))
    rows = np.concatenate(
        [features.raw(read_image(path)).descriptors for path in sorted(photos.glob("*/*.png"))]
    ).astype(float)
    np.testing.assert_allclose(task.projection.mean, rows.mean(axis=0), atol=1e-4)
    whitened = (rows - task.projection.mean) @ task.projection.matrix.T
    np.testing.assert_allclose(np.cov(whitened.T), np.eye(8), atol=1e-2)


def test_a_reduction_that_the_recipe_has_is_kept(trained, photos):
    recipe, task, _, _ = trained
    (phase,) = phases(recipe, settings())
    again = phase.make(recipe, lesson_of(photos, settings()))
    assert again.projection.fingerprint == task.projection.fingerprint


def test_the_loss_falls_and_only_the_network_learns(trained):
    _, task, (before, after), start = trained
    assert after < 0.8 * before
    assert torch.equal(task.module.state_dict()["head.matrix"], start["head.matrix"])
    assert torch.equal(task.module.state_dict()["head.mean"], start["head.mean"])
    changed = {name for name, tensor in task.module.state_dict().items() if not torch.equal(tensor, start[name])}
    assert changed and all("running" not in name and "layer3" not in name and "layer4" not in name for name in changed)


def test_the_written_recipe_describes_with_what_was_learned(trained):
    recipe, task, _, _ = trained
    folder = Path(recipe.local.weights).parents[1]
    assert str(folder.parent) not in (folder / "recipe.toml").read_text()
    card = (folder / "README.md").read_text()
    assert "test_resnet, layer layer2, trained from weights with sha256" in card and "### how\n" in card
    projection = Projection.load(recipe.local.reduction)
    assert projection.fingerprint == task.projection.fingerprint and projection.kind == "pca-whitening"
    features = load_network_features(recipe.local)  # it refuses a reduction of other features
    picture = task.feed.pictures.picture(3, 0)
    values = features.backbone(picture[None])[0]
    np.testing.assert_allclose(values.numpy(), task.trunk(picture[None])[0].detach().numpy(), atol=1e-6)
    assert load_local(recipe.local, "mine").extract(read_image(marked((220, 40, 40), 5, 96))).descriptors.shape[1] == 8


@pytest.mark.slow
def test_the_trained_recipe_indexes_and_finds(trained, photos, tmp_path):
    recipe, _, _, _ = trained
    with Collection.create(tmp_path / "c", recipe) as collection:
        report = collection.add([photos], workers=1)
        assert (report.added, report.failed) == (20, 0)
        entries = list(collection.entries())
        name = {entry.id: Path(entry.origin).parent.name for entry in entries}
        first = [name[int(collection.search(entry.origin).ids[0])] == name[entry.id] for entry in entries[::4]]
        assert all(first)


def test_negatives_are_the_most_similar_of_other_objects(photos, weights):
    """Of all photos, by brute force, where the pool is all of them."""
    given = settings(miner=POOL | {"queries": 20, "pool": 20})
    _, task, _ = made(photos, weights, given)
    pictures = [task.feed.pictures.picture(place, 0)[None] for place in range(20)]
    x = np.concatenate([task.embed(picture).detach().numpy() for picture in pictures])
    labels = task.labels.numpy()
    seen = 0
    for batch in task.batches(0):
        for anchor in np.unique(batch.tuples[:, 0]):
            rows = batch.tuples[batch.tuples[:, 0] == anchor]
            place = batch.places[anchor]
            best = {n: max(x[place] @ x[other] for other in np.flatnonzero(labels == n)) for n in range(4)}
            del best[labels[place]]
            expected = sorted(best.values(), reverse=True)[:2]
            got = [x[place] @ x[batch.places[n]] for n in rows[:, 3]]
            np.testing.assert_allclose(sorted(got, reverse=True), expected, atol=1e-5)
            assert labels[batch.places[rows[0, 1]]] == labels[place] and rows[0, 1] != anchor
            seen += 1
    assert seen == 20


@pytest.mark.parametrize("fit", ["aspect", "square"])
def test_gradients_are_those_of_the_whole_batch(photos, weights, fit):
    """By the definition of the loss, with one graph of all pictures."""
    _, task, _ = made(photos, weights, settings(fit=fit, chunk=3))
    batch = task.batches(0)[0]
    logged = task.backward(batch, 0, 0, lambda loss: loss.backward())["loss"]
    got = {name: p.grad.clone() for name, p in task.module.named_parameters() if p.grad is not None}
    task.module.zero_grad()
    x = torch.cat([task.embed(task.feed.pictures.picture(int(place), 0)[None]) for place in batch.places])
    a, p, b, n = torch.from_numpy(batch.tuples).unbind(dim=1)
    a, p = torch.tensor(sorted({(int(i), int(j)) for i, j in zip(a, p, strict=True)})).T  # an anchor's positive is one
    near, far = (x[a] - x[p]).norm(dim=1), (x[b] - x[n]).norm(dim=1)
    loss = torch.cat([0.5 * near.square(), 0.5 * (0.8 - far).clamp(min=0).square()]).mean()
    loss.backward()
    assert logged == pytest.approx(float(loss.detach()), abs=1e-6)
    wanted = {name: p.grad for name, p in task.module.named_parameters() if p.grad is not None}
    assert got.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient, atol=1e-5, rtol=1e-3)


def test_the_authors_loss_and_miner_are_those_where_none_is_named():
    plain = Training()
    loss, miner = loss_stage(plain), miner_stage(plain)
    assert (loss.kind, loss.form, loss.margin) == ("siamese", "cirtorch", 0.8)
    assert (miner.kind, miner.negatives, miner.queries, miner.pool) == ("pool", 5, 2000, 20000)
    named = Training.model_validate({"loss": {"kind": "triplet"}, "miner": {"kind": "hardest"}})
    assert (loss_stage(named).kind, miner_stage(named).kind) == ("triplet", "hardest")


@pytest.mark.parametrize(
    ("loss", "miner"),
    [({"kind": "triplet", "margin": 1.0}, {"kind": "hardest"}), ({"kind": "smooth-ap"}, {"kind": "all"})],
)
def test_other_losses_learn_from_balanced_batches(photos, weights, loss, miner):
    given = settings(loss=loss, miner=miner, sampling={"classes": 3, "each": 2}, fit="square")
    _, task, _ = made(photos, weights, given)
    batch = task.batches(0)[0]
    assert batch.tuples is None and len(batch.places) == 6
    figures = task.backward(batch, 0, 0, lambda value: value.backward())
    assert np.isfinite(figures["loss"]) and any(p.grad is not None and p.grad.any() for p in task.module.parameters())


def test_what_does_not_suit_is_refused(weights, photos):
    with pytest.raises(RecipeError, match="no HOW to train"):
        phases(load_recipe("delf"), settings())
    with pytest.raises(RecipeError, match="of a whole batch"):
        phases(recipe_of(weights), settings(loss={"kind": "smooth-ap"}))
    with pytest.raises(RecipeError, match=r"does not learn by loss\.kind = quartet"):
        phases(recipe_of(weights), settings(loss={"kind": "quartet"}))
    with pytest.raises(RecipeError, match=r"learns\.layers = 'head'.*name an earlier layer"):
        made(photos, weights, settings(learns={"layers": "head"}))
    with pytest.raises(RecipeError, match=r"ask for fewer \(miner.negatives\)"):
        made(photos, weights, settings(miner=POOL | {"negatives": 4}))[1].batches(0)
