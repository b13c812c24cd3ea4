"""Searches at the same time with a network: in one batch, as each alone, and none at the mercy of another."""

import io
import itertools
import threading
import time

import numpy as np
import PIL.Image
import pytest

pytest.importorskip("torch")

from resight.networks.engine import OpenVinoEngine, TorchEngine
from resight.recipes import load_recipe
from resight.recipes.query_stage import QueryStage
from resight.search.collection import Collection
from resight.search.examples import Example
from resight.server.settings import Settings
from resight.server.uploads import Uploads
from service import running

pytestmark = pytest.mark.usefixtures("sketched_once")

SQUARE = ("astronaut-1.png", "astronaut-2.jpg", "brick.png", "grass.png", "moon.png")
"""Of one size, so that PyTorch too can compute them at once."""
TOLERANCE = 2e-6
"""Of a cosine of a picture described with others against the same alone."""
TOPS = itertools.count(12)
"""No two requests are equal, or they would share a search; there are fewer images."""


@pytest.fixture(scope="module")
def small():
    """The recipe ``compact`` with small pictures."""
    recipe = load_recipe("compact")
    return recipe.model_copy(
        update={
            "image": recipe.image.model_copy(update={"max_side": 160}),
            "global_": recipe.global_.model_copy(update={"max_side": 96}),
            "local": recipe.local.model_copy(update={"enlarge": 160, "max_features": 60}),
        }
    )


@pytest.fixture(scope="module")
def compact(tmp_path_factory, photos, small):
    """A collection of seven photos by it."""
    path = tmp_path_factory.mktemp("compact") / "collection"
    with Collection.create(path, small) as made:
        assert made.add([photos / name for name in (*SQUARE, "coffee-1.png", "rocket-1.png")], workers=1).added == 7
    return path


@pytest.fixture(scope="module")
def found(compact, tmp_path_factory):
    """A service of it."""
    with running(compact, Settings(port=0, state=tmp_path_factory.mktemp("state"))) as served:
        yield served


class Gate:
    """Before a network: counts the pictures of each round, holds them once it is told to, breaks at a black picture."""

    def __init__(self):
        self.rounds, self.calls = [], []
        self._permits = threading.Semaphore(1000)

    def hold(self):
        """Let no round in from now on, and count from now on."""
        self.rounds, self.calls, self._permits = [], [], threading.Semaphore(0)

    def open(self, rounds=1000):
        self._permits.release(rounds)

    def before(self, each):
        def gated(engine, pictures):
            pictures = list(pictures)
            self.rounds.append(len(pictures))
            assert self._permits.acquire(timeout=20)
            if not all(picture.any() for picture in pictures):
                raise MemoryError("a black picture")
            yield from each(engine, pictures)

        return gated

    def counted(self, call):
        def counting(engine, pictures):
            self.calls.append(len(pictures))
            return call(engine, pictures)

        return counting


@pytest.fixture
def gate(monkeypatch):
    made = Gate()
    for engine in (TorchEngine, OpenVinoEngine):
        monkeypatch.setattr(engine, "each", made.before(engine.each))
    monkeypatch.setattr(TorchEngine, "__call__", made.counted(TorchEngine.__call__))
    yield made
    made.open()


def until(true, seconds=20):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def start(found, *examples):
    answer = found.http.post("/v1/searches", json={"examples": list(examples), "top": next(TOPS)})
    assert answer.status_code == 202, answer.text
    return answer.json()["search"]


def waiting(found):
    """Searches with pictures that wait to be described."""
    return list(found.app.service.searches._describing._undescribed)


def holding(found, gate, first, *others):
    """Searches, the first of which is alone in the network and held there while the others wait."""
    gate.hold()
    names = [start(found, *first)]
    until(lambda: gate.rounds)
    for number, examples in enumerate(others, 1):
        names.append(start(found, *examples))
        until(lambda number=number: len(waiting(found)) == number)
    return names


def by_itself(collection, *examples):
    return collection.search_examples([Example(*example) for example in examples])


def agrees(result, ranking):
    assert [one["image"] for one in result["results"]] == ranking.ids.tolist()
    np.testing.assert_allclose([one["score"] for one in result["results"]], ranking.scores, atol=TOLERANCE)


def test_those_that_wait_go_through_the_network_as_one_batch(found, compact, photos, upload, gate):
    one_batch(found, compact, photos, upload, gate)
    assert gate.calls == [1, 4], "the pictures are one tensor"


