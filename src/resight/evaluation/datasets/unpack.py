"""Unpacking a set's archive into its folder, and nowhere else."""

import shutil
from pathlib import Path, PurePosixPath

from resight.errors import ImageError, ResightError
from resight.images.archives import members, read_member
from resight.images.limits import Limits

_RESERVE = 64 * 1024**2  # bytes left on the disk


def unpack(archive: Path, into: Path) -> int:
    """Write every regular file of a zip or tar archive under a folder; how many there are.

    Links and devices are left out. A file that is there with its full length is left as it is, so that an interrupted
    unpacking goes on. Memory is bounded by the longest member.
    Raises ResightError, before anything is written, for a name that leaves the folder, a damaged archive, or too little
    room on the disk.
    """
    try:
        listed = list(members(str(archive)))
    except ImageError as error:
        raise ResightError(f"{archive}: {error.reason}; remove it and get it again") from error
    if not listed:
        raise ResightError(f"{archive}: holds no file; remove it and get it again")
    targets = {member.name: into / _inside(archive, member.name) for member in listed}
    into.mkdir(parents=True, exist_ok=True)
    todo = [m for m in listed if not (targets[m.name].is_file() and targets[m.name].stat().st_size == m.bytes)]
    needed = sum(member.bytes for member in todo) + _RESERVE
    if (free := shutil.disk_usage(into).free) < needed:
        raise ResightError(
            f"{into}: {needed / 1e9:.1f} GB are needed to unpack {archive.name}, {free / 1e9:.1f} are free"
        )
    for member in todo:
        target = targets[member.name]
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.part")
        try:
            data = b"" if member.bytes == 0 else read_member(str(archive), member.name, Limits())
        except ImageError as error:
            raise ResightError(f"{archive}: {member.name}: {error.reason}; remove it and get it again") from error
        partial.write_bytes(data)
        partial.replace(target)
    return len(listed)


def _inside(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0] or "\0" in name:
        raise ResightError(f"{archive}: refused: its member {name!r} would be written outside the folder")
    return path
