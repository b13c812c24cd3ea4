"""`resight recipes check` and `resight leaderboard`, on real pictures with small random networks."""

import csv
import json
import platform
import re
import shutil

import numpy as np
import pytest
import tomli_w
from typer.testing import CliRunner

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402
from small_recipes import labelled_copy, small_stage  # noqa: E402

from resight.cli.main import app  # noqa: E402
from resight.errors import RecipeError, ResightError  # noqa: E402
from resight.evaluation import evaluate, load_labelled  # noqa: E402
from resight.evaluation.check_recipes import OutOfTime, check_recipes, part_of, within  # noqa: E402
from resight.evaluation.leaderboard_run import run_leaderboard  # noqa: E402
from resight.evaluation.made_ready import Kit, find_weights, make_ready, readiness, with_weights_from  # noqa: E402
from resight.networks.architectures import create_network  # noqa: E402
from resight.recipes import load_recipe, recipe_names  # noqa: E402


@pytest.fixture(scope="module")
def views(tmp_path_factory, photos):
    """The photos as a labelled set, in which those match whose names begin alike."""
    return labelled_copy(photos, tmp_path_factory.mktemp("labelled") / "views")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The folder of a recipe that needs no fit."""
    folder = tmp_path_factory.mktemp("recipes") / "small"
    folder.mkdir()
    changed = {"layer": "layer2", "max_side": 96, "whiten": "none", "dimensions": 128}
    stage = small_stage("sfm-cnn", folder).model_copy(update=changed)
    recipe = load_recipe("sfm-cnn").model_copy(update={"global_": stage})
    (folder / "recipe.toml").write_text(tomli_w.dumps(recipe.model_dump(by_alias=True, exclude_none=True)))
    return folder


@pytest.fixture(scope="module")
def no_weights(tmp_path_factory):
    return tmp_path_factory.mktemp("no-weights")


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments), "-q", "--workers", "1"])


def test_a_check_has_the_figures_of_evaluate(views, small):
    labelled = load_labelled(views)
    (found,) = check_recipes([str(small)], labelled, Kit((str(views),)), workers=1)
    report = evaluate(labelled, small, workers=1)
    assert found.failure == "" and (found.set, found.recipe, found.images) == ("views", str(small), 12)
    assert found.mean_average_precision == report.figures.mean_average_precision
    assert found.precision_at_1 == report.figures.precision_at_1
    assert found.bytes_per_image == pytest.approx(report.costs.bytes_on_disk / 12, rel=0.05)
    assert found.milliseconds > 0 and found.fitted_share is None


def test_a_recipe_is_made_ready_and_says_what_it_learned_from(views, no_weights):
    """rootsift-bow learns a codebook from the set's own photos, and mac has no weights."""
    labelled = load_labelled(views)
    kit = Kit((str(views),), no_weights, labelled)
    bow, mac = check_recipes(["rootsift-bow", "mac"], labelled, kit, workers=1)
    assert bow.failure == "" and bow.mean_average_precision > 0.9 and bow.fitted_share == 1
    assert mac.mean_average_precision is None
    assert mac.failure == f"{no_weights} has no weights of vgg16: put vgg16.safetensors, .npz or .pth there"


def test_our_own_networks_weights_may_stay_those_that_come_with_it(tmp_path):
    plain = load_recipe("compact")
    assert with_weights_from(plain, tmp_path) == plain
    (tmp_path / "compact.safetensors").touch()
    given = with_weights_from(plain, tmp_path)
    assert given.global_.weights == given.local.weights == str(tmp_path / "compact.safetensors")
    assert with_weights_from(load_recipe("compact-asmk"), tmp_path).local.weights == given.local.weights


