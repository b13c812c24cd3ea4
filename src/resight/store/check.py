"""Is what the catalogue promises really in the files? (`resight verify`)"""

from collections.abc import Callable
from pathlib import Path

from resight.errors import ResightError
from resight.store.hash_codes import hash_function
from resight.store.indexing import Progress
from resight.store.inverted import Segment, segment_crc
from resight.store.records import record_length
from resight.store.region_log import RegionLog
from resight.store.store import Store
from resight.store.vector_index import index_crc

_IMAGES = 256  # checked between two reports


def problems(store: Store, report: Callable[[Progress], None]) -> list[str]:
    """Every record's, segment's and codebook's damage, in words; empty if there is none."""
    found = [
        f"{store.folder}/catalogue.sqlite: {line}"
        for (line,) in store.catalogue.rows("PRAGMA integrity_check")
        if line != "ok"
    ]
    total = store.catalogue.rows("SELECT count(*) FROM images")[0][0]
    done = last = 0
    while page := _page(store, last):
        found += [
            f"id:{i} {origin}: its description is damaged; remove it and index it again"
            for i, origin, sound in page
            if not sound
        ]
        last, done = page[-1][0], done + len(page)
        report(Progress("verifying", done, total))
    return found + _region_problems(store) + _index_problems(store)


def _page(store: Store, after: int) -> list[tuple[int, str, bool]]:
    """Ids and origins of the next images, and whether their records are sound.

    Each page is one committed state, so a writer at work neither waits for the check nor confuses it.
    """
    recipe = store.recipe
    dimensions = sum(recipe.global_.lengths) if recipe.global_ is not None else 0
    local = recipe.local
    with store.catalogue.snapshot():
        rows = store.catalogue.rows(
            "SELECT id, origin, features_at, features, features_crc, vector_at, vector_crc, words_at, words_crc"
            " FROM images WHERE id > ? ORDER BY id LIMIT ?",
            (after, _IMAGES),
        )
        features, vectors, words = store.features_log(), store.vectors_log(), store.words_log()
    return [
        (
            image,
            origin,
            (
                at is None
                or local is None
                or features.matches(at, record_length(count, local.dimension, local.stored, local.colours), crc)
            )
            and (vector_at is None or vectors.matches(vector_at, 4 * dimensions, vector_crc))
            and (words_at is None or words.matches(words_at, 4 * count, words_crc)),
        )
        for image, origin, at, count, crc, vector_at, vector_crc, words_at, words_crc in rows
    ]


def _region_problems(store: Store) -> list[str]:
    """Images of the collection whose regions are not what was written."""
    recipe = store.recipe
    if recipe.global_ is None:
        return []
    found = []
    for levels in recipe.region_levels:
        log = RegionLog(store.folder, levels, sum(recipe.global_.lengths))
        for image in log.damaged().tolist():
            for (origin,) in store.catalogue.rows("SELECT origin FROM images WHERE id = ?", (image,)):
                found.append(f"id:{image} {origin}: its regions are damaged; remove it and index it again")
    return found


def _index_problems(store: Store) -> list[str]:
    """Damage of the learned parts and the segments, unless a writer has replaced them meanwhile."""
    found = []
    try:
        hash_function(store)
    except ResightError as error:
        found.append(str(error))
    generation = store.generation
    try:
        if generation:
            store.learned(generation)
    except ResightError as error:
        if store.generation == generation:
            found.append(str(error))
    for name, postings, crc in store.catalogue.rows("SELECT name, postings, crc FROM segments"):
        sound = _is_sound(store.folder / name, postings, crc)
        if not sound and store.catalogue.rows("SELECT 1 FROM segments WHERE name = ?", (name,)):
            found.append(f"{store.folder / name}: is damaged; `resight refit` rebuilds it")
    facts = store.catalogue.get("index")
    sound = facts is None or _index_is_sound(store.folder / facts["folder"], facts["crc"])
    if facts is not None and not sound and store.catalogue.get("index") == facts:
        found.append(f"{store.folder / facts['folder']}: is damaged; `resight tune` builds it anew")
    return found


def _index_is_sound(folder: Path, crc: int) -> bool:
    try:
        return index_crc(folder) == crc
    except OSError:
        return False


def _is_sound(folder: Path, postings: int, crc: int) -> bool:
    try:
        return len(Segment.open(folder)) == postings and segment_crc(folder) == crc
    except (ResightError, OSError):
        return False
