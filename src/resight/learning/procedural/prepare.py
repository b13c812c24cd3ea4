"""What a training on rendered pictures needs, checked before the first step."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resight.errors import RecipeError
from resight.evaluation.labelled import LabelledSet
from resight.evaluation.load import load_labelled
from resight.learning.launch import check_devices
from resight.learning.procedural.training import ProceduralTraining
from resight.learning.settings import flat
from resight.learning.validate import readable_part
from resight.networks.compact import load_compact
from resight.networks.weights import file_sha256


@dataclass(frozen=True, eq=False)
class ProceduralJob:
    """A training of which all has been checked; as ``prepare.Job``. teacher: weights of the network that teaches."""

    settings: ProceduralTraining
    teacher: Path | None
    validation: LabelledSet | None
    identity: Mapping[str, Any]
    folder: Path
    resume: bool

    @property
    def command(self) -> str:
        """What does the same again, for a shell; files and sets by their names alone."""
        words = ["resight", "train", "--procedural"]
        if self.teacher is not None:
            words += ["--teacher", self.teacher.name]
        if self.validation is not None:
            words += ["--validate", self.validation.name]
        for key, value in flat(self.settings.model_dump(mode="json", exclude_defaults=True)):
            words += ["--set", f"{key}={json.dumps(value, ensure_ascii=False, separators=(',', ':'))}"]
        return shlex.join([*words, "--into", "FOLDER"])


def prepare_procedural(
    settings: ProceduralTraining,
    folder: Path,
    teacher: Path | None = None,
    validate: LabelledSet | str | Path | None = None,
    resume: bool = False,
) -> ProceduralJob:
    """Read and check all that a training needs. Raises as ``train_procedural``."""
    check_devices(settings)
    if teacher is not None and not teacher.is_file():
        raise RecipeError(f"there is no weights file {teacher}; check --teacher")
    if settings.initial:
        load_compact(settings.initial)  # says what is wrong with it
    held_out = validate if validate is None or isinstance(validate, LabelledSet) else load_labelled(validate)
    if held_out is not None:
        held_out = readable_part(held_out, workers=settings.readers, skip=False)
    identity = {
        **settings.identity,
        "teacher": None if teacher is None else file_sha256(teacher),
        "initial": file_sha256(settings.initial) if settings.initial else None,
        "validation": None if held_out is None else f"{held_out.name} {held_out.revision} {held_out.selection}",
    }
    absolute = None if teacher is None else teacher.absolute()
    return ProceduralJob(settings, absolute, held_out, identity, folder, resume)
