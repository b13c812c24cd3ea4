"""What a photo to learn from shows: the part of it, and a file that does not let itself be read is named."""

import numpy as np
import PIL.Image
import pytest

from resight.errors import ResightError
from resight.images.read import read_image
from resight.learning.datasets import read
from resight.learning.datasets.photos import Photo
from resight.learning.datasets.pictures import Pictures, unreadable


@pytest.fixture
def path(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_a_photo_is_reduced_and_a_box_is_cut_out_before(path):
    whole = read_image(path).pixels
    image = read.read_photo(Photo(path, 0), 40)
    np.testing.assert_array_equal(image.pixels, read_image(whole, max_side=40).pixels)
    assert image.size == (80, 60)
    image = read.read_photo(Photo(path, 0, (10, 20, 70, 50)), 40, processes=2)
    np.testing.assert_array_equal(image.pixels, read_image(whole[20:50, 10:70], max_side=40).pixels)
    assert image.size == (60, 30)


def test_a_box_is_not_enlarged(path):
    image = read.read_photo(Photo(path, 0, (10, 20, 30, 50)), 40)
    np.testing.assert_array_equal(image.pixels, read_image(path).pixels[20:50, 10:30])


def test_what_is_wrong_names_the_file(path):
    with pytest.raises(ResightError, match=r"a\.png.*leaves the image"):
        read.read_photo(Photo(path, 0, (0, 0, 81, 60)), 40)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ResightError, match=r"a\.png"):
        read.read_photo(Photo(path, 0), 40)


def test_a_photo_that_takes_too_long_ends_neither_the_program_nor_the_reading_of_others(path, tmp_path, monkeypatch):
    PIL.Image.new("RGB", (9000, 9000)).save(tmp_path / "slow.png", compress_level=1)
    slow, quick = Photo(tmp_path / "slow.png", 0), Photo(path, 0)
    monkeypatch.setattr(read, "SECONDS", 0.05)
    with pytest.raises(ResightError, match=r"slow\.png: took longer than"):
        Pictures([slow], side=32).picture(0, 0)
    monkeypatch.undo()
    assert unreadable([quick], workers=1) == [""]
