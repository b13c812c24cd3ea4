"""From a labelled folder to a recipe that indexes and searches; what is wrong is said before anything is learned."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

from resight.describe.describer import Describer  # noqa: E402
from resight.errors import GroundTruthError, RecipeError  # noqa: E402
from resight.evaluation.load import load_labelled  # noqa: E402
from resight.evaluation.protocol import evaluate  # noqa: E402
from resight.learning import run as running  # noqa: E402
from resight.learning.log import read_log  # noqa: E402
from resight.learning.prepare import prepare  # noqa: E402
from resight.learning.settings import load_settings  # noqa: E402
from resight.learning.validate import Validation  # noqa: E402
from resight.recipes import load_recipe  # noqa: E402
from resight.search.collection import Collection  # noqa: E402

OBJECTS = ("astronaut", "chelsea", "coffee", "rocket", "brick", "moon")
NETWORK = "test_resnet.r160_in1k"
SMALL = {
    "side": 64,
    "chunk": 6,
    "epochs": 2,
    "rate": 0.002,
    "accelerator": "cpu",
    "sampling": {"classes": 2, "each": 3},
    "checkpoint_every": 1,
    "readers": 1,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pictures, view, save):
    """Six objects of three views each."""
    folder = tmp_path_factory.mktemp("objects")
    for name in OBJECTS:
        for seed in range(3):
            seen, _ = view(pictures[name], seed)
            save(folder / name / f"{seed}.png", np.ascontiguousarray(seen[::3, ::3]))
    return folder


FACTS, train = running.FACTS, functools.partial(running.train, workers=1)


def settings(**changes):
    return load_settings(None, **(SMALL | changes))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, folder, recipe):
    """A training with a third of the objects held out."""
    into = tmp_path_factory.mktemp("trained") / "recipe"
    heard = []
    done = train(recipe, folder, settings=settings(), into=into, validate=0.34, progress=lambda *s: heard.append(s))
    assert done == into
    return into, heard


def facts_of(into):
    return json.loads((into / FACTS).read_text())


def test_the_recipe_indexes_and_searches(trained, folder, tmp_path):
    into, _ = trained
    with Collection.create(tmp_path / "c", load_recipe(into)) as collection:
        collection.add([folder], workers=1)
        ranking = collection.search(folder / "astronaut" / "0.png")
        assert collection.entry(int(ranking.ids[0])).origin.endswith("astronaut/0.png")
    moved = tmp_path / "moved"
    shutil.copytree(into, moved, ignore=shutil.ignore_patterns("training"))
    assert load_recipe(moved).fingerprint == load_recipe(into).fingerprint  # nothing it needs lies elsewhere
    assert load_recipe(moved).global_.weights == str(moved / "model.safetensors")


def test_it_says_what_it_did(trained, folder, recipe):
    into, heard = trained
    facts = facts_of(into)
    assert facts["scheme"] == "embedding" and facts["set"]["classes"] == 4 and facts["set"]["photos"] == 12
    assert facts["validation"]["queries"] == 6 and "2 of 6 objects held out" in facts["validation"]["selection"]
    outcome = facts["phases"]["embedding"]
    assert outcome["epochs"] == 2 and outcome["steps"] == len(heard_steps(heard)) == 4
    card = load_recipe(into).trained
    assert card["on"] == folder.name and card["classes"] == 4
    assert card["figures"]["mAP after"] == facts["after"]["mean_average_precision"]
    assert f"{card['figures']['mAP after']:.4f}" in (into / "README.md").read_text()
    assert {phase for phase, _, _ in heard} >= {"epoch 1 of 2", "epoch 2 of 2", "before: searching", "after: searching"}
    page = (into / "report.html").read_text()
    assert page.count("<svg") == 4 and "<script" not in page and "http-equiv" in page
    assert "Highest average precision" in page or "Lowest average precision" in page


def heard_steps(heard):
    return [said for said in heard if said[0].startswith("epoch")]


def test_figures_are_those_of_evaluate_on_what_is_held_out(trained, folder, recipe):
    into, _ = trained
    job = prepare(load_recipe(recipe), folder, settings(), into, 0.34)
    held_out = job.lesson.validation
    for when, which in (("before", recipe), ("after", into)):
        report = evaluate(held_out, load_recipe(which), workers=1)
        assert facts_of(into)[when]["mean_average_precision"] == report.figures.mean_average_precision
    learned = {photo.path for photo in job.lesson.photos.photos}
    assert not learned & {held_out.locate(path) for path in held_out.database}


def test_the_best_validation_is_what_is_written(trained, folder, recipe):
    """The written recipe's own network, validated as the run was, gives the best figure of the log."""
    from resight.learning.schemes.embedding import make

    into, _ = trained
    job = prepare(load_recipe(recipe), folder, settings(), into, 0.34)
    task = make(load_recipe(into), job.lesson)
    rows = [row for row in read_log(into / "training" / "embedding" / "log.csv") if row["part"] == "validation"]
    best = max(float(row["mAP"]) for row in rows[1:])
    assert facts_of(into)["phases"]["embedding"]["best"] == best
    assert task.validate()["mAP"] == pytest.approx(best, abs=1e-6)
    assert [type(one) for one in task._validations.values()] == [Validation]


