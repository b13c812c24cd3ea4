"""A real cluster of three node processes and more: what is indexed and found while nodes die and join.

Everything is compared with one machine: ids, words, vectors, rankings with their scores.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import psutil
import pytest

pytest.importorskip("ray")

from resight.cluster.collection import ClusterCollection, failures
from resight.cluster.engine import connect, in_order
from resight.cluster.files import Files
from resight.cluster.fitting import fit_pca_over, vectors_over
from resight.cluster.indexing import index
from resight.cluster.manifest import existing_manifest, shard_of
from resight.cluster.serving import actor, actor_name, keep, stop
from resight.cluster.shards import fetch_words, fetched_catalogue, opened
from resight.describe.description import Description
from resight.errors import CollectionError, RecipeError
from resight.recipes import Recipe, load_recipe
from resight.search.collection import Collection, Example
from resight.search.examples import DescribedExample
from resight.search.searcher import Searcher
from resight.store.hash_codes import hash_function, refresh_codes
from resight.store.store import New, Store
from resight.store.vector_indexing import vector_blocks, vector_sample
from resight.store.where_text import parse_all

pytestmark = pytest.mark.slow

ROWS = "SELECT id, origin, digest, bytes, modified_ns, width, height, missing FROM images ORDER BY id"
FAILED = "SELECT origin, reason, bytes, modified_ns FROM failures ORDER BY origin"


@pytest.fixture(scope="module")
def few(recipe):
    """The recipe with few features, which is quick."""
    return recipe.model_copy(update={"local": recipe.local.model_copy(update={"max_features": 300})})


def alone(path, recipe, photos):
    there = Collection.exists(path)
    with Collection.open(path, write=True) if there else Collection.create(path, recipe) as collection:
        return collection.add([photos], workers=1)


def assert_as_alone(place, path):
    """A collection in shards holds what the one at `path` does."""
    files = Files(place)
    manifest = existing_manifest(files)
    with Store(path, write=False) as one:
        with Store(fetched_catalogue(files, manifest.catalogue), write=False) as catalogue:
            assert catalogue.catalogue.rows(ROWS) == one.catalogue.rows(ROWS)
            assert catalogue.catalogue.rows(FAILED) == one.catalogue.rows(FAILED)
            assert catalogue.catalogue.rows("SELECT * FROM metadata") == one.catalogue.rows("SELECT * FROM metadata")
        expected = Searcher(one)
        assert manifest.learned.words.facts == one.catalogue.get("codebook")
        codebook, _ = fetch_words(files, manifest.learned.words)
        np.testing.assert_array_equal(codebook.words, expected.snapshot.codebook.words)
        seen = []
        for name in manifest.shards:
            with opened(files, name) as store:
                found = Searcher(store)
                for position, image in enumerate(found.snapshot.ids.tolist()):
                    there = expected.position(image)
                    np.testing.assert_array_equal(found.words(image), expected.words(image))
                    local, other = found.stored(position).local, expected.stored(there).local
                    np.testing.assert_array_equal(local.descriptors, other.descriptors)
                    np.testing.assert_array_equal(local.xy, other.xy)
                    seen.append(image)
        assert sorted(seen) == expected.snapshot.ids.tolist()


@contextmanager
def served(files, replicas, cluster):
    """The collection, held by actors that all answer."""
    connect(cluster.address)
    try:
        until(lambda: min(keep(files, replicas).answering) == replicas)
        yield
    finally:
        stop(files)


def until(true, seconds=150):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.2)


def test_a_node_dies_while_indexing_and_one_joins(cluster, tmp_path, photos, few):
    place, killed = tmp_path / "shards", []

    def kill():
        until(lambda: len(Files(place).names("chunks")) >= 2)
        cluster.remove_node(cluster.workers.pop(0), allow_graceful=False)
        killed.append(len(Files(place).names("chunks")))

    killer = threading.Thread(target=kill)
    killer.start()
    report = index(place, [photos], cluster=cluster.address, recipe=few, shards=3, chunk=1)
    killer.join()
    assert killed and killed[0] < 10  # of 12
    assert (report.added, report.failed) == (12, 0)
    expected = alone(tmp_path / "one", few, photos)
    assert replace(report, seconds=0) == replace(expected, seconds=0)
    assert_as_alone(place, tmp_path / "one")
    assert Files(place).names("chunks") == []

    cluster.workers.append(cluster.add_node(num_cpus=1))
    joined = cluster.workers[-1].node_id
    import ray

    def where():
        time.sleep(0.5)
        return ray.get_runtime_context().get_node_id()

    until(lambda: ray.cluster_resources().get("CPU") == 2)
    assert joined in set(in_order(where, [()] * 8))


PROGRAM = """
import sys
from resight.cluster.indexing import index
index(sys.argv[1], [sys.argv[2]], cluster=sys.argv[3], recipe=None, shards=2, chunk=1)
"""


def test_an_interrupted_run_goes_on(cluster, tmp_path, photos, python):
    place = tmp_path / "shards"
    files = Files(place)
    process = python(PROGRAM, place, photos, cluster.address)
    until(lambda: process.poll() is not None or len(files.names("chunks")) >= 3)
    assert process.poll() is None, process.communicate()
    process.kill()
    process.wait()
    time.sleep(1)  # for Ray to end its tasks
    assert not (place / "manifest.json").exists()
    times = {name: (place / name).stat().st_mtime_ns for name in files.names("chunks")}
    assert 3 <= len(times) < 12
    kept = []

    def look(state):
        if state.phase == "building shards" and not kept:
            kept.append({name: (place / name).stat().st_mtime_ns for name in times})
            assert len(files.names("chunks")) == 12

    recipe = load_recipe("rootsift-asmk")
    assert index(place, [photos], cluster=cluster.address, shards=2, chunk=1, progress=look).added == 12
    assert kept == [times]
    alone(tmp_path / "one", recipe, photos)
    assert_as_alone(place, tmp_path / "one")


def test_changes_are_taken_up_as_on_one_machine(cluster, tmp_path, photos, few, save, pictures):
    folder, place = tmp_path / "photos", tmp_path / "shards"
    shutil.copytree(photos, folder)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")

    def both(**options):
        found = index(place, [folder], cluster=cluster.address, shards=3, chunk=2, **options)
        expected = alone(tmp_path / "one", few, folder)
        assert replace(found, seconds=0) == replace(expected, seconds=0)
        assert_as_alone(place, tmp_path / "one")
        return found

    assert both(recipe=few).failed == 1
    assert [Path(f.origin).name for f in failures(place)] == ["broken.png"] and failures(place)[0].reason
    shards = existing_manifest(Files(place)).shards
    again = both()
    assert (again.unchanged, again.added) == (12, 0) and existing_manifest(Files(place)).shards == shards
    (folder / "sub").mkdir()
    (folder / "moon.png").rename(folder / "sub/moon-moved.png")
    (folder / "grass.png").unlink()
    shutil.copy(folder / "coffee-1.png", folder / "copy.png")
    save(folder / "brick.png", pictures["brick"][:200])
    save(folder / "new.png", pictures["coffee"][:, ::-1].copy())
    os.utime(folder / "rocket-1.png", ns=(1, 1))
    changed = both()
    assert (changed.added, changed.changed, changed.moved, changed.vanished) == (2, 1, 1, 1)
    assert existing_manifest(Files(place)).images == (6, 4, 4)
    with pytest.raises(CollectionError, match="has 3 shards, which stays so"):
        index(place, [folder], cluster=cluster.address, shards=4)
    with pytest.raises(CollectionError, match="was made with recipe rootsift-asmk, and rootsift-bow as named differs"):
        index(place, [folder], cluster=cluster.address, recipe=load_recipe("rootsift-bow"))
    reranked = load_recipe("gem-dsm")
    with pytest.raises(CollectionError, match=r"has \[\[rerank\]\], which looks at all images together"):
        index(tmp_path / "other", [folder], cluster=cluster.address, recipe=reranked)


def test_a_network_describes_on_the_nodes(cluster, tmp_path, photos):
    """Up to rounding, since a network takes several pictures at a time, and here they come in other groups."""
    torch = pytest.importorskip("torch")
    import safetensors.torch

    from resight.networks.architectures import create_network

    torch.manual_seed(0)
    weights = {k: v.contiguous() for k, v in create_network("resnet10t").state_dict().items()}
    safetensors.torch.save_file(weights, tmp_path / "weights.safetensors")
    table = load_recipe("gem-densenet169").model_dump(by_alias=True, exclude_none=True)
    table["global"] |= {"network": "resnet10t", "layer": "layer3", "max_side": 128, "whiten": "none"}
    table["global"] |= {"dimensions": 256, "weights": str(tmp_path / "weights.safetensors"), "revision": ""}
    recipe, place = Recipe.model_validate(table), tmp_path / "shards"
    assert index(place, [photos], cluster=cluster.address, recipe=recipe, shards=2, chunk=3).added == 12
    alone(tmp_path / "one", recipe, photos)
    with Store(tmp_path / "one", write=False) as store:
        snapshot, expected = store.snapshot(), dict(flat(vector_blocks(store, store.snapshot())))
    for name in existing_manifest(Files(place)).shards:
        with opened(Files(place), name) as store:
            for image, vector in flat(vector_blocks(store, store.snapshot())):
                np.testing.assert_allclose(vector, expected.pop(image), atol=1e-5)
    assert not expected and len(snapshot) == 12
    (tmp_path / "weights.safetensors").unlink()
    with pytest.raises(RecipeError, match=r"weights\.safetensors"):
        index(place, [photos], cluster=cluster.address)


def flat(blocks):
    """Pairs of an image and its vector."""
    return ((int(image), vector) for ids, vectors in blocks for image, vector in zip(ids, vectors, strict=True))


@pytest.fixture(scope="module")
def made(tmp_path_factory, photos, few, sharded):
    """By the name of a recipe: a collection on one machine, and the place of the same in shards."""
    kept = {}

    def vectors(name):
        """A global descriptor that verification checks: made up, alike for two views of a thing."""
        seed = sum(name.split("-")[0].split(".")[0].encode())
        x = np.random.default_rng(seed).normal(size=8) + 0.3 * np.random.default_rng(len(name)).normal(size=8)
        return (x / np.linalg.norm(x)).astype(np.float32)

    def of(name):
        if name in kept:
            return kept[name]
        folder = tmp_path_factory.mktemp(name)
        by_vectors = name in ("global", "hash")
        if by_vectors:
            table = load_recipe("rmac-densenet169-verified").model_dump(by_alias=True)
            table["global"]["dimensions"] = 8
            table["local"] = few.model_dump(by_alias=True)["local"]
            table["verify"]["shortlist"] = 5
            table["calibration"] = {"intercept": -5.0, "inliers": 2.0, "similarity": 10.0, "fitted_on": "by hand"}
            if name == "hash":
                table |= {"filter": "hash", "hash": {"method": "lsh", "bits": 8, "distance": "asymmetric"}}
                table["expansion"] = None
            else:
                table["expansion"] = {"joins": "vectors", "inliers": 10, "accept": 0.5}
            recipe = Recipe.model_validate(table)
        else:
            recipe = few if name == "rootsift-asmk" else load_recipe(name)
            calibration = None if recipe.verify is None else few.calibration
            recipe = recipe.model_copy(update={"local": few.local, "calibration": calibration})
        plain = few if by_vectors else recipe
        alone(folder / "source", plain, photos)
        with Store(folder / "source", write=False) as source:
            found = Searcher(source)
            codebook, signer = found.snapshot.codebook, found.snapshot.signer
            rows = source.catalogue.rows("SELECT origin, digest, bytes, modified_ns FROM images ORDER BY id")
            items = [
                New(*row, found.stored(position), {"number": float(position)}) for position, row in enumerate(rows)
            ]
        if by_vectors:
            items = [
                replace(
                    n, description=Description(n.description.size, vectors(Path(n.origin).name), n.description.local)
                )
                for n in items
            ]
        with Store.create(folder / "one", recipe, "f00d") as store:
            store.start_generation(codebook, {"words": len(codebook), "fitted_on": "made up"}, signer)
            store.add(items, [], codebook)
            refresh_codes(store, lambda _: None)
            function = hash_function(store)
        sharded(folder / "shards", recipe, items, codebook=codebook, signer=signer, function=function)
        kept[name] = folder
        return folder

    return of


def queries(photos):
    coffee, rocket = photos / "coffee-2.jpg", photos / "rocket-1.png"
    yield lambda c: c.search(1)
    yield lambda c: c.search(coffee, box=(40, 20, 280, 190))
    yield lambda c: c.search(rocket, top=3)
    yield lambda c: c.search(rocket, where=parse_all(["number >= 4"]))
    yield lambda c: c.search_examples([Example(coffee), Example(rocket, weight=0.5), Example(2, weight=-0.4)])


@pytest.mark.parametrize("name", ["rootsift-bow", "rootsift-hamming", "rootsift-asmk-expanded"])
def test_rankings_are_those_of_one_machine(cluster, made, photos, assert_same, name):
    folder = made(name)
    with (
        served(Files(folder / "shards"), 1, cluster),
        ClusterCollection.join(folder / "shards", cluster=cluster.address) as shards,
        Collection.open(folder / "one") as one,
    ):
        for ask in queries(photos):
            expected = ask(one)
            assert expected.accepted
            assert_same(ask(shards), expected)
            assert not shards.missing
        assert [asdict(e) for e in shards.entries()] == [asdict(e) for e in one.entries()]
        assert (shards.info().images, shards.info().pending) == (12, 0)
        for write in (lambda: shards.remove([1]), lambda: shards.add([photos]), shards.verify):
            with pytest.raises(CollectionError):
                write()


@pytest.mark.parametrize("name", ["global", "hash"])
def test_rankings_by_vectors_are_those_of_one_machine(cluster, made, assert_same, name, monkeypatch):
    """Of stored descriptions, since there is no network of these vectors; and what is learned over the shards.

    One machine finds the nearest codes by an index here, as of many images; it finds as many as there are.
    """
    monkeypatch.setattr("resight.search.searcher.FEW", 5)
    folder = made(name)
    with (
        served(Files(folder / "shards"), 1, cluster),
        ClusterCollection.join(folder / "shards", cluster=cluster.address) as shards,
        Collection.open(folder / "one") as one,
    ):
        for image in (1, 4, 9):
            expected = one.search(image)
            assert_same(shards.search(image), expected)
        examples = [DescribedExample(one._open_searcher().stored(p), None, w) for p, w in ((0, 1.0), (5, 0.7))]
        expected, _ = one._open_searcher().rank_examples(examples, None)
        assert_same(shards._open_searcher().rank_examples(examples, None)[0], expected)
        vectors = np.stack([one._open_searcher().stored(p).global_descriptor for p in range(12)]).astype(float)
    with Store(folder / "one", write=False) as store:
        expected = vector_sample(store, store.snapshot(), 7, seed=3)
    names = existing_manifest(Files(folder / "shards")).shards
    np.testing.assert_array_equal(vectors_over(str(folder / "shards"), store.recipe, names, 7, seed=3), expected)
    found = fit_pca_over(folder / "shards", 3, descriptor="made up")
    values, axes = np.linalg.eigh(np.cov(vectors.T))
    np.testing.assert_allclose(np.abs(found.matrix @ axes[:, ::-1][:, :3]), np.eye(3), atol=1e-5)
    np.testing.assert_allclose(found.mean, vectors.mean(axis=0), atol=1e-6)
    assert values[-3] > 1.01 * values[-4]  # so that the axes are defined


def test_a_node_dies_while_searching_and_one_joins(cluster, made, photos, assert_same):
    folder = made("rootsift-asmk")
    files = Files(folder / "shards")
    with (
        served(files, 2, cluster),
        ClusterCollection.join(folder / "shards", cluster=cluster.address) as shards,
        Collection.open(folder / "one") as one,
    ):
        assert keep(files, 2).nodes == 2
        expected = [one.search(image) for image in (1, 4, 6)]
        with hung(cluster.workers[1]):
            assert_same(shards.search(1), expected[0])
            assert not shards.missing
        killed = []

        def kill():
            time.sleep(0.5)
            cluster.remove_node(cluster.workers.pop(0), allow_graceful=False)
            killed.append(time.monotonic())

        killer = threading.Thread(target=kill)
        killer.start()
        after = 0
        while after < 3:
            for image, ranking in zip((1, 4, 6), expected, strict=True):
                assert_same(shards.search(image), ranking)
                assert not shards.missing
            after += bool(killed) and time.monotonic() > killed[0] + 1
        killer.join()
        cluster.workers.append(cluster.add_node(num_cpus=1))
        joined = cluster.workers[-1].node_id

        def nodes():
            keep(files, 2)
            held = [actor(actor_name(files.url, s, r)) for s in existing_manifest(files).shards for r in range(2)]
            import ray

            return {ray.get(handle.node.remote(), timeout=10) for handle in held if handle is not None}

        until(lambda: joined in quietly(nodes))
        assert_same(shards.search(1), expected[0])


@contextmanager
def hung(node):
    """Nothing that a node's actors are asked is answered meanwhile, though they live."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    actors = [child for child in raylet.children(recursive=True) if "ShardServer" in " ".join(child.cmdline())]
    assert len(actors) == 3
    for process in actors:
        process.suspend()
    try:
        yield
    finally:
        for process in actors:
            process.resume()


