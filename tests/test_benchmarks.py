"""The benchmarks run, and agree with `evaluate`, OpenCV and known coefficients, on pictures of scikit-image."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data

from resight.evaluation import evaluate, load_labelled
from resight.images.image import Image
from resight.local.rootsift import rootsift
from resight.search.collection import Collection

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PICTURES = ("astronaut", "coffee", "chelsea", "rocket")


@pytest.fixture(scope="module", autouse=True)
def on_path():
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def labelled_folder(tmp_path_factory):
    """A database of four pictures; queries: a turned part of each of three, and one of a picture it has not."""
    folder = tmp_path_factory.mktemp("set")
    queries = {}
    for name in (*PICTURES, "page"):
        pixels = getattr(skimage.data, name)()
        pixels = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
        pixels = cv2.resize(pixels, (320, 240), interpolation=cv2.INTER_AREA)[..., ::-1]
        cv2.imwrite(str(folder / f"{name}.png"), pixels)
        cv2.imwrite(str(folder / f"q_{name}.png"), cv2.rotate(pixels[20:220, 20:300], cv2.ROTATE_90_CLOCKWISE))
        queries[f"q_{name}.png"] = {"positives": [f"{name}.png"] if name in PICTURES else []}
    truth = {"name": "pictures", "database": [f"{name}.png" for name in PICTURES], "queries": queries}
    (folder / "gt.json").write_text(json.dumps(truth))
    return folder


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("collections")


def test_accuracy_agrees_with_evaluate(labelled_folder, kept, tmp_path, capsys):
    import accuracy

    where = ["--set", str(labelled_folder), "--collections", str(kept), "--workers", "1"]
    out = tmp_path / "out.json"
    plain, recipe, half = accuracy.main([*where, "--brute", "--recipe", "rootsift-asmk", "--out", str(out)])
    assert recipe.figures == evaluate(load_labelled(labelled_folder), "rootsift-asmk", workers=1).figures
    assert plain.figures.mean_average_precision == 1.0
    assert plain.work == 1.0 and half.comparisons < recipe.comparisons < plain.comparisons
    assert recipe.calibrated and not half.calibrated and half.verify == 0
    (collection,) = (path for path in kept.iterdir() if Collection.exists(path))
    on_disk = sum(file.stat().st_size for file in collection.rglob("*") if file.is_file())
    assert recipe.bytes_per_image == half.bytes_per_image == pytest.approx(on_disk / len(PICTURES), rel=0.1)
    assert plain.bytes_per_image is None and recipe.images_per_second > 0
    assert "| pictures | sift-brute | 100.0 |" in capsys.readouterr().out
    assert [r["system"] for r in json.loads(out.read_text())["results"]] == [plain.system, recipe.system, half.system]


def test_calibrate_runs(labelled_folder, kept, capsys):
    import calibrate

    where = ["--set", str(labelled_folder), "--collections", str(kept), "--workers", "1"]
    calibration = calibrate.main(where)
    assert calibration.fitted_on == "pictures (5 queries)"
    assert "[calibration]" in capsys.readouterr().out


def test_fit_recovers_the_coefficients_that_made_the_samples():
    import calibrate

    rng = np.random.default_rng(0)
    n = 200_000
    inliers, similarity = rng.integers(0, 60, n), rng.random(n).astype(np.float32)
    odds = -4 + 1.5 * np.log(1 + np.maximum(0, inliers - 4)) + 2 * similarity
    true = rng.random(n) < 1 / (1 + np.exp(-odds))
    found = calibrate.fit(calibrate.Samples(inliers, similarity, true, np.full(n, 1 / n)), 0.5, "made up", 4 / 3)
    assert (found.intercept, found.inliers, found.similarity) == pytest.approx((-4, 1.5, 2), abs=0.08)


def test_fit_keeps_coefficients_from_going_below_zero():
    import calibrate

    inliers, true = np.array([4, 4, 30, 30] * 10), np.array([False, True, False, True] * 10)
    similarity = np.where(true, 0.1, 0.9).astype(np.float32)  # the wrong way round
    found = calibrate.fit(calibrate.Samples(inliers, similarity, true, np.full(40, 1 / 40)), 0.5, "made up", 2.0)
    assert 0 < found.inliers < 0.01 and found.similarity == pytest.approx(2 * found.inliers)


@pytest.mark.parametrize("mutual", [False, True])
def test_brute_force_matches_as_opencv_does(mutual):
    import brute

    grey = cv2.resize(skimage.data.astronaut(), (320, 320), interpolation=cv2.INTER_AREA)
    turned = np.ascontiguousarray(np.rot90(grey))
    stage = {"max_features": 200, "contrast_threshold": 0.01, "edge_threshold": 10.0}
    a, b = (rootsift(Image(p, (320, 320), "a"), **stage).descriptors for p in (grey, turned))
    found = set(zip(*(v.tolist() for v in brute.match(a, b, mutual=mutual)), strict=True))
    matcher = cv2.BFMatcher(cv2.NORM_L2)
    pairs = matcher.knnMatch(a.astype(np.float32), b.astype(np.float32), k=2)
    back = {m.queryIdx: m.trainIdx for m in matcher.match(b.astype(np.float32), a.astype(np.float32))}
    expected = {(m.queryIdx, m.trainIdx) for m, second in pairs if m.distance < 0.8 * second.distance}
    if mutual:
        expected = {(i, j) for i, j in expected if back[j] == i}
    assert len(expected) > 50
    assert found == expected


def test_verification_finds_what_was_planted(tmp_path, capsys):
    import verification

    few = ["--candidates", "6", "--features", "200", "--planted", "3", "--shared", "50", "--alike", "40"]
    out = tmp_path / "out.json"
    results = verification.main([*few, "--words", "64", "--repeat", "1", "--out", str(out)])
    assert len(results) == 4 and all((r.found, r.wrong) == (1.0, 0.0) and r.ms > 0 for r in results)
    projective = [r for r in results if r.system in ("resight, homography", "OpenCV loop")]
    assert len(projective) == 2 and max(r.error for r in projective) < 3
    assert "| OpenCV loop |" in capsys.readouterr().out
    assert [r["system"] for r in json.loads(out.read_text())["results"]] == [r.system for r in results]


@pytest.mark.slow
def test_indexing_and_search_run(labelled_folder, tmp_path, capsys):
    import indexing
    import search

    source = ["--source", str(labelled_folder), "--side", "160"]
    plain, listed, own = indexing.main([*source, "--photos", "12", "--plain-photos", "4", "--workers", "1"])
    assert (plain.photos, listed.photos, own.photos) == (4, 4, 12)
    assert min(plain.private, own.private) > 2**20 and own.private <= own.peak
    assert own.state is not None and own.state > 0
    sizes = ["--photos", "12", "14", "--queries", "2", "--brute-queries", "1", "--workers", "1"]
    small, large = search.main([*source, *sizes, "--work", str(tmp_path)])
    assert small.brute_measured and not large.brute_measured
    assert large.brute == pytest.approx(small.brute * 14 / 12)
    assert "| 12 |" in capsys.readouterr().out


@pytest.mark.slow
def test_extraction_runs(labelled_folder, tmp_path, capsys, monkeypatch):
    pytest.importorskip("torch")
    import extraction

    monkeypatch.setattr(extraction, "MEGAPIXELS", (0.1, 0.3))
    where = ["--source", str(labelled_folder), "--work", str(tmp_path), "--workers", "1"]
    (one,) = extraction.main([*where, "--photos", "4", "--mixed", "2", "--network", "mobilenetv3_large_100"])
    assert one.images == 4 and min(one.loop, one.ours, one.bare) > 0
    assert "Photographs of 0.1, 0.3 megapixels by turns" in capsys.readouterr().out


def test_the_busy_time_of_a_device_counts_what_overlaps_once(tmp_path):
    import torch

    import gpu

    spans = [(5.0, 6.0), (0.0, 2.0), (1.0, 3.0), (1.5, 1.8), (6.0, 6.5)]
    ticks = np.arange(0, 7, 0.01)
    assert gpu.busy(spans) == pytest.approx(0.01 * sum(any(a <= t < b for a, b in spans) for t in ticks), abs=0.05)
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit):
            gpu.main(["--work", str(tmp_path)])


def test_mining_says_how_right_what_it_found_is():
    pytest.importorskip("torch")
    import mining
    from resight.learning.unlabelled.mined import Labelling
    from resight.learning.unlabelled.pools import Pools

    arc = np.array([0, 0, 0, 1, 1])
    # Of clusters {0, 1, 3} and {2}: two of the six ordered pairs are of one arc; photo 4 is left out.
    assert mining.quality(Labelling(np.array([0, 0, 1, 0, -1])), arc) == (4, pytest.approx(2 / 6), None)
    pools = Pools(np.array([0, 3]), (np.array([1, 4]), np.array([4])), (np.array([2, 3]), np.array([0])))
    assert mining.quality(pools, arc) == (2, pytest.approx(2 / 3), pytest.approx(2 / 3))
    for method in ("geodesic", "dbscan"):
        found = mining.measure(method, 400, 64, 100, 0, [])
        assert found.anchors > 50 and found.positives > 0.95 and found.peak > 10 and found.seconds > 0
    stage = mining.stage_of("mom", 400, 10, ["k=20"])
    assert (stage.graph, stage.anchors, stage.k) == (20, 10, 20)
    assert mining.stage_of("kmeans", 400, 10, []).clusters == 8
    assert np.mean(mining.renumbered(500, np.random.default_rng(0)) == np.arange(500) // 5) > 0.6


def test_mining_by_verification_sees_photos_of_what_the_descriptors_say(pictures, save, tmp_path):
    pytest.importorskip("torch")
    import mining

    for name in ("astronaut", "brick"):
        save(tmp_path / "some" / f"{name}.png", pictures[name])
    files = mining.made(tmp_path / "some", 100, 128, tmp_path, "verified")
    assert len(files) == 100 and not mining.made(tmp_path / "some", 100, 128, tmp_path, "mom")
    settings = ["features=80", "candidates=3", "inliers=8"]
    found = mining.measure("verified", 100, 16, 1, 0, settings, files, tmp_path)
    assert found.anchors > 50 and found.positives == found.negatives == 1
    with pytest.raises(SystemExit, match="has 2 photographs, and 150 take 3"):
        mining.made(tmp_path / "some", 150, 128, tmp_path, "verified")


def test_what_runs_beside_a_benchmark_is_known():
    import time

    import process

    run = process.watched(time.sleep, 0.3)
    assert 0 <= run.others <= 1 and run.private > 2**20


@pytest.mark.data
def test_layers_compares_what_it_should(labelled_folder, tmp_path, capsys):
    import layers
    from common import DATA

    weights = DATA / "weights" / layers.NETWORKS["densenet169"].file
    if not weights.is_file():
        pytest.skip(f"{weights} is absent; RESIGHT_TEST_DATA names the folder of the sets and weights")
    where = ["--set", str(labelled_folder), "--collections", str(tmp_path), "--side", "128", "--workers", "1"]
    words = ["--fit", str(DATA / "distractors"), "--sample", "120"]
    results = {r["variant"]: r for r in layers.main([*where, *words, "--network", "densenet169"])}
    # The whole is one region; joined vectors of two layers have both their lengths.
    assert results["features, gem"]["length"] == 1664 and results["block1, gem"]["length"] == 256
    assert results["features, gem, pyramid 1+2, joined"]["length"] == 5 * 1664
    assert results["block1, words"]["length"] == 1000 and "all layers, words: joined" in results
    assert {f"all layers: {how}" for how in ("ranks", "exponential", "index-matrix")} < results.keys()
    assert all(0 < r["mAP"] <= 1 for r in results.values())
    assert "| densenet169 | features, gem | 1664 |" in capsys.readouterr().out


def test_photos_repeat_as_distinct_warps(labelled_folder, tmp_path):
    import photos

    sources = photos.originals(labelled_folder)
    made = photos.write(sources, range(2 * len(sources)), tmp_path, side=100)
    pictures = [cv2.imread(str(path)) for path in made]
    assert all(max(p.shape) == 100 for p in pictures)
    assert len({p.tobytes() for p in pictures}) == len(pictures)
    before = made[0].stat().st_mtime_ns
    assert photos.write(sources, range(1), tmp_path, side=100)[0].stat().st_mtime_ns == before


def test_reduced_sets_ask_the_same_of_smaller_pictures(tmp_path, pictures):
    import reduced

    source, names = tmp_path / "source", sorted(pictures)[:3]
    source.mkdir()
    for name in names:
        cv2.imwrite(str(source / f"{name}.png"), cv2.cvtColor(pictures[name], cv2.COLOR_RGB2BGR))
    images = {f"{name}.png": {"size": [1, 1], "instance": name} for name in names}
    queries = {f"{names[0]}.png": {"positives": [f"{names[1]}.png"], "junk": [f"{names[2]}.png"]}}
    truth = {"name": "few", "images": images, "database": list(images), "queries": queries}
    (source / "gt.json").write_text(json.dumps(truth))
    assert reduced.reduce_set(source, tmp_path / "small", 64, 80) == 3
    before, after = load_labelled(source), load_labelled(tmp_path / "small")
    assert (after.database, after.queries, after.groups) == (before.database, before.queries, before.groups)
    for path in after.database:
        small, large = (cv2.imread(str(labelled.locate(path))) for labelled in (after, before))
        assert max(small.shape[:2]) == 64
        assert small.shape[0] / small.shape[1] == pytest.approx(large.shape[0] / large.shape[1], rel=0.03)
        difference = cv2.resize(large, small.shape[1::-1], interpolation=cv2.INTER_AREA).astype(float) - small
        assert np.abs(difference).mean() < 12
    truth["queries"][f"{names[0]}.png"]["box"] = [0, 0, 1, 1]
    (source / "gt.json").write_text(json.dumps(truth))
    with pytest.raises(SystemExit, match="boxes in pixels"):
        reduced.reduce_set(source, tmp_path / "other", 64, 80)
    assert reduced.reduce_photos(source, tmp_path / "photos", 64, 80, every=2) == 2
    for name in (names[0], names[2]):
        assert (tmp_path / f"photos/{name}.png").read_bytes() == (tmp_path / f"small/{name}.png").read_bytes()
    assert len(list((tmp_path / "photos").iterdir())) == 2
