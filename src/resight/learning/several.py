"""What a training on several sets at once needs, read and checked before the first step (survey §7)."""

from collections.abc import Mapping
from itertools import product

from resight.errors import RecipeError
from resight.evaluation.labelled import LabelledSet
from resight.learning.datasets.photos import TrainingSet, training_set
from resight.learning.datasets.pictures import check_readable
from resight.learning.datasets.several import check_names, joined, renamed
from resight.learning.mining.batches import joint_batches
from resight.learning.mining.stages import PoolStage
from resight.learning.settings import Training
from resight.learning.splitting import Labelled, check_apart, loaded, split
from resight.learning.task import Lesson
from resight.learning.validate import readable_part


def several_lesson(
    scheme: str,
    labelled: Mapping[str, Labelled],
    settings: Training,
    validate: Labelled | Mapping[str, Labelled] | float | None,
) -> Lesson:
    """Several sets read and checked, each by itself and that none has another's photos. Raises as ``train``."""
    check_names(labelled)
    if scheme != "embedding":
        raise RecipeError(f"scheme = {scheme} learns from one set: name one, or say embedding")
    if isinstance(settings.miner, PoolStage) or settings.sampling.kind != "balanced" or settings.old is not None:
        raise RecipeError(
            'batches of several sets are balanced between them: say sampling.kind = "balanced", and leave out '
            "miner = pool and old"
        )
    if validate is not None and not isinstance(validate, float | Mapping):
        raise RecipeError("name the sets to validate on, as NAME=SET, or hold out a share of each set's objects")
    skip = settings.unreadable == "skip"
    given, sets = {name: loaded(one) for name, one in labelled.items()}, dict[str, TrainingSet]()
    validations: dict[str, LabelledSet] = {}
    for name, one in given.items():
        share = validate if isinstance(validate, float) else None
        learned, held_out = split(one, share, settings.seed)
        known = training_set(learned, singletons=settings.singletons, whole=settings.whole)
        sets[name] = check_readable(known, workers=settings.readers, skip=skip)
        if held_out is not None:
            validations[name] = held_out
    if isinstance(validate, Mapping):  # also of sets that are not learned from
        validations = {name: loaded(one) for name, one in validate.items()}
        for one, held_out in product(given.values(), validations.values()):
            check_apart(one, held_out)
    validations = {name: readable_part(one, workers=settings.readers, skip=skip) for name, one in validations.items()}
    photos = joined(sets)
    joint_batches(settings.sampling, photos.labels, photos.parts, epoch=0, seed=settings.seed)  # says what cannot be
    return Lesson(photos, None, settings, sets, renamed(validations))
