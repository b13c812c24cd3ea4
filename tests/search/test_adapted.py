"""An adapter chosen at query time against a collection indexed anew with it as the recipe's whitening."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("safetensors")

from two_adapters import built, parts

import resight as rs
from resight.cli.main import app
from resight.describe.describer import Describer
from resight.errors import CollectionError, QueryError, RecipeError
from resight.evaluation.protocol import evaluate
from resight.projection.projection import Projection
from resight.recipes import Recipe
from resight.search.collection import Collection, Example
from resight.search.upgrade import upgrade
from resight.server.settings import Settings
from service import running

pytestmark = pytest.mark.usefixtures("sketched_once")

NAMES = ("astronaut", "chelsea", "coffee", "rocket", "brick", "moon")
DIFFUSED = {"rerank": [{"method": "diffusion", "k": 5}]}


@pytest.fixture(scope="module")
def photos(tmp_path_factory, pictures, view, save):
    folder = tmp_path_factory.mktemp("photos")
    for name in NAMES:
        for seed in range(3 if name in ("coffee", "moon", "brick") else 2):
            save(folder / name / f"{seed}.png", np.ascontiguousarray(view(pictures[name], seed)[0][::4, ::4]))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return parts(tmp_path_factory.mktemp("recipe"))


def indexed(recipe, photos, into):
    collection = Collection.create(into, recipe)
    collection.add([photos], workers=1)
    return collection


def answers(collection, photos):
    """Of a picture, a stored one, one's part, several with one that is not meant, and of some images alone."""
    asked = [collection.search(photos / "coffee" / "1.png"), collection.search(4)]
    asked.append(collection.search(photos / "moon" / "0.png", box=(5, 5, 60, 50)))
    examples = [
        Example(photos / "brick" / "0.png"),
        Example(9, weight=0.5),
        Example(photos / "moon" / "2.png", None, -0.3),
    ]
    asked.append(collection.search_examples(examples))
    return asked


@pytest.mark.parametrize("more", [{}, DIFFUSED], ids=["plain", "diffused"])
def test_it_is_as_if_indexed_anew(made, photos, tmp_path, more):
    adapted, plain, whitened = built(made, more)
    with indexed(adapted, photos, tmp_path / "one") as one:
        assert one.adapter == "joint" and one.fingerprint == Describer(plain).fingerprint
        found = {None: answers(one, photos)}
        for name in ("goods", "joint", "none"):
            one.adapter = name
            found[name] = answers(one, photos)
        assert "adapter joint" not in one.learned()
    for name, recipe in {**whitened, "none": plain}.items():
        with indexed(recipe, photos, tmp_path / name) as anew:
            for ours, theirs in zip(found[name], answers(anew, photos), strict=True):
                by_id = [dict(zip(r.ids.tolist(), r.scores.tolist(), strict=True)) for r in (ours, theirs)]
                assert by_id[0].keys() == by_id[1].keys()
                for image, score in by_id[1].items():
                    assert by_id[0][image] == pytest.approx(score, abs=2e-5, rel=1e-5)
    for default, named in zip(found[None], found["joint"], strict=True):
        assert np.array_equal(default.ids, named.ids) and np.array_equal(default.scores, named.scores)
    assert not np.allclose(found["joint"][0].scores, found["goods"][0].scores, atol=1e-3)


def test_adapters_are_added_to_a_collection_that_has_none(made, photos, tmp_path):
    adapted, plain, _ = built(made)
    with indexed(plain, photos, tmp_path / "c") as collection:
        stored = collection.fingerprint
    report = upgrade(tmp_path / "c", adapted, workers=1)
    assert report.changed and report.described == 0
    with Collection.open(tmp_path / "c") as later, indexed(adapted, photos, tmp_path / "anew") as anew:
        assert later.adapters == anew.adapters and later.fingerprint == stored
        for one, other in zip(answers(later, photos), answers(anew, photos), strict=True):
            assert one.ids.tolist() == other.ids.tolist()
            np.testing.assert_array_equal(one.scores, other.scores)


def test_parts_of_a_collection_and_all_of_it_agree(made, photos, tmp_path):
    adapted, _, _ = built(made)
    with indexed(adapted, photos, tmp_path / "c") as collection:
        collection.set_metadata({n: {"kept": n % 2 == 0} for n in range(1, 16)})
        from resight.store.where_text import parse_all

        whole, part = (collection.search(3, where=w) for w in (None, parse_all(["kept = true"])))
        scores = dict(zip(whole.ids.tolist(), whole.scores.tolist(), strict=True))
        assert len(part) == 7 and all(
            scores[i] == s for i, s in zip(part.ids.tolist(), part.scores.tolist(), strict=True)
        )
        (described,) = [collection.describe_examples([Example(3)])]
        ranking, _ = collection.rank_described(described, adapter="goods")
        again = collection.reopened()
        again.adapter = "goods"
        assert np.array_equal(again.search(3).scores, ranking.scores)
        collection.remove([2])
        assert 2 not in collection.search(3).ids  # norms are of the images there are


