"""Query → Ranking over one snapshot of a collection (survey Fig. 2 and §4.2.2)."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from resight.describe.description import Description
from resight.errors import CollectionError
from resight.features.fusion import fuse
from resight.geometry.boxes import Box
from resight.hashing.asymmetric import nearest_asymmetric
from resight.hashing.function import HashFunction
from resight.hashing.inverted import Inverted
from resight.hashing.multi_index import MultiIndex
from resight.hashing.search import CodeIndex, Scan
from resight.local.features import LocalFeatures
from resight.local.matching import WordTable
from resight.local.word_filter import WordFilter
from resight.projection.projection import Projection
from resight.recipes.adapters_stage import NONE
from resight.recipes.recipe import Recipe, VerifyStage
from resight.search.adapted import Adapted, check_adapter, load_adapter
from resight.search.examples import (
    DescribedExample,
    best_evidence,
    check_wanted,
    joint_descriptor,
    mean_similarity,
)
from resight.search.expansion import Found, Verified, expand
from resight.search.filters import (
    WordWeights,
    code_similarity,
    cosine_similarity,
    stored_vectors,
    word_similarity,
    word_weights,
)
from resight.search.local_expansion import ExpandedQuery, with_more_inliers
from resight.search.nearest import FEW, Nearest
from resight.search.ranking import Evidence, Ranking
from resight.search.rerank.cache import Cache
from resight.search.rerank.patches import Regions
from resight.search.rerank.reranker import Database
from resight.search.rerank.stages import Asked, Prepared, Source, prepare
from resight.search.verify import calibrated_ranking, check, support
from resight.store.hash_codes import codes_of, needed_function
from resight.store.indexing import Progress
from resight.store.region_log import RegionLog
from resight.store.store import Store, read_features
from resight.store.word_filters import word_filter

UNKNOWN = np.empty(0, np.float32)
"""Similarities that nobody who listens is told of."""

Seen = tuple[Description, NDArray[np.int64]]
"""A view of an example, and the words of its features, N×k."""

_CANDIDATES = 4  # times the shortlist, of images that the index finds: an expanded query looks among them too
_OF_VECTORS = ("reranking", "_database", "_adapted")  # what is made of the images' vectors once
_NO_WORDS = np.empty((0, 1), np.int64)
_UNVERIFIED = 1000  # images that the index finds where none is verified and the caller does not say how many


@dataclass(frozen=True, eq=False)
class Filtered:
    """A search's first ranking, which verification will change: ids and scores, best first."""

    ids: NDArray[np.int64]
    scores: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Checked:
    """An image that a search has just verified for one of its examples, by its number from 0.

    score: the probability by this evidence alone; None where an expanded query was compared again, whose similarity
        is not this one's, and with a recipe that has no calibration.
    """

    image: int
    example: int
    evidence: Evidence
    score: float | None


Heard = Callable[[Filtered | Checked], None]
"""Is told what a search has found so far; what it raises ends the search."""


@dataclass(frozen=True)
class Timing:
    """Seconds spent on a query, by stage. comparisons: descriptors and codes that were compared."""

    describe: float
    filter: float
    verify: float
    comparisons: int


def describing(recipe: Recipe) -> str:
    """The stages that decide what a collection stores, as JSON; where weights and artefacts lie is left out."""
    return f"{recipe.dump({'image', 'local', 'codebook', 'global_'})} {recipe.postings}{recipe.codes}"


