"""From a folder of photos without labels to a recipe that indexes and searches, by each method."""

import functools
import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

from resight.errors import GroundTruthError, RecipeError  # noqa: E402
from resight.learning.datasets.augment import NONE  # noqa: E402
from resight.learning.datasets.pictures import Pictures  # noqa: E402
from resight.learning.log import read_log  # noqa: E402
from resight.learning.mining.stages import PoolStage  # noqa: E402
from resight.learning.run import FACTS  # noqa: E402
from resight.learning.task import Batch  # noqa: E402
from resight.learning.unlabelled import run as running  # noqa: E402
from resight.learning.unlabelled.mined import Labelling, Targets, load_mined, mine, save_mined  # noqa: E402
from resight.learning.unlabelled.photos import unlabelled_photos  # noqa: E402
from resight.learning.unlabelled.pools import Pools  # noqa: E402
from resight.learning.unlabelled.run import make, prepare_unlabelled  # noqa: E402
from resight.learning.unlabelled.settings import load_unlabelled_settings  # noqa: E402
from resight.recipes import load_recipe  # noqa: E402
from resight.search.collection import Collection  # noqa: E402

LEARNED, TESTED = ("astronaut", "chelsea", "coffee", "rocket"), ("brick", "moon")
NETWORK = "test_resnet.r160_in1k"
SMALL = {
    "side": 64,
    "chunk": 8,
    "epochs": 2,
    "rate": 0.002,
    "accelerator": "cpu",
    "sampling": {"classes": 2, "each": 3},
    "readers": 1,
}
SMALL_GRAPH = ["unlabelled.graph=3", "unlabelled.k=6"]
METHODS = {
    "mom": ["unlabelled.graph=6", "unlabelled.k=4", "unlabelled.anchors=0"],
    "diffusion": [*SMALL_GRAPH, "unlabelled.positives=2", "unlabelled.near=3"],
    "rdp": [*SMALL_GRAPH, "unlabelled.positives=2", "unlabelled.near=3", "unlabelled.every=1"],
    "geodesic": [*SMALL_GRAPH, "unlabelled.positives=2", "unlabelled.near=3"],
    "kmeans": ["unlabelled.clusters=4"],
    "dbscan": ["unlabelled.distance=0.3", "unlabelled.least=2"],
    "knn-mean": ["unlabelled.k=2"],
    "verified": ["unlabelled.candidates=6", "unlabelled.inliers=8"],
    "sift": ["unlabelled.positives=4", "unlabelled.near=6", "unlabelled.k=8"],
    "gan": ["unlabelled.graph=5", "unlabelled.k=8", "unlabelled.lead=2"],
    "autoencoder": ["unlabelled.side=16", "unlabelled.channels=32"],
}
train = functools.partial(running.train_unlabelled, workers=1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, pictures, view, save):
    """Views of four things in one folder, without order; and a labelled set of two others."""
    folder = tmp_path_factory.mktemp("photos")
    for number, name in enumerate(LEARNED):
        for seed in range(5):
            seen, _ = view(pictures[name], seed)
            save(folder / "all" / f"{(7 * number + 3 * seed) % 20:02}-{seed}.png", np.ascontiguousarray(seen[::2, ::2]))
    for name in TESTED:
        for seed in range(3):
            seen, _ = view(pictures[name], seed)
            save(folder / "tested" / name / f"{seed}.png", np.ascontiguousarray(seen[::3, ::3]))
    return folder / "all", folder / "tested"


def settings(kind="mom", changes=(), **given):
    return load_unlabelled_settings(None, [*METHODS.get(kind, ()), *changes], mining=kind, **(SMALL | given))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, folders, recipe):
    into = tmp_path_factory.mktemp("trained") / "recipe"
    assert train(recipe, [folders[0]], settings=settings(), into=into, validate=folders[1]) == into
    return into


def test_the_recipe_indexes_and_searches(trained, folders, tmp_path):
    with Collection.create(tmp_path / "c", load_recipe(trained)) as collection:
        collection.add([folders[1]], workers=1)
        ranking = collection.search(folders[1] / "moon" / "0.png")
        assert collection.entry(int(ranking.ids[0])).origin.endswith("moon/0.png")
    before, after = load_recipe(trained).global_.weights, trained / "model.safetensors"
    assert before == str(after)


