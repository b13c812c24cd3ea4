"""The collection as its users see it: made, grown, searched, checked, in a folder on disk."""

import csv
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from resight.describe.describer import Describer
from resight.describe.description import Description
from resight.errors import CollectionError, ImageError, QueryError
from resight.fitted import Fitted
from resight.geometry.boxes import Box, check_box
from resight.geometry.parts import Part
from resight.images.image import Image
from resight.recipes.adapters_stage import NONE
from resight.recipes.query_stage import QueryStage
from resight.recipes.recipe import Recipe, load_recipe
from resight.search.adapted import adapter_names, check_adapter, load_adapter
from resight.search.duplicates import OVERLAP, Cluster, clusters, find_duplicates
from resight.search.examples import DescribedExample, Example, ReadExample, check_wanted
from resight.search.index_tuning import Tuned, Wanted
from resight.search.index_tuning import tune as tune_index
from resight.search.query_views import describe_views
from resight.search.ranking import Ranking
from resight.search.regions import describe_regions
from resight.search.searcher import Heard, Searcher, Timing
from resight.store import engines, indexing, metadata
from resight.store.catalogue import FILE, Entry, Failure
from resight.store.check import problems
from resight.store.duplicates import Decision, decide, decisions, pairs, uncompared
from resight.store.engines import EngineState
from resight.store.facts import Value
from resight.store.hash_codes import growth, hash_function, refresh_codes
from resight.store.importing import ImportReport, import_sidecar
from resight.store.indexing import AddReport, Progress
from resight.store.matching import matching_ids
from resight.store.metadata import Key
from resight.store.qdrant_engine import Codes
from resight.store.repair import RepairReport, repair
from resight.store.store import Store, writing
from resight.store.successor import under_way
from resight.store.vector_indexing import refresh_index
from resight.store.where import Where

if TYPE_CHECKING:
    import PIL.Image

__all__ = ["AddReport", "Collection", "Entry", "Example", "Failure", "Info", "Progress", "Timing"]


@dataclass(frozen=True)
class Info:
    """Facts about a collection.

    pending: images that wait for the codebook. bytes_*: of its folder. index: over global descriptors: choice (kind,
    depth, effort), images that it holds, images when it was trained, bytes; None where all are compared.
    """

    path: str
    recipe: str
    fingerprint: str
    images: int
    missing: int
    failures: int
    pending: int
    bytes_on_disk: int
    bytes_per_image: float
    codebook: dict[str, Any] | None
    index: dict[str, Any] | None
    advice: str | None


