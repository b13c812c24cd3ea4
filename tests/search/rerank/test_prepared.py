"""Stages that build something for a whole database: what they rank, and that it is built once and kept."""

import csv
import io
from types import SimpleNamespace

import numpy as np
import pytest

from resight.cli.rerank import learn_rerank, parse_stage, rerank
from resight.describe.description import Description
from resight.errors import QueryError, RecipeError
from resight.local.features import LocalFeatures, quantised
from resight.local.fuzzy import FuzzyObjects
from resight.recipes import Recipe, load_recipe
from resight.search.collection import Collection
from resight.search.examples import DescribedExample
from resight.search.rerank import (
    Database,
    Diffusion,
    ManifoldLayer,
    OfflineDiffusion,
    QueryExpansion,
    RegionalDiffusion,
    initial_ranking,
)
from resight.search.rerank.cache import Cache
from resight.search.rerank.expansion import dba
from resight.search.rerank.gss import Gss, GssModel
from resight.search.rerank.patches import Regions, search_regions
from resight.search.rerank.stages import Asked, Source, prepare
from resight.search.rerank.tokens import tokens_of
from resight.search.rerank.transformer import SCALES, RerankingTransformer, TransformerReranker
from resight.search.rerank.vectors import read_vectors, rerank_vectors
from resight.search.searcher import Searcher
from resight.store.store import New, Store

OFFLINE = "offline-diffusion:truncation=12,k=4,sources=3"


def same(found, expected):
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5, atol=1e-6)


def by_hand(database, query, tmp_path, gss):
    """What each method gives when its own class is built for the database."""
    start = initial_ranking(query, database)
    wide = Database(database.ids, dba(database.vectors, 3, 1.0))
    offline = OfflineDiffusion.build(tmp_path / "o", database, truncation=12, k=4, sources=3)
    return {
        "dba:k=3,alpha=1": QueryExpansion(k=0).rerank(query, start, wide),
        OFFLINE: offline.rerank(query, start, database),
        "ime:dimensions=8,k=4": ManifoldLayer.fit(database, 8, k=4).rerank(query, start, database),
        f"gss:model={gss},query_neighbours=4": Gss.encode(GssModel.load(gss), database, query_neighbours=4).rerank(
            query, start, database
        ),
    }


@pytest.fixture
def gss(tmp_path, database, capsys):
    """A model that the command learned from the database's vectors."""
    np.savez(tmp_path / "learn.npz", ids=database.ids, vectors=database.vectors)
    learn_rerank("gss", tmp_path / "learn.npz", tmp_path / "gss.safetensors", neighbours=3, epochs=2, quiet=True)
    assert capsys.readouterr().out.strip() == str(tmp_path / "gss.safetensors")
    return tmp_path / "gss.safetensors"


def test_stages_rank_as_their_methods_do_and_are_built_once(tmp_path, database, draw, gss):
    query = draw(1, seed=9)[0]
    for text, expected in by_hand(database, query, tmp_path, gss).items():
        stages, keep = [parse_stage(text)], tmp_path / text.split(":")[0]
        (first,) = rerank_vectors(database, [query], stages, keep=keep)
        same(first, expected)
        made = {path: path.stat().st_mtime_ns for path in keep.iterdir() if path.name != "lock"}
        (second,) = rerank_vectors(database, [query], stages, keep=keep)
        same(second, expected)
        assert {path: path.stat().st_mtime_ns for path in keep.iterdir() if path.name != "lock"} == made
        assert len(made) == 1


def test_what_was_built_for_other_vectors_or_parameters_is_not_used(tmp_path, database, draw):
    keep, query = tmp_path / "keep", draw(1, seed=9)[0]

    def kept():
        return {path.name for path in keep.iterdir() if path.name != "lock"}

    rerank_vectors(database, [query], [parse_stage(OFFLINE)], keep=keep)
    before = kept()
    rerank_vectors(database, [query], [parse_stage(OFFLINE + ",gamma=2")], keep=keep)
    assert before < kept() and len(kept()) == 2  # other parameters, beside the first
    fewer = Database(database.ids[:-1], database.vectors[:-1])
    (found,) = rerank_vectors(fewer, [query], [parse_stage(OFFLINE)], keep=keep)
    assert len(kept()) == 1 and not kept() & before  # another database, in place of both
    fresh = OfflineDiffusion.build(tmp_path / "f", fewer, truncation=12, k=4, sources=3)
    same(found, fresh.rerank(query, initial_ranking(query, fewer), fewer))
    swapped = database.vectors.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    prints = {Database(database.ids, v).fingerprint for v in (database.vectors, swapped, database.vectors.copy())}
    assert len(prints) == 2


def test_later_stages_see_the_augmented_vectors(tmp_path, database, draw):
    query = draw(1, seed=9)[0]
    (found,) = rerank_vectors(database, [query], [parse_stage("dba:k=3"), parse_stage("expansion:k=2,alpha=0")])
    wide = Database(database.ids, dba(database.vectors, 3, 0.0))
    same(found, QueryExpansion(2, 0.0).rerank(query, initial_ranking(query, wide), wide))