def test_it_says_what_it_did(trained, folders):
    facts = json.loads((trained / FACTS).read_text())
    assert facts["set"]["photos"] == 20 and facts["set"]["classes"] == 0 and facts["mined by"] == "mom"
    assert facts["validation"]["queries"] == 6 and facts["settings"]["unlabelled"]["kind"] == "mom"
    for when in ("before", "after"):
        assert 0 < facts[when]["mean_average_precision"] <= 1
    card = load_recipe(trained).trained
    assert card["on"] == "all" and card["photos"] == 20 and "classes" not in card and card["mined by"] == "mom"
    assert "mined by | mom" in (trained / "README.md").read_text()
    assert not (trained / "training" / "unlabelled" / "mined").exists()
    rows = read_log(trained / "training" / "unlabelled" / "log.csv")
    assert sum(row["part"] == "validation" for row in rows) == 3


def test_it_has_learned(trained, weights_of):
    before, after = load_file(weights_of(NETWORK)), load_file(trained / "model.safetensors")
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.fixture(scope="module")
def task(folders, recipe, tmp_path_factory, sketched_once):
    """Makes a task of a method."""

    def made(kind, changes=(), folder=None, **given):
        job = prepare_unlabelled(load_recipe(recipe), [folders[0]], settings(kind, changes, **given), folder)
        return make(job.recipe, job.lesson, folder or tmp_path_factory.mktemp("run"))

    return made


QUICK = ("mom", "kmeans", "knn-mean", "sift", "gan", "autoencoder")
KINDS = [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in METHODS]


@pytest.mark.parametrize("kind", KINDS)
def test_each_method_gives_gradients_of_what_it_mined(task, kind):
    learning = task(kind)
    batches = learning.batches(0)
    assert batches and all(b.places.max() < 20 for b in batches)
    assert (batches[0].tuples is not None) == (kind not in ("kmeans", "dbscan", "knn-mean", "autoencoder"))
    figures = learning.backward(batches[0], 0, 0, lambda loss: loss.backward())
    assert np.isfinite(figures["loss"])
    gradients = [p.grad for p in learning.model.parameters() if p.grad is not None]
    leads = kind == "gan"  # its judge alone learns in the first steps
    assert figures["loss"] == 0 or (sum(float(g.abs().sum()) for g in gradients) > 0) != leads
    if kind not in ("mom", "kmeans", "autoencoder"):
        return
    again = task(kind).batches(0)
    assert [(b.places.tolist(), str(b.tuples)) for b in again] == [(b.places.tolist(), str(b.tuples)) for b in batches]


def test_an_autoencoder_is_to_make_the_photos_as_they_are(task):
    learning = task("autoencoder")
    assert learning.settings.augment != NONE
    places = np.array([7, 2, 2, 11])
    learning.backward(Batch(places), 1, 0, lambda loss: loss.backward())
    plain = Pictures(learning.photos.photos, side=16)
    for place, wanted in zip(places.tolist(), learning.loss.pictures, strict=True):
        assert torch.equal(wanted, plain.picture(place, 0))


def test_photos_are_mined_anew_without_the_frozen_beginning(task, tmp_path, monkeypatch):
    how = {"learns": {"layers": "layer4"}, "views": 1, "views_dtype": "float32"}
    learning, anew = task("kmeans", folder=tmp_path, **how), task("kmeans", **how)
    learning.keep_in(tmp_path)
    everything = np.arange(20)
    np.testing.assert_allclose(learning._describe(everything), anew._describe(everything), atol=1e-5)
    batches = learning.batches(0)
    learning.backward(batches[0], 0, 0, lambda loss: loss.backward())
    monkeypatch.setattr(learning.model, "prefix", None)  # nothing is left to ask it for
    with torch.no_grad():
        for parameters in (learning.model.parameters(), anew.model.parameters()):
            for parameter in parameters:
                if parameter.requires_grad:
                    parameter.mul_(1.1)
    np.testing.assert_allclose(learning._describe(everything[::-1]), anew._describe(everything[::-1]), atol=1e-5)
    assert learning.batches(1)


def test_the_loss_of_neighbours_means_is_their_distance(task):
    learning = task("knn-mean", augment=NONE.model_dump())
    places = np.array([3, 11, 17])
    x = learning._describe(np.arange(20))
    cosines = x @ x.T
    np.fill_diagonal(cosines, -2)
    expected = [np.sum((x[n] - x[np.argsort(-cosines[n])[:2]].mean(axis=0)) ** 2) for n in places]
    learning.batches(0)
    batch = learning._batches(learning._known(0), 0)[0]
    figures = learning.backward(replace(batch, places=places), 0, 0, lambda loss: loss.backward())
    assert figures["loss"] == pytest.approx(np.mean(expected), rel=1e-4)


