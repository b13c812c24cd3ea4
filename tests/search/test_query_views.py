"""Queries looked at more than once: frames by marked pixels, similarities by describing each view by hand."""

import json
import math
from itertools import pairwise

import cv2
import numpy as np
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from resight.cli.main import app
from resight.errors import QueryError, RecipeError
from resight.images.image import Image
from resight.local.features import LocalFeatures
from resight.recipes import Recipe, load_recipe
from resight.recipes.query_stage import QueryStage
from resight.recipes.recipe import parse_recipe
from resight.search.collection import Collection, Example
from resight.search.query_views import views_of

FOUR = QueryStage(turns=4)


def feature(x, y, angle):
    ones = np.ones(1, np.float32)
    return LocalFeatures(np.float32([[x, y]]), ones, np.float32([angle]), ones, np.ones((1, 4), np.float32))


@pytest.mark.parametrize(("turns", "scale"), [(4, 1), (4, 0.5), (12, 1)])
def test_a_pixel_found_in_a_view_is_where_it_was(turns, scale):
    """A blot and, to the right of it, a fainter one, which says the angle; the pixels are half of the original's."""
    pixels = np.zeros((90, 120, 3), np.uint8)
    pixels[40:46, 58:64], pixels[40:46, 78:84] = 255, 120
    pixels = cv2.GaussianBlur(pixels, (0, 0), 1)
    image = Image(pixels, (240, 180), "drawn")
    stage = QueryStage(turns=turns, scales=(1.0, scale) if scale < 1 else (1.0,))
    views = views_of(image, stage)
    assert len(views) == stage.views and np.array_equal(views[0].image.pixels, pixels)
    for number, view in enumerate(views):
        seen = view.image.pixels[..., 0].astype(float)
        at = np.unravel_index(np.argmax(cv2.GaussianBlur(seen, (0, 0), 2)), seen.shape)
        rows, columns = np.mgrid[: seen.shape[0], : seen.shape[1]]
        around = seen * (np.hypot(rows - at[0], columns - at[1]) < 8 * view.image.scale[0] * 2)
        xy = np.array([(around * columns).sum(), (around * rows).sum()]) / around.sum()
        second = seen - around
        other = np.array([(second * columns).sum(), (second * rows).sum()]) / second.sum()
        angle = math.atan2(*(other - xy)[::-1]) % (2 * math.pi)
        restored = view.restored(feature(*view.image.original_xy(xy[None])[0], angle))
        np.testing.assert_allclose(restored.xy[0], [121.5, 85.5], atol=1.0, err_msg=str(number))
        assert min(restored.angle[0], 2 * math.pi - restored.angle[0]) < 0.03


def test_local_features_of_all_views_lie_in_the_querys_frame(indexed, photos):
    """SIFT turns with the picture, so that views of one box have nearly the same features, put back."""
    box = (30.0, 20.0, 290.0, 190.0)
    with Collection.open(indexed) as collection:
        collection.query = FOUR
        (example,) = collection.describe_examples([Example(photos / "coffee-1.png", box)])
        plain = collection._described(photos / "coffee-1.png", box).local
    np.testing.assert_array_equal(example.description.local.xy, plain.xy)
    assert len(example.views) == 3
    for view in example.views:
        gap = np.linalg.norm(plain.xy[:, None] - view.local.xy[None], axis=2)
        near, to = gap.min(axis=1), gap.argmin(axis=1)
        turned = np.abs((plain.angle - view.local.angle[to] + math.pi) % (2 * math.pi) - math.pi)
        assert (near < 1).mean() > 0.8 and np.median(turned[near < 1]) < 0.1
        assert view.local.colours.frame == plain.colours.frame == box


def test_the_view_with_the_most_inliers_counts(indexed, photos, pictures):
    """A query that is wrong way round but for one of its views finds what the right way round does."""
    turned = np.ascontiguousarray(np.rot90(pictures["chelsea"]))
    with Collection.open(indexed) as collection:
        once, before = collection.search_timed(turned)
        collection.query = FOUR
        found, after = collection.search_timed(turned)
        assert found.ids[: found.accepted].tolist() == once.ids[: once.accepted].tolist() != []
        for one, other in zip(once.evidence[:2], found.evidence[:2], strict=True):
            assert other.inliers >= one.inliers
            mapped = cv2.perspectiveTransform(np.float64([other.query_xy]), other.homography)[0]
            assert np.median(np.linalg.norm(mapped - other.result_xy, axis=1)) < 3
        assert after.comparisons > 3 * before.comparisons


@pytest.fixture(scope="module")
def networked(tmp_path_factory, photos):
    torch = pytest.importorskip("torch")
    import safetensors.torch

    from resight.networks.architectures import create_network

    folder = tmp_path_factory.mktemp("turned")
    torch.manual_seed(0)
    safetensors.torch.save_file(create_network("resnet10t").state_dict(), folder / "w.safetensors")
    table = {"network": "resnet10t", "layer": "layer2", "max_side": 96, "whiten": "none", "dimensions": 128}
    facts = {"name": "tiny", "title": "", "source": "", "filter": "global", "image": {"max_side": 128}}
    recipe = Recipe.model_validate({**facts, "global": {**table, "weights": str(folder / "w.safetensors")}})
    with Collection.create(folder / "collection", recipe) as collection:
        collection.add([photos], workers=1)
        yield collection
        collection.query = None


