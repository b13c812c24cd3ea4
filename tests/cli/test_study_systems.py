"""`resight study depth | regions | training-set | progress`, on real pictures with a small random network."""

import json
import xml.etree.ElementTree as ET
from importlib import resources

import cv2
import numpy as np
import pytest
import tomli_w
from typer.testing import CliRunner

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402

from resight.cli.main import app  # noqa: E402
from resight.networks.architectures import create_network  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """weights.safetensors, fitted/recipe.toml that names them, and `set` with three things of two views."""
    folder = tmp_path_factory.mktemp("study")
    torch.manual_seed(0)
    safetensors.torch.save_file(create_network("resnet10t").state_dict(), folder / "weights.safetensors")
    stage = {"network": "resnet10t", "layer": "layer1", "max_side": 64, "whiten": "none", "dimensions": 64}
    recipe = {"name": "tiny", "title": "", "source": "", "filter": "global"}
    recipe["global"] = {**stage, "weights": "../weights.safetensors"}
    (folder / "fitted").mkdir()
    (folder / "fitted/recipe.toml").write_text(tomli_w.dumps(recipe))
    rng = np.random.default_rng(0)
    for name in (f"{thing}/{view}" for thing in ("crest", "jug", "vase") for view in (1, 2)):
        file = folder / f"set/{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), cv2.resize(rng.integers(0, 255, (9, 12, 3), np.uint8), (64, 48)))
    return folder


@pytest.fixture
def study(tmp_path):
    def run(*arguments):
        return CliRunner().invoke(app, ["study", *map(str, arguments), "--into", str(tmp_path / "out")])

    return run


def written(tmp_path):
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {"table.md", "results.csv", "results.json", "plot.svg"}
    assert ET.parse(out / "plot.svg").getroot().tag.endswith("svg")
    return json.loads((out / "results.json").read_text())


def test_depth(study, folder, tmp_path):
    weights = folder / "weights.safetensors"
    networks = ("--network", f"resnet10t@layer1={weights}", "--network", f"resnet10t@layer4={weights}")
    result = study("depth", folder / "set", *networks, "--max-side", 64, "-q")
    assert result.exit_code == 0, result.stderr
    assert [line.split(" | ")[0::2][:2] for line in result.stdout.splitlines()[2:]] == [
        *(["| resnet10t-layer1-weights", "64"], ["| resnet10t-layer4-weights", "512"])
    ]
    assert written(tmp_path)["study"] == "depth"


def test_regions(study, folder, tmp_path):
    result = study("regions", folder / "set", "--recipe", folder / "fitted", "--levels", 2, "-q")
    assert result.exit_code == 0, result.stderr
    assert [line.split(" | ")[0] for line in result.stdout.splitlines()[2:]] == [
        "| whole image",
        "| 1 level",
        "| 2 levels",
    ]
    assert "regions an image, set" in written(tmp_path)["protocol"]


def test_training_set(study, folder, tmp_path):
    recipe = f"noise={folder / 'fitted'}"
    options = ("--recipe", recipe, "--stage", "expansion:k=1,alpha=0", "-q", "--workers", 1)
    result = study("training-set", folder / "set", *options)
    assert result.exit_code == 0, result.stderr
    assert [line.split(" | ")[:2] for line in result.stdout.splitlines()[2:]] == [
        *(["| noise", "none"], ["| noise", "expansion:k=1,alpha=0"])
    ]
    assert written(tmp_path)["study"] == "training-set"


def test_progress(study, folder, tmp_path):
    result = study("progress", "--published", "survey")
    assert result.exit_code == 0, result.stderr
    assert "| Oxford5k | 2014 | neural-codes | 43.3 | published |" in result.stdout
    lines = resources.files("resight.evaluation").joinpath("published.csv").read_text("utf-8").splitlines()
    assert len(written(tmp_path)["results"]) == sum(not line.startswith("#") for line in lines) - 1
    for arguments, message in (
        (("progress", "--year", "tiny"), "should be RECIPE=YEAR"),
        (("progress", folder / "set"), "is not an empty folder"),
    ):
        result = study(*arguments)
        assert result.exit_code == 2 and message in result.stderr, result.stderr
