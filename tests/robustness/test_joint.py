"""Specialised and merged networks: losses by hand, and a study whose figures are those of the recipes it leaves."""

import csv
import json

import numpy as np
import pytest
import tomli_w
from typer.testing import CliRunner

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

from resight.cli.main import app  # noqa: E402
from resight.errors import GroundTruthError, RecipeError  # noqa: E402
from resight.evaluation.load import load_labelled  # noqa: E402
from resight.evaluation.protocol import evaluate  # noqa: E402
from resight.learning.datasets.photos import split_by_object  # noqa: E402
from resight.learning.settings import load_settings  # noqa: E402
from resight.networks.architectures import create_network  # noqa: E402
from resight.recipes import load_recipe  # noqa: E402
from resight.robustness.joint import JointResult, JointStudy, with_losses  # noqa: E402
from resight.robustness.study_joint import _with_others, study_joint  # noqa: E402

pytestmark = pytest.mark.usefixtures("sketched_once")


def test_losses_are_against_the_network_of_the_set_alone():
    value = {("halls", "halls"): 0.9, ("halls", "goods"): 0.3, ("goods", "halls"): 0.5, ("goods", "goods"): 0.7}
    value |= {("all sets", "halls"): 0.85, ("all sets", "goods"): 0.75}
    found = with_losses([JointResult(n, "x", False, s, v, None) for (n, s), v in value.items()])
    losses = {(r.network, r.set): r.loss for r in found}
    assert losses["halls", "halls"] is losses["goods", "goods"] is None
    assert losses["halls", "goods"] == pytest.approx(0.4) and losses["goods", "halls"] == pytest.approx(0.4)
    assert losses["all sets", "goods"] == pytest.approx(-0.05)
    table = JointStudy({"warnings": ()}, found).table()
    assert "| halls alone | 90.0 | 30.0 (−40.0) | 60.0 |" in table
    assert "| all sets | 85.0 (−5.0) | 75.0 (+5.0) | 80.0 |" in table


CHANGES = ("sampling.classes=4", "sampling.each=2", "side=32", "epochs=1", "rate=0.001", "accelerator=cpu")
CHANGES += ("dimensions=3", "readers=1", "singletons=drop")


@pytest.fixture(scope="module")
def sets(tmp_path_factory, pictures, view, save):
    """Two sets of six things of two photos, which differ by their colours, and a tiny recipe."""
    folder = tmp_path_factory.mktemp("sets")
    for name, channels in (("halls", (0, 1, 2)), ("goods", (2, 0, 1))):
        for thing in ("astronaut", "chelsea", "coffee", "rocket", "brick", "moon"):
            for seed in range(2):
                seen = view(pictures[thing], seed)[0][::5, ::5][:, :, channels]
                save(folder / name / thing / f"{seed}.png", np.ascontiguousarray(seen))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        safetensors.save_file(create_network("test_resnet.r160_in1k").state_dict(), folder / "w.safetensors")
    stage = {"network": "test_resnet.r160_in1k", "weights": str(folder / "w.safetensors"), "scales": [1.0]}
    stage |= {"pooling": "gem", "max_side": 32, "dimensions": 96, "whiten": "none"}
    table = {"name": "tiny", "title": "Tiny", "source": "-", "filter": "global", "image": {"max_side": 64}}
    (folder / "tiny.toml").write_text(tomli_w.dumps({**table, "global": stage}))
    return folder


@pytest.fixture(scope="module")
def studied(sets, tmp_path_factory):
    into = tmp_path_factory.mktemp("study") / "into"
    named = [f"{name}={sets / name}" for name in ("halls", "goods")]
    options = [part for change in CHANGES for part in ("--set", change)]
    arguments = [
        "study",
        "joint",
        *named,
        "--hold-out",
        "0.34",
        "--recipe",
        str(sets / "tiny.toml"),
        *options,
        "--workers",
        "1",
        "--quiet",
    ]
    said = CliRunner().invoke(app, [*arguments, "--into", str(into)])
    assert said.exit_code == 0, said.stderr
    return into, arguments, said.stdout