def by_hand(collection, views):
    """V×N cosines of pictures to the images by id, each described by itself."""
    vectors = [collection._describer.describe(np.ascontiguousarray(view)).global_descriptor for view in views]
    ids = range(1, len(collection) + 1)
    stored = np.stack([collection._open_searcher().stored(i - 1).global_descriptor for i in ids])
    return np.stack(vectors) @ stored.T, np.stack(vectors)


def little(pixels, quarters, side=96):
    """As large as the network sees it, so that nothing is resized before or after the turn."""
    height, width = pixels.shape[:2]
    factor = side / max(height, width)
    small = cv2.resize(pixels, (round(width * factor), round(height * factor)), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(np.rot90(small, quarters))


def scores(ranking):
    return ranking.scores[np.argsort(ranking.ids)]


def test_similarities_are_of_the_best_view(networked, pictures):
    query = little(pictures["rocket"], 3)
    cosines, vectors = by_hand(networked, [np.rot90(query, k) for k in range(4)])
    networked.query = None
    np.testing.assert_allclose(scores(networked.search(query)), cosines[0], atol=2e-6)
    networked.query = FOUR
    found = networked.search(query)
    np.testing.assert_allclose(scores(found), cosines.max(axis=0), atol=2e-6)
    assert networked.entry(int(found.ids[0])).origin.endswith("rocket-1.png")
    assert np.abs(cosines.max(axis=0) - cosines[0]).max() > 0.002
    networked.query = QueryStage(turns=4, merge="mean")
    mean = vectors.sum(axis=0) / np.linalg.norm(vectors.sum(axis=0))
    stored = np.stack([networked._open_searcher().stored(i).global_descriptor for i in range(len(networked))])
    np.testing.assert_allclose(scores(networked.search(query)), stored @ mean, atol=2e-6)
    networked.query = QueryStage(scales=(1.0, 0.5))
    cosines, _ = by_hand(networked, [query, little(query, 0, side=48)])
    np.testing.assert_allclose(scores(networked.search(query)), cosines.max(axis=0), atol=2e-6)


def test_several_examples_are_as_similar_as_the_mean_of_their_best_views(networked, pictures):
    queries = [little(pictures[name], k) for name, k in (("coffee", 1), ("moon", 2))]
    best = [by_hand(networked, [np.rot90(q, k) for k in range(4)])[0].max(axis=0) for q in queries]
    networked.query = FOUR
    found = networked.search_examples([Example(queries[0], weight=2.0), Example(queries[1])])
    np.testing.assert_allclose(scores(found), (2 * best[0] + best[1]) / 3, atol=2e-6)


def test_a_query_of_the_collection_is_looked_at_too(networked):
    """Its stored description has no turns, so it is described again."""
    networked.query = FOUR
    found = networked.search(1)
    assert found.ids[0] == 1
    plain = networked.search(networked.entry(1).origin)
    np.testing.assert_array_equal(found.scores, plain.scores)


def test_tables_that_do_not_fit():
    asmk = load_recipe("rootsift-asmk")
    text = "name = 'a'\ntitle = ''\nsource = ''\nfilter = 'global'\n[global]\nnetwork = 'resnet50'\n[query]\n"
    assert parse_recipe(f"{text}turns = 8\n", "x", None).query == QueryStage(turns=8)
    for table, message in (
        ("turns = 0", "query.turns"),
        ("scales = [0.5]", "begin with 1.0"),
        ("scales = [1.0, 2.0]", "query.scales"),
        ("[[rerank]]\nmethod = 'expansion'", r"max.* has no one query"),
    ):
        with pytest.raises(RecipeError, match=message):
            parse_recipe(f"{text}{table}\n", "x", None)
    pooled = parse_recipe(f"{text}merge = 'mean'\n[[rerank]]\nmethod = 'expansion'\n", "x", None)
    assert pooled.fingerprint != pooled.model_copy(update={"query": None}).fingerprint
    assert "of vectors" in asmk.obstacle(QueryStage(merge="mean"))
    with pytest.raises(ValidationError, match="of vectors"):
        Recipe.model_validate({**asmk.model_dump(by_alias=True), "query": {"turns": 2, "merge": "mean"}})


def test_a_collection_refuses_what_its_recipe_does(indexed):
    with Collection.open(indexed) as collection, pytest.raises(QueryError, match=r"rootsift-asmk: .*of vectors"):
        collection.query = QueryStage(merge="mean")


def test_the_command_looks_again(indexed, pictures, save, tmp_path):
    query = save(tmp_path / "sideways.png", np.rot90(pictures["coffee"]))
    line = ["search", str(indexed), str(query), "--json"]
    plain, turned = (json.loads(CliRunner().invoke(app, line + more).stdout) for more in ([], ["--turns", "4"]))
    best = [answer["queries"][0]["results"][0] for answer in (plain, turned)]
    assert best[0]["path"] == best[1]["path"] and best[1]["inliers"] >= best[0]["inliers"] > 20
    refused = CliRunner().invoke(app, [*line, "--scales", "0.5,1"])
    assert refused.exit_code == 2 and "scales begin with 1.0" in refused.stderr


def test_a_collection_opened_again_looks_alike(indexed):
    with Collection.open(indexed) as collection:
        collection.query = FOUR
        with collection.reopened() as again:
            assert again.query == FOUR


def test_turns_come_in_order():
    image = Image(np.arange(24, dtype=np.uint8).reshape(2, 4, 3), (4, 2), "")
    views = views_of(image, FOUR)
    assert [v.image.size for v in views] == [(4, 2), (2, 4), (4, 2), (2, 4)]
    for one, other in pairwise(views):
        np.testing.assert_array_equal(other.image.pixels, np.rot90(one.image.pixels))
