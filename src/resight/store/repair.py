"""Making damaged parts of a collection again, from its photos and from what is sound (`resight repair`).

Checksums say what is damaged, and whether what was made again is what was there: then it is put back in its place and
nothing else changes. A photo that has changed, or that today's libraries describe otherwise, becomes a new image; one
that is gone leaves its image as it is, and named. What is taken out, such as a fact that somebody gave, is named too.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from resight.describe.describer import Describer
from resight.describe.description import Description
from resight.errors import CollectionError
from resight.images.sources import Source
from resight.store import indexing, metadata
from resight.store.check import Damage, damages, region_logs
from resight.store.code_log import CodeLog
from resight.store.hash_codes import hash_function, refresh_codes
from resight.store.log import rewrite
from resight.store.records import pack_features
from resight.store.schema import crc_of
from resight.store.store import FEATURES, VECTORS, New, Store, read_features
from resight.store.vector_index import IndexChoice
from resight.store.vector_indexing import build_index
from resight.store.workers import Outcome

_TOGETHER = 64  # images whose words are assigned in one go, as they were at first


@dataclass(frozen=True)
class RepairReport:
    """In words. mended: what is as it should be again. lost: what could not be kept. left: what is still damaged."""

    mended: tuple[str, ...]
    lost: tuple[str, ...]
    left: tuple[str, ...]


def repair(store: Store, describer: Describer, report: indexing.Reporter, finish: Callable[[], None]) -> RepairReport:
    """Make again what can be made again. An interrupted repair is gone on with by another.

    finish: makes what codes, regions and the index lack, as after indexing. Raises CollectionError where the catalogue
    itself is beyond mending, and OSError where the disk is full.
    """
    found = damages(store, report)
    if not found:
        return RepairReport((), (), ())
    parts = {damage.part for damage in found}
    _lengthen(store)
    lost = _mend_rows(store, found)
    lost += _describe_again(store, describer, found, report)
    if "learned" in parts:
        stage = store.recipe.codebook
        indexing.learn_codebook(store, report, again=stage is None or not stage.path)
        lost.append("the codebook was learned again, from the images there are now")
    elif "segment" in parts or ("words" in parts and not _assign_again(store, found)):
        codebook, signer = store.learned(store.generation)
        store.start_generation(codebook, store.catalogue.get("codebook"), signer)
    if store.needs_codebook:
        indexing.finish_codebook(store, report)
    if "hash" in parts:
        refresh_codes(store, report, again=True)
        lost.append("the hash function was learned again, from the images there are now")
    elif "codes" in parts and (function := hash_function(store)) is not None:
        CodeLog(store.data, function.fingerprint, function.bits).path.unlink()
    if "index" in parts and (facts := store.catalogue.get("index")) is not None:
        index = build_index(store, store.snapshot(index=False), IndexChoice(**facts["choice"]))
        store.set_index(index, int(facts["trained_on"]))
    if "regions" in parts:
        for log in region_logs(store):
            log.drop(log.damaged())
    finish()
    left = [damage.text for damage in damages(store, report)]
    return RepairReport(tuple(d.text for d in found if d.text not in left), tuple(lost), tuple(left))


def _lengthen(store: Store) -> None:
    """Give logs that were cut off their length back, so that new records go where the catalogue expects them."""
    for name, end in ((FEATURES, "features_end"), (VECTORS, "vectors_end")):
        path, wanted = store.data / name, int(store.catalogue.get(end) or 0)
        path.touch()
        if path.stat().st_size < wanted:
            os.truncate(path, wanted)


def _mend_rows(store: Store, found: Sequence[Damage]) -> list[str]:
    """SQLite's indexes made again, and damaged rows taken out but for images', which wait for their photos."""
    lost = []
    if any(damage.part == "structure" for damage in found):
        with store.catalogue.transaction() as db:
            db.execute("REINDEX")
        if lines := [line for (line,) in store.catalogue.rows("PRAGMA integrity_check") if line != "ok"]:
            raise CollectionError(
                f"{store.folder}: {lines[0]}; this cannot be mended. Restore a copy, or index its photos anew: "
                f"`{store.catalogue.indexing_anew(store.folder)}`"
            )
    for table in sorted({damage.table for damage in found if damage.part == "row"} - {"images", "meta"}):
        gone = [", ".join(map(str, key)) for key in store.catalogue.damaged(table)]
        with store.catalogue.transaction() as db:
            db.execute(f"DELETE FROM {table} WHERE row_crc IS NOT {crc_of(table)}")
            if table == "near_duplicates":
                db.execute("DELETE FROM duplicates_compared")  # so that they are looked for again
        if table in ("metadata", "duplicate_decisions"):
            lost += [f"{table}: {key} was damaged and is taken out; if somebody gave it, give it again" for key in gone]
    return lost


def _describe_again(
    store: Store, describer: Describer, found: Sequence[Damage], report: indexing.Reporter
) -> list[str]:
    """Images whose description, row or facts are damaged, from their photos; what is not as it was, in words."""
    rows = {damage.image for damage in found if damage.table == "images"}
    records = {damage.image for damage in found if damage.part == "description"}
    facts = {damage.image for damage in found if damage.table == "metadata"}
    wanted = sorted(image for image in rows | records | facts if image is not None)
    # One by one, as there may be more of them than a query of SQLite's has room for.
    sql = "SELECT id, CAST(origin AS BLOB), CAST(digest AS BLOB) FROM images WHERE id = ?"
    stored = [row for image in wanted for row in store.catalogue.rows(sql, (image,))]
    if not stored:
        return []
    # Without their stamps, which may be damaged too; the next indexing compares the content.
    sources = [Source(origin.decode(errors="backslashreplace"), 0, 0) for _, origin, _ in stored]
    words = not any(damage.part == "learned" for damage in found) and store.generation
    codebook, lost = store.learned(store.generation)[0] if words else None, []
    outcomes = indexing.outcomes_of(describer, sources, frozenset(), 1, indexing.SECONDS_A_FILE)
    with closing(outcomes), closing(indexing.described(describer, outcomes)) as again:
        for done, ((image, _, digest), (outcome, vector)) in enumerate(zip(stored, again, strict=True)):
            report(indexing.Progress("describing again", done, len(stored)))
            origin = outcome.source.origin
            if outcome.size is None:
                if image in rows:
                    store.remove([image])
                    lost.append(f"id:{image} {origin}: is taken out, since its row was damaged and its photo cannot be "
                                f"read ({outcome.reason}); index its photos again")  # fmt: skip
                continue
            if image not in rows and outcome.digest.encode() == digest and _put_back(store, image, outcome, vector):
                if image in facts:
                    with store.catalogue.transaction() as db:
                        metadata.describe(db, image, outcome.metadata, ())
            elif image in rows | records:
                description = Description(outcome.size, vector, outcome.local)
                store.add([New(origin, outcome.digest, 0, 0, description, outcome.metadata)], [], codebook)
                lost.append(f"id:{image} {origin}: is described anew, under another id")
    return lost


def _put_back(store: Store, image: int, outcome: Outcome, vector: NDArray[np.float32] | None) -> bool:
    """Write an image's records where they lie, if they are those that the catalogue has the checksums of."""
    ((at, crc, vector_at, vector_crc),) = store.catalogue.rows(
        "SELECT features_at, features_crc, vector_at, vector_crc FROM images WHERE id = ?", (image,)
    )
    features = None if outcome.local is None else pack_features(outcome.local)
    values = None if vector is None else vector.astype("<f4").tobytes()
    # Of an image without local features the record is empty, and there.
    if tuple(None if record is None else crc32(record) for record in (features, values)) != (crc, vector_crc):
        return False
    for name, place, record in ((FEATURES, at, features), (VECTORS, vector_at, values)):
        if record:
            rewrite(store.data / name, [(place, record)])
    return True


def _assign_again(store: Store, found: Sequence[Damage]) -> bool:
    """Put the words of images back in their place; False where they are not those that were there."""
    wanted = [damage.image for damage in found if damage.part == "words"]
    codebook, _ = store.learned(store.generation)
    log, records = store.features_log(), []
    for image in wanted:
        ((at, count, words_at, crc),) = store.catalogue.rows(
            "SELECT features_at, features, words_at, words_crc FROM images WHERE id = ?", (image,)
        )
        features = read_features(log, at, count, store.recipe.local)
        record = codebook.assign(features.descriptors.astype(np.float32))[:, 0].astype("<i4").tobytes()
        if crc32(record) != crc:
            return False
        records.append((words_at, record))
    rewrite(store.words_path(store.generation), records)
    return True
