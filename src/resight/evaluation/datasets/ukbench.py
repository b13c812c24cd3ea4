"""UKBench (Nistér & Stewénius, CVPR 2006): 2,550 objects, four pictures each; N-S score."""

import re
from itertools import groupby
from pathlib import Path

from resight.errors import GroundTruthError
from resight.evaluation.datasets.layout import check_counts, image_paths, revision
from resight.evaluation.labelled import LabelledSet, Query

_NAME = re.compile(r"ukbench(\d+)")


def load_ukbench(folder: Path, protocol: str, partial: bool) -> LabelledSet:
    """10,200 images, each a query.

    Layout, as `ukbench.zip` unpacks: ``full/ukbench00000.jpg … ukbench10199.jpg``, or those files in the folder itself.
    Protocol: images 4n … 4n + 3, by the number in the file's name, show one object. A query is left out of its own
    ranking and counts as found, so that the N-S score is the mean count of the group in the top 4 (at most 4).
    Raises GroundTruthError where a group is not four images.
    """
    paths = image_paths(folder, "full" if (folder / "full").is_dir() else "")
    numbers: dict[int, str] = {}
    for path in paths:
        match = _NAME.fullmatch(Path(path).stem)
        if match is None:
            raise GroundTruthError(f"{folder / path}: is not called ukbench and a number: move it elsewhere")
        if (other := numbers.setdefault(int(match[1]), path)) != path:
            raise GroundTruthError(f"{folder}: {path} and {other} have one number: remove one")
    queries: list[Query] = []
    groups: dict[str, str] = {}
    for group, members in groupby(sorted(numbers), key=lambda number: number // 4):
        four = [numbers[number] for number in members]
        if len(four) != 4:
            raise GroundTruthError(
                f"{folder}: the group of ukbench{4 * group:05d} has {len(four)} of its 4 images: get the others"
            )
        queries += [Query(path, frozenset(four) - {path}) for path in four]
        groups |= dict.fromkeys(four, f"{group:04d}")
    labelled = LabelledSet(
        name="ukbench",
        file=folder,
        root=folder,
        database=tuple(query.path for query in queries),
        queries=tuple(queries),
        protocol="N-S score: images of the query's group of four in the top 4, the query, counted as found, included; "
        "groups by the numeric order of the files",
        groups=groups,
        revision=revision(query.path.encode() for query in queries),
    )
    return check_counts(labelled, partial, images=10_200, queries=10_200)
