"""EXIF as facts: blocks written by Pillow, and blocks that are damaged."""

import io
import math

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL.ExifTags import GPS, IFD, Base
from PIL.TiffImagePlugin import IFDRational

from resight.images.metadata import EXIF_NUMBERS, EXIF_TEXTS
from resight.images.read import decode, decode_with_facts

CAMERA = {
    Base.DateTimeOriginal: "2019:05:01 10:11:12",
    Base.LensModel: "EF 50mm",
    Base.FocalLength: IFDRational(50, 1),
    Base.FNumber: IFDRational(28, 10),
    Base.ExposureTime: IFDRational(1, 250),
    Base.ISOSpeedRatings: 400,
}
PLACE = {
    GPS.GPSLatitudeRef: "S",
    GPS.GPSLatitude: (IFDRational(33), IFDRational(51), IFDRational(3150, 100)),
    GPS.GPSLongitudeRef: "E",
    GPS.GPSLongitude: (IFDRational(151), IFDRational(12), IFDRational(54)),
    GPS.GPSAltitudeRef: b"\0",
    GPS.GPSAltitude: IFDRational(125, 10),
}
OUTER = {
    Base.Make: "Canon",
    Base.Model: "EOS 5D",
    Base.ImageDescription: "A house",
    Base.Artist: "A",
    Base.Copyright: "C",
}
FACTS = {
    "taken": "2019-05-01T10:11:12",
    "lens": "EF 50mm",
    "focal_length": 50.0,
    "aperture": 2.8,
    "exposure": 0.004,
    "iso": 400.0,
    "latitude": -(33 + 51 / 60 + 31.5 / 3600),
    "longitude": 151.215,
    "altitude": 12.5,
    "camera_make": "Canon",
    "camera_model": "EOS 5D",
    "description": "A house",
    "artist": "A",
    "copyright": "C",
}


def exif(outer=None, camera=None, place=None) -> PIL.Image.Exif:
    made = PIL.Image.Exif()
    for tag, value in (outer or {}).items():
        made[tag] = value
    for tag, block in ((IFD.Exif, camera), (IFD.GPSInfo, place)):
        if block:
            made[tag] = block
    return made


def encoded(made, form="JPEG") -> bytes:
    buffer = io.BytesIO()
    # As bytes: Pillow writes a TIFF's blocks within only from an Exif that it has read.
    block = made.tobytes() if isinstance(made, PIL.Image.Exif) else made
    PIL.Image.new("RGB", (24, 16), "teal").save(buffer, form, exif=block)
    return buffer.getvalue()


def facts(made, form="JPEG") -> dict:
    return decode_with_facts(encoded(made, form), "a")[1]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_every_fact_in_every_format(form):
    found = facts(exif(OUTER, CAMERA, PLACE), form)
    assert set(found) == set(FACTS) == {*EXIF_TEXTS, *EXIF_NUMBERS}
    for key, value in found.items():
        if key in EXIF_TEXTS:
            assert value == FACTS[key]
        else:
            assert type(value) is float and value == pytest.approx(FACTS[key], rel=1e-6)


def test_the_picture_is_the_same_with_and_without_facts():
    data = encoded(exif({**OUTER, Base.Orientation: 6}))
    image, _ = decode_with_facts(data, "a", max_side=12)
    alone = decode(data, "a", max_side=12)
    assert image.size == alone.size == (16, 24) and np.array_equal(image.pixels, alone.pixels)


def test_a_picture_without_exif_has_no_facts():
    assert facts(PIL.Image.Exif()) == {}
    assert decode_with_facts(encoded(PIL.Image.Exif(), "BMP"), "a")[1] == {}


@pytest.mark.parametrize(
    ("taken", "fact"),
    [
        ("2019:05:01 10:11:12", "2019-05-01T10:11:12"),
        ("2019-05-01T10:11:12", "2019-05-01T10:11:12"),
        ("0000:00:00 00:00:00", None),
        ("2019:02:30 10:11:12", None),
        ("    :  :     :  :  ", None),
        ("yesterday", None),
    ],
)
def test_times(taken, fact):
    assert facts(exif(camera={Base.DateTimeOriginal: taken})).get("taken") == fact


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("Zürich".encode(), "Zürich"),
        ("Zürich".encode("latin-1"), "Zürich"),
        (b"  two\r\n lines\x1b[31m\x07 ", "two lines [31m"),
        (b"photographer\0editor", "photographer"),
        (b"     ", None),
        (b"x" * 5000, "x" * 1000),
    ],
)
def test_texts_are_one_line_of_bounded_length(text, fact):
    assert facts(exif({Base.Copyright: text})).get("copyright") == fact


