"""Copies of labelled sets, and of folders of photos, with smaller pictures, for machines that take little along."""

import argparse
import json
from pathlib import Path

import PIL.Image

from resight.evaluation import load_labelled
from resight.images.read import read_image
from resight.images.sources import find_sources


def reduce_set(source: Path, into: Path, side: int, quality: int) -> int:
    """Write the set's pictures, no side longer than ``side``, as JPEG under their own names; returns how many.

    The copy's name says what it is: figures of small pictures are not the set's.

    Raises SystemExit for a set whose queries are boxes, which would no longer fit.
    """
    labelled = load_labelled(source)
    if any(query.box is not None for query in labelled.queries):
        raise SystemExit(f"{source}: its queries are boxes in pixels; reduce sets of whole pictures only")
    paths = dict.fromkeys([*labelled.database, *(query.path for query in labelled.queries)])
    for path in paths:
        _reduce(labelled.locate(path), into / path, side, quality)
    truth = json.loads((source / "gt.json").read_text(encoding="utf-8"))
    entries = {path: entry for path, entry in truth.get("images", {}).items() if path in paths}
    truth["images"] = {path: {k: v for k, v in entry.items() if k != "size"} for path, entry in entries.items()}
    truth["name"] = f"{labelled.name} at {side} px"
    (into / "gt.json").write_text(json.dumps(truth) + "\n", encoding="utf-8")
    return len(paths)


def reduce_photos(source: Path, into: Path, side: int, quality: int, every: int = 1) -> int:
    """As ``reduce_set``, of a folder's photos in order of name the first and then each ``every``-th."""
    photos = [each.origin for each in find_sources([source], on_problem=_refuse)][::every]
    for origin in photos:
        _reduce(origin, into / Path(origin).relative_to(source.absolute()), side, quality)
    return len(photos)


def _reduce(source: str | Path, into: Path, side: int, quality: int) -> None:
    picture = PIL.Image.fromarray(read_image(source).pixels)
    picture.thumbnail((side, side), PIL.Image.Resampling.LANCZOS)
    into.parent.mkdir(parents=True, exist_ok=True)
    picture.save(into, "JPEG", quality=quality)


def _refuse(origin: str, reason: str) -> None:
    raise SystemExit(f"{origin}: {reason}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", type=Path, nargs="+", metavar="SET", help="folder with a gt.json, or of photos")
    parser.add_argument("--into", type=Path, required=True, help="folder that gets a folder a set")
    parser.add_argument("--side", type=int, default=256, help="pixels (default: 256)")
    parser.add_argument("--quality", type=int, default=80, help="of JPEG (default: 80)")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="of photos only each N-th (default: 1)")
    given = parser.parse_args()
    for source in given.sets:
        into = given.into / source.name
        if (source / "gt.json").is_file():
            count = reduce_set(source, into, given.side, given.quality)
        else:
            count = reduce_photos(source, into, given.side, given.quality, given.every)
        print(f"{source.name}: {count} pictures")


if __name__ == "__main__":
    main()
