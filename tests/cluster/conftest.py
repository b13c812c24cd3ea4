"""A Ray cluster of node processes on this machine, and collections in shards that are made without one."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from resight.cluster import chunks
from resight.cluster.files import Files
from resight.cluster.manifest import Learned, Manifest, Words, publish, shard_of
from resight.cluster.shards import Member, build_shard, shard_name
from resight.images.sources import Source
from resight.store.catalogue import FILE
from resight.store.store import Store
from resight.store.workers import Outcome

SOURCE = str(Path(__file__).resolve().parents[2] / "src")


@pytest.fixture(scope="session", autouse=True)
def own_copies(tmp_path_factory):
    """What this machine copies of collections goes where the tests' files go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESIGHT_CACHE", str(tmp_path_factory.mktemp("copies")))
        yield


@pytest.fixture(scope="module")
def cluster():
    """Three nodes as processes: a head without cores and two of one core each. Tests may kill and add nodes."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        path = os.pathsep.join(filter(None, [SOURCE, os.environ.get("PYTHONPATH")]))
        for name, value in (("PYTHONPATH", path), ("OMP_NUM_THREADS", "1"), ("RAY_USAGE_STATS_ENABLED", "0")):
            patch.setenv(name, value)
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        nodes.workers = [nodes.add_node(num_cpus=1) for _ in range(2)]
        yield nodes
        ray.shutdown()
        nodes.shutdown()


@pytest.fixture(scope="session")
def sharded():
    """Makes a collection in shards by its parts and without a cluster, of ``New`` items; gives its manifest."""
    return _sharded


def _sharded(place, recipe, items, *, shards=3, together=2, codebook=None, signer=None, function=None) -> Manifest:
    pytest.importorskip("fsspec")
    files, work = Files(place), Path(place) / "work"
    pairs = [
        (
            Outcome(Source(n.origin, n.bytes, n.modified_ns), n.digest, n.description.size, n.description.local),
            n.description.global_descriptor,
        )
        for n in items
    ]
    files.write("chunks/all", chunks.pack(pairs))
    words = None
    if codebook is not None:
        codebook.save(Path(place) / "words.safetensors")
        if signer is not None:
            signer.save(Path(place) / "signer.safetensors")
        name = None if signer is None else "signer.safetensors"
        words = Words("words.safetensors", name, {"words": len(codebook), "fitted_on": "made up"})
    with Store.create(work, recipe, "f00d") as store:
        store.add([_bare(n) for n in items], [], None)
        rows = store.catalogue.rows("SELECT id, origin, digest, bytes, modified_ns FROM images ORDER BY id")
    if function is not None:
        function.save(Path(place) / "function.safetensors")
    learned = Learned(words, None if function is None else "function.safetensors")
    members = [[] for _ in range(shards)]
    for place_in_chunk, row in enumerate(rows):
        members[shard_of(row[0], shards, together)].append(Member(*row, "chunks/all", place_in_chunk))
    names = tuple(shard_name(number, own, learned, recipe, "f00d") for number, own in enumerate(members))
    for name, own in zip(names, members, strict=True):
        build_shard(files.url, recipe, "f00d", name, own, learned, None)
    files.put(work / FILE, "catalogues/all.sqlite")
    images = tuple(map(len, members))
    manifest = Manifest(1, recipe, "f00d", "catalogues/all.sqlite", learned, names, images, together)
    publish(files, manifest)
    return manifest


def _bare(item):
    """The same without descriptors, as a catalogue of what lies elsewhere has it."""
    return replace(item, description=replace(item.description, local=None, global_descriptor=None))


@pytest.fixture(scope="session")
def assert_same():
    """Asserts that two rankings are equal: ids, scores to the last bit, and the evidence."""
    return _assert_same


def _assert_same(found, expected):
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert (found.threshold, found.calibrated) == (expected.threshold, expected.calibrated)
    for one, other in zip(found.evidence, expected.evidence, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert (one.inliers, one.matches, one.box, one.example) == (
                other.inliers,
                other.matches,
                other.box,
                other.example,
            )
            np.testing.assert_array_equal(one.result_xy, other.result_xy)
