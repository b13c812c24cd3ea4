"""Several sets learned from at once: batches by counting, adapters by PCA from its definition, figures set by set."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image as PilImage
from typer.testing import CliRunner

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from resight.cli.main import app  # noqa: E402
from resight.describe.describer import Describer  # noqa: E402
from resight.errors import GroundTruthError, RecipeError  # noqa: E402
from resight.evaluation.load import load_labelled  # noqa: E402
from resight.evaluation.protocol import evaluate  # noqa: E402
from resight.learning.datasets.photos import Part, training_set  # noqa: E402
from resight.learning.datasets.several import joined  # noqa: E402
from resight.learning.log import read_log  # noqa: E402
from resight.learning.mining.batches import joint_batches  # noqa: E402
from resight.learning.mining.stages import Sampling  # noqa: E402
from resight.learning.prepare import prepare  # noqa: E402
from resight.learning.run import train  # noqa: E402
from resight.learning.settings import load_settings  # noqa: E402
from resight.projection.projection import Projection  # noqa: E402
from resight.recipes import load_recipe  # noqa: E402

pytestmark = pytest.mark.usefixtures("sketched_once")


@given(
    sizes=st.lists(st.integers(6, 9), min_size=1, max_size=4),
    classes=st.integers(2, 5),
    kind=st.sampled_from(["mixed", "alternate"]),
    epoch=st.integers(0, 3),
)
def test_each_set_gives_its_share_whatever_its_size(sizes, classes, kind, epoch):
    """Counted by hand: objects of a set in each batch, photos of an object, and over an epoch."""
    count, classes = len(sizes), classes * (1 if kind == "alternate" else len(sizes))
    classes += kind == "mixed" and count > 1
    if max(sizes) < classes and kind == "alternate":
        return
    rng = np.random.default_rng(count)
    each = [rng.integers(2, 2 + 4 * (n + 1), size) for n, size in enumerate(sizes)]  # later sets are larger
    labels = np.repeat(np.arange(sum(sizes)), np.concatenate(each))
    owner = np.repeat(np.arange(count), sizes)
    if kind == "mixed" and -(-classes // count) > min(sizes):
        return
    stage = Sampling(classes=classes, each=2, sets=kind, batches=2 * count)
    parts = [Part(str(n), size) for n, size in enumerate(sizes)]
    made = joint_batches(stage, labels, parts, epoch=epoch, seed=5)
    assert [b.tolist() for b in made] == [b.tolist() for b in joint_batches(stage, labels, parts, epoch=epoch, seed=5)]
    total = Counter()
    for batch in made:
        assert len(set(batch.tolist())) == len(batch)
        assert set(Counter(labels[batch].tolist()).values()) == {2}
        shares = Counter(owner[np.unique(labels[batch])].tolist())
        if kind == "mixed":
            assert max(shares.values()) - min(shares.values()) <= 1 and len(shares) == count
        else:
            assert list(shares.values()) == [classes]
        total.update(shares)
    assert set(total.values()) == {2 * classes}  # over as many batches as sets all give the same
    for n in range(count):
        shown = Counter(labels[np.concatenate(made)].tolist())
        own = [shown[label] for label in np.flatnonzero(owner == n)]
        assert max(own) - min(own) <= 2  # no object comes more than once more often than another of its set


def test_what_cannot_be_balanced_is_said():
    labels, parts = np.repeat(np.arange(7), 4), [Part("halls", 4), Part("goods", 3)]
    with pytest.raises(RecipeError, match=r"need two objects of each: raise sampling\.classes from 3 to 4"):
        joint_batches(Sampling(classes=3, each=2), labels, parts, epoch=0, seed=0)
    with pytest.raises(RecipeError, match="takes 4 objects of set goods, which has 3"):
        joint_batches(Sampling(classes=8, each=2), labels, parts, epoch=0, seed=0)
    assert len(joint_batches(Sampling(classes=4, each=2), labels, parts, epoch=0, seed=0)) == round(28 / 8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, pictures, view, save):
    """Two sets with objects called alike: five of three photos, and four of patterns, of four photos."""
    folder = tmp_path_factory.mktemp("sets")
    for name in ("astronaut", "chelsea", "coffee", "rocket", "brick"):
        for seed in range(3):
            seen = view(pictures[name], seed)[0][::4, ::4]
            save(folder / "halls" / f"thing-{name}" / f"{seed}.png", np.ascontiguousarray(seen))
    rng = np.random.default_rng(0)
    for number, name in enumerate(("astronaut", "chelsea", "coffee", "rocket")):
        coarse = rng.integers(0, 256, (6, 6, 3)).astype(float)
        for seed in range(4):
            mixed = np.clip(coarse + rng.normal(0, 40, coarse.shape), 0, 255).astype(np.uint8)
            path = folder / "goods" / f"thing-{name}" / f"{number}{seed}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            PilImage.fromarray(mixed).resize((80, 64)).save(path)
    return folder


CHANGES = ("sampling.classes=4", "sampling.each=2", "side=64", "epochs=2", "rate=0.001", "accelerator=cpu", "readers=1")
CHANGES += ("dimensions=4", "chunk=8")


def test_classes_called_alike_are_of_their_set_alone(folders):
    sets = {name: training_set(load_labelled(folders / name)) for name in ("halls", "goods")}
    both = joined(sets)
    assert both.parts == (Part("halls", 5), Part("goods", 4)) and len(both.photos) == 5 * 3 + 4 * 4
    for photo in both.photos:
        name, thing = photo.path.parts[-3:-1]
        assert both.classes[photo.label] == f"{name}/{thing}"
    with pytest.raises(GroundTruthError, match="is in the sets halls and again"):
        joined({"halls": sets["halls"], "again": sets["halls"]})


@pytest.fixture(scope="module")
def trained(folders, recipe, tmp_path_factory):
    into = tmp_path_factory.mktemp("trained") / "both"
    arguments = [f"{name}={folders / name}" for name in ("halls", "goods")]
    options = [part for change in CHANGES for part in ("--set", change)]
    said = CliRunner().invoke(
        app, ["train", str(recipe), *arguments, "--hold-out", "0.4", *options, "--into", str(into), "--workers", "1"]
    )
    assert said.exit_code == 0, said.stderr
    return into, said.stdout


def test_the_command_reports_set_by_set(trained, folders):
    into, said = trained
    facts = json.loads((into / "training.json").read_text())
    assert set(facts["sets"]) == {"halls", "goods"}
    rows = read_log(into / "training" / "embedding" / "log.csv")
    for row in (row for row in rows if row["part"] == "validation"):
        each = [float(row[f"mAP {name}"]) for name in ("halls", "goods")]
        assert float(row["mAP"]) == pytest.approx(np.mean(each))
    for name, own in facts["sets"].items():
        assert own["learned"]["classes"] == {"halls": 3, "goods": 2}[name]
        assert own["validation"]["queries"] == {"halls": 6, "goods": 8}[name] and name in said
    job = prepare(load_recipe(into), {n: folders / n for n in facts["sets"]}, load_settings(None, CHANGES), into, 0.4)
    for name, held_out in job.lesson.validations.items():
        when, adapter = ("after", "joint") if name == "halls" else ("own", name)
        found = evaluate(held_out, into, adapter=adapter, workers=1).figures.mean_average_precision
        assert facts["sets"][name][when]["mean_average_precision"] == pytest.approx(found, abs=1e-6)
    page = (into / "report.html").read_text()
    assert "Set by set" in page and "after, as the set" in page and "mAP goods, validation" in page
    assert "mAP of goods after, as goods" in (into / "README.md").read_text()


def test_adapters_are_whitenings_of_each_sets_photos_and_of_all(trained, folders):
    """From the definition: centre, principal axes by SVD, each over its standard deviation with the recipe's ridge."""
    into, _ = trained
    recipe = load_recipe(into)
    assert recipe.adapters.default == "joint" and set(recipe.adapters.files) == {"joint", "halls", "goods"}
    assert load_recipe(into).global_.whiten == "none"
    describer = Describer(recipe)
    settings = load_settings(None, CHANGES)
    job = prepare(recipe, {n: folders / n for n in ("halls", "goods")}, settings, into, 0.4)
    x = {
        name: np.stack([describer.describe(photo.path).global_descriptor for photo in own.photos]).astype(np.float64)
        for name, own in job.lesson.sets.items()
    }
    x["joint"] = np.concatenate([x["halls"], x["goods"]])
    for name, vectors in x.items():
        found = Projection.load(recipe.adapters.files[name])
        assert found.descriptor == describer.fingerprint and found.n == len(vectors)
        centred = vectors - vectors.mean(axis=0)
        _, spread, axes = np.linalg.svd(centred, full_matrices=False)
        variances = spread**2 / (len(vectors) - 1)
        ridge = recipe.global_.ridge * variances.sum() / vectors.shape[1]
        wanted = centred @ axes[:4].T / np.sqrt(variances[:4] + ridge)
        wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
        ours = found.transform(vectors)
        np.testing.assert_allclose(ours @ ours.T, wanted @ wanted.T, atol=2e-3)


