"""Indexing on a cluster: the nodes describe and keep, one process keeps the catalogue that one machine would have.

The catalogue decides what is new, changed, moved or gone and gives the ids, by the code that does it on one machine;
so ids are the same. It is worked on in a copy and published with the rest: an interrupted run changes nothing, and
its chunks are found again by the next.
"""

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from resight.cluster import chunks
from resight.cluster.describing import Describing, Place
from resight.cluster.engine import connect, in_order
from resight.cluster.files import Files
from resight.cluster.fitting import sample_over, vectors_over
from resight.cluster.manifest import Learned, Manifest, Words, publish, read_manifest, shard_of
from resight.cluster.shards import Member, build_shard, shard_name
from resight.describe.describer import Describer
from resight.errors import CollectionError
from resight.recipes.recipe import Recipe, load_recipe
from resight.store import indexing
from resight.store.catalogue import FILE
from resight.store.hash_codes import learn_function
from resight.store.indexing import AddReport, LearnedWords, Progress
from resight.store.store import Store

SHARDS = 8
_CHUNK = 64
_SECONDS_A_FILE = 120.0


def index(
    place: str | Path,
    paths: Iterable[str | Path],
    *,
    cluster: str,
    recipe: Recipe | None = None,
    shards: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    chunk: int = _CHUNK,
    timeout: float = _SECONDS_A_FILE,
) -> AddReport:
    """Make a collection in shards, or bring one up to date with photos that all nodes see under the same paths.

    place: a folder that all nodes see, or an fsspec URL. recipe: of a new collection, rootsift-asmk by default; else
    it must be the collection's, as `shards` must be their number (by default 8). chunk: photos that a task describes,
    about; for a new collection also how many images in a row share a shard.
    What is noticed is as ``resight.store.indexing.add`` says. Raises CollectionError, also where the recipe asks for
    what cannot be done in shards.
    """
    began = time.monotonic()
    files, report = Files(place), progress or (lambda _: None)
    before = read_manifest(files)
    if before is None and files.exists(FILE):
        raise CollectionError(f"{files.url}: is a collection of one machine; choose another name for one in shards")
    count, together = _shards(files, before, shards), chunk if before is None else before.together
    chosen = _recipe(files, before, recipe)
    check_recipe(chosen)
    connect(cluster)
    describer = Describer(chosen)
    fingerprint = describer.fingerprint
    if before is not None and before.fingerprint != fingerprint:
        raise CollectionError(
            f"{files.url}: was made with other weights or learned parts than recipe {chosen.name} has now, and their "
            "descriptors cannot be compared; restore those files, or index into a new collection"
        )
    describing = Describing(files.url, chosen, fingerprint, size=chunk, timeout=timeout)
    with tempfile.TemporaryDirectory(prefix="resight-") as work:
        folder = Path(work) / "catalogue"
        with _catalogue(files, before, folder, chosen, fingerprint) as store:
            held = _ids(store)
            done = indexing.add(store, describer, paths, progress=report, timeout=timeout, elsewhere=describing)
            members = _members(store, held, describing.places, count, together)
        shard_files = _Shards(files.url, chosen, fingerprint, members, report)
        learned = Learned() if before is None else before.learned
        names = shard_files.build(learned, () if before is None else before.shards)
        if (more := _learn(files, chosen, fingerprint, learned, names, report)) != learned:
            learned, names = more, shard_files.build(more, names)
        data = (folder / FILE).read_bytes()
    manifest = Manifest(
        version=1 if before is None else before.version + 1,
        recipe=chosen,
        fingerprint=fingerprint,
        catalogue=f"catalogues/{hashlib.sha256(data).hexdigest()[:32]}.sqlite",
        learned=learned,
        shards=names,
        images=tuple(map(len, members)),
        together=together,
        previous=() if before is None else before.shards,
    )
    files.write(manifest.catalogue, data)
    publish(files, manifest)
    _sweep(files, manifest)
    return replace(done, seconds=time.monotonic() - began)


def check_recipe(recipe: Recipe) -> None:
    """CollectionError for a recipe that looks at all images at once, which lie on many machines, or has [adapters]."""
    if recipe.rerank:
        raise CollectionError(
            f"recipe {recipe.name} has [[rerank]], which looks at all images together and is not done in shards; "
            "choose a recipe without it, or index on one machine"
        )
    if recipe.adapters is not None:
        raise CollectionError(
            f"recipe {recipe.name} has [adapters], which is not done in shards: index on one machine, or take the "
            "table out of the recipe"
        )


