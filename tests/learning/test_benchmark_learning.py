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


@pytest.fixture
def objects(tmp_path, pictures, save):
    """Six objects of three photos each."""
    folder = tmp_path / "objects"
    for name in ("astronaut", "chelsea", "coffee", "rocket", "brick", "moon"):
        for number, corner in enumerate((0, 60, 120)):  # parts that share little, so that not all are found
            part = pictures[name][corner : corner + 90 : 2, corner : corner + 90 : 2]
            save(folder / name / f"{number}.png", np.ascontiguousarray(part))
    return folder


@pytest.fixture
def recipe(tmp_path, weights_of):
    stage = {
        "network": NETWORK,
        "max_side": 64,
        "dimensions": 512,
        "whiten": "none",
        "weights": str(weights_of(NETWORK)),
    }
    table = {"name": "tiny", "title": "tiny", "source": "test", "filter": "global", "global": stage}
    file = tmp_path / "tiny.toml"
    file.write_text(tomli_w.dumps(table), encoding="utf-8")
    return file


@pytest.mark.slow
def test_figures_are_of_held_out_objects_before_and_after(learning, objects, recipe, tmp_path, monkeypatch):
    out = tmp_path / "out.json"
    given = [f"--setting={setting}" for setting in SETTINGS]
    wanted = ["--set", str(objects), "--recipe", str(recipe), "--loss", "siamese", "--loss", "smooth-ap"]
    monkeypatch.setattr(sys, "argv", ["learning.py", *wanted, "--seeds", "0", "1", "--out", str(out), *given])
    learning.study(None, "--loss", learning.LOSSES, learning.trained, "Learned from")
    results = json.loads(out.read_text())["results"]
    assert [(r["asked"]["method"], r["asked"]["seed"]) for r in results] == [
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


def test_photos_without_labels_are_those_that_labels_are_known_of(learning, objects, recipe, capsys):
    import unlabelled

    def asked(method):
        return learning.Asked(objects, method, 0, str(recipe), SETTINGS)

    told, untold = learning.trained(asked("siamese")), unlabelled.trained(asked("knn-mean unlabelled.k=2"))
    assert untold.before == told.before and untold.after != untold.before
    assert (untold.photos, untold.classes, untold.queries) == (told.photos, told.classes, told.queries) == (9, 3, 9)
    assert unlabelled.trained(asked("dbscan unlabelled.distance=0.001")) is None
    assert "dbscan unlabelled.distance=0.001 seed 0: there are 0 dense regions" in capsys.readouterr().out
    rows = learning.rows_of([told, untold], [objects], ["siamese", "dbscan"])
    assert [row[0] for row in rows] == ["before", "siamese", "dbscan"] and rows[2][1] is None
    assert rows[1][1] == f"{100 * told.after:.1f}"


def test_what_is_frozen_looks_at_each_picture_once(learning, recipe):
    global_ = load_recipe(recipe).global_
    assert global_ is not None
    model = make_model(global_, weights=None, learns=Learns(layers="head", projection=8), recipe_name="tiny", seed=0)
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (5, 3, 64, 64), np.uint8))
    own, looked = model.prefix, []
    expected = own(images)
    model.prefix = lambda given: looked.append(len(given)) or own(given)
    learning.remember(model)
    torch.testing.assert_close(model.prefix(images[:3]), expected[:3])
    torch.testing.assert_close(model.prefix(images[[4, 2, 0]]), expected[[4, 2, 0]])
    torch.testing.assert_close(model(images), model.suffix(expected))
    assert looked == [3, 1, 1]
