"""The benchmark of re-ranking: its rows are what `evaluate` and the definitions give, and its methods follow arcs."""

import dataclasses
import json
import shutil
import tomllib
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import tomli_w

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402

from resight.errors import RecipeError  # noqa: E402
from resight.evaluation import LabelledSet, Query, evaluate, load_labelled  # noqa: E402
from resight.evaluation.variants import measure  # noqa: E402
from resight.networks.architectures import create_network  # noqa: E402
from resight.search.collection import Collection  # noqa: E402
from resight.search.ranking import Evidence, Ranking  # noqa: E402
from resight.search.rerank import Database, initial_ranking  # noqa: E402

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TWICE = ("astronaut", "chelsea", "coffee", "rocket")  # things that `photos` has two views of


@pytest.fixture
def rerank(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import rerank

    return rerank


@pytest.fixture
def folder(tmp_path, photos):
    """`set`, of which each thing of two views asks for the other; `recipe`, of a tiny network that learned nothing."""
    shutil.copytree(photos, tmp_path / "set")
    pairs = [(f"{name}-1.png", f"{name}-2.jpg") for name in TWICE]
    truth = {
        "name": "pairs",
        "database": sorted(path.name for path in photos.glob("*.*g")),
        "queries": {a: {"positives": [b]} for a, b in [*pairs, *((b, a) for a, b in pairs)]},
    }
    (tmp_path / "set/gt.json").write_text(json.dumps(truth))
    (tmp_path / "recipe").mkdir()
    torch.manual_seed(0)
    safetensors.torch.save_file(create_network("resnet10t").state_dict(), tmp_path / "recipe/w.safetensors")
    table = tomllib.loads((resources.files("resight.recipes") / "rmac-densenet169-verified.toml").read_text("utf-8"))
    tiny = {"network": "resnet10t", "layer": "layer1", "max_side": 64, "dimensions": 64, "whiten": "none"}
    table["global"] = {**tiny, "weights": "w.safetensors"}
    (tmp_path / "recipe/recipe.toml").write_text(tomli_w.dumps(table))
    return tmp_path


@pytest.mark.slow
def test_rows_are_those_of_evaluate_and_of_the_definitions(rerank, folder, capsys):
    where = ["--set", str(folder / "set"), "--collections", str(folder / "kept"), "--workers", "1"]
    out = folder / "out.json"
    results = rerank.main([*where, "--recipe", str(folder / "recipe"), "--epochs", "1", "--out", str(out)])
    rows = {r.system: r for r in results}
    assert len(rows) == len(results) == 4 + len(rerank.methods(1, 0)) + len(rerank.LOCAL)
    labelled = load_labelled(folder / "set")
    kept = {}
    for path in (folder / "kept").iterdir():
        with Collection.open(path) as collection:
            kept[collection.recipe.name] = path, collection.recipe
            if collection.recipe.filter == "global":
                collection.export(folder / "vectors.npz", format="npz")
    for system, name in (
        ("global → verified → expanded", "rmac-densenet169-verified"),
        ("local: rootsift-asmk", "rootsift-asmk"),
    ):
        path, recipe = kept[name]
        assert rows[system].figures == evaluate(labelled, recipe, collection=path, workers=1).figures
    exported = np.load(folder / "vectors.npz")
    x, row = exported["vectors"], {Path(path).name: i for i, path in enumerate(exported["paths"])}
    asked = [row[query.path] for query in labelled.queries]
    assert rows["global"].figures.mean_average_precision == measure(labelled, (x @ x[i] for i in asked), row)

    def expanded(i):  # Chum et al.: the mean of the query and its ten best, of which it is none
        best = [j for j in np.argsort(-(x @ x[i]), kind="stable") if j != i][:10]
        return x @ (x[i] + sum(x[j] for j in best))

    assert rows["AQE"].figures.mean_average_precision == measure(labelled, map(expanded, asked), row)
    assert min(rows[name].figures.mean_average_precision for name in rerank.LOCAL) > 0.95
    assert {name for name in rows if rows[name].figures.mean_average_precision < 0.6} >= {"AQE", "diffusion, CG"}
    built = {"DBA", "DBA + αQE", "diffusion, offline", "IME", "GSS"}
    assert {r.system for r in results if r.build is not None} == built
    assert all(r.ms > 0 for r in results)
    printed = capsys.readouterr().out
    assert "| mAP, % | pairs |" in printed and "- EGT: ExploreExploit(threshold=0.42, depth=1000, k=250)" in printed
    written = json.loads(out.read_text())["results"]
    assert [r["system"] for r in written["rows"]] == [r.system for r in results]


def test_a_recipe_without_a_global_vector_is_refused(rerank, folder):
    where = ["--set", str(folder / "set"), "--collections", str(folder / "kept"), "--workers", "1"]
    with pytest.raises(RecipeError, match="rootsift-asmk: give --recipe one with one global vector"):
        rerank.main([*where, "--recipe", "rootsift-asmk"])


@pytest.fixture
def arcs(rerank):
    """(set, what was asked): four arcs of 20 images, whose ids are in no order; queries are the first of each."""
    rng = np.random.default_rng(0)
    angle = np.linspace(0, 2.4, 20)
    flat = np.column_stack([np.cos(angle), np.sin(angle)])
    x = np.concatenate([flat @ np.linalg.qr(rng.normal(size=(64, 2)))[0].T for _ in range(4)])
    x += rng.normal(size=x.shape) * 0.02
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    ids = rng.permutation(1000)[:80]
    names = [f"{arc}-{place}" for arc in range(4) for place in range(20)]
    queries = tuple(
        Query(f"{arc}-0", frozenset(f"{arc}-{place}" for place in range(1, 20)), frozenset()) for arc in range(4)
    )
    labelled = LabelledSet("arcs", Path("arcs"), Path(), tuple(names), queries)
    database, vectors = Database(ids, x), [x[20 * arc] for arc in range(4)]
    plain = [
        rerank.Answer(rerank.without(initial_ranking(vector, database), int(ids[20 * arc])), 0.0)
        for arc, vector in enumerate(vectors)
    ]
    confirmed = []  # that the far end of the arc was verified, which no cosine says
    for arc, answer in enumerate(plain):
        r, far = answer.ranking, ids[20 * arc + 19]
        evidence = tuple(_evidence(20) if i == far else None for i in r.ids)
        confirmed.append(rerank.Answer(dataclasses.replace(r, evidence=evidence), 0.0))
    named = dict(zip(names, ids.tolist(), strict=True))
    return labelled, rerank.Asked(named, database, vectors, {"global": plain, "verified": confirmed})


def _evidence(inliers):
    nothing = np.empty((inliers, 2), np.float32)
    return Evidence(inliers, inliers, None, None, None, nothing, nothing)


def test_methods_find_along_arcs_what_cosine_does_not(rerank, arcs):
    labelled, asked = arcs
    base = rerank.summarise(labelled, "global", asked.ids, asked.answers["global"])
    results = rerank.run_methods(labelled, asked, rerank.methods(2, 0))
    found = {r.system: r.figures.mean_average_precision for r in results}
    assert base.figures.mean_average_precision < 0.7
    diffusing = ("diffusion, CG", "diffusion, offline", "RDP", "EGT", "verified → QE")
    assert all(found[name] > 0.95 for name in diffusing)
    assert all(found[name] > base.figures.mean_average_precision for name in found)


def test_a_query_leaves_its_own_ranking_and_takes_its_evidence(rerank):
    ranking = Ranking(np.array([5, 2, 9]), np.float32([3, 2, 1]), (_evidence(4), None, _evidence(7)), 1.5, True)
    left = rerank.without(ranking, 5)
    assert left.ids.tolist() == [2, 9] and left.scores.tolist() == [2, 1]
    assert [None if e is None else e.inliers for e in left.evidence] == [None, 7]
    assert (left.threshold, left.calibrated) == (1.5, True)
    assert rerank.without(ranking, None).ids.tolist() == [5, 2, 9]