def test_the_figures_are_of_the_recipes_that_are_left(studied, sets):
    into, _, said = studied
    with (into / "results.csv").open() as file:
        rows = {(r["network"], r["adapter"], r["set"]): r for r in csv.DictReader(file)}
    both = {(n, a) for n in ("untrained", "all sets") for a in ("joint", "halls", "goods")}
    assert {key[:2] for key in rows} == both | {("halls", "halls"), ("goods", "goods")} and len(rows) == 12
    for (_, adapter, name), row in rows.items():
        assert (row["chosen"] == "True") == (adapter == name and row["network"] != name)
    for network, adapter, name in (("halls", "halls", "goods"), ("all sets", "goods", "goods")):
        _, test = split_by_object(load_labelled(sets / name), 0.34, 0)
        found = evaluate(test, into / "runs" / network.replace(" ", "-"), adapter=adapter, workers=1)
        wanted = found.figures.mean_average_precision
        assert float(rows[network, adapter, name]["mean_average_precision"]) == pytest.approx(wanted, abs=1e-9)
    for name in ("table.md", "results.json", "plot.svg", "report.html"):
        assert (into / name).is_file()
    assert "all sets, searched as the set" in said and "halls alone" in said
    begun = safetensors.load_file(sets / "w.safetensors")
    left = {
        n: safetensors.load_file(into / "runs" / n / "model.safetensors") for n in ("untrained", "halls", "all-sets")
    }
    assert all(torch.equal(left["untrained"][key], value) for key, value in begun.items())
    assert not all(torch.equal(left["halls"][key], left["all-sets"][key]) for key in begun)
    facts = json.loads((into / "runs" / "all-sets" / "training.json").read_text())
    assert facts["sets"]["goods"]["learned"]["classes"] == 4 and facts["sets"]["goods"]["after"] is None


def test_a_collection_of_all_sets_has_each_photo_once(sets):
    halls, goods = (load_labelled(sets / name) for name in ("halls", "goods"))
    found = _with_others("goods", {"halls": halls, "goods": goods})
    photos = sorted(path for name in ("halls", "goods") for path in (sets / name).rglob("*.png"))
    assert sorted(found.locate(path) for path in found.database) == photos and found.distractors == 12
    assert found.queries == goods.queries and found.own == goods.database


@pytest.mark.slow
def test_it_goes_on_to_the_same_and_searches_all_photos_together(studied, sets):
    into, arguments, _ = studied
    before = (into / "results.csv").read_text()
    weights = (into / "runs" / "halls" / "model.safetensors").stat().st_mtime_ns
    said = CliRunner().invoke(app, [*arguments, "--into", str(into), "--together", "--resume"])
    assert said.exit_code == 0, said.stderr
    facts = json.loads((into / "results.json").read_text())
    assert facts["protocol"]["set halls"].endswith("4 queries of 8 photos") and "one collection" in said.stdout + str(
        facts
    )
    assert (into / "runs" / "halls" / "model.safetensors").stat().st_mtime_ns == weights
    after = {r["set"] + r["network"] + r["adapter"]: r["mean_average_precision"] for r in facts["results"]}
    for row in csv.DictReader(before.splitlines()):  # more photos to be wrong about
        assert after[row["set"] + row["network"] + row["adapter"]] <= float(row["mean_average_precision"]) + 1e-9


def test_errors_come_before_anything_is_learned(sets, tmp_path):
    recipe, settings = load_recipe(sets / "tiny.toml"), load_settings(None, CHANGES)
    halls = load_labelled(sets / "halls")
    with pytest.raises(GroundTruthError, match="seen in two or more"):
        study_joint({"halls": halls}, recipe, settings, tmp_path / "a")
    with pytest.raises(GroundTruthError, match="is in the sets halls and again"):
        study_joint({"halls": halls, "again": halls}, recipe, settings, tmp_path / "b")
    with pytest.raises(RecipeError, match="takes 4 objects of set halls, which has 3"):
        study_joint({"halls": halls, "goods": load_labelled(sets / "goods")}, recipe, settings, tmp_path / "b")
    few = load_settings(None, [*CHANGES, "dimensions=8"])
    with pytest.raises(RecipeError, match="an adapter of 8 dimensions"):
        study_joint({"halls": halls, "goods": load_labelled(sets / "goods")}, recipe, few, tmp_path / "c", share=0.34)
    assert not list(tmp_path.iterdir())
    said = CliRunner().invoke(app, ["study", "joint", str(sets / "halls"), "--into", str(tmp_path / "d")])
    assert said.exit_code == 2 and "NAME=SET" in said.stderr
