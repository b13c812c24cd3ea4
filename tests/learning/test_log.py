"""The log of a run: rows by name, columns as they come, and no row of what was not kept."""

import csv
import os

import pytest

from resight.errors import RecipeError
from resight.learning.log import Log, read_log


def row(step, part="train", **figures):
    return {"epoch": 1, "step": step, "part": part, **figures}


def test_rows_come_back_and_columns_are_added(tmp_path):
    with Log(tmp_path) as log:
        log.write(row(1, loss=0.1 + 0.2))
        log.write(row(1, "validation", mAP=0.5))
        log.write(row(2, loss=1e-9))
        assert log.rows == 3
    rows = read_log(tmp_path / "log.csv")
    assert rows[0] == {"epoch": "1", "step": "1", "part": "train", "loss": "0.30000000000000004"}
    assert rows[1]["mAP"] == "0.5" and "loss" not in rows[1] and float(rows[2]["loss"]) == 1e-9
    with (tmp_path / "log.csv").open(newline="") as file:
        assert next(csv.reader(file)) == ["epoch", "step", "part", "loss", "mAP"]


def test_it_goes_on_from_where_it_was(tmp_path):
    with Log(tmp_path / ".") as log:
        for step in range(5):
            log.write(row(step, loss=float(step)))
        log.sync()
    with (tmp_path / "log.csv").open("a") as file:
        file.write("1,5,tr")  # the crash came while it was written
    with Log(tmp_path, rows=3, step=2) as log:
        log.write(row(3, loss=9.0))
        assert log.rows == 4
    assert [row["loss"] for row in read_log(tmp_path / "log.csv")] == ["0.0", "1.0", "2.0", "9.0"]
    with Log(tmp_path):
        assert read_log(tmp_path / "log.csv") == []  # a new run
    assert read_log(tmp_path / "none.csv") == []


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with Log(tmp_path) as log:
        log.write(row(1, loss=1.0))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(RecipeError, match=r"log\.csv: cannot be written: No space left on device; make room"):
                log.sync()
