"""[[rerank]] in recipes, in searches and on files of vectors."""

import dataclasses
import inspect
import json
from typing import get_args

import numpy as np
import pytest
from safetensors.numpy import save_file

from resight.cli.rerank import parse_stage, rerank
from resight.describe.description import Description
from resight.errors import QueryError, RecipeError
from resight.recipes import Recipe, load_recipe
from resight.recipes.rerank_stages import (
    AugmentationStage,
    ManifoldStage,
    OfflineDiffusionStage,
    PatchStage,
    RegionalDiffusionStage,
    RerankStage,
)
from resight.search.ranking import Ranking
from resight.search.rerank import (
    Database,
    Diffusion,
    KReciprocal,
    ManifoldLayer,
    OfflineDiffusion,
    QueryExpansion,
    RegionalDiffusion,
    augmented,
)
from resight.search.rerank.patches import PatchReranker
from resight.search.rerank.stages import ONLINE
from resight.search.rerank.vectors import read_vectors, rerank_vectors
from resight.search.searcher import Searcher
from resight.store.store import New, Store

STAGES = get_args(get_args(RerankStage)[0])
UNTOLD = {"tolerance", "iterations"}  # of solvers, which recipes leave as they are


def method_of(stage):
    return get_args(stage.model_fields["method"].annotation)[0]


@pytest.mark.parametrize("stage", [s for s in STAGES if method_of(s) in ONLINE], ids=method_of)
def test_a_table_has_the_parameters_of_its_method(stage):
    fields = {name: field for name, field in stage.model_fields.items() if name != "method"}
    made = ONLINE[method_of(stage)]
    wanted = {field.name: field for field in dataclasses.fields(made) if field.name not in UNTOLD}
    assert fields.keys() == wanted.keys()
    for name, field in fields.items():
        if field.is_required():
            assert wanted[name].default is dataclasses.MISSING
        else:
            assert field.default == pytest.approx(wanted[name].default)


@pytest.mark.parametrize(
    ("stage", "function"),
    [
        (AugmentationStage, augmented),
        (OfflineDiffusionStage, OfflineDiffusion.build),
        (ManifoldStage, ManifoldLayer.fit),
        (PatchStage, PatchReranker),
        (RegionalDiffusionStage, RegionalDiffusion),
    ],
    ids=lambda each: getattr(each, "__name__", None),
)
def test_a_table_has_the_defaults_of_what_builds_it(stage, function):
    known = inspect.signature(function).parameters
    told = {name: field.default for name, field in stage.model_fields.items() if name in known}
    expected = {name: known[name].default for name in told if known[name].default is not inspect.Parameter.empty}
    assert {name: told[name] for name in expected} == expected
    assert len(told) >= 2


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def arc():
    """Vectors along an arc of 20 images and as many elsewhere, and a query at the arc's beginning."""
    rng = np.random.default_rng(0)
    angles = np.linspace(0, 1.6, 20)
    near = np.stack([np.cos(angles), np.sin(angles), *np.zeros((6, 20))], axis=1)
    far = rng.normal(size=(20, 8))
    return unit(np.concatenate([near, far])), unit(np.eye(8)[0])


def recipe(*stages):
    table = load_recipe("gem-densenet169").model_dump(by_alias=True)
    table["global"]["dimensions"] = 8
    return Recipe.model_validate(table | {"rerank": list(stages)})


EXPAND = {"method": "expansion", "k": 3, "alpha": 0.0}
DIFFUSE = {"method": "diffusion", "k": 4, "sources": 3}


def test_a_search_ranks_as_its_methods_do_one_after_the_other(tmp_path, arc):
    vectors, query = arc
    descriptions = [Description((9, 9), vector, None) for vector in vectors]
    descriptions.insert(7, Description((9, 9), None, None))  # without a vector: the last of the ranking
    new = [New(f"/{n}.png", str(n), 1, 1, description) for n, description in enumerate(descriptions)]
    with Store.create(tmp_path / "c", recipe(EXPAND, DIFFUSE), "f") as store:
        store.add(new, [], None)
        ids = store.snapshot().ids
        found, _ = Searcher(store).rank(Description((9, 9), query, None), None, None)
    described = np.delete(ids, 7)
    database = Database(described, vectors)
    ranking = Ranking(*by_cosine(described, vectors @ query), (None,) * 40, -np.inf, calibrated=False)
    for method in (QueryExpansion(3, 0.0), Diffusion(k=4, sources=3)):
        ranking = method.rerank(query, ranking, database)
    np.testing.assert_array_equal(found.ids, np.append(ranking.ids, ids[7]))
    np.testing.assert_allclose(found.scores[:-1], ranking.scores, rtol=1e-6)
    assert not np.array_equal(ranking.ids, by_cosine(described, vectors @ query)[0])


