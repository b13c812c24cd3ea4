"""`resight serve`: time from dropping a photo to the first verified result and to the whole, one user and several.

The service is a process of its own. Each user drops a photo, follows the search's events, and then drops the next; no
two searches are equal, so none is shared. Collections of more photos than there are repeat them, warped. A second table
has the describing alone, of the first queries, without a service.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import numpy as np
import psutil

import photos
from common import DATA, header, table, write_json
from resight.search.collection import Collection
from resight.search.examples import Example, ReadExample
from resight.server.describing import TOGETHER
from resight.server.settings import ranking_threads

_TOP = 100
# The service has no setting for how many pictures are described together: only measuring wants another number.
_SERVE = (
    "import sys; from resight.cli.main import main; from resight.server import describing; "
    "describing.TOGETHER = int(sys.argv.pop(1)); sys.argv[0] = 'resight'; main()"
)
_EVERY = 0.05  # seconds between two looks at the service's memory


@dataclass(frozen=True)
class Result:
    """Of searches by so many users at once, in seconds: p50 and p95. rate: searches a second.

    together: pictures that go through the network in one go, at most. dropped: to the answer of the upload. first: to
    the first verified image. whole: to the end. peak, private: bytes of the service's memory, with and without pages of
    files.
    """

    images: int
    users: int
    together: int
    searches: int
    dropped: tuple[float, float]
    first: tuple[float, float]
    whole: tuple[float, float]
    rate: float
    peak: int
    private: int


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=DATA / "distractors", help="of which collections are made")
    parser.add_argument("--queries", type=Path, default=DATA / "museum_mcv", help="folder of the photos to drop")
    parser.add_argument("--images", type=int, nargs="+", default=[300, 30_000], help="sizes of collections")
    parser.add_argument("--users", type=int, nargs="*", default=[1, 16], help="none: the describing alone")
    parser.add_argument(
        "--together",
        type=int,
        nargs="+",
        default=[TOGETHER],
        help="pictures described in one go; 1 8 1 8 to compare fairly",
    )
    parser.add_argument("--searches", type=int, default=64, help="with each number of users")
    parser.add_argument("--recipe", default="rootsift-asmk")
    parser.add_argument("--side", type=int, default=1024, help="of the collection's photos, at most")
    parser.add_argument("--collections", type=Path, required=True, help="folder that keeps what was indexed")
    parser.add_argument(
        "--workers", type=int, default=ranking_threads(), help="searches that the service ranks at the same time"
    )
    parser.add_argument("--out", type=Path, help="also write the results to this JSON file")
    options = parser.parse_args(arguments)
    queries = photos.originals(options.queries)
    found, rates = [], []
    for images in options.images:
        path = collection(options.photos, images, options)
        found += [
            measured(path, images, users, n, queries, options) for users in options.users for n in options.together
        ]
        rates += [
            (f"{images:,}", n, f"{described(path, queries[: options.searches], n):.2f}") for n in options.together
        ]
    protocol = (
        f"recipe {options.recipe}, {options.workers} ranking threads; collections of {options.photos.name}, longest "
        f"side {options.side}, repeated and warped above their number; {options.searches} searches a row with photos "
        f"of {options.queries.name}, after one that is not counted; client on the same machine"
    )
    print(header(protocol))
    if found:
        print(shown(found) + "\n")
    print(table(["photos", "together", "queries described a second"], rates))
    write_json(options.out, protocol, [asdict(result) for result in found])


def collection(sources: Path, images: int, options: argparse.Namespace) -> Path:
    """A collection of so many photos, kept for the next run."""
    folder = options.collections / f"{sources.name}-{options.side}"
    folder.mkdir(parents=True, exist_ok=True)
    made = photos.write(photos.originals(sources), range(images), folder, side=options.side)
    path = options.collections / f"{sources.name}-{options.side}-{options.recipe}-{images}"
    with Collection.open(path, write=True) if Collection.exists(path) else Collection.create(path, options.recipe) as c:
        c.add(made)
        return path


def described(path: Path, queries: Sequence[Path], together: int) -> float:
    """Queries a second that one thread describes, so many in one go, once their pixels are read."""
    with Collection.open(path) as c:
        read = [one for query in queries if isinstance(one := c.read_example(Example(query)), ReadExample)]
        for first in (1, together):  # loads the recipe; engines have their own way for one alone
            list(c.describe_each(read[:first]))
        began = time.perf_counter()
        for start in range(0, len(read), together):
            list(c.describe_each(read[start : start + together]))
        return len(read) / (time.perf_counter() - began)


def measured(
    path: Path, images: int, users: int, together: int, queries: Sequence[Path], options: argparse.Namespace
) -> Result:
    """A service of its own, asked by so many users at once."""
    numbers = iter(range(options.searches))
    lock, times = threading.Lock(), []

    def user(url: str) -> None:
        with httpx.Client(base_url=url, timeout=600, trust_env=False) as http:
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                spent = dropped(http, queries[number % len(queries)], _TOP + number + 1)
                with lock:
                    times.append(spent)

    with service(path, options.workers, together) as (url, process):
        with httpx.Client(base_url=url, timeout=600, trust_env=False) as http:
            dropped(http, queries[-1], _TOP)  # loads what the recipe needs
        with memory(process) as most, ThreadPoolExecutor(users) as pool:
            began = time.perf_counter()
            for job in [pool.submit(user, url) for _ in range(users)]:
                job.result()
            took = time.perf_counter() - began
    upload, first, whole = (
        (float(np.percentile(t, 50)), float(np.percentile(t, 95))) for t in zip(*times, strict=True)
    )
    return Result(images, users, together, len(times), upload, first, whole, len(times) / took, *most)


def dropped(http: httpx.Client, photo: Path, top: int) -> tuple[float, float, float]:
    """Seconds from dropping a photo to its upload's end, to the first verified image, and to the end."""
    began = time.perf_counter()
    answer = http.post("/v1/queries", files={"image": photo.read_bytes()})
    answer.raise_for_status()
    uploaded, first = time.perf_counter() - began, None
    asked = {"examples": [{"image": answer.json()["query"]}], "top": top}
    started = http.post("/v1/searches", json=asked)
    started.raise_for_status()
    with http.stream("GET", f"/v1/searches/{started.json()['search']}/events") as events:
        for line in events.iter_lines():
            if line == "event: verified" and first is None:
                first = time.perf_counter() - began
            if line == "event: failed":
                raise RuntimeError(f"{photo}: the search failed")
    whole = time.perf_counter() - began
    return uploaded, whole if first is None else first, whole


