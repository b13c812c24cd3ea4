"""The file of regions' vectors: what was written is read, by image, and what a crash left is not."""

import numpy as np
import pytest

from resight.errors import CollectionError
from resight.store.region_log import RegionLog


def regions(image, count):
    rng = np.random.default_rng(image)
    return rng.uniform(0, 9, (count, 4)).astype(np.float32), rng.normal(size=(count, 5)).astype(np.float32)


def write(folder, counts):
    with RegionLog(folder, 2, 5).writer() as writer:
        for image, count in counts.items():
            writer.add(image, *regions(image, count))


def test_regions_are_those_of_the_images_asked_for(tmp_path):
    assert len(RegionLog(tmp_path, 2, 5).ids()) == 0
    write(tmp_path, {4: 3, 9: 1})
    write(tmp_path, {7: 2})
    log = RegionLog(tmp_path, 2, 5)
    np.testing.assert_array_equal(log.ids(), [4, 7, 9])
    ids, boxes, vectors = log.rows(np.array([7, 4]))
    np.testing.assert_array_equal(ids, [4, 4, 4, 7, 7])
    expected = [np.concatenate(parts) for parts in zip(regions(4, 3), regions(7, 2), strict=True)]
    np.testing.assert_array_equal(boxes, expected[0])
    np.testing.assert_array_equal(vectors, expected[1])
    with pytest.raises(CollectionError, match="1 of 2 images have no regions yet"):
        log.rows(np.array([4, 5]))
    assert len(RegionLog(tmp_path, 3, 5).ids()) == 0


@pytest.mark.parametrize("cut", [1, 52, 53, 103])
def test_an_image_that_a_crash_cut_off_is_written_anew(tmp_path, cut):
    write(tmp_path, {4: 3, 9: 2})
    file = tmp_path / "regions-2.log"
    with file.open("r+b") as handle:  # a record is 8 + 4 + 16 + 20 + 4 bytes
        handle.truncate(file.stat().st_size - cut)
    assert RegionLog(tmp_path, 2, 5).ids().tolist() == [4]
    write(tmp_path, {9: 2, 11: 1})
    ids, _, vectors = RegionLog(tmp_path, 2, 5).rows(np.array([4, 9, 11]))
    assert ids.tolist() == [4, 4, 4, 9, 9, 11]
    np.testing.assert_array_equal(vectors[3:5], regions(9, 2)[1])


def test_a_changed_byte_is_noticed(tmp_path):
    write(tmp_path, {4: 3, 9: 2, 11: 1})
    file = tmp_path / "regions-2.log"
    assert len(RegionLog(tmp_path, 2, 5).damaged()) == 0
    content = bytearray(file.read_bytes())
    content[3 * 52 + 30] ^= 1  # in a vector of image 9
    file.write_bytes(content)
    assert RegionLog(tmp_path, 2, 5).damaged().tolist() == [9]


def test_images_are_dropped_and_described_again_in_their_order(tmp_path):
    write(tmp_path, {4: 3, 9: 2, 11: 1})
    reading = RegionLog(tmp_path, 2, 5)
    before = reading.rows(np.array([4, 9, 11]))
    RegionLog(tmp_path, 2, 5).drop(np.array([4, 11]))
    assert RegionLog(tmp_path, 2, 5).ids().tolist() == [9]
    write(tmp_path, {4: 3, 11: 1})
    for log in (reading, RegionLog(tmp_path, 2, 5)):
        for mine, theirs in zip(log.rows(np.array([4, 9, 11])), before, strict=True):
            np.testing.assert_array_equal(mine, theirs)