@pytest.mark.slow
def test_they_do_so_with_openvino(serve, compact, photos, upload, gate, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setenv("RESIGHT_ENGINE", "openvino")
    one_batch(serve(compact), compact, photos, upload, gate)
    assert gate.calls == []


def one_batch(found, compact, photos, upload, gate):
    boxes = [None, None, [0, 0, 320, 320], None, None]
    with Collection.open(compact) as collection:
        alone = [by_itself(collection, (photos / name, box)) for name, box in zip(SQUARE, boxes, strict=True)]
    asked = [{"image": upload(found, name), "box": box} for name, box in zip(SQUARE, boxes, strict=True)]
    names = holding(found, gate, [asked[0]], *([one] for one in asked[1:]))
    gate.open()
    ended = [found.wait(name) for name in names]
    assert gate.rounds == [1, 4]
    for result, ranking in zip(ended, alone, strict=True):
        agrees(result, ranking)
    assert [result["results"][0]["name"] for result in ended] == list(SQUARE)


def test_one_that_fails_in_the_network_harms_no_other(found, compact, photos, upload, gate):
    black = io.BytesIO()
    PIL.Image.new("RGB", (320, 320)).save(black, "PNG")
    bad = found.http.post("/v1/queries", files={"image": black.getvalue()}).json()["query"]
    good = [{"image": upload(found, name)} for name in SQUARE[:3]]
    names = holding(found, gate, [good[0]], [good[1]], [{"image": bad}], [good[2], {"image": bad}], [good[2]])
    gate.open()
    ended = [found.wait(name) for name in names]
    assert [one["state"] for one in ended] == ["done", "done", "failed", "failed", "done"]
    assert ended[2]["error"]["code"] == ended[3]["error"]["code"] == "defect"
    assert gate.rounds[:2] == [1, 5]
    with Collection.open(compact) as alone:
        for result, photo in ((ended[0], SQUARE[0]), (ended[1], SQUARE[1]), (ended[4], SQUARE[2])):
            agrees(result, by_itself(alone, (photos / photo,)))


def test_a_cancelled_one_leaves_at_once_and_those_by_stored_images_wait_for_no_network(found, upload, gate):
    asked = [[{"image": upload(found, name)}] for name in SQUARE[:4]]
    names = holding(found, gate, *asked)
    for gone in (names[0], names[2]):
        found.http.delete(f"/v1/searches/{gone}")
        assert found.http.get(f"/v1/searches/{gone}?wait=5").json()["state"] == "cancelled"
    stored = found.http.post("/v1/searches?wait=10", json={"examples": [{"image": 1}, {"image": 2}]}).json()
    assert stored["state"] == "done" and stored["timing"]["waited"] < 5
    gate.open()
    assert [found.wait(name)["state"] for name in names] == ["cancelled", "done", "cancelled", "done"]
    assert gate.rounds == [1, 2]


def test_a_search_has_its_time_also_while_it_waits_for_a_batch(compact, upload, gate, tmp_path):
    with running(compact, Settings(port=0, state=tmp_path / "state", timeout=1.5)) as found:
        asked = [[{"image": upload(found, name)}] for name in SQUARE[:3]]
        until(lambda: found.wait(start(found, *asked[0]))["state"] == "done")  # the first load the network
        names = holding(found, gate, *asked)
        ended = [found.wait(name) for name in names]  # while the network is held
        assert [(one["state"], one["error"]["code"]) for one in ended] == [("failed", "timeout")] * 3
        gate.open()
        until(lambda: not waiting(found))
        assert gate.rounds == [1], "those that waited were not described for nobody"
        assert found.wait(start(found, *asked[1]))["state"] == "done"


def test_one_with_many_pictures_is_overtaken_by_one_with_a_single(found, compact, photos, upload, gate):
    image, other = upload(found, "coffee-2.jpg"), {"image": upload(found, SQUARE[0])}
    boxes = [[10 * number, 5, 150 + 10 * number, 150 + 2 * number] for number in range(16)]
    gate.hold()
    many = start(found, *({"image": image, "box": box} for box in boxes))
    until(lambda: gate.rounds and sum(len(asked.waiting) for asked in waiting(found)) == 8)  # reads no further ahead
    one = start(found, other)
    until(lambda: len(waiting(found)) == 2)
    gate.open(2)
    first = found.wait(one)
    assert first["state"] == "done" and found.http.get(f"/v1/searches/{many}").json()["state"] == "running"
    gate.open()
    last = found.wait(many)
    assert sum(gate.rounds) == 17 and max(gate.rounds) <= 8 and len(gate.rounds) <= 5, gate.rounds
    with Collection.open(compact) as alone:
        agrees(first, by_itself(alone, (photos / SQUARE[0],)))
        agrees(last, by_itself(alone, *((photos / "coffee-2.jpg", tuple(box)) for box in boxes)))


def test_a_picture_that_is_slow_to_read_holds_up_no_other(found, upload, gate, monkeypatch):
    slow, *others = [upload(found, name) for name in SQUARE[:3]]
    go, begun, image = threading.Event(), threading.Event(), Uploads.image

    def held(self, name):
        if name == slow:  # also who asks is answered without it
            begun.set()
            assert go.wait(20)
        return image(self, name)

    monkeypatch.setattr(Uploads, "image", held)
    stuck = start(found, {"image": slow})
    assert begun.wait(10)
    assert [found.wait(start(found, {"image": other}))["state"] for other in others] == ["done", "done"]
    assert found.http.get(f"/v1/searches/{stuck}").json()["state"] == "waiting"
    go.set()
    assert found.wait(stuck)["state"] == "done"


def test_queries_looked_at_more_than_once_fill_a_batch_with_their_views(
    found, compact, photos, upload, gate, monkeypatch
):
    turned = QueryStage(turns=4, merge="mean")
    monkeypatch.setattr(found.app.service.readers.searchable()[0], "query", turned)
    names = holding(found, gate, *([{"image": upload(found, name)}] for name in SQUARE[:4]))
    gate.open()
    ended = [found.wait(name) for name in names]
    assert gate.rounds == [4, 8, 4], "no more than eight pictures at once"
    with Collection.open(compact) as alone:
        alone.query = turned
        for result, photo in zip(ended, SQUARE, strict=False):
            agrees(result, by_itself(alone, (photos / photo,)))
