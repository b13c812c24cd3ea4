"""What is learned from and what is validated on, which have no photo in common."""

from pathlib import Path

from resight.errors import GroundTruthError
from resight.evaluation.labelled import LabelledSet
from resight.evaluation.load import load_labelled
from resight.learning.datasets.photos import split_by_object

Labelled = LabelledSet | str | Path


def loaded(labelled: Labelled) -> LabelledSet:
    """A set, read where it is a folder."""
    return labelled if isinstance(labelled, LabelledSet) else load_labelled(labelled)


def split(labelled: Labelled, validate: Labelled | float | None, seed: int) -> tuple[LabelledSet, LabelledSet | None]:
    """What is learned from and what is validated on, another set or a share of the set's objects.

    Raises GroundTruthError where they have photos in common.
    """
    learned = loaded(labelled)
    if isinstance(validate, float):
        return split_by_object(learned, validate, seed)
    held_out = None if validate is None else loaded(validate)
    if held_out is not None:
        check_apart(learned, held_out)
    return learned, held_out


def check_apart(learned: LabelledSet, held_out: LabelledSet) -> None:
    """Raises GroundTruthError where two sets have an image in common."""

    def images(labelled: LabelledSet) -> set[Path]:
        paths = [*labelled.database, *(query.path for query in labelled.queries)]
        return {labelled.locate(path).resolve() for path in paths}

    if both := images(learned) & images(held_out):
        raise GroundTruthError(
            f"{min(both)} is in the set to learn from and in the one to validate on ({len(both)} are), whose figures "
            "would be too good: give another set, or hold a share of the objects out"
        )
