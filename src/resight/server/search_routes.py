"""/v1/queries, /v1/searches and the one-shot /v1/search."""

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.responses import Response

from resight.search.ranking import Ranking
from resight.server import export, schemas, values
from resight.server.body import too_large
from resight.server.pictures import LARGEST, Pictures
from resight.server.problems import Refused
from resight.server.replies import events_reply, model_reply, picture_reply
from resight.server.search import Search
from resight.server.service import Service

PICTURES = 4  # that one request may bring
_LEAVING = 0.5  # seconds between two looks whether a client is still there

Wait = Annotated[float, Query(ge=0, le=600)]
After = Annotated[int, Query(ge=0)]
Limit = Annotated[int, Query(ge=1, le=10_000)]
Evidence = Literal["brief", "full"]
Least = Annotated[float | None, Query(description="A match has this score at least, in place of the recipe's.")]


def routes(service: Service) -> APIRouter:
    """Of one service."""
    router, searches, live = APIRouter(prefix="/v1"), service.searches, service.live

    def shown(search: Search, after: int, limit: int, evidence: Evidence, least: float | None) -> schemas.Search:
        ranking, timing = search.ranking, search.timing
        if search.state != "done" or ranking is None or timing is None:
            facts = ("accepted", "total", "threshold", "calibrated", "filter_rank", "suspect", "timing")
            nothing = dict.fromkeys(facts)
            return schemas.Search(
                search=search.id, state=search.state, request=search.request, results=[], error=search.error, **nothing
            )
        ranking = _judged(ranking, least)
        return schemas.Search(
            search=search.id,
            state=search.state,
            request=search.request,
            accepted=ranking.accepted,
            total=len(ranking),
            threshold=export.threshold(ranking),
            calibrated=ranking.calibrated,
            filter_rank=ranking.place,
            suspect=ranking.suspect,
            results=values.results(live, ranking, after, limit, full=evidence == "full"),
            timing=schemas.TimingFacts(**vars(timing), waited=search.waited),
            error=None,
        )

    def finished(name: str, least: float | None) -> tuple[Search, Ranking]:
        search = searches.get(name)
        if search.ranking is None or search.state != "done":
            raise Refused(409, "unfinished", f"the search is {search.state}; its results are there when it is done")
        return search, _judged(search.ranking, least)

    async def kept(form_file: UploadFile) -> schemas.UploadFacts:
        if (form_file.size or 0) > service.settings.upload_bytes:
            raise too_large(service.settings.upload_bytes)
        async with service.reading:
            data = await form_file.read()
            name, (width, height) = await run_in_threadpool(service.keep, data)
        return schemas.UploadFacts(query=name, width=width, height=height)

    @router.post("/queries", status_code=201, openapi_extra=_form())
    async def upload(request: Request) -> schemas.UploadFacts:
        """Keep a picture to search with: the field `image` of a form. Its EXIF block is not kept."""
        async with service.receiving, request.form(max_files=1, max_fields=4) as form:
            files = _pictures(form.getlist("image"))
            if len(files) != 1:
                raise Refused(422, "request", "image: one picture, as a file of a form (multipart/form-data)")
            return await kept(files[0])

    @router.get("/queries/{query}")
    def query_facts(query: str) -> schemas.UploadFacts:
        """Of a picture that was kept to search with; 404 when it no longer is."""
        width, height = service.uploads.size(query)
        return schemas.UploadFacts(query=query, width=width, height=height)

    @router.get("/queries/{query}/picture", response_class=Response)
    async def query_picture(
        request: Request, query: str, side: Annotated[int, Query(ge=16, le=LARGEST)] = LARGEST
    ) -> Response:
        """JPEG, upright."""

        tag = f'"{query}-{side}"'

        def make() -> bytes | None:
            image = service.uploads.image(query)
            return None if request.headers.get("if-none-match") == tag else Pictures.made(image, side)

        return picture_reply(tag, await service.drawn(make))

    @router.post(
        "/searches", status_code=202, responses={200: {"model": schemas.Search}}, response_model=schemas.Search
    )
    async def start(
        asked: schemas.SearchRequest, wait: Wait = 0, evidence: Evidence = "brief", least: Least = None
    ) -> Response:
        """Search; 202 while it is not done. wait: seconds to wait for 200 and the result."""
        search = await run_in_threadpool(searches.start, asked)
        return await answer(search, wait, evidence, least)

    async def answer(search: Search, wait: float, evidence: Evidence, least: float | None) -> Response:
        if wait:
            await search.feed.end(wait)
        found = await run_in_threadpool(shown, search, 0, search.request.top, evidence, least)
        return model_reply(found, 200 if search.ended else 202)

    @router.get("/searches/{search}")
    async def get(
        search: str,
        after: After = 0,
        limit: Limit = 1000,
        evidence: Evidence = "brief",
        wait: Wait = 0,
        least: Least = None,
    ) -> schemas.Search:
        """How it stands, and of a search that is done the results from place `after`, which begins at 0.

        wait: seconds to wait for its end.
        """
        found = await run_in_threadpool(searches.get, search)
        if wait:
            await found.feed.end(wait)
        return await run_in_threadpool(shown, found, after, limit, evidence, least)

    @router.get("/searches/{search}/events", response_class=Response)
    def events(request: Request, search: str) -> Response:
        """Server-sent: `filtered` (the first ranking), `verified` (a result, as it is verified), `done` or `failed`."""
        return events_reply(request, searches.get(search).feed)

    @router.delete("/searches/{search}", status_code=204)
    def cancel(search: str) -> None:
        """It ends when all who asked for it have said so."""
        searches.cancel(search)

    @router.get("/searches/{search}/results/{image}")
    def result(search: str, image: int, least: Least = None) -> schemas.ResultDetails:
        return values.details(finished(search, least)[1], image)

    @router.get("/searches/{search}/export", response_class=Response)
    async def exported(search: str, format: Literal["csv", "json", "html"], least: Least = None) -> Response:
        """The whole result as a file."""
        found, ranking = await run_in_threadpool(finished, search, least)
        return await service.drawn(partial(export.reply, service, found, ranking, format))

    @router.post("/search", openapi_extra=_form(request="string"), response_model=schemas.Search)
    async def at_once(request: Request, evidence: Evidence = "brief", least: Least = None) -> Response:
        """Pictures and the question in one form, the result in the answer.

        image: the pictures. request: JSON as of /searches, in which the examples `image` are numbers of the pictures
        from 0 in the form "#0"; without it each picture is an example.
        """
        async with service.receiving, request.form(max_files=PICTURES, max_fields=4) as form:
            files = _pictures(form.getlist("image"))
            uploads = [(await kept(file)).query for file in files]
            text = form.get("request")
        asked = _with_pictures(text if isinstance(text, str) else None, uploads)
        search = await run_in_threadpool(searches.start, asked)
        if not await _stays(request, search.feed.end(service.settings.timeout + 1)):
            searches.cancel(search.id)  # which ends unless another asked for the same
        reply = await answer(search, 0, evidence, least)
        if search.error is not None:
            raise Refused(search.status, search.error.code, search.error.message)
        return reply

    return router


