"""The benchmark of embeddings runs, and what it compares agrees."""

import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
def test_it_runs_and_agrees_with_scikit_image_the_loop_and_scipy(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import embeddings

    small = "--images 5 --features 60 --dimension 8 --components 6 --descriptors 20000 --words 256 --rows 50"
    small += " --vocabulary 3000 --held 40 --queries 4 --project 40:40:60 9000:8:60"
    out = tmp_path / "out.json"
    encoded, trained, found, projected = embeddings.main([*small.split(), "--work", str(tmp_path), "--out", str(out)])
    assert [e.name for e in encoded] == 2 * ["VLAD; NumPy loop", "Fisher; scikit-image"]
    assert all(e.apart < 1e-4 for e in encoded)
    assert trained[0].found > 0.8 and trained[0].seconds > 0 and len(found) == 2
    assert "| uniform | 50 |" in capsys.readouterr().out
    assert json.loads(out.read_text())["results"]["training"][0]["words"] == 256
    assert [(p.entries, p.kept, p.stream) for p in projected] == [(40, 40, 9600), (9000, 8, 2_160_000)]
    encoded, trained, found, projected = embeddings.main([*small.split(), "--part", "search"])
    assert not (encoded or trained or projected) and len(found) == 2
