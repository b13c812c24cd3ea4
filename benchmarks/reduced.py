"""Copies of labelled sets with smaller pictures, for machines that take little along."""

import argparse
import json
from pathlib import Path

import PIL.Image

from resight.evaluation import load_labelled
from resight.images.read import read_image


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
        picture = PIL.Image.fromarray(read_image(labelled.locate(path)).pixels)
        picture.thumbnail((side, side), PIL.Image.Resampling.LANCZOS)
        (into / path).parent.mkdir(parents=True, exist_ok=True)
        picture.save(into / path, "JPEG", quality=quality)
    truth = json.loads((source / "gt.json").read_text(encoding="utf-8"))
    entries = {path: entry for path, entry in truth.get("images", {}).items() if path in paths}
    truth["images"] = {path: {k: v for k, v in entry.items() if k != "size"} for path, entry in entries.items()}
    truth["name"] = f"{labelled.name} at {side} px"
    (into / "gt.json").write_text(json.dumps(truth) + "\n", encoding="utf-8")
    return len(paths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", type=Path, nargs="+", metavar="SET", help="folder with a gt.json")
    parser.add_argument("--into", type=Path, required=True, help="folder that gets a folder a set")
    parser.add_argument("--side", type=int, default=256, help="pixels (default: 256)")
    parser.add_argument("--quality", type=int, default=80, help="of JPEG (default: 80)")
    given = parser.parse_args()
    for source in given.sets:
        count = reduce_set(source, given.into / source.name, given.side, given.quality)
        print(f"{source.name}: {count} pictures")


if __name__ == "__main__":
    main()
