"""Photos with labels, of a labelled set; and its division by object, so that what is learned is tested on others."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from resight.errors import GroundTruthError
from resight.evaluation.labelled import Box, LabelledSet
from resight.evaluation.objects import objects

Singletons = Literal["error", "drop"]
"""What is done about a class with one photo, of which no pair can be made."""


@dataclass(frozen=True)
class Photo:
    """One picture to learn from. path: absolute. box: the part of it, in its upright pixels; None for all."""

    path: Path
    label: int
    box: Box | None = None


@dataclass(frozen=True)
class Part:
    """One of several sets that were joined: its name, and how many of the classes, which follow one another."""

    name: str
    classes: int


@dataclass(frozen=True)
class TrainingSet:
    """Photos of objects.

    classes: names of the objects; a photo's label is a place in them. file, revision, selection: of the labelled set.
    replayed: how many of the classes, the last ones, another network has learned before.
    parts: of several sets that were joined, whose batches are balanced between them; empty for one set.
    Raises GroundTruthError, naming the file and the class, unless there are two classes, each of two photos, and no
    photo is there twice. Raises ValueError for a label that is no class's.
    """

    name: str
    photos: tuple[Photo, ...]
    classes: tuple[str, ...]
    file: Path
    revision: str = ""
    selection: str = ""
    replayed: int = 0
    parts: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        if not self.photos:
            raise GroundTruthError(f"{self.file}: no photo shows a known object: nothing to learn from")
        if strange := {photo.label for photo in self.photos} - set(range(len(self.classes))):
            raise ValueError(f"label {min(strange)} is none of {len(self.classes)} classes")
        twice = [place for place, n in Counter((photo.path, photo.box) for photo in self.photos).items() if n > 1]
        if twice:
            raise GroundTruthError(f"{self.file}: {twice[0][0]} is there twice: list it once")
        counts = Counter(photo.label for photo in self.photos)
        few = [label for label in range(len(self.classes)) if counts[label] < 2]
        if few:
            raise GroundTruthError(f"{self.file}: {self._few(few)}")
        if len(self.classes) < 2:
            raise GroundTruthError(
                f"{self.file}: all photos show {self.classes[0]}: to tell objects apart, add photos of another"
            )

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) labels of the photos."""
        return np.array([photo.label for photo in self.photos], np.int64)

    def _few(self, labels: list[int]) -> str:
        name = self.classes[labels[0]]
        path = next((photo.path for photo in self.photos if photo.label == labels[0]), None)
        where = f"one photo, {path}; add another to {path.parent}" if path else "no photo; add two"
        more = f" ({len(labels)} classes have fewer than two)" if len(labels) > 1 else ""
        return f"class {name} has {where}, or drop such classes with singletons = 'drop'{more}"


def training_set(labelled: LabelledSet, *, singletons: Singletons = "error", whole: bool = False) -> TrainingSet:
    """The photos of a labelled set whose object is known, queries and database alike.

    A class is a group of the set, or, where it names none, what its answers link (``evaluation.objects``). A query
    without a group shows what its positives do, where those are of one. What shows no known object, as a distractor
    does, is left out. A photo that queries ask about in part is those parts, unless ``whole``.
    singletons: "drop" leaves out classes with one photo, and says so in ``selection``.
    Raises GroundTruthError as ``TrainingSet``.
    """
    names = _known(labelled)
    boxes: dict[str, dict[Box | None, None]] = {}
    for query in labelled.queries:
        boxes.setdefault(query.path, {})[None if whole else query.box] = None
    shown = [
        (path, box)
        for path in dict.fromkeys([*labelled.database, *(query.path for query in labelled.queries)])
        if path in names
        for box in boxes.get(path, {None: None})
    ]
    counts = Counter(names[path] for path, _ in shown)
    kept = sorted(name for name, n in counts.items() if n > 1 or singletons == "error")
    label = {name: place for place, name in enumerate(kept)}
    dropped = len(counts) - len(kept)
    return TrainingSet(
        name=labelled.name,
        photos=tuple(
            Photo(labelled.locate(path), label[names[path]], box) for path, box in shown if names[path] in label
        ),
        classes=tuple(kept),
        file=labelled.file,
        revision=labelled.revision,
        selection=_joined(labelled.selection, f"without {dropped} objects of one photo" if dropped else ""),
    )


