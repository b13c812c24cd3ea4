"""The non-metric similarity: its network against its layers pair by pair, its file, and re-ranking by it."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from resight.artefact import save_artefact  # noqa: E402
from resight.errors import QueryError, RecipeError  # noqa: E402
from resight.search.rerank import initial_ranking  # noqa: E402
from resight.search.rerank.nonmetric import KIND, NonMetric, SimilarityNetwork, similarity  # noqa: E402
from resight.search.rerank.reranker import Database  # noqa: E402


def naive(network, query, vector):
    """One pair in double precision, layer by layer."""
    state = np.concatenate([query, vector]).astype(float)
    parameters = [p.detach().double().numpy() for p in network.parameters()]
    for i in range(0, len(parameters), 2):
        state = parameters[i] @ state + parameters[i + 1]
        if i + 2 < len(parameters):
            state = np.maximum(state, 0)
    return float(state[0])


@pytest.mark.parametrize("hidden", [(), (9,), (9, 7)])
def test_similarities_are_those_of_each_pair(draw, hidden):
    """Also of more queries and vectors than are compared at a time."""
    network = SimilarityNetwork(6, hidden, seed=3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1)
    queries, vectors = draw(19, seed=1), draw(300, seed=2)
    found = similarity(network, queries, vectors)
    assert found.shape == (19, 300) and found.dtype == np.float32
    for q in (0, 15, 16, 18):
        np.testing.assert_allclose(found[q], [naive(network, queries[q], v) for v in vectors], atol=1e-5)
    pairs = network(torch.tensor(queries), torch.tensor(vectors[:19])).detach().numpy()
    np.testing.assert_allclose(pairs, np.diag(found), atol=1e-5)
    assert similarity(network, queries[:0], vectors).shape == (0, 300)
    assert similarity(network, queries, vectors[:0]).shape == (19, 0)


def test_it_is_not_symmetric(draw):
    x = draw(12)
    found = similarity(SimilarityNetwork(6, (9,)), x, x)
    assert np.abs(found - found.T).max() > 0.1


@pytest.mark.parametrize("depth", [25, None])
def test_reranking_is_by_the_similarity(database, depth):
    network = SimilarityNetwork(6, (9, 7), seed=1)
    query = database.vectors[3]
    ranking = initial_ranking(query, database)
    new = NonMetric(network, depth).rerank(query, ranking, database)
    head = ranking.ids[:depth]
    expected = [naive(network, query, v) for v in database.vectors[database.rows(head)]]
    assert new.ids[: len(head)].tolist() == head[np.argsort(-np.array(expected), kind="stable")].tolist()
    assert new.ids[len(head) :].tolist() == ranking.ids[len(head) :].tolist()
    np.testing.assert_allclose(new.scores[: len(head)], sorted(expected, reverse=True), atol=1e-5)


def test_ties_are_by_image_id(draw):
    vectors = np.repeat(draw(1), 4, axis=0)
    database = Database(np.array([7, 3, 9, 1]), vectors)
    ranking = initial_ranking(vectors[0], database)
    new = NonMetric(SimilarityNetwork(6, (9,))).rerank(vectors[0], ranking, database)
    assert new.ids.tolist() == [1, 3, 7, 9] and np.ptp(new.scores) == 0


def test_saving_and_loading(tmp_path, draw):
    network = SimilarityNetwork(6, (9, 7), seed=2, fitted_on="pairs of landmarks")
    assert network.save(tmp_path / "s.safetensors") == network.save(tmp_path / "again.safetensors")
    loaded = SimilarityNetwork.load(tmp_path / "s.safetensors")
    assert (loaded.dimension, loaded.fitted_on) == (6, "pairs of landmarks")
    x = draw(5)
    np.testing.assert_array_equal(similarity(loaded, x, x), similarity(network, x, x))


def test_files_that_are_no_similarity_networks(tmp_path):
    path = tmp_path / "s.safetensors"
    with pytest.raises(RecipeError, match="no such file"):
        SimilarityNetwork.load(path)
    whole = {name: t.numpy() for name, t in SimilarityNetwork(6, (9, 7)).state_dict().items()}
    save_artefact(path, "pca", whole, {})
    with pytest.raises(RecipeError, match="where a nonmetric-similarity"):
        SimilarityNetwork.load(path)
    for changes in (
        {"layers.0.weight": np.zeros((9, 11), np.float32)},
        {"layers.2.weight": np.zeros((7, 8), np.float32)},
        {"layers.4.weight": np.zeros((2, 7), np.float32)},
        {"layers.2.bias": np.zeros(3, np.float32)},
        {"layers.1.weight": np.zeros((9, 9), np.float32)},
    ):
        save_artefact(path, KIND, whole | changes, {})
        with pytest.raises(RecipeError, match=r"s\.safetensors"):
            SimilarityNetwork.load(path)
    save_artefact(path, KIND, {"other": np.zeros(3, np.float32)}, {})
    with pytest.raises(RecipeError, match="no layers"):
        SimilarityNetwork.load(path)


def test_values_out_of_range(database, draw):
    network = SimilarityNetwork(5, (9,))
    with pytest.raises(QueryError, match="5 entries"):
        similarity(network, draw(1), draw(2))
    query = database.vectors[0]
    with pytest.raises(QueryError, match="5 entries"):
        NonMetric(network).rerank(query, initial_ranking(query, database), database)
    with pytest.raises(QueryError, match="query must be"):
        NonMetric(network).rerank(query[:5], initial_ranking(query, database), database)
    with pytest.raises(RecipeError, match="depth"):
        NonMetric(network, 0)
    for dimension, hidden in ((0, (9,)), (5, (0,))):
        with pytest.raises(RecipeError, match="hidden"):
            SimilarityNetwork(dimension, hidden)