def test_weights_are_found_by_the_networks_names(tmp_path):
    torch.manual_seed(0)
    safetensors.torch.save_file(create_network("resnet10t").state_dict(), tmp_path / "vgg16.safetensors")
    assert find_weights(tmp_path, "vgg16") == tmp_path / "vgg16.safetensors"
    (tmp_path / "densenet169").mkdir()
    (tmp_path / "densenet169/part.npz").touch()
    (tmp_path / "densenet169/meta.json").touch()
    recipe = with_weights_from(load_recipe("gem-dsm"), tmp_path)
    assert recipe.global_.weights == recipe.local.weights == str(tmp_path / "densenet169/part.npz")
    deep = with_weights_from(load_recipe("multiscale-cnn"), tmp_path)
    assert {branch.weights for branch in deep.global_.branches} == {str(tmp_path / "vgg16.safetensors")}
    (tmp_path / "vgg16.pth").touch()
    with pytest.raises(
        RecipeError, match=r"has weights of vgg16 more than once: keep one of vgg16\.safetensors, vgg16"
    ):
        find_weights(tmp_path, "vgg16")
    for name, said in (
        ("hardtfeat-asmk", "no folder hardtfeat with HardTFeat.pth, AffNet.pth and OriNet.pth"),
        ("doap", "no folder doap with DOAP.mat, AffNet.pth and OriNet.pth"),
        ("aliked-asmk", "no weights of aliked-n16rot"),
    ):
        with pytest.raises(RecipeError, match=said):
            with_weights_from(load_recipe(name), tmp_path)


