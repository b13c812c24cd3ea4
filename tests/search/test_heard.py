"""A search that is listened to ranks as one that is not, tells what it verifies, and ends when the listener raises."""

import numpy as np
import pytest

from resight.describe.describer import Describer
from resight.recipes.recipe import ExpansionStage
from resight.search.examples import DescribedExample
from resight.search.searcher import Checked, Filtered, Searcher
from resight.store.store import Store


@pytest.fixture(scope="module")
def store(indexed):
    with Store(indexed, write=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def examples(recipe, photos):
    describe = Describer(recipe).describe
    names = (("chelsea-1.png", 1.0), ("coffee-2.jpg", 1.0), ("rocket-1.png", -0.5))
    return [DescribedExample(describe(photos / name), None, weight) for name, weight in names]


@pytest.mark.parametrize("expansion", [None, ExpansionStage()])
@pytest.mark.parametrize("number", [1, 3])
def test_the_ranking_is_the_same_and_each_verified_image_is_told(store, recipe, examples, expansion, number):
    searcher, heard = Searcher(store, recipe.model_copy(update={"expansion": expansion})), []
    plain, _ = searcher.rank_examples(examples[:number], 5)
    told, _ = searcher.heard_by(heard.append).rank_examples(examples[:number], 5)
    np.testing.assert_array_equal(told.ids, plain.ids)
    np.testing.assert_array_equal(told.scores, plain.scores)
    first, *checked = heard
    assert isinstance(first, Filtered) and np.all(np.diff(first.scores) <= 0) and len(first.ids) == 12
    by_itself = [step for step in checked if step.score is not None]
    assert [step.example for step in by_itself] == [n for n in range(number) for _ in range(12)]
    again = [step for step in checked if step.score is None]
    assert bool(again) == (expansion is not None) and all(isinstance(step, Checked) for step in checked)


def test_what_is_told_of_an_image_is_its_score_in_the_ranking(store, recipe, examples):
    heard = []
    ranking, _ = Searcher(store, recipe).heard_by(heard.append).rank_examples(examples[:1], None)
    told = {step.image: (step.score, step.evidence.inliers) for step in heard[1:]}
    for image, score, evidence in zip(ranking.ids.tolist(), ranking.scores.tolist(), ranking.evidence, strict=True):
        assert told[image] == (score, evidence.inliers)


def test_a_listener_that_raises_ends_the_search_also_while_it_is_expanded(store, recipe, examples):
    class Enough(Exception):
        pass

    searcher, heard = Searcher(store, recipe.model_copy(update={"expansion": ExpansionStage()})), []

    def until_expanded(step):
        heard.append(step)
        if isinstance(step, Checked) and step.score is None:
            raise Enough

    with pytest.raises(Enough):
        searcher.heard_by(until_expanded).rank_examples(examples[:1], None)
    assert len(heard) == 1 + 12 + 1


def test_who_listens_hears_no_search_but_his_own(store, recipe, examples):
    searcher, one, two = Searcher(store, recipe), [], []
    first, second = searcher.heard_by(one.append), searcher.heard_by(two.append)
    searcher.rank_examples(examples[:1], None)
    assert one == two == []
    second.rank_examples(examples[:1], None)
    assert (len(one), len(two)) == (0, 1 + 12)
    first.rank_examples(examples[:1], None)
    assert (len(one), len(two)) == (1 + 12, 1 + 12)