def by_cosine(ids, similarity):
    order = np.lexsort((ids, -similarity))
    return ids[order], similarity[order]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rerank": [{"method": "magic"}]}, "'magic'"),
        ({"rerank": [{"method": "egt"}]}, "threshold"),
        ({"rerank": [EXPAND], "filter": "asmk"}, r"\[asmk\]"),
    ],
)
def test_what_cannot_be_re_ranked_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        Recipe.model_validate(load_recipe("gem-densenet169").model_dump(by_alias=True) | change)
    late = load_recipe("multilayer-cnn").model_dump(by_alias=True) | {"rerank": [EXPAND]}
    with pytest.raises(ValueError, match="without a late fusion"):
        Recipe.model_validate(late)


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_vectors_of_files_are_normalised_and_re_ranked(tmp_path, arc, suffix):
    vectors, query = arc
    ids = np.arange(100, 140)
    file = tmp_path / f"vectors.{suffix}"
    if suffix == "npz":
        np.savez(file, ids=ids, vectors=3 * vectors, paths=[f"{i}.png" for i in ids])
    else:
        save_file({"ids": ids, "vectors": 3 * vectors}, file, {"paths": json.dumps([f"{i}.png" for i in ids])})
    read = read_vectors(file)
    np.testing.assert_allclose(read.database.vectors, vectors, atol=1e-6)
    assert read.paths[0] == "100.png"
    (ranking,) = rerank_vectors(read.database, query[None], [parse_stage("k-reciprocal:k1=5,k2=2,depth=none")], 7)
    plain = Ranking(*by_cosine(ids, vectors @ query), (None,) * 40, -np.inf, calibrated=False)
    by_hand = KReciprocal(depth=None, k1=5, k2=2).rerank(query, plain, Database(ids, vectors))
    np.testing.assert_array_equal(ranking.ids, by_hand.ids[:7])


def test_bad_files_and_stages_say_what_is_wrong(tmp_path):
    np.savez(tmp_path / "no.npz", ids=np.arange(2))
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04")
    (tmp_path / "torn.safetensors").write_bytes(b"{}")
    for name in ("no.npz", "torn.npz", "torn.safetensors", "absent.npz"):
        with pytest.raises(QueryError, match=name.replace(".", r"\.")):
            read_vectors(tmp_path / name)
    np.savez(tmp_path / "text.npz", ids=np.array(["a"]), vectors=np.ones((1, 2)))
    with pytest.raises(QueryError, match="ids must be integers"):
        read_vectors(tmp_path / "text.npz")
    for text, said in (("magic", "magic"), ("expansion:k", "KEY=VALUE"), ("expansion:k=x", "k "), ("egt", "threshold")):
        with pytest.raises(RecipeError, match=said):
            parse_stage(text)


def test_the_command_prints_what_the_library_ranks(tmp_path, arc, capsys):
    vectors, query = arc
    np.savez(tmp_path / "known.npz", ids=np.arange(40), vectors=vectors, paths=[f"{i}.png" for i in range(40)])
    np.savez(tmp_path / "asked.npz", ids=np.array([7]), vectors=query[None])
    rerank(tmp_path / "known.npz", tmp_path / "asked.npz", ["expansion:k=3,alpha=0"], 5)
    lines = capsys.readouterr().out.splitlines()
    (ranking,) = rerank_vectors(Database(np.arange(40), vectors), query[None], [parse_stage("expansion:k=3,alpha=0")])
    assert lines[0] == "query,rank,id,score,path,x1,y1,x2,y2" and len(lines) == 6
    for place, line in enumerate(lines[1:]):
        image = ranking.ids[place]
        assert line == f"7,{place + 1},{image},{ranking.scores[place]:.6g},{image}.png,,,,"
    np.savez(tmp_path / "other.npz", ids=np.array([7]), vectors=np.ones((1, 3)))
    with pytest.raises(QueryError, match="describe both with one recipe"):
        rerank(tmp_path / "known.npz", tmp_path / "other.npz", [], 5)
