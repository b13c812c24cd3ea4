"""Classes in steps: mAP against a ranking by hand, the terms' effect where it is known, and the study on photos."""

import csv

import numpy as np
import pytest

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

from resight.errors import GroundTruthError  # noqa: E402
from resight.evaluation.load import load_labelled  # noqa: E402
from resight.networks.architectures import create_network  # noqa: E402
from resight.recipes import Recipe  # noqa: E402
from resight.robustness.study_incremental import (  # noqa: E402
    ARMS,
    FROZEN,
    Arm,
    Course,
    Examples,
    run_steps,
    study_incremental,
)

pytestmark = pytest.mark.usefixtures("sketched_once")


def clouds(classes: int, each: int, seed: int = 0) -> Examples:
    """Unit vectors around a place for each class, and twice as many dimensions of noise that say nothing of it."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    x = 0.8 * np.eye(classes)[labels] + 0.3 * rng.normal(size=(len(labels), classes))
    x = np.hstack([x, 0.3 * rng.normal(size=(len(labels), 2 * classes))]).astype(np.float32)
    return Examples(x / np.linalg.norm(x, axis=1, keepdims=True), labels, labels // 2)


def test_figures_are_those_of_rankings_by_hand():
    """Without learning: areas under precision-recall polygons, summed positive by positive."""
    held_out = clouds(6, 5, seed=1)
    found = {step: rest for _, _, _, step, *rest in run_steps(held_out, held_out, {}, Course(0))}
    assert {row[:3] for row in run_steps(held_out, held_out, {}, Course(0))} == {(FROZEN, "new", "new")}
    for step in range(3):
        seen = held_out.take(held_out.steps <= step)
        scores = []
        for place, similarity in enumerate(seen.x @ seen.x.T):
            ranked = [p for p in sorted(range(len(seen.x)), key=(-similarity).__getitem__) if p != place]
            ranks = [rank for rank, p in enumerate(ranked) if seen.labels[p] == seen.labels[place]]
            areas = [(n / r if r else 1.0) + (n + 1) / (r + 1) for n, r in enumerate(ranks)]
            scores.append(sum(areas) / 2 / len(ranks))
        old = seen.steps < step
        classes, of_old, of_new, every = found[step]
        assert classes == 2 * step + 2 and (of_old is None) == (step == 0)
        for figure, part in ((of_new, ~old), (every, old | ~old), *([(of_old, old)] if step else [])):
            assert figure == pytest.approx(np.mean(np.array(scores)[part]))


def test_the_old_index_is_of_use_only_to_a_network_that_learned_its_vectors():
    arms = {"held": Arm(distil=1e4), "anew": ARMS["anew"], "compatible": ARMS["anew, backward-compatible"]}
    rows = run_steps(clouds(6, 8), clouds(6, 8, seed=3), arms, Course(epochs=30, rate=0.03))
    every = {row[:3]: row[-1] for row in rows if row[3] == 2}
    new, old, before = ("new", "new"), ("new", "old"), ("old", "old")
    assert every["compatible", *old] > every["anew", *old] + 0.1
    assert every["anew", *old] < every["anew", *before] - 0.15  # to another rotation the database is noise
    assert every["held", *old] == pytest.approx(every["held", *new], abs=0.02) and every["held", *new] > 0.4
    assert every["held", *before] == pytest.approx(every["held", *new], abs=0.02)
    assert run_steps(clouds(6, 8), clouds(6, 8, seed=3), arms, Course(epochs=30, rate=0.03)) == rows


def test_a_study_of_photos(tmp_path, pictures, view, save):
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        for seed in range(4):
            save(tmp_path / "set" / name / f"{seed}.png", np.ascontiguousarray(view(pictures[name], seed)[0][::4, ::4]))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        safetensors.save_file(create_network("test_resnet.r160_in1k").state_dict(), tmp_path / "w.safetensors")
    table = {"network": "test_resnet.r160_in1k", "weights": str(tmp_path / "w.safetensors"), "pooling": "gem"}
    table |= {"scales": [1.0], "whiten": "none", "max_side": 64, "dimensions": 96}
    head = {"name": "tiny", "title": "Tiny", "source": "-", "filter": "global", "image": {"max_side": 64}}
    recipe = Recipe.model_validate({**head, "global": table})
    labelled = load_labelled(tmp_path / "set")
    found = study_incremental(labelled, recipe, steps=2, course=Course(epochs=2))
    assert len(found.results) == 2 * (3 * len(ARMS) + 1)
    found.write(tmp_path / "out")
    with (tmp_path / "out" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["every"]) for row in rows] == [r.every for r in found.results]
    assert "backward-compatible" in found.table() and (tmp_path / "out" / "plot.svg").read_text().startswith("<svg")
    with pytest.raises(GroundTruthError, match="fewer steps"):
        study_incremental(labelled, recipe, steps=3)
