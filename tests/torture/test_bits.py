"""A flipped bit anywhere in a collection: found by verify and mended by repair, or without any effect."""

import os
import random
import shutil
from pathlib import Path

import pytest
from broken_works import known, searched, works

from resight.errors import CollectionError
from resight.search.collection import Collection

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture(scope="module")
def whole(tiny, album, tmp_path_factory, here) -> Path:
    path = tmp_path_factory.mktemp("bits") / "c"
    for name in ("index", "add", "upgrade", "facts"):
        works(tiny)[name].do(path, album, lambda line: None)
    return path


def flip(path: Path, at: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))


def everything(path: Path, album: Path) -> tuple:
    return searched(path, album), known(path, album)


def outcome(path: Path, album: Path, expected: tuple) -> str:
    """What became of a damage, in a word; AssertionError where it changed an answer and nothing said so."""
    try:
        with Collection.open(path) as collection:
            damaged = collection.verify()
        if not damaged:
            assert everything(path, album) == expected
            return "without effect"
        with Collection.open(path, write=True) as collection:
            done = collection.repair()
        assert not done.left, done
        if done.lost:
            assert all(line for line in done.lost)
            return "found, and what could not be kept named"
        assert everything(path, album) == expected
        return "found and mended"
    except CollectionError as error:
        assert str(path) in str(error) and ("index" in str(error) or "restore" in str(error))
        return "refused, and said what to do"


def trials(whole: Path, album: Path, folder: Path, seed: int, each: int, only: str = "") -> dict[str, int]:
    """So many bits of each file, flipped one at a time."""
    expected, rng, counts = everything(whole, album), random.Random(seed), {}
    files = sorted(p.relative_to(whole) for p in whole.rglob(f"*{only}") if p.is_file() and p.stat().st_size)
    for file in files:
        for k in range(each * (10 if file.suffix == ".sqlite" else 1)):
            path = shutil.copytree(whole, folder / f"{file.name}-{k}")
            flip(path / file, rng.randrange((whole / file).stat().st_size), rng.randrange(8))
            result = outcome(path, album, expected)
            result += ", of the catalogue" if file.suffix == ".sqlite" else ""
            counts[result] = counts.get(result, 0) + 1
            shutil.rmtree(path)
    return counts


def test_a_bit_of_each_kind_of_file(whole, album, tmp_path):
    counts = trials(whole, album, tmp_path, 1, 1, "log")
    assert counts == {"found and mended": 2}


@pytest.mark.torture
def test_bits_of_every_file(whole, album, tmp_path, count):
    counts = trials(whole, album, tmp_path, 2, 12)
    told = ", ".join(f"{number} {what}" for what, number in sorted(counts.items()))
    count(f"{sum(counts.values())} bits flipped one at a time: {told}")
    assert counts["found and mended"] > sum(counts.values()) / 3


def test_what_is_lost_with_its_photo_is_named_and_the_rest_mended(whole, album, tmp_path):
    """The log is cut off, and two of the photos are gone."""
    path = shutil.copytree(whole, tmp_path / "c")
    expected = everything(whole, album)
    (log,) = path.rglob("features.log")
    os.truncate(log, log.stat().st_size // 3)
    away = [album / "more" / name for name in ("coffee-3.png", "rocket-3.png")]
    for photo in away:
        photo.rename(tmp_path / photo.name)
    try:
        with Collection.open(path, write=True) as collection:
            done = collection.repair()
            left = collection.verify()
            assert list(done.left) == left and len(left) == 2 and len(done.mended) >= 8
            assert all(str(photo) in " ".join(left) for photo in away)
    finally:
        for photo in away:
            (tmp_path / photo.name).rename(photo)
    with Collection.open(path, write=True) as collection:
        assert collection.repair().left == ()
    assert everything(path, album) == expected
