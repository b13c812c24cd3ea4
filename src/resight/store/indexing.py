"""One indexing run: find what is new, changed, moved or gone, describe only that, and commit as it goes."""

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resight.describe.describer import Describer
from resight.describe.description import Description
from resight.describe.views import Views
from resight.embedding.codebook import Codebook, choose_words
from resight.errors import CollectionError
from resight.images.sources import Source, covers, find_sources
from resight.local.hamming_filter import Signer
from resight.recipes.recipe import Recipe
from resight.store.store import Failed, New, Store, read_features, writing
from resight.store.workers import Outcome, describe_files

_BATCH_IMAGES, _BATCH_SECONDS = 64, 10.0  # what a crash can cost
_SAMPLE = 1_048_576  # descriptors a codebook is learned from: 16 for each of 65,536 words
SECONDS_A_FILE = 120.0
_PLACE = 0, 0  # the stamp of a failure that is of a place, not of a picture: it is tried again each time
_AHEAD = 32  # images that are read before the network wants them
GROWTH = 4  # a collection that grew this many times deserves a new codebook


@dataclass(frozen=True)
class Progress:
    """phase: what is being done; done of total (None: not known yet)."""

    phase: str
    done: int
    total: int | None


@dataclass(frozen=True)
class AddReport:
    """What a run did, in files. advice: what the user might do next, or None."""

    added: int
    changed: int
    moved: int
    unchanged: int
    vanished: int
    failed: int
    seconds: float
    advice: str | None


Reporter = Callable[[Progress], None]

Elsewhere = Callable[[list[Source], frozenset[str]], Generator[Outcome]]
"""Describes files in other places and keeps there what it finds: outcomes, in order, without features or views.

It is given the sources, and digests of contents that need not be described again, as ``describe_files`` is."""


@dataclass(frozen=True)
class _Known:
    digest: str
    bytes: int
    modified_ns: int
    missing: bool


def add(
    store: Store,
    describer: Describer,
    paths: Iterable[str | Path],
    *,
    workers: int | None = None,
    progress: Reporter | None = None,
    timeout: float = SECONDS_A_FILE,
    elsewhere: Elsewhere | None = None,
) -> AddReport:
    """Bring a collection up to date with photos.

    elsewhere: what describes them in place of this machine; the store is then only the catalogue of what lies there,
        without descriptors, and learns no codebook.

    Files whose size and time of change are as recorded are taken as unchanged; all others are read, and told apart
    by content: known content under a new name, whose old file is gone, has moved. Images whose file is gone from
    a named folder are marked missing and stay. So do those whose changed file could not be read: only one that was
    read and is no picture any more takes its image away. What a disk or server did not give is tried again.
    Raises CollectionError if the disk is full; what was committed stays.
    """
    began = time.monotonic()
    report = progress or (lambda _: None)
    paths = list(paths)
    problems: dict[str, str] = {}
    sources = _look(paths, problems, report)
    known = {
        origin: _Known(digest, size, modified, bool(missing))
        for origin, digest, size, modified, missing in store.catalogue.each(
            "SELECT origin, digest, bytes, modified_ns, missing FROM images WHERE origin > ? ORDER BY origin LIMIT ?",
            "",
        )
    }
    failed_before = {
        origin: (size, modified)
        for origin, size, modified in store.catalogue.rows("SELECT origin, bytes, modified_ns FROM failures")
    }
    lost = _gone(paths, [*known, *failed_before], sources, problems)
    gone = {origin: known[origin].digest for origin in lost if origin in known}
    settled = [o for o, at in failed_before.items() if o in lost or (at == _PLACE and _can_be_listed(o, sources))]
    todo = [s for s in sources if _differs(s, known.get(s.origin)) and failed_before.get(s.origin) != _stamp(s)]
    failed_again = sum(failed_before.get(s.origin) == _stamp(s) for s in sources)
    run = _Run(store, describer, known, gone, frozenset(s.origin for s in todo), elsewhere)
    with writing(store.folder):
        run.describe(todo, workers or os.cpu_count() or 1, timeout, report)
        run.note_problems(problems, settled)
        run.mark_missing()
        if store.needs_codebook and elsewhere is None:
            finish_codebook(store, report)
    return AddReport(
        added=run.added,
        changed=run.changed,
        moved=run.moved,
        unchanged=len(sources) - len(todo) - failed_again + run.unchanged,
        vanished=len(run.gone),
        failed=run.failed + failed_again,
        seconds=time.monotonic() - began,
        advice=advice(store),
    )