def test_a_damaged_entry_names_itself(tmp_path, database, draw):
    query, keep = draw(1, seed=9)[0], tmp_path / "keep"
    rerank_vectors(database, [query], [parse_stage(OFFLINE)], keep=keep)
    (entry,) = (path for path in keep.iterdir() if path.name != "lock")
    (entry / "columns.npy").write_bytes(b"x")
    with pytest.raises(RecipeError, match=f"delete {entry}"):
        rerank_vectors(database, [query], [parse_stage(OFFLINE)], keep=keep)
    (tmp_path / "file").touch()
    with pytest.raises(RecipeError, match="cannot be written"):
        rerank_vectors(database, [query], [parse_stage(OFFLINE)], keep=tmp_path / "file" / "keep")


@pytest.fixture
def regions(database, draw):
    """Three regions of each image of the database."""
    rng = np.random.default_rng(3)
    corner = rng.uniform(0, 50, (180, 2)).astype(np.float32)
    return Regions(np.repeat(database.ids, 3), np.column_stack([corner, corner + 10]), draw(180, seed=4))


def test_regions_of_a_file_are_diffused_over_and_found_with_their_box(tmp_path, regions, draw, capsys):
    known, asked = tmp_path / "known.npz", tmp_path / "asked.npz"
    np.savez(known, ids=regions.ids, vectors=regions.vectors, boxes=regions.boxes)
    queries = draw(3, seed=11)
    np.savez(asked, ids=np.array([7, 5, 7]), vectors=queries)
    ids, vectors = read_vectors(asked).queries()
    assert ids.tolist() == [7, 5] and [len(v) for v in vectors] == [2, 1]
    database = read_vectors(known).database
    sums = np.stack([regions.vectors[regions.ids == image].sum(axis=0) for image in database.ids])
    np.testing.assert_allclose(database.vectors, sums / np.linalg.norm(sums, axis=1, keepdims=True), atol=1e-6)

    stage = parse_stage("regional-diffusion:k=5,sources=6")
    found = rerank_vectors(database, vectors, [stage], regions=regions)
    several = RegionalDiffusion(diffusion=Diffusion(k=5, sources=6))
    joint = queries[[0, 2]].sum(axis=0)
    joint /= np.linalg.norm(joint)
    rows = Database(regions.ids, regions.vectors)
    same(found[0], several.rerank(queries[[0, 2]], initial_ranking(joint, database), rows))

    rerank(known, asked, ["patches:depth=none"], 4, quiet=True)
    lines = [line for line in csv.DictReader(io.StringIO(capsys.readouterr().out)) if line["query"] == "5"]
    best = search_regions(queries[1], regions, 4)
    assert [int(line["id"]) for line in lines] == best.ids.tolist()
    for line, evidence in zip(lines, best.evidence, strict=True):
        np.testing.assert_allclose([float(line[key]) for key in ("x1", "y1", "x2", "y2")], evidence.box, rtol=1e-4)


@pytest.mark.parametrize("queries", [1, 2])
def test_fuzzy_objects_rank_as_they_score(database, regions, draw, queries):
    asked = draw(queries, seed=11)
    stage = parse_stage("fuzzy-objects:depth=20,objects=2,sparsity=1,seed=3")
    (found,) = rerank_vectors(database, [asked], [stage], regions=regions)
    joint = asked.sum(axis=0)
    start = initial_ranking((joint / np.linalg.norm(joint)).astype(np.float32), database)
    scores, rows = {}, {}
    for image in start.ids[:20].tolist():
        own = np.flatnonzero(regions.ids == image)
        like = FuzzyObjects.of(regions.vectors[own], 2, sparsity=1, seed=3).scores(asked)
        scores[image], rows[image] = like.max(axis=1).mean(), own[like.sum(axis=0).argmax()]
    order = sorted(scores, key=lambda image: (-scores[image], image))
    assert found.ids[:20].tolist() == order and found.ids[20:].tolist() == start.ids[20:].tolist()
    np.testing.assert_allclose(found.scores[:20], [scores[image] for image in order], rtol=1e-6)
    for image, evidence in zip(order, found.evidence, strict=False):
        np.testing.assert_allclose(evidence.box, regions.boxes[rows[image]])


def test_what_a_source_lacks_is_said(tmp_path, database, draw):
    query = draw(1, seed=9)[0]
    for text, said in (
        ("patches", "boxes"),
        ("regional-diffusion", "boxes"),
        (f"transformer:model={tmp_path / 'm.pt'}", r"\[local\]"),
        (f"gss:model={tmp_path / 'none'}", "cannot be read"),
    ):
        with pytest.raises(RecipeError, match=said):
            rerank_vectors(database, [query], [parse_stage(text)])
    with pytest.raises(RecipeError, match="choose gss"):
        learn_rerank("ime", tmp_path / "v.npz", tmp_path / "m")
    np.savez(tmp_path / "twice.npz", ids=np.array([1, 1]), vectors=draw(2), boxes=np.zeros((2, 4)))
    with pytest.raises(QueryError, match=r"twice\.npz.*empty"):
        read_vectors(tmp_path / "twice.npz")


