"""Guided similarity separation trained on a folder of photos: the table [[rerank]] gss gets its model."""

import json
import tomllib

import numpy as np
import pytest
import tomli_w

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

import resight.learning.unlabelled.gss as module  # noqa: E402
from resight.describe.describer import Describer  # noqa: E402
from resight.describe.description import Description  # noqa: E402
from resight.errors import RecipeError  # noqa: E402
from resight.learning.run import FACTS  # noqa: E402
from resight.learning.schemes.reranking import HeldOut  # noqa: E402
from resight.learning.unlabelled.gss import GssTask  # noqa: E402
from resight.learning.unlabelled.run import train_unlabelled  # noqa: E402
from resight.learning.unlabelled.settings import load_unlabelled_settings  # noqa: E402
from resight.learning.unlabelled.stages import GssStage  # noqa: E402
from resight.recipes import load_recipe  # noqa: E402
from resight.search.collection import Collection  # noqa: E402
from resight.search.rerank.gss import Gss, GssModel  # noqa: E402
from resight.search.rerank.reranker import Database  # noqa: E402

STAGE = GssStage(kind="gss", neighbours=3)


def settings(**given):
    how = {"epochs": 4, "rate": 1e-3, "optimiser": "adam", "weight_decay": 0.0, "schedule": "constant"}
    return load_unlabelled_settings(None, ["unlabelled.neighbours=3"], mining="gss", accelerator="cpu", **(how | given))


def test_it_learns_as_the_model_fits_itself(rings):
    """``GssModel.fit`` is the oracle: the same β, losses and layers, step by step."""
    x, _ = rings(arcs=4, each=20)
    losses = []
    expected = GssModel.fit(
        x,
        fitted_on="",
        neighbours=3,
        epochs=20,
        seed=7,
        learning_rate=1e-3,
        on_epoch=lambda _, loss: losses.append(loss),
    )
    task = GssTask(x, STAGE, seed=7)
    optimiser = torch.optim.Adam(task.groups(), 1e-3)
    found = []
    for epoch in range(20):
        optimiser.zero_grad()
        (batch,) = task.batches(epoch)
        found.append(task.backward(batch, epoch, epoch, lambda loss: loss.backward())["loss"])
        optimiser.step()
    np.testing.assert_allclose(found, losses, rtol=1e-5)
    for name, tensor in task.module.state_dict().items():
        torch.testing.assert_close(tensor, expected.state_dict()[name], rtol=1e-4, atol=1e-6)


def test_of_many_photos_pairs_of_some_are_drawn(rings):
    x, _ = rings(arcs=4, each=20)
    task = GssTask(x, GssStage(kind="gss", neighbours=3, pairs_of=30), seed=1)
    drawn = [task.batches(epoch)[0].places for epoch in (0, 1, 0)]
    assert all(len(np.unique(d)) == 30 for d in drawn) and (drawn[0] != drawn[1]).any()
    np.testing.assert_array_equal(drawn[0], drawn[2])
    figures = task.backward(task.batches(3)[0], 3, 3, lambda loss: loss.backward())
    assert np.isfinite(figures["loss"]) and all(p.grad is not None for p in task.module.parameters())


def test_it_is_validated_by_as_many_neighbours_as_the_recipe_has(rings, monkeypatch):
    x, _ = rings(arcs=4, each=20)
    described, queries = ([Description((1, 1), row, None) for row in rows] for rows in (x[::2], x[1::2]))
    monkeypatch.setattr(module, "measure", lambda labelled, scores: np.stack(list(scores)))
    found = GssTask(x, STAGE, HeldOut(None, described, queries), query_neighbours=7).validate()
    database = Database(np.arange(40), x[::2])
    model = GssModel(x.shape[1], neighbours=3)
    for neighbours in (5, 7):
        gss = Gss.encode(model, database, query_neighbours=neighbours)
        expected = gss.transform(x[1::2]) @ gss.representations.vectors.T
        assert np.allclose(found["mAP"], expected, atol=1e-5) == (neighbours == 7)
    np.testing.assert_allclose(found["mAP before"], x[1::2] @ x[::2].T, atol=1e-6)


@pytest.fixture(scope="module")
def place(tmp_path_factory, recipe, pictures, view, save):
    """A folder of photos, a labelled set of others, and a recipe with a table that has no model."""
    folder = tmp_path_factory.mktemp("gss")
    for part, names in (("photos", ("astronaut", "chelsea", "coffee", "rocket")), ("set", ("brick", "moon", "grass"))):
        for name in names:
            for seed in range(3):
                where = folder / part / (name if part == "set" else "") / f"{name}-{seed}.png"
                save(where, np.ascontiguousarray(view(pictures[name], seed)[0][::3, ::3]))
    table = tomllib.loads(recipe.read_text())
    table["rerank"] = [{"method": "expansion", "k": 2}, {"method": "gss", "query_neighbours": 2}]
    (folder / "gss.toml").write_text(tomli_w.dumps(table))
    return folder


@pytest.fixture(scope="module")
def trained(place):
    return train_unlabelled(
        place / "gss.toml", [place / "photos"], settings=settings(), into=place / "r", validate=place / "set", workers=1
    )


def test_the_recipe_has_the_trained_model_and_searches(trained, place, tmp_path):
    facts = json.loads((trained / FACTS).read_text())
    assert facts["mined by"] == "gss" and 0 < facts["after"]["mean_average_precision"] <= 1
    assert facts["phases"]["unlabelled"]["steps"] == 4
    recipe = load_recipe(trained)
    stage = recipe.rerank[1]
    assert stage.query_neighbours == 2 and stage.model == str(trained / "rerank-2.safetensors")
    # What was learned is what ``GssModel.fit`` learns of the photos' descriptors.
    describer = Describer(load_recipe(place / "gss.toml"))
    paths = sorted((place / "photos").iterdir())
    x = np.stack([describer.describe(path).global_descriptor for path in paths])
    best = facts["phases"]["unlabelled"]["best_epoch"]
    expected = GssModel.fit(x, fitted_on="", neighbours=3, epochs=best, learning_rate=1e-3).state_dict()
    for name, tensor in GssModel.load(stage.model).state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-5)
    with Collection.create(tmp_path / "c", recipe) as collection:
        collection.add([place / "set"], workers=1)
        ranking = collection.search(place / "set" / "moon" / "moon-0.png")
        assert "moon" in collection.entry(int(ranking.ids[0])).origin


def test_an_interrupted_training_goes_on(trained, place, tmp_path):
    def stop(phase, done, total):
        if phase == "epoch 3 of 4":
            raise KeyboardInterrupt

    how = {"settings": settings(), "validate": place / "set", "workers": 1}
    with pytest.raises(KeyboardInterrupt):
        train_unlabelled(place / "gss.toml", [place / "photos"], into=tmp_path / "r", progress=stop, **how)
    again = train_unlabelled(place / "gss.toml", [place / "photos"], into=tmp_path / "r", resume=True, **how)
    expected, found = load_file(trained / "rerank-2.safetensors"), load_file(again / "rerank-2.safetensors")
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_what_does_not_do_is_said(place, recipe, tmp_path):
    with pytest.raises(RecipeError, match=r"has no table \[\[rerank\]\] with method = .gss. and model = "):
        train_unlabelled(recipe, [place / "photos"], settings=settings(), into=tmp_path / "r")
    with pytest.raises(RecipeError, match="gss trains no network: leave out loss, side"):
        settings(side=64, loss={"kind": "triplet"})
