"""Whether a set in a folder is whole and its ground truth fits its images, protocol by protocol."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from resight.errors import ImageError, ResightError
from resight.evaluation.datasets.catalogue import find_dataset, load_dataset
from resight.images.apart import read_image_apart


@dataclass(frozen=True)
class Checked:
    """One protocol's set. images, queries, positives: counts, 0 where it cannot be loaded. problem: "" for none."""

    protocol: str
    images: int
    queries: int
    positives: int
    problem: str


def check_dataset(name: str, folder: str | Path, protocols: Sequence[str] = ()) -> tuple[Checked, ...]:
    """Load a set under these of its protocols, by default each, and say what is there and what is wrong.

    A set that is not whole is counted all the same. Raises GroundTruthError for an unknown name.
    """
    return tuple(_check(name, folder, protocol) for protocol in protocols or find_dataset(name).protocols)


def unreadable(name: str, folder: str | Path) -> Iterator[tuple[str, str]]:
    """Images of the set, under its usual protocol, that cannot be decoded, with the reason. Reads every one."""
    labelled = load_dataset(name, folder, partial=True)
    for path in dict.fromkeys([*labelled.database, *(query.path for query in labelled.queries)]):
        try:
            read_image_apart(labelled.locate(path), max_side=64)
        except ImageError as error:
            yield path, error.reason


def _check(name: str, folder: str | Path, protocol: str) -> Checked:
    problem = ""
    try:
        labelled = load_dataset(name, folder, protocol)
    except ResightError as whole:
        problem = str(whole)
        try:
            labelled = load_dataset(name, folder, protocol, partial=True)
        except ResightError as error:
            return Checked(protocol, 0, 0, 0, str(error))
    positives = sum(len(query.positives) for query in labelled.queries)
    return Checked(protocol, len(labelled.database), len(labelled.queries), positives, problem)
