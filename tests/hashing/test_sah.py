"""SAH: steps by finite differences, codes by retrieval."""

import numpy as np
import pytest

from resight.embedding.gmp import gmp
from resight.errors import RecipeError
from resight.hashing.autoencoder import LinearMaps, learn_codes, learn_maps
from resight.hashing.sah import aggregate_sets, aggregation_loss, fit_sah, learn_vector, sah_loss

TERMS = {"penalty": 0.3, "decay": 0.7, "aggregation": 0.9, "ridge": 0.4}


def draw(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def problem():
    rng = np.random.default_rng(3)
    sets = [draw(n, 5, seed=n) for n in (2, 4, 7)]
    maps = LinearMaps(draw(8, 5), rng.normal(size=8), draw(5, 8, seed=1), rng.normal(size=5))
    return sets, draw(3, 5, seed=9), rng.choice([-1.0, 1.0], size=(3, 8)), maps


def naive_loss(sets, vectors, codes, maps, penalty, decay, aggregation, ridge):
    total = decay / 2 * (np.sum(maps.encoder**2) + np.sum(maps.decoder**2))
    for features, phi, code in zip(sets, vectors, codes, strict=True):
        total += np.sum((phi - maps.decoder @ code - maps.restored) ** 2) / 2
        total += penalty / 2 * np.sum((code - maps.encoder @ phi - maps.shift) ** 2)
        total += aggregation / 2 * (sum((feature @ phi - 1) ** 2 for feature in features) + ridge * phi @ phi)
    return total


def test_loss_by_a_loop():
    args = problem()
    assert sah_loss(*args, **TERMS) == pytest.approx(naive_loss(*args, **TERMS), rel=1e-12)


def test_the_loss_has_no_slope_at_the_learned_vector():
    sets, vectors, codes, maps = problem()
    learned = vectors.copy()
    shares = {name: TERMS[name] for name in ("penalty", "aggregation", "ridge")}
    for i in range(3):
        learned[i] = learn_vector(sets[i], codes[i], maps, **shares)
    assert naive_loss(sets, learned, codes, maps, **TERMS) < naive_loss(sets, vectors, codes, maps, **TERMS)
    for place in range(learned.size):
        sides = []
        for step in (1e-5, -1e-5):
            moved = learned.copy()
            moved.ravel()[place] += step
            sides.append(naive_loss(sets, moved, codes, maps, **TERMS))
        assert (sides[0] - sides[1]) / 2e-5 == pytest.approx(0, abs=1e-5)


def test_gmp_is_the_least_of_the_aggregation_loss():
    sets, vectors, *_ = problem()
    pooled = np.stack([gmp(features, 0.4) for features in sets])
    least = aggregation_loss(sets, pooled, ridge=0.4)
    for scale in (1e-3, 1e-2, 1):
        moved = pooled + scale * vectors
        assert aggregation_loss(sets, moved, ridge=0.4) > least


def test_every_turn_lowers_the_loss():
    sets, vectors, codes, _ = problem()
    losses = []
    for _ in range(4):
        maps = learn_maps(vectors, codes, penalty=0.3, decay=0.7)
        losses.append(naive_loss(sets, vectors, codes, maps, **TERMS))
        codes = learn_codes(vectors, codes, maps, penalty=0.3)
        losses.append(naive_loss(sets, vectors, codes, maps, **TERMS))
        vectors = np.stack(
            [
                learn_vector(x, code, maps, penalty=0.3, aggregation=0.9, ridge=0.4)
                for x, code in zip(sets, codes, strict=True)
            ]
        )
        losses.append(naive_loss(sets, vectors, codes, maps, **TERMS))
    assert (np.diff(losses) <= 1e-9).all()
    assert losses[2] < losses[1]


@pytest.fixture(scope="module")
def photos():
    """Sets of unit features: each thing's own few, and as many drawn from features that all things share."""
    things, common = draw(12, 6 * 24).reshape(12, 6, 24), draw(4, 24, seed=5)

    def take(seed):
        rng = np.random.default_rng(seed)
        sets = []
        for thing in np.repeat(np.arange(12), 12):
            own = things[thing][rng.choice(6, 4, replace=False)]
            drawn = np.concatenate([own, common[rng.integers(4, size=10)]])
            drawn = drawn + rng.normal(scale=0.2, size=drawn.shape)
            sets.append(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))
        return sets, np.repeat(np.arange(12), 12)

    return take


def test_codes_beat_random_projections(photos, mean_ap):
    (sets, _), (held_out, labels) = photos(0), photos(1)
    vectors = aggregate_sets(held_out)
    learned = fit_sah(sets, 16, seed=0, fitted_on="sets")
    random = fit_sah(sets, 16, seed=0, fitted_on="sets", rounds=0)
    assert mean_ap(learned, vectors, labels) > mean_ap(random, vectors, labels) + 0.1


def test_features_of_another_length_and_unit_give_the_same_codes(photos):
    sets, _ = photos(0)
    plain = fit_sah(sets, 16, seed=0, fitted_on="sets")
    tripled = fit_sah([3 * features for features in sets], 16, seed=0, fitted_on="sets", ridge=9)
    first = plain.project(aggregate_sets(sets))
    second = tripled.project(aggregate_sets([3 * features for features in sets], 9))
    np.testing.assert_allclose(first, second, atol=1e-3)


def test_bad_input():
    with pytest.raises(ValueError, match="n×D with n at least 1"):
        fit_sah([draw(3, 4), draw(0, 4)], 8, seed=0, fitted_on="")
    with pytest.raises(ValueError, match="same D"):
        fit_sah([draw(3, 4), draw(3, 5)], 8, seed=0, fitted_on="")
    with pytest.raises(RecipeError, match="2 photos at least"):
        fit_sah([draw(3, 4)], 8, seed=0, fitted_on="")
    with pytest.raises(RecipeError, match="same features"):
        fit_sah([draw(3, 4), draw(3, 4)], 8, seed=0, fitted_on="")
    with pytest.raises(ValueError, match="must be above 0"):
        fit_sah([draw(3, 4), draw(5, 4)], 8, seed=0, fitted_on="", aggregation=0)