def split_by_object(labelled: LabelledSet, share: float, seed: int) -> tuple[LabelledSet, LabelledSet]:
    """(to learn from, held out): two sets without a common object or image.

    share: of the objects, held out; at least one that a query asks for is on either side. Objects that a photo links
    stay together: as its group and its query's, as two answers to a query, or as its answer and its junk, which may
    show the object too. What shows no object is held out: queries without an answer, distractors.
    Raises GroundTruthError where share is not between 0 and 1, or fewer than two objects are asked for that no photo
    links.
    """
    if not 0 < share < 1:
        raise GroundTruthError(f"the share of objects to hold out must be above 0 and below 1, not {share}")
    part = _linked(labelled)
    asked = {part[query.path] for query in labelled.queries if query.positives}
    known = asked | {part[path] for path in _known(labelled) if path in part}
    if len(asked) < 2:
        raise GroundTruthError(
            f"{labelled.file}: cannot hold objects out: all that its queries ask for are linked by photos of both; "
            "add photos and queries of another object, or give another set to validate on"
        )
    rng, held = np.random.default_rng(seed), set[int]()
    for parts, least in ((sorted(asked), 1), (sorted(known - asked), 0)):
        count = min(max(round(share * len(parts)), least), len(parts) - least)
        held.update(rng.permutation(parts)[:count].tolist())
    drawn = f"{len(held)} of {len(known)} objects held out, drawn with seed {seed}"
    others = len({path for path in part if part[path] not in known})
    return (
        _restricted(labelled, part, known - held, f"{drawn}: the others"),
        _restricted(labelled, part, set(part.values()) - (known - held), f"{drawn}, and {others} images of no object"),
    )


def _known(labelled: LabelledSet) -> dict[str, str]:
    """Path → name of its object; queries as their positives where those are of one group."""
    names = objects(labelled)
    for query in labelled.queries if labelled.groups else ():
        groups = {labelled.groups[path] for path in query.positives if path in labelled.groups}
        if query.path not in labelled.groups and len(groups) == 1:
            names[query.path] = min(groups)
    return names


def _linked(labelled: LabelledSet) -> dict[str, int]:
    """Path → number of the part that it is linked to by groups, positives and junk; numbered by their first images."""
    paths = list(dict.fromkeys([*labelled.database, *(query.path for query in labelled.queries)]))
    node: dict[str | tuple[str, str], int] = {path: place for place, path in enumerate(paths)}
    links = [(node[q.path], node[path]) for q in labelled.queries for path in q.positives | q.junk]
    for path, name in labelled.groups.items():
        if path in node:
            links.append((node[path], node.setdefault(("group", name), len(node))))
    rows, columns = np.array(links).T
    graph = coo_array((np.ones(len(links)), (rows, columns)), shape=(len(node), len(node)))
    numbers = connected_components(graph, directed=False)[1].tolist()
    first: dict[int, int] = {}
    return {path: first.setdefault(number, len(first)) for path, number in zip(paths, numbers, strict=False)}


def _restricted(labelled: LabelledSet, part: Mapping[str, int], parts: set[int], text: str) -> LabelledSet:
    distractors = labelled.database[len(labelled.own) :]
    return replace(
        labelled,
        database=tuple(path for path in labelled.database if part[path] in parts),
        queries=tuple(query for query in labelled.queries if part[query.path] in parts),
        groups={path: name for path, name in labelled.groups.items() if path in part and part[path] in parts},
        distractors=sum(part[path] in parts for path in distractors),
        selection=_joined(labelled.selection, text),
    )


def _joined(*texts: str) -> str:
    return "; ".join(text for text in texts if text)
