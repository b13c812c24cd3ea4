"""Getting a set: its public files fetched, verified and unpacked, one after another, each once."""

import json
from dataclasses import dataclass
from pathlib import Path

from resight.errors import ResightError
from resight.evaluation.datasets.dataset import Dataset, File
from resight.evaluation.datasets.download import Report, fetch, silent
from resight.evaluation.datasets.unpack import unpack

_RECORD = "fetched.json"


@dataclass(frozen=True)
class Obtained:
    """fetched: addresses that this run got. known: that an earlier one had. unverified: of both, without a published
    checksum. by_hand: what remains to be fetched otherwise."""

    fetched: tuple[str, ...]
    known: tuple[str, ...]
    unverified: tuple[str, ...]
    by_hand: tuple[str, ...]


def obtain(dataset: Dataset, into: Path, *, keep: bool = False, report: Report = silent) -> Obtained:
    """Fetch a set's public files into a folder, where `fetched.json` says what is there, so that a run can be repeated.

    keep: archives are kept once unpacked. Raises ResightError where a file cannot be fetched, is damaged or not the
    published one, or there is no room; what was complete stays.
    """
    try:
        into.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResightError(f"{into}: cannot be made: {error.strerror}") from error
    record = _read(into / _RECORD)
    fetched, known = [], []
    for file in dataset.files:
        if file.address in record:
            known.append(file.address)
            continue
        try:
            record[file.address] = _get(file, into, keep, report)
            _write(into / _RECORD, record)
        except OSError as error:
            raise ResightError(f"{into}: {file.name} cannot be written: {error.strerror or error}") from error
        fetched.append(file.address)
    unverified = tuple(f.address for f in dataset.files if not (f.sha256 or f.sums))
    return Obtained(tuple(fetched), tuple(known), unverified, dataset.by_hand)


def _get(file: File, into: Path, keep: bool, report: Report) -> str:
    if not file.unpack:
        return fetch(file, into / file.into, report=report)
    archive = into / file.name
    found = fetch(file, archive, report=report)
    unpack(archive, into / file.into)
    if not keep:
        archive.unlink()
    return found


def _read(file: Path) -> dict[str, str]:
    if not file.exists():
        return {}
    try:
        record = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ResightError(f"{file}: cannot be read: {error}; remove it to fetch everything again") from error
    if not isinstance(record, dict):
        raise ResightError(f"{file}: is not a list of what was fetched; remove it to fetch everything again")
    return record


def _write(file: Path, record: dict[str, str]) -> None:
    partial = file.with_name(f"{file.name}.part")
    partial.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    partial.replace(file)
