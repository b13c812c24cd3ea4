"""Patches under known warps against the warps themselves, AP against its definition, and a training that helps."""

import csv
import types

import cv2
import numpy as np
import pytest
import tomli_w

torch = pytest.importorskip("torch")
pytest.importorskip("lightning_fabric")

from small_recipes import labelled_copy  # noqa: E402

import resight.learning.datasets.warped_patches as module  # noqa: E402
from resight.errors import RecipeError  # noqa: E402
from resight.learning.datasets.photos import Photo  # noqa: E402
from resight.learning.datasets.warped_patches import follow, warped_patches  # noqa: E402
from resight.learning.run import train  # noqa: E402
from resight.learning.schemes import SCHEMES, scheme_of  # noqa: E402
from resight.learning.schemes.patches import PatchTask, patch_map  # noqa: E402
from resight.learning.settings import load_settings  # noqa: E402
from resight.learning.task import Lesson  # noqa: E402
from resight.local.doap import DoapFeatures  # noqa: E402
from resight.local.patch_network import AffNet, OriNet  # noqa: E402
from resight.recipes import load_recipe  # noqa: E402
from resight.search.collection import Collection  # noqa: E402


def test_a_map_is_followed_to_first_order():
    rng = np.random.default_rng(0)
    h = np.array([[0.8, -0.3, 20], [0.2, 1.1, -5], [4e-4, -7e-4, 1]])
    xy = rng.uniform(0, 200, (20, 2))
    moved, jacobian = follow(h, xy)
    np.testing.assert_allclose(moved, cv2.perspectiveTransform(xy[None], h)[0])
    step = 1e-4
    for axis in range(2):
        ahead, behind = (follow(h, xy + sign * step * np.eye(2)[axis])[0] for sign in (1, -1))
        np.testing.assert_allclose(jacobian[:, :, axis], (ahead - behind) / (2 * step), rtol=1e-6)