def quietly(ask):
    """The answer, or nothing while actors are being started."""
    import ray

    try:
        return ask()
    except ray.exceptions.RayError:
        return ()


def test_a_search_that_misses_a_shard_says_so(cluster, made, assert_same):
    folder = made("rootsift-asmk")
    files = Files(folder / "shards")
    with (
        served(files, 1, cluster),
        ClusterCollection.join(folder / "shards", cluster=cluster.address, limit=8.0) as shards,
        Collection.open(folder / "one") as one,
    ):
        expected = one.search(1)
        assert_same(shards.search(1), expected)
        lost = existing_manifest(files).shards[1]  # of the images 3, 4, 9 and 10
        import ray

        ray.kill(actor(actor_name(files.url, lost, 0)), no_restart=True)
        found = shards.search(1)
        assert (shards.missing.shards, shards.missing.images, shards.missing.total) == ((1,), 4, 12)
        assert "shard 1 does not answer: 4 of 12 images were not searched" in str(shards.missing)
        left = np.setdiff1d(np.arange(12), [2, 3, 8, 9])
        searcher = one._open_searcher()
        assert_same(found, searcher.among(left).rank(searcher.stored(0), None, None)[0])
        with pytest.raises(CollectionError, match="no replica of shard 1 answers; is `resight serve"):
            shards.search(3)  # whose description lies there
        until(lambda: min(keep(files, 1).answering) == 1)
        assert_same(shards.search(1), expected)
        assert not shards.missing


