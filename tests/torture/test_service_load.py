"""`resight serve` as a process, with the patience it really has, under more than it can do and by those who want harm.

After each siege the service answers, waits for no one, holds no more connections, files and memory than before, and
every request that it did not carry out has the status that says why.
"""

import asyncio
import collections
import itertools
import json
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from resight.server import limits
from service import Process, connected, rest, started

pytestmark = pytest.mark.torture

TOKEN = "a token for this test"
MIB = 1024**2
SLACK = 96 * MIB  # of memory, that allocators keep and caches of 64 finished searches and 8 pictures take
BUFFERED = 16 * MIB  # that the system takes on both sides of a connection
POOLS = 16  # files of threads and decoders that are started when they are first needed
FORM = "multipart/form-data; boundary=x"
PART = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'


@pytest.fixture(scope="module")
def temporary(tmp_path_factory):
    """Where the service's temporary files are."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def process(indexed, photos, tmp_path_factory, temporary):
    """One service for all sieges, so that each also finds what the last one left."""
    options = ("--state", tmp_path_factory.mktemp("state"), "--upload", 8)
    with started(indexed, *options, token=TOKEN, temporary=temporary) as found:
        found.http.post("/v1/searches?wait=30", json={"examples": [{"image": 1}]})
        data = (photos / "coffee-1.png").read_bytes()  # so that what decodes runs already
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: found.http.post("/v1/search", files={"image": data}), range(8)))
        yield found


@pytest.fixture
def calm(process):
    """Judges what a siege leaves."""
    memory, files = process.memory(), process.files()
    yield
    for _ in range(300):
        if process.files() <= files + POOLS and not process.metric("resight_searches_"):
            break
        time.sleep(0.1)
    assert process.files() <= files + POOLS
    assert process.memory() - memory < SLACK, f"{(process.memory() - memory) / MIB:.0f} MiB more than before"
    began = time.monotonic()
    answer = process.http.post("/v1/searches?wait=30", json={"examples": [{"image": 2}], "top": 7})
    assert answer.json()["state"] == "done" and time.monotonic() - began < 10


def head(process: Process, line: str, **more: object) -> bytes:
    every = {"Host": process.url.removeprefix("http://"), "Authorization": f"Bearer {TOKEN}"}
    every |= {name.replace("_", "-"): value for name, value in more.items()}
    return "\r\n".join([f"{line} HTTP/1.1", *(f"{k}: {v}" for k, v in every.items()), "", ""]).encode()


def client(process: Process) -> httpx.AsyncClient:
    most = httpx.Limits(max_connections=1000, max_keepalive_connections=1000)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    return httpx.AsyncClient(base_url=process.url, headers=headers, timeout=120, trust_env=False, limits=most)


def is_right(answer: httpx.Response) -> bool:
    """Whether it was carried out, or refused for lack of room and says when to come again."""
    return answer.is_success or (answer.status_code == 503 and answer.headers["retry-after"].isdecimal())


def test_users_without_a_pause(process, calm, photos, count):
    seconds, users = 20, 16
    picture = (photos / "coffee-2.jpg").read_bytes()
    number = itertools.count(1)
    took: list[float] = []
    statuses: collections.Counter[int] = collections.Counter()

    async def user(http: httpx.AsyncClient, until: float) -> None:
        while time.monotonic() < until:
            one = next(number)
            asked = {"examples": [{"image": one % 12 + 1}], "top": one % 10_000 + 1}
            began = time.monotonic()
            answers = [await http.post("/v1/searches?wait=30", json=asked)]
            took.append(time.monotonic() - began)
            answers.append(await http.get(f"/v1/images/{one % 12 + 1}/thumbnail"))
            if one % 5 == 0:
                answers.append(await http.post("/v1/queries", files={"image": picture + str(one).encode()}))
            assert all(is_right(answer) for answer in answers)
            statuses.update(answer.status_code for answer in answers)

    async def siege() -> None:
        async with client(process) as http:
            await asyncio.gather(*(user(http, time.monotonic() + seconds) for _ in range(users)))

    asyncio.run(siege())
    p50, p95 = np.percentile(took, [50, 95])
    count(
        f"{statuses.total()} requests in {seconds} s by {users} users, {dict(statuses)}; searches {p50:.2f}/{p95:.2f} s"
    )


def test_more_searches_at_once_than_may_wait(process, calm, count):
    waiting: list[float] = []
    asked = [{"examples": [{"image": n % 12 + 1}], "top": 9_000 - n, "exact": True} for n in range(450)]

    async def look(http: httpx.AsyncClient) -> None:
        while True:
            lines = (await http.get("/metrics")).text.splitlines()
            waiting.append(sum(float(line.split()[1]) for line in lines if line.startswith("resight_searches_")))
            await asyncio.sleep(0.02)

    async def siege() -> list[httpx.Response]:
        async with client(process) as http:
            looking = asyncio.create_task(look(http))
            answers = await asyncio.gather(*(http.post("/v1/searches", json=one) for one in asked))
            looking.cancel()
            return answers

    answers = asyncio.run(siege())
    statuses = collections.Counter(answer.status_code for answer in answers)
    assert all(is_right(answer) for answer in answers) and statuses[503] and statuses[202] >= 64
    assert max(waiting) <= 64 + 8
    count(f"450 searches at once: {dict(statuses)}; at most {max(waiting):.0f} waited or ran")


def test_connections_that_say_nothing_or_a_byte_a_second(process, calm, count):
    async def slow(number: int, tally: collections.Counter) -> None:
        host, _, port = process.url.removeprefix("http://").partition(":")
        try:
            reader, writer = await asyncio.open_connection(host, int(port))
            request = head(process, "GET /health") * 50
            for at in range(60):
                if number % 2:
                    writer.write(request[at : at + 1])
                    await writer.drain()
                try:
                    part = await asyncio.wait_for(reader.read(4096), 1)
                except TimeoutError:
                    continue
                tally["408" if b" 408 " in part else "closed"] += 1
                break
            else:
                tally["held for a minute"] += 1
            writer.close()
        except OSError:
            tally["closed"] += 1

    async def siege() -> tuple[collections.Counter, collections.Counter, float]:
        tally: collections.Counter[str] = collections.Counter()
        honest: collections.Counter[int] = collections.Counter()
        all_of_them = asyncio.gather(*(slow(number, tally) for number in range(700)))
        began, first = time.monotonic(), 0.0
        while not all_of_them.done():
            await asyncio.sleep(0.5)
            async with httpx.AsyncClient(timeout=5, trust_env=False) as http:
                try:
                    answer = await http.get(f"{process.url}/health")
                except httpx.HTTPError:
                    honest[0] += 1
                else:
                    honest[answer.status_code] += 1
                    if answer.is_success and not first and time.monotonic() - began > 2:
                        first = time.monotonic() - began
        await all_of_them
        return tally, honest, first

    tally, honest, first = asyncio.run(siege())
    assert not tally["held for a minute"] and set(honest) <= {0, 200, 503}
    assert first <= limits.HEAD + 5
    count(
        f"700 slow connections: {dict(tally)}; others are answered again after {first:.0f} s, meanwhile {dict(honest)}"
    )


def test_bodies_that_trickle(process, calm, count):
    async def slow(line: str, kind: str, begun: bytes) -> int:
        host, _, port = process.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head(process, line, Content_Type=kind, Content_Length=900_000) + begun)
        for _ in range(120):
            try:
                answer = await asyncio.wait_for(reader.read(4096), 1)
                writer.close()
                return int(answer.split()[1]) if answer else 0
            except TimeoutError:
                writer.write(b" ")
        return -1

    async def siege() -> list[int]:
        forms = [slow("POST /v1/queries", FORM, PART) for _ in range(60)]
        texts = [slow("POST /v1/searches", "application/json", b"{") for _ in range(60)]
        return await asyncio.gather(*forms, *texts)

    statuses = collections.Counter(asyncio.run(siege()))
    assert set(statuses) <= {408, 503} and statuses[408] >= 60
    count(f"120 bodies of a byte a second: {dict(statuses)}")


def test_uploads_that_are_broken_off(process, calm, photos, temporary, count):
    rng = np.random.default_rng(0)
    picture = (photos / "coffee-1.png").read_bytes()
    body = PART + picture + bytes(3_000_000) + b"\r\n--x--\r\n"
    seen = process.metric("resight_requests_total", 'status="499"')
    for cut in rng.integers(0, len(body), 200):
        connection = connected(process.url)
        connection.sendall(head(process, "POST /v1/queries", Content_Type=FORM, Content_Length=len(body)))
        connection.sendall(body[: int(cut)])
        connection.close()
    for _ in range(200):
        gone = process.metric("resight_requests_total", 'status="499"') - seen
        if gone >= 190 and not list(temporary.iterdir()):
            break
        time.sleep(0.1)
    assert not list(temporary.iterdir())
    assert process.http.post("/v1/queries", files={"image": picture}).status_code == 201
    count(f"200 uploads broken off, {gone:.0f} of them seen to break; no file left")


def test_bodies_above_the_limit(process, calm, count):
    statuses: collections.Counter[int] = collections.Counter()
    sent_in_all = 0
    for path, kind, begun, limit in (
        ("/v1/queries", FORM, PART, 33 * MIB),
        ("/v1/searches", "application/json", b"[", MIB),
        ("/v1/jobs", "application/json", b"[", MIB),
    ):
        with connected(process.url) as connection:  # announced: refused before any of it is sent
            connection.sendall(head(process, f"POST {path}", Content_Type=kind, Content_Length=10 * limit))
            answer = connection.recv(65536)
            statuses[int(answer.split()[1])] += 1
        for _ in range(5):  # as it comes
            with connected(process.url) as connection:
                connection.sendall(head(process, f"POST {path}", Content_Type=kind, Transfer_Encoding="chunked"))
                part, sent = begun + bytes(MIB - len(begun)), 0
                try:
                    while sent < 10 * limit:
                        connection.sendall(f"{len(part):x}\r\n".encode() + part + b"\r\n")
                        sent += len(part)
                except OSError:
                    pass
                sent_in_all += sent
                assert sent <= limit + BUFFERED, f"{sent / MIB:.0f} MiB were taken"
                answer = rest(connection)
                statuses[int(answer.split()[1]) if answer else 0] += 1
    assert set(statuses) <= {413, 0} and statuses[413] >= 3
    taken = f"{sent_in_all / MIB:.0f} MiB taken"
    count(f"18 bodies above the limit: {dict(statuses)} (0: it closed while more was sent); {taken}")


def test_answers_that_are_not_taken(process, calm, count):
    size, many = len(process.http.get("/openapi.json").content), 300
    before, held = process.memory(), []
    for _ in range(40):
        connection = connected(process.url, timeout=60, window=4096)  # or the system took it instead
        connection.sendall(head(process, "GET /openapi.json") * many)
        held.append(connection)
    highest, stalled = before, 0
    until = time.monotonic() + limits.PATIENCE + 150
    while process.connections() <= 40 and time.monotonic() < until:  # what comes in a burst is taken up one by one
        time.sleep(0.1)
    while process.connections() > 3 and time.monotonic() < until:
        highest, stalled = max(highest, process.memory()), max(stalled, process.connections())
        time.sleep(1)
    assert process.http.get("/health").status_code == 200
    assert process.connections() <= 3, "they are held still"
    for connection in held:
        assert len(rest(connection)) < size * many
        connection.close()
    most = f"at most {(highest - before) / MIB:.0f} MiB more"
    count(f"{stalled} clients with {many} answers of {size // 1024} KiB each not taken: {most}, all cut off")


def test_guesses(process, calm, count):
    statuses: collections.Counter[int] = collections.Counter()
    began = time.monotonic()
    with httpx.Client(base_url=process.url, trust_env=False) as http:
        for number in range(1000):
            answer = http.get("/v1/collection", headers={"Authorization": f"Bearer guess number {number}"})
            statuses[answer.status_code] += 1
    assert set(statuses) == {401, 429} and statuses[401] == 10
    count(f"1000 guesses in {time.monotonic() - began:.0f} s: {dict(statuses)}")
    time.sleep(61)  # or the judge would be locked out too


def test_odd_answers_are_json(process):
    for status, line in ((404, "GET /v1/nothing"), (405, "DELETE /v1/collection"), (413, "POST /v1/jobs")):
        length = 10**9 if status == 413 else 0
        with connected(process.url) as connection:
            connection.sendall(head(process, line, Content_Length=length, Connection="close"))
            answer = rest(connection)
        assert int(answer.split()[1]) == status and json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]
