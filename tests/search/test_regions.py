"""Regions of a collection: described as a query of the same box would be, kept, found with their box."""

import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tomli_w

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402

from resight.errors import CollectionError  # noqa: E402
from resight.networks.architectures import create_network  # noqa: E402
from resight.recipes import load_recipe  # noqa: E402
from resight.search.collection import Collection  # noqa: E402
from resight.search.regions import grid  # noqa: E402
from resight.store.region_log import RegionLog  # noqa: E402

ROTATED = 6  # EXIF: the camera was held on its side
ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A recipe of a small network with random weights that looks at patches."""
    folder = tmp_path_factory.mktemp("recipe")
    torch.manual_seed(0)
    weights = {k: v.contiguous() for k, v in create_network("resnet10t").state_dict().items()}
    safetensors.torch.save_file(weights, folder / "weights.safetensors")
    table = load_recipe("gem-densenet169").model_dump(by_alias=True, exclude_none=True)
    table["global"] |= {"network": "resnet10t", "layer": "layer3", "max_side": 128, "whiten": "none"}
    table["global"] |= {"dimensions": 256, "weights": "weights.safetensors"}
    table |= {"rerank": [{"method": "patches", "levels": 2}]}
    (folder / "recipe.toml").write_text(tomli_w.dumps(table))
    return load_recipe(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pictures):
    """Two photos, of which one is stored lying on its side."""
    path = tmp_path_factory.mktemp("photos")
    PIL.Image.fromarray(pictures["astronaut"]).save(path / "astronaut.png")
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = ROTATED
    PIL.Image.fromarray(np.rot90(pictures["coffee"])).save(path / "coffee.jpg", exif=exif, quality=95)
    return path


@pytest.fixture(scope="module")
def indexed(tmp_path_factory, small, folder):
    """Their collection."""
    path = tmp_path_factory.mktemp("collection") / "c"
    with Collection.create(path, small) as collection:
        assert collection.add([folder], workers=1).added == 2
    return path


@pytest.fixture
def copied(tmp_path, indexed):
    return Path(shutil.copytree(indexed, tmp_path / "c"))


def test_the_grid_lies_in_the_image():
    for size in ((320, 213), (7, 300), (1, 1), (33, 33)):
        boxes = np.array(grid(size, 3))
        assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= size).all() and (boxes[:, 2:] - boxes[:, :2] >= 1).all()
    assert grid((30, 30), 1) == [(0.0, 0.0, 30.0, 30.0)]


def test_a_detail_is_found_with_its_box(indexed, folder, pictures):
    with Collection.open(indexed) as collection:
        for name, suffix in (("astronaut", "png"), ("coffee", "jpg")):
            image = collection.find(str(folder / f"{name}.{suffix}"))
            size = collection.entry(image).size
            assert size == pictures[name].shape[1::-1]  # upright
            for box in grid(size, 2)[1:4]:
                ranking = collection.search(image, box=box)
                assert ranking.ids[0] == image and ranking.scores[0] > 0.999
                np.testing.assert_allclose(ranking.evidence[0].box, box, atol=0.01)
                np.testing.assert_allclose(ranking.evidence[0].outline[0], box[:2], atol=0.01)
                assert all(evidence is not None and evidence.inliers == 0 for evidence in ranking.evidence)


def test_regions_are_described_once_and_go_with_their_image(tmp_path, copied, pictures):
    before = (copied / "regions-2.log").read_bytes()
    (tmp_path / "more").mkdir()
    PIL.Image.fromarray(pictures["chelsea"]).save(tmp_path / "more" / "chelsea.png")
    with Collection.open(copied, write=True) as collection:
        collection.add([tmp_path / "more"], workers=1)
        assert (copied / "regions-2.log").read_bytes()[: len(before)] == before
        ids = np.array([entry.id for entry in collection.entries()])
        log = RegionLog(copied, 2, 256)
        np.testing.assert_array_equal(log.ids(), ids)
        rows, boxes, _ = log.rows(ids)
        for image in ids.tolist():
            width, height = collection.entry(image).size
            expected = [(0, 0, width, height), *grid((width, height), 2)]
            np.testing.assert_allclose(boxes[rows == image], expected, atol=1e-3)
        collection.remove([int(ids[0])])
        assert ids[0] not in collection.search(pictures["astronaut"]).ids


def test_a_damaged_region_is_found_and_made_again(copied):
    file = copied / "regions-2.log"
    content = bytearray(file.read_bytes())
    content[40] ^= 1
    with Collection.open(copied) as collection:
        assert collection.verify() == []
        file.write_bytes(content)
        (problem,) = collection.verify()
    assert problem.startswith("id:1 ") and "regions are damaged; `resight repair` makes them again" in problem
    ids = np.array([1, 2])
    with Collection.open(copied, write=True) as collection:
        before = RegionLog(copied, 2, 256).rows(ids)
        done = collection.repair()
        assert (done.mended, done.lost, done.left) == ((problem,), (), ()) and collection.verify() == []
        rows, boxes, vectors = RegionLog(copied, 2, 256).rows(ids)
    np.testing.assert_array_equal(rows, before[0])
    np.testing.assert_array_equal(boxes, before[1])
    np.testing.assert_allclose(vectors[1:], before[2][1:], atol=1e-5)


def test_what_has_no_regions_is_said_and_a_photo_that_is_gone_is_taken_whole(copied, folder, pictures):
    (copied / "regions-2.log").unlink()
    with (
        Collection.open(copied) as collection,
        pytest.raises(CollectionError, match="2 of 2 images have no regions yet; run `resight index`"),
    ):
        collection.search(pictures["chelsea"])
    away = (folder / "coffee.jpg").rename(folder.parent / "away.jpg")
    try:
        with Collection.open(copied, write=True) as collection:
            collection.add([folder], workers=1)
            gone = collection.find(str(folder / "coffee.jpg"))
            rows, boxes, vectors = RegionLog(copied, 2, 256).rows(np.array([gone]))
            assert len(rows) == 1 and boxes[0].tolist() == [0, 0, *collection.entry(gone).size]
            np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
            assert len(collection.search(pictures["chelsea"])) == 2
    finally:
        away.rename(folder / "coffee.jpg")