def test_what_fails_leaves_nothing_behind(views, no_weights, tmp_path):
    with pytest.raises(RecipeError, match="no weights of vgg16"):
        make_ready("mac", Kit((str(views),), no_weights), tmp_path / "made", report=lambda *_: None)
    assert list(tmp_path.iterdir()) == []
    recipe = make_ready("rootsift-bow", Kit((str(views),)), tmp_path / "made", report=lambda *_: None)
    before = (tmp_path / "made/codebook.safetensors").stat().st_mtime_ns
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    again = make_ready("rootsift-bow", Kit((str(views),)), tmp_path / "made", report=lambda *_: None)
    assert again == recipe and (tmp_path / "made/codebook.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("count", [1, 7, 100])
def test_the_parts_are_the_whole(count):
    names = recipe_names()
    parts = [part_of(names, f"{place}/{count}") for place in range(count)]
    assert sorted(name for part in parts for name in part) == sorted(names)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_part_is_by_a_day_or_a_commit():
    assert part_of("abcdef", "061/3") == part_of("abcdef", "1/3") == ("b", "e")
    assert part_of("abcdef", "0x2dd7c/4") == part_of("abcdef", f"{0x2DD7C % 4}/4")
    for wrong in ("3", "a/3", "1/0", "1/", "-1/3", "1/x"):
        with pytest.raises(ResightError, match="is no part: write K/N"):
            part_of("abcdef", wrong)


def test_check_prints_a_row_for_each_and_exits_with_1_if_one_failed(views, small, no_weights):
    good = run("recipes", "check", small, "--set", views)
    assert good.exit_code == 0, good.stderr
    head, row = good.stdout.splitlines()
    assert head.split()[:3] == ["recipe", "mAP", "P@1"]
    assert re.fullmatch(rf"{small}\s+\d+\.\d\s+\d+\.\d\s+\d+\.\d\s+[\d,]+", row)
    both = run("recipes", "check", small, "mac", "--set", views, "--weights-from", no_weights, "--json")
    assert both.exit_code == 1
    first, second = json.loads(both.stdout)["recipes"]
    assert first["failure"] == "" and first["mean_average_precision"] == pytest.approx(
        float(row.split()[1]) / 100, abs=1e-3
    )
    assert "no weights of vgg16" in second["failure"]
    some = run("recipes", "check", small, "mac", "--set", views, "--part", "2/2", "--queries", 3)
    assert some.exit_code == 0 and len(some.stdout.splitlines()) == 2
    assert run("recipes", "check", small, "--set", views, "--part", "2").exit_code == 2


def board(into, views, *recipes, limit=None, **kit):
    sets = [load_labelled(views)]
    return run_leaderboard(sets, list(map(str, recipes)), Kit((str(views),), **kit), into, limit=limit, workers=1)


def test_a_leaderboard_goes_on_where_it_was_left(views, small, tmp_path):
    first = board(tmp_path / "out", views, small)
    (cell,) = first.cells
    text = (small / "recipe.toml").read_text().replace('kind = "mac"', 'kind = "sum"')
    other = shutil.copytree(small, tmp_path / "other")
    (other / "recipe.toml").write_text(text)
    both = board(tmp_path / "out", views, other, small)
    assert {c.checked.recipe for c in both.cells} == {"other", "small"}
    assert cell in both.cells  # with its milliseconds, so it was not measured again
    scores = [c.checked.mean_average_precision for c in both.cells]
    assert scores == sorted(scores, reverse=True)
    assert board(tmp_path / "out", views, small) == both
    changed = shutil.copytree(small, tmp_path / "new/small")
    (changed / "recipe.toml").write_text(text)
    again = board(tmp_path / "out", views, changed)
    assert cell not in again.cells and len(again.cells) == 2
    same = [c.checked.mean_average_precision for c in again.cells]
    assert same[0] == same[1]  # the changed one computes what the other does


def test_what_takes_too_long_is_given_up_and_tried_again_with_more_time_only(views, small, tmp_path):
    late = board(tmp_path / "out", views, small, "rootsift-bow", limit=0)
    assert {c.checked.recipe: c.limit for c in late.cells} == {"small": 0, "rootsift-bow": 0}
    assert all(c.checked.failure.startswith("not done in 0 s: it was ") for c in late.cells)
    assert late.table().startswith("## Not measured") and "| rootsift-bow | all |" in late.table()
    assert board(tmp_path / "out", views, small, "rootsift-bow", limit=0) == late  # their seconds too
    soon = board(tmp_path / "out", views, small, limit=100)
    first = soon.cells[0]
    assert (first.checked.recipe, first.checked.failure, first.limit) == ("small", "", None)
    assert first.checked.queries == 12 and "\n\n12 queries, 12 images indexed\n\n" in soon.table()
    assert "| learned from it |\n" in soon.table()  # the last column: the survey has nothing on this set
    assert late.cells[0] in soon.cells or late.cells[1] in soon.cells
    with pytest.raises(OutOfTime, match="not done in 0 s: it was searching"):
        within(0, lambda *_: None)("searching", 1, 2)


def test_what_failed_is_tried_again_and_what_is_in_the_way_refused(views, small, no_weights, tmp_path):
    out = tmp_path / "out"
    failed = board(out, views, "mac", small, weights_from=no_weights)
    assert [c.checked.recipe for c in failed.cells] == ["small", "mac"]
    assert "no weights of vgg16" in failed.cells[1].checked.failure
    assert "## Not measured\n\n| why | recipes | sets |\n| --- | --- | --- |\n| no-weights" in failed.table()
    assert failed.table().splitlines()[-1].endswith("put vgg16.safetensors, .npz or .pth there | mac | all |")
    assert str(no_weights.parent) not in failed.page()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    again = board(out, views, "mac", weights_from=elsewhere)
    assert f"{elsewhere} has no weights of vgg16" in again.cells[1].checked.failure
    with pytest.raises(ResightError, match="two of the recipes are called mac"):
        board(out, views, "mac", "mac")
    (out / "results.json").write_text('{"format": "other"}')
    with pytest.raises(ResightError, match=r"results\.json: is no leaderboard"):
        board(out, views, small)


def test_the_files_hold_the_figures_and_the_survey_s(views, small, tmp_path):
    """The set is called as one that the survey has figures of, and the recipe as one of its systems."""
    folder = shutil.copytree(views, tmp_path / "set")
    truth = json.loads((folder / "gt.json").read_text())
    (folder / "gt.json").write_text(json.dumps({**truth, "name": "oxford5k"}))
    recipe = shutil.copytree(small, tmp_path / "sfm-cnn")
    result = run(
        "leaderboard",
        folder,
        "--recipe",
        recipe,
        "--into",
        tmp_path / "out",
        "--queries",
        5,
        "--page",
        tmp_path / "page.md",
        "--note",
        "Twelve pictures.",
    )
    assert result.exit_code == 0, result.stderr
    report = json.loads((tmp_path / "out/results.json").read_text())
    (cell,) = report["cells"]
    assert cell["published"] == pytest.approx(0.77)  # Table 3
    (row,) = csv.DictReader((tmp_path / "out/results.csv").open())
    assert float(row["mean_average_precision"]) == cell["checked"]["mean_average_precision"]
    assert (row["set"], row["recipe"], float(row["published"])) == ("oxford5k", "sfm-cnn", 0.77)
    score = 100 * cell["checked"]["mean_average_precision"]
    line = next(line for line in result.stdout.splitlines() if line.startswith("| sfm-cnn"))
    cells = [part.strip() for part in line.strip("|").split("|")]
    assert cells[1] == f"{score:.1f}" and cells[5] == "not known" and cells[6] == "77.0"
    text = (tmp_path / "out/leaderboard.md").read_text()
    assert line in text and text == (tmp_path / "page.md").read_text().replace(" Twelve pictures.\n", "\n")
    assert f"Measured on {platform.system()}" in text and f"python {platform.python_version()}" in text
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"leaderboard.md", "results.csv", "results.json"}


