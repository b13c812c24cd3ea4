"""Files that are small on disk and meant to cost much, or to lead out of their folder."""

import bz2
import gzip
import io
import lzma
import os
import socket
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import PIL.Image
from mutate import joined_png, picture, riff, split_jpeg, split_png

MIB = 1024**2


def pictures(largest: int) -> dict[str, bytes]:
    """By name. Those that begin with ``sound`` are pictures, however strange, and are to be read.

    largest: side in pixels of the largest of these.
    """
    plain, png = picture("RGB", "JPEG"), split_png(picture("L", "PNG"))
    found = {
        "huge.png": joined_png([png[0], _png_size(png[1], 100_000, 100_000), *png[2:]]),
        "zero.png": joined_png([png[0], _png_size(png[1], 0, 32), *png[2:]]),
        "negative.png": joined_png([png[0], _png_size(png[1], 2**31, 2**31), *png[2:]]),
        "sound-large.png": _blank_png(largest),
        "profile.png": joined_png([*png[:2], _chunk(b"iCCP", b"p\0\0" + _zeros(32 * MIB)), *png[2:]]),
        "text.png": joined_png([*png[:2], _chunk(b"zTXt", b"p\0\0" + _zeros(32 * MIB)), *png[2:]]),
        "texts.png": joined_png([*png[:2], *[_chunk(b"zTXt", b"p\0\0" + _zeros(900_000))] * 200, *png[2:]]),
        "huge.jpg": _jpeg_size(plain, 65_500, 65_500),
        "sound-comments.jpg": plain[:2] + (b"\xff\xfe\xff\xff" + b"c" * 65_533) * 100 + plain[2:],
        "huge.gif": b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\0\0\0" + _gif_frame(65_535, 65_535),
        "far.gif": b"GIF89a" + struct.pack("<HH", 48, 32) + b"\x80\0\0" + bytes(6) + _gif_frame(60_000, 60_000),
        "sound-endless.gif": picture("P", "GIF")[:-1] + _gif_frame(4, 4) * 100_000 + b";",
        "sound-endless.webp": _endless_webp(),
        "sound-loop.tif": _looping_tiff(),
        "strips.tif": _tiff_with(0x0111, 4, 2**31 - 1),
        "tiles.tif": _tiff_with(0x0142, 4, 1, 2**31 - 16),
        "samples.tif": _tiff_with(0x0115, 3, 1, 65_535),
        "huge.bmp": picture("RGB", "BMP")[:18]
        + struct.pack("<ii", 2**31 - 1, -(2**31) + 1)
        + picture("RGB", "BMP")[26:],
        "runs.bmp": _bmp_of_runs(),
        "script.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(out) (w) file\n",
        "drawing.png": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "list.gif": b"@/etc/passwd\n",
        "empty.jpg": b"",
        "end.jpg": b"\xff\xd8",
        "markers.jpg": b"\xff\xd8" + b"\xff" * 300_000,
    }
    if "heic" in _brands():
        heic = picture("RGB", "HEIF", quality=50)
        at = heic.index(b"ispe") + 8
        found["huge.heic"] = heic[:at] + struct.pack(">II", 2**31 - 1, 2**31 - 1) + heic[at + 8 :]
    return found


def slow_jpeg(side: int, scans: int) -> bytes:
    """A progressive picture whose last scan is there many times over: small, sound, and long to decode."""
    buffer = io.BytesIO()
    PIL.Image.new("L", (side, side), 128).save(buffer, "JPEG", progressive=True)
    parts = split_jpeg(buffer.getvalue())
    last = max(at for at, part in enumerate(parts) if part[:2] == b"\xff\xda")
    return b"".join([*parts[:last], *[parts[last]] * scans, *parts[last + 1 :]])


