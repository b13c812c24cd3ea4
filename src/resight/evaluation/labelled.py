"""A labelled set: a database, queries, and which images answer each query. Checked whole when it is made."""

import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from resight.errors import GroundTruthError

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Query:
    """One question and its answers; paths as in the set.

    box: (x1, y1, x2, y2), the part of the image that is asked about, in its upright pixels; None for all.
    positives: database images that show the object; none where "nothing found" is the right answer.
    junk: database images that count neither way and are removed from the ranking (revisitop).
    keeps_itself: a query that is in the database stays in its own ranking, and may be its own positive, as Oxford5k and
        Paris6k count; else it is removed.
    """

    path: str
    positives: frozenset[str]
    junk: frozenset[str] = frozenset()
    box: Box | None = None
    subset: str | None = None
    keeps_itself: bool = False

    @property
    def removed(self) -> frozenset[str]:
        """Images that are taken out of its ranking before anything is counted."""
        return self.junk if self.keeps_itself else self.junk | {self.path}


@dataclass(frozen=True)
class LabelledSet:
    """Queries against one database.

    file: what it was read from, a ``gt.json`` or a folder with a sub-folder for each object; named in errors.
    root: the folder that paths are relative to; distractors have absolute paths.
    groups: image path → name of the object it shows, where that is known.
    revision: hash of the ground truth as it was read.
    selection: which queries were kept of that revision; "" for all.
    average_precision: the kind (see `metrics`) that the set's protocol takes.
    distractors: how many database images, the last ones, were added to it.
    Raises GroundTruthError, naming the file and the entry, where an answer does not fit the database, no
    query has an answer, or an image is listed twice.
    """

    name: str
    file: Path
    root: Path
    database: tuple[str, ...]
    queries: tuple[Query, ...]
    protocol: str = ""
    groups: Mapping[str, str] = field(default_factory=dict)
    revision: str = ""
    selection: str = ""
    average_precision: str = "trapezoidal"
    distractors: int = 0

    def __post_init__(self) -> None:
        database = frozenset(self.database)
        if not database:
            raise GroundTruthError(f"{self.file}: the database is empty: list the images to search")
        if len(database) != len(self.database):
            twice = next(path for path, count in Counter(self.database).items() if count > 1)
            raise GroundTruthError(f"{self.file}: the database lists {twice} twice: list it once")
        if not any(query.positives for query in self.queries):
            raise GroundTruthError(
                f"{self.file}: none of the {len(self.queries)} queries has a positive: nothing to measure"
            )
        for path in (*self.database, *(query.path for query in self.queries)):
            if (plain := posixpath.normpath(path)) != path:
                raise GroundTruthError(f"{self.file}: write {path} as {plain}: one image goes by one path")
        for query in self.queries:
            _check(query, database, f"{self.file}: query {query.path}")

    @property
    def leave_one_out(self) -> bool:
        """Whether queries are images of the database, each removed from its own ranking."""
        database = frozenset(self.database)
        return any(query.path in database and not query.keeps_itself for query in self.queries)

    @property
    def in_fours(self) -> bool:
        """Whether the N-S score is defined: every query is one of four database images of its object."""
        database = frozenset(self.database)
        return all(
            q.path in database and len(q.positives) == 3 and not q.junk and not q.keeps_itself for q in self.queries
        )

    @property
    def own(self) -> tuple[str, ...]:
        """The database images that are no distractors."""
        return self.database[: len(self.database) - self.distractors]

    def locate(self, path: str) -> Path:
        """Absolute path of an image of the set, normalised as a collection's origins are: links are kept."""
        return Path(os.path.normpath(self.root / path))


def with_distractors(labelled: LabelledSet, folders: Iterable[str | Path]) -> LabelledSet:
    """The set with every image under the folders added to its database, where it answers nothing.

    Images that the database already has are not added again. Raises GroundTruthError for a folder without
    images, or one that holds a query that is not in the database.
    """
    from resight.images.sources import find_sources

    known = {str(labelled.locate(path)) for path in labelled.database}
    queries = {str(labelled.locate(query.path)) for query in labelled.queries}
    added: dict[str, None] = {}
    for folder in folders:
        if not Path(folder).is_dir():
            raise GroundTruthError(f"{folder}: no such folder of distractors")
        origins = [source.origin for source in find_sources([folder], on_problem=refuse)]
        if not origins:
            raise GroundTruthError(f"{folder}: no images to use as distractors")
        for origin in origins:
            if origin in queries - known:
                raise GroundTruthError(f"{origin}: a query of {labelled.name} cannot be a distractor too")
            if origin not in known:
                added[origin] = None
    return replace(
        labelled,
        database=(*labelled.database, *added),
        distractors=labelled.distractors + len(added),
    )


def subset(labelled: LabelledSet, names: Iterable[str]) -> LabelledSet:
    """The set with the queries of the named subsets only. Raises GroundTruthError for an unknown name."""
    wanted = sorted(set(names))
    have = {query.subset for query in labelled.queries if query.subset is not None}
    for name in wanted:
        if name not in have:
            choice = f"choose from {', '.join(sorted(have))}" if have else "its queries name no subset"
            raise GroundTruthError(f"{labelled.file}: no subset is called {name!r}; {choice}")
    return replace(
        labelled,
        queries=tuple(query for query in labelled.queries if query.subset in wanted),
        selection=_selection(labelled, f"subset {', '.join(wanted)}"),
    )


def sample(labelled: LabelledSet, n: int, seed: int) -> LabelledSet:
    """The set with n of its queries, drawn without replacement, in their order; all if it has no more."""
    if n < 1:
        raise GroundTruthError(f"{labelled.name}: cannot evaluate {n} queries; ask for at least 1")
    if n >= len(labelled.queries):
        return labelled
    kept = np.sort(np.random.default_rng(seed).choice(len(labelled.queries), n, replace=False))
    return replace(
        labelled,
        queries=tuple(labelled.queries[i] for i in kept),
        selection=_selection(labelled, f"{n} of {len(labelled.queries)} queries drawn with seed {seed}"),
    )


def refuse(origin: str, reason: str) -> None:
    """What looking for a labelled set's images does about a problem: part of a set gives no figure."""
    raise GroundTruthError(f"{origin}: {reason}")


def _check(query: Query, database: frozenset[str], where: str) -> None:
    if query.path in query.positives and not query.keeps_itself:
        raise GroundTruthError(f"{where} is its own positive: list the other images of its object only")
    if both := query.positives & query.junk:
        raise GroundTruthError(f"{where}: {min(both)} is both positive and junk: it can be only one")
    for kind, paths in (("positive", query.positives), ("junk", query.junk)):
        if strangers := paths - database:
            raise GroundTruthError(f"{where}: {kind} {min(strangers)} is not in the database: add it, or drop it there")


def _selection(labelled: LabelledSet, text: str) -> str:
    return f"{labelled.selection}; {text}" if labelled.selection else text