def test_a_node_dies_with_the_only_replicas(cluster, made, assert_same):
    """Until they are held elsewhere, each ranking is that of the images that it says it has searched."""
    folder = made("rootsift-asmk")
    files = Files(folder / "shards")
    import ray

    with (
        served(files, 1, cluster),
        ClusterCollection.join(folder / "shards", cluster=cluster.address, limit=2.0) as shards,
        Collection.open(folder / "one") as one,
    ):
        handles = [actor(actor_name(files.url, shard, 0)) for shard in existing_manifest(files).shards]
        homes = [ray.get(handle.node.remote()) for handle in handles]
        assert len(set(homes)) == 2
        victim = next(node for node in cluster.workers if node.node_id == homes[0])
        query, searcher = one._described(1, None), one._open_searcher()
        cluster.workers.remove(victim)
        cluster.remove_node(victim, allow_graceful=False)
        cluster.workers.append(cluster.add_node(num_cpus=1))

        def whole():
            found, _ = shards._open_searcher().rank(query, None, None)
            there = ~np.isin(shard_of(searcher.snapshot.ids, 3, 2), shards.missing.shards)
            assert_same(found, searcher.among(np.flatnonzero(there)).rank(query, None, None)[0])
            assert shards.missing.images == np.count_nonzero(~there)
            keep(files, 1)
            return not shards.missing

        until(whole)
        assert_same(shards.search(1), one.search(1))


