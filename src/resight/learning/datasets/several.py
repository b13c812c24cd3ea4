"""Several labelled sets learned from at once: their classes are never one, whatever they are called (survey §7)."""

import re
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256

from resight.errors import GroundTruthError, RecipeError
from resight.evaluation.labelled import LabelledSet
from resight.learning.datasets.photos import Part, Photo, TrainingSet
from resight.recipes.adapters_stage import JOINT, NAME, NONE


def check_names(names: Mapping[str, object]) -> None:
    """Raises RecipeError for names of sets that cannot be those of adapters."""
    for name in names:
        if re.fullmatch(NAME, name) is None or name in (JOINT, NONE):
            raise RecipeError(
                f"{name!r} is no name for a set: take small letters, digits, dots, dashes and underscores, and neither "
                f'"{JOINT}" nor "{NONE}", as in landmarks=FOLDER'
            )


def joined(sets: Mapping[str, TrainingSet]) -> TrainingSet:
    """All photos, set after set; a class is called NAME/CLASS and is of its set alone, and ``parts`` says whose are.

    Raises GroundTruthError where two sets have a photo in common, which would be of two classes.
    """
    known: dict[object, str] = {}
    photos: list[Photo] = []
    classes: list[str] = []
    for name, own in sets.items():
        for path in dict.fromkeys(photo.path for photo in own.photos):
            if (other := known.setdefault(path.resolve(), name)) != name:
                raise GroundTruthError(f"{path}: is in the sets {other} and {name}, as two things: leave it out of one")
        photos += (replace(photo, label=len(classes) + photo.label) for photo in own.photos)
        classes += (f"{name}/{each}" for each in own.classes)
    first = next(iter(sets.values()))
    chosen = [f"{name}: {own.selection}" for name, own in sets.items() if own.selection]
    return TrainingSet(
        name=", ".join(sets),
        photos=tuple(photos),
        classes=tuple(classes),
        file=first.file,
        revision=sha256(" ".join(own.revision for own in sets.values()).encode()).hexdigest(),
        selection="; ".join(chosen),
        parts=tuple(Part(name, len(own.classes)) for name, own in sets.items()),
    )


def renamed(sets: Mapping[str, LabelledSet]) -> dict[str, LabelledSet]:
    """Each set by the name that it goes by here."""
    return {name: replace(own, name=name) for name, own in sets.items()}
