"""ROxford and RParis (Radenović et al., CVPR 2018), Easy, Medium and Hard, and the R1M distractors."""

from pathlib import Path

from resight.errors import GroundTruthError
from resight.evaluation.datasets.groundtruth import read_gnd
from resight.evaluation.datasets.layout import (
    by_stem,
    check_counts,
    distracted,
    fit_box,
    image_paths,
    needed_file,
    resolve,
    upright_size,
)
from resight.evaluation.labelled import LabelledSet, Query

R1M = 1_001_001

# positive, junk
_LEVELS = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
_IMAGES = {"roxford5k": 4_993, "rparis6k": 6_322}


def load_revisited(folder: Path, protocol: str, partial: bool, *, name: str, distractors: bool = False) -> LabelledSet:
    """70 queries, which are not in the database.

    Layout, as revisitop has it: ``jpg/`` with the images of Oxford5k or Paris6k, in sub-folders or not, and
    ``gnd_NAME.pkl``, ``.mat`` or ``.json``. With distractors, R1M is in ``revisitop1m/``, here or beside the folder.
    Protocol: ``easy`` has easy images positive, hard and junk removed; ``medium`` easy and hard positive, junk removed;
    ``hard`` hard positive, easy and junk removed. Junk moves what is below it up. Queries are cropped to their boxes;
    ``easy-uncropped`` and so on ask with whole images, which is another protocol. Trapezoidal AP, mP@k at
    min(last positive's rank, k). A query without positives at a level is outside the mean.
    name: ``roxford5k`` or ``rparis6k``.
    """
    level, _, whole = protocol.partition("-")
    positive, junk = _LEVELS[level]
    file = needed_file(folder, [f"gnd_{name}.{suffix}" for suffix in ("pkl", "mat", "json")])
    gnd = read_gnd(file, ("easy", "hard", "junk"))
    below = "jpg" if (folder / "jpg").is_dir() else ""
    found = by_stem(path for path in image_paths(folder, below) if not path.startswith("revisitop1m/"))
    database = resolve(gnd.images, found, folder, file)
    asked = resolve(gnd.queries, found, folder, file)
    if both := frozenset(database) & frozenset(asked):
        raise GroundTruthError(f"{file}: {min(both)} is a query and in the database: get the ground truth again")
    queries = tuple(
        Query(
            path,
            frozenset(found[name] for name in gnd.named(place, positive)),
            frozenset(found[name] for name in gnd.named(place, junk)),
            None if whole else fit_box(gnd.boxes[place], upright_size(folder / path), f"{file}: query {path}"),
        )
        for place, path in enumerate(asked)
    )
    labelled = LabelledSet(
        name=name,
        file=file,
        root=folder,
        database=tuple(database),
        queries=queries,
        protocol=f"revisited, {level.title()}: {' and '.join(positive)} positive, {' and '.join(junk)} removed; "
        f"queries {'NOT CROPPED' if whole else 'cropped'} to their boxes",
        revision=gnd.revision,
    )
    labelled = check_counts(labelled, partial, images=_IMAGES[name], queries=70)
    return distracted(labelled, "R1M", R1M, ("revisitop1m",), partial) if distractors else labelled
