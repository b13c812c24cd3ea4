"""GLDv2's recognition task (Weyand et al., CVPR 2020): one label with a confidence for a test image; GAP."""

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resight.errors import GroundTruthError
from resight.evaluation.datasets.landmarks import USAGES, rows
from resight.evaluation.metrics import micro_average_precision


@dataclass(frozen=True)
class Prediction:
    """label: a landmark of the train set, or the name of an object. confidence: comparable between images."""

    label: int | str
    confidence: float


@dataclass(frozen=True)
class Recognition:
    """GAP of one part of the test set.

    images, answerable: test images of the part, and those that show a landmark. predicted, right: images with a
    prediction, and with a right one.
    """

    images: int
    answerable: int
    predicted: int
    right: int
    gap: float


def read_recognition(file: Path) -> dict[str, dict[str, frozenset[int]]]:
    """``recognition_solution_v2.1.csv``: part (``public``, ``private``) → test image → its landmarks, none for most."""
    parts: dict[str, dict[str, frozenset[int]]] = {part: {} for part in USAGES}
    usage = {word: part for part, word in USAGES.items()}
    for row in rows(file, ("id", "landmarks", "Usage")):
        if row["Usage"] in usage:
            parts[usage[row["Usage"]]][row["id"]] = _labels(row["landmarks"], file, row["id"])
    return parts


def read_predictions(file: Path) -> dict[str, Prediction]:
    """A submission: columns `id` and `landmarks`, the latter a label and its confidence, or empty."""
    found = {}
    for row in rows(file, ("id", "landmarks")):
        words = row["landmarks"].split()
        if not words:
            continue
        try:
            label, confidence = words
            found[row["id"]] = Prediction(int(label), float(confidence))
        except ValueError:
            raise GroundTruthError(
                f"{file}: {row['id']}: {row['landmarks']!r} is not a label and a confidence"
            ) from None
        if not math.isfinite(found[row["id"]].confidence):
            raise GroundTruthError(f"{file}: {row['id']}: the confidence must be finite, not {words[1]}")
    return found


def write_predictions(predictions: Mapping[str, Prediction], file: Path) -> None:
    """Write a submission as ``read_predictions`` reads it."""
    with file.open("w", encoding="utf-8", newline="") as lines:
        table = csv.writer(lines, lineterminator="\n")
        table.writerow(("id", "landmarks"))
        table.writerows((image, f"{p.label} {p.confidence!r}") for image, p in predictions.items())


def recognise(solution: Mapping[str, Iterable[int | str]], predictions: Mapping[str, Prediction]) -> Recognition:
    """GAP of the predictions for the images of one part; those for other images are left aside.

    All images' predictions are one list, most confident first, ties by image id. A prediction for an image
    without a landmark is wrong and takes a rank; a missing one costs recall only.
    Raises GroundTruthError where no image shows a landmark.
    """
    answers = {image: frozenset(labels) for image, labels in solution.items()}
    answerable = sum(map(bool, answers.values()))
    if not answerable:
        raise GroundTruthError("no test image shows a landmark: there is nothing to recognise")
    ranked = sorted((-p.confidence, image) for image, p in predictions.items() if image in answers)
    right = np.array([predictions[image].label in answers[image] for _, image in ranked], bool)
    gap = micro_average_precision(right, answerable)
    return Recognition(len(answers), answerable, len(ranked), int(np.count_nonzero(right)), gap)


def _labels(text: str, file: Path, image: str) -> frozenset[int]:
    try:
        return frozenset(map(int, text.split()))
    except ValueError:
        raise GroundTruthError(f"{file}: {image}: {text!r} is not a list of landmarks: get it again") from None
