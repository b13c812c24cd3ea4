"""Is what the catalogue promises really in the files? (`resight verify`)"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from resight.errors import ResightError
from resight.store.catalogue import FILE
from resight.store.code_log import CodeLog
from resight.store.hash_codes import hash_function
from resight.store.indexing import Progress
from resight.store.inverted import Segment, segment_crc
from resight.store.region_log import RegionLog
from resight.store.schema import CHECKED
from resight.store.store import DESCRIPTION, Store, description_is_sound
from resight.store.vector_index import index_crc

_IMAGES = 256  # checked between two reports

Part = Literal["structure", "row", "description", "words", "regions", "learned", "segment", "hash", "codes", "index"]


@dataclass(frozen=True)
class Damage:
    """text: what is damaged, and what helps. table, image: whose row or record it is, where it is of one."""

    part: Part
    text: str
    table: str = ""
    image: int | None = None


def problems(store: Store, report: Callable[[Progress], None]) -> list[str]:
    """Every row's, record's, segment's and learned part's damage, in words; empty if there is none."""
    return [damage.text for damage in damages(store, report)]


def damages(store: Store, report: Callable[[Progress], None]) -> list[Damage]:
    """As ``problems``, for who mends it."""
    path = store.folder / FILE
    lines = [line for (line,) in store.catalogue.rows("PRAGMA integrity_check") if line != "ok"]
    rows = _row_damages(store)
    found = [Damage("structure", f"{path}: {line}") for line in lines] + rows
    total = store.catalogue.images
    done = last = 0
    known = {damage.image for damage in rows if damage.table == "images"}
    while page := _page(store, last):
        found += [damage for image, damage in page if damage is not None and image not in known]
        last, done = page[-1][0], done + len(page)
        report(Progress("verifying", done, total))
    return found + _region_damages(store) + _learned_damages(store) + _index_damages(store)


def _row_damages(store: Store) -> list[Damage]:
    """Rows of the catalogue that are not what was written. Those of ``meta`` let no collection be opened."""
    found = []
    for table in CHECKED:
        for key in store.catalogue.damaged(table):
            where = f"{store.folder / FILE}: its row {', '.join(map(str, key))} of {table}"
            image = key[0] if table in ("images", "metadata") and isinstance(key[0], int) else None
            found.append(Damage("row", f"{where} is damaged; `resight repair` mends it", table, image))
    return found


def _page(store: Store, after: int) -> list[tuple[int, Damage | None]]:
    """The next images, and what is damaged of their records.

    Each page is one committed state, so a writer at work neither waits for the check nor confuses it.
    """
    with store.catalogue.snapshot():
        store.check_current()
        rows = store.catalogue.rows(
            f"SELECT id, CAST(origin AS BLOB), {DESCRIPTION}, words_at, words_crc FROM images WHERE id > ?"
            " ORDER BY id LIMIT ?",
            (after, _IMAGES),
        )
        logs = store.features_log(), store.vectors_log(), store.words_log()
    found: list[tuple[int, Damage | None]] = []
    for image, origin, *places in rows:
        where = f"id:{image} {origin.decode(errors='backslashreplace')}"
        damage = None
        if not description_is_sound(store.recipe, *logs[:2], places[:5]):
            text = f"{where}: its description is damaged; `resight repair` makes it again from the photo"
            damage = Damage("description", text, image=image)
        elif places[5] is not None and not logs[2].matches(places[5], 4 * places[1], places[6]):
            text = f"{where}: its visual words are damaged; `resight repair` assigns them again"
            damage = Damage("words", text, image=image)
        found.append((image, damage))
    return found


def _region_damages(store: Store) -> list[Damage]:
    """Images of the collection whose regions are not what was written."""
    found = []
    for log in region_logs(store):
        for image in log.damaged().tolist():
            for (origin,) in store.catalogue.rows("SELECT origin FROM images WHERE id = ?", (image,)):
                text = f"id:{image} {origin}: its regions are damaged; `resight repair` makes them again from the photo"
                found.append(Damage("regions", text, image=image))
    return found


def region_logs(store: Store) -> list[RegionLog]:
    """Of each grid that the recipe has regions of."""
    stage, levels = store.recipe.global_, store.recipe.region_levels
    return [] if stage is None else [RegionLog(store.data, level, sum(stage.lengths)) for level in levels]


def _learned_damages(store: Store) -> list[Damage]:
    """Of the codebook and what goes with it, and the hash function, unless a writer has replaced them meanwhile."""
    found, function = [], None
    try:
        function = hash_function(store)
    except ResightError as error:
        found.append(Damage("hash", str(error)))
    if function is not None:
        log = CodeLog(store.data, function.fingerprint, function.bits)
        if damaged := log.damaged():
            found.append(
                Damage("codes", f"{log.path}: {damaged:,} codes are damaged; `resight repair` makes them again")
            )
    generation = store.generation
    try:
        if generation:
            store.learned(generation)
    except ResightError as error:
        if store.generation == generation:
            found.append(Damage("learned", str(error)))
    return found


def _index_damages(store: Store) -> list[Damage]:
    """Of the segments and the index, unless a writer has replaced them meanwhile."""
    found = []
    for name, postings, crc in store.catalogue.rows("SELECT name, postings, crc FROM segments"):
        sound = _is_sound(store.data / name, postings, crc)
        if not sound and store.catalogue.rows("SELECT 1 FROM segments WHERE name = ?", (name,)):
            found.append(Damage("segment", f"{store.data / name}: is damaged; `resight refit` rebuilds it"))
    facts = store.catalogue.get("index")
    sound = facts is None or _index_is_sound(store.data / facts["folder"], facts["crc"])
    if facts is not None and not sound and store.catalogue.get("index") == facts:
        found.append(Damage("index", f"{store.data / facts['folder']}: is damaged; `resight tune` builds it anew"))
    return found


def _index_is_sound(folder: Path, crc: int) -> bool:
    try:
        return index_crc(folder) == crc
    except OSError:
        return False


def _is_sound(folder: Path, postings: int, crc: int) -> bool:
    try:
        return segment_crc(folder) == crc and len(Segment.open(folder)) == postings
    except (ResightError, OSError):
        return False
