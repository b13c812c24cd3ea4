"""Ray, which runs on the nodes of a cluster what a collection in shards needs: connecting, and tasks in order."""

import socket
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Any

from resight.errors import CollectionError, ResightError

_KNOCK = 10.0  # seconds
NAMESPACE = "resight"
_AHEAD = 4  # tasks submitted for each core of the cluster: keeps all busy, and memory bounded
_RESTARTS = 16  # of a task whose node or process dies: one that kills each of them must come to an end
_LEAST = 8  # tasks submitted where the cluster has few cores yet: a node that joins finds some


def ray_module() -> Any:
    """The module ``ray``; CollectionError where it is not installed."""
    try:
        import ray
    except ModuleNotFoundError as error:
        raise CollectionError(
            f"a collection in shards needs {error.name}: pip install 'resight[cluster]', on every node"
        ) from error
    return ray


def connect(address: str) -> None:
    """Join the cluster at an address, ``HOST:PORT`` as ``ray start --head`` tells it; CollectionError if none answers.

    A process is in one cluster at a time: nothing is done where it has joined one already.
    """
    ray = ray_module()
    if ray.is_initialized():
        return
    # It prints the deaths of nodes on standard output, where results go.
    ray._private.worker.listen_error_messages = lambda *_: None
    try:
        _knock(address)
        ray.init(address=address, namespace=NAMESPACE, logging_level="ERROR", log_to_driver=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise CollectionError(
            f"no Ray cluster answers at {address} ({error}); start one with `ray start --head` and give the address "
            "that it prints"
        ) from error


def _knock(address: str) -> None:
    """OSError where nothing listens at ``HOST:PORT``, which Ray itself takes minutes to find."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "://" not in address:
        socket.create_connection((host, int(port)), timeout=_KNOCK).close()


def in_order(work: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> Generator[Any]:
    """The results of ``work(*arguments)`` for each, in order, from tasks of one core on the nodes of the cluster.

    A task whose node dies runs again on another, so it must do no harm twice. Nodes that join meanwhile take part.
    What `work` raises is raised, and CollectionError where a task was lost too often; what is not finished then, or
    when the generator is closed, is cancelled.
    """
    ray = ray_module()
    task = ray.remote(num_cpus=1, max_retries=_RESTARTS, scheduling_strategy="SPREAD")(work)
    waiting: deque[Any] = deque()
    try:
        for given in arguments:
            waiting.append(task.remote(*given))
            while len(waiting) >= max(_LEAST, _AHEAD * int(ray.cluster_resources().get("CPU", 0))):
                yield _got(waiting.popleft())
        while waiting:
            yield _got(waiting.popleft())
    finally:
        for left in waiting:
            ray.cancel(left)


def _got(reference: Any) -> Any:
    errors = ray_module().exceptions
    try:
        return result(reference)
    except errors.RayTaskError:
        raise
    except errors.RayError as error:
        raise CollectionError(
            f"the cluster lost a task ({error}); what is described is kept: run the same command again"
        ) from error


def result(reference: Any) -> Any:
    """What a task gave, or raised; Ray's own errors are as Ray raises them, among them that its node is lost."""
    ray = ray_module()
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ResightError):
            raise error.cause from error
        raise
