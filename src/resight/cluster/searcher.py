"""Query → Ranking over a collection in shards: the searcher of one machine, which asks for what lies elsewhere.

Every step is the single machine's, and what shards say of their images does not depend on which others lie there. So
the ranking is the same, id for id and score for score.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resight.cluster.asking import Missing, Replicas, ShardsLost
from resight.cluster.engine import ray_module
from resight.cluster.files import Files
from resight.cluster.manifest import Manifest, shard_of
from resight.cluster.shards import fetch_words, word_holders_of
from resight.describe.description import Description
from resight.errors import CollectionError
from resight.geometry.boxes import Box
from resight.local.features import LocalFeatures
from resight.local.word_filter import WordFilter
from resight.recipes.recipe import VerifyStage
from resight.search.examples import DescribedExample
from resight.search.expansion import Verified
from resight.search.filters import squared_idf
from resight.search.local_expansion import OWN, ExpandedQuery
from resight.search.ranking import Ranking
from resight.search.searcher import UNKNOWN, Searcher, Timing
from resight.store.store import Store
from resight.store.word_filters import word_filter


class ClusterSearcher(Searcher):
    """Answers queries from the state that a manifest names. catalogue: of all images of that state.

    Shards that do not answer within `limit` seconds are left out of a ranking, as if their images were not in the
    collection but for the weights of visual words; ``missing`` says so.
    """

    def __init__(self, catalogue: Store, files: Files, manifest: Manifest, limit: float) -> None:
        self.recipe = manifest.recipe
        self._manifest, self._files = manifest, files
        words = manifest.learned.words
        codebook, signer = (None, None) if words is None else fetch_words(files, words)
        self.snapshot = replace(catalogue.snapshot(), codebook=codebook, signer=signer)
        self._whole: Searcher | None = None
        self._rows = np.arange(len(self.snapshot))
        shard = shard_of(self.snapshot.ids, len(manifest.shards), manifest.together)
        self._ids = [self.snapshot.ids[shard == number] for number in range(len(manifest.shards))]
        self._replicas = Replicas(files.url, manifest.shards, limit)
        self.missing = Missing((), 0, len(self.snapshot))

    def rank_examples(
        self, examples: Sequence[DescribedExample], top: int | None, described: float = 0.0
    ) -> tuple[Ranking, Timing]:
        """As ``Searcher.rank_examples``, of the shards that answer; afterwards ``missing`` says which did not."""
        lost: frozenset[int] = frozenset()
        while True:
            shards = self._shard(self.snapshot.ids)
            part = self.among(np.flatnonzero(~np.isin(shards, list(lost)))) if lost else self
            try:
                found = Searcher.rank_examples(part, examples, top, described)
            except ShardsLost as error:
                lost |= error.shards
                continue
            images = sum(len(self._ids[shard]) for shard in lost)
            whole = self._whole if isinstance(self._whole, ClusterSearcher) else self
            whole.missing = Missing(tuple(sorted(lost)), images, sum(map(len, self._ids)))
            return found

    def nearest(self, examples: Sequence[DescribedExample], top: int | None) -> Searcher:
        """Itself: on a cluster all images are compared, however many there are."""
        return self

    def stored(self, position: int) -> Description:
        """As ``Searcher.stored``; ShardsLost where no replica answers."""
        found: Description = self._of("stored", position)
        return found

    def local(self, position: int) -> LocalFeatures:
        """As ``Searcher.local``; ShardsLost where no replica answers."""
        found: LocalFeatures = self._of("local", position)
        return found

    def cosines(self, query: Description) -> NDArray[np.float32]:
        """As ``Searcher.cosines``; ShardsLost where no replica answers."""
        if query.global_descriptor is None or self.recipe.global_ is None:
            raise ValueError("the query has no global descriptor")
        cosines = np.full((len(self.snapshot), len(self.recipe.global_.lengths)), -1.0, np.float32)
        vector = ray_module().put(replace(query, local=None))
        for shard, found in self._ask_all("cosines", vector).items():
            self._fill(cosines, shard, found)
        return cosines

    def verify(
        self,
        query: Description,
        assigned: NDArray[np.int64],
        box: Box | None,
        shortlist: NDArray[np.int64],
        stage: VerifyStage,
        expanded: ExpandedQuery | None = None,
        of: tuple[int, NDArray[np.float32]] = (0, UNKNOWN),
    ) -> Verified:
        """As ``Searcher.verify``, by each shard for those of its images that are on the shortlist."""
        if query.local is None:
            raise ValueError("the query has no local features to verify with")
        ids = self.snapshot.ids
        if expanded is not None:
            source = np.where(expanded.source == OWN, OWN, ids[expanded.source])
            expanded = ExpandedQuery(expanded.features, expanded.words, source)
        put = ray_module().put
        common = put(query), put(assigned), box
        images, shards = ids[shortlist], self._shard(ids[shortlist])
        questions = {
            int(shard): (*common, images[shards == shard], stage, expanded) for shard in np.unique(shards).tolist()
        }
        answers = self._replicas.ask("verify", questions)
        evidence = {image: e for found, _ in answers.values() for image, e in found.items()}
        by_position = {position: evidence[int(ids[position])] for position in shortlist.tolist()}
        for position, found in by_position.items():
            self._tell(position, found, of)
        return by_position, sum(compared for _, compared in answers.values())

    def _filter(self, query: Description, assigned: NDArray[np.int64]) -> tuple[NDArray[np.float32], int]:
        if self.recipe.filter == "global":
            return super()._filter(query, assigned)
        similarity, compared = np.zeros(len(self.snapshot), np.float32), 0
        if self.recipe.hash is not None and query.global_descriptor is not None:
            vector = ray_module().put(replace(query, local=None))
            for shard, found in self._ask_all("code_similarity", vector).items():
                self._fill(similarity, shard, found)
            return similarity, len(similarity)
        table = self.recipe.by_words
        if table is None or self._measure is None or query.local is None:
            return similarity, compared
        words = assigned[:, : table.query_assignments]
        encoding = self._measure.encode(query.local.descriptors.astype(np.float32), words)
        put = ray_module().put
        asked = put(encoding), None if self._idf is None else put(self._idf), self._manifest.catalogue
        for shard, (found, count) in self._ask_all("similarity", *asked).items():
            self._fill(similarity, shard, found)
            compared += count
        return similarity, compared

    def _word(self, position: int) -> NDArray[np.int32]:
        found: NDArray[np.int32] = self._of("words", position)
        return found

    @cached_property
    def _measure(self) -> WordFilter | None:
        codebook = self.snapshot.codebook
        return None if codebook is None else word_filter(self.recipe, codebook, self.snapshot.signer)

    @cached_property
    def _idf(self) -> NDArray[np.float64] | None:
        """Weights of the words of all images, where the filter has such, whichever shards answer."""
        if self._measure is None or not self._measure.idf:
            return None
        images = sum(map(len, self._ids))
        return squared_idf(word_holders_of(self._files, self._manifest.shards), images)

    def _shard(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        return shard_of(ids, len(self._ids), self._manifest.together)

    def _of(self, method: str, position: int) -> Any:
        image = self.snapshot.ids[position]
        shard = int(self._shard(image))
        return self._replicas.ask(method, {shard: (int(image),)})[shard]

    def _ask_all(self, method: str, *arguments: Any) -> dict[int, Any]:
        """All shards that hold images of the snapshot."""
        shards = np.unique(self._shard(self.snapshot.ids)).tolist()
        return self._replicas.ask(method, dict.fromkeys(shards, arguments))

    def _fill(self, values: NDArray[np.float32], shard: int, found: NDArray[np.float32]) -> None:
        """Put what a shard says of its images where they are in the snapshot."""
        ids = self._ids[shard]
        if len(found) != len(ids):
            raise CollectionError(
                f"{self._files.url}: shard {shard} has {len(found):,} images and the catalogue {len(ids):,} of it; "
                "index the photos again"
            )
        rows = self.snapshot.positions(ids)
        values[rows[rows >= 0]] = found[rows >= 0]
