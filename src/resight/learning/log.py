"""A run's curves: ``log.csv``, a row a step or validation, and TensorBoard's event files beside it."""

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from resight.errors import RecipeError

_FIRST = ("epoch", "step", "part")


class Log:
    """Appends rows to ``folder/log.csv``; a row is there once ``write`` has returned, and durable after ``sync``.

    rows: how many of the rows that are there to keep; later ones are dropped, as of a run that goes on from an earlier
    point. step: that point, for TensorBoard.
    Raises RecipeError where the folder cannot be written to.
    """

    def __init__(self, folder: Path, rows: int = 0, step: int = 0) -> None:
        from tensorboardX import SummaryWriter

        self.path = folder / "log.csv"
        kept = read_log(self.path)[:rows] if rows else []
        self.rows = len(kept)
        with _writing(self.path):
            self._rewrite(list(_FIRST), kept)
            self._events: Any = SummaryWriter(str(folder / "events"), purge_step=step if rows else None)

    def write(self, row: Mapping[str, float | int | str]) -> None:
        """Append a row: ``epoch``, ``step`` and ``part`` ("train" or "validation"), and figures by name."""
        with _writing(self.path):
            if set(row) <= set(self._columns):
                csv.DictWriter(self._file, self._columns, restval="", lineterminator="\n").writerow(row)
                self._file.flush()
            else:
                self._file.close()
                self._rewrite(self._columns, [*read_log(self.path), {name: str(row[name]) for name in row}])
            self.rows += 1
            for name, value in row.items():
                if name not in _FIRST:
                    self._events.add_scalar(f"{row['part']}/{name}", value, row["step"])

    def sync(self) -> None:
        """Return when all rows are on the disk."""
        with _writing(self.path):
            os.fsync(self._file.fileno())
            self._events.flush()

    def _rewrite(self, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
        """Write the file anew, with a column for all that the rows have, and go on at its end."""
        self._columns = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
        new = self.path.with_suffix(".csv.tmp")
        with new.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self._columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        new.replace(self.path)
        self._file = self.path.open("a", encoding="utf-8", newline="")

    def close(self) -> None:
        """Close the files."""
        with _writing(self.path):
            self._file.close()
            self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_log(path: Path) -> list[dict[str, str]]:
    """The rows of a log, each with the figures it has; none where there is no file. A line cut off is left out."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    head, *lines = csv.reader(text[: text.rfind("\n") + 1].splitlines())
    return [{name: value for name, value in zip(head, line, strict=True) if value} for line in lines]


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RecipeError(
            f"{path}: cannot be written: {error.strerror or error}; make room or choose another folder, then go on "
            "with --resume"
        ) from error
