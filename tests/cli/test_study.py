"""`resight study`: what is written, printed and refused, with a tiny network of random weights."""

import json
import xml.etree.ElementTree as ET

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
    """weights.safetensors; recipe.toml; `set` with two things of two views; `other` with 36 pictures."""
    folder = tmp_path_factory.mktemp("study")
    torch.manual_seed(0)
    safetensors.torch.save_file(create_network("resnet10t").state_dict(), folder / "weights.safetensors")
    stage = {"network": "resnet10t", "layer": "layer1", "max_side": 64}
    recipe = {"name": "tiny", "title": "", "source": "", "filter": "global", "global": stage}
    (folder / "recipe.toml").write_text(tomli_w.dumps(recipe))
    rng = np.random.default_rng(0)
    for name in ("set/crest/1", "set/crest/2", "set/vase/1", "set/vase/2", *(f"other/{i}" for i in range(36))):
        file = folder / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), cv2.resize(rng.integers(0, 255, (9, 12, 3), np.uint8), (64, 48)))
    return folder


@pytest.fixture
def study(folder, tmp_path):
    """Runs `resight study KIND set` with the recipe and weights of `folder`, into `tmp_path`/out."""

    def run(kind, *more, recipe="recipe.toml", labelled="set"):
        arguments = ["study", kind, folder / labelled, "--recipe", folder / recipe, "--into", tmp_path / "out", *more]
        if recipe == "recipe.toml":
            arguments += ["--weights", folder / "weights.safetensors"]
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


def test_layers_are_written_and_printed(study, tmp_path):
    result = study("layers")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("| layer | projection | dimensions | set |\n| --- |")
    assert "| layer4 | none | 512 | " in result.stdout
    assert (tmp_path / "out/table.md").read_text().endswith(result.stdout)
    assert ET.parse(tmp_path / "out/plot.svg").getroot().tag.endswith("svg")
    facts = json.loads((tmp_path / "out/results.json").read_text())
    assert facts["study"] == "layers" and len(facts["results"]) == 6
    assert facts["protocol"]["sets"]["set"]["database"] == 4
    again = study("layers")  # what has been written is not overwritten
    assert again.exit_code == 2 and "is not an empty folder; choose another --into" in again.stderr


def test_pooling_without_and_with_photos(study, folder, tmp_path):
    assert "| gem | none | 64 | " in study("pooling").stdout
    more = ("--fit", folder / "other", "--sample", 10, "--into", tmp_path / "more")
    result = study("pooling", *more)
    assert "| sba | pca-whitening | 9 | " in result.stdout, result.stderr
    assert "10 photos of" in (tmp_path / "more/table.md").read_text()


def test_dimensions(study, folder):
    result = study("dimensions", "--fit", folder / "other", "--quiet")
    assert result.exit_code == 0 and result.stderr == ""
    assert [line.split(" | ")[1:3] for line in result.stdout.splitlines()[2:]] == [
        ["none", "64"],
        ["pca", "32"],
        ["pca-whitening", "32"],
    ]


def test_what_is_refused(study, folder, tmp_path):
    for arguments, message in (
        ({"kind": "dimensions", "more": ("--fit", folder / "set")}, "32 dimensions are learned from more than 32"),
        ({"kind": "layers", "labelled": "other"}, "move it into one"),
        ({"kind": "layers", "labelled": "nowhere"}, "no such folder"),
        ({"kind": "layers", "recipe": "none.toml"}, "none.toml"),
    ):
        more = arguments.pop("more", ())
        result = study(arguments.pop("kind"), *more, **arguments)
        assert result.exit_code == 2 and message in result.stderr, result.stderr
    plain = ["study", "layers", str(folder / "set"), "--into", str(tmp_path / "out")]
    result = CliRunner().invoke(app, plain, env={"RESIGHT_RECIPE": ""})
    assert result.exit_code == 2 and "rootsift-asmk has no [global] table" in result.stderr
    assert not (tmp_path / "out").exists()
