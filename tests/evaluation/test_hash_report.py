"""Hash reports: figures beside loops over their definitions, vectors beside `evaluate` with a small random network."""

import json
import shutil
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from resight.errors import CollectionError, RecipeError, ResightError
from resight.evaluation import LabelledSet, Query, evaluate, load_labelled
from resight.evaluation.hash_vectors import Described, describe
from resight.evaluation.hashing import compare
from resight.fitted import PhotoSketch
from resight.hashing.methods import fit_method
from resight.recipes import Recipe, load_recipe

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def described():
    """Ten things of four images each, then 80 images that show none; three queries are not in the database."""
    rng = np.random.default_rng(0)
    things = rng.normal(size=(10, 24))
    x = np.concatenate([np.repeat(things, 4, axis=0) + rng.normal(size=(40, 24)) * 0.9, rng.normal(size=(80, 24))])
    asked = things[:3] + rng.normal(size=(3, 24)) * 0.9
    x, asked = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x + 0.5, asked + 0.5))
    paths = tuple(f"{i}.jpg" for i in range(120))
    fours = [paths[4 * t : 4 * t + 4] for t in range(10)]
    queries = [Query(four[0], frozenset(four[1:]), frozenset()) for four in fours]
    queries += [Query(f"new{t}.jpg", frozenset(fours[t][1:]), frozenset(fours[t][:1])) for t in range(3)]
    queries.append(Query("100.jpg", frozenset()))
    root = Path("/set")
    labelled = LabelledSet("set", root / "gt.json", root, paths, tuple(queries), distractors=80)
    return Described(
        labelled=labelled,
        database=x.astype(np.float32),
        rows={path: row for row, path in enumerate(paths)},
        queries=np.concatenate([x[:40:4], asked, x[100:101]]).astype(np.float32),
        learn=x[40:].astype(np.float32),
        fitted_on="the rest",
        photos=PhotoSketch.of(["ab" * 16]),
        recipe="made up",
        fingerprint="f" * 64,
        fitted_share={"hash functions": 0.0},
    )


def trapezoidal(ranked, positives):
    """Philbin et al.'s compute_ap, by its loop."""
    old_recall, old_precision, area, hits = 0.0, 1.0, 0.0, 0
    for count, path in enumerate(ranked, 1):
        hits += path in positives
        recall, precision = hits / len(positives), hits / count
        area += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
    return area


def by_loops(described, distance, last=lambda query, path: 0):
    """mAP of distance(place of query, row); equals in the order of `last`."""
    found = []
    for place, query in enumerate(described.labelled.queries):
        if not query.positives:
            continue
        paths = [path for path in described.rows if path not in query.junk and path != query.path]
        ranked = sorted(paths, key=lambda p: (distance(place, described.rows[p]), last(query, p)))
        found.append(trapezoidal(ranked, query.positives))
    return float(np.mean(found))


@pytest.mark.parametrize("method", ["lsh", "pca-sign", "itq"])
def test_figures_by_loops(described, method):
    (row,) = compare(described, methods=[method], bits=[16], seed=3).rows
    x, q = described.database.astype(float), described.queries.astype(float)
    assert row.vectors == pytest.approx(by_loops(described, lambda i, j: -(q[i] @ x[j])), abs=1e-9)
    function = fit_method(method, described.learn, 16, seed=3, fitted_on="")
    (layer,) = function.layers
    f, b = (v @ layer.weight.T.astype(float) + layer.bias for v in (q, x))
    # Of equally far images the order is random, between the positives last and the positives first.
    for found, distance in (
        (row.hamming, lambda i, j: int(((f[i] > 0) != (b[j] > 0)).sum())),
        (row.asymmetric, lambda i, j: -(f[i] @ np.sign(b[j]))),
    ):
        best = by_loops(described, distance, lambda query, path: path not in query.positives)
        worst = by_loops(described, distance, lambda query, path: path in query.positives)
        assert worst - 1e-9 < found < best + 1e-9
    assert (row.method, row.bits, row.bytes, row.fingerprint) == (method, 16, 2, function.fingerprint)
    assert row.imbalance == pytest.approx(np.abs((b > 0).mean(axis=0) - 0.5).mean(), abs=1e-9)
    assert row.max_correlation == pytest.approx(np.abs(np.corrcoef((b > 0).T) - np.eye(16)).max(), abs=1e-9)
    assert row.distinct == len(np.unique(b > 0, axis=0))


