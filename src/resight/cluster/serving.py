"""Shards held by actors, each opened on a node that answers for it, with replicas on other nodes.

Ray starts an actor again elsewhere when its node dies. What only someone who looks at all can see is done by ``keep``:
a new state of the collection, an actor that could not start, nodes that came.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resight.cluster.engine import NAMESPACE, ray_module, result
from resight.cluster.files import Files
from resight.cluster.manifest import Manifest, existing_manifest
from resight.cluster.placing import Replica, node_for, to_move
from resight.cluster.shards import fetch_shard
from resight.describe.description import Description
from resight.errors import CollectionError
from resight.geometry.boxes import Box
from resight.local.asmk import Encoding
from resight.local.features import LocalFeatures
from resight.recipes.recipe import VerifyStage
from resight.search.expansion import Verified
from resight.search.filters import WordWeights, word_similarity, word_weights
from resight.search.local_expansion import ExpandedQuery
from resight.search.searcher import Searcher
from resight.store.store import Store
from resight.store.word_filters import word_filter

_SECONDS = 5.0  # that an actor may take to say that it is there


class ShardServer:
    """One shard, opened to be searched; lives in an actor. Images are asked for and told of by their ids."""

    def __init__(self, url: str, shard: str) -> None:
        self._searcher = Searcher(Store(fetch_shard(Files(url), shard), write=False))
        recipe = self._searcher.recipe
        if recipe.hash is not None and (stage := recipe.global_) is not None:
            # Codes are read at the first search, and by then a later state's copy may have taken the place of this one.
            self._searcher.similarity(Description((1, 1), np.zeros(sum(stage.lengths), np.float32), None))
        self._weights: tuple[str, WordWeights] | None = None

    def node(self) -> str:
        """The node it lives on, once it is ready to answer."""
        return str(ray_module().get_runtime_context().get_node_id())

    def cosines(self, query: Description) -> NDArray[np.float32]:
        """As ``Searcher.cosines``, of the shard's images by ascending id."""
        return self._searcher.cosines(query)

    def code_similarity(self, query: Description) -> NDArray[np.float32]:
        """The similarity of codes to the shard's images by ascending id, where the recipe has [hash]."""
        return self._searcher.similarity(query)

    def similarity(
        self, query: Encoding, idf: NDArray[np.float64] | None, state: str
    ) -> tuple[NDArray[np.float32], int]:
        """``word_similarity`` to the shard's images by ascending id.

        idf: ``squared_idf`` of all shards, where the filter weighs words so; state: names it.
        """
        snapshot = self._searcher.snapshot
        if snapshot.codebook is None:
            return np.zeros(len(snapshot), np.float32), 0
        measure = word_filter(self._searcher.recipe, snapshot.codebook, snapshot.signer)
        if self._weights is None or self._weights[0] != state:
            self._weights = state, word_weights(snapshot, measure, idf)
        return word_similarity(snapshot, query, measure, self._weights[1])

    def verify(
        self,
        query: Description,
        assigned: NDArray[np.int64],
        box: Box | None,
        images: NDArray[np.int64],
        stage: VerifyStage,
        expanded: ExpandedQuery | None,
    ) -> Verified:
        """As ``Searcher.verify``, of a shortlist of the shard's images; evidence by id.

        expanded: its sources are ids too.
        """
        snapshot = self._searcher.snapshot
        shortlist = snapshot.positions(images)
        if expanded is not None:
            # Those of other shards become OWN as well: they are of no image that is verified here.
            source = snapshot.positions(expanded.source)
            expanded = ExpandedQuery(expanded.features, expanded.words, source)
        found, compared = self._searcher.verify(query, assigned, box, shortlist, stage, expanded)
        return {int(snapshot.ids[position]): evidence for position, evidence in found.items()}, compared

    def stored(self, image: int) -> Description:
        """As ``Searcher.stored``."""
        return self._searcher.stored(self._searcher.position(image))

    def local(self, image: int) -> LocalFeatures:
        """As ``Searcher.local``."""
        return self._searcher.local(self._searcher.position(image))

    def words(self, image: int) -> NDArray[np.int32]:
        """As ``Searcher.words``."""
        return self._searcher.words(image)


@dataclass(frozen=True)
class State:
    """Of the service of a collection. answering: how many replicas of each shard; nodes: how many hold any.

    problems: why replicas could not start.
    """

    version: int
    answering: tuple[int, ...]
    nodes: int
    problems: tuple[str, ...]


