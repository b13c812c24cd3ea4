"""`resight train`: a thin command over `resight.learning.run.train`."""

import json
import re
import shutil
import sys
import tomllib
from pathlib import Path

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

    def run(
        *options, into=tmp_path / "out", labelled=place / "set", recipe=place / "tiny.toml", weights=True, quiet=True
    ):
        given = [recipe, labelled, "--into", into, *(("--quiet",) if quiet else ())]
        given += ["--weights", place / "w.safetensors"] if weights else []
        fast = ["--settings", place / "s.toml", "--epochs", 1, "--workers", 1]
        return CliRunner().invoke(app, ["train", *map(str, [*given, *fast, *options])])

    return run


def test_it_trains_and_says_how_well(train, tmp_path):
    done = train("--hold-out", 0.4, "--loss", "triplet", "--set", "loss.margin=0.5", "--rate", 1e-3, "--json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["into"] == str(tmp_path / "out") and (tmp_path / "out" / "recipe.toml").is_file()
    assert facts["settings"]["loss"].items() >= {"kind": "triplet", "margin": 0.5}.items()
    assert facts["settings"]["rate"] == 1e-3 and facts["settings"]["side"] == 64
    assert facts["settings"]["sampling"]["classes"] == 2 and facts["set"]["classes"] == 3
    again = train("--hold-out", 0.4, "--loss", "triplet", "--set", "loss.margin=0.5", "--rate", 1e-3, "--resume")
    before, after = (100 * facts[when]["mean_average_precision"] for when in ("before", "after"))
    line = f"mAP on what was held out {before:.1f} before, {after:.1f} after: {tmp_path / 'out'}\n"
    assert again.exit_code == 0 and again.stdout == line
    assert ("training made it worse" in again.stderr) == (after < before)


def test_it_says_why_nothing_is_known_of_what_was_before(train, place, tmp_path):
    table = tomllib.loads((place / "tiny.toml").read_text())
    table["global"] |= {"whiten": "image", "dimensions": 3}
    (tmp_path / "unfitted.toml").write_text(tomli_w.dumps(table))
    done = train("--hold-out", 0.4, "--rate", 1e-3, recipe=tmp_path / "unfitted.toml", quiet=False)
    assert done.exit_code == 0, done.output
    assert "mAP on what was held out unknown before" in done.stdout
    assert re.search(r"why nothing is known of it before: .*resight fit", done.stderr)


@pytest.mark.slow
def test_two_processes_of_a_cpu_train_to_what_one_does(train, tmp_path):
    given = ("--hold-out", 0.4, "--rate", 1e-3, "--accelerator", "cpu")
    for count in (1, 2):
        done = train(*given, "--devices", count, into=tmp_path / str(count))
        assert done.exit_code == 0 and (tmp_path / str(count) / "report.html").is_file(), done.output
    one, two = (safetensors.torch.load_file(tmp_path / str(count) / "model.safetensors") for count in (1, 2))
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=2e-3, rtol=1e-2)


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


def spoiled(place, tmp_path, name, change):
    """A copy of the set, changed."""
    copy = tmp_path / name
    shutil.copytree(place / "set", copy)
    change(copy)
    return copy


def contents(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def only_one(folder):
    (folder / "coffee" / "2.png").unlink()


def broken(folder):
    (folder / "rocket" / "1.png").write_bytes((folder / "rocket" / "1.png").read_bytes()[:60])


def one_object(folder):
    for name in ("chelsea", "coffee", "rocket", "brick"):
        shutil.rmtree(folder / name)


def nothing(folder):
    for file in folder.rglob("*.png"):
        file.unlink()


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (only_one, [], ["class coffee has one photo", "coffee/1.png", "singletons = 'drop'"]),
        (broken, [], ["1 of 10 photos cannot be read", "rocket/1.png"]),
        (broken, ["--hold-out", 0.4], ["cannot be read", "rocket/1.png"]),
        (one_object, [], ["all photos show astronaut", "add photos of another"]),
        (one_object, ["--hold-out", 0.2], ["cannot hold objects out", "give another set to validate on"]),
        (nothing, [], ["no gt.json, and no sub-folder with two images of one object"]),
        (lambda folder: None, ["--hold-out", 1.0], ["the share of objects to hold out must be above 0 and below 1"]),
    ],
)
def test_photos_that_do_not_do_are_named_and_left_as_they_are(train, place, tmp_path, change, options, said):
    photos = spoiled(place, tmp_path, "photos", change)
    before = contents(photos)
    done = train(*options, labelled=photos)
    assert done.exit_code == 2 and "Traceback" not in done.output
    assert all(part in done.stderr for part in said), done.stderr
    assert contents(photos) == before
    assert not (tmp_path / "out").exists()  # nothing was begun


