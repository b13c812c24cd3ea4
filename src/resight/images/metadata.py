"""What a photo says of itself in its EXIF block (CIPA DC-008, Exif 3.0), as facts with plain names."""

import re
import unicodedata
from contextlib import suppress
from datetime import datetime
from math import isfinite
from typing import Any

import PIL.Image
from PIL.ExifTags import GPS, IFD, Base

from resight.images.damage import DECODER_ERRORS

EXIF_TEXTS = ("taken", "camera_make", "camera_model", "lens", "description", "artist", "copyright")
EXIF_NUMBERS = ("focal_length", "aperture", "exposure", "iso", "latitude", "longitude", "altitude")

_LONGEST = 1000  # characters of a text
_TAKEN = re.compile(r"(\d{4})[:-](\d\d)[:-](\d\d)[ T](\d\d):(\d\d):(\d\d)")

_Block = dict[int, Any]


def exif_facts(image: PIL.Image.Image) -> dict[str, str | float]:
    """The facts among EXIF_TEXTS and EXIF_NUMBERS that there are; a damaged block or value counts as absent.

    taken: local time of the camera as ``2019-05-01T10:11:12``, so that the order of texts is that of time.
    latitude, longitude: WGS 84, in degrees, north and east positive; there are both or neither. altitude: metres.
    focal_length: mm. aperture: the f-number. exposure: seconds.
    Texts are of at most 1,000 characters in one line without control characters.
    """
    try:
        exif = image.getexif()
    except DECODER_ERRORS:
        return {}
    camera, place = _block(exif, IFD.Exif), _block(exif, IFD.GPSInfo)
    found = {
        "taken": _taken(camera.get(Base.DateTimeOriginal)),
        "camera_make": _text(_value(exif, Base.Make)),
        "camera_model": _text(_value(exif, Base.Model)),
        "lens": _text(camera.get(Base.LensModel)),
        "description": _text(_value(exif, Base.ImageDescription)),
        "artist": _text(_value(exif, Base.Artist)),
        "copyright": _text(_value(exif, Base.Copyright)),
        "focal_length": _positive(camera.get(Base.FocalLength)),
        "aperture": _positive(camera.get(Base.FNumber)),
        "exposure": _positive(camera.get(Base.ExposureTime)),
        "iso": _positive(camera.get(Base.ISOSpeedRatings)),
        "altitude": _altitude(place),
    }
    latitude = _degrees(place.get(GPS.GPSLatitude), place.get(GPS.GPSLatitudeRef), "NS", 90)
    longitude = _degrees(place.get(GPS.GPSLongitude), place.get(GPS.GPSLongitudeRef), "EW", 180)
    if latitude is not None and longitude is not None:
        found |= {"latitude": latitude, "longitude": longitude}
    return {key: value for key, value in found.items() if value is not None}


def _block(exif: PIL.Image.Exif, tag: int) -> _Block:
    """A block of its own within the EXIF block; empty where it is damaged, whatever becomes of the others."""
    try:
        return dict(exif.get_ifd(tag))
    except DECODER_ERRORS:
        return {}


def _value(exif: PIL.Image.Exif, tag: int) -> object:
    """A value of the outer block, which Pillow decodes only now."""
    try:
        return exif.get(tag)
    except DECODER_ERRORS:
        return None


def _text(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    # The standard has ASCII, which Pillow reads as Latin-1; what is written is mostly UTF-8.
    with suppress(UnicodeError):
        value = value.encode("latin-1").decode("utf-8")
    first = value.partition("\0")[0]  # the photographer's copyright, before the editor's
    plain = "".join(" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in first)
    return " ".join(plain.split())[:_LONGEST].rstrip() or None


def _taken(value: object) -> str | None:
    parts = _TAKEN.fullmatch(_text(value) or "")
    if parts is None:
        return None
    try:
        return datetime(*map(int, parts.groups())).isoformat()  # type: ignore[arg-type]
    except ValueError:  # 0000:00:00 of a clock that was never set
        return None


def _number(value: object) -> float | None:
    """A finite number; the first of several."""
    if isinstance(value, tuple) and value:
        value = value[0]
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, ZeroDivisionError):
        return None
    return number if isfinite(number) else None


def _positive(value: object) -> float | None:
    number = _number(value)
    return number if number is not None and number > 0 else None


def _degrees(value: object, reference: object, signs: str, most: int) -> float | None:
    """Degrees, minutes and seconds as signed degrees. signs: the letters of the positive and the negative half."""
    sign = _text(reference)
    if not isinstance(value, tuple) or len(value) != 3 or sign not in tuple(signs):
        return None
    degrees, minutes, seconds = (_number(part) for part in value)
    if degrees is None or minutes is None or seconds is None or min(degrees, minutes, seconds) < 0:
        return None
    angle = round(degrees + minutes / 60 + seconds / 3600, 7)  # to a centimetre
    if angle > most:
        return None
    return -angle if sign == signs[1] else angle


def _altitude(place: _Block) -> float | None:
    height, reference = _number(place.get(GPS.GPSAltitude)), place.get(GPS.GPSAltitudeRef, 0)
    if height is None or height < 0:
        return None
    below = reference in (1, 3, b"\x01", b"\x03")
    return -height if below else height
