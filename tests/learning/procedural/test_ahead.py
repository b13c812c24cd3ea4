"""Rendering ahead, in processes."""

import os
import subprocess
import sys
import time

import pytest
import torch

from resight.learning.procedural.ahead import Ahead
from resight.learning.procedural.scenes import render
from resight.learning.procedural.settings import Rendering

_TRAINER = """
import time
import torch
from resight.learning.procedural.ahead import Ahead
from resight.learning.procedural.settings import Rendering

rendering = Rendering()  # no guard: the processes that render do not run this again
made = dict(settings=lambda first: rendering, processes=1, device=torch.device("cpu"))
Ahead(0, 1, 1, 1000, 32, **made).take(0)
print("took one", flush=True)
time.sleep(600)
"""


def test_what_processes_render_is_the_same_to_the_last_bit():
    chosen = Rendering(azimuth=30)
    ahead = Ahead(5, 2, 2, 6, 32, settings=lambda first: chosen, processes=1, device=torch.device("cpu"))
    try:
        for first in (0, 2, 4):
            found, wanted = ahead.take(first), render(5, first, 2, 32, settings=chosen)
            for name in ("images", "warp", "visible", "subject"):
                assert torch.equal(getattr(found, name), getattr(wanted, name)), name
    finally:
        ahead.close()


@pytest.mark.slow
def test_a_killed_trainer_leaves_no_process_that_renders(tmp_path):
    script = tmp_path / "trainer.py"
    script.write_text(_TRAINER)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout.readline() == "took one\n"
        own = subprocess.run(["ps", "-o", "pid=", "--ppid", str(trainer.pid)], capture_output=True, text=True).stdout
        children = [int(line) for line in own.split()]
        trainer.kill()
    assert children
    end = time.monotonic() + 60
    while left := [child for child in children if _runs(child)]:
        assert time.monotonic() < end, left
        time.sleep(0.2)


def _runs(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
