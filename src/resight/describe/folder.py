"""A folder of files that is written whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from resight.errors import RecipeError


def check_empty(into: Path) -> None:
    """Raises RecipeError unless ``into`` is an empty folder, or not there."""
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise RecipeError(f"{into}: is not an empty folder; choose another --into")


@contextmanager
def staged(into: Path) -> Iterator[Path]:
    """A new folder beside ``into`` to write to, which becomes it at the end, and goes where an error comes first.

    Raises RecipeError where something cannot be written.
    """
    staging = into.with_name(f".{into.name}.{os.getpid()}.tmp")
    try:
        staging.mkdir(parents=True)
        yield staging
        if into.exists():
            into.rmdir()
        staging.rename(into)
    except (OSError, SafetensorError) as error:
        raise RecipeError(f"{into}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
