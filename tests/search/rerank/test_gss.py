"""Guided similarity separation against dense naive loops in double precision, and on rings that cosine cannot tell."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.func import functional_call  # noqa: E402
from torch.nn.functional import normalize  # noqa: E402

from resight.errors import QueryError, RecipeError  # noqa: E402
from resight.search.ranking import Ranking  # noqa: E402
from resight.search.rerank import Database, compose, initial_ranking  # noqa: E402
from resight.search.rerank.gss import Gss, GssModel, convolution_graph, separation_loss, sparse  # noqa: E402


def naive_edges(vectors, k):
    """Similarities, 0 or more, where one of two is among the other's k nearest; N×N."""
    s = vectors.astype(float) @ vectors.T.astype(float)
    edges = np.zeros_like(s)
    for i in range(len(s)):
        for j in [j for j in np.argsort(-s[i]) if j != i][:k]:
            edges[i, j] = edges[j, i] = max(0.0, s[i, j])
    return edges


def naive_normalised(edges):
    n = len(edges)
    degree = [1 + sum(edges[i]) for i in range(n)]
    return np.array([[(edges[i, j] + (i == j)) / np.sqrt(degree[i] * degree[j]) for j in range(n)] for i in range(n)])


def naive_descriptors(x, adjacency, model):
    """As the authors' network(): W on the right, each ELU added to what the layer before had before its own."""
    x, before = x.astype(float), None
    for layer in model.layers:
        w, b = layer.weight.detach().double().numpy().T, layer.bias.detach().double().numpy()
        linear = np.array([sum(adjacency[i, j] * x[j] for j in range(len(x))) @ w + b for i in range(len(x))])
        x = np.where(linear > 0, linear, np.exp(np.minimum(linear, 0)) - 1)
        if before is not None:
            x = before + model.decay * x
        before = linear
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def shaken(dimension, **options):
    """A model far from the identity."""
    model = GssModel(dimension, **options)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def test_the_graph_is_symmetric_and_normalised(draw):
    x = draw(25)
    adjacency, degrees = convolution_graph(x, 3)
    edges = naive_edges(x, 3)
    assert (np.count_nonzero(edges, axis=1) > 3).any()  # some have edges that only the other side chose
    np.testing.assert_allclose(adjacency.toarray(), naive_normalised(edges), atol=1e-6)
    np.testing.assert_allclose(degrees, 1 + edges.sum(axis=1), rtol=1e-6)


def test_opposite_images_share_no_edge():
    x = np.array([[1, 0], [-1, 0]], np.float32)
    np.testing.assert_array_equal(convolution_graph(x, 1)[0].toarray(), np.eye(2))


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_layers_are_those_of_a_dense_loop(draw, database, layers):
    model = shaken(6, layers=layers, neighbours=3, decay=0.4)
    expected = naive_descriptors(database.vectors, naive_normalised(naive_edges(database.vectors, 3)), model)
    np.testing.assert_allclose(Gss.encode(model, database).representations.vectors, expected, atol=2e-5)


def test_what_is_learned_from_are_cosines_of_all_or_some(draw):
    """On which ``fit`` and ``resight train`` both stand."""
    x, model = draw(25), shaken(draw(1).shape[1], layers=2, neighbours=3)
    expected = naive_descriptors(x, naive_normalised(naive_edges(x, 3)), model)
    edges = sparse(convolution_graph(x, 3)[0])
    with torch.no_grad():
        found = model.similarities(torch.as_tensor(x), edges).numpy()
        some = model.similarities(torch.as_tensor(x), edges, torch.tensor([4, 17, 9])).numpy()
    np.testing.assert_allclose(found, expected @ expected.T, atol=1e-5)
    np.testing.assert_allclose(some, found[np.ix_([4, 17, 9], [4, 17, 9])], atol=1e-6)


