"""decode: every kind of file against pixels known beforehand, another library, or arithmetic by hand."""

import io
import struct
import sys
import tracemalloc
import zlib

import cv2
import numpy as np
import PIL.Image
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resight.errors import ImageError
from resight.images import Image, Limits, decode

WHITE = (255, 255, 255)


def encode(image, fmt, **options):
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def corners():
    """32×48, smooth and unlike any of its mirror images or rotations."""
    y, x = np.mgrid[0:32, 0:48]
    return np.stack([5 * x, 7 * y, 255 - 3 * x - 3 * y], axis=-1).astype(np.uint8)


def pil(array, mode=None):
    image = PIL.Image.fromarray(array)
    return image.convert(mode) if mode else image


def difference(a, b):
    return np.abs(a.astype(int) - b.astype(int)).max()


# What a camera held in each way stores, by the definition of EXIF tag 274 (row 0 and column 0 of the stored
# picture are the named sides of the upright one).
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[::-1],
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[:, ::-1],
}


@pytest.mark.parametrize(
    ("fmt", "options", "tolerance"),
    [
        ("JPEG", {"quality": 100, "subsampling": 0}, 3),
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("AVIF", {"quality": 100, "subsampling": "4:4:4"}, 4),
    ],
)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_comes_out_upright(fmt, options, tolerance, orientation):
    exif = PIL.Image.Exif()
    exif[274] = orientation
    stored = pil(np.ascontiguousarray(STORED[orientation](corners())))
    data = encode(stored, fmt, exif=exif, **options)
    image = decode(data, "a")
    assert image.size == (48, 32)
    assert difference(image.pixels, corners()) <= tolerance
    small = decode(data, "a", max_side=24)
    assert small.size == (48, 32)
    assert small.pixels.shape == (16, 24, 3)
    blocks = corners().reshape(16, 2, 24, 2, 3).mean(axis=(1, 3))
    assert difference(small.pixels[1:-1, 1:-1], np.round(blocks)[1:-1, 1:-1]) <= tolerance + 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic_is_turned_once(orientation):
    heif = pytest.importorskip("pillow_heif")
    exif = PIL.Image.Exif()
    exif[274] = orientation
    stored = pil(np.ascontiguousarray(STORED[orientation](corners())))
    buffer = io.BytesIO()
    heif.from_pillow(stored).save(buffer, quality=100, chroma=444, exif=exif.tobytes())
    image = decode(buffer.getvalue(), "a")
    assert image.size == (48, 32)
    assert difference(image.pixels, corners()) <= 6


def test_heic_without_its_decoder_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"pip install 'resight\[heif\]'"):
        decode(b"\0\0\0\x18ftypheic" + bytes(40), "a")


@pytest.mark.filterwarnings("ignore")
def test_damaged_exif_counts_as_absent():
    data = encode(pil(corners()), "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert np.array_equal(decode(data, "a").pixels, corners())


@pytest.mark.parametrize("fmt", ["GIF", "WEBP", "PNG", "TIFF"])
def test_only_the_first_frame_of_several(fmt):
    frames = [PIL.Image.new("RGB", (8, 6), c) for c in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    options = {"lossless": True} if fmt == "WEBP" else {}
    data = encode(frames[0], fmt, save_all=True, append_images=frames[1:], **options)
    assert difference(decode(data, "a").pixels, np.broadcast_to((200, 0, 0), (6, 8, 3))) <= 2


def test_grey_and_bilevel():
    grey = corners()[..., 0]
    expected = np.repeat(grey[..., None], 3, axis=2)
    assert np.array_equal(decode(encode(pil(grey), "PNG"), "a").pixels, expected)
    bilevel = grey > 100
    expected = np.repeat(bilevel[..., None].astype(np.uint8) * 255, 3, axis=2)
    assert np.array_equal(decode(encode(pil(bilevel), "PNG"), "a").pixels, expected)
    data = encode(pil(bilevel), "TIFF", compression="group4")
    assert np.array_equal(decode(data, "a").pixels, expected)
    assert np.array_equal(decode(encode(pil(corners()), "BMP"), "a").pixels, corners())


def test_alpha_is_flattened_on_white():
    rgba = np.dstack([corners(), np.linspace(0, 255, 32 * 48).reshape(32, 48).astype(np.uint8)])
    alpha = rgba[..., 3:] / 255
    expected = rgba[..., :3] * alpha + 255 * (1 - alpha)
    for fmt, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})):
        pixels = decode(encode(pil(rgba), fmt, **options), "a").pixels
        assert np.abs(pixels - expected).max() <= 1, fmt
    pixels = decode(encode(pil(np.ascontiguousarray(rgba[..., [0, 3]])), "PNG"), "a").pixels
    assert np.abs(pixels - expected[..., :1]).max() <= 1


