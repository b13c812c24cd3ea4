"""A collection of the same images by another recipe, made beside what is searched until it takes its place.

It lies in a folder of the collection's and is one itself, with the same ids. It is filled by ascending id, as its logs
want it, while others search and write the collection. Then one transaction of the collection's catalogue takes over
what its own says of descriptions, so that whoever opens the collection sees one recipe's or the other's, never both.
"""

import os
import shutil
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from resight.describe.describer import Describer
from resight.describe.description import Description
from resight.errors import CollectionError
from resight.images.sources import Source
from resight.recipes.recipe import Recipe
from resight.store import indexing
from resight.store.catalogue import FILE, Catalogue
from resight.store.log import sync_folder
from resight.store.store import UPGRADE, New, Store

_BATCH_IMAGES, _BATCH_SECONDS = 64, 10.0  # what a crash can cost
_TAKEN = (
    *("recipe", "fingerprint", "generation", "codebook", "hash"),
    *("features_end", "vectors_end", "words_end", "segment"),
)
_COLUMNS = (
    *("width", "height", "features_at", "features", "features_crc", "vector_at", "vector_crc"),
    *("words_at", "words", "words_crc"),
)


@dataclass(frozen=True)
class _Row:
    """An image of the collection."""

    id: int
    origin: str
    digest: str
    bytes: int
    modified_ns: int


def successor_folder(store: Store) -> Path:
    """Where a collection's next one is made."""
    number = 0 if store.data == store.folder else int(store.data.name.removeprefix(UPGRADE))
    return store.folder / f"{UPGRADE}{number + 1:08}"


def under_way(store: Store) -> str | None:
    """The recipe of the upgrade that has been begun, by its name and how far it is; None where there is none."""
    folder = successor_folder(store)
    if not (folder / FILE).is_file():
        return None
    with closing(Catalogue(folder, write=False)) as catalogue:
        count = catalogue.images
        return f"{Recipe.model_validate_json(catalogue.get('recipe')).name}, {count:,} images described"


def give_up(store: Store) -> bool:
    """Delete what an upgrade has made so far; whether there was any. CollectionError while it is at work."""
    folder = successor_folder(store)
    found = [path for path in (folder, _before(folder)) if path.exists()]
    if (folder / FILE).is_file():
        Store(folder, write=True).close()  # which raises where another process writes to it
    for path in found:
        shutil.rmtree(path)
    return bool(found)


