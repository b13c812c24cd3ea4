"""Files that are written whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from resight.errors import ResightError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The name of a new file beside ``path`` to write, which takes its place at the end.

    Until then, and where an error comes first, there is what was there before. Raises OSError where it cannot be.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def output_file(path: Path) -> Iterator[Path]:
    """As ``replacing``, for a file that a user named.

    What a link leads to is replaced, not the link; what is no file, such as /dev/stdout, is written to itself.
    Raises ResightError where it cannot be written.
    """
    try:
        if path.exists() and not path.is_file():
            yield path
        else:
            with replacing(Path(os.path.realpath(path))) as partial:
                yield partial
    except OSError as error:
        raise ResightError(
            f"cannot write {path}: {error.strerror or error}; name a file in a writable folder"
        ) from error
