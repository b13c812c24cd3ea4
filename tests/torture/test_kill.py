"""kill -9 at any moment of whatever writes a collection.

After each kill the collection opens, is sound, and holds all that was reported as done; where a reader should see
either what was before or the end, it does. Done again, the work ends as if it had never been broken off.
"""

import os
import random
import signal
import time
from pathlib import Path
from subprocess import Popen

import pytest
from broken_works import BROKEN, searched

from resight.search.collection import Collection

pytestmark = pytest.mark.usefixtures("here")


@pytest.mark.parametrize("name", ["add", "refit", "swap"])
def test_killed_at_some_moments(trials, name):
    calls = trials.calls(name)
    for at in (calls // 3, calls - 8):
        trials.trial(name, at_event=at)


@pytest.mark.torture
@pytest.mark.parametrize("name", BROKEN)
def test_killed_at_random_moments(trials, count, name):
    """More trials where the work has more in it."""
    rng, (tried, killed) = random.Random(name), (trials.tried, trials.killed)
    for _ in range({"index": 40, "add": 40, "refit": 30, "upgrade": 20, "repair": 20}.get(name, 10)):
        trials.trial(name, after=rng.uniform(0, trials.unbroken(name)[2]))
    count(f"{name}: {trials.tried - tried} trials, {trials.killed - killed} killed before the end, all survived")


@pytest.mark.torture
@pytest.mark.parametrize("name", BROKEN)
def test_killed_at_every_call_to_the_file_system(trials, count, name):
    calls = trials.calls(name)
    step = max(1, calls // 20)
    moments = range(1, calls + 1, step)
    for at in moments:
        trials.trial(name, at_event=at)
    count(f"{name}: killed in place of {len(moments)} of its {calls} calls, all survived")


@pytest.mark.torture
def test_commands_killed_at_random_moments(trials, tiny, tmp_path, python, count):
    """`resight index` and `refit` with workers; half of the time all of their processes, half only the first."""
    commands = {"whole": ("index", trials.album, "--workers", 1, "--into"), "refit": ("refit",)}

    def begun(name: str, path: Path) -> Popen[str]:
        return python("from resight.cli.main import main; main()", *commands[name], path)

    def finish(name: str, path: Path) -> float:
        began = time.monotonic()
        process = begun(name, path)
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        assert searched(path, trials.album) == trials.unbroken(name)[1]
        return time.monotonic() - began

    def based(name: str, path: Path) -> Path:
        if name == "whole":
            Collection.create(path, tiny).close()
            return path
        return trials.based(name, path)

    seconds = {name: finish(name, based(name, tmp_path / name)) for name in commands}
    rng, killed, tried = random.Random(0), 0, 24
    for number in range(tried):
        name = ("whole", "refit")[number % 4 == 3]
        path = based(name, tmp_path / str(number))
        process = begun(name, path)
        time.sleep(rng.uniform(0.4, 1) * seconds[name])  # before that it starts
        (os.killpg if number % 2 else os.kill)(process.pid, signal.SIGKILL)
        _, said = process.communicate(timeout=120)
        assert process.returncode in (0, -signal.SIGKILL), said
        killed += process.returncode != 0
        with Collection.open(path) as collection:
            assert collection.verify() == []
        finish(name, path)
    count(f"{tried} commands, {killed} killed before the end, all survived")
