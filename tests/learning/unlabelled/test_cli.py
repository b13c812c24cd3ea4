"""`resight train --unlabelled`: a thin command over `train_unlabelled`."""

import json

import numpy as np
import pytest
import tomli_w
from typer.testing import CliRunner

torch = pytest.importorskip("torch")

from resight.cli.main import app  # noqa: E402
from resight.recipes import load_recipe  # noqa: E402

NETWORK = "test_resnet.r160_in1k"


@pytest.fixture(scope="module")
def place(tmp_path_factory, pictures, view, save, weights_of):
    """A folder of photos without labels, a labelled set of other things, and a recipe."""
    place = tmp_path_factory.mktemp("place")
    for name in ("astronaut", "chelsea", "coffee"):
        for seed in range(3):
            save(place / "photos" / f"{seed}{name}.png", np.ascontiguousarray(view(pictures[name], seed)[0][::3, ::3]))
    for name in ("brick", "moon"):
        for seed in range(2):
            save(place / "set" / name / f"{seed}.png", np.ascontiguousarray(view(pictures[name], seed)[0][::3, ::3]))
    stage = {"network": NETWORK, "max_side": 64, "dimensions": 96, "whiten": "none"}
    table = {"name": "tiny", "title": "Tiny", "source": "made up", "filter": "global", "global": stage}
    (place / "tiny.toml").write_text(tomli_w.dumps(table))
    (place / "s.toml").write_text('side = 64\nchunk = 9\nbatch = 4\naccelerator = "cpu"\n[sampling]\neach = 2\n')
    return place


@pytest.fixture
def train(place, weights_of, tmp_path):
    def run(*options, photos=("--unlabelled", place / "photos")):
        fast = [
            "--settings",
            place / "s.toml",
            "--epochs",
            1,
            "--workers",
            1,
            "--quiet",
            "--weights",
            weights_of(NETWORK),
        ]
        given = ["train", place / "tiny.toml", *photos, "--into", tmp_path / "out", *fast, *options]
        return CliRunner().invoke(app, list(map(str, given)))

    return run


def test_photos_without_labels_make_a_recipe(train, place, tmp_path):
    done = train("--mine", "kmeans", "--set", "unlabelled.clusters=3", "--validate", place / "set", "--json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.output)
    assert facts["mined by"] == "kmeans" and facts["set"]["photos"] == 9
    assert 0 < facts["after"]["mean_average_precision"] <= 1
    assert load_recipe(tmp_path / "out").trained["mined by"] == "kmeans"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hold-out", "0.5"], "give --validate SET"),
        (["--mine", "magic"], "unlabelled.kind must be one of mom"),
        (["--mine", "kmeans"], "clusters: Field required"),
        (["--mine", "kmeans", "--set", "unlabelled.clusters=8"], "8 clusters of 9 photos"),
        (["--mine", "gss"], "gss trains no network: leave out sampling"),
        (["--mine", "colmap", "--set", "unlabelled.model=nothing"], "holds no COLMAP model"),
    ],
)
def test_what_does_not_do_is_said(train, options, message):
    done = train(*options)
    assert done.exit_code != 0 and message in " ".join(done.output.split())


def test_it_is_labels_or_none(train, place):
    for photos in ((), (place / "set", "--unlabelled", place / "photos")):
        done = train(photos=photos)
        assert done.exit_code != 0 and "photos by --unlabelled, or --procedural" in " ".join(done.output.split())
    done = train("--mine", "mom", photos=(place / "set",))
    assert done.exit_code != 0 and "give them by --unlabelled" in " ".join(done.output.split())
