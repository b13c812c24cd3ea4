"""What re-ranking builds for a whole database, kept on disk until the database changes."""

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from resight.errors import RecipeError
from resight.search.rerank.reranker import Database

T = TypeVar("T")

_DIGITS = 16


@dataclass(frozen=True)
class Cache:
    """A folder whose entries are named by the contents of the database and the parameters that they were made with.

    folder: made when first needed.
    """

    folder: Path

    def get(
        self,
        kind: str,
        database: Database,
        parameters: str,
        make: Callable[[Path], object],
        read: Callable[[Path], T],
    ) -> T:
        """An entry, made if there is none yet; those of other contents go then, as an image came or went since.

        kind: what it is, the first part of its name. make: writes the file or folder at a path, whole or not at all.
        Two processes that want an entry make it once. Raises RecipeError where it can be neither read nor written.
        """
        state = database.fingerprint[:_DIGITS]
        named = hashlib.sha256(parameters.encode()).hexdigest()[:_DIGITS]
        path = self.folder / f"{kind}-{state}-{named}"
        if not path.exists():
            try:
                with self._alone():
                    if not path.exists():
                        self._sweep(state)
                        make(path)
            except OSError as error:
                raise RecipeError(
                    f"{path}: cannot be written ({error.strerror or error}), and re-ranking by {kind} keeps there what "
                    "it builds once for all searches; make room or give write access"
                ) from error
        try:
            return read(path)
        except RecipeError as error:
            raise RecipeError(f"{error}. If it is damaged, delete {path}: the next search makes it anew") from error

    def _sweep(self, state: str) -> None:
        for entry in self.folder.iterdir():
            if entry.name != "lock" and f"-{state}-" not in entry.name:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
