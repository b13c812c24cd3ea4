"""`resight train`: a thin command over `resight.learning.run.train`."""

import json
import sys

import cv2
import pytest
import tomli_w
from skimage import data
from typer.testing import CliRunner

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402

from resight.cli.main import app  # noqa: E402
from resight.networks.architectures import create_network  # noqa: E402

NETWORK = "test_resnet.r160_in1k"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a set of five objects of two photos, and a recipe file with its weights."""
    place = tmp_path_factory.mktemp("train")
    for name in ("astronaut", "chelsea", "coffee", "rocket", "brick"):
        pixels = cv2.resize(getattr(data, name)(), (72, 64), interpolation=cv2.INTER_AREA)
        (place / "set" / name).mkdir(parents=True)
        cv2.imwrite(str(place / "set" / name / "1.png"), pixels)
        cv2.imwrite(str(place / "set" / name / "2.png"), cv2.convertScaleAbs(pixels[2:-2, 2:-2], alpha=0.8))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        safetensors.torch.save_file(create_network(NETWORK).state_dict(), place / "w.safetensors")
    stage = {"network": NETWORK, "max_side": 64, "dimensions": 96, "whiten": "none"}
    table = {"name": "tiny", "title": "Tiny", "source": "made up", "filter": "global", "global": stage}
    (place / "tiny.toml").write_text(tomli_w.dumps(table))
    (place / "s.toml").write_text('side = 64\nchunk = 4\nbatch = 4\naccelerator = "cpu"\n[sampling]\neach = 2\n')
    return place


@pytest.fixture
def train(place, tmp_path):
    """Runs the command with the options that every test needs."""

    def run(*options, into=tmp_path / "out"):
        given = [place / "tiny.toml", place / "set", "--into", into, "--weights", place / "w.safetensors", "--quiet"]
        fast = ["--settings", place / "s.toml", "--epochs", 1, "--workers", 1]
        return CliRunner().invoke(app, ["train", *map(str, [*given, *fast, *options])])

    return run


def test_it_trains_and_says_how_well(train, tmp_path):
    done = train("--hold-out", 0.4, "--loss", "triplet", "--set", "loss.margin=0.5", "--rate", 1e-3, "--json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["into"] == str(tmp_path / "out") and (tmp_path / "out" / "recipe.toml").is_file()
    assert facts["settings"]["loss"] == {"kind": "triplet", "margin": 0.5, "reduction": "mean"}
    assert facts["settings"]["rate"] == 1e-3 and facts["settings"]["side"] == 64
    assert facts["settings"]["sampling"]["classes"] == 2 and facts["set"]["classes"] == 3
    again = train("--hold-out", 0.4, "--loss", "triplet", "--set", "loss.margin=0.5", "--rate", 1e-3, "--resume")
    before, after = (100 * facts[when]["mean_average_precision"] for when in ("before", "after"))
    line = f"mAP on what was held out {before:.1f} before, {after:.1f} after: {tmp_path / 'out'}\n"
    assert again.exit_code == 0 and again.stdout == line
    assert ("training made it worse" in again.stderr) == (after < before)


def test_without_anything_held_out_it_says_so(train):
    done = train()
    assert done.exit_code == 0 and "nothing was held out" in done.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--validate", "x", "--hold-out", "0.2"], "give one of them"),
        (["--set", "loss.marign=1"], "loss.siamese.marign: Extra inputs are not permitted"),
        (["--loss", "tripplet"], "Input tag 'tripplet'"),
        (["--batch", "5"], "multiple of sampling.each = 2"),
        (["--settings", "nothing-like-it"], "no settings 'nothing-like-it'; there are ap-gem, "),
        (["--validate", "nowhere"], "nowhere: no such folder"),
        (["--precision", "8"], "precision: Input should be"),
        (["--batch", "12"], "a batch of 6 classes cannot be made of 5"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(train, options, said):
    done = train(*options)
    assert done.exit_code == 2 and said in done.stderr and "Traceback" not in done.output


def test_a_folder_that_is_not_empty_is_left_alone(train, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    done = train(into=tmp_path / "full")
    assert done.exit_code == 2 and "is not an empty folder" in done.stderr
    assert [file.name for file in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_without_its_libraries_it_says_which(train, monkeypatch):
    monkeypatch.delitem(sys.modules, "resight.learning.run", raising=False)
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    done = train()
    assert done.exit_code == 2 and "training needs lightning_fabric: pip install" in done.stderr


def test_the_library_has_it():
    import resight as rs
    from resight.learning.run import train as library

    assert rs.train is library and "train" in rs.__all__