def _look(paths: list[str | Path], problems: dict[str, str], report: Reporter) -> list[Source]:
    sources = []
    for source in find_sources(paths, on_problem=problems.__setitem__):
        sources.append(source)
        if len(sources) % 256 == 0:
            report(Progress("looking", len(sources), None))
    return sources


def _stamp(source: Source) -> tuple[int, int]:
    return source.bytes, source.modified_ns


def _differs(source: Source, known: _Known | None) -> bool:
    return known is None or known.missing or (known.bytes, known.modified_ns) != _stamp(source)


def _gone(
    paths: list[str | Path], origins: Iterable[str], sources: list[Source], problems: dict[str, str]
) -> frozenset[str]:
    """Which origins that `paths` cover are not there any more. Unreadable places prove nothing."""
    covered, present = covers(paths), {s.origin for s in sources}
    unknown = tuple(f"{place}{mark}" for place in problems for mark in ("/", "!/"))
    return frozenset(
        origin
        for origin in origins
        if origin not in present and covered(origin) and origin not in problems and not origin.startswith(unknown)
    )


def _can_be_listed(place: str, sources: list[Source]) -> bool:
    """Whether anything was found under a folder or archive, whose listing had failed before."""
    return any(s.origin.startswith((f"{place}/", f"{place}!/")) for s in sources)


class _Run:
    """The state of one run. gone: origins that are no longer there, and their digests; todo: those to be read."""

    def __init__(
        self,
        store: Store,
        describer: Describer,
        known: dict[str, _Known],
        gone: dict[str, str],
        todo: frozenset[str],
        elsewhere: Elsewhere | None,
    ) -> None:
        self.store, self.describer, self.known, self.gone = store, describer, known, gone
        self.elsewhere = elsewhere
        self.added = self.changed = self.moved = self.unchanged = self.failed = 0
        self._new: list[New] = []
        self._failures: list[Failed] = []
        self._unread: list[Failed] = []
        self._codebook = store.learned(store.generation)[0] if store.generation else None
        self._by_content: dict[str, list[str]] = {}
        lost = {origin for origin, old in known.items() if old.missing and origin not in todo} | gone.keys()
        for origin in sorted(lost):
            self._by_content.setdefault(known[origin].digest, []).append(origin)

    def describe(self, todo: list[Source], workers: int, timeout: float, report: Reporter) -> None:
        # A known file whose time has changed but not its content needs no work either.
        same = frozenset(self.known[s.origin].digest for s in todo if s.origin in self.known)
        contents = same | frozenset(self._by_content)
        last = time.monotonic()
        report(Progress("describing", 0, len(todo)))
        if not todo:
            return
        # Closed here, so that no worker outlives an error.
        with (
            closing(self._outcomes(todo, contents, workers, timeout)) as first,
            closing(self._again(first, workers, timeout)) as outcomes,
            closing(self._with_vectors(outcomes)) as finished,
        ):
            try:
                for done, (outcome, vector) in enumerate(finished, 1):
                    self._take(outcome, vector)
                    waiting = len(self._new) + len(self._failures) + len(self._unread)
                    if waiting >= _BATCH_IMAGES or time.monotonic() - last > _BATCH_SECONDS:
                        self._commit()
                        last = time.monotonic()
                    report(Progress("describing", done, len(todo)))
            finally:
                # Also after Ctrl-C: what is described is kept.
                self._commit()

    def _outcomes(
        self, sources: list[Source], known: frozenset[str], workers: int, timeout: float
    ) -> Generator[Outcome]:
        if self.elsewhere is not None:
            return self.elsewhere(sources, known)
        return outcomes_of(self.describer, sources, known, workers, timeout)

    def _again(self, outcomes: Iterator[Outcome], workers: int, timeout: float) -> Generator[Outcome]:
        """Settle files of known content; those that are copies of a file still there are described after all."""
        copies = []
        for outcome in outcomes:
            if outcome.reason is not None or outcome.size is not None or self._settle(outcome):
                yield outcome
            else:
                copies.append(outcome.source)
        if copies:
            yield from self._outcomes(copies, frozenset(), min(workers, len(copies)), timeout)

    def _settle(self, outcome: Outcome) -> bool:
        source = outcome.source
        old = self.known.get(source.origin)
        came_from = self._by_content.get(outcome.digest)
        if old is not None and old.digest == outcome.digest:
            before = source.origin
            self.unchanged += 1
        elif came_from:
            before = came_from.pop(0)
            self.gone.pop(before, None)
            self.moved += 1
        else:
            return False
        with self.store.catalogue.transaction() as db:
            if before != source.origin:
                db.execute("DELETE FROM images WHERE origin = ?", (source.origin,))
            db.execute("DELETE FROM failures WHERE origin = ?", (source.origin,))
            db.execute(
                "UPDATE images SET origin = ?, bytes = ?, modified_ns = ?, missing = 0 WHERE origin = ?",
                (source.origin, *_stamp(source), before),
            )
        return True

    def _with_vectors(self, outcomes: Iterator[Outcome]) -> Generator[tuple[Outcome, NDArray[np.float32] | None]]:
        if self.elsewhere is None:
            return described(self.describer, outcomes)
        return ((outcome, None) for outcome in outcomes)

    def _take(self, outcome: Outcome, vector: NDArray[np.float32] | None) -> None:
        source = outcome.source
        if outcome.reason is not None:
            failures = self._failures if outcome.digest else self._unread
            failures.append((source.origin, outcome.reason, *(_PLACE if outcome.again else _stamp(source))))
        elif outcome.size is not None:
            description = Description(outcome.size, vector, outcome.local)
            self._new.append(New(source.origin, outcome.digest, *_stamp(source), description, outcome.metadata))

    def _commit(self) -> None:
        new, failures, unread = self._new, self._failures, self._unread
        if new or failures or unread:
            self.store.add(new, failures, self._codebook, unread)
        self._new, self._failures, self._unread = [], [], []  # only now: a Ctrl-C before it is followed by a commit
        self.failed += len(failures) + len(unread)
        replaced = sum(item.origin in self.known for item in new)
        self.changed += replaced
        self.added += len(new) - replaced

    def note_problems(self, problems: dict[str, str], settled: list[str]) -> None:
        """Record what could not be listed, and forget failures that are `settled`: gone, or listed now."""
        with self.store.catalogue.transaction() as db:
            db.executemany("DELETE FROM failures WHERE origin = ?", [(origin,) for origin in settled])
        if problems:
            # A name that is no UTF-8 is kept as it is shown, since a catalogue holds only text.
            named = [(o.encode(errors="backslashreplace").decode(), reason) for o, reason in problems.items()]
            self.store.add([], [], None, [(origin, reason, *_PLACE) for origin, reason in named])
            self.failed += len(problems)

    def mark_missing(self) -> None:
        with self.store.catalogue.transaction() as db:
            db.executemany("UPDATE images SET missing = 1 WHERE origin = ?", [(o,) for o in self.gone])