def archives() -> dict[str, bytes]:
    """By name. Each also holds a sound picture ``in/sound.jpg``, unless its name begins with ``lost``."""
    jpeg = picture("RGB", "JPEG")
    return {
        "zeros.zip": _zip({"in/sound.jpg": jpeg, "in/zeros.png": bytes(600 * MIB)}, zipfile.ZIP_DEFLATED),
        "lies.zip": _lying_zip(jpeg),
        "names.zip": _zip({"in/sound.jpg": jpeg} | {name: jpeg + bytes([n]) for n, name in enumerate(NAMES)}),
        "nested.zip": _zip({"in/sound.jpg": jpeg, "in/inner.zip": _zip({"in/sound.jpg": jpeg})}),
        "many.zip": _zip({"in/sound.jpg": jpeg} | {f"{number}.txt": b"" for number in range(20_000)}),
        "names.tar": _tar([("in/sound.jpg", jpeg), *((name, jpeg + bytes([n])) for n, name in enumerate(NAMES))]),
        "links.tar": _linked_tar(jpeg),
        "lost-header.tar.gz": gzip.compress(_header(b"x", 64 * MIB) + bytes(64 * MIB), 1, mtime=0),
        "lost-sparse.tar.gz": gzip.compress(_sparse(20_000), 1, mtime=0),
        "lost-chain.tar": _header(b"L", 512) * 5000,
        "lost-dictionary.tar.xz": _with_large_dictionary(),
        "lost-backwards.tar": _header(b"0", 0) * 2 + _negative(_header(b"0", 512)) + bytes(1024),
        "lost-negative.tar": _negative(_header(b"x", 512)) + bytes(1024),
        "zeros.tar.bz2": bz2.compress(_tar([("in/sound.jpg", jpeg), ("in/zeros.png", bytes(300 * MIB))]), 9),
    }


NAMES = (
    "../../outside.jpg",
    "/etc/outside.jpg",
    "a/../../outside.jpg",
    "two\nlines.jpg",
    "\x1b[2J\x1b]0;title\x07.jpg",
    "right\u202eto left.jpg",
    "C:\\outside.jpg",
    "\x9b31mred.jpg",
)
"""Of members, and, without a slash, of files."""


def strange_files(folder: Path) -> int:
    """Names, links and devices in a folder; how many of them an index run has to speak of."""
    jpeg = picture("RGB", "JPEG", quality=60)
    names = [os.fsencode(name) for name in NAMES if "/" not in name] + [
        b"not \xff\xfe utf-8.jpg",
        b"-n.jpg",
        b"--into.jpg",
        b"@list.jpg",
        b"a.zip!.jpg",
        b"*.jpg",
        b"'quoted\".jpg",
        b"x" * 251 + b".jpg",
    ]
    for number, name in enumerate(names):
        (folder / os.fsdecode(name)).write_bytes(jpeg + bytes([number]))
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "nowhere.jpg").symlink_to("nowhere")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    (folder / "tty.png").symlink_to("/dev/tty")
    os.mkfifo(folder / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as ours:
        ours.bind(str(folder / "s.jpg"))
    with (folder / "sparse.jpg").open("wb") as file:
        file.truncate(600 * MIB)
    round_ = folder / "round"
    round_.mkdir()
    (round_ / "again").symlink_to(folder)
    (round_ / "folder.jpg").mkdir()
    return len(names) + 7


def _brands() -> set[str]:
    from mutate import pictures as sound

    return set(sound())


def _png_size(part: bytes, width: int, height: int) -> bytes:
    return part[:8] + struct.pack(">II", width, height) + part[16:]


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data


def _zeros(length: int) -> bytes:
    """Zeros, deflated a piece at a time."""
    packer = zlib.compressobj(1)
    pieces = [packer.compress(bytes(min(MIB, length - at))) for at in range(0, length, MIB)]
    return b"".join([*pieces, packer.flush()])


def _blank_png(side: int) -> bytes:
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return joined_png(
        [b"\x89PNG\r\n\x1a\n", _chunk(b"IHDR", head), _chunk(b"IDAT", _zeros(side * (side + 1))), _chunk(b"IEND", b"")]
    )


def _jpeg_size(data: bytes, width: int, height: int) -> bytes:
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def _gif_frame(width: int, height: int) -> bytes:
    return b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\0"


def _endless_webp() -> bytes:
    frames = {"save_all": True, "append_images": [PIL.Image.new("RGB", (48, 32), "red")]}
    parts = riff(picture("RGB", "WEBP", **frames))
    last = max(at for at, part in enumerate(parts) if part[:4] == b"ANMF")
    whole = b"".join([*parts, *[parts[last]] * 20_000])
    return whole[:4] + struct.pack("<I", len(whole) - 8) + whole[8:]


def _looping_tiff() -> bytes:
    """Whose first directory is followed by itself."""
    data = picture("RGB", "TIFF")
    at = int.from_bytes(data[4:8], "little")
    end = at + 2 + 12 * int.from_bytes(data[at : at + 2], "little")
    return data[:end] + data[4:8] + data[end + 4 :]


def _tiff_with(tag: int, kind: int, count: int, value: int | None = None) -> bytes:
    """With an entry for a tag in the place of its own, the next or the last."""
    data = picture("RGB", "TIFF")
    at = int.from_bytes(data[4:8], "little")
    places = range(at + 2, at + 2 + 12 * int.from_bytes(data[at : at + 2], "little"), 12)
    place = next((p for p in places if int.from_bytes(data[p : p + 2], "little") >= tag), places[-1])
    kept = data[place + 8 : place + 12] if value is None else struct.pack("<I", value)
    return data[:place] + struct.pack("<HHI", tag, kind, count) + kept + data[place + 12 :]


def _bmp_of_runs() -> bytes:
    """30,000 × 30,000 pixels in a few bytes of run lengths."""
    head = struct.pack("<IiiHHIIiiII", 40, 30_000, 30_000, 1, 8, 1, 0, 0, 0, 256, 0)
    body = bytes(1024) + b"\xff\0" * 1000 + b"\0\1"
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(body), 0, 0, 14 + 40 + 1024) + head + body