def test_a_model_of_another_sum_is_refused(database, draw, gss):
    stage = parse_stage(f"gss:model={gss},model_sha256=ab")
    with pytest.raises(RecipeError, match="sha256"):
        rerank_vectors(database, [draw(1)[0]], [stage])


def recipe(*stages, base="gem-densenet169", dimensions=6):
    table = load_recipe(base).model_dump(by_alias=True)
    table["global"]["dimensions"] = dimensions
    return Recipe.model_validate(table | {"rerank": list(stages)})


def new(vectors, local=None, start=0):
    items = []
    for place, vector in enumerate(vectors):
        description = Description((600, 400), vector, None if local is None else local[place])
        items.append(New(f"/{start + place}.png", str(start + place), 1, 1, description))
    return items


def test_a_collection_builds_once_for_each_of_its_states(tmp_path, draw):
    vectors, query = draw(40), Description((9, 9), draw(1, seed=9)[0], None)
    stage = {"method": "offline-diffusion", "truncation": 12, "k": 4, "sources": 3}
    folder = tmp_path / "c"

    def kept():
        return sorted((p.name, p.stat().st_mtime_ns) for p in (folder / "rerank").iterdir() if p.name != "lock")

    with Store.create(folder, recipe(stage), "f") as store:
        store.add(new(vectors[:39]), [], None)
        Searcher(store).rank(query, None, None)
        first = kept()
        found, _ = Searcher(store).rank(query, None, None)
        assert kept() == first
        store.add(new(vectors[39:], start=39), [], None)
        found, _ = Searcher(store).rank(query, None, None)
        grown = kept()
        assert len(grown) == 1 and grown != first
        database = Database(store.snapshot().ids, vectors)
        fresh = OfflineDiffusion.build(tmp_path / "f", database, truncation=12, k=4, sources=3)
        same(found, fresh.rerank(query.global_descriptor, initial_ranking(query.global_descriptor, database), database))
        store.remove([int(database.ids[0])])
        found, _ = Searcher(store).rank(query, None, None)
        assert database.ids[0] not in found.ids and kept() != grown


def test_a_collection_is_made_ready_when_images_are_indexed(tmp_path):
    """The real verb on no photos: nothing is described, so no network is loaded, but what there is is made ready."""
    stage = {"method": "dba", "k": 2}
    vectors = np.eye(6, dtype=np.float32)
    with Store.create(tmp_path / "c", recipe(stage), "f") as store:
        store.add(new(vectors), [], None)
        describer = SimpleNamespace(fingerprint="f", network=None, recipe=store.recipe)
        collection = Collection(store, describer)
        (tmp_path / "empty").mkdir()
        collection.add([tmp_path / "empty"])
        assert any(p.name.startswith("dba-") for p in (tmp_path / "c" / "rerank").iterdir())


def local(count, seed, size):
    rng = np.random.default_rng(seed)
    descriptors = rng.normal(size=(count, 32)).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    columns = rng.uniform(0, 300, (count, 2)).astype(np.float32), np.full(count, size, np.float32)
    zeros = np.zeros(count, np.float32)
    return quantised(LocalFeatures(*columns, zeros, zeros, descriptors))


def test_a_transformer_re_ranks_what_a_collection_keeps(tmp_path, draw):
    vectors = draw(9)
    features = [local(5 + place, place, 291.0) for place in range(9)]
    model = RerankingTransformer(6, 32, heads=2, layers=1, feedforward=16, seed=3)
    model.save(tmp_path / "rrt.safetensors")
    descriptions = {i: Description((600, 400), vectors[i], features[i]) for i in range(9)}
    database = Database(np.arange(9), vectors)
    stage = parse_stage(f"transformer:model={tmp_path / 'rrt.safetensors'},depth=6,features=4,heads=2")
    prepared = prepare([stage], Source(database, Cache(tmp_path / "k"), descriptions=descriptions))
    asked = Description((600, 400), draw(1, seed=9)[0], local(6, 77, 582.0))
    start = initial_ranking(asked.global_descriptor, database)
    found = prepared.rerank(
        Asked(asked.global_descriptor, asked.global_descriptor[None], (DescribedExample(asked),)), start
    )
    gallery = {i: tokens_of(each, 4, 1024) for i, each in descriptions.items()}
    expected = TransformerReranker(model, gallery, 6).rerank(tokens_of(asked, 4, 1024), start)
    same(found, expected)
    assert SCALES[tokens_of(asked, 4, 1024).scales[0]] == 2.0  # twice the field of scale 1
    assert len(gallery[8].descriptors) == 4
    np.testing.assert_allclose(np.linalg.norm(gallery[8].descriptors, axis=1), 1, atol=0.02)
