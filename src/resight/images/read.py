"""Any photo, safely, to upright sRGB: from bytes, a path, an archive member, a PIL image or an array."""

import hashlib
import io
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import (  # noqa: F401  (each import registers the decoder that `_open` looks up)
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL.ImageFile import ImageFile

from resight.errors import ImageError, UnreadError
from resight.images.archives import read_member, split_member
from resight.images.damage import DECODER_ERRORS
from resight.images.image import Image
from resight.images.limits import Limits
from resight.images.metadata import exif_facts
from resight.images.samples import to_plain, to_srgb

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF")  # and HEIF, where pillow-heif is installed
"""The allow-list: no other decoder is ever handed a byte."""

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
_UPRIGHT = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
"""EXIF orientation (tag 274) → the transposition that undoes it; ROTATE_* turn counter-clockwise."""

_DEFAULT = Limits()


def decode(data: bytes, origin: str, *, max_side: int | None = None, limits: Limits = _DEFAULT) -> Image:
    """Decode the (first) picture of an encoded file.

    max_side: the longest side of the result in pixels; larger pictures are reduced, none is enlarged.

    Raises: ImageError where the bytes are no picture of a known format, are damaged or truncated, or exceed
    the limits. A damaged EXIF block counts as absent.
    """
    with _opened(data, limits) as encoded:
        return _whole(encoded, origin, max_side)


def decode_with_facts(
    data: bytes, origin: str, *, max_side: int | None = None, limits: Limits = _DEFAULT
) -> tuple[Image, dict[str, str | float]]:
    """As ``decode``, and what the EXIF block says (``resight.images.metadata``)."""
    with _opened(data, limits) as encoded:
        # A PNG may have its EXIF block behind the pixels.
        image = _whole(encoded, origin, max_side)
        return image, exif_facts(encoded)


def load(origin: str, *, limit: int = _DEFAULT.bytes) -> bytes:
    """The bytes of a file, or of an archive member such as ``/photos/box.zip!/a.jpg``.

    A few archives stay open between calls, so members are best asked for archive by archive, in order.

    Raises: ImageError where it is empty, not a regular file, or longer than ``limit``; its UnreadError where it is
    missing or cannot be read.
    """
    limits = Limits(bytes=limit)
    member = split_member(origin)
    try:
        if member is not None and Path(member[0]).is_file():
            return read_member(*member, limits)
        status = Path(origin).stat()
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("it is a folder" if stat.S_ISDIR(status.st_mode) else "it is not a regular file")
        limits.check_bytes(status.st_size)
        with Path(origin).open("rb") as file:
            data = file.read(limit + 1)  # it may have grown since
    except (FileNotFoundError, NotADirectoryError):
        raise UnreadError("the file does not exist") from None
    except PermissionError:
        raise UnreadError("no permission to read the file") from None
    except OSError as error:
        raise UnreadError(f"the file cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a NUL or an unencodable character in the name
        raise ImageError(f"the file cannot be read: {error}") from error
    limits.check_bytes(len(data))
    return data


def read_image(
    value: str | Path | PIL.Image.Image | NDArray[np.uint8] | Image,
    *,
    max_side: int | None = None,
    limits: Limits = _DEFAULT,
) -> Image:
    """A picture in whatever form the caller has it.

    value: a path or archive member; a PIL image of any mode, whose EXIF orientation and colour profile count;
        an H×W, H×W×3 RGB or H×W×4 RGBA uint8 array; or an Image, which keeps its size and origin.
    max_side: as for `decode`.

    Raises: ImageError where the value is no readable picture.
    """
    if isinstance(value, Image):
        return _shrunk(value, max_side)
    if isinstance(value, PIL.Image.Image):
        limits.check_pixels(*value.size)
        try:
            return _upright(value, getattr(value, "filename", "") or "<image>", max_side)
        except DECODER_ERRORS as error:
            raise ImageError(_reason(error)) from error
    if isinstance(value, np.ndarray):
        if value.dtype != np.uint8 or (value.ndim != 2 and (value.ndim != 3 or value.shape[2] not in (3, 4))):
            raise ImageError(
                f"an array of {value.shape} {value.dtype} is no picture; give uint8 of H×W, H×W×3 (RGB) or H×W×4 (RGBA)"
            )
        limits.check_pixels(value.shape[1], value.shape[0])
        return _upright(PIL.Image.fromarray(value), "<array>", max_side)
    origin = str(value)
    return decode(load(origin, limit=limits.bytes), origin, max_side=max_side, limits=limits)


def read_with_digest(origin: str, max_side: int | None = None) -> tuple[Image, str]:
    """The picture at an origin, and the ``digest`` of its file. Raises as ``read_image``."""
    data = load(origin)
    return decode(data, origin, max_side=max_side), digest(data)


def digest(data: bytes) -> str:
    """A content hash: BLAKE2b of 16 bytes, as 32 hexadecimal digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def thumbnail_jpeg(image: Image, side: int, quality: int = 80) -> bytes:
    """A JPEG whose longest side is at most ``side`` pixels, made from pixels alone: no EXIF, no profile."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(_shrunk(image, side).pixels).save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def thumbnail_of(origin: str, content: str, side: int, quality: int, limits: Limits = _DEFAULT) -> bytes:
    """``thumbnail_jpeg`` of what is at an origin; ImageError as for ``read_image``, and where its digest is another."""
    data = load(origin, limit=limits.bytes)
    if digest(data) != content:
        raise ImageError("it has changed since it was indexed; index its folder again")
    return thumbnail_jpeg(decode(data, origin, max_side=side, limits=limits), side, quality)


@contextmanager
def _opened(data: bytes, limits: Limits) -> Iterator[ImageFile]:
    """The picture, checked against the limits; what its decoder raises inside becomes an ImageError."""
    limits.check_bytes(len(data))
    try:
        with _open(data) as encoded:
            limits.check_pixels(*encoded.size)
            yield encoded
    except DECODER_ERRORS as error:
        raise ImageError(_reason(error)) from error


def _whole(encoded: ImageFile, origin: str, max_side: int | None) -> Image:
    size = encoded.size
    return _upright(encoded, origin, max_side, size, _draft(encoded, max_side))


def _open(data: bytes) -> ImageFile:
    """The picture with its header read and nothing decoded.

    Not by PIL.Image.open, whose one process-wide pixel limit warns and fails below ours.
    """
    prefix = data[:16]
    heif = prefix[4:8] == b"ftyp" and prefix[8:12] in _HEIF_BRANDS
    for name in FORMATS:
        factory, accept = PIL.Image.OPEN[name]
        if accept is None or accept(prefix) is not True:
            continue
        try:
            return factory(io.BytesIO(data), "")
        except SyntaxError as error:
            if not heif:  # mif1 and msf1 hold AVIF or HEIF
                raise ImageError(f"not a readable {name} file: {_said(error)}") from error
    if heif:
        return _open_heif(data)
    raise ImageError("not an image (JPEG, PNG, WebP, TIFF, GIF, BMP, AVIF or HEIC)")


def _open_heif(data: bytes) -> ImageFile:
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise ImageError("HEIC needs a decoder; run: pip install 'resight[heif]'") from None
    image: ImageFile = HeifImageFile(io.BytesIO(data))  # turns the pixels itself and resets the EXIF orientation
    return image


def _draft(encoded: ImageFile, max_side: int | None) -> tuple[float, float, float, float] | None:
    """Have a JPEG reduced by 2, 4 or 8 while it is decoded; the box of reduced pixels that the picture fills.

    Never below 1.5 times the target: the resampling afterwards hides the coarser filtering of the DCT.
    """
    if max_side is None or max_side < 1 or not isinstance(encoded, JpegImagePlugin.JpegImageFile):
        return None
    drafted = encoded.draft(None, _target(encoded.size, max_side * 3 // 2))
    return drafted[1] if drafted else None


def _upright(
    image: PIL.Image.Image,
    origin: str,
    max_side: int | None,
    size: tuple[int, int] = (0, 0),
    box: tuple[float, float, float, float] | None = None,
) -> Image:
    """The one path from Pillow to an Image. Reduces before it converts: colour is the dearer step."""
    if max_side is not None and max_side < 1:
        raise ImageError(f"max_side must be at least 1 pixel, not {max_side}")
    huge = PIL.Image.MAX_IMAGE_PIXELS is not None and size[0] * size[1] > PIL.Image.MAX_IMAGE_PIXELS
    with _without_pillows_limit() if huge else nullcontext():
        image.load()
    if box is None:
        size = image.size  # HEIF may decode to another size than its header says
    plain = to_plain(image)
    if max_side is not None and max(size) > max_side:
        plain = plain.resize(_target(size, max_side), PIL.Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)
    colour = to_srgb(plain, image.info.get("icc_profile"))
    orientation = _orientation(image)
    if orientation in _UPRIGHT:
        colour = colour.transpose(_UPRIGHT[orientation])
        size = (size[1], size[0]) if orientation >= 5 else size
    return Image(np.array(colour), size, origin)


def _orientation(image: PIL.Image.Image) -> int:
    """EXIF orientation 1…8; 1 where there is none or its block is damaged. (TIFF has turned itself.)"""
    try:
        value = image.getexif().get(274, 1)
    except DECODER_ERRORS:
        return 1
    return value if isinstance(value, int) else 1


def _shrunk(image: Image, max_side: int | None) -> Image:
    """The same picture with fewer pixels; its size, the frame of boxes and keypoints, stays."""
    height, width = image.pixels.shape[:2]
    if max_side is None or max(width, height) <= max_side:
        return image
    return Image(_upright(PIL.Image.fromarray(image.pixels), "", max_side).pixels, image.size, image.origin)


def _target(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    """The size with the longest side at most max_side and the aspect kept to the nearest pixel."""
    longest = max(size)
    if longest <= max_side:
        return size
    return max(1, round(size[0] * max_side / longest)), max(1, round(size[1] * max_side / longest))


_pillows_limit = threading.Lock()


@contextmanager
def _without_pillows_limit() -> Iterator[None]:
    """For Pillow's TIFF decoder, which checks a process-wide limit while decoding; ours has been checked."""
    with _pillows_limit:
        limit, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = limit


def _reason(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    if isinstance(error, PIL.Image.DecompressionBombError):
        return f"too many pixels; save it smaller: {_said(error)}"
    return f"damaged or truncated: {_said(error)}" if str(error) else f"damaged or truncated ({type(error).__name__})"


def _said(error: BaseException) -> str:
    """A decoder's message in one line of bounded length."""
    return " ".join(str(error).split())[:300]
