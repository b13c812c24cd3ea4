"""[expansion] joins = "vectors": a verified result's vector leads to an image that the query's own does not reach."""

import numpy as np
import pytest
from pydantic import ValidationError

from resight.describe.describer import Describer
from resight.describe.description import Description
from resight.recipes import Recipe, load_recipe
from resight.search.examples import DescribedExample
from resight.search.expansion import averaged
from resight.search.rerank.expansion import aqe
from resight.search.rerank.stages import Prepared
from resight.search.searcher import Searcher
from resight.store.indexing import finish_codebook
from resight.store.store import New, Store

# Cosines to the query: B 0.9, decoy 0.55, C 0.5; to the mean of query and B: decoy 0.36, C 0.68.
B, DECOY, C = (0.9, np.sqrt(1 - 0.81), 0), (0.55, -0.8, np.sqrt(1 - 0.9425)), (0.5, np.sqrt(0.75), 0)
QUERY = np.array([1, 0, 0, 0, 0, 0, 0, 0], np.float32)


def verified(shortlist, **expansion):
    table = load_recipe("rmac-densenet169-verified").model_dump(by_alias=True)
    table["global"]["dimensions"] = 8
    table["local"]["max_features"] = 200
    table["verify"]["shortlist"] = shortlist
    table["calibration"] = {"intercept": -5.0, "inliers": 2.0, "similarity": 10.0, "fitted_on": "by hand"}
    return Recipe.model_validate(table | {"expansion": expansion or None})


@pytest.fixture(scope="module")
def store(tmp_path_factory, pictures, view, recipe):
    """B and C show what the query does, the decoy something else."""
    few = recipe.model_copy(update={"local": recipe.local.model_copy(update={"max_features": 200})})
    describer, items = Describer(few), []
    shown = [
        (B, view(pictures["astronaut"], 1)[0]),
        (DECOY, pictures["chelsea"]),
        (C, view(pictures["astronaut"], 2)[0]),
    ]
    for place, (vector, pixels) in enumerate(shown):
        found = describer.describe(pixels)
        vector = np.append(vector, np.zeros(5)).astype(np.float32)
        items.append(New(f"/{place}.png", str(place), 1, 1, Description(found.size, vector, found.local)))
    with Store.create(tmp_path_factory.mktemp("c") / "c", verified(2), "f") as made:
        made.add(items, [], None)
        finish_codebook(made, lambda _: None)
        yield made, Description((320, 320), QUERY, describer.describe(pictures["astronaut"]).local)


def rank(store, recipe, *examples):
    return Searcher(store[0], recipe).rank_examples([DescribedExample(e) for e in examples or (store[1],)], None)


def test_a_verified_result_leads_to_the_next(store):
    plain, cost = rank(store, verified(2))
    assert plain.ids.tolist()[:1] == [1] and plain.accepted == 1
    assert dict(zip(plain.ids.tolist(), plain.evidence, strict=True))[3] is None  # beyond the shortlist
    expanded, more = rank(store, verified(2, joins="vectors", inliers=10, accept=0.5))
    found = dict(zip(expanded.ids.tolist(), expanded.evidence, strict=True))
    assert expanded.accepted == 2 and set(expanded.ids[:2].tolist()) == {1, 3}
    assert found[3].inliers >= 10 and more.comparisons > cost.comparisons
    assert found[1].inliers == dict(zip(plain.ids.tolist(), plain.evidence, strict=True))[1].inliers
    # Inliers are those with the query where the shortlist reaches it; similarity is the mean of that to it and to B.
    deep, _ = rank(store, verified(3))
    seen = dict(zip(deep.ids.tolist(), deep.evidence, strict=True))
    vectors = np.array([np.append(v, np.zeros(5)) for v in (B, DECOY, C)])
    mean = (vectors @ QUERY + vectors @ vectors[0]) / 2
    for image, score in zip(expanded.ids.tolist(), expanded.scores.tolist(), strict=True):
        agreed = 0.3 + 0.7 * seen[image].agreement
        odds = -5 + 2 * agreed * np.log1p(max(0, seen[image].inliers - 4)) + 10 * mean[image - 1]
        if seen[image].inliers:
            assert score == pytest.approx(1 / (1 + np.exp(-odds)), rel=1e-4)


def test_the_mean_is_that_of_average_query_expansion(store):
    vectors = np.array([np.append(v, np.zeros(5)) for v in (B, DECOY, C)], np.float32)
    mean = aqe(QUERY, vectors, np.array([0]))
    searcher = Searcher(store[0], verified(2, joins="vectors", inliers=10, accept=0.5))
    (evidence, _) = searcher.verify(
        store[1], searcher._assign(store[1].local), None, np.array([0]), searcher.recipe.verify
    )
    similarity = vectors @ QUERY
    made = averaged(searcher, DescribedExample(store[1]), similarity, evidence)
    found = made.description.global_descriptor
    np.testing.assert_allclose(found / np.linalg.norm(found), mean, atol=1e-6)
    # Its length makes products the means of the cosines to the query and to B.
    np.testing.assert_allclose(vectors @ found, (vectors @ QUERY + vectors @ vectors[0]) / 2, atol=1e-6)


def test_re_ranking_sees_a_unit_query(store, monkeypatch):
    """Thresholds of cosines, as of explore-exploit, are of unit vectors."""
    table = verified(2, joins="vectors", inliers=10, accept=0.5).model_dump(by_alias=True)
    searcher = Searcher(store[0], Recipe.model_validate(table | {"rerank": [{"method": "expansion", "k": 1}]}))
    lengths, rerank = [], Prepared.rerank

    def seen(self, asked, ranking):
        lengths.append(np.linalg.norm(asked.vector))
        return rerank(self, asked, ranking)

    monkeypatch.setattr(Prepared, "rerank", seen)
    searcher.rank_examples([DescribedExample(store[1])], None)
    assert len(lengths) == 2  # of the query, and of it with B
    np.testing.assert_allclose(lengths, 1, atol=1e-6)


def test_without_a_confirmed_result_nothing_changes(store):
    plain, _ = rank(store, verified(2))
    same, _ = rank(store, verified(2, joins="vectors", inliers=10_000))
    np.testing.assert_array_equal(plain.ids, same.ids)
    np.testing.assert_array_equal(plain.scores, same.scores)


def test_vectors_join_only_where_they_are_searched_by(recipe):
    table = recipe.model_dump(by_alias=True) | {"expansion": {"joins": "vectors"}}
    with pytest.raises(ValidationError, match='needs filter = "global"'):
        Recipe.model_validate(table)