@pytest.mark.parametrize(
    "change",
    [
        {GPS.GPSLatitude: (IFDRational(91), IFDRational(0), IFDRational(0))},
        {GPS.GPSLatitude: (IFDRational(1, 0), IFDRational(0), IFDRational(0))},
        {GPS.GPSLatitude: (IFDRational(10), IFDRational(0))},
        {GPS.GPSLongitudeRef: "N"},
        {GPS.GPSLongitudeRef: "EW"},
    ],
)
def test_a_place_that_cannot_be_is_absent_and_the_rest_is_not(change):
    found = facts(exif(OUTER, None, PLACE | change))
    assert "latitude" not in found and "longitude" not in found
    assert found["altitude"] == 12.5 and found["camera_make"] == "Canon"


@pytest.mark.parametrize(("reference", "altitude"), [(b"\0", 12.5), (b"\1", -12.5), (b"\2", 12.5), (b"\3", -12.5)])
def test_below_the_sea_is_negative(reference, altitude):
    assert facts(exif(place=PLACE | {GPS.GPSAltitudeRef: reference}))["altitude"] == altitude


@settings(max_examples=100, deadline=None)
@given(st.floats(-90, 90), st.floats(-180, 180))
def test_places_are_kept_to_a_centimetre(latitude, longitude):
    def parts(angle):
        degrees = math.floor(abs(angle))
        minutes = math.floor((abs(angle) - degrees) * 60)
        seconds = (abs(angle) - degrees - minutes / 60) * 3600
        return IFDRational(degrees), IFDRational(minutes), IFDRational(round(max(0, seconds) * 100_000), 100_000)

    place = {
        GPS.GPSLatitude: parts(latitude),
        GPS.GPSLatitudeRef: "N" if latitude >= 0 else "S",
        GPS.GPSLongitude: parts(longitude),
        GPS.GPSLongitudeRef: "E" if longitude >= 0 else "W",
    }
    found = facts(exif(place=place))
    assert abs(found["latitude"] - latitude) < 1.1e-7 and abs(found["longitude"] - longitude) < 1.1e-7


def test_numbers_that_are_none_are_absent():
    camera = {Base.FNumber: IFDRational(0, 0), Base.ExposureTime: IFDRational(1, 0), Base.ISOSpeedRatings: 0}
    assert facts(exif(OUTER, camera)) == {
        key: FACTS[key] for key in ("camera_make", "camera_model", "description", "artist", "copyright")
    }


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about the damage
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_is_never_an_error(data):
    """Any bytes of the block changed: what is found has known names, types and bounds, and the picture is read."""
    block = bytearray(exif(OUTER, CAMERA, PLACE).tobytes())
    for at in data.draw(st.lists(st.integers(6, len(block) - 1), min_size=1, max_size=8)):
        block[at] = data.draw(st.integers(0, 255))
    block = block[: data.draw(st.integers(6, len(block)))]
    image, found = decode_with_facts(encoded(bytes(block)), "a")
    assert image.pixels.shape[2] == 3
    for key, value in found.items():
        if key in EXIF_TEXTS:
            assert isinstance(value, str) and 0 < len(value) <= 1000 and "\0" not in value
            value.encode()
        else:
            assert key in EXIF_NUMBERS and isinstance(value, float) and math.isfinite(value)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("tag", "lost"), [(b"\x87\x69", "taken"), (b"\x88\x25", "latitude")])
def test_a_damaged_block_within_leaves_the_others(tag, lost):
    block = bytearray(exif(OUTER, CAMERA, PLACE).tobytes())
    entry = tag + b"\0\4\0\0\0\1"  # of one long, which is where the block begins
    at = block.index(entry) + len(entry)
    block[at : at + 4] = b"\xff\xff\xff\xf0"
    found = facts(bytes(block))
    assert found["camera_model"] == "EOS 5D" and lost not in found and found.keys() & {"taken", "latitude"}
