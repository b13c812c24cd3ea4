"""The benchmark of the inverted file runs, its ways agree, and it says so where they do not."""

import json
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SMALL = ["--images", "40", "--features", "30", "--words", "300", "--queries", "3", "--rounds", "2", "--subset", "10"]


@pytest.fixture
def asmk(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import asmk

    monkeypatch.setattr(asmk, "_TOGETHER", 16)
    return asmk


def test_it_runs_and_its_ways_agree(asmk, tmp_path, capsys):
    out = tmp_path / "out.json"
    ours, plain, brute = asmk.main([*SMALL, "--work", str(tmp_path), "--out", str(out)])
    assert (ours.images, plain.images, brute.images) == (40, 40, 10)
    assert ours.times == 1 and brute.ms == pytest.approx(brute.times * ours.ms)
    # A posting is 4 bytes of an image and 16 of a code; words and offsets are on top, and of 30 descriptors some meet.
    assert 15 < ours.bytes < 26 and plain.bytes > ours.bytes and 15 < brute.bytes <= 20
    assert "| inverted file |" in capsys.readouterr().out
    assert [r["way"] for r in json.loads(out.read_text())["results"]] == [ours.way, plain.way, brute.way]


def test_the_file_alone_is_built_and_searched_in_processes_of_their_own(asmk, tmp_path, capsys):
    assert asmk.main([*SMALL, "--alone", "--work", str(tmp_path)]) == []
    row = capsys.readouterr().out.splitlines()[-1].strip("| ").split(" | ")
    assert row[0] == "40" and 15 < float(row[2]) < 26
    for memory in (row[5], row[8]):
        whole, private = (int(part.replace(",", "").strip("()")) for part in memory.split())
        assert whole >= private > 10


def test_ways_that_differ_are_not_compared(asmk, monkeypatch):
    honest = asmk.PlainFile.score
    monkeypatch.setattr(asmk.PlainFile, "score", lambda self, query: honest(self, query) + np.float32(1e-3))
    with pytest.raises(RuntimeError, match=r"plain NumPy differs from the inverted file by 0\.001"):
        asmk.main(SMALL)
