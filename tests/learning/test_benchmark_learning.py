"""The benchmark of learning runs: what it says of a training is what training and validation by themselves give."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tomli_w

torch = pytest.importorskip("torch")

from resight.evaluation.load import load_labelled  # noqa: E402
from resight.learning.datasets.photos import split_by_object  # noqa: E402
from resight.learning.model import make_model  # noqa: E402
from resight.learning.model_settings import Learns  # noqa: E402
from resight.learning.validate import Validation  # noqa: E402
from resight.recipes import load_recipe  # noqa: E402

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NETWORK = "test_resnet.r160_in1k"
SETTINGS = ("side=64", "epochs=2", "rate=0.002", "sampling.classes=2", "sampling.each=2", "accelerator=cpu")


@pytest.fixture
def learning(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import learning

    return learning


@pytest.mark.slow
def test_figures_are_of_held_out_objects_before_and_after(learning, tmp_path, weights_of, pictures, save, monkeypatch):
    objects = tmp_path / "objects"
    for name in ("astronaut", "chelsea", "coffee", "rocket", "brick", "moon"):
        for number, corner in enumerate((0, 60, 120)):  # parts that share little, so that not all are found
            part = pictures[name][corner : corner + 90 : 2, corner : corner + 90 : 2]
            save(objects / name / f"{number}.png", np.ascontiguousarray(part))
    stage = {
        "network": NETWORK,
        "max_side": 64,
        "dimensions": 512,
        "whiten": "none",
        "weights": str(weights_of(NETWORK)),
    }
    table = {"name": "tiny", "title": "tiny", "source": "test", "filter": "global", "global": stage}
    recipe, out = tmp_path / "tiny.toml", tmp_path / "out.json"
    recipe.write_text(tomli_w.dumps(table), encoding="utf-8")
    given = [f"--setting={setting}" for setting in SETTINGS]
    wanted = ["--set", str(objects), "--recipe", str(recipe), "--loss", "siamese", "--loss", "smooth-ap"]
    monkeypatch.setattr(sys, "argv", ["learning.py", *wanted, "--seeds", "0", "1", "--out", str(out), *given])
    learning.main()
    results = json.loads(out.read_text())["results"]
    assert [(r["asked"]["loss"], r["asked"]["seed"]) for r in results] == [
        (loss, seed) for loss in ("siamese", "smooth-ap") for seed in (0, 1)
    ]
    _, held_out = split_by_object(load_labelled(objects), 0.5, 0)
    global_ = load_recipe(recipe).global_
    assert global_ is not None
    model = make_model(global_, weights=None, learns=Learns(), recipe_name="tiny", seed=0)
    size = {"multiple": model.multiple, "least": model.least}
    untrained = Validation(held_out, side=64, chunk=4, readers=1, **size).mean_average_precision(model)
    for result in results:
        assert (result["photos"], result["classes"], result["queries"]) == (9, 3, 9)
        assert result["before"] == pytest.approx(untrained)
    assert any(result["after"] != result["before"] for result in results)