def test_it_changes_nothing_it_was_given(trained, recipe, weights_of):
    before = load_file(weights_of(NETWORK))
    after = load_file(trained[0] / "model.safetensors")
    assert before.keys() == after.keys()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert any(name.endswith("weight") for name in changed)
    assert not any("running" in name for name in changed)  # normalisation keeps its statistics


def test_done_is_done_and_a_folder_is_not_overwritten(trained, folder, recipe):
    into, _ = trained
    before = (into / FACTS).stat().st_mtime_ns
    assert train(recipe, folder, settings=settings(), into=into, validate=0.34, resume=True) == into
    assert (into / FACTS).stat().st_mtime_ns == before
    with pytest.raises(RecipeError, match=r"is not an empty folder; .* --resume"):
        train(recipe, folder, settings=settings(), into=into)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [3, 6])
def test_a_killed_training_goes_on_to_the_same_weights_bit_for_bit(trained, folder, recipe, tmp_path, rows):
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from resight.learning.run import train\n"
        "from resight.learning.settings import load_settings\n"
        "import json\n"
        "wait = lambda phase, done, total: time.sleep(0.3)\n"
        "train(sys.argv[1], sys.argv[2], settings=load_settings(None, **json.loads(sys.argv[4])),\n"
        "      into=Path(sys.argv[3]), validate=0.34, workers=1, progress=wait)\n"
    )
    into = tmp_path / "recipe"
    source = os.pathsep.join([str(Path(__file__).parents[2] / "src"), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(recipe), str(folder), str(into), json.dumps(SMALL)],
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    log = into / "training" / "embedding" / "log.csv"
    deadline = time.monotonic() + 120
    while len(read_log(log)) < rows:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert process.returncode == -signal.SIGKILL and not (into / "recipe.toml").exists()
    with pytest.raises(RecipeError, match=r"begun with epochs = 2, not 3"):
        train(recipe, folder, settings=settings(epochs=3), into=into, validate=0.34, resume=True)
    train(recipe, folder, settings=settings(), into=into, validate=0.34, resume=True)
    whole, again = load_file(trained[0] / "model.safetensors"), load_file(into / "model.safetensors")
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert log.read_bytes() == (trained[0] / "training" / "embedding" / "log.csv").read_bytes()
    assert facts_of(into) == facts_of(trained[0])


def test_views_that_are_kept_learn_the_same(folder, recipe, tmp_path):
    """With as many views as epochs, what is kept is what would be computed anew."""
    changes = {"learns": {"layers": "layer4"}, "loss": {"kind": "triplet", "margin": 1.0}}
    anew, kept = tmp_path / "anew", tmp_path / "kept"
    train(recipe, folder, settings=settings(**changes), into=anew)
    train(recipe, folder, settings=settings(**changes, views=2, views_dtype="float32"), into=kept)
    a, b = (read_log(into / "training" / "embedding" / "log.csv") for into in (anew, kept))
    for one, other in zip(a, b, strict=True):
        assert float(one["loss"]) == pytest.approx(float(other["loss"]), rel=1e-3, abs=1e-5)
    assert not list(kept.rglob("views.npy"))
    assert facts_of(kept)["after"] is None and "Nothing was held out" in (kept / "report.html").read_text()


@pytest.mark.parametrize("how", ["learned", *(pytest.param(how, marks=pytest.mark.slow) for how in ("pca", "none"))])
def test_it_is_whitened_by_what_it_learned_from(folder, recipe, tmp_path, how):
    whitens = load_recipe(recipe)
    stage = whitens.global_.model_copy(update={"whiten": "image"})
    whitens = whitens.model_copy(update={"global_": stage})
    chosen = settings(whitening=how, dimensions=0 if how == "none" else 5, epochs=1)
    into = train(whitens, folder, settings=chosen, into=tmp_path / "recipe", validate=0.34)
    describer = Describer(load_recipe(into)).network
    kinds = {"pca": "pca-whitening", "learned": "learned-whitening"}
    assert [fitted.kind for fitted in describer.whitenings] == ([kinds[how]] if how in kinds else [])
    assert len(describer.describe(np.zeros((64, 64, 3), np.uint8))) == (5 if how in kinds else 96)
    if how in kinds:
        with pytest.raises(RecipeError, match="a whitening of 96 dimensions is learned from more photos"):
            train(whitens, folder, settings=settings(whitening=how), into=tmp_path / "more")


@pytest.mark.slow
def test_two_processes_train_to_what_one_does(trained, folder, recipe, tmp_path):
    heard = []
    into = train(
        recipe,
        folder,
        settings=settings(devices=2),
        into=tmp_path / "two",
        validate=0.34,
        progress=lambda *s: heard.append(s),
    )
    assert len(heard_steps(heard)) == 4
    one, two = load_file(trained[0] / "model.safetensors"), load_file(into / "model.safetensors")
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=2e-3, rtol=1e-2)


