"""Coverage-guided fuzzing of resight's readers with atheris (`pip install 'resight[torture]'`; Linux).

    .venv/bin/python tests/torture/fuzz.py READER [-runs=20000] [libFuzzer's options] [CORPUS]

READER is ``picture``, ``archive`` or a word of ``tests/helpers/own_files.py``. What makes a reader crash, hang, exceed
the memory or raise anything but resight's own errors is written to the working folder, and the exit status is
not 0. Without a corpus it begins from sound files. Coverage is that of the Python code alone: what native decoders do
with their bytes is not seen, only survived.
"""

import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

with atheris.instrument_imports(include=["resight", "PIL", "pillow_heif", "tarfile", "zipfile", "tomllib", "json"]):
    import mutate
    import own_files

    from resight.errors import ResightError
    from resight.images.archives import listing, read_member
    from resight.images.limits import Limits
    from resight.images.read import decode_with_facts

_LIMITS = Limits(pixels=1_000_000, bytes=10_000_000)


def picture(data: bytes) -> None:
    """Any file that may be a picture."""
    decode_with_facts(data, "a", max_side=32, limits=_LIMITS)


def archive(folder: Path) -> Callable[[bytes], None]:
    """A first byte says of which kind."""
    suffixes = ("zip", "tar", "tar.gz", "tar.bz2", "tar.xz")

    def read(data: bytes) -> None:
        path = folder / f"a.{suffixes[data[0] % len(suffixes)] if data else 'zip'}"
        path.write_bytes(data[1:])
        for member in listing(str(path))[0]:
            read_member(str(path), member.name, _LIMITS)

    return read


def own(folder: Path, word: str) -> Callable[[bytes], None]:
    """A kind of file of resight's own."""
    kind = own_files.kinds()[word]
    kind.sound(folder / kind.name)  # and what it needs beside it

    def read(data: bytes) -> None:
        (folder / kind.name).write_bytes(data)
        kind.read(folder / kind.name)

    return read


def seeds(reader: str, folder: Path) -> list[bytes]:
    """Sound files to begin from."""
    if reader == "picture":
        return [data for found in mutate.pictures().values() for data in found]
    if reader == "archive":
        found = mutate.archives([mutate.picture("L", "PNG")])
        return [bytes([number]) + data for number, sound in enumerate(found.values()) for data in sound]
    kind = own_files.kinds()[reader]
    kind.sound(folder / kind.name)
    return [(folder / kind.name).read_bytes()]


def main() -> None:
    """Fuzz a reader until the runs are done or something is found."""
    reader, *options = sys.argv[1:]
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="resight-fuzz-") as temporary:
        work, corpus = Path(temporary, "work"), Path(temporary, "corpus")
        work.mkdir()
        corpus.mkdir()
        for number, data in enumerate(seeds(reader, work)):
            (corpus / str(number)).write_bytes(data)
        read = {"picture": picture, "archive": archive(work)}.get(reader) or own(work, reader)

        def attempt(data: bytes) -> None:
            with suppress(ResightError):
                read(data)

        defaults = ["-seed=1", "-runs=20000", "-timeout=20", "-rss_limit_mb=3000", "-max_len=20000", "-verbosity=0"]
        given = [option for option in options if not option.startswith("-")]
        flags = [option for option in options if option.startswith("-")]
        atheris.Setup([sys.argv[0], *defaults, *flags, *(given or [str(corpus)])], attempt)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
