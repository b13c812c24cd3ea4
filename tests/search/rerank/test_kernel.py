"""Re-ranking by match kernels: the kernels by hand, on pictures, on lists and in a collection."""

import numpy as np
import pytest
from pydantic import ValidationError

from resight.cli.rerank import parse_stage
from resight.describe.describer import Describer
from resight.describe.description import Description
from resight.embedding.codebook import Codebook
from resight.geometry.regions import rigid_grid
from resight.local.asmk import encode
from resight.local.dynamic_match import dynamic_similarity, hamming_threshold
from resight.local.kernels import asmk, similarity, smk
from resight.local.regional_asmk import regional_asmk
from resight.recipes import Recipe, load_recipe
from resight.search.examples import DescribedExample
from resight.search.rerank import Database, initial_ranking
from resight.search.rerank.cache import Cache
from resight.search.rerank.stages import Asked, Source, prepare
from resight.search.searcher import Searcher
from resight.store.indexing import finish_codebook
from resight.store.store import New, Store

VECTORS = np.array([[1, 0], [0.9, 0.4358899], [0.8, 0.6], [0, 1]], np.float32)


@pytest.fixture(scope="module")
def shown(pictures, view, recipe):
    """Descriptions of four images, of which 2 and 3 are views of the query, the query, and a codebook."""
    describer = Describer(recipe.model_copy(update={"local": recipe.local.model_copy(update={"max_features": 150})}))
    views = [view(pictures["astronaut"], seed)[0] for seed in (0, 1)]
    found = [describer.describe(pixels) for pixels in (pictures["chelsea"], pictures["brick"], *views)]
    images = {i: Description(d.size, v, d.local) for i, (d, v) in enumerate(zip(found, VECTORS, strict=True))}
    asked = describer.describe(pictures["astronaut"])
    sample = np.concatenate([d.local.descriptors for d in found])
    return images, Description(asked.size, VECTORS[0], asked.local), Codebook.fit(sample, 32, seed=0, fitted_on="them")


def rows(description):
    return description.local.descriptors.astype(np.float32)


def lying_in(description, levels):
    """Which features lie in the whole and in each square of the grid, by pixel."""
    squares = [(0, 0, *description.size), *rigid_grid(*description.size, levels).tolist()]
    return [
        np.array([n for n, (x, y) in enumerate(description.local.xy + 0.5) if x1 <= x < x2 and y1 <= y < y2], np.int64)
        for x1, y1, x2, y2 in squares
    ]


def by_hand(kernel, query, image, codebook):
    if kernel == "dynamic":
        distance = np.linalg.norm(query.global_descriptor.astype(float) - image.global_descriptor)
        limit = int(hamming_threshold(distance, 128, fraction=0.5, decay=0.25))
        return dynamic_similarity(encode(rows(query), codebook, 2), encode(rows(image), codebook), limit)
    if kernel == "smk":
        asked, held = smk(rows(query), codebook, 2), smk(rows(image), codebook)
    else:
        asked, held = asmk(rows(query), codebook, 2), asmk(rows(image), codebook)
    if kernel == "r-asmk":
        held = regional_asmk(rows(image), lying_in(image, 3), codebook)
    return similarity(asked, held, alpha=2.0, threshold=0.1)


OPTIONS = "query_assignments=2,alpha=2,threshold=0.1,levels=3,fraction=0.5,decay=0.25"


@pytest.mark.parametrize("kernel", ["smk", "asmk", "r-asmk", "dynamic"])
def test_the_first_images_are_ranked_by_the_kernel(shown, kernel):
    images, query, codebook = shown
    database = Database(np.arange(4), VECTORS)
    start = initial_ranking(VECTORS[0], database)
    stage = parse_stage(f"kernel:kernel={kernel},depth=3,{OPTIONS}")
    expected = np.array([by_hand(kernel, query, images[image], codebook) for image in range(3)], np.float32)
    order = np.argsort(-expected, kind="stable")
    assert order[0] == 2 and len(set(expected.tolist())) == 3
    for kept in (None, lambda image: codebook.assign(rows(images[image]))[:, 0].astype(np.int32)):
        source = Source(database, Cache(None), descriptions=images, codebook=codebook, words=kept)
        ranking = prepare([stage], source).rerank(Asked(VECTORS[0], VECTORS[:1], (DescribedExample(query),)), start)
        assert ranking.ids.tolist() == [*order.tolist(), 3]
        np.testing.assert_allclose(ranking.scores[:3], expected[order], rtol=1e-5)


def test_a_collection_is_re_ranked_with_its_own_words(shown, tmp_path):
    images, query, _ = shown
    table = load_recipe("gem-densenet169").model_dump(by_alias=True)
    table["global"]["dimensions"] = 2
    local = {"detector": "sift", "max_features": 150}
    stage = {"method": "kernel", "kernel": "asmk", "depth": 4}
    recipe = Recipe.model_validate(table | {"local": local, "codebook": {}, "rerank": [stage]})
    with Store.create(tmp_path / "c", recipe, "f") as store:
        store.add([New(f"/{i}.png", str(i), 1, 1, d) for i, d in images.items()], [], None)
        finish_codebook(store, lambda _: None)
        searcher = Searcher(store)
        ranking, _ = searcher.rank(query, None, None)
        codebook = searcher.snapshot.codebook
    kept = {i + 1: asmk(rows(d), codebook) for i, d in images.items()}
    asked = asmk(rows(query), codebook, 5)
    expected = {i: similarity(asked, x) for i, x in kept.items()}
    assert ranking.ids.tolist() == sorted(expected, key=lambda i: -expected[i]) and set(ranking.ids[:2]) == {3, 4}
    np.testing.assert_allclose(ranking.scores, [expected[i] for i in ranking.ids.tolist()], rtol=1e-4)


def test_tables_say_what_they_need():
    table = load_recipe("gem-densenet169").model_dump(by_alias=True)
    kernel = {"method": "kernel", "kernel": "smk"}
    with pytest.raises(ValidationError, match=r"need the table \[local\]"):
        Recipe.model_validate(table | {"rerank": [kernel]})
    with pytest.raises(ValidationError, match=r"needs the table \[codebook\]"):
        Recipe.model_validate(table | {"rerank": [kernel], "local": {"detector": "sift"}})
    Recipe.model_validate(table | {"rerank": [{"method": "matching"}], "local": {"detector": "sift"}})
