"""What writes a small collection, each a job for ``killing.run``: to be broken off anywhere and done again."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from killing import Tell
from made_vectors import crowded, vector_news, vector_recipe

from resight.describe.description import Description
from resight.recipes import Recipe
from resight.search.collection import Collection
from resight.search.searcher import Searcher
from resight.search.upgrade import upgrade
from resight.store import vector_indexing
from resight.store.check import problems
from resight.store.hash_codes import refresh_codes
from resight.store.store import Store
from resight.store.vector_index import IndexChoice
from resight.store.vector_indexing import build_index, refresh_index

D, N = 16, 60
BROKEN = (
    *("index", "add", "remove", "refit", "upgrade", "reword", "restrict", "facts", "repair"),
    *("vectors", "swap", "grow", "hash", "rehash"),
)
"""Works that are broken off; the others only make what these are done to."""


@dataclass(frozen=True)
class Work:
    """do: given the collection's folder, the photos and whom to tell. base: the work whose result it is done to.

    at_once: whether a reader finds what was there before, or what is there at the end, and nothing between.
    """

    do: Callable[[Path, Path, Tell], None]
    answers: Callable[[Path, Path], Any]
    base: str | None = None
    at_once: bool = False


def works(recipe: Recipe) -> Mapping[str, Work]:
    """All, by name. recipe: of local features, with a codebook."""

    local = recipe.local.model_copy(update={"max_features": 30})
    other = recipe.model_copy(update={"local": local})
    seeded = recipe.codebook.model_copy(update={"seed": 7})
    worded = recipe.model_copy(update={"codebook": seeded})  # of which descriptions are copied
    strict = recipe.model_copy(update={"verify": recipe.verify.model_copy(update={"shortlist": 3})})  # all stays

    def opened(path: Path) -> Collection:
        return Collection.open(path, write=True) if Collection.exists(path) else Collection.create(path, recipe)

    def index(path: Path, photos: Path, tell: Tell) -> None:
        _tell_batches(tell)
        with opened(path) as collection:
            collection.add([photos / "first"])

    def add(path: Path, photos: Path, tell: Tell) -> None:
        _tell_batches(tell)
        with opened(path) as collection:
            collection.add([photos])

    def remove(path: Path, photos: Path, tell: Tell) -> None:
        with opened(path) as collection:
            for gone in ("first/astronaut-1.png", "first/coffee-0.png", "more"):
                collection.remove([str(photos / gone)])
                tell(f"gone {photos / gone}")

    def refit(path: Path, photos: Path, tell: Tell) -> None:
        with opened(path) as collection:
            collection.refit()

    def upgraded(path: Path, photos: Path, tell: Tell, *, other: Recipe = other) -> None:
        with Collection.open(path) as collection:
            done = collection.recipe == other
        if not done:
            assert upgrade(path, other, workers=1).changed

    def mend(path: Path, photos: Path, tell: Tell) -> None:
        with opened(path) as collection:
            assert not collection.repair().left

    def facts(path: Path, photos: Path, tell: Tell) -> None:
        with opened(path) as collection:
            collection.import_metadata(photos / "facts.csv")
            collection.find_duplicates()
            collection.decide_duplicates([1, 2, 3], "different")

    return {
        "index": Work(index, searched),
        "add": Work(add, searched, "index"),  # a batch makes a segment, so that these are compacted
        "whole": Work(add, searched),
        "remove": Work(remove, searched, "add"),
        "refit": Work(refit, searched, "add", at_once=True),
        "upgrade": Work(upgraded, searched, "add", at_once=True),  # to another recipe
        "reword": Work(partial(upgraded, other=worded), searched, "add", at_once=True),
        "restrict": Work(partial(upgraded, other=strict), searched, "add", at_once=True),
        "facts": Work(facts, known, "add"),
        "damage": Work(_damage, lambda path, photos: None, "add"),
        "repair": Work(mend, searched, "damage"),
        "vectors": Work(_vectors, nearest),
        "swap": Work(_swap, nearest, "vectors"),
        "grow": Work(_grow, nearest, "swap"),
        "hash": Work(_hash, nearest),
        "rehash": Work(_rehash, nearest, "hash", at_once=True),
    }


def searched(path: Path, photos: Path) -> list[tuple]:
    """Everything that searches with the photos find, by names."""
    with Collection.open(path) as collection:
        assert collection.verify() == []
        found = [collection.search(photo) for photo in sorted(photos.rglob("*.png"))]
        names = {entry.id: entry.origin for entry in collection.entries()}
    return [
        ([names[i] for i in r.ids], r.scores.tolist(), [e and e.inliers for e in r.evidence], r.accepted) for r in found
    ]


def known(path: Path, photos: Path) -> tuple:
    """Facts and decisions."""
    with Collection.open(path) as collection:
        assert collection.verify() == []
        facts = [(entry.origin, collection.metadata(entry.id)) for entry in collection.entries()]
        return facts, collection.duplicates()


def nearest(path: Path, photos: Path) -> list[tuple]:
    """What the 20 first images of other vectors are, and whether all is sound."""
    with Store(path, write=False) as store:
        assert problems(store, lambda _: None) == []
        searcher = Searcher(store)
        asked = [searcher.rank(Description((9, 9), x, None), None, 20)[0] for x in crowded(99, 5, D, crowds=8)]
        names = dict(store.catalogue.rows("SELECT id, origin FROM images"))
    return [([names[i] for i in ranking.ids.tolist()], ranking.scores.tolist()) for ranking in asked]


def _tell_batches(tell: Tell, add=Store.add) -> None:
    """In a child: say what each batch held, once it is stored."""

    def told(self, new, *arguments):
        add(self, new, *arguments)
        for item in new:
            tell(f"holds {item.origin}")

    Store.add = told


def _damage(path: Path, photos: Path, tell: Tell) -> None:
    """A flipped bit in each kind of file."""
    files = [path / "features.log", path / "words-1.log", *sorted(path.glob("inverted-*"))[0].iterdir()]
    for file in files:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 4
        file.write_bytes(content)


def _made(path: Path, recipe: Recipe) -> Store:
    return Store(path, write=True) if Collection.exists(path) else Store.create(path, recipe, "f00d")


def _put(store: Store, first: int, last: int, tell: Tell) -> None:
    """Images by number, in batches of 20, those that are not there yet."""
    there = {origin for (origin,) in store.catalogue.rows("SELECT origin FROM images")}
    for start in range(first, last, 20):
        new = [n for n in vector_news(start, crowded(start, 20, D, crowds=8)) if n.origin not in there]
        if new:
            store.add(new, [], None)
        for item in new:
            tell(f"holds {item.origin}")


def _vectors(path: Path, photos: Path, tell: Tell) -> None:
    with _made(path, vector_recipe(D)) as store:
        _put(store, 0, N, tell)


def _swap(path: Path, photos: Path, tell: Tell) -> None:
    """Another index three times."""
    with _made(path, vector_recipe(D)) as store:
        for kind in ("SQ8", "Flat", "IVF2,SQ8", "SQ8"):
            store.set_index(build_index(store, store.snapshot(), IndexChoice(kind)), N)
            tell(f"index {kind}")


def _grow(path: Path, photos: Path, tell: Tell) -> None:
    """More images put into the index, then most left out of it."""
    vector_indexing._FRESH = 10
    with _made(path, vector_recipe(D)) as store:
        _put(store, N, N + 40, lambda line: None)
        refresh_index(store, lambda _: None)
        there = store.catalogue.rows("SELECT id, origin FROM images")
        store.remove([image for image, origin in there if int(origin[1:-4]) % 3])
        for _, origin in there:
            tell(f"gone {origin}" if int(origin[1:-4]) % 3 else f"holds {origin}")
        refresh_index(store, lambda _: None)


def _hash(path: Path, photos: Path, tell: Tell) -> None:
    with _made(path, vector_recipe(D, filter="hash", hash={"method": "itq", "bits": 8})) as store:
        _put(store, 0, N, tell)
        refresh_codes(store, lambda _: None)


def _rehash(path: Path, photos: Path, tell: Tell) -> None:
    with _made(path, vector_recipe(D)) as store:
        refresh_codes(store, lambda _: None, again=True)