def resight(*arguments):
    return subprocess.Popen(
        [sys.executable, "-c", "from resight.cli.main import main; main()", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_the_command_line(cluster, tmp_path, photos):
    place = tmp_path / "shards"
    (tmp_path / "photos").mkdir()
    for name in ("coffee-1.png", "coffee-2.jpg", "moon.png", "rocket-1.png", "rocket-2.jpg"):
        shutil.copy(photos / name, tmp_path / "photos")
    (tmp_path / "photos/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    at = ("--cluster", cluster.address)
    indexing = resight("index", tmp_path / "photos", "--into", place, "--shards", 2, *at)
    out, err = indexing.communicate(timeout=300)
    assert indexing.returncode == 0 and out.startswith("5 added, 1 failed"), err
    assert "1 file could not be indexed:" in err and f"{tmp_path}/photos/broken.png: " in err
    alone(tmp_path / "one", load_recipe("rootsift-asmk"), tmp_path / "photos")

    query = photos / "coffee-2.jpg"

    def as_alone(count):
        finding = resight("search", place, query, *at, "--json", "--all")
        out, err = finding.communicate(timeout=300)
        assert finding.returncode == 0 and err == "", err
        expected = resight("search", tmp_path / "one", query, "--json", "--all").communicate(timeout=300)[0]
        found, expected = (json.loads(text)["queries"][0] for text in (out, expected))
        assert found["results"] == expected["results"] and len(found["results"]) == count

    serving = resight("serve", place, *at, "--replicas", 1)
    try:
        told(serving, "version 1: 2 of 2 replicas answer")
        as_alone(5)
    finally:
        serving.kill()
    serving.wait()
    as_alone(5)  # the actors stay
    serving = resight("serve", place, *at, "--replicas", 1)
    try:
        told(serving, "version 1: 2 of 2 replicas answer")
        shutil.copy(photos / "coffee-1.png", tmp_path / "photos/again.png")
        (tmp_path / "photos/broken.png").unlink()
        indexing = resight("index", tmp_path / "photos", "--into", place, *at)
        out, err = indexing.communicate(timeout=300)
        assert indexing.returncode == 0 and out.startswith("1 added, 5 unchanged"), (out, err)
        alone(tmp_path / "one", load_recipe("rootsift-asmk"), tmp_path / "photos")
        told(serving, "version 2: 2 of 2 replicas answer")
        as_alone(6)
    finally:
        serving.send_signal(signal.SIGINT)
        _, err = serving.communicate(timeout=120)
    assert serving.returncode == 0 and "stopped: the shards are no longer held" in err
    for more, code in (((), 2), (("--partial",), 1)):
        finding = resight("search", place, query, *at, "--patience", 1, *more)
        out, err = finding.communicate(timeout=300)
        assert finding.returncode == code, err
        assert "not answer: 6 of 6 images were not searched" in err


def told(process, text):
    """Reads what a process says until it says this."""
    lines = []
    while not lines or not lines[-1].startswith(text):
        lines.append(process.stdout.readline())
        assert lines[-1], (lines, process.communicate())
