"""SSDH: its loss by a loop and by finite differences; bits from which the class can be told."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from resight.errors import RecipeError  # noqa: E402
from resight.hashing.ssdh import fit_ssdh, ssdh_loss  # noqa: E402
from resight.hashing.training import Descent  # noqa: E402

RNG = np.random.default_rng(0)
LATENT, LOGITS, LABELS = RNG.uniform(size=(5, 4)), RNG.normal(size=(5, 3)), np.array([0, 2, 1, 2, 2])
SHARES = {"push": 0.6, "balance": 1.7}


def naive(latent, logits, labels, push, balance):
    total = 0.0
    for a, scores, label in zip(latent, logits, labels, strict=True):
        total += np.log(sum(np.exp(s) for s in scores)) - scores[label]
        total -= push * sum((value - 0.5) ** 2 for value in a) / len(a)
        total += balance * (sum(a) / len(a) - 0.5) ** 2
    return total / len(labels)


def test_loss_by_a_loop():
    found = ssdh_loss(*map(torch.from_numpy, (LATENT, LOGITS, LABELS)), **SHARES)
    assert found.item() == pytest.approx(naive(LATENT, LOGITS, LABELS, **SHARES), rel=1e-12)


def test_gradients_by_finite_differences():
    latent, logits = (torch.from_numpy(a).requires_grad_() for a in (LATENT, LOGITS))
    labels = torch.from_numpy(LABELS)
    assert torch.autograd.gradcheck(lambda a, s: ssdh_loss(a, s, labels, **SHARES), (latent, logits))


def test_training_lowers_the_loss_and_codes_beat_a_random_layer(clusters, mean_ap):
    (x, labels), (held_out, same) = clusters(seed=0), clusters(seed=1)
    losses = []
    learned = fit_ssdh(x, labels, 16, seed=0, fitted_on="x", on_epoch=lambda _, loss: losses.append(loss))
    untrained = fit_ssdh(x, labels, 16, seed=0, fitted_on="x", descent=Descent(epochs=0))
    assert losses[-1] < 0.5 * losses[0]
    assert mean_ap(learned, held_out, same) > mean_ap(untrained, held_out, same) + 0.2


def test_outputs_are_pushed_from_the_threshold(clusters):
    x, labels = clusters()
    sure = fit_ssdh(x, labels, 16, seed=0, fitted_on="x", push=10.0)
    unsure = fit_ssdh(x, labels, 16, seed=0, fitted_on="x", push=0.0)
    assert np.abs(sure.project(x)).mean() > 1.2 * np.abs(unsure.project(x)).mean()


def test_names_do_as_labels(clusters):
    x, labels = clusters(each=4)
    brief = Descent(epochs=2)
    by_number = fit_ssdh(x, labels, 8, seed=0, fitted_on="", descent=brief)
    by_name = fit_ssdh(x, [f"thing {label:02}" for label in labels], 8, seed=0, fitted_on="", descent=brief)
    assert by_number.fingerprint == by_name.fingerprint


def test_bad_labels_are_refused(clusters):
    x, labels = clusters(each=4)
    with pytest.raises(ValueError, match="a label for each of 64 vectors"):
        fit_ssdh(x, labels[1:], 8, seed=0, fitted_on="")
    with pytest.raises(RecipeError, match="same label"):
        fit_ssdh(x, np.zeros(64, int), 8, seed=0, fitted_on="")
