"""Learned weights of a late fusion: against trying every weight, and from a set to a recipe that has them."""

import tomllib

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from resight.errors import RecipeError
from resight.evaluation.labelled import Query
from resight.evaluation.tuning import learn_weights, tune_fusion, write_tuned
from resight.recipes import load_recipe
from resight.recipes.network_stages import GlobalStage

STAGE = GlobalStage(network="a", dimensions=4, also=({"layer": "x"},), fusion="scores")
IDS = {f"{n}.jpg": n for n in range(1, 31)}


def asked(seed, noise):
    """Twelve queries with three answers each; what two branches say of thirty images, the first with more noise."""
    rng = np.random.default_rng(seed)
    queries, said = [], []
    for number in range(12):
        answers = rng.choice(30, 3, replace=False)
        truth = np.zeros(30)
        truth[answers] = 1
        cosines = np.stack([0.3 * truth + n * rng.normal(size=30) for n in noise], axis=1).astype(np.float32)
        queries.append(Query(f"q{number}.jpg", positives=frozenset(f"{a + 1}.jpg" for a in answers)))
        said.append((np.arange(1, 31), np.clip(cosines, -1, 1)))
    return queries, said


def mean_average_precision(queries, said, weight):
    """Rectangular AP by scikit-learn, which orders weights as trapezoidal AP nearly does."""
    found = []
    for query, (ids, cosines) in zip(queries, said, strict=True):
        truth = [f"{i}.jpg" in query.positives for i in ids]
        found.append(average_precision_score(truth, cosines @ [1, weight]))
    return float(np.mean(found))


def test_the_better_branch_gets_the_weight_that_trying_them_all_finds():
    queries, said = asked(0, (0.5, 0.12))
    found = learn_weights(queries, said, IDS, STAGE)
    tried = {w: mean_average_precision(queries, said, w) for w in 2.0 ** np.arange(-4, 4.5, 0.5)}
    assert found.after > found.before + 0.05
    assert found.weights[0] == 1 and found.weights[1] > 1
    assert tried[found.weights[1]] > max(tried.values()) - 0.02
    assert found.after == pytest.approx(tried[found.weights[1]], abs=0.03)


def test_weights_that_change_nothing_are_left_alone():
    queries, said = asked(1, (0.01, 0.01))
    found = learn_weights(queries, said, IDS, STAGE)
    assert found.weights == (1.0, 1.0) and found.before == found.after == 1.0


def test_only_late_fusion_without_verification_has_weights_to_learn():
    for name in ("rootsift-asmk", "rmac-densenet169-verified"):
        with pytest.raises(RecipeError, match="there are no weights to learn"):
            tune_fusion(None, load_recipe(name))


def test_a_tuned_recipe_keeps_its_files_and_its_other_values(tmp_path):
    write_tuned("multilayer-cnn", (1.0, 0.25), tmp_path / "named")
    assert [b.weight for b in load_recipe(tmp_path / "named").global_.branches] == [1.0, 0.25]
    (tmp_path / "named" / "weights.npz").write_bytes(b"weights")
    write_tuned(tmp_path / "named", (1.0, 4.0), tmp_path / "again")
    table = tomllib.loads((tmp_path / "again" / "recipe.toml").read_text())
    assert table["global"]["also"] == [{"layer": "layer3", "weight": 4.0}]
    assert (tmp_path / "again" / "weights.npz").read_bytes() == b"weights"
    with pytest.raises(RecipeError, match="is not an empty folder"):
        write_tuned("multilayer-cnn", (1.0, 1.0), tmp_path / "named")
