"""Trials of what must survive anything: each in a child that may crash, hang or run out of memory without harm."""

import json
import os
import resource
import signal
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from forked import without_threads

from resight.processes import bound_memory

T = TypeVar("T")


@dataclass(frozen=True)
class Found:
    """What went wrong in a trial: an exception that nobody expects, a wrong answer, a crash or a hang."""

    trial: int
    what: str


@dataclass(frozen=True)
class Outcome:
    """tried: trials. sound: those whose file was taken for sound. found: what went wrong."""

    tried: int
    sound: int
    found: list[Found]


def survive(trials: Sequence[T], attempt: Callable[[T], bool], *, seconds: int = 20, memory: int = 1 << 30) -> Outcome:
    """Attempts each trial in turn, in a forked child; a new one goes on after the trial that ended the last.

    attempt: says whether its file was taken for sound, and raises where something is wrong. seconds: a trial may take.
    memory: bytes that a child may have above what this process has.
    """
    found: list[Found] = []
    at = sound = 0
    while at < len(trials):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _attempt_all(trials, at, attempt, seconds, memory, writing)
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as lines:
            for line in lines:
                at, taken, what = json.loads(line)
                sound += taken
                found += [Found(at, what)] if what else []
                at += 1
        _, status = os.waitpid(child, 0)
        if at < len(trials):
            name = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit {status >> 8}"
            found.append(Found(at, f"took longer than {seconds} s" if name == "SIGALRM" else f"ended by {name}"))
            at += 1
    return Outcome(len(trials), sound, found)


def _attempt_all(
    trials: Sequence[T], first: int, attempt: Callable[[T], bool], seconds: int, memory: int, writing: int
) -> None:
    """Runs the trials and ends the process."""
    try:
        warnings.simplefilter("ignore")
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        bound_memory(memory)
        without_threads()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # where libtiff and others complain
        with os.fdopen(writing, "w", encoding="utf-8") as lines:
            for number in range(first, len(trials)):
                taken, what = False, ""
                signal.alarm(seconds)
                try:
                    taken = attempt(trials[number])
                except Exception as error:
                    where = traceback.extract_tb(error.__traceback__)[-1]
                    what = f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
                signal.alarm(0)
                lines.write(json.dumps([number, taken, what]) + "\n")
                lines.flush()
    finally:
        os._exit(0)
