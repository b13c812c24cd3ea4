"""Is what the catalogue promises really in the files? (`resight verify`)"""

from collections.abc import Callable

from resight.describe.describer import DESCRIPTOR_DIMENSION
from resight.embedding.codebook import Codebook
from resight.errors import ResightError
from resight.store.indexing import Progress
from resight.store.inverted import Segment, segment_crc
from resight.store.records import record_length
from resight.store.store import Store


def problems(store: Store, report: Callable[[Progress], None]) -> list[str]:
    """Every record's, segment's and codebook's damage, in words; empty if there is none."""
    found = [
        f"{store.folder}/catalogue.sqlite: {line}"
        for (line,) in store.catalogue.rows("PRAGMA integrity_check")
        if line != "ok"
    ]
    features, vectors, words = store.features_log(), store.vectors_log(), store.words_log()
    dimensions = store.recipe.global_.dimensions if store.recipe.global_ is not None else 0
    total = store.catalogue.rows("SELECT count(*) FROM images")[0][0]
    rows = store.catalogue.each(
        "SELECT id, origin, features_at, features, features_crc, vector_at, vector_crc, words_at, words_crc"
        " FROM images ORDER BY id"
    )
    for done, (image, origin, at, count, crc, vector_at, vector_crc, words_at, words_crc) in enumerate(
        rows, 1
    ):
        sound = (
            (at is None or features.matches(at, record_length(count, DESCRIPTOR_DIMENSION), crc))
            and (vector_at is None or vectors.matches(vector_at, 4 * dimensions, vector_crc))
            and (words_at is None or words.matches(words_at, 4 * count, words_crc))
        )
        if not sound:
            found.append(f"id:{image} {origin}: its description is damaged; remove it and index it again")
        if done % 256 == 0 or done == total:
            report(Progress("verifying", done, total))
    return found + _index_problems(store)


def _index_problems(store: Store) -> list[str]:
    found = []
    try:
        if store.generation:
            Codebook.load(store.codebook_path(store.generation))
    except ResightError as error:
        found.append(f"{error}; `resight refit` learns a new one")
    for name, postings, crc in store.catalogue.rows("SELECT name, postings, crc FROM segments"):
        folder = store.folder / name
        try:
            segment = Segment.open(folder)
        except ResightError as error:
            found.append(str(error))
            continue
        if len(segment) != postings or segment_crc(folder) != crc:
            found.append(f"{folder}: is damaged; `resight refit` rebuilds it")
    return found
