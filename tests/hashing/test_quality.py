"""Measures of codes against numpy's correlation, counting, and codes whose measures are known."""

from collections import Counter
from itertools import product

import numpy as np
import pytest

from resight.hashing import search
from resight.hashing.codes import pack
from resight.hashing.quality import quality


def test_of_all_codes_of_eight_bits():
    found = quality(pack(list(product([0, 1], repeat=8))))
    assert (found.n, found.distinct, found.entropy, found.constant) == (256, 256, 8.0, 0)
    assert found.imbalance == found.worst_imbalance == 0
    assert found.max_correlation == pytest.approx(0, abs=1e-12)


def test_of_skewed_codes(monkeypatch):
    monkeypatch.setattr(search, "_BLOCK", 100)
    rng = np.random.default_rng(0)
    signs = rng.random((450, 16)) < np.linspace(0.05, 0.9, 16)
    signs[:, 3] = signs[:, 2]
    signs[:, 5] = ~signs[:, 4]
    found = quality(pack(signs))
    pairs = np.abs(np.corrcoef(signs.T.astype(float)))[np.triu_indices(16, 1)]
    np.testing.assert_allclose(found.means, signs.mean(axis=0))
    assert found.mean_correlation == pytest.approx(pairs.mean()) and found.max_correlation == pytest.approx(1)
    assert found.imbalance == pytest.approx(np.mean([abs(bit.mean() - 0.5) for bit in signs.T]))
    assert found.worst_imbalance == pytest.approx(max(abs(bit.mean() - 0.5) for bit in signs.T))
    counts = Counter(map(bytes, pack(signs)))
    assert found.distinct == len(counts)
    assert found.entropy == pytest.approx(-sum(c / 450 * np.log2(c / 450) for c in counts.values()))


def test_constant_bits_are_left_out_of_the_correlation():
    signs = np.random.default_rng(1).random((60, 8)) > 0.5
    signs[:, 0], signs[:, 1] = True, False
    found = quality(pack(signs))
    pairs = np.abs(np.corrcoef(signs[:, 2:].T.astype(float)))[np.triu_indices(6, 1)]
    assert found.constant == 2 and found.worst_imbalance == 0.5
    assert found.mean_correlation == pytest.approx(pairs.mean()) and found.max_correlation == pytest.approx(pairs.max())


def test_one_code():
    found = quality(np.uint8([[7, 0]] * 3))
    assert (found.distinct, found.entropy, found.constant) == (1, 0.0, 16)
    assert found.mean_correlation is None and found.max_correlation is None
    with pytest.raises(ValueError, match="no codes"):
        quality(np.empty((0, 2), np.uint8))