def test_untrained_weights_are_nearly_the_identity():
    model = GssModel(50)
    for layer in model.layers:
        rest = layer.weight.detach().numpy() - np.eye(50)
        assert 5e-6 < rest[~np.eye(50, dtype=bool)].std() < 2e-5
        assert not np.diag(rest).any() and not layer.bias.detach().any()


def test_a_query_is_a_node_with_edges_of_its_own_only(draw, database):
    model, queries, k = shaken(6, layers=3, neighbours=3), draw(2, seed=8), 4
    inside = naive_edges(database.vectors, 3)
    encoded = Gss.encode(model, database, query_neighbours=k)
    for query, found in zip(queries, encoded.transform(queries), strict=True):
        edges = np.zeros((61, 61))
        edges[:60, :60] = inside
        s = database.vectors.astype(float) @ query
        for j in np.argsort(-s)[:k]:
            edges[60, j] = max(0.0, s[j])
        both = naive_descriptors(np.vstack([database.vectors, query]), naive_normalised(edges), model)
        np.testing.assert_allclose(found, both[60], atol=2e-5)
        np.testing.assert_allclose(encoded.representations.vectors, both[:60], atol=2e-5)


def test_the_loss_is_a_mean_over_pairs():
    s = np.random.default_rng(0).uniform(-1, 1, (5, 7))
    expected = np.mean([-0.7 / 2 * (max(0.0, value) - 0.3) ** 2 for value in s.ravel()])
    assert separation_loss(torch.as_tensor(s), 0.3, 0.7).item() == pytest.approx(expected, rel=1e-12)


def test_the_loss_drives_similarities_away_from_beta():
    s = torch.tensor([-0.4, 0.1, 0.29, 0.31, 0.8], dtype=torch.float64, requires_grad=True)
    separation_loss(s, 0.3).backward()
    assert np.sign(s.grad.numpy()).tolist() == [0, 1, 1, -1, -1]  # descent goes against these


def test_gradients_agree_with_finite_differences(draw):
    x = draw(7, 4).astype(float)
    adjacency = torch.as_tensor(naive_normalised(naive_edges(x, 2)))
    model = shaken(4, layers=3).double()
    names = [name for name, _ in model.named_parameters()]

    def loss(x, *parameters):
        states = functional_call(model, dict(zip(names, parameters, strict=True)), (x, lambda _, h: adjacency @ h))
        unit = normalize(states[-1])
        return separation_loss(unit @ unit.T, 0.5)

    assert torch.autograd.gradcheck(loss, (torch.as_tensor(x).requires_grad_(), *model.parameters()), fast_mode=True)


def rings(n, seed, kinds=4, d=24):
    """n noisy points of each of four parallel circles in 24 dimensions, which lie closer than they are wide."""
    axes = np.linalg.qr(np.random.default_rng(7).normal(size=(d, d)))[0]
    rng = np.random.default_rng(seed)
    kind = np.repeat(np.arange(kinds), n)
    x = 0.12 * rng.normal(size=(len(kind), d))
    turn = rng.uniform(0, 2 * np.pi, len(kind))
    x += np.outer(np.cos(turn), axes[0]) + np.outer(np.sin(turn), axes[1]) + 0.6 * axes[2 + kind]
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), kind


def mean_average_precision(rankings, kinds, queries):
    precisions = []
    for ranking, kind in zip(rankings, queries, strict=True):
        right = kinds[ranking.ids] == kind
        precisions.append(np.mean(np.cumsum(right)[right] / (np.flatnonzero(right) + 1)))
    return np.mean(precisions)


