"""The manifest of a collection in shards: which files are its present state. It changes in one step, and last."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from resight.cluster.files import Files
from resight.errors import CollectionError
from resight.parsing import parse_json
from resight.recipes.recipe import Recipe

FILE = "manifest.json"
_FORMAT = 1


@dataclass(frozen=True)
class Words:
    """The files of a codebook and, with [hamming], its signer; facts: as a collection records them."""

    codebook: str
    signer: str | None
    facts: dict[str, Any]


@dataclass(frozen=True)
class Learned:
    """What a collection has learned from its images, or was given: words, and the file of what [hash] hashes by."""

    words: Words | None = None
    hash: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """All of them."""
        words = () if self.words is None else (self.words.codebook, self.words.signer)
        return tuple(filter(None, (*words, self.hash)))


@dataclass(frozen=True)
class Manifest:
    """A state of a collection in shards, by names of files.

    version: counts the states. catalogue: of all images. shards: by number; ``shard_of`` says what each holds. images:
    how many that is. together: ids in a row that share a shard. previous: shards of the state before, which may still
    be searched.
    """

    version: int
    recipe: Recipe
    fingerprint: str
    catalogue: str
    learned: Learned
    shards: tuple[str, ...]
    images: tuple[int, ...]
    together: int
    previous: tuple[str, ...] = ()

    def to_json(self) -> str:
        """What ``from_json`` reads."""
        table = asdict(self) | {"format": _FORMAT, "recipe": json.loads(self.recipe.model_dump_json(by_alias=True))}
        return json.dumps(table, indent=1)

    @classmethod
    def from_json(cls, text: bytes | str, name: str) -> Self:
        """Raises CollectionError, naming the file, for anything that ``to_json`` did not write."""
        try:
            table = dict(parse_json(text))
            if (found := table.pop("format")) != _FORMAT:
                raise CollectionError(f"{name}: has format {found}, this resight reads {_FORMAT}; index it anew")
            if unknown := table.keys() - {field.name for field in fields(cls)}:
                raise ValueError(f"it has {', '.join(sorted(unknown))}, which is not known")
            manifest = TypeAdapter(cls).validate_python(table)
            manifest._check()
        except (ValueError, TypeError, KeyError, ValidationError) as error:
            raise CollectionError(f"{name}: is damaged ({error}); restore a copy or index anew") from error
        return manifest

    def _check(self) -> None:
        """Raises ValueError where its parts contradict each other, or it names files outside the collection."""
        if len(self.shards) != len(self.images) or self.together < 1 or min(self.images, default=0) < 0:
            raise ValueError("its shards, and how many images they hold, do not fit each other")
        if strange := [name for name in self.files if name.startswith("/") or {"", ".", ".."} & set(name.split("/"))]:
            raise ValueError(f"{strange[0]!r} is no file of a collection")

    @property
    def files(self) -> frozenset[str]:
        """All that this state consists of, and the shards of the one before."""
        shards = (*self.shards, *self.previous)
        return frozenset((self.catalogue, *self.learned.files, *shards, *map(holders_name, shards)))


_Ids = TypeVar("_Ids", int, NDArray[np.int64])


def shard_of(image: _Ids, shards: int, together: int) -> _Ids:
    """Which of so many shards holds an image, by its id; or each of several.

    Neighbours share one, since they share a chunk too: so a chunk is read for one or two shards.
    """
    return (image - 1) // together % shards


def holders_name(shard: str) -> str:
    """The file beside a shard that says how many of its images have each word, where a filter weighs words by that."""
    return shard.removesuffix(".tar") + ".holders"


def read_manifest(files: Files) -> Manifest | None:
    """The present state, or None where there is no collection yet."""
    if not files.exists(FILE):
        return None
    return Manifest.from_json(files.read(FILE), f"{files.url}/{FILE}")


def existing_manifest(files: Files) -> Manifest:
    """The present state; CollectionError where there is no collection."""
    manifest = read_manifest(files)
    if manifest is None:
        raise CollectionError(
            f"{files.url}: no collection in shards here; make one with `resight index PHOTOS --into {files.url} "
            "--cluster ADDRESS`"
        )
    return manifest


def publish(files: Files, manifest: Manifest) -> None:
    """Make this the present state; CollectionError where another writer has changed it meanwhile.

    A store cannot be locked, so two who publish at the same moment are not told apart: one writes at a time.
    """
    before = read_manifest(files)
    if (0 if before is None else before.version) != manifest.version - 1:
        raise CollectionError(
            f"{files.url}: another process has written to it meanwhile; what this one described is kept, so run the "
            "same command again, and one at a time"
        )
    files.write(FILE, manifest.to_json().encode())
