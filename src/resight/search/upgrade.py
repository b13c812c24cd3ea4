"""Describing a collection's images with another recipe while it is searched, and changing over when all are.

Vectors of two recipes are never compared: until the last image is described all searches are by the old recipe, and
from then on all by the new one. A search that has begun ends with what it began with. What both describe alike is not
described again.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from resight.describe.describer import Describer
from resight.errors import CollectionError, LockedError
from resight.recipes.recipe import Recipe
from resight.search.collection import Collection
from resight.search.searcher import Searcher
from resight.store import indexing
from resight.store.indexing import Progress
from resight.store.store import Store, writing
from resight.store.successor import Successor, give_up, under_way

_FEW = 64  # images that may be described while the collection is locked
_PAUSE = 1.0  # seconds between two tries to lock the collection


@dataclass(frozen=True)
class UpgradeReport:
    """What an upgrade did.

    changed: whether the collection is by the new recipe now. images: how many it has then, or had.
    described: from their photos, in this run. lacking: origins of images that could not be described, and why: with
    `changed` they were left out, else they are what the upgrade waits for. index: whether one of global descriptors
    was given up.
    """

    changed: bool
    recipe: str
    images: int
    described: int
    lacking: tuple[tuple[str, str], ...]
    index: bool
    seconds: float


def upgrade(
    path: str | Path,
    recipe: Recipe,
    *,
    drop: bool = False,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> UpgradeReport:
    """Make another recipe a collection's, with which all its images are described again from their photos.

    Where it describes them as the collection's own does, what is stored is copied instead; where it also keeps the same
    of them, as with other verification, re-ranking or adapters, all stays where it is. Meanwhile the collection can be
    searched and written; it is locked only at the end, for what came last. An interrupted upgrade is gone on with by
    the same call. An image whose photo is gone, has changed or cannot be read, where it has to be, keeps the collection
    as it is, unless `drop`, which leaves such images out (but for one whose photo was moved meanwhile: the next call
    finds it). Ids, metadata and what was decided about duplicates stay.
    Raises CollectionError where the collection is of that recipe already, is searched through a vector database,
    another recipe's upgrade was begun, or too little was found to learn a codebook from.
    """
    began, report = time.monotonic(), progress or (lambda _: None)
    describer, folder = Describer(recipe), Path(path)
    workers = workers or os.cpu_count() or 1
    with Store(folder, write=False) as reader:
        _check(reader, describer)
        if _may_stay(reader, describer):
            with _locked(folder, report) as writer:
                _check(writer, describer)
                if _may_stay(writer, describer):
                    return _changed_over(writer, describer, report, began)
        with Successor(reader, recipe, describer.fingerprint) as following, writing(following.store.folder):
            while following.describe(reader, describer, workers, report) > _FEW:
                pass
            if drop or not following.lacking(reader):
                _finish(following.store, describer, report)
                with _locked(folder, report) as writer:
                    _check(writer, describer)  # again: a vector database may have been connected meanwhile
                    following.describe(writer, describer, workers, report)
                    lacking, index = tuple(following.lacking(writer)), writer.catalogue.get("index") is not None
                    if not lacking or (drop and following.may_drop(writer)):
                        _finish(following.store, describer, report)
                        following.take_over(writer)
                        seconds, images = time.monotonic() - began, writer.catalogue.images
                        return UpgradeReport(True, recipe.name, images, following.described, lacking, index, seconds)
            lacking = tuple(following.lacking(reader))
            seconds, images = time.monotonic() - began, reader.catalogue.images
            return UpgradeReport(False, recipe.name, images, following.described, lacking, False, seconds)


def cancel(path: str | Path) -> bool:
    """Give up an upgrade that was begun; whether there was one. LockedError while it is at work."""
    with Store(Path(path), write=False) as collection:
        return give_up(collection)


def _check(collection: Store, describer: Describer) -> None:
    if describer.fingerprint == collection.fingerprint and describer.recipe == collection.recipe:
        raise CollectionError(f"{collection.folder}: is by recipe {describer.recipe.name} already, with these weights")
    if collection.catalogue.get("engine") is not None:
        raise CollectionError(
            f"{collection.folder}: is searched through a vector database, which would hold the old recipe's vectors: "
            f"`resight engine {collection.folder} --drop --delete`, upgrade, and connect it again"
        )


def _may_stay(collection: Store, describer: Describer) -> bool:
    """Whether all that is stored is what the recipe would have stored, and no other upgrade was begun."""
    recipe, fingerprint = collection.recipe, collection.fingerprint
    alike = describer.recipe.keeps_as(recipe) and describer.describes_as(recipe, fingerprint)
    return alike and under_way(collection) is None


def _changed_over(collection: Store, describer: Describer, report: indexing.Reporter, began: float) -> UpgradeReport:
    """Build what the recipe needs beside what is stored, and then be by it; an error leaves all as it was."""
    collection.recipe, collection.fingerprint = describer.recipe, describer.fingerprint
    _finish(collection, describer, report)
    collection.be_by(describer.recipe, describer.fingerprint)
    seconds, images = time.monotonic() - began, collection.catalogue.images
    return UpgradeReport(True, describer.recipe.name, images, 0, (), False, seconds)


def _finish(following: Store, describer: Describer, report: indexing.Reporter) -> None:
    """Learn, encode and build all that searches will need."""
    if following.needs_codebook:
        indexing.finish_codebook(following, report)
        if following.pending():
            raise CollectionError(
                f"{following.folder.parent}: its photos have too few features to learn the codebook of recipe "
                f"{describer.recipe.name} from; choose another, or index more photos first"
            )
    Collection(following, describer).make_ready(report)
    Searcher(following).warm()  # which raises what would keep searches from it


def _locked(folder: Path, report: indexing.Reporter) -> Store:
    """The collection open for writing, as soon as no other process has it so."""
    while True:
        try:
            return Store(folder, write=True)
        except LockedError:
            report(Progress("waiting for another process that writes", 0, None))
            time.sleep(_PAUSE)
