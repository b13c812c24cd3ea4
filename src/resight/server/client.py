"""A collection at a URL: the methods and the values of ``Collection``, answered by a service."""

import io
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from resight.errors import QueryError, ServiceError
from resight.geometry.boxes import Box
from resight.images.image import Image
from resight.images.read import load, read_image
from resight.search.collection import AddReport, Entry, Failure, Info, Progress, Timing
from resight.search.duplicates import OVERLAP, Cluster
from resight.search.examples import Example
from resight.search.ranking import Ranking
from resight.server.client_values import cluster_of, entry_of, ranking_of
from resight.server.problems import raised
from resight.server.settings import is_loopback
from resight.store.duplicates import Decision
from resight.store.facts import Value
from resight.store.metadata import Key
from resight.store.where import Equals, Where
from resight.store.where_json import to_json
from resight.store.where_text import format_where

try:
    import httpx
except ModuleNotFoundError as error:
    raise ServiceError("speaking to a service needs httpx: pip install 'resight[serve]'") from error

if TYPE_CHECKING:
    Picture = str | Path | int | PIL.Image.Image | NDArray[np.uint8] | Image

_WAIT = 20.0  # seconds that one request waits for a result, before it asks again
_PAGE = 1000
_MOST = 10_000  # results that a service gives
_LOOK = 0.2  # seconds between two looks at a job


def connect(
    url: str, token: str | None = None, *, insecure: bool = False, patience: float = 60.0
) -> "RemoteCollection":
    """The collection that ``resight serve`` serves at a URL such as ``http://127.0.0.1:8765``.

    insecure: send the token, and pictures, over plain http to another machine, on a network you trust. patience:
        seconds to wait for one answer.
    Raises ServiceError where nothing answers there or the token is not its own, and as ``insecure`` says.
    """
    parts = httpx.URL(url)
    if parts.scheme not in ("http", "https") or not parts.host or parts.userinfo or parts.query:
        raise ServiceError(f"{url}: a service has an address such as http://127.0.0.1:8765")
    local = is_loopback(parts.host)
    if parts.scheme == "http" and not local and not insecure:
        raise ServiceError(f"{url}: http shows token and pictures to the network; use https, or insecure=True")
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    http = httpx.Client(base_url=url, headers=headers, timeout=patience + _WAIT, trust_env=not local)
    remote = RemoteCollection(http)
    try:
        remote.info()
    except BaseException:
        remote.close()
        raise
    return remote


