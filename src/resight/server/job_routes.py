"""/v1/jobs: adding, removing, looking for duplicates; and /v1/metadata, whose change is no job."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from resight.server import schemas
from resight.server.replies import events_reply
from resight.server.service import Service


def routes(service: Service) -> APIRouter:
    """Of one service."""
    router, jobs = APIRouter(prefix="/v1"), service.jobs

    @router.post("/jobs", status_code=202)
    def start(asked: schemas.JobRequest) -> schemas.Job:
        """Only of a service that may write; photos are added only from its --photos folders."""
        return jobs.start(asked).facts

    @router.get("/jobs")
    def every() -> schemas.Jobs:
        return schemas.Jobs(jobs=jobs.all())

    @router.get("/jobs/{job}")
    def get(job: str) -> schemas.Job:
        return jobs.get(job).facts

    @router.get("/jobs/{job}/events", response_class=Response)
    def events(request: Request, job: str) -> Response:
        """Server-sent: `progress` (phase, done, total), then `done` (the result) or `failed`."""
        return events_reply(request, jobs.get(job).feed)

    @router.delete("/jobs/{job}", status_code=204)
    def cancel(job: str) -> None:
        """At its next step; what it has committed stays."""
        jobs.cancel(job)

    @router.patch("/metadata", status_code=204)
    def set_metadata(change: schemas.MetadataChange) -> None:
        """All or none; only of a service that may write, while no job does."""
        jobs.set_metadata(change.facts)

    return router
