"""The benchmark of schemes by families runs: figures where a recipe is sound, the reason where it is refused."""

import json
from pathlib import Path

import cv2
import pytest

pytest.importorskip("torch")

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def families(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import families

    monkeypatch.setattr(families, "FAMILIES", {"tiny": families.Family("resnet10t", "layer2")})
    return families


@pytest.fixture
def source(tmp_path, pictures):
    """A set of eight pictures; each of two queries shows one of them at half its size, and has one more positive."""
    folder, names = tmp_path / "source", sorted(pictures)
    (folder / "q").mkdir(parents=True)
    for name in names:
        bgr = cv2.cvtColor(pictures[name], cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / f"{name}.png"), bgr)
        cv2.imwrite(str(folder / "q" / f"{name}.png"), cv2.resize(bgr, None, fx=0.5, fy=0.5))
    first, second, other, unused, *_ = names
    answers = {
        f"q/{first}.png": {"positives": [f"{first}.png", f"{other}.png"]},
        f"q/{second}.png": {"positives": [f"{second}.png"], "junk": [f"{unused}.png"]},
        f"q/{other}.png": {"positives": []},
    }
    truth = {"name": "pictures", "database": [f"{name}.png" for name in names], "queries": answers}
    (folder / "gt.json").write_text(json.dumps(truth))
    return folder


def test_few_takes_answered_queries_with_an_answer_and_no_unlisted_relative(families, source, tmp_path):
    from resight.evaluation import load_labelled

    labelled = load_labelled(source)
    small = load_labelled(families.few(labelled, tmp_path / "set", photos=5, queries=4, seed=0))
    again = load_labelled(families.few(labelled, tmp_path / "set", photos=5, queries=4, seed=0))
    assert small == again
    first, second, *others = sorted(labelled.database)
    assert {(q.path, q.positives) for q in small.queries} == {(f"q-{n}", frozenset({n})) for n in (first, second)}
    assert len(small.database) == 5 and set(small.database) <= {first, second, *others[2:]}
    for path in small.database:
        assert small.locate(path).resolve() == labelled.locate(path).resolve()


def test_it_measures_and_says_what_is_refused(families, source, tmp_path, capsys):
    asked = [part for name in ("whole", "grid on map", "bing") for part in ("--scheme", name)]
    few = ["--photos", "4", "--queries", "2", "--side", "64"]
    where = ["--set", str(source), "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out.json")]
    whole, grid, bing = families.main([*where, *few, *asked])
    # A picture and its half are nearly alike for any network.
    assert (whole.mAP, grid.mAP, bing.mAP) == (1.0, 1.0, None)
    assert {whole.weights, grid.weights} == {"random"} and "needs a trained model" in bing.said
    shown = capsys.readouterr().out
    assert "| weights | random |" in shown and "| bing | (1) |" in shown and f"1. {bing.said}" in shown
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert [(r["scheme"], r["mAP"]) for r in results] == [("whole", 1.0), ("grid on map", 1.0), ("bing", None)]
    written = (tmp_path / "work" / "resnet10t-0.safetensors").stat().st_mtime_ns
    assert families.Family("resnet10t").weights(tmp_path / "work", 0).stat().st_mtime_ns == written
