"""The verbs that make, change and look at a collection."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest


def called(fake, name):
    return [call[1:] for call in fake.calls if call[0] == name]


def test_index_makes_a_collection_with_the_recipe_named(resight, fake):
    result = resight("index", "photos", "more.zip", "--into", "new", "--recipe", "deep", "--workers", "2")
    assert result.exit_code == 0
    create, add, closed = fake.calls
    assert create[:2] == ("create", "new") and create[2].name == "deep"
    assert add == ("add", ["photos", "more.zip"], 2)
    assert closed == ("closed",)


def test_the_recipe_comes_from_flag_then_environment_then_default(resight, fake):
    resight("index", "p", "--into", "new")
    resight("index", "p", "--into", "new", env={"RESIGHT_RECIPE": "deep"})
    resight("index", "p", "--into", "new", "--recipe", "rootsift-asmk", env={"RESIGHT_RECIPE": "deep"})
    assert [recipe.name for _, recipe in called(fake, "create")] == ["rootsift-asmk", "deep", "rootsift-asmk"]


def test_index_adds_to_what_there_is(resight, fake):
    assert resight("index", "photos", "--into", "c").exit_code == 0
    assert resight("index", "photos", "--into", "c", "--recipe", "rootsift-asmk").exit_code == 0
    assert called(fake, "open") == [(True,), (True,)] and not called(fake, "create")


def test_index_refuses_another_recipe_and_lets_go_of_the_collection(resight, fake):
    result = resight("index", "photos", "--into", "c", "--recipe", "deep")
    assert result.exit_code == 2
    assert "c was made with recipe rootsift-asmk" in result.stderr and "another --into" in result.stderr
    assert [call[0] for call in fake.calls] == ["open", "closed"]


def test_weights_are_put_into_the_recipe(resight, fake, tmp_path):
    weights = tmp_path / "w.npz"
    weights.touch()
    resight("index", "p", "--into", "new", "--recipe", "deep", "--weights", weights)
    ((_, recipe),) = called(fake, "create")
    assert recipe.global_.weights == str(weights)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--recipe", "deep", "--weights", "/nowhere.npz"), "/nowhere.npz"),
        (("--weights", "/nowhere.npz"), "rootsift-asmk has no network"),
    ],
)
def test_weights_that_cannot_be_are_refused(resight, fake, arguments, message):
    result = resight("index", "p", "--into", "new", *arguments)
    assert result.exit_code == 2 and message in result.stderr
    assert not fake.calls


def test_the_summary_counts_and_points_on(resight, report):
    report(added=1234, changed=1, moved=2, unchanged=3, vanished=4, seconds=65.0, advice="Refit it.")
    result = resight("index", "p", "--into", "c")
    first = "1,234 added, 1 changed, 2 moved, 3 unchanged, 4 vanished in 0:01:05, 19.0 images/s: c\n"
    assert result.stdout.startswith(first)
    assert "remove c --missing" in result.stdout and "Refit it." in result.stdout
    assert resight("index", "p", "--into", "c", "--quiet").stdout == ""


def test_failures_are_told_and_fatal_only_when_strict(resight, report):
    report(added=5, failed=3)
    result = resight("index", "p", "--into", "c")
    assert result.exit_code == 0 and "3 files" in result.stderr and "resight failures c" in result.stderr
    assert resight("index", "p", "--into", "c", "--strict").exit_code == 1


def test_index_as_json(resight, report):
    report(added=5, advice="x")
    facts = json.loads(resight("index", "p", "--into", "c", "--json").stdout)
    assert facts["added"] == 5 and facts["advice"] == "x" and facts["seconds"] == 2.0


def test_an_interrupted_index_says_what_is_kept(resight, fake, monkeypatch):
    monkeypatch.setattr(fake, "report", KeyboardInterrupt())
    result = resight("index", "p", "--into", "c")
    assert result.exit_code == 130
    assert "3 images are safe in c" in result.stderr and "same command goes on" in result.stderr
    assert fake.calls[-1] == ("closed",)


def test_remove_takes_ids_and_absolute_paths(resight, fake):
    assert resight("remove", "c", "id:7", "a/../b.jpg", "/x.zip!/m.jpg").stdout == "1 image removed\n"
    assert called(fake, "remove") == [([7, str(Path.cwd() / "b.jpg"), "/x.zip!/m.jpg"], False)]
    resight("remove", "c", "--missing")
    assert called(fake, "remove")[-1] == ([], True)


def test_remove_needs_to_be_told_what_and_says_when_nothing_matched(resight, fake, monkeypatch):
    assert resight("remove", "c").exit_code == 2
    assert resight("remove", "c", "id:seven").exit_code == 2
    assert not called(fake, "remove")
    monkeypatch.setattr(fake, "removed", 0)
    assert resight("remove", "c", "typo.jpg").exit_code == 1
    assert resight("remove", "c", "--missing").exit_code == 0


def test_info(resight):
    text = resight("info", "c").stdout
    for fact in (
        "rootsift-asmk",
        "f00d",
        "4.2 MB",
        "1.4 kB an image",
        "4,096 words",
        "SQ8, of 20,000 images, 1.3 MB",
        "refit",
    ):
        assert fact in text
    facts = json.loads(resight("info", "c", "--json").stdout)
    assert facts["images"] == 3 and facts["recipe"] == "rootsift-asmk" and facts["codebook"]["words"] == 4096


def test_failures_in_three_forms(resight):
    assert resight("failures", "c").stdout == "/photos/bad\\n.jpg: truncated\n"
    expected = {"path": "/photos/bad\n.jpg", "reason": "truncated"}
    assert json.loads(resight("failures", "c", "--json").stdout) == {"failures": [expected]}
    assert list(csv.DictReader(io.StringIO(resight("failures", "c", "--csv").stdout))) == [expected]
    assert resight("failures", "c", "--csv", "--json").exit_code == 2


def test_verify_exits_with_1_on_problems(resight, fake, monkeypatch):
    assert resight("verify", "c").exit_code == 0
    monkeypatch.setattr(fake, "problems", ["segment 2: checksum"])
    result = resight("verify", "c")
    assert (result.exit_code, result.stdout) == (1, "segment 2: checksum\n")


def test_repair_says_what_came_of_each_and_exits_with_1_where_something_is_left(resight, fake, monkeypatch):
    result = resight("repair", "c")
    assert (result.exit_code, result.stdout) == (0, "c is sound\n") and ("open", True) in fake.calls
    monkeypatch.setattr(fake, "repaired", replace(fake.repaired, mended=("one\n",), lost=("two",), left=("three",)))
    result = resight("repair", "c")
    assert (result.exit_code, result.stdout) == (1, "mended:\n  one\\n\nlost:\n  two\nleft:\n  three\n")
    assert resight("repair", "c", "-q").stdout == "lost:\n  two\nleft:\n  three\n"
    assert json.loads(resight("repair", "c", "--json").stdout)["left"] == ["three"]


def test_export_tells_the_format_from_the_suffix(resight, fake):
    assert resight("export", "c", "out.NPZ").exit_code == 0
    assert resight("export", "c", "out.dat", "--format", "csv").exit_code == 0
    assert called(fake, "export") == [("out.NPZ", "npz"), ("out.dat", "csv")]
    refused = resight("export", "c", "out.dat")
    assert refused.exit_code == 2 and "safetensors" in refused.stderr


def test_refit_opens_for_writing(resight, fake):
    assert resight("refit", "c").stdout == "fitted on 3 images\n"
    assert called(fake, "open") == [(True,)]


def test_recipes(resight):
    assert resight("recipes").stdout == "rootsift-asmk  SIFT\ndeep           Deep\n"
    assert resight("recipes", "show", "deep").stdout == '# deep\nname = "deep"\n'