def test_many_bits_of_lsh_order_by_the_angle_about_the_mean(described):
    (row,) = compare(described, methods=["lsh"], bits=[2048], seed=1).rows
    assert row.distinct == 120  # so that no asymmetric scores are equal
    function = fit_method("lsh", described.learn, 2048, seed=1, fitted_on="")
    f, b = (function.project(v).astype(float) for v in (described.queries, described.database))
    wanted = by_loops(described, lambda i, j: -(f[i] @ np.sign(b[j])))
    assert row.asymmetric == pytest.approx(wanted, abs=1e-9)
    q, x = (v - described.learn.mean(axis=0) for v in (described.queries, described.database))
    cosine = (q @ x.T) / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(x, axis=1)
    assert row.hamming == pytest.approx(by_loops(described, lambda i, j: -cosine[i, j]), abs=0.03)
    rows = described.rows
    shares = []
    for i, query in enumerate(described.labelled.queries):
        others = [row for path, row in rows.items() if path != query.path]
        near = sorted(others, key=lambda j: -(described.queries[i] @ described.database[j]))[:10]
        far = sorted(others, key=lambda j: ((f[i] > 0) != (b[j] > 0)).sum())[:12]
        shares.append((len(set(near) & set(far[:10])), len(set(near) & set(far))))
    low, high = np.mean(shares, axis=0) / 10
    assert low - 0.02 <= row.neighbours <= high  # equals may change places


def test_the_order_of_the_set_decides_nothing(described):
    """Where all codes are equal, a set that lists what is relevant first would seem to be answered well."""
    far = replace(described, learn=described.learn + 100)
    found = [compare(far, methods=["lsh"], bits=[16], seed=seed).rows[0] for seed in range(5)]
    assert all(row.distinct == 1 and row.constant == 16 and row.max_correlation is None for row in found)
    assert all(row.hamming < 0.15 for row in found), [row.hamming for row in found]
    assert len({row.hamming for row in found}) == 5


def test_a_query_is_not_its_own_neighbour(described):
    """Of three images the two nearest to each are the others, however coarse the codes are."""
    labelled = described.labelled
    paths = labelled.database[:3]
    queries = tuple(Query(path, frozenset(paths) - {path}) for path in paths)
    three = replace(
        described,
        labelled=replace(labelled, database=paths, queries=queries, distractors=0),
        database=described.database[:12:4],
        rows={path: row for row, path in enumerate(paths)},
        queries=described.database[:12:4],
    )
    for seed in range(8):
        assert compare(three, methods=["lsh"], bits=[8], seed=seed).rows[0].neighbours == 1


def test_deterministic(described):
    one, other = (compare(described, bits=[16], seed=2) for _ in range(2))
    assert one == other
    assert one != compare(described, bits=[16], seed=1)


def test_what_cannot_be_made_is_left_out_and_said(described):
    report = compare(described, bits=[64, 16, 16])
    assert [(row.method, row.bits) for row in report.rows] == [("lsh", 16), ("lsh", 64), ("pca-sign", 16), ("itq", 16)]
    assert [text.split(":")[0] for text in report.skipped] == [
        "pca-sign of 64 bits is left out",
        "itq of 64 bits is left out",
    ]
    assert report.warnings == report.skipped
    with pytest.raises(RecipeError, match="nothing to compare: itq of 64 bits"):
        compare(described, methods=["itq"], bits=[64])
    with pytest.raises(RecipeError, match="multiple of 8 bits, not 20"):
        compare(described, bits=[20])
    with pytest.raises(RecipeError, match="'sift'"):
        compare(described, methods=["sift"])


