"""The benchmark of the service runs against a real one and says what it measured."""

import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
def test_it_measures_one_user_and_several(monkeypatch, photos, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import service

    out = tmp_path / "out.json"
    where = ["--photos", str(photos), "--queries", str(photos), "--collections", str(tmp_path), "--out", str(out)]
    service.main([*where, "--images", "14", "--users", "1", "3", "--searches", "4", "--side", "320", "--workers", "1"])
    one, three = json.loads(out.read_text())["results"]
    assert (one["images"], one["users"], three["users"], one["searches"], three["searches"]) == (14, 1, 3, 4, 4)
    for result in (one, three):
        for place in (0, 1):
            assert 0 < result["dropped"][place] < result["first"][place] <= result["whole"][place]
        assert result["peak"] >= result["private"] > 2**20
    assert "| 14 | 3 |" in capsys.readouterr().out