def smooth_picture():
    noise = np.random.default_rng(1).uniform(0, 255, (30, 40)).astype(np.float32)
    return np.clip(cv2.resize(noise, (320, 240), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


def points(count=60):
    rng = np.random.default_rng(2)
    xy = rng.uniform((10, 10), (310, 230), (count, 2))
    return xy, rng.uniform(8, 14, (count, 1, 1)) * np.eye(2) + rng.normal(scale=1, size=(count, 2, 2))


def correlation(a, b):
    a, b = (x.reshape(len(x), -1) - x.reshape(len(x), -1).mean(axis=1, keepdims=True) for x in (a, b))
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_views_of_a_point_show_the_same(monkeypatch):
    """Without a detector's errors and in the same light they are equal, but for what the warp interpolates."""
    for name in ("_SLIP", "_TWIST", "_GROW"):
        monkeypatch.setattr(module, name, 0.0)
    monkeypatch.setattr(module, "_in_other_light", lambda grey, rng: grey)
    made = warped_patches(smooth_picture(), points(), 40, 4, 32, np.random.default_rng(3))
    assert made.shape[1:] == (4, 32, 32) and 25 <= len(made) <= 40
    for view in range(1, 4):
        assert np.median(correlation(made[:, 0], made[:, view])) > 0.99
        assert np.median(correlation(made[:, 0], np.roll(made[:, view], 1, axis=0))) < 0.5
    again = warped_patches(smooth_picture(), points(), 40, 4, 32, np.random.default_rng(3))
    np.testing.assert_array_equal(made, again)


def test_points_that_leave_the_photo_in_some_view_are_left_out(monkeypatch):
    shift = np.array([[1.0, 0, 100], [0, 1, -50], [0, 0, 1]])
    monkeypatch.setattr(module, "_map", lambda width, height, rng: shift)
    xy, frames = points(200)
    stay = int(((xy[:, 0] + 100 <= 319) & (xy[:, 1] - 50 >= 0)).sum())
    made = warped_patches(smooth_picture(), (xy, frames), 200, 2, 8, np.random.default_rng(3))
    assert 50 < stay < 150 and len(made) == stay


def test_other_light_makes_another_brightness(monkeypatch):
    for name in ("_SLIP", "_TWIST", "_GROW"):
        monkeypatch.setattr(module, name, 0.0)
    made = warped_patches(smooth_picture(), points(), 40, 4, 32, np.random.default_rng(3)).mean(axis=(2, 3))
    assert (np.abs(np.median(made[:, 1:] - made[:, :1], axis=0)) > 5).any()


def test_a_detector_s_errors_and_light_change_them_a_little():
    made = warped_patches(smooth_picture(), points(), 40, 3, 32, np.random.default_rng(3))
    like = correlation(made[:, 0], made[:, 1])
    assert 0.6 < np.median(like) < 0.99
    none = warped_patches(smooth_picture(), (np.empty((0, 2)), np.empty((0, 2, 2))), 9, 3, 32, np.random.default_rng(3))
    assert none.shape == (0, 3, 32, 32)


def test_patch_map_is_its_definition():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(7, 4, 6)).astype(np.float32)
    x /= np.linalg.norm(x, axis=2, keepdims=True)
    found = []
    for p in range(7):
        others = sorted((-float(x[p, 0] @ x[q, v]), q, v) for q in range(7) for v in range(1, 4))
        right = [rank for rank, (_, q, _) in enumerate(others, 1) if q == p]
        found.append(sum(place / rank for place, rank in enumerate(right, 1)) / 3)
    assert patch_map(x) == pytest.approx(np.mean(found))


@pytest.fixture
def recipe(tmp_path):
    torch.manual_seed(0)
    (tmp_path / "weights").mkdir()
    for name, network in (("AffNet", AffNet()), ("OriNet", OriNet())):
        torch.save({"state_dict": network.state_dict()}, tmp_path / f"weights/{name}.pth")
    table = load_recipe("doap").model_dump(by_alias=True, exclude_none=True)
    table["local"] |= {"weights": "weights", "max_features": 40, "dimensions": 32}
    (tmp_path / "my.toml").write_text(tomli_w.dumps(table))
    return tmp_path / "my.toml"


@pytest.mark.parametrize("binary", [False, True])
def test_steps_lower_the_loss_and_are_repeatable(binary, recipe, photos):
    stage = load_recipe(recipe).local.model_copy(update={"binary": binary})
    files = sorted(photos.glob("*.png"))[:1]
    shown = types.SimpleNamespace(photos=[Photo(path, 0) for path in files])
    lesson = Lesson(shown, None, load_settings("doap", ["sampling.classes=16", "sampling.each=3", "side=200"]))
    losses = []
    for _ in range(2):
        task = PatchTask(lesson, stage)
        optimiser = torch.optim.SGD([p for group in task.groups() for p in group["params"]], lr=0.05, momentum=0.9)
        seen = []
        for step in range(5):
            optimiser.zero_grad()
            (batch,) = task.batches(0)
            seen.append(task.backward(batch, 0, step, lambda loss: loss.backward())["loss"])
            optimiser.step()
        losses.append(seen)
    assert losses[0] == losses[1] and losses[0][-1] < 0.8 * losses[0][0]


def test_photos_without_texture_teach_nothing_and_break_nothing(recipe, save, tmp_path):
    blank = save(tmp_path / "blank.png", np.full((90, 120, 3), 90, np.uint8))
    shown = types.SimpleNamespace(photos=[Photo(blank, 0)])
    task = PatchTask(Lesson(shown, None, load_settings("doap", ["sampling.each=3"])), load_recipe(recipe).local)
    before = {name: value.clone() for name, value in task.module.state_dict().items()}
    (batch,) = task.batches(0)
    assert task.backward(batch, 0, 0, lambda loss: loss.backward()) == {"loss": 0.0}
    assert all(p.grad is not None and not p.grad.any() for p in task.describe.parameters())
    assert all(torch.equal(value, before[name]) for name, value in task.module.state_dict().items())


@pytest.mark.slow
def test_training_ranks_patches_better_and_leaves_a_recipe(recipe, photos, tmp_path):
    views = labelled_copy(photos, tmp_path / "views")
    small = ["sampling.classes=32", "sampling.each=3", "accelerator=cpu", "side=200", "rate=0.05"]
    settings = load_settings("doap", small, epochs=3)
    written = train(recipe, views, settings=settings, into=tmp_path / "out", validate=0.25, workers=1)
    rows = list(csv.DictReader((written / "training/patches/log.csv").open()))
    maps, losses = ([float(row[key]) for row in rows if row.get(key)] for key in ("patch mAP", "loss"))
    assert max(maps) > maps[0] and losses[-1] < losses[0]
    learned = load_recipe(written)
    assert (written / "local/weights/DOAP.safetensors").is_file() and learned.local.weights_sha256
    assert "L2-Net for patches, 32 numbers, trained from random weights." in (written / "README.md").read_text()
    assert DoapFeatures(learned.local.weights, dimension=32)
    with Collection.create(tmp_path / "c", learned) as collection:
        collection.add([views], workers=1)
        entry = next(iter(collection.entries()))
        assert collection.search(entry.id).ids[0] == entry.id


def test_what_does_not_suit_is_refused(recipe):
    mine = load_recipe(recipe)
    assert scheme_of(mine, load_settings()) == "patches"
    for given, changes, said in (
        (load_recipe("rootsift-asmk"), {}, "has no DOAP to train"),
        (mine, {"loss": {"kind": "triplet"}}, "learns by average precision, not by triplet"),
        (mine, {"views": 2}, "trained without views"),
        (mine, {"devices": 2}, "on one device, not 2"),
        (mine, {"augment": {"blur": 0.5}, "dimensions": 64}, "trained without augment, dimensions"),
    ):
        with pytest.raises(RecipeError, match=said):
            SCHEMES["patches"](given, load_settings("doap", **changes))
    (phase,) = SCHEMES["patches"](load_recipe("doap"), load_settings("doap"))
    with pytest.raises(RecipeError, match=r"name a folder with AffNet\.pth and OriNet\.pth as weights of \[local\]"):
        phase.make(load_recipe("doap"), Lesson(types.SimpleNamespace(photos=[]), None, load_settings("doap")))
