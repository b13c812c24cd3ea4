"""Colour: CMYK, Lab and ICC profiles against arithmetic from their definitions."""

import io
import struct

import numpy as np
import PIL.Image
import pytest
import tifffile
from PIL import ImageCms

from resight.images import decode, read_image

LEVELS = np.array([0, 64, 128, 192, 255], np.uint8)
CUBE = np.stack(np.meshgrid(LEVELS, LEVELS, LEVELS), axis=-1).reshape(5, 25, 3)


def encode(image, fmt, **options):
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def matrix_profile(colorants, gamma, space=b"RGB ", curves=(b"rTRC", b"gTRC", b"bTRC")):
    """A version 2 display profile (ICC.1:2001-04): the columns of RGB → XYZ(D50) and one gamma."""

    def s15f16(values):
        return b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    tags = {b"wtpt": b"XYZ \0\0\0\0" + s15f16((0.9642, 1.0, 0.8249))}
    for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), np.transpose(colorants), strict=True):
        tags[name] = b"XYZ \0\0\0\0" + s15f16(column)
    for name in curves:
        tags[name] = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    tags[b"desc"] = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78)
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data
    header = struct.pack(">I4sI4s4s4s", start + len(body), b"lcms", 0x02100000, b"mntr", space, b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + s15f16((0.9642, 1.0, 0.8249)) + bytes(48)
    return header + table + body


# Bradford-adapted to D50: the sRGB and Display P3 (SMPTE EG 432-1 primaries, D65) colorants.
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])


def srgb_encode(linear):
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize(("fmt", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_a_wide_gamut_profile_is_applied(fmt, options):
    data = encode(PIL.Image.fromarray(CUBE), fmt, icc_profile=matrix_profile(P3, 2.2), **options)
    linear = (CUBE / 255) ** (563 / 256) @ (np.linalg.inv(SRGB) @ P3).T
    expected = srgb_encode(linear)
    pixels = decode(data, "a").pixels
    assert np.abs(pixels - expected).max() <= 3
    assert np.abs(pixels.astype(int) - CUBE).max() > 20


def test_the_profile_is_applied_after_reduction_too():
    flat = np.full((64, 64, 3), (0, 200, 100), np.uint8)
    profile = matrix_profile(P3, 2.2)
    full = decode(encode(PIL.Image.fromarray(flat), "PNG", icc_profile=profile), "a").pixels
    small = decode(encode(PIL.Image.fromarray(flat), "PNG", icc_profile=profile), "a", max_side=7).pixels
    assert np.array_equal(small[3, 3], full[32, 32])
    assert not np.array_equal(small[3, 3], flat[0, 0])


@pytest.mark.parametrize(
    "profile",
    [
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        b"not a profile",
        matrix_profile(P3, 2.2)[:200],
        matrix_profile(P3, 2.2, space=b"CMYK"),
    ],
    ids=["srgb", "garbage", "truncated", "for another colour space"],
)
def test_srgb_and_unusable_profiles_change_nothing(profile):
    data = encode(PIL.Image.fromarray(CUBE), "PNG", icc_profile=profile)
    assert np.array_equal(decode(data, "a").pixels, CUBE)


def test_a_colour_profile_on_grey_is_ignored_and_a_grey_one_applied():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    same = np.repeat(grey[..., None], 3, axis=2)
    data = encode(PIL.Image.fromarray(grey), "PNG", icc_profile=matrix_profile(P3, 2.2))
    assert np.array_equal(decode(data, "a").pixels, same)
    gamma = matrix_profile(P3, 1.5, space=b"GRAY", curves=(b"kTRC",))
    pixels = decode(encode(PIL.Image.fromarray(grey), "PNG", icc_profile=gamma), "a").pixels
    assert np.abs(pixels - srgb_encode((same / 255) ** 1.5)).max() <= 3


def inks():
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(0, 256, (4, 6, 4)), np.ones((8, 8, 1))).astype(np.uint8)


def without_profile(cmyk):
    """(1 − C)(1 − K) and so on."""
    cmyk = cmyk.astype(float)
    return (255 - cmyk[..., :3]) * (255 - cmyk[..., 3:]) / 255


@pytest.mark.parametrize("fmt", ["JPEG", "TIFF"])
def test_cmyk(fmt):
    options = {"quality": 100, "subsampling": 0} if fmt == "JPEG" else {}
    data = encode(PIL.Image.frombytes("CMYK", (48, 32), inks().tobytes()), fmt, **options)
    assert np.abs(decode(data, "a").pixels - without_profile(inks())).max() <= 5


def test_ycck():
    """Adobe's transform 2: YCbCr of the (inverted) CMY and K as it is (Adobe TN 5116, section 18)."""
    cmyk = inks()
    ycc = PIL.Image.fromarray(np.ascontiguousarray(cmyk[..., :3])).convert("YCbCr")
    stored = np.dstack([255 - np.asarray(ycc), cmyk[..., 3]])
    data = encode(PIL.Image.frombytes("CMYK", (48, 32), stored.tobytes()), "JPEG", quality=100, subsampling=0)
    adobe = data.index(b"Adobe")
    assert data[adobe + 11] == 0
    data = data[: adobe + 11] + b"\x02" + data[adobe + 12 :]
    assert np.abs(decode(data, "a").pixels - without_profile(cmyk)).max() <= 8


def test_lab_is_converted_by_its_definition():
    # CIE L*a*b* (D50) of mid grey, white and a saturated red, by the CIE 1976 formulas from sRGB.
    lab = [(53.585, 0, 0), (100, 0, 0), (54.29, 80.81, 69.89)]
    rgb = [(128, 128, 128), (255, 255, 255), (255, 0, 0)]
    samples = np.array([[(round(v * 255 / 100), round(a) % 256, round(b) % 256) for v, a, b in lab]], np.uint8)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, photometric="cielab")
    assert np.abs(decode(buffer.getvalue(), "a").pixels.astype(int) - [rgb]).max() <= 6  # a step of L is 2.5 levels


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "YCbCr", "HSV"])
def test_every_mode_of_pil_reads_as_the_colour_it_was_made_from(mode):
    white = PIL.Image.new("RGBA", (5, 4), "white")
    source = white.convert("RGB") if mode in ("YCbCr", "HSV", "RGBX", "P") else white
    image = source.convert("P").convert("PA") if mode == "PA" else source.convert(mode)
    assert np.array_equal(read_image(image).pixels, np.full((4, 5, 3), 255))
