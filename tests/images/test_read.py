"""read_image, load, max_side, digest and thumbnails."""

import hashlib
import io
import os
import pathlib

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resight.errors import ImageError
from resight.images import Image, Limits, decode, digest, load, read_image, thumbnail_jpeg


def encode(array, fmt, **options):
    buffer = io.BytesIO()
    PIL.Image.fromarray(array).save(buffer, fmt, **options)
    return buffer.getvalue()


def smooth(width, height):
    y, x = np.mgrid[0:height, 0:width]
    waves = 128 + 80 * np.sin(x / 37) * np.cos(y / 23)
    return np.stack([waves, 255 * x / width, 255 * y / height], axis=-1).astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 320), st.sampled_from(["JPEG", "PNG"]))
def test_max_side_bounds_and_keeps_the_aspect(width, height, max_side, fmt):
    image = decode(encode(smooth(width, height), fmt), "a", max_side=max_side)
    rows, columns = image.pixels.shape[:2]
    assert image.size == (width, height)
    assert max(rows, columns) == min(max_side, max(width, height))  # reached, never exceeded, never enlarged
    scale = min(1, max_side / max(width, height))
    assert abs(columns - max(1, width * scale)) <= 0.5 + 1e-9
    assert abs(rows - max(1, height * scale)) <= 0.5 + 1e-9


@pytest.mark.parametrize(
    ("width", "height", "max_side"), [(1600, 1200, 400), (1603, 1201, 150), (241, 193, 18), (193, 249, 20)]
)
def test_a_reduced_jpeg_is_not_displaced(width, height, max_side):
    """Decoding at a fraction rounds the size up; left uncorrected, that shifts by up to 7 pixels."""
    image = decode(encode(smooth(width, height), "JPEG", quality=95), "a", max_side=max_side)
    rows, columns = image.pixels.shape[:2]
    x = ((np.arange(columns) + 0.5) * width / columns)[None, :]
    y = ((np.arange(rows) + 0.5) * height / rows)[:, None]
    inner = np.s_[2:-2, 2:-2]
    assert np.abs(image.pixels[..., 1] - 255 * (x - 0.5) / width)[inner].mean() < 0.8
    assert np.abs(image.pixels[..., 2] - 255 * (y - 0.5) / height)[inner].mean() < 0.8


def test_fine_stripes_average_rather_than_alias():
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 255
    pixels = decode(encode(stripes, "PNG"), "a", max_side=90).pixels[5:-5, 5:-5]
    assert np.abs(pixels.astype(int) - 127.5).max() < 12


def test_max_side_must_be_positive():
    with pytest.raises(ImageError, match="max_side"):
        decode(encode(smooth(8, 8), "JPEG"), "a", max_side=0)


def test_a_path(tmp_path):
    path = tmp_path / "a b\n\N{SNOWMAN}.png"
    path.write_bytes(encode(smooth(20, 10), "PNG"))
    for value in (path, str(path)):
        image = read_image(value)
        assert image.origin == str(path)
        assert np.array_equal(image.pixels, smooth(20, 10))
    assert read_image(path, max_side=5).pixels.shape == (2, 5, 3)


def test_a_pil_image_is_turned_and_left_as_it_was():
    exif = PIL.Image.Exif()
    exif[274] = 6
    opened = PIL.Image.open(io.BytesIO(encode(smooth(200, 100), "JPEG", exif=exif, quality=95)))
    image = read_image(opened, max_side=20)
    assert image.size == (100, 200)
    assert image.pixels.shape == (20, 10, 3)
    assert opened.size == (200, 100)
    assert np.asarray(opened).shape == (100, 200, 3)


def test_a_truncated_pil_image_is_named():
    data = encode(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), "JPEG")
    with pytest.raises(ImageError, match="truncated"):
        read_image(PIL.Image.open(io.BytesIO(data[:-900])))


def test_arrays():
    rgb = smooth(20, 10)
    image = read_image(rgb)
    assert np.array_equal(image.pixels, rgb)
    assert (image.size, image.origin) == ((20, 10), "<array>")
    assert np.array_equal(read_image(rgb[::-1, ::2]).pixels, rgb[::-1, ::2])  # any strides
    assert np.array_equal(read_image(rgb[..., 0]).pixels, np.repeat(rgb[..., :1], 3, axis=2))
    clear = np.dstack([rgb, np.zeros((10, 20), np.uint8)])
    assert np.array_equal(read_image(clear).pixels, np.full((10, 20, 3), 255))
    image.pixels[0, 0] = 99  # a copy of its own
    assert np.array_equal(rgb, smooth(20, 10))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_arrays_that_are_no_picture(array):
    with pytest.raises(ImageError, match=r"array|no pixels"):
        read_image(array)


def test_an_image_keeps_its_frame():
    image = Image(smooth(100, 50), (1000, 500), "here")
    assert read_image(image) is image
    assert read_image(image, max_side=100) is image
    small = read_image(image, max_side=10)
    assert small.pixels.shape == (5, 10, 3)
    assert (small.size, small.origin) == ((1000, 500), "here")


def test_load_names_what_is_wrong(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "big.jpg").write_bytes(bytes(101))
    (tmp_path / "good.jpg").write_bytes(b"abc")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert load(str(tmp_path / "good.jpg")) == b"abc"
    assert load(str(tmp_path / "big.jpg"), limit=101) == bytes(101)
    for name, reason in [
        ("empty.jpg", "empty"),
        ("big.jpg", "more than the limit of 100"),
        ("gone.jpg", "does not exist"),
        ("good.jpg/a.jpg", "does not exist"),
        ("", "a folder"),
        ("pipe.jpg", "not a regular file"),
        ("a\0b.jpg", "cannot be read"),
        ("n" * 300 + ".jpg", "cannot be read: File name too long$"),
        ("gone.zip!/a.jpg", "does not exist"),
    ]:
        with pytest.raises(ImageError, match=reason):
            load(f"{tmp_path}/{name}", limit=100)


def test_load_without_permission(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"abc")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pathlib.Path, "open", refuse)  # chmod would not stop root
    with pytest.raises(ImageError, match="permission"):
        load(str(path))


def test_read_image_obeys_the_byte_limit(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode(smooth(20, 10), "PNG"))
    with pytest.raises(ImageError, match="limit of 10"):
        read_image(path, limits=Limits(bytes=10))


def test_digest_is_blake2b_of_16_bytes():
    # `printf abc | b2sum -l 128`
    assert digest(b"abc") == "cf4ab791c62b8d2b2109c90275287816"
    assert digest(b"abc") == hashlib.new("blake2b", b"abc", digest_size=16).hexdigest()


def test_a_thumbnail_carries_nothing_but_pixels(tmp_path):
    exif = PIL.Image.Exif()
    exif[271] = "secret camera"
    image = decode(encode(smooth(300, 200), "JPEG", exif=exif, comment=b"secret"), "secret/origin.jpg")
    data = thumbnail_jpeg(image, 60)
    assert b"secret" not in data
    assert b"Exif" not in data
    thumbnail = PIL.Image.open(io.BytesIO(data))
    assert (thumbnail.format, thumbnail.size) == ("JPEG", (60, 40))
    expected = image.pixels.reshape(40, 5, 60, 5, 3).mean(axis=(1, 3))
    assert np.abs(np.asarray(thumbnail) - expected).mean() < 3
    assert len(thumbnail_jpeg(image, 60, quality=30)) < len(data)
    assert PIL.Image.open(io.BytesIO(thumbnail_jpeg(image, 1000))).size == (300, 200)
