"""Whatever Pillow's modes hold, as 8-bit sRGB: depth, alpha, palettes and colour profiles."""

import io
from functools import lru_cache

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import ImageCms

from resight.errors import ImageError

_PLAIN = ("L", "RGB", "CMYK", "LAB")
_GREY = ("1", "L", "LA", "La")
_DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK", "LAB": "Lab"}


def to_plain(image: PIL.Image.Image) -> PIL.Image.Image:
    """The image in mode L, RGB, CMYK or LAB at 8 bits, alpha flattened on white; still in its own profile.

    16-bit grey is scaled by 255/65535, 12-bit TIFF by 255/4095. Mode I (32-bit integers) is taken for 16-bit,
    the only depth in common use that Pillow opens so. Floating-point grey must lie in 0…1.

    Raises: ImageError for samples outside those ranges, which have no defined white.
    """
    if image.mode in _DEEP:
        return PIL.Image.fromarray(_eight_bits(image))
    if image.has_transparency_data:
        return _on_white(image)
    if image.mode in _PLAIN:
        return image
    return image.convert("L" if image.mode in _GREY else "RGB")


def to_srgb(image: PIL.Image.Image, profile: bytes | None) -> PIL.Image.Image:
    """A `to_plain` image as sRGB, mode RGB: relative colorimetric with black-point compensation.

    A profile that cannot be parsed, or that describes another colour space than the pixels have, says nothing
    about them. It is ignored, as viewers do, and the pixels are taken as sRGB, or as plain CMYK or D50 Lab.
    """
    transform = _transform(profile, image.mode) if profile else None
    if transform is not None:
        return transform.apply(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image: PIL.Image.Image) -> NDArray[np.uint8]:
    """Integer or floating-point grey, H×W, rounded to 8 bits."""
    samples = np.asarray(image)
    if image.mode == "F":
        if not (samples.min() >= 0 and samples.max() <= 1):  # also where a sample is NaN
            raise ImageError("floating-point samples outside 0…1 have no defined white; save it as 8 or 16 bit")
        return np.rint(samples * np.float32(255)).astype(np.uint8)
    if image.mode == "I" and not (samples.min() >= 0 and samples.max() <= 65535):
        raise ImageError("32-bit integer samples outside 0…65535 have no defined white; save it as 8 or 16 bit")
    white = 4095 if _tiff_tag(image, 258) == 12 else 65535
    # In int32 this neither overflows nor costs the 8 bytes a pixel of NumPy's default promotion.
    grey = ((samples.astype(np.int32) * 255 + white // 2) // white).astype(np.uint8)
    if _tiff_tag(image, 262) == 0:  # WhiteIsZero, which Pillow inverts at 8 bits but not at 16
        grey = 255 - grey
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[samples == transparent] = 255
    return grey


def _tiff_tag(image: PIL.Image.Image, tag: int) -> int | None:
    """The (first) value of a TIFF tag; None for other formats and absent tags."""
    value = getattr(image, "tag_v2", {}).get(tag)
    return value[0] if isinstance(value, tuple) else value


def _on_white(image: PIL.Image.Image) -> PIL.Image.Image:
    grey = image.mode in _GREY
    see_through = image.convert("LA" if grey else "RGBA")
    mode = "L" if grey else "RGB"
    canvas = PIL.Image.new(mode, image.size, "white")
    canvas.paste(see_through.convert(mode), mask=see_through.getchannel("A"))
    return canvas


@lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform to sRGB; None where the profile does not describe pixels of this mode, or is sRGB."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != _SPACES[mode]:
            return None
        transform = ImageCms.buildTransform(
            source,
            _srgb(),
            mode,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError):
        return None
    return None if mode == "RGB" and _keeps_colours(transform) else transform


def _keeps_colours(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether RGB stays the same within a level, as with the sRGB profiles that most photos carry."""
    levels = np.linspace(0, 255, 18, dtype=np.uint8)
    lattice = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(18, -1, 3)
    moved = np.asarray(transform.apply(PIL.Image.fromarray(lattice)))
    return bool(np.abs(moved.astype(int) - lattice).max() <= 1)


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
