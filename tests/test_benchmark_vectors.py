"""The benchmark of vectors at a size of seconds: what it makes is as it says, and what it measures holds together."""

import json
from pathlib import Path

import numpy as np
import pytest

from resight.search import nearest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def vectors(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import vectors

    monkeypatch.setattr(vectors, "_BLOCK", 700)
    monkeypatch.setattr(vectors, "_ROUNDS", 1)
    monkeypatch.setattr(nearest, "FEW", 200)
    return vectors


@pytest.fixture
def real(tmp_path):
    centres = np.random.default_rng(0).normal(size=(20, 48))
    x = centres[np.arange(300) % 20] + np.random.default_rng(1).normal(size=(300, 48))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    np.savez(tmp_path / "real.npz", ids=np.arange(300), vectors=x.astype(np.float32))
    return tmp_path / "real.npz"


def test_descriptors_are_made_block_by_block_from_a_seed(vectors, real):
    made = vectors.Made(vectors.read_real(real, 32), 5)
    assert made.real.shape == (300, 32)
    ids, x = (np.concatenate(part) for part in zip(*made.blocks(1500), strict=True))
    np.testing.assert_array_equal(ids, np.arange(1, 1501))
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(x[:900], np.concatenate([v for _, v in made.blocks(900)]))
    assert not np.array_equal(x, np.concatenate([v for _, v in vectors.Made(made.real, 6).blocks(1500)]))
    # Each lies near a real one, nearer than real ones lie to each other on the whole.
    assert np.median((x @ made.real.T).max(axis=1)) > np.median(made.real @ made.real.T) + 0.2


def test_it_runs(vectors, real, tmp_path, capsys):
    asked = ["--real", str(real), "--images", "600", "2100", "--dimension", "32", "--queries", "30"]
    more = ["--recall", "0.9", "--stream", "1400", "--codes", "4000", "--out", str(tmp_path / "out.json")]
    results = vectors.main([*asked, *more, "--plot", str(tmp_path / "p.svg"), "--work", str(tmp_path / "w")])
    said = capsys.readouterr().out
    assert {r.images for r in results} == {600, 2100} and results[0].kind == "exact"
    for r in results:
        assert r.one > 0 and r.bare_two > 0 and r.bytes > 0
        assert r.recall == pytest.approx(r.bare_recall, abs=0.02)  # of the very same codes, asked alike
    assert "| RaBitQfs | 1,400 |" in said and "| 4,000 codes of 256 bits |" in said and "reading memory" in said
    assert len(json.loads((tmp_path / "out.json").read_text())["results"]) == len(results)
    assert (tmp_path / "p.svg").read_text().count("<svg") == 1
