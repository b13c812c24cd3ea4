"""The binary autoencoder: its loss by a loop, its steps by what makes them least, its codes by retrieval."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from resight.hashing.autoencoder import (
    LinearMaps,
    autoencoder_loss,
    fit_autoencoder,
    learn_codes,
    learn_maps,
)

N, D, BITS = 12, 5, 6
TERMS = {"penalty": 0.3, "decay": 0.7}


def draw(seed=0, n=N):
    rng = np.random.default_rng(seed)
    maps = LinearMaps(rng.normal(size=(BITS, D)), rng.normal(size=BITS), rng.normal(size=(D, BITS)), rng.normal(size=D))
    return rng.normal(size=(n, D)) + 1, rng.choice([-1.0, 1.0], size=(n, BITS)), maps


def naive_loss(x, codes, maps, penalty, decay):
    total = 0.0
    for vector, code in zip(x, codes, strict=True):
        restored = [sum(maps.decoder[d, b] * code[b] for b in range(BITS)) + maps.restored[d] for d in range(D)]
        encoded = [sum(maps.encoder[b, d] * vector[d] for d in range(D)) + maps.shift[b] for b in range(BITS)]
        total += sum((vector[d] - restored[d]) ** 2 for d in range(D)) / 2
        total += penalty / 2 * sum((code[b] - encoded[b]) ** 2 for b in range(BITS))
    return total + decay / 2 * sum(w**2 for weights in (maps.encoder, maps.decoder) for w in weights.ravel())


def test_loss_by_a_loop():
    x, codes, maps = draw()
    assert autoencoder_loss(x, codes, maps, **TERMS) == pytest.approx(naive_loss(x, codes, maps, **TERMS), rel=1e-12)


def test_maps_are_ridge_regressions():
    x, codes, _ = draw()
    maps = learn_maps(x, codes, **TERMS)
    encoder = Ridge(alpha=TERMS["decay"] / TERMS["penalty"]).fit(x, codes)
    decoder = Ridge(alpha=TERMS["decay"]).fit(codes, x)
    np.testing.assert_allclose(maps.encoder, encoder.coef_, atol=1e-9)
    np.testing.assert_allclose(maps.shift, encoder.intercept_, atol=1e-9)
    np.testing.assert_allclose(maps.decoder, decoder.coef_, atol=1e-9)
    np.testing.assert_allclose(maps.restored, decoder.intercept_, atol=1e-9)


def test_the_loss_has_no_slope_at_the_maps():
    x, codes, _ = draw()
    maps = learn_maps(x, codes, **TERMS)
    parts = [maps.encoder, maps.shift, maps.decoder, maps.restored]
    for part in range(4):
        for place in range(parts[part].size):
            sides = []
            for step in (1e-5, -1e-5):
                moved = [values.copy() for values in parts]
                moved[part].ravel()[place] += step
                sides.append(naive_loss(x, codes, LinearMaps(*moved), **TERMS))
            assert (sides[0] - sides[1]) / 2e-5 == pytest.approx(0, abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_no_single_bit_of_the_learned_codes_is_better_flipped(seed):
    x, codes, maps = draw(seed, n=4)
    found = learn_codes(x, codes, maps, penalty=TERMS["penalty"])
    least = naive_loss(x, found, maps, **TERMS)
    assert least <= naive_loss(x, codes, maps, **TERMS) + 1e-9
    assert set(np.unique(found)) <= {-1.0, 1.0}
    for place in range(found.size):
        flipped = found.copy()
        flipped.ravel()[place] *= -1
        assert naive_loss(x, flipped, maps, **TERMS) >= least - 1e-9


def test_turns_lower_the_loss(clusters):
    x, _ = clusters()
    x = (x - x.mean(axis=0)).astype(float)
    codes, losses = np.where(x @ np.random.default_rng(0).normal(size=(x.shape[1], 16)) > 0, 1.0, -1.0), []
    for _ in range(5):
        maps = learn_maps(x, codes, **TERMS)
        losses.append(autoencoder_loss(x, codes, maps, **TERMS))
        codes = learn_codes(x, codes, maps, penalty=TERMS["penalty"])
        losses.append(autoencoder_loss(x, codes, maps, **TERMS))
    assert (np.diff(losses) <= 1e-9).all()
    assert losses[-1] < 0.8 * losses[0]


def test_codes_beat_random_projections(clusters, mean_ap):
    (x, _), (held_out, labels) = clusters(seed=0), clusters(seed=1)
    learned = fit_autoencoder(x, 16, seed=0, fitted_on="x")
    random = fit_autoencoder(x, 16, seed=0, fitted_on="x", rounds=0)
    assert mean_ap(learned, held_out, labels) > mean_ap(random, held_out, labels) + 0.1


def test_values_out_of_range_are_refused(clusters):
    x, _ = clusters()
    for name, value in (("penalty", 0), ("decay", 0), ("rounds", -1)):
        with pytest.raises(ValueError, match="penalty and decay must be above 0"):
            fit_autoencoder(x, 16, seed=0, fitted_on="", **{name: value})
