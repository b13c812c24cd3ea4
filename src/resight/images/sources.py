"""Where pictures come from: folders, files, lists, glob patterns and archives, as one stream of origins."""

import glob
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePath
from typing import Literal

from resight.errors import ImageError, ResightError
from resight.images.apart import find_member_apart, listing_apart
from resight.images.archives import is_archive, split_member

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".gif", ".bmp"}
    | {".heic", ".heif", ".hif", ".avif"}
)
"""What counts as a picture in folders, patterns and archives; a file given by name is always taken."""

OnProblem = Callable[[str, str], None]
"""Called with an origin and the reason why it, or what lies under it, cannot be listed."""


@dataclass(frozen=True, order=True)
class Source:
    """A picture before it is read.

    origin: its absolute path, ``.`` and ``..`` taken out and links kept, or ``/path/archive.zip!/member``.
    bytes, modified_ns: its length and time, which together tell whether it has changed. A member has the time
        of its archive: the times stored within are often constant.
    """

    origin: str
    bytes: int
    modified_ns: int


def find_sources(paths: Iterable[str | Path], *, on_problem: OnProblem) -> Iterator[Source]:
    """Every picture that the paths name, each once.

    A path is one of:
    - a folder: searched to any depth in order of name; hidden files and folders are skipped; links are
      followed, but no folder is entered twice;
    - a file, an archive (zip, tar, tar.gz, tar.bz2, tar.xz) or an archive member;
    - a glob pattern (``*``, ``?``, ``[…]``, ``**``), where no such file exists;
    - ``@list.txt``: a path a line, relative to the list's folder, naming any of the above;
    - ``-``: the same from standard input, relative to the working folder.

    What cannot be listed on the way (a folder without permission, a line without a file, a damaged archive, a
    name that is not UTF-8) goes to ``on_problem``, and the search continues.

    Raises: ResightError, at once, where a path does not exist or a pattern matches no picture.
    """
    roots = [_root(path) for path in paths]
    for root in roots:
        if problem := _missing(root):
            raise ResightError(f"{root.path}: {problem}")
    return _unique(roots, on_problem)


def covers(paths: Iterable[str | Path]) -> Callable[[str], bool]:
    """A test whether an origin is one that ``find_sources(paths)`` would yield, did it (still) exist.

    A known origin that is covered but was not found has vanished, unless it is, or lies under, an origin
    reported to ``on_problem``. A list covers what its lines name; standard input, which cannot be read twice,
    covers nothing.

    Raises: ResightError where a list cannot be read.
    """
    given = [_root(path) for path in paths]
    roots = [r for root in given for r in (_lines(root) if root.kind == "list" else [root])]
    exact = {root.path for root in roots if root.kind in ("file", "member", "missing")}
    wide = [root for root in roots if root.kind in ("folder", "archive", "glob")]
    return lambda origin: origin in exact or any(_reaches(root, origin) for root in wide)


@dataclass(frozen=True)
class _Root:
    kind: Literal["folder", "file", "archive", "member", "glob", "list", "stdin", "missing"]
    path: str


def _root(path: str | Path, base: str = "", *, may_be_list: bool = True) -> _Root:
    text = os.fspath(path)
    if may_be_list and text == "-":
        return _Root("stdin", text)
    if may_be_list and text.startswith("@"):
        full = _absolute(text[1:], base)
        return _Root("list" if Path(full).is_file() else "missing", full)
    if split := split_member(text):  # a member's name is no path: ".." in it means nothing
        archive = _absolute(split[0], base)
        return _Root("member" if Path(archive).is_file() else "missing", f"{archive}!/{split[1]}")
    full = _absolute(text, base)
    if Path(full).is_dir():
        return _Root("folder", full)
    if Path(full).exists():
        return _Root("archive" if is_archive(full) else "file", full)
    if glob.has_magic(text):
        return _Root("glob", _absolute(text, glob.escape(_absolute(base, ""))))
    return _Root("missing", full)


def _absolute(path: str, base: str) -> str:
    return os.path.normpath(Path(base, path).absolute())


def _missing(root: _Root) -> str:
    """Why nothing at all can come of a root; empty where something may."""
    if root.kind == "missing":
        return "no such file or folder; check the path"
    if root.kind == "glob" and next(_glob(root.path, lambda origin, reason: None), None) is None:
        return "no picture matches this pattern"
    return ""


def _unique(roots: list[_Root], on_problem: OnProblem) -> Iterator[Source]:
    def report(origin: str, reason: str) -> None:
        on_problem(origin.encode("utf-8", "backslashreplace").decode(), reason)

    repeats = len(roots) > 1 or any(root.kind in ("list", "stdin") for root in roots)
    seen: set[str] = set()  # stays empty for one folder, whose origins are many and cannot repeat
    for root in roots:
        for source in _expand(root, report):
            if source.origin in seen:
                continue
            if repeats:
                seen.add(source.origin)
            try:
                source.origin.encode()
            except UnicodeEncodeError:
                report(source.origin, "the name is not valid UTF-8; rename the file")
                continue
            yield source


def _expand(root: _Root, on_problem: OnProblem) -> Iterator[Source]:
    match root.kind:
        case "folder":
            yield from _walk(root.path, on_problem, _is_picture)
        case "archive":
            yield from _in_archive(root.path, on_problem)
        case "glob":
            yield from _glob(root.path, on_problem)
        case "list" | "stdin":
            for line in _lines(root):
                if problem := _missing(line):
                    on_problem(line.path, problem)
                else:
                    yield from _expand(line, on_problem)
        case _:
            try:
                yield _single(root)
            except ImageError as error:
                on_problem(root.path, error.reason)
            except OSError as error:
                on_problem(root.path, f"cannot be read: {error.strerror}")