def spoiled(folder, tmp_path, change):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    change(copy)
    return copy


def test_photos_that_do_not_do_are_named_before_anything_is_learned(folder, recipe, tmp_path):
    into = tmp_path / "into"
    one = spoiled(folder, tmp_path / "1", lambda f: [(f / "coffee" / f"{n}.png").unlink() for n in (1, 2)])
    with pytest.raises(GroundTruthError, match=r"class coffee has one photo, .*singletons"):
        train(recipe, one, settings=settings(), into=into)
    broken = spoiled(folder, tmp_path / "2", lambda f: (f / "moon" / "1.png").write_bytes(b"\x89PNG no"))
    with pytest.raises(GroundTruthError, match=r"1 of 18 photos cannot be read(.|\n)*moon/1\.png"):
        train(recipe, broken, settings=settings(), into=into)
    with pytest.raises(GroundTruthError, match="to learn from and in the one to validate on"):
        train(recipe, folder, settings=settings(), into=into, validate=folder)
    with pytest.raises(GroundTruthError, match="the share of objects to hold out"):
        train(recipe, folder, settings=settings(), into=into, validate=1.5)
    with pytest.raises(RecipeError, match="a batch of 9 classes cannot be made of 6"):
        train(recipe, folder, settings=settings(sampling={"classes": 9, "each": 2}), into=into)
    assert not list(tmp_path.glob("into/**/*.safetensors"))


def test_recipes_that_do_not_do_are_refused(folder, recipe, tmp_path):
    for match, name, changes in (
        ("nothing that learns from labels", "rootsift-asmk", {}),
        ("no scheme is called 'magic'; choose one of auto, embedding", recipe, {"scheme": "magic"}),
        ("whitening = pca, but the recipe has whiten = none", recipe, {"whitening": "pca"}),
        ("whitening = pca, but a projection", recipe, {"whitening": "pca", "learns": {"projection": 4}}),
        ("cannot learn from layer 'nowhere'", recipe, {"learns": {"layers": "nowhere"}}),
    ):
        with pytest.raises(RecipeError, match=match):
            train(name, folder, settings=settings(**changes), into=tmp_path / "into")
    with pytest.raises(RecipeError, match="there is no weights file"):
        train(recipe, folder, settings=settings(), into=tmp_path / "into", weights=tmp_path / "w.safetensors")


def test_unreadable_photos_can_be_left_out(folder, recipe, tmp_path):
    broken = spoiled(folder, tmp_path, lambda f: (f / "moon" / "1.png").write_bytes(b"\x89PNG no"))
    job = prepare(load_recipe(recipe), broken, settings(unreadable="skip"), tmp_path, None)
    assert len(job.lesson.photos.photos) == 17 and "without 1 unreadable" in job.lesson.photos.selection
    for seed in range(20):  # whichever side the broken one is on
        job = prepare(load_recipe(recipe), broken, settings(unreadable="skip", seed=seed), tmp_path, 0.34)
        held = job.lesson.validation
        assert held is not None and "moon/1.png" not in held.database
    assert load_labelled(broken).database != held.database
