"""A collection in shards as its users see it: searched as one on one machine is."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Self

from resight.cluster.asking import Missing
from resight.cluster.engine import connect
from resight.cluster.files import Files
from resight.cluster.indexing import check_recipe
from resight.cluster.manifest import Manifest, existing_manifest
from resight.cluster.searcher import ClusterSearcher
from resight.cluster.serving import check_searchable
from resight.cluster.shards import fetched_catalogue
from resight.describe.describer import Describer
from resight.errors import CollectionError
from resight.search.collection import Collection, Info
from resight.search.searcher import Searcher
from resight.store.catalogue import Failure
from resight.store.indexing import Progress
from resight.store.store import Store

_LIMIT = 30.0


def failures(place: str | Path) -> list[Failure]:
    """Files that could not be indexed, by name, of a collection in shards; no cluster is needed."""
    files = Files(place)
    with Store(fetched_catalogue(files, existing_manifest(files).catalogue), write=False) as store:
        return [Failure(*row) for row in store.catalogue.rows("SELECT origin, reason FROM failures ORDER BY origin")]


class ClusterCollection(Collection):
    """A collection that ``resight serve --cluster`` holds. ``join`` one, and use it as a context manager.

    It answers from the state there was when it was joined. A search that lacks shards ranks the images of the others;
    ``missing`` says, of the last search, which they are.
    """

    def __init__(self, store: Store, describer: Describer, files: Files, manifest: Manifest, limit: float) -> None:
        super().__init__(store, describer)
        self._files, self._manifest, self._limit = files, manifest, limit

    @classmethod
    def join(cls, place: str | Path, *, cluster: str, limit: float = _LIMIT) -> Self:
        """The collection in a folder or at an fsspec URL, served on the cluster at an address.

        limit: seconds that a search waits for a shard. Raises CollectionError where there is none, or no cluster.
        """
        connect(cluster)
        files = Files(place)
        manifest = existing_manifest(files)
        check_recipe(manifest.recipe)
        check_searchable(files, manifest)
        store = Store(fetched_catalogue(files, manifest.catalogue), write=False)
        return cls(store, Describer(manifest.recipe), files, manifest, limit)

    @property
    def missing(self) -> Missing:
        """What the last search lacked; false where it lacked nothing."""
        return self._cluster_searcher().missing

    def info(self) -> Info:
        """As ``Collection.info``, with the bytes in the store."""
        facts = super().info()
        words, names = self._manifest.learned.words, self._manifest.files - set(self._manifest.previous)
        size = sum(self._files.size(name) for name in names)
        return replace(
            facts,
            path=self._files.url,
            pending=0,
            bytes_on_disk=size,
            bytes_per_image=size / max(1, facts.images),
            codebook=None if words is None else words.facts,
        )

    def reopened(self) -> Self:
        """Not done in shards: CollectionError."""
        raise CollectionError(f"{self._files.url}: join it again to search what there is now")

    def verify(self, *, progress: Callable[[Progress], None] | None = None) -> list[str]:
        """Not done in shards: CollectionError."""
        raise CollectionError(f"{self._files.url}: a collection in shards is not checked so; index the photos again")

    def _export_vectors(self, target: Path, format: str) -> int:
        raise CollectionError(f"{self._files.url}: vectors of a collection in shards are not exported; use csv or json")

    def _open_searcher(self) -> Searcher:
        return self._cluster_searcher()

    def _cluster_searcher(self) -> ClusterSearcher:
        if not isinstance(self._searcher, ClusterSearcher):
            self._searcher = ClusterSearcher(self._store, self._files, self._manifest, self._limit)
        return self._searcher

    def _writable(self) -> None:
        raise CollectionError(
            f"{self._files.url}: is in shards, and only `resight index --into {self._files.url} --cluster ADDRESS` "
            "changes it"
        )