class Collection:
    """A folder of described images. ``create`` or ``open`` one, and use it as a context manager."""

    def __init__(self, store: Store, describer: Describer) -> None:
        self._store = store
        self._describer = describer
        self._searcher: Searcher | None = None
        self.behind: str | None = None
        """What the last writing could not tell the collection's vector database, and what to do, in words."""
        self._query = store.recipe.query
        self._adapter: str | None = None

    @staticmethod
    def exists(path: str | Path) -> bool:
        """Whether a folder holds a collection."""
        return (Path(path) / FILE).is_file()

    @classmethod
    def create(cls, path: str | Path, recipe: Recipe | str | Path = "rootsift-asmk") -> Self:
        """A new, empty collection, open for writing.

        Raises CollectionError if the folder is not empty, RecipeError if the recipe cannot run: then none is made.
        """
        if not isinstance(recipe, Recipe):
            recipe = load_recipe(recipe)
        describer = Describer(recipe)
        fingerprint = describer.fingerprint
        return cls(Store.create(Path(path), recipe, fingerprint), describer)

    @classmethod
    def open(cls, path: str | Path, *, write: bool = False, recipe: Recipe | None = None) -> Self:
        """An existing collection.

        recipe: what queries will be described with, by default the collection's own; another that was trained to be
        compatible with it only for reading. Raises CollectionError if it is another than those, or if there is no
        collection, it is damaged, or another process writes to it.
        """
        store = Store(Path(path), write=write)
        other = recipe is not None and recipe.fingerprint != store.recipe.fingerprint
        if recipe is not None and other and (write or recipe.compatible_with != store.fingerprint):
            store.close()
            raise CollectionError(
                f"{path}: was made with recipe {store.recipe.name}, and descriptors of {recipe.name} cannot be "
                f"compared with its own; search it without naming a recipe, or `resight upgrade {path}` to it"
            )
        return cls(store, Describer(recipe or store.recipe))

    def close(self) -> None:
        """Release the folder."""
        self._store.close()

    @property
    def version(self) -> int:
        """Another number as soon as another process, or another opened Collection, has written."""
        return self._store.catalogue.version

    def reopened(self) -> Self:
        """A reader of what there is now, ready to be searched, with what is loaded of the recipe.

        This one stays as it is. Threads may share it, but only one at a time describes. Raises CollectionError as
        ``open`` and as a search would.
        """
        store = Store(self._store.folder, write=False)
        same = (store.recipe, store.fingerprint) == (self.recipe, self.fingerprint)
        again = type(self)(store, self._describer if same else Describer(store.recipe))
        if same:
            again._query, again._adapter = self._query, self._adapter
        try:
            again._open_searcher().warm()
        except BaseException:
            again.close()
            raise
        return again

    def follow(self) -> bool:
        """Take up the recipe that another process has upgraded the collection to since; whether there was one.

        Without it a search that has begun, and those after it, go on with what this has loaded.
        """
        if not self._store.is_outdated:
            return False
        # The one before is not closed, as other threads may be reading it.
        store = Store(self._store.folder, write=False)
        store.catalogue.before = self._store.catalogue.version  # as each connection counts from 1
        self._store = store
        self._describer, self._searcher = Describer(self._store.recipe), None
        self._query, self._adapter = self._store.recipe.query, None
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self._store.catalogue.images

    @property
    def recipe(self) -> Recipe:
        """The recipe all its images are described with."""
        return self._store.recipe

    @property
    def query(self) -> QueryStage | None:
        """How a query is looked at more than once; what the recipe says, until it is set to something else.

        Setting it raises QueryError where the recipe has no room for it.
        """
        return self._query

    @query.setter
    def query(self, stage: QueryStage | None) -> None:
        if stage is not None and (why := self.recipe.obstacle(stage)):
            raise QueryError(f"recipe {self.recipe.name}: {why}")
        self._query = stage

    @property
    def adapter(self) -> str:
        """As which set's pictures it is searched: of the recipe's [adapters], its default until another is set.

        "none" compares vectors as they are stored. Setting it raises QueryError, which lists those there are, for
        another name.
        """
        stage = self.recipe.adapters
        return self._adapter or (NONE if stage is None else stage.default)

    @adapter.setter
    def adapter(self, name: str) -> None:
        check_adapter(self.recipe, name)
        self._adapter = name

    @property
    def adapters(self) -> tuple[str, ...]:
        """What ``adapter`` may be."""
        return adapter_names(self.recipe)

    @property
    def fingerprint(self) -> str:
        """sha256, in hex, of the recipe, its weights and its learned parts."""
        return self._store.fingerprint

    def add(
        self,
        paths: Iterable[str | Path],
        *,
        workers: int | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> AddReport:
        """Bring the collection up to date with folders, files, lists, globs and archives of photos.

        See ``resight.store.indexing.add`` for what is noticed and what survives an interruption.
        """
        self._writable()
        self._check_fingerprint()
        self._searcher = None
        report = indexing.add(self._store, self._describer, paths, workers=workers, progress=progress)
        self.make_ready(progress)
        advice = report.advice, growth(self._store), self.behind
        return replace(report, advice=" ".join(filter(None, advice)) or None)

    def remove(self, selectors: Iterable[int | str], *, missing: bool = False) -> int:
        """Forget images: by id, by origin, or all under a folder or archive; with `missing` all whose file is gone.

        Returns how many there were. The photos are not touched.
        """
        self._writable()
        ids: set[int] = set()
        if missing:
            ids |= {row[0] for row in self._store.catalogue.rows("SELECT id FROM images WHERE missing = 1")}
        for selector in selectors:
            ids |= self._selected(selector)
        with writing(self._store.folder):
            self._store.remove(sorted(ids))
        self._searcher = None
        self.make_ready(None)
        return len(ids)

    def search(
        self,
        query: "str | Path | int | PIL.Image.Image | NDArray[np.uint8] | Image",
        *,
        box: Box | None = None,
        top: int | None = None,
        where: Where | None = None,
        exact: bool = False,
    ) -> Ranking:
        """The images most likely to show what the query, or the box in it, shows; best first, all of them by default.

        query: a path, a PIL image, an H×W×3 uint8 array, an Image, or the id of an image of the collection.
        box: (x1, y1, x2, y2) in pixels of the upright query. ``Ranking.accepted`` of the results are matches.
        where: only images of which this is true. exact: compare all images, also where there is an index, which
            finds no more than four times those that are verified, or 1000 where none is.
        Raises ImageError for an unreadable query and QueryError for an unknown id, a box that leaves the image, or a
        fact in `where` that no image has.
        """
        return self.search_timed(query, box=box, top=top, where=where, exact=exact)[0]

    def search_timed(
        self,
        query: "str | Path | int | PIL.Image.Image | NDArray[np.uint8] | Image",
        *,
        box: Box | None = None,
        top: int | None = None,
        where: Where | None = None,
        exact: bool = False,
    ) -> tuple[Ranking, Timing]:
        """As ``search``, and what it cost."""
        self._open_searcher()
        began = time.perf_counter()
        found = self._stored_or_read(query, box)
        description, views = (found, ()) if isinstance(found, Description) else next(self._views_of([found]))
        if box is not None:
            box = check_box(box, description.size, str(query))
        example = DescribedExample(description, box, views=views)
        described = time.perf_counter() - began
        return self.rank_described([example], top=top, where=where, exact=exact, described=described)

    def search_examples(
        self, examples: Sequence[Example], *, top: int | None = None, where: Where | None = None, exact: bool = False
    ) -> Ranking:
        """The images most likely to show what any example of weight above 0 shows, and none of those below 0.

        ``resight.search.examples`` says how examples are joined. The evidence for an image is of the wanted example
        that it shows best (``Evidence.example``); one that an unwanted example has more inliers with is no match.
        With one example the ranking is that of ``search``, as are `where` and `exact`. Raises QueryError that names the
        example (the first is 1) for an unreadable image, an unknown id or a box that leaves the image, and if none has
        a weight above 0.
        """
        return self.search_examples_timed(examples, top=top, where=where, exact=exact)[0]

    def search_examples_timed(
        self, examples: Sequence[Example], *, top: int | None = None, where: Where | None = None, exact: bool = False
    ) -> tuple[Ranking, Timing]:
        """As ``search_examples``, and what it cost."""
        self._open_searcher()
        began = time.perf_counter()
        described = self.describe_examples(examples)
        return self.rank_described(described, top=top, where=where, exact=exact, described=time.perf_counter() - began)

    def describe_examples(self, examples: Sequence[Example]) -> list[DescribedExample]:
        """The first half of ``search_examples``: what the recipe says of each example. Raises as that."""
        check_wanted([example.weight for example in examples])
        read = [self.read_example(example, number) for number, example in enumerate(examples, 1)]
        described = self.describe_each([example for example in read if isinstance(example, ReadExample)])
        return [next(described) if isinstance(example, ReadExample) else example for example in read]

    def read_example(self, example: Example, number: int = 1) -> ReadExample | DescribedExample:
        """The first step of ``describe_examples``: the pixels to be described, or what is stored of an image.

        Threads may do it at the same time. number: among the examples, from 1, for messages. Raises QueryError.
        """
        self._open_searcher()
        try:
            found = self._stored_or_read(example.image, example.box)
            size = found.size if isinstance(found, Description) else found[2]
            box = None if example.box is None else check_box(example.box, size, example.name)
        except ImageError as error:
            raise QueryError(f"example {number}, {example.name}: {error.reason}") from error
        except QueryError as error:
            raise QueryError(f"example {number}, {error}") from error
        if isinstance(found, Description):
            return DescribedExample(found, box, example.weight)
        return ReadExample(found, box, example.weight)

    def describe_each(self, examples: Sequence[ReadExample]) -> Iterator[DescribedExample]:
        """The second step, by one thread at a time: of several queries' examples too, each as soon as it is described.

        They go through the network together. Raises CollectionError where the recipe's weights or learned parts are not
        those of the collection, and RecipeError where its network cannot run.
        """
        views = self._views_of([example.part for example in examples])
        for example, (description, further) in zip(examples, views, strict=True):
            yield DescribedExample(description, example.box, example.weight, further)

    def _views_of(self, parts: Sequence[Part]) -> Iterator[tuple[Description, tuple[Description, ...]]]:
        if parts:
            self._check_fingerprint()
        return describe_views(self._describer, parts, self._query)

    def rank_described(
        self,
        examples: Sequence[DescribedExample],
        *,
        top: int | None = None,
        where: Where | None = None,
        exact: bool = False,
        described: float = 0.0,
        heard: Heard | None = None,
        adapter: str | None = None,
    ) -> tuple[Ranking, Timing]:
        """The second half of ``search_examples``, which threads may do at the same time, and what it cost.

        described: seconds that the first half took. heard: is told the first ranking and each image as it is verified;
        what it raises ends the search. adapter: in place of the collection's own; QueryError for an unknown one.
        """
        began = time.perf_counter()
        searcher = self._open_searcher().adapted(self._adapter if adapter is None else adapter).heard_by(heard)
        if where is not None:
            rows = searcher.snapshot.positions(matching_ids(self._store.catalogue, where))
            searcher = searcher.among(rows[rows >= 0])
        if not exact:
            searcher = searcher.nearest(examples, top)
        narrowed = time.perf_counter() - began
        ranking, timing = searcher.rank_examples(examples, top, described)
        return ranking, replace(timing, filter=timing.filter + narrowed)

    def branch_similarities(
        self,
        query: "str | Path | int | PIL.Image.Image | NDArray[np.uint8] | Image",
        *,
        box: Box | None = None,
    ) -> "tuple[NDArray[np.int64], NDArray[np.float32]]":
        """Image ids, (N,), and what the global descriptor's B branches each say of them before fusion: N×B cosines.

        Raises as ``search``, and CollectionError where the recipe has no global descriptor.
        """
        if self.recipe.global_ is None:
            raise CollectionError(f"recipe {self.recipe.name} has no global descriptor")
        searcher = self._open_searcher().adapted(self._adapter)
        return searcher.snapshot.ids, searcher.cosines(searcher.projected(self._described(query, box)))

    def tune(
        self,
        wanted: Wanted,
        *,
        only: Sequence[str] = (),
        seed: int = 0,
        progress: Callable[[Progress], None] | None = None,
    ) -> Tuned:
        """Measure which index of global descriptors finds and costs what is wanted, and search with it from now on.

        Raises as ``resight.search.index_tuning.tune``.
        """
        self._writable()
        engines.check_free(self._store)
        report = progress or (lambda _: None)
        tuned = tune_index(self._store, wanted, only=only, seed=seed, report=report)
        with writing(self._store.folder):
            self._store.set_index(tuned.index, len(self))
        self._searcher = None
        return tuned

    def drop_index(self) -> None:
        """Compare all images from now on."""
        self._writable()
        engines.check_free(self._store)
        with writing(self._store.folder):
            self._store.set_index(None, 0)
        self._searcher = None

    def connect_engine(
        self,
        url: str,
        name: str,
        *,
        codes: Codes = "none",
        depth: int = 5,
        insecure: bool = False,
        progress: Callable[[Progress], None] | None = None,
    ) -> EngineState:
        """Search through a vector database from now on, and fill it; see ``resight.store.engines.connect_engine``."""
        self._writable()
        self._searcher, report = None, progress or (lambda _: None)
        with writing(self._store.folder):
            return engines.connect_engine(self._store, url, name, report, codes=codes, depth=depth, insecure=insecure)

    def sync_engine(self, *, progress: Callable[[Progress], None] | None = None) -> EngineState:
        """Bring the vector database up to date; CollectionError where there is none or it does not answer."""
        self._writable()
        self._searcher = None
        with writing(self._store.folder):
            return engines.sync_engine(self._store, progress or (lambda _: None))

    def engine_state(self) -> EngineState:
        """How the vector database stands; CollectionError where there is none or it does not answer."""
        return engines.engine_state(self._store)

    def drop_engine(self, *, delete: bool = False) -> None:
        """Search without the vector database from now on; with `delete` also delete there what is the collection's."""
        self._writable()
        with writing(self._store.folder):
            engines.drop_engine(self._store, delete=delete)
        self._searcher = None

    def make_ready(self, progress: Callable[[Progress], None] | None) -> None:
        """Build what [hash], [[rerank]] and the index need for the images there are, so that no search waits for it."""
        with writing(self._store.folder):
            refresh_codes(self._store, progress or (lambda _: None))
            self.behind = refresh_index(self._store, progress or (lambda _: None))
        if self.recipe.rerank and not self._store.pending():
            report = progress or (lambda _: None)
            searcher = Searcher(self._store, progress=report)
            for levels in self.recipe.region_levels:
                describe_regions(self._store, self._describer, searcher, levels, report)
            searcher.reranking  # noqa: B018 - made when first read
            self._searcher = searcher

    def _open_searcher(self) -> Searcher:
        while self._searcher is None:
            self.follow()
            try:
                made = Searcher(self._store)
            except CollectionError:
                if not self._store.is_outdated:
                    raise
                continue
            if not self._store.is_outdated:  # so that what it has opened is all of one recipe
                self._searcher = made
        return self._searcher

    def _described(
        self, query: "str | Path | int | PIL.Image.Image | NDArray[np.uint8] | Image", box: Box | None
    ) -> Description:
        found = self._stored_or_read(query, box)
        if isinstance(found, Description):
            return found
        self._check_fingerprint()
        return next(self._describer.describe_each([found]))

    def _stored_or_read(
        self, query: "str | Path | int | PIL.Image.Image | NDArray[np.uint8] | Image", box: Box | None
    ) -> Description | Part:
        if isinstance(query, int | np.integer):
            searcher = self._open_searcher()
            try:
                position = searcher.position(int(query))
            except KeyError:
                raise QueryError(
                    f"id:{query}: there is no image with this id; `resight export` lists the ids"
                ) from None
            if box is None and self._query is None:  # of further views nothing is stored
                return searcher.stored(position)
            query = self.entry(query).origin
        return self._describer.read(query, box)

    def entry(self, image_id: int) -> Entry:
        """An image by its id; QueryError for an unknown one."""
        rows = self._store.catalogue.rows(f"{_ENTRY} WHERE id = ?", (int(image_id),))
        if not rows:
            raise QueryError(f"id:{image_id}: there is no image with this id; `resight export` lists the ids")
        return _entry(rows[0])

    def find(self, origin: str) -> int | None:
        """The id of the image at an absolute path (or archive!/member), or None."""
        rows = self._store.catalogue.rows("SELECT id FROM images WHERE origin = ?", (origin,))
        return int(rows[0][0]) if rows else None

    def digest(self, image_id: int) -> str:
        """The digest of an image's content (``resight.images.digest``); QueryError for an unknown id."""
        self.entry(image_id)
        return str(self._store.catalogue.rows("SELECT digest FROM images WHERE id = ?", (int(image_id),))[0][0])

    def entries(self, *, after: int = 0, limit: int | None = None) -> Iterator[Entry]:
        """Images by ascending id, from the first above `after`, at most `limit`."""
        rows = self._store.catalogue.each(f"{_ENTRY} WHERE id > ? ORDER BY id LIMIT ?", after)
        return map(_entry, islice(rows, limit))

    def matching(self, where: Where) -> NDArray[np.int64]:
        """Ascending ids of the images of which a condition is true, (M,) int64; QueryError as ``search``."""
        return matching_ids(self._store.catalogue, where)

    def digests(self) -> Iterator[tuple[str, str]]:
        """Images' origins and the digests of their content (``resight.images.digest``), by origin."""
        return self._store.catalogue.each(
            "SELECT origin, digest FROM images WHERE origin > ? ORDER BY origin LIMIT ?", ""
        )

    def learned(self) -> dict[str, Fitted]:
        """The learned parts that its searches depend on: ``codebook``, ``hash``, ``whitening``, ``whitening 2``, ….

        And ``pooling``, ``embedding`` and ``reduction``, likewise numbered by the branches of the recipe; and
        ``adapter NAME``, of the one that is chosen.
        Raises CollectionError where the recipe's codebook is yet to be learned.
        """
        parts: dict[str, Fitted] = {}
        codebook, network = self._open_searcher().snapshot.codebook, self._describer.network
        if codebook is not None:
            parts["codebook"] = codebook
        if (function := hash_function(self._store)) is not None:
            parts["hash"] = function
        if (projection := load_adapter(self.recipe, self.adapter, self._store)) is not None:
            parts[f"adapter {self.adapter}"] = projection
        return parts if network is None else parts | network.fitted

    def metadata(self, image_id: int) -> dict[str, Value]:
        """What is known of an image besides its pixels, by key; QueryError for an unknown id."""
        return metadata.facts(self._store.catalogue, self.entry(image_id).id)

    def set_metadata(self, facts: Mapping[int, Mapping[str, Value | None]]) -> None:
        """Give images, by id, facts by key, all or none; they take the place of EXIF's, and None takes them back.

        Raises QueryError for an unknown id, and ValueError for a key or value that cannot be.
        """
        self._writable()
        metadata.set_facts(self._store.catalogue, facts)

    def import_metadata(self, path: str | Path, *, key: str = "path", strict: bool = False) -> ImportReport:
        """Give images the facts of a CSV or JSON file; see ``resight.store.importing.import_sidecar``."""
        self._writable()
        return import_sidecar(self._store.catalogue, path, key=key, strict=strict)

    def metadata_keys(self) -> list[Key]:
        """The keys of all images' metadata and what values they have, once for each kind of value."""
        return metadata.summary(self._store.catalogue)

    def failures(self, *, after: str = "") -> Iterator[Failure]:
        """Files that could not be indexed, by name, from the first behind `after`."""
        rows = self._store.catalogue.each(
            "SELECT origin, reason FROM failures WHERE origin > ? ORDER BY origin LIMIT ?", after
        )
        return (Failure(origin, reason) for origin, reason in rows)

    def info(self) -> Info:
        """Facts and figures."""
        store = self._store
        count = {
            "missing": "SELECT count(*) FROM images WHERE missing = 1",
            "failures": "SELECT count(*) FROM failures",
        }
        on_disk = _bytes_under(store.folder)
        return Info(
            path=os.path.abspath(store.folder),  # noqa: PTH100 - links are the user's, and stay
            recipe=self.recipe.name,
            fingerprint=self.fingerprint,
            images=len(self),
            pending=store.pending(),
            bytes_on_disk=on_disk,
            bytes_per_image=on_disk / max(1, len(self)),
            codebook=store.catalogue.get("codebook"),
            index=store.catalogue.get("index"),
            advice=" ".join(filter(None, (indexing.advice(store), growth(store), self._begun()))) or None,
            **{name: int(store.catalogue.rows(sql)[0][0]) for name, sql in count.items()},
        )

    def _begun(self) -> str | None:
        """What to know of an upgrade that has been begun, in words."""
        if (state := under_way(self._store)) is None:
            return None
        return f"An upgrade was begun ({state}); `resight upgrade` with that recipe goes on with it."

    def find_duplicates(self, *, again: bool = False, progress: Callable[[Progress], None] | None = None) -> int:
        """Look for near-duplicates of what was added since the last time; see ``resight.search.duplicates``."""
        self._writable()
        with writing(self._store.folder):
            return find_duplicates(self._store, again=again, progress=progress or (lambda _: None))

    def duplicates(self, *, overlap: float = OVERLAP) -> list[Cluster]:
        """Clusters of the near-duplicates found so far; see ``resight.search.duplicates.clusters``."""
        with self._store.catalogue.snapshot():
            return clusters(pairs(self._store.catalogue), decisions(self._store.catalogue), overlap)

    def uncompared(self) -> int:
        """How many images ``find_duplicates`` has yet to look at."""
        return len(uncompared(self._store.catalogue))

    def decide_duplicates(self, images: Sequence[int], decision: Decision | None) -> None:
        """Remember that some images are "duplicates" of each other, or all "different"; None forgets what was decided.

        Kept until an image goes, whatever is found again. QueryError for an unknown id.
        """
        self._writable()
        with writing(self._store.folder):
            decide(self._store.catalogue, images, decision)

    def verify(self, *, progress: Callable[[Progress], None] | None = None) -> list[str]:
        """What is damaged in the collection's files, in words; empty if it is sound."""
        return problems(self._store, progress or (lambda _: None))

    def repair(self, *, progress: Callable[[Progress], None] | None = None) -> RepairReport:
        """Make again what is damaged and can be made again; see ``resight.store.repair.repair``.

        Raises CollectionError where the catalogue itself is beyond mending, or what descriptors are made with is not
        what it was.
        """
        self._writable()
        self._check_fingerprint()
        self._searcher = None
        with writing(self._store.folder):
            return repair(self._store, self._describer, progress or (lambda _: None), lambda: self.make_ready(progress))

    def export(self, target: str | Path, *, format: str) -> int:
        """Write the catalogue (csv, json) or ids, paths and global descriptors (npz, safetensors); how many images.

        safetensors holds the tensors ids and vectors, and the paths as a JSON list in its metadata.
        Raises CollectionError for another format, vectors that the recipe does not make, or a file it cannot write.
        """
        target = Path(target)
        if format not in ("csv", "json", "npz", "safetensors"):
            raise CollectionError(f"cannot export as {format!r}: choose csv, json, npz or safetensors")
        try:
            if format in ("npz", "safetensors"):
                return self._export_vectors(target, format)
            entries = list(self.entries())
            table = [{"id": e.id, "path": e.origin, "width": e.size[0], "height": e.size[1]} for e in entries]
            if format == "json":
                target.write_text(json.dumps(table, indent=1), encoding="utf-8")
            else:
                with target.open("w", newline="", encoding="utf-8") as file:
                    writer = csv.DictWriter(file, ["id", "path", "width", "height"])
                    writer.writeheader()
                    writer.writerows(table)
        except OSError as error:
            raise CollectionError(f"{target}: cannot be written: {error.strerror or error}") from error
        return len(entries)

    def _export_vectors(self, target: Path, format: str) -> int:
        if self.recipe.global_ is None:
            raise CollectionError(f"recipe {self.recipe.name} has no global descriptors to export; use csv or json")
        origins = {entry.id: entry.origin for entry in self.entries()}
        searcher = Searcher(self._store)
        stored = {
            int(i): vector
            for p, i in enumerate(searcher.snapshot.ids)
            if int(i) in origins and (vector := searcher.stored(p).global_descriptor) is not None
        }
        ids, paths = np.array(list(stored), np.int64), [origins[i] for i in stored]
        vectors = np.array(list(stored.values()), np.float32).reshape(len(ids), sum(self.recipe.global_.lengths))
        if format == "npz":
            with target.open("wb") as file:
                np.savez(file, ids=ids, paths=np.array(paths, str), vectors=vectors)
        else:
            target.write_bytes(save({"ids": ids, "vectors": vectors}, metadata={"paths": json.dumps(paths)}))
        return len(ids)

    def refit(self, *, progress: Callable[[Progress], None] | None = None) -> str:
        """Learn a new codebook and hash function from all images and encode them; what came of it, in words."""
        self._writable()
        report = progress or (lambda _: None)
        self._searcher = None
        learned = []
        with writing(self._store.folder):
            if self._store.needs_codebook:
                indexing.learn_codebook(self._store, report)
                indexing.finish_codebook(self._store, report)
            refresh_codes(self._store, report, again=True)
        if (facts := self._store.catalogue.get("codebook")) is not None:
            learned.append(f"{facts['words']:,} visual words, learned from {facts['fitted_on']}")
        if (function := hash_function(self._store)) is not None:
            learned.append(f"codes of {function.bits} bits by {function.kind}, learned from {function.fitted_on}")
        if not learned:
            what = "features to learn a codebook" if self._store.needs_codebook else "images to learn a hash function"
            raise CollectionError(f"{self._store.folder}: there are too few {what} from; index more photos")
        return "; ".join(learned)

    def _selected(self, selector: int | str) -> set[int]:
        if isinstance(selector, int):
            return {selector} if self._store.catalogue.rows("SELECT 1 FROM images WHERE id = ?", (selector,)) else set()
        if any("\ud800" <= letter <= "\udfff" for letter in selector):
            return set()  # no name that is no Unicode was ever indexed
        prefix = selector.rstrip("/")
        within = [f"{prefix}/", f"{prefix}!/"]
        rows = self._store.catalogue.rows(
            "SELECT id FROM images WHERE origin = ? OR substr(origin, 1, ?) = ? OR substr(origin, 1, ?) = ?",
            (prefix, len(within[0]), within[0], len(within[1]), within[1]),
        )
        return {row[0] for row in rows}

    def _writable(self) -> None:
        if not self._store.write:
            raise CollectionError(f"{self._store.folder}: is open for reading; open it with write=True")

    def _check_fingerprint(self) -> None:
        if self.recipe.global_ is None:
            return
        if self.fingerprint not in (self._describer.fingerprint, self._describer.recipe.compatible_with):
            raise CollectionError(
                f"{self._store.folder}: was made with other weights or learned parts than recipe {self.recipe.name} "
                "has now, and their descriptors cannot be compared; restore those files, or index into a new collection"
            )


_ENTRY = "SELECT id, origin, width, height FROM images"


def _entry(row: tuple[Any, ...]) -> Entry:
    return Entry(row[0], row[1], (row[2], row[3]))


def _bytes_under(folder: Path) -> int:
    """Bytes of the files under a folder from which a writer may just be deleting some."""
    total = 0
    for inner, _, names in os.walk(folder):  # which passes over folders that are gone
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(inner, name).stat().st_size
    return total