def keep(files: Files, replicas: int) -> State:
    """Bring the actors that serve a collection nearer to what is wanted, and say how far they are.

    Call it now and then, with the cluster joined. Actors of an older state end once each new shard is answered for.
    """
    manifest = existing_manifest(files)
    check_searchable(files, manifest)
    wanted = {
        (number, replica): actor_name(files.url, shard, replica)
        for number, shard in enumerate(manifest.shards)
        for replica in range(replicas)
    }
    there, nodes = set(actors_of(files.url)), _nodes()
    placed, problems = _placed({replica: name for replica, name in wanted.items() if name in there})
    expected = dict(placed)
    for replica, name in wanted.items():
        if name not in there:
            expected[replica] = node_for(replica, expected, nodes)
            _start(files.url, manifest.shards[replica[0]], name, expected[replica])
    count = Counter(shard for shard, _ in placed)
    answering = tuple(count[number] for number in range(len(manifest.shards)))
    if all(answering):
        _end(there - set(wanted.values()))
        moving = to_move(placed, nodes) if len(placed) == len(wanted) else None
        if moving is not None:
            _end({wanted[moving]})
    return State(manifest.version, answering, len(set(placed.values())), tuple(problems))


def stop(files: Files) -> None:
    """End all actors that serve a collection."""
    _end(set(actors_of(files.url)))


def check_searchable(files: Files, manifest: Manifest) -> None:
    """CollectionError for a collection that needs a codebook or hash function and has none yet."""
    recipe, learned = manifest.recipe, manifest.learned
    if recipe.hash is not None and learned.hash is None and any(manifest.images):
        raise CollectionError(
            f"{files.url}: its {sum(manifest.images):,} images are too few to learn a hash function from, or what "
            f"[hash] of recipe {recipe.name} names is not learned yet (`resight hash fit`); then index again"
        )
    if recipe.codebook is not None and learned.words is None and any(manifest.images):
        raise CollectionError(
            f"{files.url}: its {sum(manifest.images):,} images have too few features to learn a codebook from; index "
            "more photos"
        )


def actor_name(url: str, shard: str, replica: int) -> str:
    """Under which the actor of a shard's replica is found."""
    return f"{_prefix(url)}{shard}#{replica}"


def actors_of(url: str) -> list[str]:
    """Names of the actors of a collection that live, or are being started."""
    found = ray_module().util.list_named_actors(all_namespaces=True)
    prefix = _prefix(url)
    return sorted(a["name"] for a in found if a["namespace"] == NAMESPACE and a["name"].startswith(prefix))


def actor(name: str) -> Any:
    """The handle of an actor, or None where it is gone."""
    try:
        return ray_module().get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return None


def _prefix(url: str) -> str:
    return f"{hashlib.sha256(url.encode()).hexdigest()[:16]}:"


def _nodes() -> list[str]:
    """Nodes that can hold shards; those without cores, as a head often is, only where there are no others."""
    alive = [node for node in ray_module().nodes() if node["Alive"]]
    working = [node for node in alive if node["Resources"].get("CPU", 0) > 0]
    return [str(node["NodeID"]) for node in working or alive]


def _start(url: str, shard: str, name: str, node: str) -> None:
    ray = ray_module()
    near = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=True)
    # No cores are set aside for it, since those would be lost to indexing: it works only while it is asked. But what
    # asks for nothing at all Ray puts anywhere, so it asks for one byte of memory.
    ray.remote(ShardServer).options(
        name=name,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        num_cpus=0,
        memory=1,
        scheduling_strategy=near,
    ).remote(url, shard)


def _placed(names: dict[Replica, str]) -> tuple[dict[Replica, str], list[str]]:
    """Where the replicas that answer are, and why others do not."""
    ray = ray_module()
    asked = {handle.node.remote(): replica for replica, name in names.items() if (handle := actor(name)) is not None}
    placed, problems = {}, []
    done: Sequence[Any] = ray.wait(list(asked), num_returns=len(asked), timeout=_SECONDS)[0] if asked else ()
    for reference in done:
        try:
            placed[asked[reference]] = str(result(reference))
        except ray.exceptions.ActorUnavailableError:  # it is being started again
            continue
        except ray.exceptions.RayError as error:
            problems.append(f"shard {asked[reference][0]}: {str(error).strip().splitlines()[-1]}")
    return placed, problems


def _end(names: set[str]) -> None:
    ray = ray_module()
    for name in names:
        if (handle := actor(name)) is not None:
            ray.kill(handle, no_restart=True)