def test_an_empty_set_to_validate_on_is_refused(train, place, tmp_path):
    photos = spoiled(place, tmp_path, "photos", nothing)
    done = train("--validate", photos)
    assert done.exit_code == 2 and str(photos) in done.stderr and not (tmp_path / "out").exists()


def test_a_loss_that_is_not_finite_ends_it_and_the_checkpoint_before_stays(train, tmp_path):
    done = train("--loss", "triplet", "--set", "optimiser=sgd", "--rate", 1e6, "--epochs", 30)
    assert done.exit_code == 2 and "Traceback" not in done.output
    assert re.search(r"epoch \d+, step \d+: the (loss|gradient) is (nan|inf|-inf): training has diverged", done.stderr)
    assert "the checkpoint before it is kept. Try a lower rate, such as 100000" in done.stderr
    kept = tmp_path / "out" / "training" / "embedding" / "last.safetensors"
    state = safetensors.torch.load_file(kept)
    assert state and all(tensor.isfinite().all() for name, tensor in state.items() if name.startswith("module."))
    assert not (tmp_path / "out" / "recipe.toml").exists()  # no recipe that does not work


def test_it_goes_on_with_the_settings_it_was_begun_with_only(train, tmp_path):
    into = tmp_path / "out"
    assert train("--rate", 1e-3).exit_code == 0
    (into / "training.json").unlink()  # as if it had been interrupted before the end
    (into / "training" / "embedding" / "outcome.json").unlink()
    before = contents(into)
    for options, said in (
        (["--rate", 2e-3], "the run was begun with rate = 0.001, not 0.002: set it back to go on"),
        (["--rate", 1e-3, "--set", "loss.margin=0.6"], "begun with loss.margin = 0.7, not 0.6"),
        (["--rate", 1e-3, "--hold-out", 0.4], "begun with photos = 10, not 6"),
    ):
        done = train("--resume", *options)
        assert done.exit_code == 2 and said in done.stderr, done.stderr
        assert contents(into) == before
    assert train("--resume", "--rate", 1e-3).exit_code == 0
    again = contents(into)
    assert again[Path("model.safetensors")] == before[Path("model.safetensors")]


@pytest.mark.parametrize(
    ("recipe", "options", "said"),
    [
        ("rootsift-asmk", [], "recipe rootsift-asmk has nothing that learns from labels: it needs [global]"),
        ("gem-densenet169", ["--set", "scheme=how"], "has no HOW to train"),
        ("gem-densenet169", ["--set", "scheme=delf"], "has no DELF to train"),
        ("gem-densenet169", ["--set", "scheme=reranking"], "has no re-ranking that learns"),
        ("vlad-cnn", [], "is fitted, not learned by gradients: choose netvlad"),
    ],
)
def test_a_recipe_without_anything_to_learn_is_refused(train, place, tmp_path, recipe, options, said):
    done = train(*options, recipe=recipe, weights=recipe != "rootsift-asmk")
    assert done.exit_code == 2 and said in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()


def test_ready_settings_are_listed_and_shown(tmp_path):
    from resight.learning.settings import load_settings, settings_names

    listed = CliRunner().invoke(app, ["train", "--list-settings"])
    assert listed.exit_code == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(settings_names())
    assert "joint  " in listed.stdout and "Joint triplet and cross-entropy loss (survey Eq. 16" in listed.stdout
    shown = CliRunner().invoke(app, ["train", "--show-settings", "solar"])
    (tmp_path / "mine.toml").write_text(shown.stdout)
    assert shown.exit_code == 0 and load_settings(tmp_path / "mine.toml") == load_settings("solar")
    wrong = CliRunner().invoke(app, ["train", "--show-settings", "sonar"])
    assert wrong.exit_code == 2 and "no settings 'sonar'; there are ap-gem, " in wrong.output


def test_without_its_libraries_it_says_which(train, monkeypatch):
    monkeypatch.delitem(sys.modules, "resight.learning.run", raising=False)
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    done = train()
    assert done.exit_code == 2 and "training needs lightning_fabric: pip install" in done.stderr


def test_the_library_has_it():
    import resight as rs
    from resight.learning.run import train as library

    assert rs.train is library and "train" in rs.__all__