def test_what_was_mined_is_what_processes_and_later_epochs_learn_from(task, tmp_path):
    first = task("kmeans", ["unlabelled.every=2"], tmp_path)
    first.batches(0)
    other = task("kmeans", ["unlabelled.every=2"], tmp_path)  # as in a process that has mined nothing
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    np.testing.assert_array_equal(other._known(1).labels, first._known(0).labels)
    assert [b.places.tolist() for b in other.batches(1)] == [b.places.tolist() for b in first.batches(1)]
    other.batches(2)
    assert [file.name for file in (tmp_path / "mined").iterdir()] == ["000002.safetensors"]
    with pytest.raises(RecipeError, match="what was mined is missing"):
        task("mom").batches(1)


def test_a_clusters_number_is_kept_when_clusters_are_made_anew(task, tmp_path):
    learning = task("kmeans", folder=tmp_path)
    learning.batches(0)
    before = learning._known(0).labels
    assert len(set(before.tolist())) == 4
    learning.batches(1)  # by the same weights, with the same seed
    np.testing.assert_array_equal(learning._known(1).labels, before)


@pytest.mark.parametrize(
    "loss",
    ["arcface", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("cross-entropy", "smooth-ap", "triplet"))],
)
def test_clusters_are_classes_of_any_loss(task, loss):
    learning = task("kmeans", loss={"kind": loss})
    batch = learning.batches(0)[0]
    figures = learning.backward(batch, 0, 0, lambda value: value.backward())
    assert np.isfinite(figures["loss"]) and len(learning._labels) == 20


@pytest.mark.slow
@pytest.mark.parametrize("kind", METHODS)
def test_each_method_trains_to_the_end(kind, folders, recipe, tmp_path):
    into = train(recipe, [folders[0]], settings=settings(kind), into=tmp_path / "r", validate=folders[1])
    facts = json.loads((into / FACTS).read_text())
    assert facts["mined by"] == kind and facts["after"]["mean_average_precision"] > 0


@pytest.mark.slow
def test_an_interrupted_training_goes_on_to_the_same_weights(trained, folders, recipe, tmp_path, monkeypatch):
    def stop(phase, done, total):
        if phase == "epoch 2 of 2":
            raise KeyboardInterrupt

    into = tmp_path / "r"
    with pytest.raises(KeyboardInterrupt):
        train(recipe, [folders[0]], settings=settings(), into=into, validate=folders[1], progress=stop)
    assert not (into / FACTS).exists()
    with pytest.raises(RecipeError, match=r"begun with unlabelled.k = 4, not 3"):
        other = settings(changes=["unlabelled.k=3"])
        train(recipe, [folders[0]], settings=other, into=into, validate=folders[1], resume=True)
    train(recipe, [folders[0]], settings=settings(), into=into, validate=folders[1], resume=True)
    whole, again = load_file(trained / "model.safetensors"), load_file(into / "model.safetensors")
    assert all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sift", "gan", "autoencoder"])
def test_methods_with_parts_of_their_own_go_on_to_the_same_weights(kind, folders, recipe, tmp_path):
    """A decoder, a judge and the network as it was are there again, and none of them is in the recipe."""

    def stop(phase, done, total):
        if phase == "epoch 2 of 2" and done == 1:
            raise KeyboardInterrupt

    how = {"settings": settings(kind), "validate": folders[1]}
    whole = train(recipe, [folders[0]], into=tmp_path / "whole", **how)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, [folders[0]], into=tmp_path / "broken", progress=stop, **how)
    again = train(recipe, [folders[0]], into=tmp_path / "broken", resume=True, **how)
    expected, found = load_file(whole / "model.safetensors"), load_file(again / "model.safetensors")
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.slow
def test_two_processes_learn_from_one_mining(folders, recipe, tmp_path):
    two = settings("kmeans", devices=2)
    into = train(recipe, [folders[0]], settings=two, into=tmp_path / "r", validate=folders[1])
    assert json.loads((into / FACTS).read_text())["phases"]["unlabelled"]["steps"] > 0


def test_images_that_are_validated_on_are_not_learned_from(folders, recipe, tmp_path):
    both = [folders[0], folders[1]]
    job = prepare_unlabelled(load_recipe(recipe), both, settings(), tmp_path, folders[1])
    assert len(job.lesson.photos.photos) == 20
    assert job.lesson.photos.selection == "without 6 images that are validated on"
    assert len(unlabelled_photos(both).photos) == 26
    revisions = {unlabelled_photos(which).revision for which in (both, [folders[0]], [folders[1]], both)}
    assert len(revisions) == 3


