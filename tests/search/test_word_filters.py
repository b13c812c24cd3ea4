"""Bag of words and Hamming embedding in real collections, against loops over all pairs of features of two images."""

import math
from collections import Counter
from statistics import median

import numpy as np
import pytest
from safetensors.numpy import load_file

from resight.describe.describer import Describer
from resight.describe.fit import fit_recipe
from resight.embedding.codebook import Codebook
from resight.errors import CollectionError, RecipeError
from resight.local.hamming_filter import Signer
from resight.recipes import Recipe, load_recipe, recipe_text
from resight.search.collection import Collection
from resight.search.searcher import Searcher

NAMES = ("bow", "hamming")
FILES = ("coffee-1.png", "coffee-2.jpg", "rocket-1.png", "rocket-2.jpg", "moon.png", "brick.png")


def few(recipe: Recipe, **changes: object) -> Recipe:
    """The recipe with few features, so that loops can follow."""
    return recipe.model_copy(update={"local": recipe.local.model_copy(update={"max_features": 120}), **changes})


@pytest.fixture(scope="module", params=NAMES)
def made(request, tmp_path_factory, photos):
    """The folder of a collection with each filter; not to be written to."""
    path = tmp_path_factory.mktemp(request.param) / "c"
    with Collection.create(path, few(load_recipe(f"rootsift-{request.param}"))) as collection:
        assert collection.add([photos / name for name in FILES], workers=1).added == len(FILES)
    return path


class Oracle:
    """All features of all images as the collection holds them, and their words by the least distance."""

    def __init__(self, folder, searcher: Searcher) -> None:
        self.book = load_file(folder / "codebook-1.safetensors")["words"].astype(float)
        self.images = [searcher.stored(p).local.descriptors.astype(float) for p in range(len(FILES))]
        self.words = [self.assign(x, 1) for x in self.images]
        held = Counter(w for words in self.words for w in {own[0] for own in words})
        self.idf = {w: math.log(len(FILES) / n) for w, n in held.items()}

    def assign(self, features: np.ndarray, k: int) -> list[list[int]]:
        return [np.square(self.book - x).sum(axis=1).argsort(kind="stable")[:k].tolist() for x in features]

    def norm(self, words: list[list[int]]) -> float:
        counts = Counter(w for own in words for w in own)
        return math.sqrt(sum((n * self.idf.get(w, 0)) ** 2 for w, n in counts.items()))

    def similarity(self, query: np.ndarray, k: int, weigh) -> list[float]:
        """Over all pairs of a feature of the query and one of each image that share a word."""
        asked, scores = self.assign(query, k), []
        for features, words in zip(self.images, self.words, strict=True):
            total = 0.0
            for x, own in zip(query, asked, strict=True):
                for y, (word,) in zip(features, words, strict=True):
                    if word in own:
                        total += weigh(x, y, word) * self.idf[word] ** 2
            norm = self.norm(asked) * self.norm(words)
            scores.append(total / norm if norm else 0.0)
        return scores


def hamming_weight(folder, oracle: Oracle, threshold: int, sigma: float):
    """exp(−h²/σ²), with the projection that was drawn, and medians taken anew from the collection's features."""
    p = load_file(folder / "hamming-1.safetensors")["projection"].astype(float)
    members: dict[int, list[np.ndarray]] = {}
    for features, words in zip(oracle.images, oracle.words, strict=True):
        for x, (word,) in zip(features, words, strict=True):
            members.setdefault(word, []).append(p @ x)
    medians = {w: np.float32([median(column) for column in zip(*m, strict=True)]) for w, m in members.items()}

    def weigh(x, y, word) -> float:
        h = int(((p @ x > medians[word]) != (p @ y > medians[word])).sum())
        return math.exp(-(h**2) / sigma**2) if h <= threshold else 0.0

    return weigh