def _single(root: _Root) -> Source:
    if root.kind == "file":
        status = Path(root.path).stat()
        return Source(root.path, status.st_size, status.st_mtime_ns)
    archive, _, name = root.path.partition("!/")
    return Source(root.path, find_member_apart(archive, name).bytes, Path(archive).stat().st_mtime_ns)


def _lines(root: _Root) -> Iterator[_Root]:
    """What the lines of a list name; blank lines are skipped."""
    try:
        with nullcontext(sys.stdin.buffer) if root.kind == "stdin" else Path(root.path).open("rb") as lines:
            base = "" if root.kind == "stdin" else str(Path(root.path).parent)
            for line in lines:
                if text := os.fsdecode(line.removeprefix(b"\xef\xbb\xbf")).rstrip("\r\n"):
                    yield _root(text, base, may_be_list=False)
    except OSError as error:
        raise ResightError(f"{root.path}: the list cannot be read: {error.strerror}") from error


def _walk(
    folder: str, on_problem: OnProblem, wanted: Callable[[str], bool], *, hidden: bool = False
) -> Iterator[Source]:
    """The wanted files at any depth, depth first in order of name; hidden ones only on demand."""
    visited: set[tuple[int, int]] = set()
    stack = [iter(_entries(folder, visited, on_problem))]
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
            continue
        if entry.name.startswith(".") and not hidden:
            continue
        try:
            if entry.is_dir():
                stack.append(iter(_entries(entry.path, visited, on_problem)))
            elif wanted(entry.path):  # also a pipe or a device, so that reading it says what it is
                status = entry.stat()
                yield Source(entry.path, status.st_size, status.st_mtime_ns)
        except OSError as error:  # a link to nowhere, or a file that was removed meanwhile
            on_problem(entry.path, f"cannot be read: {error.strerror}")


def _entries(folder: str, visited: set[tuple[int, int]], on_problem: OnProblem) -> list[os.DirEntry[str]]:
    try:
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in visited:
            return []
        visited.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        on_problem(folder, f"the folder cannot be read: {error.strerror}")
        return []


def _in_archive(path: str, on_problem: OnProblem) -> Iterator[Source]:
    try:
        modified = Path(path).stat().st_mtime_ns
        listed, damage = listing_apart(path)
        for member in listed:
            origin = f"{path}!/{member.name}"
            if not _is_visible_member(member.name):
                continue
            if member.problem:
                on_problem(origin, member.problem)
            else:
                yield Source(origin, member.bytes, modified)
        if damage:
            on_problem(path, damage)
    except ImageError as error:
        on_problem(path, error.reason)
    except OSError as error:
        on_problem(path, f"cannot be read: {error.strerror}")


def _glob(pattern: str, on_problem: OnProblem) -> Iterator[Source]:
    """Matching pictures, pictures in matching folders, members of matching archives.

    Python's own ``**`` runs in circles where links do, so what follows one is matched here, along `_walk`.
    """
    parts = PurePath(pattern).parts
    cut = parts.index("**") if "**" in parts else len(parts)
    hidden = any(part.startswith(".") for part in parts[cut:])
    for start in sorted(glob.iglob(str(PurePath(*parts[:cut])))):  # noqa: PTH207  (pathlib's matches hidden)
        if cut == len(parts):
            root = _root(start, may_be_list=False)
            if root.kind != "file" or _is_picture(start):
                yield from _expand(root, on_problem)
            continue
        if not Path(start).is_dir():
            continue

        def wanted(path: str, depth: int = len(PurePath(start).parts)) -> bool:
            below = PurePath(path).parts[depth:]
            return (_is_picture(path) or is_archive(path)) and _fits(below, parts[cut:])

        for source in _walk(start, on_problem, wanted, hidden=hidden):
            if is_archive(source.origin):
                yield from _in_archive(source.origin, on_problem)
            else:
                yield source


def _reaches(root: _Root, origin: str) -> bool:
    """Whether a folder, archive or pattern would yield this origin, did it exist."""
    path, name = split_member(origin) or (origin, "")
    if not (_is_visible_member(name) if name else _is_picture(path)):
        return False
    match root.kind:
        case "archive":
            return path == root.path and name != ""
        case "folder":
            parts, above = PurePath(path).parts, PurePath(root.path).parts
            return name == "" and parts[: len(above)] == above and _fits(parts[len(above) :], ())
        case _:
            return _fits(PurePath(path).parts, PurePath(root.path).parts)


def _fits(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether a path matches a glob pattern or lies below a folder that does; wildcards skip hidden names."""
    if not pattern:
        return not any(part.startswith(".") for part in parts)
    if not parts:
        return False
    if pattern[0] == "**" and _fits(parts, pattern[1:]):
        return True
    if parts[0].startswith(".") > pattern[0].startswith("."):
        return False
    if pattern[0] == "**":
        return _fits(parts[1:], pattern)
    return fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])


def _is_picture(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122  (a million times, so not pathlib)


def _is_visible_member(name: str) -> bool:
    hidden = any(part == "__MACOSX" or (part.startswith(".") and part.strip(".")) for part in name.split("/"))
    return _is_picture(name) and not hidden