@contextmanager
def service(path: Path, workers: int, together: int = TOGETHER) -> Iterator[tuple[str, psutil.Process]]:
    """`resight serve` in a process: where it answers, and the process."""
    with tempfile.TemporaryDirectory() as state:
        command = [sys.executable, "-c", _SERVE, str(together), "serve", str(path), "--port", "0", "--state", state]
        command += ["--workers", str(workers), "--timeout", "600"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            try:
                if process.stdout is None:
                    raise RuntimeError("no output")
                url = process.stdout.readline().strip()
                yield url, psutil.Process(process.pid)
            finally:
                process.terminate()


@contextmanager
def memory(process: psutil.Process) -> Iterator[list[int]]:
    """The most bytes, resident and private, that a process has meanwhile; looked at now and then."""
    most, ended = [0, 0], threading.Event()

    def watch() -> None:
        while not ended.is_set():
            now = process.memory_full_info()
            # Linux counts files that a process alone has mapped as its own (uss).
            own = now.rss - now.shared if hasattr(now, "shared") else now.uss
            most[:] = max(most[0], now.rss), max(most[1], own)
            ended.wait(_EVERY)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()


def shown(results: Sequence[Result]) -> str:
    """A Markdown table."""
    head = [
        "photos",
        "users",
        "together",
        "upload, s",
        "first result, s",
        "whole, s",
        "searches a second",
        "memory, MiB",
        "private",
    ]
    rows = [
        (
            f"{r.images:,}",
            r.users,
            r.together,
            *(f"{p50:.2f} / {p95:.2f}" for p50, p95 in (r.dropped, r.first, r.whole)),
            f"{r.rate:.2f}",
            f"{r.peak / 2**20:.0f}",
            f"{r.private / 2**20:.0f}",
        )
        for r in results
    ]
    return table(head, rows) + "\n\np50 / p95."


if __name__ == "__main__":
    main()