def test_transparent_palette_and_colour_key():
    indices = np.array([[0, 1], [2, 1]], np.uint8)
    image = pil(indices)
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    expected = np.array([[(10, 20, 30), WHITE], [(70, 80, 90), WHITE]])
    assert np.array_equal(decode(encode(image, "PNG", transparency=1), "a").pixels, expected)
    assert np.array_equal(decode(encode(image, "GIF", transparency=1), "a").pixels, expected)
    partly = decode(encode(image, "PNG", transparency=bytes([255, 0, 128])), "a").pixels
    assert np.array_equal(partly[0, 1], WHITE)
    assert difference(partly[1, 0], np.array([70, 80, 90]) * 128 / 255 + 127) <= 1
    keyed = decode(encode(pil(corners()), "PNG", transparency=(0, 0, 255)), "a").pixels
    assert tuple(keyed[0, 0]) == WHITE
    assert np.array_equal(keyed[1:], corners()[1:])


def ramp16():
    return np.linspace(0, 65535, 32 * 48).reshape(32, 48).astype(np.uint16)


@pytest.mark.parametrize("byteorder", "<>")
def test_16_bit_grey_is_scaled_not_clipped(byteorder):
    expected = np.repeat(np.rint(ramp16() / 257)[..., None], 3, axis=2)
    ok, png = cv2.imencode(".png", ramp16())
    assert ok
    assert np.array_equal(decode(png.tobytes(), "a").pixels, expected)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, ramp16(), byteorder=byteorder, photometric="minisblack")
    assert np.array_equal(decode(buffer.getvalue(), "a").pixels, expected)


def test_white_is_zero_at_16_bit():
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, ramp16(), photometric="miniswhite")
    expected = np.repeat(np.rint((65535.0 - ramp16()) / 257)[..., None], 3, axis=2)
    assert difference(decode(buffer.getvalue(), "a").pixels, expected) <= 1


def test_16_bit_grey_with_a_transparent_value():
    data = encode(pil(ramp16()), "PNG", transparency=int(ramp16()[3, 5]))
    pixels = decode(data, "a").pixels
    assert tuple(pixels[3, 5]) == WHITE
    assert tuple(pixels[0, 0]) == (0, 0, 0)


def test_16_bit_colour():
    deep = (corners().astype(np.uint16) << 8) | 0x80
    ok, png = cv2.imencode(".png", deep[..., ::-1])
    assert ok
    assert difference(decode(png.tobytes(), "a").pixels, corners()) <= 1
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, deep, photometric="rgb")
    assert difference(decode(buffer.getvalue(), "a").pixels, corners()) <= 1


def test_float_grey_has_white_at_one_and_fails_beyond():
    def tiff(array):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, array.astype(np.float32), photometric="minisblack")
        return buffer.getvalue()

    pixels = decode(tiff(np.array([[0, 0.5], [0.2, 1]])), "a").pixels
    assert pixels[..., 0].tolist() == [[0, 128], [51, 255]]
    for bad in (1.5, -0.1, np.nan):
        with pytest.raises(ImageError, match="8 or 16 bit"):
            decode(tiff(np.array([[0, bad]])), "a")


