"""`resight evaluate` and `resight fit`: what reaches the library, and what comes back."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from resight.errors import GroundTruthError


@pytest.fixture
def evaluation(fake, monkeypatch):
    """Records the calls made of resight.evaluation."""
    calls = {}

    def load_labelled(path):
        if not str(path).startswith("set"):
            raise GroundTruthError(f"{path} has no gt.json")
        return ("set", path)

    def sample(labelled, n, seed):
        calls["sample"] = (labelled, n, seed)
        return ("sampled",)

    def evaluate(labelled, recipe, **options):
        options["progress"](SimpleNamespace(phase="searching", done=1, total=None))
        calls["evaluate"] = (labelled, recipe, options)
        warnings = calls.get("warnings", ())
        return SimpleNamespace(table=lambda: "mAP 0.5", to_json=lambda: '{"map": 0.5}', warnings=warnings)

    def write_page(report, path):
        calls["page"] = path

    for function in (load_labelled, sample, evaluate, write_page):
        monkeypatch.setattr(f"resight.evaluation.{function.__name__}", function)
    return calls


def test_evaluate_prints_the_table_or_json(resight, evaluation):
    assert resight("evaluate", "set").stdout == "mAP 0.5\n"
    labelled, recipe, options = evaluation["evaluate"]
    assert labelled == ("set", Path("set")) and recipe.name == "rootsift-asmk"
    del options["progress"]
    own = {"distractors": (), "collection": None, "ap": "trapezoidal", "adapter": None, "workers": None}
    assert options == own
    assert "sample" not in evaluation and "page" not in evaluation
    assert resight("evaluate", "set", "--json").stdout == '{"map": 0.5}\n'


def test_evaluate_passes_everything_on(resight, evaluation):
    resight(
        *(
            "evaluate",
            "set",
            "--recipe",
            "deep",
            "--distractors",
            "d1",
            "--distractors",
            "d2",
            "--collection",
            "k",
        ),
        *("--queries", "9", "--seed", "4", "--ap", "truncated", "--html", "p.html", "--workers", "3", "--as", "goods"),
    )
    labelled, recipe, options = evaluation["evaluate"]
    assert evaluation["sample"] == (("set", Path("set")), 9, 4) and labelled == ("sampled",)
    assert recipe.name == "deep"
    del options["progress"]
    distractors = [Path("d1"), Path("d2")]
    given = {"distractors": distractors, "collection": Path("k"), "ap": "truncated", "adapter": "goods", "workers": 3}
    assert options == given
    assert evaluation["page"] == Path("p.html")


def test_what_makes_the_figures_too_good_is_said_on_stderr(resight, evaluation):
    evaluation["warnings"] = ("its whitening knows these photos",)
    result = resight("evaluate", "set", "--json", "--quiet")
    assert (result.stdout, result.stderr) == ('{"map": 0.5}\n', "resight: its whitening knows these photos\n")


def test_a_set_that_is_none_is_an_error(resight, evaluation):
    result = resight("evaluate", "nothing")
    assert (result.exit_code, result.stderr) == (2, "resight: nothing has no gt.json\n")


def test_fit_prints_the_folder_it_wrote(resight, monkeypatch):
    calls = []

    def fit_recipe(recipe, paths, **options):
        calls.append((recipe, list(paths), options))
        return options["into"]

    module = ModuleType("resight.describe.fit")
    module.fit_recipe = fit_recipe
    monkeypatch.setitem(sys.modules, module.__name__, module)
    result = resight("fit", "deep", "photos", "--into", "out", "--weights", "w.npz", "--sample", "7", "--seed", "1")
    assert result.stdout == "out\n"
    ((recipe, paths, options),) = calls
    assert (recipe, paths) == ("deep", ["photos"])
    del options["progress"]
    assert options == {"weights": Path("w.npz"), "into": Path("out"), "sample": 7, "seed": 1} | {
        "int8": False,
        "local_weights": None,
    }
