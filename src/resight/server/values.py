"""The library's values as the API says them, and what the API is told as the library takes it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from resight.errors import QueryError
from resight.search.collection import Collection, Entry
from resight.search.examples import Example, check_wanted
from resight.search.ranking import Evidence, Ranking
from resight.search.searcher import Checked, Filtered
from resight.server import schemas
from resight.server.problems import Refused
from resight.server.uploads import Uploads, is_upload
from resight.store.where import Where
from resight.store.where_json import from_json
from resight.store.where_text import parse_where

_FIRST = 100  # results of a first ranking that are told


def where_of(request: schemas.SearchRequest) -> Where | None:
    """The condition of a request; QueryError where it is none, and where no example is wanted."""
    check_wanted([example.weight for example in request.examples])
    return condition(request.where)


def condition(where: str | dict[str, Any] | None) -> Where | None:
    """A condition as text or JSON."""
    if where is None or where == "":
        return None
    return parse_where(where) if isinstance(where, str) else from_json(where)


def check_example(asked: schemas.AskedExample, uploads: Uploads) -> None:
    """Raises QueryError, and Refused where its image is none that was uploaded; before any picture is read."""
    if isinstance(asked.image, str):
        if not is_upload(asked.image):
            raise QueryError(
                f"{asked.image!r}: an example is the id of an image or of an uploaded query; no path and no URL"
            )
        uploads.size(asked.image)
    Example(asked.image, asked.box, asked.weight)  # whose weight is checked


def example_of(asked: schemas.AskedExample, uploads: Uploads) -> Example:
    """An example as a collection takes it, with the pixels of an uploaded one. Raises as ``check_example``."""
    image = uploads.image(asked.image) if isinstance(asked.image, str) else asked.image
    return Example(image, asked.box, asked.weight)


def text(origin: str) -> str:
    """A path as text that any program takes; bytes that are no UTF-8 are escaped."""
    return origin.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def image_facts(entry: Entry) -> schemas.ImageFacts:
    """Of an image of a collection."""
    folder, _, name = text(entry.origin).rpartition("/")
    return schemas.ImageFacts(id=entry.id, name=name, folder=folder, width=entry.size[0], height=entry.size[1])


def known(collection: Collection, image: int) -> Entry | None:
    """An image, or None where it has been removed since."""
    try:
        return collection.entry(image)
    except QueryError:
        return None


def first_results(collection: Collection, step: Filtered | Checked, threshold: float | None = None) -> Any:
    """What a search says while it runs, as ``ResultFacts``, ready for JSON."""
    if isinstance(step, Checked):
        accepted = threshold is not None and step.score is not None and step.score >= threshold
        shown = [_result(collection, step.image, step.score or 0.0, accepted, step.evidence, step.example)]
    else:
        pairs = zip(step.ids[:_FIRST].tolist(), step.scores[:_FIRST].tolist(), strict=True)
        shown = [_result(collection, image, score, False, None) for image, score in pairs]
    return [result.model_dump(mode="json") for result in shown]


def results(
    collection: Collection, ranking: Ranking, after: int, limit: int, *, full: bool
) -> list[schemas.ResultFacts]:
    """Part of a ranking. full: with all the evidence."""
    accepted, page = ranking.accepted, range(len(ranking))[after : after + limit]
    found = []
    for index in page:
        evidence = ranking.evidence[index]
        facts = _result(collection, int(ranking.ids[index]), float(ranking.scores[index]), index < accepted, evidence)
        facts.full = full_evidence(evidence) if full and evidence is not None else None
        found.append(facts)
    return found


def details(ranking: Ranking, image: int) -> schemas.ResultDetails:
    """One result in full; Refused (404) where the search does not have it."""
    places = np.flatnonzero(ranking.ids == image)
    if len(places) == 0:
        raise Refused(404, "unknown", f"id:{image} is not among the results of this search")
    index = int(places[0])
    evidence = ranking.evidence[index]
    return schemas.ResultDetails(
        image=image,
        score=float(ranking.scores[index]),
        accepted=index < ranking.accepted,
        evidence=None if evidence is None else full_evidence(evidence),
    )


def _result(
    collection: Collection,
    image: int,
    score: float,
    accepted: bool,
    evidence: Evidence | None,
    example: int | None = None,
) -> schemas.ResultFacts:
    entry = known(collection, image)
    facts = None if entry is None else image_facts(entry)
    return schemas.ResultFacts(
        image=image,
        score=score,
        accepted=accepted,
        name=None if facts is None else facts.name,
        width=None if facts is None else facts.width,
        height=None if facts is None else facts.height,
        evidence=None if evidence is None else _evidence(evidence, example),
    )


def _evidence(evidence: Evidence, example: int | None) -> schemas.EvidenceFacts:
    return schemas.EvidenceFacts(
        inliers=evidence.inliers,
        matches=evidence.matches,
        box=evidence.box,
        outline=_matrix(evidence.outline),
        example=evidence.example if example is None else example,
        agreement=evidence.agreement,
        instances=1 + len(evidence.others),
    )


def full_evidence(evidence: Evidence) -> schemas.FullEvidence:
    """All that ``Evidence`` says."""
    return schemas.FullEvidence(
        **_instance(evidence), others=[schemas.Instance(**_instance(o)) for o in evidence.others]
    )


def _instance(evidence: Evidence) -> dict[str, Any]:
    return {
        "inliers": evidence.inliers,
        "matches": evidence.matches,
        "homography": _matrix(evidence.homography),
        "outline": _matrix(evidence.outline),
        "box": evidence.box,
        "query_xy": evidence.query_xy.tolist(),
        "result_xy": evidence.result_xy.tolist(),
        "example": evidence.example,
        "agreement": evidence.agreement,
    }


def _matrix(array: NDArray[Any] | None) -> Any:
    return None if array is None else array.tolist()
