"""Pooling of regions' scores, and regional diffusion against its parts done by hand."""

import numpy as np
import pytest

from resight.errors import RecipeError
from resight.search.ranking import Ranking
from resight.search.rerank import Database, Diffusion, RegionalDiffusion
from resight.search.rerank.regional import RegionGraph, gmp_by_image, pool_regions


def test_pooling_by_image():
    ids, scores = np.array([7, 3, 7, 3, 5]), np.array([1.0, 2, 4, -1, 0.5])
    for pooling, expected in (("max", [2, 0.5, 4]), ("sum", [1, 0.5, 5])):
        images, pooled = pool_regions(scores, ids, pooling)
        assert images.tolist() == [3, 5, 7]
        assert pooled.tolist() == expected


def test_gmp_shares_the_weight_of_copies():
    x = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
    # (K + I)w = 1: copies weigh 1/3 each, a region unlike all others 1/2, and so does an image's only one.
    np.testing.assert_allclose(gmp_by_image(x, np.array([4, 4, 4, 2])), [1 / 3, 1 / 3, 1 / 2, 1 / 2])


@pytest.mark.parametrize("pooling", ["max", "sum", "gmp"])
def test_regions_are_diffused_together_and_pooled(draw, pooling):
    vectors, ids = draw(60), np.random.default_rng(3).integers(20, size=60)
    query, database = draw(3, seed=8), Database(ids, vectors)
    images = np.unique(ids)
    ranking = Ranking(images, np.linspace(1, 0, len(images), dtype=np.float32), (None,) * len(images), 0.0, True)
    diffusion = Diffusion(k=8, sources=5, alpha=0.9, tolerance=1e-12, iterations=300)
    new = RegionalDiffusion(pooling=pooling, diffusion=diffusion).rerank(query, ranking, database)
    scores = diffusion.scores(query, vectors)  # against dense algebra in test_diffusion
    expected = {}
    for image in images.tolist():
        own = scores[ids == image]
        gram = vectors[ids == image] @ vectors[ids == image].T
        weights = np.linalg.inv(gram + np.eye(len(own))) @ np.ones(len(own))
        expected[image] = {"max": own.max(), "sum": own.sum(), "gmp": own @ weights}[pooling]
    best = sorted((i for i in expected if expected[i] > 0), key=lambda i: -expected[i])
    assert len(best) > 10
    assert new.ids[: len(best)].tolist() == best
    np.testing.assert_allclose(new.scores[: len(best)], [expected[i] for i in best], rtol=1e-4)


def test_only_the_first_images_are_diffused_over(draw):
    database = Database(np.repeat(np.arange(10), 3), draw(30))
    ranking = Ranking(np.arange(10)[::-1], np.linspace(1, 0, 10, dtype=np.float32), (None,) * 10, 0.0, True)
    new = RegionalDiffusion(depth=4, diffusion=Diffusion(k=3, sources=3)).rerank(draw(2, seed=1), ranking, database)
    assert sorted(new.ids[:4]) == [6, 7, 8, 9]
    assert new.ids[4:].tolist() == [5, 4, 3, 2, 1, 0]


def test_another_pooling():
    with pytest.raises(RecipeError, match="'max', 'sum' or 'gmp'"):
        RegionalDiffusion(pooling="mean")


def test_the_graph_of_all_regions_is_made_once_and_is_of_no_ranking_that_lacks_some(draw, tmp_path, monkeypatch):
    ids = np.random.default_rng(3).integers(20, size=60)
    database, query = Database(ids, draw(60)), draw(3, seed=8)
    images = np.unique(ids)
    ranking = Ranking(images, np.linspace(1, 0, len(images), dtype=np.float32), (None,) * len(images), 0.0, True)
    shorter = Ranking(images[1:], ranking.scores[1:], ranking.evidence[1:], 0.0, True)
    method = RegionalDiffusion(diffusion=Diffusion(k=8, sources=5))
    wanted, wanted_shorter = (method.rerank(query, each, database) for each in (ranking, shorter))
    method.graph(database).save(tmp_path / "graph")
    made = RegionGraph.load(tmp_path / "graph")
    found = method.rerank(query, shorter, database, made)
    assert found.ids.tolist() == wanted_shorter.ids.tolist() and images[0] not in found.ids
    monkeypatch.setattr(Diffusion, "graph", None)
    found = method.rerank(query, ranking, database, made)
    assert found.ids.tolist() == wanted.ids.tolist()
    np.testing.assert_array_equal(found.scores, wanted.scores)
