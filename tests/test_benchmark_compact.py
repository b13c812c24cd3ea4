"""The benchmark of local detectors: its figures on features made by hand, its views, and a run."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def on_path():
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def features(xy, descriptors):
    from resight.local.features import LocalFeatures

    xy, n = np.asarray(xy, np.float32), len(xy)
    return LocalFeatures(xy, *(np.ones(n, np.float32) for _ in range(3)), np.asarray(descriptors, np.float32))


def pair(homography, size=(200, 100)):
    import compact
    from resight.images.image import Image

    blank = Image(np.zeros((size[1], size[0], 3), np.uint8), size, "blank")
    return compact.Pair(blank, blank, np.asarray(homography, float))


def test_figures_of_features_by_hand():
    import compact

    shift = pair([[1, 0, 10], [0, 1, 0], [0, 0, 1]])
    xy = np.array([[20, 20], [150, 20], [150, 80], [20, 80], [90, 55], [60, 35]])
    same = compact.compare(features(xy, np.eye(6)), features(xy + np.array([10, 0]), np.eye(6)), shift)
    assert (same.repeatability, same.matching_score, same.precision) == (1, 1, 1) and same.error < 1e-3
    # Two moved too far, of which one is far from everything and one beside another; one leaves the shared area.
    other = xy + np.array([[10, 0], [10, 0], [10, 0], [10, 2.9], [10, 3.1], [-55, 0]])
    found = compact.compare(features(xy, np.eye(6)), features(other, np.eye(6)), shift)
    # (60, 35) of the first has no counterpart in the second, whose own sixth, (5, 35), the first does not show.
    assert found.repeatability == pytest.approx((4 + 4) / (6 + 5))
    assert found.matching_score == pytest.approx(4 / 5.5) and found.precision == pytest.approx(4 / 5)
    crossed = compact.compare(
        features(xy, np.eye(6)), features(xy + np.array([10, 0]), np.roll(np.eye(6), 1, axis=0)), shift
    )
    assert (crossed.repeatability, crossed.matching_score, crossed.precision) == (1, 0, 0) and crossed.error > 3
    none = compact.compare(features(xy[:0], np.eye(6)[:0]), features(xy, np.eye(6)), shift)
    assert (none.repeatability, none.matching_score, none.precision, none.error) == (0, 0, 0, np.inf)


def test_views_are_related_by_their_homography():
    import compact
    from resight.geometry.homography import project

    photo = cv2.resize(skimage.data.astronaut(), (600, 480), interpolation=cv2.INTER_AREA)
    made = compact.make_pair(photo, 300, compact.VIEWS["viewpoint"], 3)
    assert made.first.pixels.shape == made.second.pixels.shape == (240, 300, 3)
    x, y = np.meshgrid(np.arange(20, 280), np.arange(20, 220))
    place = project(made.homography, np.column_stack([x.ravel(), y.ravel()])).astype(np.float32).reshape(200, 260, 2)
    inside = ((place > 2) & (place < (297, 237))).all(axis=2)
    at = [cv2.remap(made.second.pixels, place[..., 0] + d, place[..., 1], cv2.INTER_LINEAR) for d in (0, 4)]
    first = made.first.pixels[y, x]

    def likeness(values):
        return np.corrcoef(first[inside].mean(axis=1), values[inside].mean(axis=1))[0, 1]

    assert likeness(at[0]) > 0.97 > likeness(at[1])


def test_it_runs(tmp_path, capsys):
    import compact

    names = ("coffee", "chelsea")
    for name in names:
        cv2.imwrite(str(tmp_path / f"{name}.png"), getattr(skimage.data, name)())
    truth = {"name": "pictures", "database": [f"{name}.png" for name in names], "queries": {}}
    truth["queries"] = {"coffee.png": {"positives": ["chelsea.png"]}}
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    out = tmp_path / "out.json"
    options = ["--set", str(tmp_path), "--pairs", "2", "--side", "200", "--features", "300", "--out", str(out)]
    results = compact.main([*options, "--system", "rootsift"])
    assert [result.views for result in results] == ["viewpoint", "turned"]
    assert all(result.homography == 1 and result.precision > 0.5 and result.speed > 0 for result in results)
    assert all(result.size == pytest.approx(result.features * (128 + 20)) for result in results)
    assert "| viewpoint | rootsift |" in capsys.readouterr().out
    assert json.loads(out.read_text())["results"][0]["repeatability"] == results[0].repeatability
