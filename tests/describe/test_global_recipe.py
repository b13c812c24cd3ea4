"""The published recipe fits the schema and, with published weights, finds the other view of a scene."""

import json
import os
import tomllib
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PilImage

from resight.recipes.recipe import Recipe

pytest.importorskip("torch")

from resight.describe.global_descriptor import GlobalDescriber

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("RESIGHT_TEST_DATA", ROOT.parent / "shared/data"))
DENSENET = DATA / "weights/densenet169_imagenet/densenet169_notop_fp16.npz"


def load():
    text = (resources.files("resight.recipes") / "gem-densenet169.toml").read_text(encoding="utf-8")
    return Recipe.model_validate(tomllib.loads(text))


def test_recipe_fits_the_schema():
    recipe = load()
    assert recipe.name == "gem-densenet169" and recipe.filter == "global"
    assert recipe.global_ is not None and recipe.global_.whitening == ""


@pytest.mark.skipif(not DENSENET.is_file(), reason=f"needs the published weights {DENSENET}")
def test_two_views_of_a_scene_are_nearer_than_two_scenes():
    folder = DATA / "scenes_multiview"
    scenes = {}
    for name, facts in json.loads((folder / "gt.json").read_text())["images"].items():
        scenes.setdefault(facts["instance"], []).append(name)
    stage = load().global_.model_copy(update={"weights": str(DENSENET), "max_side": 256})
    describer = GlobalDescriber(stage, None)
    views = []
    for scene in ("castle_courtyard", *sorted(scenes.keys() - {"castle_courtyard"})[:2]):
        for name in scenes[scene][:2]:
            with PilImage.open(folder / name) as photo:
                views.append(describer.raw(np.asarray(photo.convert("RGB"))))
    similarity = np.array(views) @ np.array(views).T
    np.fill_diagonal(similarity, 0)
    assert similarity.argmax(axis=1).tolist() == [1, 0, 3, 2, 5, 4]