def test_a_run_goes_on_to_the_same_and_not_with_other_sets(trained, folders, recipe, tmp_path):
    into, _ = trained
    sets = {name: folders / name for name in ("halls", "goods")}
    settings = load_settings(None, CHANGES)

    def stop(phase, done, total):
        if phase.startswith("epoch 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, sets, settings=settings, into=tmp_path / "r", validate=0.4, workers=1, progress=stop)
    other = {"halls": sets["halls"], "wares": sets["goods"]}
    with pytest.raises(RecipeError, match='begun with set = "halls, goods", not "halls, wares"'):
        train(recipe, other, settings=settings, into=tmp_path / "r", validate=0.4, workers=1, resume=True)
    train(recipe, sets, settings=settings, into=tmp_path / "r", validate=0.4, workers=1, resume=True)
    for file in ("model.safetensors", "adapter-goods.safetensors"):
        assert (tmp_path / "r" / file).read_bytes() == (into / file).read_bytes()


def test_what_several_sets_do_not_go_with_is_said(folders, recipe, tmp_path):
    sets, base = {name: folders / name for name in ("halls", "goods")}, load_recipe(recipe)
    for changes, more, said in (
        (["miner.kind=pool"], {}, "leave out miner = pool"),
        (["sampling.kind=shuffled"], {}, "balanced between them"),
        (["dimensions=20"], {}, "set halls: an adapter of 20 dimensions"),
        ([], {"validate": folders / "halls"}, "name the sets to validate on"),
        ([], {"validate": {"halls": folders / "halls"}}, "whose figures would be too good"),
    ):
        with pytest.raises((RecipeError, GroundTruthError), match=said):
            train(base, sets, settings=load_settings(None, [*CHANGES, *changes]), into=tmp_path / "x", **more)
    for name in ("joint", "none", "Halls", "a/b"):
        with pytest.raises(RecipeError, match="is no name for a set"):
            train(base, {name: folders / "halls"}, settings=load_settings(None, CHANGES), into=tmp_path / "x")
    said = CliRunner().invoke(
        app, ["train", str(recipe), f"halls={folders / 'halls'}", str(folders / "goods"), "--into", str(tmp_path / "y")]
    )
    assert said.exit_code == 2 and "has no name among several sets" in said.stderr