def test_32_bit_integers_beyond_16_bits_fail():
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.array([[0, 70000]], np.int32), photometric="minisblack")
    with pytest.raises(ImageError, match="8 or 16 bit"):
        decode(buffer.getvalue(), "a")


def png(width, height, *chunks):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunk(*c) for c in chunks) + chunk(b"IEND", b"")


def test_a_bomb_fails_by_its_header_alone():
    data = png(100_000, 100_000, (b"IDAT", zlib.compress(bytes(1_000_000))))
    tracemalloc.start()
    with pytest.raises(ImageError, match="limit of 200,000,000"):
        decode(data, "a")
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_our_limit_not_pillows_decides(recwarn, monkeypatch):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 100)
    for fmt in ("JPEG", "PNG", "TIFF", "BMP"):
        assert decode(encode(pil(corners()), fmt), "a").size == (48, 32)
    assert PIL.Image.MAX_IMAGE_PIXELS == 100
    assert not recwarn.list
    with pytest.raises(ImageError, match="48×32"):
        decode(encode(pil(corners()), "PNG"), "a", limits=Limits(pixels=48 * 32 - 1))


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF"])
def test_a_truncated_file_is_a_failure(fmt):
    rng = np.random.default_rng(0)
    data = encode(pil(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)), fmt)
    for part in (0.3, 0.6, 0.9):
        with pytest.raises(ImageError):
            decode(data[: int(len(data) * part)], "a")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"GIF89a", "GIF"),
        (b"hello, world", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (png(0, 5), "PNG"),
    ],
)
def test_what_is_no_picture_says_so_without_naming_the_file(data, reason):
    with pytest.raises(ImageError, match=reason) as caught:
        decode(data, "/some/file.jpg")
    assert "file.jpg" not in caught.value.reason


def test_too_many_bytes():
    with pytest.raises(ImageError, match="raise the byte limit"):
        decode(encode(pil(corners()), "PNG"), "a", limits=Limits(bytes=50))


SEEDS = [
    encode(pil(corners()), "JPEG", progressive=True),
    encode(pil(corners(), "CMYK"), "JPEG"),
    encode(pil(corners(), "P"), "PNG", transparency=3),
    encode(pil(corners()), "WEBP"),
    encode(pil(corners()), "TIFF", compression="tiff_lzw"),
    encode(pil(corners()), "GIF"),
    encode(pil(corners()), "BMP"),
    encode(pil(corners()), "AVIF"),
]


def valid_or_named(data, max_side):
    try:
        image = decode(data, "a", max_side=max_side, limits=Limits(pixels=1_000_000))
    except ImageError as error:
        assert error.reason
    else:
        assert isinstance(image, Image)
        assert max_side is None or max(image.pixels.shape) <= max(max_side, 3)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=4)), min_size=1, max_size=6),
    st.sampled_from([None, 10]),
)
def test_mutated_files_are_read_or_named(seed, edits, max_side):
    data = bytearray(seed)
    for where, patch in edits:
        at = int(where**2 * len(data))  # more often in the header
        data[at : at + max(1, len(patch))] = patch
    valid_or_named(bytes(data), max_side)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"GIF89a", b"BM", b"RIFF\0\1\0\0WEBP"]),
    st.binary(max_size=200),
)
@pytest.mark.filterwarnings("ignore")
def test_arbitrary_bytes_are_read_or_named(magic, tail):
    valid_or_named(magic + tail, None)


def test_a_palette_that_is_not_there_is_named():
    """Pillow asserts that there is one."""
    data = encode(pil(corners(), "P"), "PNG")
    start = data.index(b"PLTE") - 4
    length = int.from_bytes(data[start : start + 4], "big")
    with pytest.raises(ImageError, match="AssertionError"):
        decode(data[:start] + data[start + length + 12 :], "a")
