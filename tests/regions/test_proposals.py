"""Proposals find a plain object, say the same twice, stay inside, and explain what they lack."""

import gzip
import subprocess
import sys

import cv2
import numpy as np
import pytest

from resight.errors import RecipeError
from resight.regions.proposals import bing, edge_boxes, selective_search

contributed = pytest.mark.skipif(
    not hasattr(cv2, "ximgproc"), reason="needs OpenCV's contributed modules: opencv-contrib-python-headless"
)
OBJECT = (52, 40, 128, 112)


@pytest.fixture(scope="module")
def scene():
    """A speckled card, OBJECT, on a plain table, 200×160."""
    pixels = np.full((160, 200, 3), (60, 70, 80), np.uint8)
    x1, y1, x2, y2 = OBJECT
    pixels[y1:y2, x1:x2] = (220, 180, 40)
    noise = np.random.default_rng(0).normal(0, 3, pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def iou(a, b):
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def check(proposals, image, top):
    boxes, scores = proposals
    height, width = image.shape[:2]
    assert boxes.dtype == scores.dtype == np.float32
    assert boxes.shape == (len(scores), 4) and 0 < len(scores) <= top
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= (width, height)).all()
    assert (boxes[:, :2] < boxes[:, 2:]).all()
    assert (np.diff(scores) <= 0).all()
    assert len(np.unique(boxes, axis=0)) == len(boxes)


@contributed
def test_selective_search_gives_the_regions_of_opencv_by_a_seeded_order(scene, pictures):
    picture = cv2.resize(pictures["coffee"], (120, 80), interpolation=cv2.INTER_AREA)
    for image in (cv2.resize(scene, (100, 80)), picture):
        found = selective_search(image, 10_000)
        check(found, image, 10_000)
        search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
        search.setBaseImage(np.ascontiguousarray(image[:, :, ::-1]))
        search.switchToSelectiveSearchFast()
        theirs = {(x, y, x + w, y + h) for x, y, w, h in search.process().tolist()}
        assert set(map(tuple, found[0].astype(int).tolist())) == theirs

        again = selective_search(image, 10_000)  # C's rand() has moved on by now
        np.testing.assert_array_equal(found[0], again[0])
        np.testing.assert_array_equal(found[1], again[1])
        np.testing.assert_array_equal(selective_search(image, 3)[0], found[0][:3])
    boxes, scores = found
    assert not np.array_equal(boxes, selective_search(picture, 10_000, seed=1)[0])
    # i·RND/R of a box is at most i/R, with at most i boxes as large as it.
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    as_large = (area >= area[:, None]).sum(axis=1)
    draws = (1 - scores) * len(boxes)
    assert (draws <= as_large + 1e-3).all() and (draws > 0.5 * as_large).mean() == pytest.approx(0.5, abs=0.15)


@contributed
def test_selective_search_has_the_object_in_either_mode(scene):
    for mode in ("fast", "quality"):
        boxes, _ = selective_search(cv2.resize(scene, (100, 80), interpolation=cv2.INTER_AREA), 500, mode=mode)
        assert max(iou(2 * box, OBJECT) for box in boxes) > 0.9
    with pytest.raises(RecipeError, match="mode must be 'fast' or 'quality', not 'slow'"):
        selective_search(scene, 5, mode="slow")


@contributed
def test_the_first_edge_box_is_the_object(scene):
    found = edge_boxes(scene, 20)
    check(found, scene, 20)
    assert iou(found[0][0], OBJECT) > 0.7
    for first, second in zip(found, edge_boxes(scene, 20), strict=True):
        np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(edge_boxes(scene, 1)[0], found[0][:1])


@contributed
def test_nothing_to_see_is_no_edge_box():
    boxes, scores = edge_boxes(np.full((50, 60, 3), 7, np.uint8), 5)
    assert boxes.shape == (0, 4) and scores.shape == (0,)
    assert edge_boxes(np.full((1, 1, 3), 7, np.uint8), 5)[0].shape == (0, 4)


