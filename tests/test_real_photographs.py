"""The default recipe on real photographs with ground truth: a floor that a change must not fall through."""

import os
from pathlib import Path

import pytest

from resight.evaluation import evaluate, load_labelled, sample

DATA = Path(os.environ.get("RESIGHT_TEST_DATA", Path(__file__).resolve().parents[2] / "shared/data"))

# Well below what docs/measurements.md has: other versions of OpenCV may move a figure by a point, a defect by ten.
FLOORS = {"museum_mcv": 0.95, "grocery_packages": 0.50, "scenes_multiview": 0.85, "ukbench1000": 0.88}


@pytest.mark.data
@pytest.mark.parametrize("name", FLOORS)
def test_the_default_recipe_finds_what_it_used_to(name):
    if not (DATA / name).is_dir():
        pytest.skip(f"{DATA / name} is absent; RESIGHT_TEST_DATA names the folder of the sets")
    report = evaluate(sample(load_labelled(DATA / name), 40, 0))
    assert not report.not_indexed
    assert (report.figures.mean_average_precision or 0) >= FLOORS[name]
