"""Oxford5k and Paris6k (Philbin et al., CVPR 2007 and 2008), original annotation; with Flickr100k 105k and 106k."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from resight.errors import GroundTruthError
from resight.evaluation.datasets.groundtruth import Gnd, read_gnd
from resight.evaluation.datasets.layout import (
    by_stem,
    check_counts,
    distracted,
    first_file,
    fit_box,
    image_paths,
    resolve,
    revision,
    upright_size,
)
from resight.evaluation.labelled import Box, LabelledSet, Query

FLICKR100K = 100_071
_NO_IMAGES = {
    "louvre": (136, 146),
    "moulinrouge": (422,),
    "museedorsay": (1059,),
    "notredame": (188,),
    "pantheon": (284, 960, 974),
    "pompidou": (195, 196, 201, 467, 640),
    "sacrecoeur": (299, 330, 353),
    "triomphe": (662, 833, 863, 867),
}
CORRUPT = frozenset(f"paris_{place}_{number:06d}" for place, numbers in _NO_IMAGES.items() for number in numbers)
"""Files of the Paris archives that are no images (the set's corrupt.txt): no part of Paris6k."""

_IMAGES = {"oxford5k": 5_063, "paris6k": 6_392}
_PREFIX = "oxc1_"  # of Oxford's names in the query files only


@dataclass(frozen=True)
class _Truth:
    file: Path
    revision: str
    images: Sequence[str] | None
    queries: Sequence[tuple[str, Box, frozenset[str], frozenset[str]]]  # image, box, positives, junk


def load_oxford(folder: Path, protocol: str, partial: bool, *, name: str, distractors: bool = False) -> LabelledSet:
    """55 queries, five for each of 11 landmarks.

    Layout: ``jpg/`` with the images, in sub-folders or not (`oxbuild_images.tgz`; `paris_1.tgz`, `paris_2.tgz`), and
    beside it the text files ``*_query.txt``, ``*_good.txt``, ``*_ok.txt``, ``*_junk.txt`` in one folder of any name
    (`gt_files_170407.tgz`, `paris_120310.tgz`), or ``gnd_NAME.pkl``, ``.mat`` or ``.json`` of cnnimageretrieval and
    revisitop. With distractors, Flickr100k is in ``oxc1_100k/`` or ``flickr100k/``, here or beside the folder.
    Protocol: good and ok images are positive, junk is removed. The query, cropped to its box, is not removed: its whole
    image is in the database, counts, and is a positive where the ground truth lists it. Trapezoidal AP
    (`compute_ap.cpp`). ``uncropped`` asks with whole images, which is another protocol.
    name: ``oxford5k`` or ``paris6k``.
    """
    flickr = ("oxc1_100k", "flickr100k")
    found = {
        stem: path
        for stem, path in by_stem(
            path for path in image_paths(folder) if not path.startswith(tuple(f"{part}/" for part in flickr))
        ).items()
        if stem not in CORRUPT
    }
    truth = _read(folder, name)
    names = truth.images if truth.images is not None else sorted(found)
    cropped = protocol == "cropped"
    queries = []
    for image, box, positives, junk in truth.queries:
        (path,) = resolve([image], found, folder, truth.file)
        where = f"{truth.file}: query {image}"
        queries.append(
            Query(
                path,
                frozenset(resolve(sorted(positives), found, folder, truth.file)),
                frozenset(resolve(sorted(junk), found, folder, truth.file)),
                fit_box(box, upright_size(folder / path), where) if cropped else None,
                keeps_itself=True,
            )
        )
    labelled = LabelledSet(
        name=name,
        file=truth.file,
        root=folder,
        database=tuple(resolve(names, found, folder, truth.file)),
        queries=tuple(queries),
        protocol="original annotation: good and ok positive, junk removed; queries "
        f"{'cropped' if cropped else 'NOT CROPPED'} to their boxes, their whole images stay in the database and count",
        revision=truth.revision,
    )
    labelled = check_counts(labelled, partial, images=_IMAGES[name], queries=55)
    return distracted(labelled, "Flickr100k", FLICKR100K, flickr, partial) if distractors else labelled


def _read(folder: Path, name: str) -> _Truth:
    file = first_file(folder, [f"gnd_{name}.{suffix}" for suffix in ("pkl", "mat", "json")])
    if file is None:
        return _read_texts(folder)
    gnd: Gnd = read_gnd(file, ("ok", "junk"))
    return _Truth(
        file,
        gnd.revision,
        gnd.images,
        [
            (query, gnd.boxes[place], gnd.named(place, ["ok"]), gnd.named(place, ["junk"]))
            for place, query in enumerate(gnd.queries)
        ],
    )


def _read_texts(folder: Path) -> _Truth:
    files = sorted(folder.rglob("*_query.txt"))
    places = {file.parent for file in files}
    if not places:
        raise GroundTruthError(f"{folder}: has no ground truth: unpack its *_query.txt there")
    if len(places) > 1:
        raise GroundTruthError(
            f"{folder}: has *_query.txt in {' and '.join(map(str, sorted(places)))}: keep one of them"
        )
    parts: list[bytes] = []
    queries = []
    for file in files:
        texts: Mapping[str, str] = {
            kind: _text(file.with_name(file.name.replace("_query.txt", f"_{kind}.txt")))
            for kind in ("query", "good", "ok", "junk")
        }
        parts += [f"{file.name} {kind} {text}".encode() for kind, text in texts.items()]
        words = texts["query"].split()
        try:
            x1, y1, x2, y2 = map(float, words[1:])
        except ValueError:
            raise GroundTruthError(f"{file}: is not an image and four numbers: get the ground truth again") from None
        good, ok, junk = (frozenset(texts[kind].split()) - CORRUPT for kind in ("good", "ok", "junk"))
        queries.append((words[0].removeprefix(_PREFIX), (x1, y1, x2, y2), good | ok, junk))
    return _Truth(files[0].parent, revision(parts), None, queries)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except OSError as error:
        raise GroundTruthError(f"{file}: cannot be read: {error.strerror}; get the ground truth again") from error
    except UnicodeDecodeError as error:
        raise GroundTruthError(f"{file}: is no plain text: get the ground truth again") from error
