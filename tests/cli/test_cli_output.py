"""Columns, escapes, sizes and the progress of a job whose standard error is a log."""

import json

import pytest

from resight.cli import output, progress
from resight.cli.progress import LOG_EVERY, Reporter, clock


def test_columns_line_up_and_cut_nothing(capsys):
    long = "/x" * 200
    output.columns([("n", "name", "path"), ("10", "a", long), ("9", "bcdef", "y")], left=[1])
    assert capsys.readouterr().out == f" n  name   path\n10  a      {long}\n 9  bcdef  y\n"


@pytest.mark.parametrize(
    ("text", "shown"), [("a\x1b[31m\n", "a\\x1b[31m\\n"), ("größe 鳥", "größe 鳥"), ("x\udcff", "x\udcff")]
)
def test_control_characters_cannot_reach_the_terminal(text, shown):
    assert output.printable(text) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (123_456, "123 kB"), (2.5e12, "2.5 TB")],
)
def test_sizes(count, shown):
    assert output.size(count) == shown


def test_json_is_ascii_and_comes_back():
    text = output.as_json({"path": "größe\udcff"})
    assert text.isascii() and json.loads(text) == {"path": "größe\udcff"}


def test_clock():
    assert [clock(s) for s in (0, 59.6, 3600, 90_061)] == ["0:00:00", "0:01:00", "1:00:00", "25:01:01"]


def test_a_log_gets_a_line_now_and_then(capsys, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Reporter() as reporter:
        for second in range(0, 101, 5):
            now[0] = 1000.0 + second
            reporter.report("describing", second * 2, 1000)
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 100 // LOG_EVERY
    assert lines[0] == "describing: 60 of 1,000, 2.0/s, about 0:07:50 left"


def test_a_log_gets_no_line_that_tells_nothing(capsys, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Reporter() as reporter:
        now[0] += 2 * LOG_EVERY
        reporter.report("encoding", 1, 50)
        reporter.report("encoding", 50, 50)
    assert capsys.readouterr().err == ""


def test_the_rate_is_that_of_this_phase(capsys, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Reporter() as reporter:
        reporter.report("describing", 0, 9)
        reporter.report("encoding", 20, 100)
        now[0] += 40
        reporter.report("encoding", 40, 100)
    assert capsys.readouterr().err == "encoding: 40 of 100, 0.5/s, about 0:02:00 left\n"


def test_quiet_is_quiet(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Reporter(quiet=True) as reporter:
        now[0] = 1e6
        reporter.report("describing", 1, None)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_one_bar_a_phase(monkeypatch, capsys):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    with Reporter() as reporter:
        for phase in ("looking", "describing"):
            reporter.report(phase, 1, None)
            reporter.report(phase, 20, 20)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("looking") >= 1 and "20/20" in captured.err