def test_bad_photos_are_said_or_left_out(folders, recipe, tmp_path):
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes((next(folders[0].iterdir())).read_bytes() + bytes([number]))
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    prepare = functools.partial(prepare_unlabelled, load_recipe(recipe), [tmp_path])
    with pytest.raises(GroundTruthError, match=r"1 of 6 photos cannot be read[\s\S]*broken.jpg"):
        prepare(settings(), tmp_path)
    job = prepare(settings(unreadable="skip"), tmp_path)
    assert len(job.lesson.photos.photos) == 5 and "without 1 unreadable" in job.lesson.photos.selection
    assert job.lesson.photos.labels.tolist() == list(range(5))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(GroundTruthError, match="0 photos teach nothing"):
        prepare_unlabelled(load_recipe(recipe), [empty], settings(), tmp_path)


def test_what_does_not_do_is_said_before_anything_is_learned(folders, recipe, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(RecipeError, match=r"is not an empty folder"):
        train(recipe, [folders[0]], settings=settings(), into=tmp_path / "full")
    with pytest.raises(RecipeError, match=r"has no \[global\] table"):
        train("rootsift-bow", [folders[0]], settings=settings(), into=tmp_path / "r")


@pytest.mark.parametrize(
    "mined",
    [
        Pools(np.array([3, 5]), (np.array([1, 2]), np.array([4])), (np.array([7]), np.array([8, 9, 1]))),
        Labelling(np.array([0, -1, 1])),
        Targets(np.ones((3, 2), np.float32)),
    ],
)
def test_what_was_mined_is_kept_whole(mined, tmp_path):
    save_mined(tmp_path / "m.safetensors", mined)
    loaded = load_mined(tmp_path / "m.safetensors")
    assert type(loaded) is type(mined)
    for name, value in vars(mined).items():
        for a, b in zip(value, vars(loaded)[name], strict=True):
            np.testing.assert_array_equal(a, b)


def test_descriptors_that_are_not_finite_are_not_mined(tmp_path):
    with pytest.raises(RecipeError, match="not finite"):
        mine(settings().unlabelled, np.full((9, 4), np.nan, np.float32), [], tmp_path, epoch=0, seed=0)


def test_the_pool_is_of_labels():
    with pytest.raises(RecipeError, match="leave it out"):
        load_unlabelled_settings(None, METHODS["dbscan"], mining="dbscan", miner=PoolStage(kind="pool").model_dump())


def test_pairs_of_colmap_models_are_learned_from(task, folders, tmp_path):
    """Two models of the folder's photos, in COLMAP's text, whose photos all see the same ten points."""
    names = sorted(file.name for file in folders[0].iterdir())
    groups = {"0": names[:5], "1": names[5:9]}
    for model, members in groups.items():
        (tmp_path / "sparse" / model).mkdir(parents=True)
        (tmp_path / "sparse" / model / "cameras.txt").write_text("1 PINHOLE 160 120 200 200 80 60\n")
        seen = " ".join(f"1 2 {point}" for point in range(10))
        lines = [f"{n} 1 0 0 0 {n} 0 10 1 {name}\n{seen}" for n, name in enumerate(members)]
        (tmp_path / "sparse" / model / "images.txt").write_text("\n".join(lines) + "\n")
        points = [f"{point} {point} 0 0 1 2 3 0.1" for point in range(10)]
        (tmp_path / "sparse" / model / "points3D.txt").write_text("\n".join(points) + "\n")
    learning = task("colmap", [f'unlabelled.model="{tmp_path / "sparse"}"', "unlabelled.points=10"])
    batches = learning.batches(0)
    pools = learning._known(0)
    assert [names[n] for n in pools.anchors] == names[:9]
    for anchor, positives, negatives in zip(pools.anchors, pools.positives, pools.negatives, strict=True):
        own, other = (range(5), range(5, 9)) if anchor < 5 else (range(5, 9), range(5))
        assert set(positives.tolist()) == set(own) - {anchor}
        assert len(negatives) == 1 and negatives[0] in other
    assert np.isfinite(learning.backward(batches[0], 0, 0, lambda loss: loss.backward())["loss"])
    learning.batches(1)  # negatives by the network as it is, of pairs that were read once
    assert [file.name for file in (learning.mined_in).iterdir()] == ["000001.safetensors"]