def test_similarities_are_those_of_all_pairs_of_features(made, pictures, view):
    with Collection.open(made) as collection:
        searcher = Searcher(collection._store)
        oracle = Oracle(made, searcher)
        query = Describer(collection.recipe).describe(view(pictures["coffee"], 7)[0])
        features, stage = query.local.descriptors.astype(float), collection.recipe.by_words
        if collection.recipe.filter == "bow":
            expected = oracle.similarity(features, stage.query_assignments, lambda x, y, word: 1.0)
        else:
            assert (stage.query_assignments, stage.bits) == (5, 64)
            weigh = hamming_weight(made, oracle, stage.threshold, stage.sigma)
            expected = oracle.similarity(features, stage.query_assignments, weigh)
        np.testing.assert_allclose(searcher.similarity(query), expected, rtol=1e-5, atol=1e-7)
        ranking = collection.search(view(pictures["coffee"], 7)[0])
    best = [int(i) for i in np.argsort(-np.array(expected), kind="stable")]
    assert ranking.ids.tolist() == [i + 1 for i in best] and set(best[:2]) == {0, 1} and not ranking.calibrated


def test_the_same_is_found_when_opened_anew_and_nothing_is_damaged(made, photos):
    answers = []
    for _ in range(2):
        with Collection.open(made) as collection:
            answers.append(collection.search(photos / "rocket-2.jpg"))
            assert collection.verify() == [] and collection.info().recipe == f"rootsift-{collection.recipe.filter}"
    np.testing.assert_array_equal(answers[0].ids, answers[1].ids)
    np.testing.assert_array_equal(answers[0].scores, answers[1].scores)
    assert answers[0].ids[0] == 4 and len(set(answers[0].scores.tolist())) == len(FILES)


def test_damage_is_an_error_that_names_the_file_and_refit_mends_it(tmp_path, photos):
    path = tmp_path / "c"
    with Collection.create(path, few(load_recipe("rootsift-hamming"))) as collection:
        collection.add([photos / name for name in FILES[:3]], workers=1)
        expected = collection.search(photos / "rocket-1.png")
    medians = path / "hamming-1.safetensors"
    data = bytearray(medians.read_bytes())
    data[-1] ^= 1
    medians.write_bytes(data)
    with Collection.open(path, write=True) as collection:
        with pytest.raises(CollectionError, match=r"hamming-1\.safetensors: .*`resight refit` learns a new one"):
            collection.search(photos / "rocket-1.png")
        collection.refit()
        assert collection.verify() == [] and not medians.exists()
        found = collection.search(photos / "rocket-1.png")
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.scores, expected.scores)  # learned anew from the same features


def test_a_fitted_recipe_brings_its_codebook_and_medians(tmp_path, photos):
    text = tmp_path / "mine.toml"
    text.write_text(recipe_text("rootsift-hamming").replace("max_features = 1000", "max_features = 120"))
    fitted = fit_recipe(text, [photos], weights=None, into=tmp_path / "fitted")
    recipe = load_recipe(fitted)
    assert recipe.hamming.path == str(fitted / "hamming.safetensors")
    assert recipe.fingerprint == load_recipe(text).fingerprint
    codebook = Codebook.load(fitted / "codebook.safetensors")
    signer = Signer.load(fitted / "hamming.safetensors", codebook)
    assert signer.fitted_on == codebook.fitted_on == f"12 photos of {photos} (seed 0)" and signer.bits == 64

    def index(recipe: Recipe, name: str) -> Signer:
        with Collection.create(tmp_path / name, recipe) as collection:
            collection.add([photos / name for name in FILES[1:3]], workers=1)
            assert collection.search(photos / FILES[1]).ids[0] == 1
            return Searcher(collection._store).snapshot.signer

    # With the codebook alone, the medians are the collection's own.
    np.testing.assert_array_equal(index(recipe, "both").thresholds, signer.thresholds)
    alone = recipe.model_copy(update={"hamming": recipe.hamming.model_copy(update={"path": ""})})
    own = index(alone, "codebook only")
    assert own.fitted_on == "the collection itself, 2 images" and (own.thresholds != signer.thresholds).any()

    Codebook.fit(np.eye(128, dtype=np.float32), 64, seed=0, fitted_on="-").save(fitted / "codebook.safetensors")
    with Collection.create(tmp_path / "wrong", recipe) as collection:
        with pytest.raises(RecipeError, match="its medians are of another codebook's words"):
            collection.add([photos / FILES[0]], workers=1)
        assert collection.info().pending == 1

    text.write_text((fitted / "recipe.toml").read_text().replace('path = "codebook.safetensors"', 'path = ""'))
    with pytest.raises(RecipeError, match=r"mine\.toml: .*the path of \[hamming\] needs that of \[codebook\]"):
        load_recipe(text)