class _Shards:
    """Builds the shards of a run. members: of each."""

    def __init__(
        self,
        url: str,
        recipe: Recipe,
        fingerprint: str,
        members: Sequence[Sequence[Member]],
        report: Callable[[Progress], None],
    ) -> None:
        self._common = url, recipe, fingerprint
        self._members, self._report = members, report

    def build(self, learned: Learned, before: Sequence[str]) -> tuple[str, ...]:
        """Their names, once all are there, encoded with what was learned. before: shards that hold older images."""
        _, recipe, fingerprint = self._common
        names = [shard_name(n, members, learned, recipe, fingerprint) for n, members in enumerate(self._members)]
        old = [before[number] if before else None for number in range(len(names))]
        arguments = (
            (*self._common, name, members, learned, earlier)
            for name, members, earlier in zip(names, self._members, old, strict=True)
        )
        self._report(Progress("building shards", 0, len(names)))
        with closing(in_order(build_shard, arguments)) as built:
            for done, _ in enumerate(built, 1):
                self._report(Progress("building shards", done, len(names)))
        return tuple(names)


def _shards(files: Files, before: Manifest | None, wanted: int | None) -> int:
    if before is None:
        return SHARDS if wanted is None else wanted
    if wanted not in (None, len(before.shards)):
        raise CollectionError(
            f"{files.url}: has {len(before.shards)} shards, which stays so; leave --shards out, or index into another"
        )
    return len(before.shards)


def _recipe(files: Files, before: Manifest | None, wanted: Recipe | None) -> Recipe:
    if before is None:
        return wanted or load_recipe("rootsift-asmk")
    if wanted not in (None, before.recipe):
        raise CollectionError(
            f"{files.url}: was made with recipe {before.recipe.name}, and {wanted.name if wanted else ''} as named "
            "differs: to add to this one name none (RESIGHT_RECIPE, RESIGHT_WEIGHTS)"
        )
    return before.recipe


def _catalogue(files: Files, before: Manifest | None, folder: Path, recipe: Recipe, fingerprint: str) -> Store:
    """A working copy of the catalogue of all images."""
    if before is None:
        return Store.create(folder, recipe, fingerprint)
    files.get(before.catalogue, folder / FILE)
    return Store(folder, write=True)


def _ids(store: Store) -> frozenset[int]:
    return frozenset(row[0] for row in store.catalogue.rows("SELECT id FROM images"))


def _members(
    store: Store, held: frozenset[int], places: dict[str, Place], shards: int, together: int
) -> list[list[Member]]:
    """The images of each shard, by ascending id. held: ids of those that lie in the shards there were."""
    members: list[list[Member]] = [[] for _ in range(shards)]
    for image, origin, digest, size, modified in store.catalogue.each(
        "SELECT id, origin, digest, bytes, modified_ns FROM images WHERE id > ? ORDER BY id LIMIT ?", 0
    ):
        place = None if image in held else places[origin]
        chunk, row = (None, 0) if place is None else (place.chunk, place.row)
        member = Member(image, origin, digest, size, modified, chunk, row)
        members[shard_of(image, shards, together)].append(member)
    return members


def _learn(
    files: Files,
    recipe: Recipe,
    fingerprint: str,
    learned: Learned,
    shards: Sequence[str],
    report: Callable[[Progress], None],
) -> Learned:
    """With what the recipe needs and the collection has not learned yet, as far as its images are enough for it."""
    if learned.words is None and recipe.codebook is not None:
        found = indexing.learn_words(recipe, lambda seed: sample_over(files.url, recipe, shards, seed), report)
        if found is not None:
            learned = replace(learned, words=_put_words(files, found))
    if learned.hash is None and recipe.hash is not None:
        function = learn_function(
            recipe, fingerprint, lambda count, seed: vectors_over(files.url, recipe, shards, count, seed), report
        )
        if function is not None:
            learned = replace(learned, hash=_put(files, function.save))
    return learned


def _put_words(files: Files, found: LearnedWords) -> Words:
    signer = None if found.signer is None else _put(files, found.signer.save)
    return Words(_put(files, found.codebook.save), signer, found.facts)


def _put(files: Files, save: Callable[[Path], object]) -> str:
    """Keep a learned thing under a name that its content gives it."""
    with tempfile.TemporaryDirectory(prefix="resight-") as work:
        path = Path(work) / "learned.safetensors"
        save(path)
        name = f"learned/{hashlib.sha256(path.read_bytes()).hexdigest()[:32]}.safetensors"
        files.put(path, name)
    return name


def _sweep(files: Files, manifest: Manifest) -> None:
    """Delete what no search needs any more."""
    for folder in ("catalogues", "learned", "shards", chunks.FOLDER):
        for name in files.names(folder):
            if name not in manifest.files:
                files.remove(name)
