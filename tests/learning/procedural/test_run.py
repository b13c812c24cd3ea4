"""`resight train --procedural`: a recipe from nothing, which indexes and searches; what it leaves; what it refuses."""

import json
import shlex
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from typer.testing import CliRunner

torch = pytest.importorskip("torch")

import resight as rs  # noqa: E402
from resight.cli.main import app  # noqa: E402
from resight.learning.procedural.prepare import ProceduralJob  # noqa: E402
from resight.learning.procedural.training import ProceduralTraining, load_procedural_settings  # noqa: E402
from resight.networks.compact import load_compact  # noqa: E402

NETWORK = "test_resnet.r160_in1k"
SETTINGS = {
    "epochs": 1,
    "steps": 2,
    "subjects": 3,
    "side": 64,
    "precision": "32-true",
    "accelerator": "cpu",
    "renderers": 0,
    "held_out": 2,
    "validation_side": 64,
    "local": {"points": 16},
    "teaching": {"network": NETWORK, "dimensions": 4, "fitted_on": 4, "pictures": 4},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory, pictures, view, save):
    """Settings, and a set of two objects in two views each."""
    place = tmp_path_factory.mktemp("procedural")
    (place / "s.toml").write_text(tomli_w.dumps(SETTINGS))
    for name in ("astronaut", "coffee"):
        for seed in range(2):
            pixels = np.ascontiguousarray(view(pictures[name], seed)[0][::3, ::3])
            save(place / "set" / name / f"{seed}.png", pixels)
    return place


def train(place, into, *options):
    given = ["train", "--procedural", "--settings", place / "s.toml", "--into", into, "--quiet", "--workers", 1]
    return CliRunner().invoke(app, list(map(str, [*given, *options])))


@pytest.fixture(scope="module")
def done(place, tmp_path_factory, weights_of):
    """The folder of a training with a teacher and a set to validate on."""
    into = tmp_path_factory.mktemp("done") / "out"
    result = train(place, into, "--teacher", weights_of(NETWORK), "--validate", place / "set", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["into"] == str(into)
    return into


def test_it_leaves_a_recipe_that_searches(done, place, tmp_path):
    recipe = rs.load_recipe(done)
    assert recipe.name == "compact" and recipe.trained["seed"] == 0
    with rs.Collection.create(tmp_path / "c", recipe) as collection:
        collection.add([place / "set"], workers=1)
        ranking = collection.search(place / "set/coffee/0.png", top=4)
        assert collection.entry(int(ranking.ids[0])).origin.endswith("coffee/0.png") and len(ranking) == 4


def test_it_says_what_it_learned_from(done, weights_of):
    facts = json.loads((done / "training.json").read_text())
    assert facts["set"] == facts["set"] | {"photos": 12, "classes": 6}
    assert facts["seed"] == 0 and facts["seconds"] > 0 and facts["machine"]["cpus"] >= 1
    assert "--teacher w.safetensors --validate set" in facts["command"] and "--set local.points=16" in facts["command"]
    assert 0 < facts["after"]["mean_average_precision"] <= 1
    card, page = (done / "README.md").read_text(), (done / "report.html").read_text()
    assert "from no photograph" in card and NETWORK in card and "mAP after" in card
    assert "mAP, validation" in page and "descriptors" in page
    stored = load_compact(done / "model.safetensors")
    assert all(x.isfinite().all() for x in stored.state_dict().values())
    assert (done / "model.safetensors").stat().st_size < 20e6


@pytest.mark.slow
def test_the_command_of_the_facts_does_it_again(done, place, tmp_path, weights_of):
    command = json.loads((done / "training.json").read_text())["command"]
    given = shlex.split(command)[1:]
    for name, path in (("w.safetensors", weights_of(NETWORK)), ("set", place / "set"), ("FOLDER", tmp_path / "out")):
        given[given.index(name)] = str(path)
    assert CliRunner().invoke(app, [*given, "--quiet", "--workers", "1"]).exit_code == 0
    assert (tmp_path / "out/model.safetensors").read_bytes() == (done / "model.safetensors").read_bytes()


def test_the_command_holds_settings_of_any_sort():
    chosen = ProceduralTraining.model_validate(
        {"initial": "my files/é.safetensors", "rendering": {"filled": (0.3, 0.9)}, "growth": 0.0, "rate": 1e-12}
    )
    words = shlex.split(ProceduralJob(chosen, Path("/a/my teacher.pth"), None, {}, Path("f"), False).command)
    assert words[words.index("--teacher") + 1] == "my teacher.pth"
    assert load_procedural_settings(None, [b for a, b in pairwise(words) if a == "--set"]) == chosen


def test_without_a_teacher_it_says_so_and_goes_on_from_weights(done, place, tmp_path):
    options = ["--set", f"initial={done / 'model.safetensors'}", "--set", "rate=1e-12", "--set", "warm_up=0"]
    result = train(place, tmp_path / "out", *options)
    assert result.exit_code == 0 and "of rendered pairs held out 0." in result.output
    assert "No other network took part" in (tmp_path / "out/README.md").read_text()
    a, b = (load_compact(folder / "model.safetensors").stem.conv.weight for folder in (done, tmp_path / "out"))
    torch.testing.assert_close(a, b)
    before = (tmp_path / "out/training.json").read_bytes()
    assert train(place, tmp_path / "out", *options, "--resume").exit_code == 0
    assert (tmp_path / "out/training.json").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["rootsift-asmk"], "leave out RECIPE"),
        (["--weights", "x.safetensors"], "initial="),
        (["--teacher", "none.safetensors"], "no weights file"),
        (["--set", "initial=none.safetensors"], "no such weights file"),
        (["--set", "local.point=3"], "local.point"),
        (["--batch", "4"], "batch"),
    ],
)
def test_what_it_refuses(place, tmp_path, options, said):
    result = train(place, tmp_path / "out", *options)
    assert result.exit_code == 2 and said in result.output
    assert not (tmp_path / "out").exists()


def test_a_teacher_and_no_recipe_are_of_procedural():
    for options, said in ((["rootsift-asmk", "--teacher", "x"], "--procedural"), ([], "name the RECIPE")):
        result = CliRunner().invoke(app, ["train", *options, "--into", "out"])
        assert result.exit_code == 2 and said in result.output