def _judged(ranking: Ranking, least: float | None) -> Ranking:
    return ranking if least is None else ranking.accepting(least)


async def _stays(request: Request, waited_for: Coroutine[Any, Any, object]) -> bool:
    """Wait, and whether the client did so too; it may have gone when the whole of its request was there."""

    async def left() -> None:
        while not await request.is_disconnected():
            await asyncio.sleep(_LEAVING)

    both = [asyncio.ensure_future(waited_for), asyncio.ensure_future(left())]
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        return both[0].done()
    finally:
        for one in both:
            one.cancel()


def _pictures(parts: list[Any]) -> list[UploadFile]:
    return [part for part in parts if isinstance(part, UploadFile)]


def _with_pictures(text: str | None, uploads: list[str]) -> schemas.SearchRequest:
    if text is None:
        return schemas.SearchRequest(examples=[schemas.AskedExample(image=name) for name in uploads])
    try:
        asked = schemas.SearchRequest.model_validate_json(text)
    except ValidationError as error:
        told = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:5]]
        raise Refused(422, "request", f"request: {'; '.join(told)}") from None
    named = {f"#{number}": name for number, name in enumerate(uploads)}
    examples = [e.model_copy(update={"image": named.get(str(e.image), e.image)}) for e in asked.examples]
    return asked.model_copy(update={"examples": examples})


def _form(**more: str) -> dict[str, Any]:
    """Of a form, for OpenAPI: pictures, and further fields by their type."""
    fields = {"image": {"type": "string", "format": "binary"}, **{name: {"type": kind} for name, kind in more.items()}}
    schema = {"type": "object", "required": ["image"], "properties": fields}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}
