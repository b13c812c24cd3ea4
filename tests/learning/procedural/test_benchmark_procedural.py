"""The benchmark of rendering measures, and draws a sheet."""

from pathlib import Path

import cv2
import pytest

pytest.importorskip("torch")


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks"))
    import procedural

    monkeypatch.setattr(procedural, "_WARM", 2)
    threads = cv2.getNumThreads()
    yield procedural
    cv2.setNumThreads(threads)


def test_it_measures_and_draws(benchmark, tmp_path, capsys):
    speeds = benchmark.main(["--side", "32", "--side", "48", "--pairs", "3", "--batch", "2"])
    assert set(speeds) == {32, 48} and min(speeds.values()) > 0 and "pairs a second" in capsys.readouterr().out
    benchmark.main(["--side", "32", "--pairs", "4", "--sheet", str(tmp_path / "sheet.png")])
    assert cv2.imread(str(tmp_path / "sheet.png")).shape == (2 * 36, 2 * (4 * 32 + 8), 3)
