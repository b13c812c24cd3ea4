"""What went wrong, as a status, a code for programs and a sentence for people: {"error": {"code", "message"}}."""

from resight.errors import (
    CollectionError,
    ImageError,
    LockedError,
    QueryError,
    RecipeError,
    ResightError,
    ServiceError,
)
from resight.server import limits

KINDS: dict[str, tuple[type[ResightError], int]] = {
    "image": (ImageError, 422),
    "query": (QueryError, 422),
    "collection": (CollectionError, 503),
    "recipe": (RecipeError, 503),
    "service": (ServiceError, 400),
}
"""code: the exception that it is in Python, there and in the client, and the status."""


class Refused(Exception):
    """A request that is not carried out; `retry_after` in seconds, where it may be later."""

    def __init__(self, status: int, code: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.retry_after = status, code, message, retry_after


def refusal(error: ResightError) -> Refused:
    """The refusal that an error of the library is."""
    for code, (kind, status) in KINDS.items():
        if isinstance(error, kind):
            return Refused(status, code, str(error), limits.RETRY if isinstance(error, LockedError) else None)
    return Refused(422, "service", str(error))


def raised(code: str, message: str) -> ResightError | ValueError:
    """The error that a refusal was; ServiceError for those of the service itself."""
    if code == "value":
        return ValueError(message)
    return KINDS.get(code, (ServiceError, 0))[0](message)
