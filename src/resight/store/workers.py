"""Reading and describing files in worker processes, so that one that hangs or kills its decoder costs only itself."""

import os
import sys
from collections import deque
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field

import cv2
from pebble import ProcessExpired, ProcessPool

from resight.describe.local_features import LocalExtractor, load_local
from resight.describe.views import Feeding, Views
from resight.errors import ImageError, ResightError, UnreadError
from resight.images.damage import unforeseen
from resight.images.read import decode_with_facts, digest, load
from resight.images.sources import Source
from resight.local.features import LocalFeatures
from resight.processes import MEMORY, GuardlessContext, begin, expect_harm
from resight.recipes.recipe import Recipe

_WAITING = 4  # files in flight for each worker: keeps them busy and memory bounded


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of a file. `reason` says why it failed; `size` is None where its content was known already.

    digest: of its content, "" where that was not read or not told in time. again: whether a failure was of the place
        it lies in, so that it is worth reading again although it has not changed.
    views: what goes through the recipe's networks, or None where it has none. metadata: what EXIF says.
    """

    source: Source
    digest: str = ""
    size: tuple[int, int] | None = None
    local: LocalFeatures | None = None
    views: tuple[Views, ...] | None = None
    reason: str | None = None
    again: bool = False
    metadata: Mapping[str, str | float] = field(default_factory=dict)


def describe_files(
    sources: Iterable[Source],
    recipe: Recipe,
    known: frozenset[str],
    *,
    workers: int,
    timeout: float,
    feedings: tuple[Feeding, ...] = (),
    ahead: int = 0,
) -> Generator[Outcome]:
    """Outcomes in the order of `sources`.

    known: digests of contents that need not be described again. timeout: seconds one file may take.
    feedings: how pictures are prepared for the recipe's networks. ahead: files read before they are asked for, beyond
        those that keep the workers busy.
    """
    initial = (recipe, feedings, known, os.getpid())
    pool = ProcessPool(workers, initializer=_start, initargs=initial, context=GuardlessContext())
    waiting: deque[tuple[Source, object]] = deque()
    try:
        for source in sources:
            waiting.append((source, pool.schedule(_describe, args=[source], timeout=timeout)))
            if len(waiting) >= workers * _WAITING + ahead:
                yield _result(*waiting.popleft(), timeout)
        while waiting:
            yield _result(*waiting.popleft(), timeout)
        pool.close()
    finally:
        pool.stop()
        pool.join()


def _result(source: Source, future: object, timeout: float) -> Outcome:
    try:
        outcome: Outcome = future.result()  # type: ignore[attr-defined]
    except FutureTimeout:
        return Outcome(source, reason=f"took longer than {timeout:g} s to read and describe")
    except ProcessExpired as error:
        return Outcome(source, reason=f"killed the process that read it (exit code {error.exitcode})")
    except MemoryError:
        return Outcome(source, reason=f"needs more than {MEMORY >> 30} GiB of memory to read and describe")
    return outcome


_recipe: Recipe
_local: LocalExtractor | None
_feedings: tuple[Feeding, ...]
_known: frozenset[str]


def _start(recipe: Recipe, feedings: tuple[Feeding, ...], known: frozenset[str], parent: int) -> None:
    global _recipe, _local, _feedings, _known
    _recipe, _feedings, _known = recipe, feedings, known
    begin(parent)
    cv2.setNumThreads(1)
    _local = None if recipe.local is None else load_local(recipe.local, recipe.name)
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)  # the workers share the cores
    expect_harm()


def _describe(source: Source) -> Outcome:
    try:
        return _outcome(source)
    except (ResightError, MemoryError):
        raise
    except Exception as error:
        return Outcome(source, reason=unforeseen(error))


def _outcome(source: Source) -> Outcome:
    try:
        data = load(source.origin)
    except ImageError as error:
        return Outcome(source, reason=error.reason, again=isinstance(error, UnreadError))
    content = digest(data)
    if content in _known:
        return Outcome(source, content)
    try:
        image, facts = decode_with_facts(data, source.origin, max_side=_recipe.image.max_side)
    except ImageError as error:
        return Outcome(source, content, reason=error.reason)
    try:
        local = None if _local is None else _local.extract(image)
        views = tuple(feeding.views(image.pixels) for feeding in _feedings) or None
    except cv2.error as error:
        return Outcome(source, content, reason=f"no features could be described: {error.err}")
    return Outcome(source, content, image.size, local, views, metadata=facts)
