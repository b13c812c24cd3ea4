"""What is known of a published set: its size, protocols, licence, and where its files are."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from resight.evaluation.labelled import LabelledSet

Loader = Callable[[Path, str, bool], LabelledSet]
"""Folder, protocol, whether a set that is not whole is let through → the set."""


@dataclass(frozen=True)
class File:
    """A file with a public address.

    into: its name, or the folder that its archive is unpacked into, below the set's; ``unpack`` says which.
    sha256: as published, in hex; "" where none was. sums: address of a text that has the file's md5 or sha256, first in
        the line of its name, or alone.
    """

    address: str
    into: str
    unpack: bool = False
    sha256: str = ""
    sums: str = ""

    @property
    def name(self) -> str:
        return self.address.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Dataset:
    """A published set.

    images: of the database, distractors included; 0 where there is no fixed number. queries: 0 likewise.
    protocols: first the usual one. size: of its archives, roughly, as text.
    source: the paper. address: its page. licence: what the publisher says of use, in short.
    files: with a public address. by_hand: what to fetch otherwise, a sentence each.
    """

    name: str
    images: int
    queries: int
    protocols: tuple[str, ...]
    size: str
    source: str
    address: str
    licence: str
    load: Loader
    files: tuple[File, ...] = ()
    by_hand: tuple[str, ...] = ()
