"""Files that no program wrote: pictures and archives broken along their own structure, and at random."""

import io
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import PIL.Image

_VALUES = (0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128, 254, 255)
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF)

Split = Callable[[bytes], list[bytes]]


def picture(mode: str, form: str, **options) -> bytes:
    """48×32 pixels with edges, so that some local features are found."""
    y, x = np.mgrid[0:32, 0:48]
    rgb = np.stack([5 * x, 7 * y, 255 * ((x // 6 + y // 6) % 2)], axis=-1).astype(np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(rgb).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def _exif() -> PIL.Image.Exif:
    exif = PIL.Image.Exif()
    exif[274], exif[271] = 6, "a maker"
    exif.get_ifd(0x8769)[0x9003] = "2019:05:01 10:11:12"
    exif.get_ifd(0x8825).update({1: "N", 2: (51.0, 30.0, 0.0), 3: "W", 4: (0.0, 7.0, 0.0)})
    return exif


def _profile() -> bytes:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def pictures() -> dict[str, list[bytes]]:
    """Sound files by suffix, of the kinds that their decoders treat differently."""
    exif, icc = _exif(), _profile()
    frames = {"save_all": True, "append_images": [PIL.Image.new("RGB", (48, 32), c) for c in ("red", "blue")]}
    found = {
        "jpg": [
            picture("RGB", "JPEG", exif=exif, icc_profile=icc),
            picture("RGB", "JPEG", progressive=True),
            picture("CMYK", "JPEG"),
            picture("L", "JPEG", restart_marker_rows=1),
        ],
        "png": [
            picture("RGB", "PNG", exif=exif, icc_profile=icc),
            picture("P", "PNG", transparency=3),
            picture("I;16", "PNG"),
            picture("LA", "PNG"),
            picture("RGB", "PNG", **frames),
        ],
        "tif": [
            *(
                picture("RGB", "TIFF", compression=c, exif=exif)
                for c in (None, "tiff_lzw", "tiff_adobe_deflate", "jpeg")
            ),
            picture("1", "TIFF", compression="group4"),
            picture("I;16", "TIFF", compression="packbits"),
            picture("RGB", "TIFF", **frames),
            picture("CMYK", "TIFF", icc_profile=icc),
        ],
        "webp": [
            picture("RGB", "WEBP", exif=exif, icc_profile=icc),
            picture("RGBA", "WEBP", lossless=True),
            picture("RGB", "WEBP", **frames),
        ],
        "gif": [picture("P", "GIF"), picture("P", "GIF", transparency=3, interlace=1), picture("P", "GIF", **frames)],
        "bmp": [picture("RGB", "BMP"), picture("P", "BMP"), picture("1", "BMP")],
        "avif": [picture("RGB", "AVIF", exif=exif, speed=10), picture("RGBA", "AVIF", speed=10)],
    }
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return found
    register_heif_opener()
    return found | {"heic": [picture("RGB", "HEIF", quality=50, exif=exif.tobytes()), picture("L", "HEIF", quality=50)]}


def archives(members: list[bytes]) -> dict[str, list[bytes]]:
    """Sound archives of some pictures by suffix."""
    found: dict[str, list[bytes]] = {"zip": [], "tar": [], "tar.gz": [], "tar.bz2": [], "tar.xz": []}
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as box:
            for number, data in enumerate(members):
                box.writestr(f"in/{number}.jpg", data)
        found["zip"].append(buffer.getvalue())
    for suffix, mode in (("tar", "w:"), ("tar.gz", "w:gz"), ("tar.bz2", "w:bz2"), ("tar.xz", "w:xz")):
        for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode=mode, format=form) as box:
                for number, data in enumerate(members):
                    info = tarfile.TarInfo(f"in/{'long' * 40 if number == 1 else ''}é{number}.jpg")
                    info.size = len(data)
                    box.addfile(info, io.BytesIO(data))
            found[suffix].append(buffer.getvalue())
    return found


def mutants(found: dict[str, list[bytes]], seed: int) -> Iterator[tuple[str, bytes]]:
    """Suffix and content of one broken file after another, without end; the same for the same seed."""
    rng = random.Random(seed)
    while True:
        for suffix, sound in found.items():
            yield suffix, mutated(rng, suffix, rng.choice(sound), rng.choice(sound))


def mutated(rng: random.Random, suffix: str, data: bytes, other: bytes) -> bytes:
    """One to four changes: of whole parts, of numbers within one, or of bytes anywhere; then perhaps an end too early.

    other: a file of the same kind, whose parts may be put in.
    """
    if suffix.startswith("tar.") and rng.random() < 0.7:  # within, so that the damage gets past the decompressor
        inner, outer = _COMPRESSORS[suffix]
        return outer(mutated(rng, "tar", inner(data), inner(other)))
    split, join = _SPLITS.get(suffix, (_blocks, b"".join))
    parts, strange = split(data), split(other)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(parts)) if parts else 0
        match rng.randrange(16):
            case 0 if len(parts) > 1:
                del parts[at]
            case 1:
                parts.insert(at, rng.choice(strange or [b""]))
            case 2 if parts:
                parts[at : at + 1] = [parts[at]] * rng.choice((2, 3, 50))
            case 3 if parts:
                swap = rng.randrange(len(parts))
                parts[at], parts[swap] = parts[swap], parts[at]
            case 4 if parts:
                parts[at] = parts[at][: rng.randrange(len(parts[at]) + 1)]
            case _ if parts:
                parts[at] = edited(rng, parts[at])
    whole = join(parts)
    if rng.random() < 0.15:
        whole = edited(rng, whole)
    return whole[: rng.randrange(len(whole) + 1)] if rng.random() < 0.1 else whole


def edited(rng: random.Random, part: bytes) -> bytes:
    """The bytes with a few of them changed, more often early ones: there are the lengths and sizes."""
    if not part:
        return rng.randbytes(4)
    changed = bytearray(part)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        if not changed:
            break
        at = int(rng.random() ** 2 * len(changed))
        match rng.randrange(4):
            case 0:
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                changed[at] = rng.choice(_VALUES)
            case 2:
                kind = rng.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
                number = struct.pack(kind, rng.choice(_NUMBERS) % 256 ** struct.calcsize(kind))
                changed[at : at + len(number)] = number
            case _:
                changed[at : at + rng.randrange(8)] = rng.randbytes(rng.randrange(8))
    return bytes(changed)


def _blocks(data: bytes) -> list[bytes]:
    return [data[at : at + 64] for at in range(0, len(data), 64)]


def _tar(data: bytes) -> list[bytes]:
    return [data[at : at + 512] for at in range(0, len(data), 512)]


def _joined_tar(parts: list[bytes]) -> bytes:
    """With each header's checksum set right, so that what it says is believed."""
    return b"".join(_checked(part) if part[257:262] == b"ustar" and len(part) == 512 else part for part in parts)


def _checked(header: bytes) -> bytes:
    total = sum(header[:148]) + 8 * 32 + sum(header[156:])
    return header[:148] + b"%06o\0 " % total + header[156:]


def split_jpeg(data: bytes) -> list[bytes]:
    """Marker segments; the scan's data with its header."""
    parts, at = [data[:2]], 2
    while at + 4 <= len(data):
        if data[at + 1] == 0xDA:
            end = len(data)
            for place in range(at + 4, len(data) - 1):
                if data[place] == 0xFF and data[place + 1] not in (0, *range(0xD0, 0xD8)):
                    end = place
                    break
        else:
            end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        parts.append(data[at:end])
        at = end
    return [*parts, data[at:]]


def split_png(data: bytes) -> list[bytes]:
    parts, at = [data[:8]], 8
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        parts.append(data[at : at + 8 + length])  # without its CRC
        at += 12 + length
    return parts


def joined_png(parts: list[bytes]) -> bytes:
    whole = []
    for part in parts:
        if part[:4] == b"\x89PNG":
            whole.append(part)
            continue
        # Its length is set right in most, by the content so that no random numbers are needed here.
        if zlib.crc32(part) % 8 and len(part) >= 8:
            part = struct.pack(">I", len(part) - 8) + part[4:]
        whole.append(part + struct.pack(">I", zlib.crc32(part[4:])))
    return b"".join(whole)


def riff(data: bytes) -> list[bytes]:
    parts, at = [data[:12]], 12
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        parts.append(data[at : at + 8 + length + length % 2])
        at += 8 + length + length % 2
    return parts


def _joined_riff(parts: list[bytes]) -> bytes:
    whole = b"".join(parts)
    return whole[:4] + struct.pack("<I", max(0, len(whole) - 8)) + whole[8:] if zlib.crc32(whole) % 4 else whole


def _gif(data: bytes) -> list[bytes]:
    """Header, extensions and images; data sub-blocks stay with what they belong to."""
    table = 3 << ((data[10] & 7) + 1) if data[10] & 128 else 0
    parts, at = [data[:13], data[13 : 13 + table]], 13 + table
    while at < len(data) and data[at] in (0x21, 0x2C):
        end = at + 2
        if data[at] == 0x2C:
            flags = data[at + 9]
            end = at + 11 + (3 << ((flags & 7) + 1) if flags & 128 else 0)
        while end < len(data) and data[end]:
            end += data[end] + 1
        parts.append(data[at : end + 1])
        at = end + 1
    return [*parts, data[at:]]


def _boxes(data: bytes) -> list[bytes]:
    """Boxes of an ISO base media file, with those in ``meta`` and ``iprp`` cut further, where most is decided."""
    parts, at = [], 0
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big") or len(data) - at
        box = data[at : at + max(8, length)]
        inside = {b"meta": 12, b"iprp": 8, b"ipco": 8, b"moov": 8}.get(box[4:8])
        parts += [box] if inside is None else [box[:inside], *_boxes(box[inside:])]
        at += max(8, length)
    return [*parts, data[at:]] if data[at:] else parts


def _tiff(data: bytes) -> list[bytes]:
    """Header and pixels as they lie, and each entry of the first directory."""
    order = "little" if data[:2] == b"II" else "big"
    at = int.from_bytes(data[4:8], order)
    count = int.from_bytes(data[at : at + 2], order)
    entries = [data[at + 2 + 12 * i : at + 14 + 12 * i] for i in range(count)]
    return [data[:at], data[at : at + 2], *entries, data[at + 2 + 12 * count :]]


def _zip(data: bytes) -> list[bytes]:
    """Cut before each record's signature."""
    places = [at for at in range(len(data)) if data[at : at + 4] in (b"PK\1\2", b"PK\3\4", b"PK\5\6")]
    return [data[at:end] for at, end in zip([0, *places], [*places, len(data)], strict=True)]


_SPLITS: dict[str, tuple[Split, Callable[[list[bytes]], bytes]]] = {
    "jpg": (split_jpeg, b"".join),
    "png": (split_png, joined_png),
    "webp": (riff, _joined_riff),
    "gif": (_gif, b"".join),
    "tif": (_tiff, b"".join),
    "heic": (_boxes, b"".join),
    "avif": (_boxes, b"".join),
    "zip": (_zip, b"".join),
    "tar": (_tar, _joined_tar),
}


def _compressors() -> dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]]:
    import bz2
    import gzip
    import lzma

    return {
        "tar.gz": (gzip.decompress, lambda data: gzip.compress(data, 1, mtime=0)),
        "tar.bz2": (bz2.decompress, lambda data: bz2.compress(data, 1)),
        "tar.xz": (lzma.decompress, lambda data: lzma.compress(data, preset=0)),
    }


_COMPRESSORS = _compressors()
