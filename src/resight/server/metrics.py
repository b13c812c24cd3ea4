"""What a service counts, for Prometheus, and its log, in which no request can forge a line."""

import logging
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from resight.search.collection import Timing

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)


class Metrics:
    """Of one service."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "resight_requests", "Requests answered", ["method", "route", "status"], registry=self._registry
        )
        self._took = Histogram(
            "resight_request_seconds",
            "Time to the head of the answer",
            ["route"],
            registry=self._registry,
            buckets=_SECONDS,
        )
        self._stages = Histogram(
            "resight_search_seconds", "Time of a search by stage", ["stage"], registry=self._registry, buckets=_SECONDS
        )
        self.log = logging.getLogger("resight.server")

    def watch(self, name: str, what: str, value: Callable[[], float]) -> None:
        """Show a value as it is when it is asked for."""
        Gauge(name, what, registry=self._registry).set_function(value)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """route: as it is declared, without what a request put in it."""
        self._requests.labels(method, route, str(status)).inc()
        self._took.labels(route).observe(seconds)

    def searched(self, timing: Timing, waited: float) -> None:
        """A search that was carried out."""
        stages = {"wait": waited, "describe": timing.describe, "filter": timing.filter, "verify": timing.verify}
        for stage, seconds in stages.items():
            self._stages.labels(stage).observe(seconds)

    def text(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self._registry)


class Lines(logging.Formatter):
    """One line a record; those of a traceback begin with a mark that no record has, and are escaped as well."""

    def format(self, record: logging.LogRecord) -> str:
        """As ``logging.Formatter``."""
        first, *others = super().format(record).split("\n")
        return "\n".join([in_a_line(first), *(f"    | {in_a_line(line)}" for line in others)])


def in_a_line(text: str) -> str:
    """A text from outside with all that could begin a new line, or steer a terminal, escaped."""
    return ascii(text)[1:-1]
