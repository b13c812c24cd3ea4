"""The application: all routes behind the guard. OpenAPI's description is at /openapi.json."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from resight.errors import CollectionError, ResightError
from resight.server import collection_routes, duplicate_routes, job_routes, search_routes
from resight.server.guard import Guard
from resight.server.problems import Refused, refusal
from resight.server.replies import refused_reply
from resight.server.schemas import Error, Health
from resight.server.service import Service
from resight.server.settings import Settings

STATIC = "static"


class App:
    """An ASGI application over one collection, which is open until the application's lifespan or ``close`` ends it."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self.service = Service(path, settings)
        self.api = _api(self.service)
        self._guard = Guard(self.api, settings, self.service.metrics, pictures=search_routes.PICTURES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI says."""
        await self._guard(scope, receive, send)

    def close(self) -> None:
        """Release the collection."""
        self.service.close()


def _api(service: Service) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    api = FastAPI(
        title="resight",
        version="1",
        description="Find the same thing again in a collection of photos.",
        docs_url=None,  # would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # would say the Host header back
        lifespan=lifespan,
        responses={"4XX": {"model": Error}, "5XX": {"model": Error}},
    )
    _explain_errors(api)
    for module in (collection_routes, search_routes, duplicate_routes, job_routes):
        api.include_router(module.routes(service))

    @api.get("/health")
    def health() -> Health:
        """Whether searches are answered; 200 also where they are not yet, so that it can be told from no service."""
        try:
            service.readers.searchable()
        except CollectionError:
            return Health(ready=False, why="the collection has nothing that can be searched yet")
        return Health(ready=True, why=None)

    @api.get("/metrics", response_class=Response)
    def metrics() -> Response:
        """For Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    _page(api)
    return api


def _page(api: FastAPI) -> None:
    folder = Path(str(resources.files("resight.server").joinpath(STATIC)))

    @api.get("/", include_in_schema=False)
    def page() -> Response:
        if not (folder / "index.html").is_file():
            return Response(
                "The page is not built in this source tree; the API is at /v1, /openapi.json says what it has."
            )
        return FileResponse(folder / "index.html", headers={"Cache-Control": "no-cache"})

    if folder.is_dir():
        # Compressed for each who loads it, and nothing else is: events are not held back, and no secret is in it.
        api.mount("/static", GZipMiddleware(StaticFiles(directory=folder), compresslevel=6))


def _explain_errors(api: FastAPI) -> None:
    @api.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return refused_reply(error)

    @api.exception_handler(ResightError)
    async def of_library(_: Request, error: ResightError) -> Response:
        return refused_reply(refusal(error))

    @api.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> Response:
        told = [f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors()[:5]]
        return refused_reply(Refused(422, "request", "; ".join(told)))

    @api.exception_handler(HTTPException)
    async def plain(_: Request, error: HTTPException) -> Response:
        return refused_reply(Refused(error.status_code, "http", str(error.detail)))

    @api.exception_handler(Exception)
    async def defect(_: Request, error: Exception) -> Response:
        return refused_reply(Refused(500, "defect", "a defect of resight; the service's log says more"))