def _zip(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method, compresslevel=1) as box:
        for name, data in members.items():
            box.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


def _lying_zip(jpeg: bytes) -> bytes:
    """A member that says it has 1000 bytes and unpacks, by bzip2, to 200 MB."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_BZIP2) as box:
        box.writestr("in/lies.png", bytes(200 * MIB))
        box.writestr("in/sound.jpg", jpeg)
    return buffer.getvalue().replace(struct.pack("<I", 200 * MIB), struct.pack("<I", 1000))


def _tar(members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as box:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            box.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _linked_tar(jpeg: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as box:
        for kind, name in (
            (tarfile.SYMTYPE, "l.jpg"),
            (tarfile.LNKTYPE, "h.jpg"),
            (tarfile.CHRTYPE, "c.jpg"),
            (tarfile.FIFOTYPE, "f.jpg"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            box.addfile(info)
        info = tarfile.TarInfo("in/sound.jpg")
        info.size = len(jpeg)
        box.addfile(info, io.BytesIO(jpeg))
    return buffer.getvalue()


def _header(kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo("a")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def _negative(header: bytes) -> bytes:
    """Of a length of -1024, in base 256."""
    header = header[:124] + b"\xff" * 10 + b"\xfc\0" + header[136:148] + b" " * 8 + header[156:]
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def _sparse(blocks: int) -> bytes:
    """A member of the old GNU kind whose map of pieces goes on for so many blocks."""
    head = bytearray(_header(b"S", 0))
    head[482] = 1  # the map goes on
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    piece = b"00000000001\0" * 2
    return bytes(head) + (piece * 21 + b"\x01" + bytes(7)) * blocks


def _with_large_dictionary() -> bytes:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 4096}]
    packed = bytearray(lzma.compress(bytes(64), format=lzma.FORMAT_XZ, filters=filters, check=lzma.CHECK_NONE))
    at = packed.index(b"\x21\x01", 12)  # LZMA2's filter, with one byte of properties: the size of the dictionary
    packed[at + 2] = 40  # 4 GiB
    length = (packed[12] + 1) * 4
    packed[12 + length - 4 : 12 + length] = struct.pack("<I", zlib.crc32(packed[12 : 12 + length - 4]))
    return bytes(packed)
