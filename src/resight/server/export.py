"""A search's result as a file: CSV and JSON with the keys of `resight search`, or its page for looking at."""

import csv
import io
import json
import tempfile
from math import isfinite
from pathlib import Path
from typing import Literal

from starlette.responses import Response

from resight.errors import ImageError
from resight.images.apart import read_image_apart
from resight.images.image import Image
from resight.search.drawing import SIDE
from resight.search.page import QueryResult, ShownExample, write_results_page
from resight.search.ranking import Ranking
from resight.server import schemas, values
from resight.server.problems import Refused
from resight.server.search import Search
from resight.server.service import Service

_COLUMNS = ("rank", "id", "path", "score", "accepted", "inliers", "matches", "x1", "y1", "x2", "y2")


def threshold(ranking: Ranking) -> float | None:
    """Least score of a match, or None with a recipe that cannot tell matches."""
    return ranking.threshold if isfinite(ranking.threshold) else None


def reply(service: Service, search: Search, ranking: Ranking, format: Literal["csv", "json", "html"]) -> Response:
    """The file, to be saved and not shown: it is never part of the service's own pages."""
    if format == "csv":
        body, kind = _csv(service, ranking), "text/csv; charset=utf-8"
    elif format == "json":
        body, kind = _json(service, search, ranking), "application/json"
    else:
        body, kind = _html(service, search, ranking), "text/html; charset=utf-8"
    name = f"resight-{search.id}.{format}"
    return Response(body, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})


def _path(service: Service, image: int) -> str | None:
    entry = values.known(service.live, image)
    return None if entry is None else values.text(entry.origin)


def _csv(service: Service, ranking: Ranking) -> bytes:
    results = values.results(service.live, ranking, 0, len(ranking), full=False)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for rank, result in enumerate(results, 1):
        path, evidence = _path(service, result.image), result.evidence
        facts = (None, None) if evidence is None else (evidence.inliers, evidence.matches)
        box = (None,) * 4 if evidence is None or evidence.box is None else evidence.box
        writer.writerow([rank, result.image, path, result.score, result.accepted, *facts, *box])
    return text.getvalue().encode()


def _json(service: Service, search: Search, ranking: Ranking) -> bytes:
    results = values.results(service.live, ranking, 0, len(ranking), full=True)
    table = [
        {"rank": rank, "path": _path(service, result.image)} | result.model_dump(mode="json")
        for rank, result in enumerate(results, 1)
    ]
    facts = {
        "request": search.request.model_dump(mode="json"),
        "calibrated": ranking.calibrated,
        "threshold": threshold(ranking),
        "filter_rank": ranking.place,
        "suspect": ranking.suspect,
        "found": ranking.accepted > 0,
        "results": table,
    }
    return json.dumps(facts, indent=1).encode()


def _html(service: Service, search: Search, ranking: Ranking) -> bytes:
    known = [i for i, image in enumerate(ranking.ids.tolist()) if values.known(service.live, image) is not None]
    near = ranking.accepted + 10
    kept = ranking.take(known).top(near)
    first, *others = [
        ShownExample(_name(asked), _picture(service, asked), asked.box, asked.weight)
        for asked in search.request.examples
    ]
    if search.timing is None:
        raise ValueError("the search is not done")
    result = QueryResult(first.query, first.picture, first.box, kept, search.timing, tuple(others))
    with tempfile.TemporaryDirectory(prefix="resight-") as folder:
        page = Path(folder) / "page.html"
        write_results_page(page, service.live, [result])
        return page.read_bytes()


def _name(asked: schemas.AskedExample) -> str:
    return "an uploaded picture" if isinstance(asked.image, str) else f"id:{asked.image}"


def _picture(service: Service, asked: schemas.AskedExample) -> Image | None:
    try:
        image = asked.image
        value = service.uploads.image(image) if isinstance(image, str) else service.live.entry(image).origin
        return read_image_apart(value, max_side=SIDE)
    except (ImageError, Refused):
        return None  # the page says so in its place
