"""What all learned methods have in common: the seed decides, files keep them, and using them needs no torch."""

import subprocess
import sys
from typing import get_args

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from resight.errors import RecipeError  # noqa: E402
from resight.hashing.function import HashFunction, Kind  # noqa: E402
from resight.hashing.methods import LINEAR, METHODS, fit_method, lacks_vectors  # noqa: E402
from resight.hashing.training import Descent, perceptron  # noqa: E402

LEARNED = sorted(set(METHODS) - set(LINEAR))
RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 12)).astype(np.float32) + 1
LABELS = np.repeat(np.arange(8), 5)
INPUTS = {
    "vectors": (X,),
    "labels": (X, LABELS),
    "views": (X, X[:, None] + RNG.normal(scale=0.1, size=(40, 2, 12)).astype(np.float32)),
    "sets": ([RNG.normal(size=(6, 12)) for _ in range(40)],),
    "regions": ([X[start : start + 4] for start in range(0, 40, 4)],),
}


def learn(name, seed=0, **options):
    x, *beside = INPUTS[METHODS[name].needs]
    if name in ("sah", "autoencoder"):
        options.setdefault("rounds", 2)
    else:
        options.setdefault("descent", Descent(epochs=2, batch=16))
    given = {"beside": beside[0]} if beside else {}
    return fit_method(name, x, 16, seed=seed, fitted_on="these", descriptor="abc", **given, **options)


def test_every_kind_is_there():
    assert set(METHODS) == set(get_args(Kind))


@pytest.mark.parametrize("name", LEARNED)
def test_without_torch_it_says_what_to_install(name, monkeypatch):
    if name in ("sah", "autoencoder"):
        learn(name)  # these need none
        return
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, f"resight.hashing.{name}", raising=False)
    with pytest.raises(RecipeError, match=rf"{name} needs torch: pip install 'resight\[deep\]'"):
        learn(name)


def test_labels_and_views_go_with_those_that_need_them():
    for name, beside in (("ssdh", None), ("deepbit", None), ("itq", LABELS), ("rbm", LABELS)):
        with pytest.raises(ValueError, match=f"{name} learns from {METHODS[name].needs}"):
            fit_method(name, X, 8, seed=0, fitted_on="", beside=beside)


@pytest.mark.parametrize(
    ("name", "n", "bits", "lacks"),
    [
        ("itq", 16, 16, True),
        ("itq", 17, 16, False),
        ("itq", 17, 40, False),  # of 32 entries there are never more than 32 bits
        ("dsth", 10, 8, True),
        ("dsth", 17, 16, True),
        ("dsth", 18, 16, False),
        ("lsh", 1, 64, False),
        ("rbm", 2, 64, False),
    ],
)
def test_when_more_photos_would_do(name, n, bits, lacks):
    assert lacks_vectors(name, n, 32, bits) == lacks
    x = np.random.default_rng(1).normal(size=(n, 32)).astype(np.float32)
    options = {} if name in LINEAR else {"descent": Descent(epochs=0)}
    if lacks or (bits > 32 and name == "itq"):
        with pytest.raises(RecipeError, match=f"{name} makes at most"):
            fit_method(name, x, bits, seed=0, fitted_on="", **options)
    else:
        assert fit_method(name, x, bits, seed=0, fitted_on="", **options).bits == bits


@pytest.mark.parametrize("name", LEARNED)
def test_the_seed_decides(name):
    state = torch.get_rng_state()
    first = learn(name)
    assert torch.equal(state, torch.get_rng_state())  # torch's own generator is left alone
    torch.manual_seed(2)
    np.random.seed(3)  # noqa: NPY002
    assert learn(name).fingerprint == first.fingerprint
    assert learn(name, seed=1).fingerprint != first.fingerprint


@pytest.mark.parametrize("name", LEARNED)
def test_it_is_kept_by_a_file(name, tmp_path):
    function = learn(name)
    function.save(tmp_path / "hash.safetensors")
    loaded = HashFunction.load(tmp_path / "hash.safetensors")
    assert (loaded.kind, loaded.bits, loaded.dimension) == (name, 16, 12)
    assert (loaded.fitted_on, loaded.descriptor, loaded.n) == ("these", "abc", 40)
    assert loaded.fingerprint == function.fingerprint
    np.testing.assert_array_equal(loaded.encode(X), function.encode(X))


@pytest.mark.parametrize("name", LEARNED)
def test_learning_changes_the_start(name):
    start = learn(name, **({"rounds": 0} if name in ("sah", "autoencoder") else {"descent": Descent(epochs=0)}))
    assert learn(name).fingerprint != start.fingerprint


@pytest.mark.parametrize("name", sorted(set(LEARNED) - {"dsth"}))
def test_the_start_is_balanced(name):
    """A random hyperplane through the mean of the vectors: none of its bits is constant over them."""
    start = learn(name, **({"rounds": 0} if name in ("sah", "autoencoder") else {"descent": Descent(epochs=0)}))
    if name == "sah":
        from resight.hashing.sah import aggregate_sets

        bits = start.project(aggregate_sets(INPUTS["sets"][0])) > 0
    else:
        bits = start.project(X) > 0
    assert (np.abs(bits.mean(axis=0) - 0.5) < 0.3).all()


def test_using_them_needs_no_torch():
    modules = "function, methods, region_similarity, sah, autoencoder, labels"
    code = f"import sys; from resight.hashing import {modules}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_batches_hold_each_thing_once_an_epoch():
    network = perceptron((2, 1), torch.Generator().manual_seed(0))
    seen, steps = [], []

    def loss(rows, step):
        seen.append(rows)
        steps.append(step)
        return network(torch.ones(1, 2)).sum()

    told = []
    Descent(epochs=3, batch=4).run(
        network.parameters(), loss, 10, seed=0, on_epoch=lambda epoch, mean: told.append(epoch)
    )
    assert steps == list(range(len(seen)))
    assert told == [0, 1, 2]
    per_epoch = len(seen) // 3
    orders = [np.concatenate(seen[per_epoch * e : per_epoch * (e + 1)]) for e in range(3)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(10))
    assert not np.array_equal(orders[0], orders[1])
    assert {len(rows) for rows in seen} <= {5, 3, 4}


def test_adam_finds_the_least_of_a_bowl():
    network = perceptron((1, 1), torch.Generator().manual_seed(0))
    Descent(epochs=400, batch=1, rate=0.05).run(
        network.parameters(), lambda rows, step: (network(torch.ones(1, 1)) - 3).square().sum(), 1, seed=0
    )
    assert network(torch.ones(1, 1)).item() == pytest.approx(3, abs=1e-3)


def test_settings_out_of_range_are_refused():
    for name, value in (("epochs", -1), ("batch", 0), ("rate", 0.0)):
        with pytest.raises(ValueError, match="epochs must be at least 0"):
            Descent(**{name: value})