def outcomes_of(
    describer: Describer, sources: Iterable[Source], known: frozenset[str], workers: int, timeout: float
) -> Generator[Outcome]:
    """What becomes of files in this machine's workers, as ``describe_files`` says, made ready for ``described``."""
    network = describer.network
    return describe_files(
        sources,
        describer.recipe,
        known,
        workers=workers,
        timeout=timeout,
        feedings=() if network is None else network.feedings,
        # So that the network has something to do while some files take longer to read.
        ahead=0 if network is None else _AHEAD,
    )


def described(
    describer: Describer, outcomes: Iterator[Outcome]
) -> Generator[tuple[Outcome, NDArray[np.float32] | None]]:
    """Outcomes in their order, without views, each with its vector if it has one."""
    network = describer.network
    if network is None:
        for outcome in outcomes:
            yield outcome, None
        return
    waiting: deque[tuple[Outcome, bool]] = deque()  # and whether it gets a vector

    def views() -> Iterator[tuple[Views, ...]]:
        for outcome in outcomes:
            waiting.append((replace(outcome, views=None), outcome.views is not None))
            if outcome.views is not None:
                yield outcome.views

    for vector in network.describe_each(views()):
        while not waiting[0][1]:
            yield waiting.popleft()[0], None
        yield waiting.popleft()[0], vector
    for outcome, _ in waiting:
        yield outcome, None


def finish_codebook(store: Store, report: Reporter) -> None:
    """Learn the codebook if there is none yet, and encode every image that waits for the newest."""
    if store.pending() == 0 and not store.renewal:
        return
    if store.generation == 0:
        _learn(store, report, again=False)
    if store.generation == 0:
        return
    done, total = 0, store.to_encode()
    report(Progress("encoding", 0, total))
    for count in store.encode_pending():
        done += count
        report(Progress("encoding", done, total))


def learn_codebook(store: Store, report: Reporter, *, again: bool = True) -> None:
    """Learn a codebook from the collection's own descriptors; none where they are fewer than a word needs.

    again: also where the recipe names a codebook, which is taken otherwise.
    """
    if store.recipe.codebook is None:
        raise CollectionError(f"{store.folder}: recipe {store.recipe.name} has no codebook to learn")
    _learn(store, report, again=again)


