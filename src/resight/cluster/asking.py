"""Asking all shards of a collection, each by any of its replicas."""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Any

from resight.cluster.engine import ray_module, result
from resight.cluster.serving import actor, actor_name, actors_of
from resight.errors import CollectionError

_PATIENCE = 2.0  # seconds after which another replica is asked as well
_PAUSE = 0.1  # seconds before a replica is asked anew that could not be reached
_AGAIN = 1.0  # seconds to reach any replica of a shard that did not answer the last time


@dataclass(frozen=True)
class Missing:
    """Shards that did not answer, ascending, and how many images they hold, of how many there are."""

    shards: tuple[int, ...]
    images: int
    total: int

    def __bool__(self) -> bool:
        return bool(self.shards)

    def __str__(self) -> str:
        named = ", ".join(map(str, self.shards))
        what = f"shard {named} does" if len(self.shards) == 1 else f"shards {named} do"
        return f"{what} not answer: {self.images:,} of {self.total:,} images were not searched"


class ShardsLost(CollectionError):
    """No replica of some shards answered in time. shards: their numbers."""

    def __init__(self, url: str, shards: frozenset[int]) -> None:
        named = ", ".join(map(str, sorted(shards)))
        super().__init__(f"{url}: no replica of shard {named} answers; is `resight serve {url} --cluster` running?")
        self.shards = shards


class Replicas:
    """The actors of a collection's shards. limit: seconds for a shard to answer, by whichever replica."""

    def __init__(self, url: str, shards: tuple[str, ...], limit: float) -> None:
        self._url, self._shards, self._limit = url, shards, limit
        self._names: dict[int, list[str]] = {}
        self._silent: set[int] = set()
        self._turn = count()

    def ask(self, method: str, questions: Mapping[int, tuple[Any, ...]]) -> dict[int, Any]:
        """What ``ShardServer.method`` of each shard, by number, says to its arguments; all are asked at once.

        Raises ShardsLost where one does not answer, and what a shard itself raised.
        """
        if not questions:
            return {}
        with ThreadPoolExecutor(len(questions)) as pool:
            waiting = {shard: pool.submit(self._one, shard, method, given) for shard, given in questions.items()}
        answers = {shard: future.result() for shard, future in waiting.items()}
        self._silent = (self._silent - set(questions)) | {s for s, answer in answers.items() if answer is None}
        if lost := frozenset(questions) & self._silent:
            raise ShardsLost(self._url, lost)
        return {shard: answer[0] for shard, answer in answers.items() if answer is not None}

    def _one(self, shard: int, method: str, arguments: tuple[Any, ...]) -> tuple[Any] | None:
        """One shard's answer, or None. Replicas are asked in turn, each while those before it have not answered."""
        ray = ray_module()
        began, turn = time.monotonic(), next(self._turn)
        reachable = min(self._limit, _AGAIN) if shard in self._silent else self._limit
        asked: dict[Any, str] = {}
        while (left := began + (self._limit if asked else reachable) - time.monotonic()) > 0:
            names = [name for name in self._replicas(shard) if name not in asked.values()]
            if names:
                name = names[turn % len(names)]
                if (handle := actor(name)) is None:
                    self._names.pop(shard, None)
                else:
                    asked[getattr(handle, method).remote(*arguments)] = name
            if not asked:
                time.sleep(min(left, _PAUSE))
                continue
            done, _ = ray.wait(list(asked), num_returns=1, timeout=min(left, _PATIENCE))
            for reference in done:
                asked.pop(reference)
                try:
                    return (result(reference),)
                except ray.exceptions.RayTaskError:
                    raise
                except ray.exceptions.RayError:  # its node is gone, or it is being started again
                    self._names.pop(shard, None)
                    turn += 1
                    time.sleep(min(max(0.0, left), _PAUSE))
        return None

    def _replicas(self, shard: int) -> list[str]:
        if not self._names.get(shard):  # also where there was none yet
            begin = actor_name(self._url, self._shards[shard], 0).removesuffix("0")
            self._names[shard] = [name for name in actors_of(self._url) if name.startswith(begin)]
        return self._names[shard]