def test_a_service_is_asked_for_one_too(made, photos, tmp_path):
    adapted, _, _ = built(made)
    with indexed(adapted, photos, tmp_path / "c") as collection:
        wanted = {}
        for name in collection.adapters:
            collection.adapter = name
            wanted[name] = collection.search(3)
    with (
        running(tmp_path / "c", Settings(port=0, state=tmp_path / "state")) as served,
        rs.connect(served.url) as remote,
    ):
        assert remote.adapters == ("joint", "goods", "none") and remote.adapter == "joint"
        for name, ranking in wanted.items():
            remote.adapter = name
            found = remote.search(3)
            assert np.array_equal(found.ids, ranking.ids)
            np.testing.assert_allclose(found.scores, ranking.scores, atol=1e-6)
        with pytest.raises(QueryError, match="joint, goods, none"):
            remote.adapter = "cars"
        refused = served.http.post("/v1/searches", json={"examples": [{"image": 3}], "adapter": "cars"})
        assert refused.status_code == 422 and "joint, goods, none" in refused.json()["error"]["message"]


def test_commands_name_one_and_errors_list_them(made, photos, tmp_path):
    adapted, plain, whitened = built(made)
    indexed(adapted, photos, tmp_path / "c").close()
    run = CliRunner()
    assert "joint, goods, none; joint unless" in run.invoke(app, ["info", str(tmp_path / "c")]).stdout
    said = run.invoke(app, ["search", str(tmp_path / "c"), "id:3", "--as", "goods", "--json", "--all"])
    assert said.exit_code in (0, 1)
    with Collection.open(tmp_path / "c") as collection:
        collection.adapter = "goods"
        assert [r["score"] for r in json.loads(said.stdout)["queries"][0]["results"]] == pytest.approx(
            collection.search(3, top=50).scores[1:].tolist(), abs=1e-6
        )
        with pytest.raises(QueryError, match="no adapter 'things'; there are joint, goods, none"):
            collection.adapter = "things"
        with pytest.raises(QueryError, match="joint, goods, none"):
            collection.rank_described(collection.describe_examples([Example(3)]), adapter="")
    said = run.invoke(app, ["search", str(tmp_path / "c"), "id:3", "--as", "things"])
    assert said.exit_code == 2 and "joint, goods, none" in said.stderr
    with indexed(plain, photos, tmp_path / "p") as collection, pytest.raises(QueryError, match="there are none"):
        collection.adapter = "goods"
    reports = [evaluate(photos, adapted, adapter="goods"), evaluate(photos, whitened["goods"])]
    assert reports[0].figures.mean_average_precision == pytest.approx(reports[1].figures.mean_average_precision)
    assert reports[0].protocol.fitted_on == {"adapter goods": "made up"}


def test_what_does_not_go_with_it_says_so(made, photos, tmp_path):
    adapted, _, _ = built(made)
    table = adapted.model_dump(by_alias=True, exclude_none=True)
    for change, said in (
        ({"hash": {"bits": 32}, "filter": "hash"}, "codes"),
        ({"rerank": [{"method": "patches"}]}, "regions"),
        ({"query": {"turns": 4, "merge": "mean"}}, "before an adapter projects them"),
        ({"adapters": {"files": {"a": "x"}, "default": "b"}}, "none of a, none"),
        ({"adapters": {"files": {"none": "x"}, "default": "none"}}, "call the adapter otherwise"),
    ):
        with pytest.raises(ValueError, match=said):
            Recipe.model_validate({**table, **change})
    with indexed(adapted, photos, tmp_path / "c") as collection:
        from resight.search.index_tuning import Wanted

        with pytest.raises(CollectionError, match=r"\[adapters\], among which each search chooses"):
            collection.tune(Wanted(recall=0.9))
    mean, matrix = made[2][0]
    for where in (adapted.adapters.files["goods"],):
        Projection(mean, matrix, "pca-whitening", 9, "made up", "of others").save(where)
    with Collection.open(tmp_path / "c") as collection:
        collection.adapter = "goods"
        with pytest.raises(CollectionError, match="learned of other vectors"):
            collection.search(3)
    Path(adapted.adapters.files["joint"]).unlink()
    with Collection.open(tmp_path / "c") as collection:  # one whose file is gone is in nobody else's way
        with pytest.raises(RecipeError, match="joint"):
            collection.search(3)
        collection.adapter = "none"
        assert collection.search(3).ids[0] == 3
    from resight.cluster.indexing import check_recipe

    with pytest.raises(CollectionError, match="not done in shards"):
        check_recipe(adapted)
    with pytest.raises(RecipeError, match=r"missing\.safetensors"):
        Collection.create(
            tmp_path / "m", Recipe.model_validate({**table, "adapters": {"files": {"joint": "/missing.safetensors"}}})
        ).search(photos / "moon" / "0.png")
