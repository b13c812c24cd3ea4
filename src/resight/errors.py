"""Errors whose message names the file or argument and says what to do. The command line prints them as they are."""


class ResightError(Exception):
    """Base of every error a user can cause or mend."""


class ImageError(ResightError):
    """A file that cannot be read as an image; the message is the reason, without the file's name.

    ``reason`` is kept in the collection beside the file's name and shown by ``resight failures``.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class UnreadError(ImageError):
    """A file that could not be read, whatever it holds: its disk, server or permission failed and may not next time."""


class RecipeError(ResightError):
    """A recipe, or an artefact or weights file it names, that is missing, malformed or does not fit."""


class CollectionError(ResightError):
    """A collection that is missing, damaged, locked, or does not match what was asked of it."""


class LockedError(CollectionError):
    """A collection that another process writes to just now."""


class QueryError(ResightError):
    """A query that cannot be answered as given: unreadable, empty box, unknown id."""


class GroundTruthError(ResightError):
    """A labelled set whose ground truth is empty, malformed or does not match its images."""


class ServiceError(ResightError):
    """A service that does not answer, or will not do what was asked: without its token, or too busy."""