class Successor:
    """The next collection of one, open for writing. Use as a context manager, by one process at a time.

    An upgrade that was interrupted is gone on with. Photos that could not be read then, and can be now, belong before
    what has been described since: so that is moved, with their descriptions, into a new one. Raises CollectionError
    where another recipe's upgrade was begun.
    """

    def __init__(self, collection: Store, recipe: Recipe, fingerprint: str) -> None:
        folder = successor_folder(collection)
        before = _before(folder)
        for path in (folder, before):
            if (path / FILE).is_file():
                _check_begun(collection, path, recipe, fingerprint)
        self._failed: dict[int, tuple[str, str]] = {}  # by id: where the photo was looked for, and what was wrong
        self._seen = 0  # the highest id that has had its turn
        self.described = 0
        """Images, from their photos."""
        if not (folder / FILE).is_file():
            self.store = Store.create(folder, recipe, fingerprint)
        else:
            self.store = Store(folder, write=True)
            last = self._last()
            skipped = [row.origin for row in self._lacking(collection) if row.id < last]
            if not before.exists() and any(map(_is_there, skipped)):
                self.store.close()
                folder.rename(before)
                sync_folder(collection.folder)
                self.store = Store.create(folder, recipe, fingerprint)
        self._before = Store(before, write=False) if before.exists() else None

    def __enter__(self) -> "Successor":
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()
        if self._before is not None:
            self._before.close()

    def _last(self) -> int:
        return int(self.store.catalogue.rows("SELECT ifnull(max(id), 0) FROM images")[0][0])

    def _lacking(self, collection: Store) -> list[_Row]:
        """Images of the collection that are not here, by ascending id."""
        have = {image for (image,) in self.store.catalogue.rows("SELECT id FROM images")}
        sql = "SELECT id, origin, digest, bytes, modified_ns FROM images WHERE id > ? ORDER BY id LIMIT ?"
        return [_Row(*row) for row in collection.catalogue.each(sql, 0) if row[0] not in have]

    def lacking(self, collection: Store) -> list[tuple[str, str]]:
        """Origins of the images that could not be described when it was their turn, and why."""
        return [(row.origin, self._reason(row)) for row in self._lacking(collection) if row.id <= self._seen]

    def _reason(self, row: _Row) -> str:
        if self._has_moved(row):
            return "was moved while the upgrade was at work; run it again"
        gone = "could not be read" if _is_there(row.origin) else "there is no such file any more"
        return self._failed.get(row.id, (row.origin, gone))[1]

    def _has_moved(self, row: _Row) -> bool:
        return self._failed.get(row.id, (row.origin, ""))[0] != row.origin

    def may_drop(self, collection: Store) -> bool:
        """Whether each photo of ``lacking`` was looked for where the collection says that it is now."""
        return not any(map(self._has_moved, self._lacking(collection)))

    def describe(self, collection: Store, describer: Describer, workers: int, report: indexing.Reporter) -> int:
        """Take up what the collection has now: images that came, went or moved; how many came.

        What the collection has of them is copied where the recipe describes images as its own does. What is done is
        kept, also after Ctrl-C. Images that could not be described when it was their turn are left for the next
        upgrade.
        """
        with collection.catalogue.snapshot():  # or a photo that comes between could be under a name that has moved
            self._follow(collection)
            last = self._last()
            rows = [row for row in self._lacking(collection) if row.id > last]
        self._seen = max([last, *(row.id for row in rows)])
        codebook = self.store.learned(self.store.generation)[0] if self.store.generation else None
        waiting: list[New] = []
        done, began = 0, time.monotonic()
        report(indexing.Progress("describing", 0, len(rows)))
        try:
            with closing(self._descriptions(collection, rows, describer, workers)) as found:
                for new in found:
                    done += 1
                    waiting.append(new)
                    if len(waiting) >= _BATCH_IMAGES or time.monotonic() - began > _BATCH_SECONDS:
                        # Let go first: after Ctrl-C in the middle of it they may be there already.
                        batch, waiting, began = waiting, [], time.monotonic()
                        self.store.add(batch, [], codebook)
                    report(indexing.Progress("describing", done, len(rows)))
        finally:
            if waiting:
                self.store.add(waiting, [], codebook)
        if self._before is not None:
            self._before.close()
            shutil.rmtree(self._before.folder)
            self._before = None
        return done

    def _follow(self, collection: Store) -> None:
        """Let go what the collection has let go, and look for photos where it says that they are now."""
        ours, sql = self.store.catalogue, "SELECT id, origin FROM images"
        now, held = dict(collection.catalogue.rows(sql)), dict(ours.rows(sql))
        self.store.remove([image for image in held if image not in now])
        moved = [(now[image], image) for image, origin in held.items() if now.get(image, origin) != origin]
        if moved:
            with ours.transaction() as db:
                # By way of names that no photo has, as two may have changed theirs with each other.
                db.executemany("UPDATE images SET origin = 'id:' || id WHERE id = ?", [(image,) for _, image in moved])
                db.executemany("UPDATE images SET origin = ? WHERE id = ?", moved)

    def _descriptions(self, collection: Store, rows: list[_Row], describer: Describer, workers: int) -> Generator[New]:
        """Rows described, in their order, but for those that cannot be; what is kept of one is copied."""
        stores = [] if self._before is None else [self._before]
        if describer.describes_as(collection.recipe, collection.fingerprint):
            stores.append(collection)
        left, waiting = deque(rows), deque[tuple[_Row, bool]]()
        while left and (found := _kept(stores, left[0])) is not None:
            yield _new(left.popleft(), found)
        if not left:
            return

        def sources() -> Iterator[Source]:
            for row in left:
                waiting.append((row, _kept(stores, row) is not None))
                if not waiting[-1][1]:
                    yield Source(row.origin, row.bytes, row.modified_ns)

        def copied() -> Iterator[New]:
            while waiting and waiting[0][1]:
                row, _ = waiting.popleft()
                if (found := _kept(stores, row)) is not None:
                    yield _new(row, found)

        outcomes = indexing.outcomes_of(describer, sources(), frozenset(), workers, indexing.SECONDS_A_FILE)
        with closing(outcomes), closing(indexing.described(describer, outcomes)) as described:
            for outcome, vector in described:
                yield from copied()
                (row, _), reason = waiting.popleft(), outcome.reason
                if reason is None and outcome.digest != row.digest:
                    reason = "has changed since it was indexed; index it again first"
                if reason is None and outcome.size is not None:
                    self.described += 1
                    yield _new(row, Description(outcome.size, vector, outcome.local))
                else:
                    self._failed[row.id] = row.origin, reason or "could not be described"
        yield from copied()

    def take_over(self, collection: Store) -> None:
        """Make the collection what this is. Images that this lacks are left out; an index is no longer there.

        collection: open for writing. Images, their ids, facts and what was decided about them stay.
        """
        theirs, ours = collection.catalogue, self.store.catalogue
        described = ours.each(f"SELECT id, {', '.join(_COLUMNS)} FROM images WHERE id > ? ORDER BY id LIMIT ?", 0)
        lacking = [(row.id,) for row in self._lacking(collection)]
        with theirs.transaction() as db:
            db.executemany("DELETE FROM images WHERE id = ?", lacking)
            db.executemany(
                f"UPDATE images SET {', '.join(f'{column} = ?' for column in _COLUMNS)} WHERE id = ?",
                ((*row[1:], row[0]) for row in described),
            )
            collection.end_renewal()
            db.execute("DELETE FROM segments")
            db.executemany("INSERT INTO segments VALUES (?, ?, ?)", ours.rows("SELECT * FROM segments"))
            for key in _TAKEN:
                theirs.set(key, ours.get(key))
            theirs.set("index", None)
            theirs.set("data", self.store.folder.name)
        collection.adopt(self.store)


def _check_begun(collection: Store, folder: Path, recipe: Recipe, fingerprint: str) -> None:
    with closing(Catalogue(folder, write=False)) as catalogue:
        if catalogue.get("fingerprint") == fingerprint:
            return
        name = Recipe.model_validate_json(catalogue.get("recipe")).name
    what = f"to recipe {name}" if name != recipe.name else f"to {name} with other weights or settings"
    raise CollectionError(
        f"{collection.folder}: an upgrade {what} has been begun; go on with that, or give it up by "
        f"`resight upgrade {collection.folder} --cancel`"
    )


def _kept(stores: Iterable[Store], row: _Row) -> Description | None:
    """What the first of some stores that has it, undamaged, says of an image."""
    for store in stores:
        with suppress(KeyError, CollectionError):
            return store.description(row.id)
    return None


def _new(row: _Row, description: Description) -> New:
    return New(row.origin, row.digest, row.bytes, row.modified_ns, description, id=row.id)


def _before(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-before")


def _is_there(origin: str) -> bool:
    """Whether a photo may be read now; what is not on a disk is tried."""
    return "://" in origin or os.path.lexists(origin.split("!/")[0])
