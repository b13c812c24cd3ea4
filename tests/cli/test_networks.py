"""`resight networks`: names by pattern, and what a network's layers are."""

import json

import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")

from resight.cli.main import app


def run(*arguments):
    return CliRunner().invoke(app, ["networks", *arguments])


def test_list_begins_with_the_survey_in_its_order():
    result = run("list")
    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines()]
    names = [row[0] for row in rows]
    assert len(names) == len(set(names)) > 1000
    assert rows[0] == ["alexnet", "AlexNet"]
    first = [next(i for i, row in enumerate(rows) if row[1:] == [family]) for family in ("VGG", "ResNet", "ViT")]
    assert first == sorted(first)
    unlabelled = [i for i, row in enumerate(rows) if len(row) == 1]
    assert unlabelled == list(range(unlabelled[0], len(rows)))


def test_list_by_part_of_a_name_and_by_pattern():
    assert run("list", "vgg1?").stdout.split() == ["vgg11", "VGG", "vgg13", "VGG", "vgg16", "VGG", "vgg19", "VGG"]
    assert "vit_small_patch14_reg4_dinov2" in run("list", "reg4_dino").stdout
    result = run("list", "no-such-thing")
    assert result.exit_code == 2
    assert "no network matches 'no-such-thing'" in result.stderr


def test_show():
    result = run("show", "test_vit3")
    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["parameters", "0.8", "million"] in rows
    assert ["block.2", "map", "96", "16", "blocks.2"] in rows
    assert ["pooled", "vector", "96", "-", "forward_head"] in rows


def test_show_as_json():
    facts = json.loads(run("show", "alexnet", "--json").stdout)
    assert facts["parameters"] == 61_100_840  # torchvision's published num_params
    assert facts["mean"] == [0.485, 0.456, 0.406]
    assert (facts["multiple"], facts["least"]) == (1, 63)
    assert facts["weights"].startswith("https://download.pytorch.org/models/alexnet")
    fc6 = {"name": "fc6", "module": "classifier.2", "kind": "map", "channels": 4096, "stride": 32}
    assert fc6 in facts["layers"]


def test_show_an_unknown_network():
    result = run("show", "resnet5o")
    assert result.exit_code == 2
    assert "there is no network 'resnet5o'; did you mean resnet50" in result.stderr
