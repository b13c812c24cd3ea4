"""Deep Retrieval's second step: it learns from matches of photos, and its recipe pools the regions it proposes."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import tomli_w  # noqa: E402
from lightning_fabric import Fabric  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from resight.describe.describer import Describer  # noqa: E402
from resight.describe.global_descriptor import GlobalDescriber  # noqa: E402
from resight.errors import RecipeError  # noqa: E402
from resight.evaluation.load import load_labelled  # noqa: E402
from resight.learning.datasets.photos import training_set  # noqa: E402
from resight.learning.optimisation import Optimisation  # noqa: E402
from resight.learning.run import train  # noqa: E402
from resight.learning.schemes.deep_retrieval import make_proposals, phases, shown, write_proposals  # noqa: E402
from resight.learning.settings import load_settings  # noqa: E402
from resight.learning.task import Lesson  # noqa: E402
from resight.learning.trainer import run  # noqa: E402
from resight.networks.backbone import load_backbone  # noqa: E402
from resight.networks.torchvision_ops import ensure_torchvision  # noqa: E402
from resight.networks.weights import file_sha256  # noqa: E402
from resight.projection.projection import Projection  # noqa: E402
from resight.recipes import load_recipe  # noqa: E402
from resight.regions.map_rpn import MapRpn  # noqa: E402

NETWORK, CHANNELS = "test_resnet.r160_in1k", 192


@pytest.fixture(scope="module")
def photos(pictures, save, tmp_path_factory):
    """Two photos of each of two objects, over other backgrounds."""
    root = tmp_path_factory.mktemp("planted")
    rng = np.random.default_rng(4)
    for label, name in enumerate(["coffee", "astronaut"]):
        for view, ground in enumerate(["grass", "moon"]):
            scene = cv2.resize(np.rot90(pictures[ground], label), (400, 320))
            wide = int(rng.integers(150, 210))
            left, top = int(rng.integers(0, 400 - wide)), int(rng.integers(0, 320 - wide))
            scene[top : top + wide, left : left + wide] = cv2.resize(pictures[name], (wide, wide))
            save(root / name / f"{view}.png", scene)
    return load_labelled(root)


@pytest.fixture(scope="module")
def recipe(pictures, tmp_path_factory):
    """R-MAC on the grid of a small network, projected."""
    folder = tmp_path_factory.mktemp("recipe")
    ensure_torchvision()
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = timm.create_model(NETWORK)
        for module in network.modules():  # so that random features differ from place to place
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.ones_(module.weight)
                module.momentum = None
        network.train()
        network(
            torch.from_numpy(np.stack([cv2.resize(p, (160, 160)) for p in pictures.values()])).permute(0, 3, 1, 2) / 255
        )
        save_file(network.state_dict(), folder / "w.safetensors")
    stage = {"network": NETWORK, "layer": "layer3", "max_side": 256, "weights": "w.safetensors", "pooling": "mac"}
    stage |= {"scheme": {"kind": "grid", "levels": 2}, "whiten": "regions", "dimensions": 8}
    table = {"name": "small", "title": "Small", "source": "A test", "filter": "global", "image": {"max_side": 256}}
    (folder / "recipe.toml").write_text(tomli_w.dumps({**table, "global": stage}))
    unfitted = load_recipe(folder).global_
    (descriptor,) = GlobalDescriber(unfitted, None).raw_fingerprints
    rng = np.random.default_rng(0)
    mean, matrix = rng.normal(0, 0.01, CHANNELS), rng.normal(size=(8, CHANNELS))
    values = {"mean": mean.astype(np.float32), "matrix": matrix.astype(np.float32)}
    Projection(**values, kind="pca-whitening", n=9, fitted_on="chance", descriptor=descriptor).save(folder / "p.st")
    (folder / "recipe.toml").write_text(tomli_w.dumps({**table, "global": {**stage, "whitening": "p.st"}}))
    return load_recipe(folder)


@pytest.fixture(scope="module")
def lesson(photos):
    settings = load_settings("deep-retrieval", batch=4, side=256, budget=64, learns={}, sampling={"each": 2})
    return Lesson(training_set(photos), photos, settings)


@pytest.fixture(scope="module")
def trained(recipe, lesson, tmp_path_factory):
    """The task after a short training, and its figures before and after."""
    task = make_proposals(recipe, lesson)
    published, task.scheme = task.scheme, task.scheme.model_copy(update={"top": 1})  # of 32 some fit untrained
    before = task.validate()
    settings = Optimisation(epochs=18, rate=6e-4, schedule="constant", accelerator="cpu", validate_every=18)
    folder = tmp_path_factory.mktemp("run")
    run(task, settings, folder, Fabric(accelerator="cpu", devices=1), identity={})
    after, task.scheme = task.validate(), published
    return task, before, after, folder


def test_proposals_learn_where_matches_say_the_object_is(trained):
    _, before, after, folder = trained
    rows = (folder / "log.csv").read_text().splitlines()
    header = rows[0].split(",")
    losses = [dict(zip(header, row.split(","), strict=True))["loss"] for row in rows[1:] if ",train," in row]
    assert float(np.mean([float(x) for x in losses[-4:]])) < 0.6 * float(losses[0])
    assert set(after) == {"overlap", "recall"} and after["overlap"] > before["overlap"] + 0.1, (before, after)
    assert after["recall"] >= 0.75, (before, after)


def test_an_epochs_batches_are_the_photos_with_boxes_by_seed_and_epoch(trained):
    task, *_ = trained
    flat = [np.concatenate([batch.places for batch in task.batches(epoch)]).tolist() for epoch in (0, 0, 1, 2, 3)]
    assert all(sorted(each) == sorted(task.boxed.boxes) for each in flat)
    assert flat[0] == flat[1] and len({tuple(each) for each in flat}) > 1


def test_gradients_are_those_of_the_mean_over_photos(trained, recipe, lesson):
    task, *_ = trained
    batch = task.batches(0)[0]
    task.module.zero_grad()
    figures = task.backward(batch, 0, 7, lambda loss: loss.backward())
    found = [p.grad.clone() for p in task.module.parameters()]
    task.module.zero_grad()
    total = torch.zeros(())
    for place in batch.places.tolist():
        x, picture, boxes = task._example(task.boxed, place, 0)
        seed = int(np.random.SeedSequence([0, 0, 7, place]).generate_state(1)[0])
        total = total + sum(task.rpn.losses(x, picture, boxes, seed).values())
    (total / len(batch.places)).backward()
    assert figures["loss"] == pytest.approx(total.item() / len(batch.places), rel=1e-5)
    for one, parameter in zip(found, task.module.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad, rtol=1e-4, atol=1e-7)


def test_the_written_recipe_pools_the_proposed_regions(trained, recipe, lesson, photos, tmp_path):
    task, *_ = trained
    write_proposals(task, recipe, lesson, tmp_path / "made")
    (tmp_path / "made").rename(tmp_path / "moved")
    written = load_recipe(tmp_path / "moved")
    stage = written.global_
    assert stage.scheme.kind == "map-rpn" and stage.scheme.top == 32
    describer = Describer(written)
    path = photos.locate(photos.database[0])
    found = describer.describe(path).global_descriptor
    # By hand: the map, the whole of it and the proposals, each channel's maximum, projected, summed.
    image = describer.read(path, None)[0].pixels
    (picture,) = describer.network.prepare(image)[0].pictures
    backbone = load_backbone(NETWORK, layers=["layer3"], weights=stage.weights)
    (x,) = backbone(torch.from_numpy(picture).permute(2, 0, 1)[None])
    high, wide = picture.shape[:2]
    boxes, _ = MapRpn.load(tmp_path / "moved" / "proposals.safetensors").propose(x, (wide, high), top=32, overlap=0.7)
    projection = Projection.load(stage.whitening)
    total = np.zeros(8)
    for x1, y1, x2, y2 in [(0, 0, wide, high), *boxes.tolist()]:
        columns, rows = x.shape[3] / wide, x.shape[2] / high
        left, upper = int(x1 * columns), int(y1 * rows)
        right, lower = max(left + 1, int(np.ceil(x2 * columns))), max(upper + 1, int(np.ceil(y2 * rows)))
        vector = x[0, :, upper:lower, left:right].amax(dim=(1, 2)).double().numpy()
        projected = projection.matrix @ (vector / np.linalg.norm(vector) - projection.mean)
        total += projected / np.linalg.norm(projected)
    np.testing.assert_allclose(found, total / np.linalg.norm(total), atol=1e-5)
    grid = Describer(recipe).describe(path).global_descriptor
    assert found @ grid < 0.9999 and describer.fingerprint != Describer(recipe).fingerprint


def test_other_weights_of_the_proposals_are_another_descriptor(trained, recipe, lesson, tmp_path):
    task, *_ = trained
    write_proposals(task, recipe, lesson, tmp_path)
    before = Describer(load_recipe(tmp_path)).network.raw_fingerprints
    MapRpn(CHANNELS, seed=9).save(tmp_path / "proposals.safetensors")
    stage = load_recipe(tmp_path).global_.model_copy(update={"whitening": ""})
    assert GlobalDescriber(stage, None).raw_fingerprints != before


@pytest.mark.slow
def test_both_steps_in_one_training(recipe, photos, tmp_path):
    changes = ["epochs=2", "learns.projection=8", "miner.queries=4", "miner.pool=4", "miner.negatives=1"]
    settings = load_settings("deep-retrieval", changes, side=160, accelerator="cpu", chunk=2)
    settings = settings.model_copy(update={"sampling": settings.sampling.model_copy(update={"classes": 2, "each": 2})})
    made = train(recipe, photos, settings=settings, into=tmp_path / "made")
    written = load_recipe(made)
    assert written.global_.scheme.kind == "map-rpn" and set(written.trained) >= {"on", "settings", "proposals"}
    base = file_sha256(recipe.global_.weights)
    card = (made / "README.md").read_text()
    assert f"trained from weights with sha256 `{base}`" in card and "### proposals\n" in card
    first = load_recipe(made / "training" / "embedding" / "recipe").global_
    assert first.scheme.kind == "grid"
    one, other = (Projection.load(stage.whitening) for stage in (first, written.global_))
    np.testing.assert_array_equal(one.matrix, other.matrix)
    found = Describer(written).describe(photos.locate(photos.database[0])).global_descriptor
    assert found.shape == (8,) and np.linalg.norm(found) == pytest.approx(1, abs=1e-5)


def test_what_cannot_be_trained_is_said(recipe, lesson, photos, pictures, save, tmp_path):
    stage = recipe.global_
    whole = recipe.model_copy(update={"global_": stage.model_copy(update={"scheme": type(stage)(network="x").scheme})})
    with pytest.raises(RecipeError, match="pools regions of a rigid grid"):
        phases(whole, lesson.settings)
    for name, views in (("a", ("grass", "moon")), ("b", ("brick", "rocket"))):
        for view in views:
            save(tmp_path / name / f"{view}.png", pictures[view])
    unlike = training_set(load_labelled(tmp_path))
    with pytest.raises(RecipeError, match="no two photos of one object match"):
        make_proposals(recipe, replace(lesson, photos=unlike, validation=None))
    proposals = stage.model_copy(update={"whitening": ""}).model_dump()
    proposals["scheme"] = {"kind": "map-rpn"}
    with pytest.raises(RecipeError, match="proposes regions by a network that has to be trained"):
        GlobalDescriber(type(stage).model_validate(proposals), None)
    MapRpn(5).save(tmp_path / "other.safetensors")
    proposals["scheme"] = {"kind": "map-rpn", "model": str(tmp_path / "other.safetensors")}
    with pytest.raises(RecipeError, match=r"was trained on 5 channels, layer layer3 has 192"):
        GlobalDescriber(type(stage).model_validate(proposals), None)


def test_validation_photos_are_those_of_known_objects(photos):
    found = shown(photos)
    assert sorted(photo.path for photo in found) == sorted(photos.locate(path) for path in photos.database)
    assert len({photo.label for photo in found}) == 2