@contributed
def test_a_model_that_is_none_is_named(scene, tmp_path):
    for name, content in (("a.yml", b"hello"), ("b.yml", b"%YAML:1.0\n---\na: 1\n")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RecipeError, match=rf"{name}: not a structured-forests model"):
            edge_boxes(scene, 5, model=tmp_path / name)
    with pytest.raises(RecipeError, match=r"none\.yml\.gz: no such file; model must be OpenCV's structured-forests"):
        edge_boxes(scene, 5, model=tmp_path / "none.yml.gz")


def write_bing(folder, sizes=(0, 7, 14)):
    """BING's nine files with a filter that adds up gradients; size i is of windows 2^(4 + i % 6) × 2^(4 + i // 6)."""
    parts = {
        "wS1": np.full((8, 8), 0.01, np.float32),
        "wS2": np.tile(np.array([[1, 0]], np.float32), (len(sizes), 1)),
        "idx": np.array(sizes, np.int32)[:, None],
    }
    for space in ("MAXBGR", "HSV", "I"):
        for part, matrix in parts.items():
            name = f"ObjNessB2W8{space}"
            storage = cv2.FileStorage(str(folder / f"{name}.{part}.yml.gz"), cv2.FILE_STORAGE_WRITE)
            storage.write(name, matrix)
            storage.release()


@contributed
def test_bing_puts_the_windows_of_most_gradient_first(tmp_path):
    write_bing(tmp_path)
    image = np.full((128, 160, 3), 128, np.uint8)
    image[64:96, 32:64] = np.random.default_rng(0).integers(0, 255, (32, 32, 3))
    found = bing(image, 5000, model=tmp_path)
    check(found, image, 5000)
    boxes, scores = found
    assert scores[0] == 1 and scores[-1] < 0.2
    sides = boxes[:, 2:] - boxes[:, :2]
    within = (sides == sides[:, :1]).all(axis=1) & (boxes[:, 2:] < (160, 128)).all(axis=1)
    assert set(sides[within, 0]) == {16, 32, 64}
    centres = (boxes[:10, :2] + boxes[:10, 2:]) / 2
    assert (np.abs(centres - (48, 80)) <= 20).all()
    np.testing.assert_array_equal(bing(image, 7, model=tmp_path)[0], boxes[:7])


def test_bing_names_the_file_it_lacks(scene, tmp_path):
    with pytest.raises(RecipeError, match=r"ObjNessB2W8MAXBGR\.wS1\.yml\.gz: no such file; model must be the folder"):
        bing(scene, 5, model=tmp_path)


@contributed
def test_bing_names_the_folder_of_other_files(scene, tmp_path):
    write_bing(tmp_path)
    with gzip.open(tmp_path / "ObjNessB2W8HSV.wS1.yml.gz", "wt") as file:
        file.write("%YAML:1.0\n---\na: 1\n")
    with pytest.raises(RecipeError, match="not BING's trained files"):
        bing(scene, 5, model=tmp_path)


@contributed
@pytest.mark.parametrize("propose", [selective_search, edge_boxes])
def test_a_top_of_none_is_refused(propose, scene):
    with pytest.raises(RecipeError, match="top must be at least 1, not 0"):
        propose(scene, 0)


@pytest.mark.parametrize(
    ("propose", "arguments"), [(selective_search, {}), (edge_boxes, {}), (bing, {"model": "folder"})]
)
def test_an_opencv_without_the_modules_says_what_to_install(propose, arguments, scene, tmp_path, monkeypatch):
    write_bing(tmp_path)
    for module in ("ximgproc", "saliency"):
        monkeypatch.delattr(cv2, module, raising=False)
    if "model" in arguments:
        arguments = {"model": tmp_path}
    with pytest.raises(RecipeError, match=r"has no cv2\.\w+: .*pip install opencv-contrib-python-headless"):
        propose(scene, 5, **arguments)


def test_what_is_no_rgb_image_is_refused(scene):
    for wrong in (scene[:, :, 0], scene.astype(np.float32), scene[:0]):
        with pytest.raises(ValueError, match="H×W×3 uint8 RGB"):
            edge_boxes(wrong, 5)


def test_proposals_need_no_torch():
    program = "import sys, resight.regions.proposals, resight.regions.patches; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