def test_table_json_and_plot(described, tmp_path):
    leaked = replace(described, fitted_share={"hash functions": 0.5, "whitening": 0.001})
    report = compare(leaked, methods=["lsh", "itq"], bits=[8, 16])
    assert report.warnings == ("hash functions fitted on 50 % of these photos: the figures are too good",)
    head, *lines = report.table().splitlines()
    assert head.split()[:4] == ["bits", "bytes", "Hamming", "asymmetric"]
    first = report.rows[0]
    assert lines[0].split()[:4] == ["lsh", "8", "1", f"{100 * first.hamming:.1f}"]
    assert "80 of them distractors" in report.table() and "fitted on the rest; seed 0" in report.table()
    facts = json.loads(report.to_json())
    assert facts["rows"][0]["asymmetric"] == first.asymmetric and facts["protocol"]["recipe"].startswith("made up")
    report.write_plot(tmp_path / "p.svg")
    root = ET.parse(tmp_path / "p.svg").getroot()
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"8", "16", "lsh, Hamming", "lsh, asymmetric", "itq, Hamming", "vectors", "bits"} <= set(texts)
    assert len(list(root.iter(f"{SVG}polyline"))) == 2 * 5  # five series, each also in the legend
    with pytest.raises(ResightError, match=r"cannot write .*none/p\.svg"):
        report.write_plot(tmp_path / "none/p.svg")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    torch = pytest.importorskip("torch")
    safetensors_torch = pytest.importorskip("safetensors.torch")
    from resight.networks.architectures import create_network

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    safetensors_torch.save_file(create_network("resnet10t").state_dict(), file)
    stage = {
        "network": "resnet10t",
        "layer": "layer1",
        "max_side": 64,
        "whiten": "none",
        "dimensions": 64,
        "weights": str(file),
    }
    facts = {"name": "tiny", "title": "", "source": "", "filter": "global", "image": {"max_side": 64}}
    return Recipe.model_validate({**facts, "global": stage})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`set`: three things of three views, one asked about by a box, one from outside; and `other`, 24 pictures."""
    folder = tmp_path_factory.mktemp("hash")
    rng = np.random.default_rng(0)
    for name in ("set", "other"):
        (folder / name).mkdir()
    names = [f"{thing}{view}.png" for thing in "abc" for view in range(3)]
    for name in names:
        picture = np.random.default_rng(ord(name[0])).integers(0, 255, (9, 12, 3), np.uint8)
        noise = rng.integers(-60, 60, (9, 12, 3))
        cv2.imwrite(
            str(folder / "set" / name),
            cv2.resize(np.clip(picture + noise, 0, 255).astype(np.uint8), (64, 48)),
        )
    for number in range(24):
        picture = cv2.resize(rng.integers(0, 255, (9, 12, 3), np.uint8), (64, 48))
        cv2.imwrite(str(folder / "other" / f"{number}.png"), picture)
    (folder / "set/broken.png").write_bytes(b"no picture")
    queries = {n: {"positives": [m for m in names if m[0] == n[0] and m not in (n, "c2.png")]} for n in names}
    queries["a1.png"]["box"] = [4, 4, 60, 44]
    queries["b0.png"]["positives"].append("broken.png")
    truth = {"name": "views", "database": [*names[:-1], "broken.png"], "queries": queries}
    (folder / "set/gt.json").write_text(json.dumps(truth))
    return folder


@pytest.fixture(scope="module")
def kept(folder, recipe):
    """The set with `other` as distractors, and a collection of both."""
    collection = folder / "collection"
    described = describe(
        load_labelled(folder / "set"), recipe, distractors=[folder / "other"], collection=collection, workers=1
    )
    return collection, described


def test_vectors_do_as_well_as_evaluate_says(folder, recipe, kept):
    found = kept[1]
    wanted = evaluate(folder / "set", recipe, distractors=[folder / "other"], workers=1)
    report = compare(found, methods=["lsh"], bits=[16])
    assert report.rows[0].vectors == pytest.approx(wanted.figures.mean_average_precision, abs=1e-12)
    assert report.protocol["not indexed"].startswith("1,")
    assert len(found.learn) == 24 and found.fitted_on == "24 distractors of views"
    assert found.fitted_share == {"hash functions": 0.0} and report.warnings == ()
    assert found.fingerprint == wanted.protocol.fingerprint


def test_a_collection_that_holds_more_serves_the_set_too(folder, recipe, kept):
    collection, more = kept
    alone = describe(load_labelled(folder / "set"), recipe, collection=collection, workers=1)
    assert len(alone.database) == 8 and len(more.database) == 32
    for path, row in alone.rows.items():
        np.testing.assert_array_equal(alone.database[row], more.database[more.rows[path]])
    np.testing.assert_allclose(alone.queries, more.queries, atol=1e-6)
    assert alone.fitted_on == "8 photos, all there are, of views"
    assert alone.fitted_share == {"hash functions": 1.0}
    (warning, *_) = compare(alone, bits=[16]).warnings
    assert warning.startswith("hash functions fitted on 100 % of these photos")


def test_a_photo_of_the_set_among_the_distractors_is_noticed(folder, recipe, tmp_path):
    (tmp_path / "more").mkdir()
    for name in ("other/0.png", "other/1.png", "set/a0.png"):
        shutil.copy(folder / name, tmp_path / "more")
    found = describe(load_labelled(folder / "set"), recipe, distractors=[tmp_path / "more"], workers=1)
    assert len(found.learn) == 3 and found.fitted_share == {"hash functions": 1 / 8}


def test_what_is_refused(folder, recipe, kept):
    labelled = load_labelled(folder / "set")
    with pytest.raises(RecipeError, match=r"rootsift-asmk has no \[global\] table"):
        describe(labelled, load_recipe("rootsift-asmk"))
    stage = recipe.model_dump(by_alias=True)["global"]
    late = {**stage, "fusion": "scores", "also": [{"layer": "layer2", "dimensions": 128}]}
    facts = {"name": "late", "title": "", "source": "", "filter": "global"}
    with pytest.raises(RecipeError, match="late keeps its branches' vectors apart"):
        describe(labelled, Recipe.model_validate({**facts, "global": late}))
    with pytest.raises(CollectionError, match="was made by tiny, not this other"):
        describe(labelled, recipe.model_copy(update={"name": "other"}), collection=kept[0], workers=1)
