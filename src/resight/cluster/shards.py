"""Shards: ordinary collections, each of a part of the images, which lie in the store as one tar file each.

A shard's name says what is in it, so one that is there need not be made again, and a name never changes its meaning.
"""

import hashlib
import json
import shutil
import tarfile
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from resight.cluster.chunks import Chunk
from resight.cluster.files import Files, local_copies
from resight.cluster.manifest import Learned, Words, holders_name
from resight.describe.description import Description
from resight.embedding.codebook import Codebook
from resight.errors import CollectionError
from resight.hashing.function import HashFunction
from resight.images.archives import ARCHIVE_ERRORS
from resight.local.hamming_filter import Signer
from resight.recipes.recipe import Recipe
from resight.search.filters import word_holders
from resight.store.catalogue import FILE
from resight.store.hash_codes import refresh_codes, set_function
from resight.store.schema import FORMAT
from resight.store.store import New, Store
from resight.store.word_filters import word_filter

_BATCH = 64  # images that are stored together


@dataclass(frozen=True)
class Member:
    """An image of a shard. chunk: the file that its description lies in, and its row there; None: the shard before."""

    id: int
    origin: str
    digest: str
    bytes: int
    modified_ns: int
    chunk: str | None
    row: int


def shard_name(number: int, members: Sequence[Member], learned: Learned, recipe: Recipe, fingerprint: str) -> str:
    """The file of a shard with these images, encoded with what was learned. fingerprint: of recipe and weights."""
    facts = [astuple(member)[:5] for member in members]
    text = json.dumps([FORMAT, fingerprint, recipe.model_dump_json(by_alias=True), facts, learned.files])
    return f"shards/{number:04}-{hashlib.sha256(text.encode()).hexdigest()[:32]}.tar"


def build_shard(
    url: str,
    recipe: Recipe,
    fingerprint: str,
    name: str,
    members: Sequence[Member],
    learned: Learned,
    before: str | None,
) -> None:
    """Put a shard together from chunks and the shard `before` it, unless it is there. members: by ascending id.

    Runs on a node.
    """
    files = Files(url)
    if files.exists(name):
        return
    with tempfile.TemporaryDirectory(prefix="resight-") as work:
        folder = Path(work) / "shard"
        with Store.create(folder, recipe, fingerprint) as store:
            codebook = None
            if (words := learned.words) is not None:
                codebook, signer = fetch_words(files, words)
                store.start_generation(codebook, words.facts, signer)
            for part in _batches(_described(files, recipe, members, before)):
                store.add(part, [], codebook)
            if codebook is not None:
                _put_holders(files, name, store)
            if learned.hash is not None:
                set_function(store, HashFunction.load(fetched(files, learned.hash)))
                refresh_codes(store, lambda _: None)
        archive = Path(work) / "shard.tar"
        with tarfile.open(archive, "w") as tar:
            for path in sorted(folder.rglob("*")):
                if path.is_file() and path.name != "lock":
                    tar.add(path, path.relative_to(folder).as_posix())
        files.put(archive, name)


def fetch_shard(files: Files, name: str) -> Path:
    """This machine's copy of a shard, as a collection's folder; it is made if there is none."""
    folder = local_copies(files.url) / name.removesuffix(".tar")
    if (folder / FILE).is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f"{folder.name}.part-{uuid.uuid4().hex}")
    archive = part.with_suffix(".tar")
    try:
        files.get(name, archive)
        with tarfile.open(archive) as tar:
            tar.extractall(part, filter="data")
        if not folder.exists():
            part.rename(folder)
        _forget_others(folder)
    except OSError as error:
        if not (folder / FILE).is_file():  # another process was first
            raise CollectionError(f"{folder}: cannot be written: {error.strerror or error}") from error
    except ARCHIVE_ERRORS as error:
        raise CollectionError(f"{files.url}/{name}: is damaged ({error}); restore a copy or index anew") from error
    finally:
        archive.unlink(missing_ok=True)
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _forget_others(folder: Path) -> None:
    """Delete copies of what a shard was before; who has one open goes on reading it."""
    number = folder.name.split("-")[0]
    for other in folder.parent.glob(f"{number}-*"):
        if other != folder and ".part-" not in other.name:
            shutil.rmtree(other, ignore_errors=True)


def fetch_words(files: Files, words: Words) -> tuple[Codebook, Signer | None]:
    """A collection's codebook, and its signer where it has one, from this machine's copies."""
    codebook = Codebook.load(fetched(files, words.codebook))
    return codebook, None if words.signer is None else Signer.load(fetched(files, words.signer), codebook)


def fetched(files: Files, name: str) -> Path:
    """This machine's copy of a file whose name never changes its meaning."""
    path = local_copies(files.url) / name
    if not path.is_file():
        files.get(name, path)
    return path


def fetched_catalogue(files: Files, name: str) -> Path:
    """This machine's copy of a catalogue of all images, as the folder of a collection without descriptors."""
    folder = local_copies(files.url) / name.removesuffix(".sqlite")
    if not (folder / FILE).is_file():
        files.get(name, folder / FILE)
    return folder


@contextmanager
def opened(files: Files, name: str) -> Iterator[Store]:
    """This machine's copy of a shard, to read."""
    with Store(fetch_shard(files, name), write=False) as store:
        yield store


def word_holders_of(files: Files, shards: Sequence[str]) -> NDArray[np.int64]:
    """How many images of several shards have each word; (W,). They are of a filter that weighs words by that."""
    counts = [load(files.read(holders_name(name)))["holders"] for name in shards]
    total: NDArray[np.int64] = np.sum(counts, axis=0, dtype=np.int64)
    return total


def _put_holders(files: Files, name: str, store: Store) -> None:
    snapshot = store.snapshot()
    if snapshot.codebook is None:
        return
    measure = word_filter(store.recipe, snapshot.codebook, snapshot.signer)
    if measure.idf:
        files.write(holders_name(name), save({"holders": word_holders(snapshot, measure)}))


def _described(files: Files, recipe: Recipe, members: Sequence[Member], before: str | None) -> Iterator[New]:
    """Members in their order; a chunk, which lie in a row, is read once."""
    for chunk_file, group in groupby(members, lambda member: member.chunk):
        if chunk_file is not None:
            chunk = Chunk(files.read(chunk_file), f"{files.url}/{chunk_file}", recipe)
            for member in group:
                yield _new(member, chunk.description(member.row))
            continue
        if before is None:
            raise ValueError("members of a shard before, and none is named")
        with opened(files, before) as store:
            for member in group:
                yield _new(member, stored_description(store, member.id))


def stored_description(store: Store, image: int) -> Description:
    """Of an image of a shard, by its id; CollectionError where the shard lacks it."""
    try:
        return store.description(image)
    except KeyError:
        raise CollectionError(
            f"{store.folder}: lacks the image id:{image}; delete this folder, which is a copy"
        ) from None


def _new(member: Member, description: Description) -> New:
    return New(member.origin, member.digest, member.bytes, member.modified_ns, description, id=member.id)


def _batches(items: Iterator[New]) -> Iterator[list[New]]:
    batch: list[New] = []
    for item in items:
        batch.append(item)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