class RemoteCollection:
    """As ``resight.Collection`` where the methods have the same names; errors are the same exceptions.

    Rankings have at most 10,000 results. A photo of more than 4096 pixels is searched with at that size.
    """

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self._adapter: str | None = None

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return int(self._get("/v1/collection")["images"])

    @property
    def fingerprint(self) -> str:
        """As ``Collection.fingerprint``."""
        return self.info().fingerprint

    @property
    def adapter(self) -> str:
        """As ``Collection.adapter``, for what is searched by this object."""
        return self._adapter or str(self._get("/v1/collection")["adapter"])

    @adapter.setter
    def adapter(self, name: str) -> None:
        if name not in self.adapters:
            raise QueryError(f"there is no adapter {name!r}; there are {', '.join(self.adapters)}")
        self._adapter = name

    @property
    def adapters(self) -> tuple[str, ...]:
        """As ``Collection.adapters``."""
        return tuple(self._get("/v1/collection")["adapters"])

    def info(self) -> Info:
        """As ``Collection.info``."""
        found = self._get("/v1/collection")
        return Info(**{one.name: found[one.name] for one in fields(Info)})

    def search(
        self,
        query: "Picture",
        *,
        box: Box | None = None,
        top: int | None = None,
        where: Where | None = None,
        exact: bool = False,
    ) -> Ranking:
        """As ``Collection.search``."""
        return self.search_timed(query, box=box, top=top, where=where, exact=exact)[0]

    def search_timed(
        self,
        query: "Picture",
        *,
        box: Box | None = None,
        top: int | None = None,
        where: Where | None = None,
        exact: bool = False,
    ) -> tuple[Ranking, Timing]:
        """As ``Collection.search_timed``; seconds are the service's."""
        return self.search_examples_timed([Example(query, box)], top=top, where=where, exact=exact)

    def search_examples(
        self, examples: Sequence[Example], *, top: int | None = None, where: Where | None = None, exact: bool = False
    ) -> Ranking:
        """As ``Collection.search_examples``."""
        return self.search_examples_timed(examples, top=top, where=where, exact=exact)[0]

    def search_examples_timed(
        self, examples: Sequence[Example], *, top: int | None = None, where: Where | None = None, exact: bool = False
    ) -> tuple[Ranking, Timing]:
        """As ``Collection.search_examples_timed``; seconds are the service's. An interrupt ends the search there too.

        Raises ServiceError where somebody ends it.
        """
        asked = {
            "examples": [
                {"image": self._named(e.image), "box": None if e.box is None else list(e.box), "weight": e.weight}
                for e in examples
            ],
            "top": _MOST if top is None else top,
            "where": None if where is None else to_json(where),
            "exact": exact,
            "adapter": self._adapter,
        }
        found = self._send("POST", "/v1/searches", params={"evidence": "full"}, json=asked)
        path = f"/v1/searches/{found['search']}"
        try:
            while found["state"] in ("waiting", "running"):
                found = self._get(path, wait=_WAIT, limit=_MOST, evidence="full")
        except KeyboardInterrupt:
            self._send("DELETE", path)
            raise
        if found["error"] is not None:
            raise raised(found["error"]["code"], found["error"]["message"])
        if found["state"] == "cancelled":
            raise ServiceError("the search was cancelled")
        return ranking_of(found), Timing(**{one.name: found["timing"][one.name] for one in fields(Timing)})

    def entry(self, image_id: int) -> Entry:
        """As ``Collection.entry``."""
        return entry_of(self._image(image_id))

    def entries(self, *, after: int = 0, limit: int | None = None) -> Iterator[Entry]:
        """As ``Collection.entries``, asked for a page at a time."""
        left = limit
        while left is None or left > 0:
            page = self._get("/v1/images", after=after, limit=_PAGE if left is None else min(left, _PAGE))
            yield from map(entry_of, page["images"])
            if page["next"] is None:
                return
            after = page["next"]
            left = None if left is None else left - len(page["images"])

    def find(self, origin: str) -> int | None:
        """As ``Collection.find``."""
        page = self._get("/v1/images", limit=_PAGE, where=format_where(Equals("path", origin)))
        return next((entry.id for entry in map(entry_of, page["images"]) if entry.origin == origin), None)

    def digest(self, image_id: int) -> str:
        """As ``Collection.digest``."""
        return str(self._image(image_id)["digest"])

    def metadata(self, image_id: int) -> dict[str, Value]:
        """As ``Collection.metadata``."""
        found: dict[str, Value] = self._image(image_id)["metadata"]
        return found

    def metadata_keys(self) -> list[Key]:
        """As ``Collection.metadata_keys``."""
        found = self._get("/v1/metadata/keys")["keys"]
        return [Key(**{**key, "frequent": tuple(map(tuple, key["frequent"]))}) for key in found]

    def set_metadata(self, facts: Mapping[int, Mapping[str, Value | None]]) -> None:
        """As ``Collection.set_metadata``."""
        self._send("PATCH", "/v1/metadata", json={"facts": {str(image): dict(own) for image, own in facts.items()}})

    def failures(self, *, after: str = "") -> Iterator[Failure]:
        """As ``Collection.failures``, asked for a page at a time."""
        following: str | None = after
        while following is not None:
            page = self._get("/v1/failures", after=following, limit=_PAGE)
            yield from (Failure(one["path"], one["reason"]) for one in page["failures"])
            following = page["next"]

    def add(self, paths: Iterable[str | Path], *, progress: Callable[[Progress], None] | None = None) -> AddReport:
        """As ``Collection.add``, of absolute paths on the service's machine, under its --photos folders."""
        done = self._job({"kind": "add", "paths": [str(path) for path in paths]}, progress)
        return AddReport(**done)

    def remove(self, selectors: Iterable[int | str], *, missing: bool = False) -> int:
        """As ``Collection.remove``."""
        chosen = list(selectors)
        asked = {
            "kind": "remove",
            "images": [int(one) for one in chosen if not isinstance(one, str)],
            "paths": [one for one in chosen if isinstance(one, str)],
            "missing": missing,
        }
        return int(self._job(asked, None)["removed"])

    def find_duplicates(self, *, progress: Callable[[Progress], None] | None = None) -> int:
        """As ``Collection.find_duplicates``."""
        return int(self._job({"kind": "duplicates"}, progress)["compared"])

    def duplicates(self, *, overlap: float = OVERLAP) -> list[Cluster]:
        """As ``Collection.duplicates``."""
        found: list[Cluster] = []
        while True:
            page = self._get("/v1/duplicates", after=len(found), limit=_PAGE, overlap=overlap)
            found += map(cluster_of, page["clusters"])
            if page["next"] is None:
                return found

    def decide_duplicates(self, images: Sequence[int], decision: Decision | None) -> None:
        """As ``Collection.decide_duplicates``."""
        asked = {"images": [int(image) for image in images], "decision": decision}
        self._send("PUT", "/v1/duplicates/decision", json=asked)

    def _image(self, image_id: int) -> Any:
        return self._get(f"/v1/images/{int(image_id)}")

    def _named(self, picture: "Picture") -> int | str:
        """The id of an image, of the collection or of a picture that is sent."""
        if isinstance(picture, int | np.integer):
            return int(picture)
        if isinstance(picture, str | Path):
            data = load(str(picture))
        else:
            image = read_image(picture)
            if image.size != (image.pixels.shape[1], image.pixels.shape[0]):
                raise QueryError(f"{image.origin}: was read at a reduced size; give its path, or read it whole")
            buffer = io.BytesIO()
            PIL.Image.fromarray(image.pixels).save(buffer, "PNG", compress_level=1)
            data = buffer.getvalue()
        return str(self._send("POST", "/v1/queries", files={"image": ("picture", data)})["query"])

    def _job(self, asked: dict[str, Any], progress: Callable[[Progress], None] | None) -> Any:
        job = self._send("POST", "/v1/jobs", json=asked)
        told = None
        while True:
            if progress is not None and job["progress"] not in (None, told):
                told = job["progress"]
                progress(Progress(**told))
            if job["state"] in ("done", "failed", "cancelled"):
                break
            time.sleep(_LOOK)
            job = self._get(f"/v1/jobs/{job['job']}")
        if job["error"] is not None:
            raise raised(job["error"]["code"], job["error"]["message"])
        return job["result"]

    def _get(self, path: str, **params: Any) -> Any:
        return self._send("GET", path, params=params)

    def _send(self, method: str, path: str, **what: Any) -> Any:
        try:
            answer = self._http.request(method, path, **what)
            found = answer.json() if answer.content else None
        except httpx.HTTPError as error:
            raise ServiceError(f"{self._http.base_url}: does not answer: {error or type(error).__name__}") from error
        except ValueError as error:
            raise ServiceError(f"{self._http.base_url}: what answers there is no resight service") from error
        if answer.is_success:
            return found
        told = found.get("error") if isinstance(found, dict) else None
        if not isinstance(told, dict):
            raise ServiceError(f"{self._http.base_url}: what answers there is no resight service")
        raise raised(told["code"], told["message"])
