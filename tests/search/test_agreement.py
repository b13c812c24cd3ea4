"""The rule by which a query is suspect, and that a search and the command line tell it."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resight.cli import results
from resight.cli.queries import without
from resight.search.agreement import PLACES, first_place, is_suspect
from resight.search.collection import Collection
from resight.search.examples import Example
from resight.search.page import QueryResult
from resight.search.ranking import Ranking
from resight.search.searcher import Filtered, Timing
from resight.search.verify import calibrated_ranking


@given(st.lists(st.booleans(), max_size=20))
def test_the_place_is_that_of_the_first_match(accepted):
    place = first_place(np.array(accepted, bool))
    assert place == next((n for n, match in enumerate(accepted, 1) if match), None)
    assert is_suspect(place) == (any(accepted) and not any(accepted[:PLACES]))


def test_a_ranking_knows_where_its_matches_stood(recipe):
    """Of ids 10 to 19, 12 and 17 are verified, which the filter ranks 8th and 6th."""
    calibration, ids = recipe.calibration, np.arange(10, 20)
    inliers = np.where(np.isin(ids, (12, 17)), 60, 0)
    similarity = np.zeros(10, np.float32)
    first = np.array([0, 1, 3, 4, 5, 7, 6, 2, 8, 9])
    ranking = calibrated_ranking(calibration, ids, inliers, similarity, {}, 1, first)
    assert (ranking.accepted, ranking.place, ranking.suspect) == (1, 6, True)  # whatever is left out at the end
    assert ranking.top(0).place == 6 and "only number 6:" in ranking.remark
    again = calibrated_ranking(calibration, ids, inliers, similarity, {}, None, np.roll(first, -3))
    assert (again.place, again.suspect, again.remark) == (3, False, None)
    nothing = calibrated_ranking(calibration, ids, 0 * inliers, similarity, {}, None, first)
    assert (nothing.place, nothing.suspect) == (None, False)
    assert calibrated_ranking(calibration, ids, inliers, similarity, {}).place is None


def test_a_search_tells_the_place_in_the_filters_ranking(indexed, photos):
    with Collection.open(indexed) as collection:
        query = photos / "coffee-2.jpg"
        heard = []
        described = collection.describe_examples([Example(query)])
        ranking, _ = collection.rank_described(described, exact=True, heard=heard.append)
        first = next(step for step in heard if isinstance(step, Filtered)).ids.tolist()
        matches = ranking.ids[: ranking.accepted].tolist()
        assert matches and ranking.place == 1 + min(first.index(match) for match in matches)
        assert not ranking.suspect
        assert collection.search(query, exact=True).place == ranking.place


def test_without_one_of_its_matches_the_place_of_the_others_is_not_known():
    ranking = Ranking(np.array([3, 1, 2]), np.float32([0.9, 0.8, 0.1]), (None,) * 3, 0.5, True, 1)
    assert without(ranking, 3).place is None and without(ranking, 3).ids.tolist() == [1, 2]
    assert without(ranking, 2).place == without(ranking, 7).place == 1


@pytest.mark.parametrize("place", [None, 2, 9])
def test_the_command_line_tells_it(indexed, capsys, place):
    with Collection.open(indexed) as collection:
        ranking = Ranking(np.array([3, 1]), np.float32([0.9, 0.4]), (None, None), 0.5, True, place)
        outcome = QueryResult("a.jpg", None, None, ranking, Timing(0.1, 0.1, 0.1, 5))
        results.table(collection, [outcome], everything=False)
        said = capsys.readouterr().out
        assert ("suspect: " in said and "only number 9:" in said) == (place == 9)
        results.json(collection, [outcome, replace(outcome, query="b.jpg")], everything=False)
        answer = json.loads(capsys.readouterr().out)["queries"][1]
        assert (answer["filter_rank"], answer["suspect"]) == (place, place == 9)