def test_only_a_recipes_own_weights_decide_whether_it_is_made_anew(tmp_path):
    """The network's file and its folder form count, as does a second network's; other networks' do not."""
    kit = Kit(("photos",), tmp_path)
    names = ("rootsift-asmk", "mac", "gem-densenet169", "gem-dsm", "hardtfeat-asmk", "compact-asmk")

    def changed(file, text):
        before = {name: readiness(name, kit) for name in names}
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        return {name for name in names if readiness(name, kit) != before[name]}

    assert changed(tmp_path / "alexnet.pth", "") == set()
    assert changed(tmp_path / "vgg16.pth", "one") == {"mac"}
    assert changed(tmp_path / "vgg16.pth", "two, longer") == {"mac"}
    assert changed(tmp_path / "densenet169/part.npz", "") == {"gem-densenet169", "gem-dsm"}
    assert changed(tmp_path / "hardtfeat/HardTFeat.pth", "") == {"hardtfeat-asmk"}
    assert changed(tmp_path / "compact.safetensors", "") == {"compact-asmk"}


def test_the_weights_that_come_with_our_network_decide_too(tmp_path, monkeypatch):
    shipped = tmp_path / "compact.safetensors"
    monkeypatch.setattr("resight.networks.compact.compact_weights", lambda: shipped)
    shipped.write_text("one")
    kits = [Kit(("photos",)), Kit(("photos",), tmp_path / "none")]
    before = [readiness(name, kit) for name in ("compact", "compact-asmk", "mac") for kit in kits]
    shipped.write_text("two, longer")
    after = [readiness(name, kit) for name in ("compact", "compact-asmk", "mac") for kit in kits]
    assert [one == other for one, other in zip(before, after, strict=True)] == [False] * 4 + [True] * 2


def test_a_note_without_a_page_is_refused(views, small, tmp_path):
    into = tmp_path / "out"
    result = run("leaderboard", views, "--recipe", small, "--into", into, "--note", "Twelve pictures.")
    assert result.exit_code == 2 and "name one by --page FILE" in result.stderr
    assert not into.exists()


def test_a_leaderboard_asks_for_photos_to_learn_from(views, tmp_path):
    result = run("leaderboard", views, "--recipe", "mac", "--into", tmp_path / "out")
    assert result.exit_code == 2 and "mac has to be made ready: give --fit PHOTOS" in result.stderr


def test_a_published_set_is_named_with_its_folder(tmp_path):
    result = run(
        "leaderboard", f"ukbench={tmp_path}/none", "--recipe", "mac", "--fit", tmp_path, "--into", tmp_path / "o"
    )
    assert result.exit_code == 2 and "resight datasets get ukbench" in result.stderr
    assert np.array_equal(list(tmp_path.iterdir()), [])
