"""What a ranking accepts as a match where somebody chooses the score."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resight.errors import QueryError
from resight.search.ranking import Ranking

SCORES = st.lists(st.floats(0, 1, width=32), max_size=12).map(lambda found: np.float32(sorted(found, reverse=True)))


def ranking_of(scores, *, calibrated, threshold=0.5):
    return Ranking(np.arange(len(scores)), scores, (None,) * len(scores), threshold, calibrated, place=7)


@given(SCORES, st.floats(0, 1, width=32), st.booleans())
def test_matches_are_what_has_the_score(scores, least, calibrated):
    ranking = ranking_of(scores, calibrated=calibrated, threshold=0.5 if calibrated else -np.inf)
    chosen = ranking.accepting(least)
    assert chosen.accepted == sum(score >= least for score in scores.tolist())
    assert chosen.ids.tolist() == ranking.ids.tolist() and chosen.scores.tolist() == ranking.scores.tolist()
    assert (chosen.threshold, chosen.calibrated) == (least, calibrated)
    assert chosen.place == (7 if least == ranking.threshold else None)  # of which matches it was is not known


@pytest.mark.parametrize(
    ("calibrated", "least", "said"),
    [
        (True, 90.0, "from 0 to 1, as 0.9 for 90 %"),
        (True, -0.1, "from 0 to 1"),
        (True, np.nan, "from 0 to 1"),
        (False, np.nan, "give a number"),
        (False, np.inf, "give a number"),
    ],
)
def test_what_is_no_score_is_refused(calibrated, least, said):
    with pytest.raises(QueryError, match=said):
        ranking_of(np.float32([0.9]), calibrated=calibrated).accepting(least)


def test_inliers_and_cosines_are_scores_too():
    assert ranking_of(np.float32([407, 13, 12]), calibrated=False, threshold=-np.inf).accepting(13).accepted == 2
    assert ranking_of(np.float32([0.2, -0.5]), calibrated=False, threshold=-np.inf).accepting(-0.1).accepted == 1
