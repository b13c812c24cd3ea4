"""Answers that are not plain JSON, and refusals."""

import json
from collections.abc import AsyncIterator

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from resight.server.feed import Feed
from resight.server.problems import Refused
from resight.server.schemas import Error, ErrorFacts


def refused_reply(refused: Refused) -> Response:
    """{"error": {"code", "message"}}."""
    error = Error(error=ErrorFacts(code=refused.code, message=refused.message))
    headers = {} if refused.retry_after is None else {"Retry-After": str(refused.retry_after)}
    if refused.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error.model_dump(), refused.status, headers)


def model_reply(model: BaseModel, status: int = 200) -> Response:
    """A model with a status of its own."""
    return JSONResponse(model.model_dump(mode="json"), status)


def events_reply(request: Request, feed: Feed) -> Response:
    """A feed as server-sent events, from behind Last-Event-ID."""
    last = request.headers.get("last-event-id", "0")
    after = int(last) if last.isdecimal() and len(last) < 10 else 0

    async def stream() -> AsyncIterator[str]:
        async for event in feed.follow(after):
            if event is None:
                yield ": still here\n\n"
            else:
                yield f"id: {event.number}\nevent: {event.name}\ndata: {json.dumps(event.data)}\n\n"

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


def picture_reply(tag: str, picture: bytes | None) -> Response:
    """A JPEG that a browser may keep, and asks again whether it is still the same; None: it is."""
    headers = {"ETag": tag, "Cache-Control": "private, max-age=3600"}
    if picture is None:
        return Response(status_code=304, headers=headers)
    return Response(picture, media_type="image/jpeg", headers=headers)
