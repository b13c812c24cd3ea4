"""Pixels in: any photo, safely, as upright sRGB, and the places photos come from."""

from resight.images.image import Image
from resight.images.limits import Limits
from resight.images.read import decode, digest, load, read_image, thumbnail_jpeg
from resight.images.sources import IMAGE_SUFFIXES, Source, covers, find_sources

__all__ = [
    "IMAGE_SUFFIXES",
    "Image",
    "Limits",
    "Source",
    "covers",
    "decode",
    "digest",
    "find_sources",
    "load",
    "read_image",
    "thumbnail_jpeg",
]