def _learn(store: Store, report: Reporter, *, again: bool) -> None:
    words = learn_words(store.recipe, lambda seed: _sample(store, seed), report, again=again)
    if words is not None:
        store.start_generation(words.codebook, words.facts, words.signer)


Sample = tuple[NDArray[np.uint8 | np.int8 | np.float32], int]
"""Descriptors drawn from images, and how many images there are."""


@dataclass(frozen=True, eq=False)
class LearnedWords:
    """A codebook, what a collection records of it, and what [hamming] learned for it where the recipe has that."""

    codebook: Codebook
    facts: dict[str, Any]
    signer: Signer | None


def learn_words(
    recipe: Recipe, sample: Callable[[int], Sample], report: Reporter, *, again: bool = False
) -> LearnedWords | None:
    """What a recipe with visual words learns, or reads from the files it names; None where descriptors are too few.

    sample: draws descriptors with a seed. again: learned even where the recipe names a codebook.
    """
    stage = recipe.codebook
    if stage is None:
        return None
    if stage.path and not again:
        codebook = Codebook.load(Path(stage.path))
        facts: dict[str, Any] = {"fitted_on": codebook.fitted_on, "words": len(codebook)}
        return LearnedWords(codebook, facts, _signer(recipe, codebook, None, sample))
    report(Progress("learning the codebook", 0, None))
    drawn = sample(stage.seed)
    descriptors, images = drawn
    words = min(stage.words, len(descriptors)) or choose_words(len(descriptors))
    if len(descriptors) < words:
        return None
    fitted_on = f"the collection itself, {images:,} images"
    codebook = Codebook.fit(descriptors, words, seed=stage.seed, fitted_on=fitted_on)
    facts = {"fitted_on": codebook.fitted_on, "words": len(codebook), "images_at_fit": images}
    return LearnedWords(codebook, facts, _signer(recipe, codebook, drawn, sample))


def _signer(recipe: Recipe, codebook: Codebook, drawn: Sample | None, sample: Callable[[int], Sample]) -> Signer | None:
    """What [hamming] needs for the words of a codebook: learned from what was drawn, or as that codebook was."""
    hamming, words = recipe.hamming, recipe.codebook
    if hamming is None or words is None:
        return None
    if drawn is None and hamming.path:
        return Signer.load(Path(hamming.path), codebook)
    descriptors, images = drawn or sample(words.seed)
    fitted_on = f"the collection itself, {images:,} images"
    return Signer.fit(codebook, descriptors, hamming.bits, seed=words.seed, fitted_on=fitted_on)


def _sample(store: Store, seed: int) -> Sample:
    """Descriptors drawn evenly from all images, and how many images there are."""
    local = store.recipe.local
    if local is None:
        raise ValueError("the recipe has no local features")
    counts = store.catalogue.rows("SELECT features_at, features FROM images ORDER BY id")
    drawn, log = draw([count for _, count in counts], seed), store.features_log()
    sample = np.empty((sum(map(len, drawn)), local.dimension), local.stored)
    end = 0
    for (at, count), take in zip(counts, drawn, strict=True):
        if len(take):
            sample[end : end + len(take)] = read_features(log, at, count, local).descriptors[take]
            end += len(take)
    return sample, len(counts)


def draw(counts: Sequence[int], seed: int) -> list[NDArray[np.int64]]:
    """Which descriptors of each image, by ascending id, a codebook is learned from. counts: how many each has."""
    share = min(1.0, _SAMPLE / max(1, sum(counts)))
    rng = np.random.default_rng(seed)
    return [np.flatnonzero(rng.random(count) < share) for count in counts]


def advice(store: Store) -> str | None:
    """What would make the collection better, or None."""
    facts = store.catalogue.get("codebook") or {}
    index = store.catalogue.get("index") or {}
    images = store.catalogue.images
    at_fit, trained_on = facts.get("images_at_fit"), index.get("trained_on")
    told = []
    if store.renewal:
        told.append(
            f"Learning a codebook anew was interrupted, and the old one is searched by: `resight refit {store.folder}` "
            "does it again, and indexing goes on with it."
        )
    elif at_fit and images >= GROWTH * at_fit and facts["words"] < 65_536:
        told.append(
            f"The codebook was learned when there were {at_fit:,} images; now there are {images:,}. "
            f"`resight refit {store.folder}` learns a larger one, which makes searches faster and sharper."
        )
    if trained_on and images >= GROWTH * trained_on:
        told.append(
            f"The index was chosen when there were {trained_on:,} images; now there are {images:,}. "
            f"`resight tune {store.folder}` measures anew which one suits them."
        )
    return " ".join(told) or None