class Searcher:
    """Answers queries from the state a collection had when this was made; later writes do not disturb it.

    recipe: its filter, the filter's table, [verify] and [calibration] say how to search; by default the collection's
        own. What images are described with must be the same: CollectionError where it is not. Vectors are compared as
        its default adapter makes them, if it has any.
    progress: told what [[rerank]] builds once for this state of the collection.
    """

    _heard: Heard | None = None
    _adapter: str = NONE

    def __init__(
        self,
        store: Store,
        recipe: Recipe | None = None,
        progress: Callable[[Progress], None] = lambda state: None,
    ) -> None:
        self.recipe = recipe or store.recipe
        self._progress = progress
        if describing(self.recipe) != describing(store.recipe):
            raise CollectionError(
                f"{store.folder}: was made with recipe {store.recipe.name}, and {self.recipe.name} describes images "
                "otherwise; search it with a recipe of the same [image], [local], [codebook] and [global], and of the "
                "same table of [asmk], [bow], [hamming] and [hash]"
            )
        self.snapshot = store.snapshot()
        self._by_adapter: dict[str, Searcher] = {}
        if self.recipe.adapters is not None:
            self._adapter = self.recipe.adapters.default
            self._by_adapter[self._adapter] = self
        self._whole: Searcher | None = None  # of which this is a part, and which of its positions are here
        self._rows = np.arange(len(self.snapshot))
        self._store = store
        self._features = store.features_log()
        self._vectors = store.vectors_log()
        if store.needs_codebook and self.snapshot.codebook is None and len(self.snapshot):
            raise CollectionError(
                f"{store.folder}: its {len(self.snapshot):,} images have no codebook yet, since indexing was "
                f"interrupted or found too few features; run `resight refit {store.folder}` or index more photos"
            )

    def among(self, rows: NDArray[np.int64]) -> "Searcher":
        """One that ranks only the images at these ascending positions, as if the others had been left out of a ranking.

        Weights of visual words, and what [[rerank]] builds, stay those of all images.
        """
        part = copy(self)
        part.snapshot = self.snapshot.take(rows)
        part._whole, part._rows = self._whole or self, self._rows[rows]
        for made in (*_OF_VECTORS, "_by_words", "_hashed", "_nearest", "_code_index"):
            part.__dict__.pop(made, None)  # they are of other images
        return part

    def adapted(self, name: str | None) -> "Searcher":
        """One that compares vectors as an adapter of the collection makes them; None for the default.

        All images' vectors are read when it is asked the first time. Raises as ``load_adapter``.
        """
        if name is None or name == self._adapter:
            return self
        check_adapter(self.recipe, name)
        if self._whole is not None:
            raise ValueError("choose the adapter before some of the images")
        if (made := self._by_adapter.get(name)) is None:
            made = copy(self)
            for of in (*_OF_VECTORS, "_projection"):
                made.__dict__.pop(of, None)
            made._adapter = name
            self._by_adapter[name] = made
        return made

    @cached_property
    def _projection(self) -> Projection | None:
        """The adapter, if any; read when it is first needed, so that others serve where its file is gone."""
        return load_adapter(self.recipe, self._adapter, self._store)

    @cached_property
    def _adapted(self) -> Adapted | None:
        """The adapter, if any, with what it makes of the images."""
        if self._projection is None:
            return None
        if self._whole is not None and (whole := self._whole._adapted) is not None:
            return whole.take(self._rows)
        return Adapted.of(self._projection, self.snapshot, self._vectors)

    @property
    def _lengths(self) -> tuple[int, ...]:
        """Of the parts of the vectors that are compared, which are ℓ2-normalised each."""
        if self._projection is not None:
            return (self._projection.dimension,)
        return () if self.recipe.global_ is None else self.recipe.global_.lengths

    def projected(self, description: Description) -> Description:
        """What is described, with the vector that is compared in place of the one that is stored."""
        vector = description.global_descriptor
        if self._projection is None or vector is None:
            return description
        return replace(description, global_descriptor=self._projection.transform(vector))

    def compared(self, position: int) -> Description:
        """As ``stored``, with the vector that is compared."""
        return self.projected(self.stored(position))

    def heard_by(self, heard: Heard | None) -> "Searcher":
        """One that ranks alike, and tells `heard` its first ranking and each image that it verifies."""
        if heard is None:
            return self
        told = copy(self)
        told._heard = heard
        return told

    def warm(self) -> None:
        """Read and build now what the first search would, so that those at the same time do not each do it."""
        if self.recipe.hash is not None and len(self.snapshot):
            self._hashed  # noqa: B018 - made when first read, as are the others
        self._by_words, self._nearest  # noqa: B018
        self._adapted  # noqa: B018
        if self.recipe.rerank and len(self.snapshot):
            self.reranking  # noqa: B018

    def nearest(self, examples: Sequence[DescribedExample], top: int | None) -> "Searcher":
        """One that ranks only what an index finds for the examples, together and one by one.

        That is as many images as are asked for, and four times those that would be verified. The index is the
        collection's, or one of codes where there are many. Itself without an index.
        """
        search = self._by_index
        if search is None:
            return self
        shortlist = 0 if self.recipe.verify is None else _CANDIDATES * self.recipe.verify.shortlist
        wanted = max(shortlist, top if top is not None else _UNVERIFIED)
        seen = [d for e in examples if e.weight > 0 for d in (e.description, *e.views)]
        each = [v for d in seen if (v := d.global_descriptor) is not None]
        found = search(np.stack([self._joint(examples), *each]), wanted)
        return self.among(np.setdiff1d(found, [-1]))

    @property
    def _by_index(self) -> Callable[[NDArray[np.float32], int], NDArray[np.int64]] | None:
        """Gives the positions of the k nearest to each of Q×D vectors, Q×k with −1 for none."""
        if (by_vectors := self._nearest) is not None:
            return lambda vectors, k: by_vectors.search(vectors, k)[0]
        if self.recipe.hash is not None and len(self.snapshot) > FEW:
            return self._nearest_codes
        return None

    def _nearest_codes(self, vectors: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        function, codes = self._hashed
        if self.recipe.hash is not None and self.recipe.hash.distance == "asymmetric":
            return nearest_asymmetric(function.project(vectors), codes, k)[1]
        asked = function.encode(vectors)
        _, found = self._code_index.search(asked, k)
        if np.any(found < 0):  # the lists that an inverted file reads hold too few
            _, found = Scan(codes).search(asked, k)
        return found

    @cached_property
    def _code_index(self) -> CodeIndex:
        stage, codes = self.recipe.hash, self._hashed[1]
        if stage is not None and stage.index == "multi-index":
            return MultiIndex(codes)
        if stage is not None and stage.index == "inverted":
            return Inverted(codes, seed=stage.seed)
        return Scan(codes)

    def stored(self, position: int) -> Description:
        """The stored description of the image at a position of the snapshot."""
        snapshot = self.snapshot
        vector = None
        if self.recipe.global_ is not None and snapshot.vectors_at[position] >= 0:
            length = 4 * sum(self.recipe.global_.lengths)
            vector = self._vectors.record(int(snapshot.vectors_at[position]), length).view("<f4").copy()
        local = None if self.recipe.local is None else self.local(position)
        width, height = (int(v) for v in snapshot.sizes[position])
        return Description((width, height), vector, local)

    def rank(
        self, query: Description, box: Box | None, top: int | None, described: float = 0.0
    ) -> tuple[Ranking, Timing]:
        """All images (or the first `top`) by how likely they show what the query does; ties by image id.

        box: what of the query is asked for, for the outline in the results. described: seconds spent before.
        """
        return self.rank_examples([DescribedExample(query, box)], top, described)

    def rank_examples(
        self, examples: Sequence[DescribedExample], top: int | None, described: float = 0.0
    ) -> tuple[Ranking, Timing]:
        """All images (or the first `top`) by how likely they show what a wanted example does; ties by image id.

        The first ranking is by the examples together. Then each is verified; an image that ``best_evidence`` stands
        for has the probability by that example alone, its inliers and its similarity, and any other no inliers.
        examples: one at least has a weight above 0, else QueryError, as where they cancel each other out.
        """
        began = time.perf_counter()
        weights = [example.weight for example in examples]
        check_wanted(weights)
        examples = [
            replace(e, description=self.projected(e.description), views=tuple(map(self.projected, e.views)))
            for e in examples
        ]
        assigned = [self._assign(example.description.local) for example in examples]
        views = [[(view, self._assign(view.local)) for view in example.views] for example in examples]
        similarity, each, compared = self.similarities(examples, assigned, views)
        ids, stage = self.snapshot.ids, self.recipe.verify
        order, scores, located = self.ordered(examples, similarity)
        filtered = time.perf_counter()
        if self._heard is not None:
            self._heard(Filtered(ids[order], scores))
        if stage is None or self.recipe.calibration is None:
            order, scores = order[:top], scores[:top]
            found = tuple(map(located.get, order.tolist()))
            ranking = Ranking(ids[order], scores, found, -np.inf, calibrated=False)
            return ranking, Timing(described, filtered - began, 0.0, compared)
        shortlist = order[: stage.shortlist]
        verified = [
            self._best_view(example, [(example.description, words), *seen], shortlist, stage, (number, each[number]))
            for number, (example, words, seen) in enumerate(zip(examples, assigned, views, strict=True))
        ]
        if self.recipe.expansion is not None:
            expanded = expand(self, examples, assigned, Found(each, verified, shortlist))
            each, verified = list(expanded.each), list(expanded.verified)
            if len(examples) == 1:
                similarity = each[0].copy()
        evidence, standing = best_evidence([found for found, _ in verified], each, weights)
        distances = sum(count for _, count in verified)
        inliers = np.zeros(len(ids))
        for position in standing:
            inliers[position] = support(evidence[position])
            similarity[position] = each[evidence[position].example][position]
        ranking = calibrated_ranking(self.recipe.calibration, ids, inliers, similarity, evidence, top, order)
        timing = Timing(described, filtered - began, time.perf_counter() - filtered, compared + distances)
        return ranking, timing

    def similarity(self, query: Description) -> NDArray[np.float32]:
        """The filter's similarity of the query to each image, in the order of the snapshot; (N,) float32."""
        return self._filter(query, self._assign(query.local))[0]

    def cosines(self, query: Description) -> NDArray[np.float32]:
        """The query's cosine to each image, N×B for the B branches that a late fusion keeps apart, else N×1.

        query: with the vector that is compared.
        """
        if query.global_descriptor is None or self.recipe.global_ is None:
            raise ValueError("the query has no global descriptor")
        if self._adapted is not None:
            return self._adapted.similarity(self.snapshot, self._vectors, query.global_descriptor)[:, None]
        return cosine_similarity(self.snapshot, self._vectors, query.global_descriptor, self._lengths)

    def _assign(self, local: LocalFeatures | None) -> NDArray[np.int64]:
        """N×k nearest words of the query's descriptors, as many as any stage asks for."""
        codebook, recipe = self.snapshot.codebook, self.recipe
        wanted = [s.query_assignments for s in (recipe.by_words, recipe.verify) if s is not None]
        if codebook is None or local is None or not wanted:
            return _NO_WORDS
        return codebook.assign(local.descriptors.astype(np.float32), max(wanted))

    def similarities(
        self,
        examples: Sequence[DescribedExample],
        assigned: Sequence[NDArray[np.int64]],
        views: Sequence[Sequence[Seen]] = (),
    ) -> tuple[NDArray[np.float32], list[NDArray[np.float32]], int]:
        """The filter's similarity of the examples together, (N,), and of each by itself; the comparisons made.

        views: of each example, which then is as similar as its most similar view, and they together as their mean.
        """
        one_by_one = [self._filter(e.description, words) for e, words in zip(examples, assigned, strict=True)]
        for place, (view, words) in ((place, one) for place, seen in enumerate(views) for one in seen):
            (before, count), (other, more) = one_by_one[place], self._filter(view, words)
            one_by_one[place] = np.maximum(before, other), count + more
        each, compared = [similarity for similarity, _ in one_by_one], sum(count for _, count in one_by_one)
        if len(examples) == 1:
            return each[0], each, compared
        weights = [example.weight for example in examples]
        if not self.recipe.by_vector or any(views):
            return mean_similarity(each, weights), each, compared
        query = replace(examples[0].description, global_descriptor=self._joint(examples))
        together, count = self._filter(query, assigned[0])
        return together, each, compared + count

    def ordered(
        self, examples: Sequence[DescribedExample], similarity: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], Mapping[int, Evidence]]:
        """All positions from the best to the worst, by similarity and then as [[rerank]] says, and their scores.

        And what re-ranking can show of images, by position. Images without a vector, which cannot be re-ranked, are
        the last.
        """
        if self.recipe.rerank and self._whole is not None:
            return self._part_of(self._whole, examples)
        ids = self.snapshot.ids
        order = np.lexsort((ids, -similarity))
        if not self.recipe.rerank or self.recipe.global_ is None:
            return order, similarity[order], {}
        described = self.snapshot.vectors_at[order] >= 0
        have, lack = order[described], order[~described]
        ranking = Ranking(ids[have], similarity[have], (None,) * len(have), -np.inf, calibrated=False)
        vector = self._joint(examples)
        found = self.reranking.rerank(Asked(vector, vector[None], tuple(examples)), ranking)
        scores = np.append(found.scores, np.full(len(lack), min(-1.0, found.scores.min(initial=-1.0)), np.float32))
        ranked = self.snapshot.positions(found.ids)
        located = {p: e for p, e in zip(ranked.tolist(), found.evidence, strict=True) if e is not None}
        return np.append(ranked, lack), scores, located

    def _part_of(
        self, whole: "Searcher", examples: Sequence[DescribedExample]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], Mapping[int, Evidence]]:
        """As ``ordered``, of this part of the images, what re-ranking makes of all of them."""
        order, scores, located = whole.ordered(examples, whole.similarities(examples, [_NO_WORDS] * len(examples))[0])
        place = np.full(len(whole.snapshot), -1)
        place[self._rows] = np.arange(len(self._rows))
        here = {int(place[p]): evidence for p, evidence in located.items() if place[p] >= 0}
        own = place[order] >= 0
        return place[order[own]], scores[own], here

    @cached_property
    def _nearest(self) -> Nearest | None:
        """The index, where there is one, and where nothing looks at all images."""
        stage, index = self.recipe.global_, self.snapshot.index
        if index is None or stage is None or self.recipe.filter != "global" or self.recipe.rerank:
            return None
        return Nearest(self.snapshot, self._vectors, sum(stage.lengths), index)

    @cached_property
    def reranking(self) -> Prepared:
        """[[rerank]] bound to this state of the collection; what it builds lies in the collection's folder."""
        source = Source(
            self._database,
            Cache(self._store.data / ("rerank" if self._projection is None else f"rerank-{self._adapter}")),
            regions=self._regions,
            descriptions=None if self.recipe.local is None else self.descriptions,
            codebook=self.snapshot.codebook,
            words=self.words,
            max_side=self.recipe.local_side,
            oriented=self.recipe.local is not None and self.recipe.local.oriented,
            progress=self._progress,
        )
        return prepare(self.recipe.rerank, source)

    @property
    def descriptions(self) -> Mapping[int, Description]:
        """The stored descriptions by image id, read when asked for."""
        return _Stored(self)

    def words(self, image: int) -> NDArray[np.int32]:
        """The stored words of the local features of an image, by its id."""
        return self._word(self.position(image))

    def position(self, image: int) -> int:
        """The position of an image in the snapshot, by its id. Raises KeyError where it is not there."""
        position = int(self.snapshot.positions(np.array([image]))[0])
        if position < 0:
            raise KeyError(image)
        return position

    def _regions(self, levels: int) -> Regions:
        log = RegionLog(self._store.data, levels, self._database.dimension)
        return Regions(*log.rows(self._database.ids))

    @cached_property
    def _database(self) -> Database:
        """The vectors of all images that have one, as they are compared, in memory."""
        described = np.flatnonzero(self.snapshot.vectors_at >= 0)
        dimension = sum(self.recipe.global_.lengths) if self.recipe.global_ is not None else 0
        vectors = stored_vectors(self.snapshot, self._vectors, described, dimension)
        if self._projection is not None:
            vectors = self._projection.transform(vectors)
        return Database(self.snapshot.ids[described], vectors)

    def _joint(self, examples: Sequence[DescribedExample]) -> NDArray[np.float32]:
        vectors = [v for e in examples if (v := e.description.global_descriptor) is not None]
        return joint_descriptor(vectors, [example.weight for example in examples], self._lengths)

    def _filter(self, query: Description, assigned: NDArray[np.int64]) -> tuple[NDArray[np.float32], int]:
        stage = self.recipe.global_
        if self.recipe.filter == "global" and stage is not None:
            cosines = self.cosines(query)
            if stage.late is not None:
                fused = fuse(cosines, [branch.weight for branch in stage.branches], stage.late)
                return fused.astype(np.float32), cosines.size
            return cosines[:, 0], len(cosines)
        if self.recipe.hash is not None and query.global_descriptor is not None:
            function, codes = self._hashed
            similarity = code_similarity(function, codes, query.global_descriptor, self.recipe.hash.distance)
            return np.where(self.snapshot.vectors_at >= 0, similarity, np.float32(-1)), len(codes)
        table, by_words = self.recipe.by_words, self._by_words
        if table is None or by_words is None or query.local is None:
            return np.zeros(len(self.snapshot), np.float32), 0
        measure, weights = by_words
        words = assigned[:, : table.query_assignments]
        encoding = measure.encode(query.local.descriptors.astype(np.float32), words)
        return word_similarity(self.snapshot, encoding, measure, weights)

    @cached_property
    def _hashed(self) -> tuple[HashFunction, NDArray[np.uint8]]:
        """What the collection hashes with, and the codes of the images, N×B/8."""
        if self._whole is not None:
            function, codes = self._whole._hashed
            return function, codes[self._rows]
        made = needed_function(self._store)
        return made, codes_of(self._store, self.snapshot, made)

    @cached_property
    def _by_words(self) -> tuple[WordFilter, WordWeights] | None:
        """The filter over visual words with its weights, which for some are read from all postings: once."""
        if self.snapshot.codebook is None:
            return None
        if self._whole is not None and (whole := self._whole._by_words) is not None:
            return whole[0], whole[1].take(self._rows)
        measure = word_filter(self.recipe, self.snapshot.codebook, self.snapshot.signer)
        return measure, word_weights(self.snapshot, measure)

    def _best_view(
        self,
        example: DescribedExample,
        views: Sequence[Seen],
        shortlist: NDArray[np.int64],
        stage: VerifyStage,
        of: tuple[int, NDArray[np.float32]],
    ) -> Verified:
        """As ``verify``, by the view of an example that has the most inliers. Who listens hears of the first."""
        first, *others = views
        evidence, compared = self.verify(*first, example.box, shortlist, stage, of=of)
        for view, words in others:
            found, more = self.verify(view, words, example.box, shortlist, stage)
            evidence, compared = with_more_inliers(evidence, found), compared + more
        return evidence, compared

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
        """What speaks for each image of a shortlist of positions, and the comparisons made.

        assigned: words of the query's features, N×k. expanded: the query as joined by features of images. of: for who
        listens, which example the query is, and its similarity to each image.
        """
        if query.local is None:
            raise ValueError("the query has no local features to verify with")
        descriptors, k = query.local.descriptors.astype(np.float32), stage.query_assignments
        whole = WordTable.build(descriptors, assigned[:, :k])
        joined = set() if expanded is None else set(expanded.source.tolist())
        evidence, compared = {}, 0
        oriented = self.recipe.local is not None and self.recipe.local.oriented
        for position in shortlist.tolist():
            table = whole
            if expanded is not None and position in joined:
                table = WordTable.build(descriptors, expanded.words_without(position)[:, :k])
            width, height = (int(v) for v in self.snapshot.sizes[position])
            candidate = self.local(position), self._word(position), (width, height)
            evidence[position], count = check(query.local, table, box, candidate, stage, oriented=oriented)
            compared += count
            self._tell(position, evidence[position], of)
        return evidence, compared

    def _tell(self, position: int, evidence: Evidence, of: tuple[int, NDArray[np.float32]]) -> None:
        if self._heard is not None:
            score = self._score(evidence, of[1], position)
            self._heard(Checked(int(self.snapshot.ids[position]), of[0], evidence, score))

    def _score(self, evidence: Evidence, similarity: NDArray[np.float32], position: int) -> float | None:
        """The probability that ``calibrated_ranking`` gives an image by one example's evidence."""
        if similarity is UNKNOWN or self.recipe.calibration is None:
            return None
        row = slice(position, position + 1)
        inliers = np.array([support(evidence)])
        alone = calibrated_ranking(self.recipe.calibration, self.snapshot.ids[row], inliers, similarity[row], {})
        return float(alone.scores[0])

    def local(self, position: int) -> LocalFeatures:
        """The stored local features of the image at a position of the snapshot."""
        at, count = int(self.snapshot.features_at[position]), int(self.snapshot.features[position])
        return read_features(self._features, at, count, self.recipe.local)

    def _word(self, position: int) -> NDArray[np.int32]:
        at, count = int(self.snapshot.words_at[position]), int(self.snapshot.features[position])
        if at < 0:  # not encoded yet: it meets no word of the query
            return np.full(count, -1, np.int32)
        return self.snapshot.word_log.record(at, 4 * count).view("<i4")


@dataclass(frozen=True, eq=False)
class _Stored(Mapping[int, Description]):
    """The descriptions of a snapshot's images, by id, with the vectors that are compared."""

    searcher: Searcher

    def __getitem__(self, image: int) -> Description:
        return self.searcher.compared(self.searcher.position(image))

    def __iter__(self) -> Iterator[int]:
        return iter(self.searcher.snapshot.ids.tolist())

    def __len__(self) -> int:
        return len(self.searcher.snapshot)