@pytest.mark.parametrize("pairs_of", [8192, 120])
def test_training_without_labels_separates_manifolds(pairs_of):
    (x, kinds), (queries, asked) = rings(50, 0), rings(8, 1)
    database, losses = Database(np.arange(len(x)), x), []
    rankings = [initial_ranking(q, database) for q in queries]

    def precision(model):
        gss = Gss.encode(model, database)
        new = [gss.rerank(q, r, database) for q, r in zip(queries, rankings, strict=True)]
        return mean_average_precision(new, kinds, asked)

    options = {"fitted_on": "rings", "neighbours": 8, "learning_rate": 2e-3, "pairs_of": pairs_of, "epochs": 100}
    model = GssModel.fit(x, **options, on_epoch=lambda epoch, loss: losses.append(loss))
    assert len(losses) == 100 and losses[-1] < losses[0] - 0.05
    cosine, untrained = mean_average_precision(rankings, kinds, asked), precision(GssModel(24, neighbours=8))
    assert cosine < 0.6
    assert precision(model) > max(cosine, untrained) + 0.2


def test_a_seed_decides():
    x = rings(20, 0)[0]
    models = [GssModel.fit(x, fitted_on="rings", epochs=3, pairs_of=50, seed=seed) for seed in (1, 1, 2)]
    first, again, other = (model.layers[0].weight.detach().numpy() for model in models)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_first_results_are_the_query_s_neighbours(database, draw):
    gss, query = Gss.encode(shaken(6), database, query_neighbours=3), draw(1, seed=6)[0]
    ranking = initial_ranking(query, database)
    new = gss.rerank(query, ranking, database)
    scores = gss.representations.vectors @ gss.transform(query[None])[0]
    assert new.ids.tolist() == database.ids[np.argsort(-scores)].tolist()
    np.testing.assert_allclose(new.scores, np.sort(scores)[::-1], atol=1e-6)
    verified = Ranking(ranking.ids[::-1], np.sort(ranking.scores)[::-1], (None,) * 60, -np.inf, calibrated=False)
    assert not np.allclose(gss.rerank(query, verified, database).scores, new.scores)
    assert compose(gss).rerank(query, ranking.top(3), database).ids.tolist() == new.ids.tolist()


def test_images_without_a_vector_and_a_query_without_neighbours(draw):
    x = draw(6)
    x[2] = 0
    database = Database(np.arange(6), x)
    gss = Gss.encode(shaken(6, neighbours=2), database, query_neighbours=0)
    assert not gss.representations.vectors[2].any()
    new = gss.rerank(x[0], initial_ranking(x[0], database).top(0), database)
    assert len(new) == 6 and np.isfinite(new.scores).all()


def test_saving_and_loading(tmp_path, database):
    model = shaken(6, layers=3, neighbours=5, decay=0.2, fitted_on="a folder")
    assert model.save(tmp_path / "gss.safetensors") == model.save(tmp_path / "again.safetensors")
    loaded = GssModel.load(tmp_path / "gss.safetensors")
    assert (loaded.neighbours, loaded.decay, loaded.fitted_on, len(loaded.layers)) == (5, 0.2, "a folder", 3)
    a, b = (Gss.encode(m, database).representations.vectors for m in (model, loaded))
    np.testing.assert_array_equal(a, b)
    with pytest.raises(RecipeError, match="no such file"):
        GssModel.load(tmp_path / "missing.safetensors")


def test_what_does_not_fit(draw, database):
    for wrong in ({"layers": 0}, {"neighbours": 0}, {"epochs": -1}, {"percentile": 101.0}, {"learning_rate": 0.0},
                  {"pairs_of": 1}, {"decay": 0.0}):  # fmt: skip
        with pytest.raises(RecipeError):
            GssModel.fit(draw(9), fitted_on="x", **wrong)
    with pytest.raises(QueryError, match="2 images"):
        GssModel.fit(draw(1), fitted_on="x")
    with pytest.raises(RecipeError, match="7 entries, not 6"):
        Gss.encode(GssModel(7), database)
    with pytest.raises(RecipeError, match="below 0"):
        Gss.encode(GssModel(6), database, query_neighbours=-1)
    with pytest.raises(QueryError, match="several rows"):
        Gss.encode(GssModel(6), Database(np.array([1, 1, 2]), draw(3)))
    with pytest.raises(QueryError, match="normalised"):
        Gss.encode(GssModel(6), database).transform(2 * draw(1))
