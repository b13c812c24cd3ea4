"""The settings of a training without labels: those of any training, and a table ``unlabelled``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError, model_validator

from resight.errors import RecipeError
from resight.learning.losses.stages import ArcFaceStage, CosFaceStage, CrossEntropyStage, JointStage
from resight.learning.mining.stages import AllStage, PoolStage
from resight.learning.settings import Training, load_settings, read_settings, read_value
from resight.learning.unlabelled.stages import (
    KINDS,
    AutoencoderStage,
    DbscanStage,
    GanStage,
    GssStage,
    NeighbourMeanStage,
    PoolsStage,
    SiftStage,
    UnlabelledStage,
    VerifiedStage,
)
from resight.recipes.stage import problems

_OF_TUPLES = ("siamese", "double-margin", "quartet", "triplet")  # which ask labels for nothing where tuples are given
_CLASSIFIERS = (CrossEntropyStage, ArcFaceStage, CosFaceStage, JointStage)
_OWN_LOSS = (NeighbourMeanStage, GanStage, AutoencoderStage)
_OF_NETWORKS = (
    *("loss", "miner", "sampling", "memory", "learns", "augment", "chunk", "side", "fit", "validation_side"),
    *("views", "views_dtype", "whitening", "dimensions", "readers", "budget", "adversarial"),
)
_TABLE = "unlabelled"


class UnlabelledTraining(Training):
    """unlabelled: how photos without labels are mined."""

    unlabelled: UnlabelledStage = VerifiedStage(kind="verified")

    @model_validator(mode="after")
    def _goes_together(self) -> "UnlabelledTraining":
        kind, loss = self.unlabelled.kind, self.loss.kind
        if self.scheme not in ("auto", "embedding"):
            raise ValueError(f"scheme = {self.scheme} learns from labels: leave it out")
        if self.old is not None:
            raise ValueError("old is of learning from labels: leave it out")
        if self.whitening == "learned":
            raise ValueError('whitening = "learned" is of labelled pairs: say "pca", "none" or "auto"')
        if isinstance(self.miner, PoolStage):
            raise ValueError("miner = pool is of labels: leave it out")
        if isinstance(self.unlabelled, GssStage):
            if unread := [key for key in _OF_NETWORKS if key in self.model_fields_set]:
                raise ValueError(f"unlabelled = gss trains no network: leave out {', '.join(unread)}")
            return self
        if isinstance(self.unlabelled, PoolsStage | NeighbourMeanStage | AutoencoderStage):
            if self.memory is not None or not isinstance(self.miner, AllStage):
                raise ValueError(f"unlabelled = {kind} chooses what is compared: leave out miner and memory")
            if not isinstance(self.unlabelled, _OWN_LOSS) and loss not in _OF_TUPLES:
                raise ValueError(
                    f"unlabelled = {kind} gives tuples: loss is one of {', '.join(_OF_TUPLES)}, not {loss}"
                )
        if isinstance(self.unlabelled, _OWN_LOSS) and "loss" in self.model_fields_set:
            raise ValueError(f"unlabelled = {kind} is its own loss: leave out loss")
        if isinstance(self.unlabelled, SiftStage) and loss == "quartet":
            raise ValueError("unlabelled = sift holds on to the network as it was, as loss = quartet does: choose one")
        if isinstance(self.unlabelled, DbscanStage) and isinstance(self.loss, _CLASSIFIERS):
            raise ValueError(f"unlabelled = dbscan gives any number of classes: loss = {loss} is of a fixed one")
        return self


def load_unlabelled_settings(
    name: str | Path | None = None, changes: Sequence[str] = (), *, mining: str | None = None, **given: Any
) -> UnlabelledTraining:
    """As ``load_settings``; a file may have a table ``unlabelled``, and changes such as "unlabelled.k=30".

    mining: its kind; a file's table of another kind is left out. Raises RecipeError naming the file and the key.
    """
    table = {} if name is None else read_settings(name)
    own = table.pop(_TABLE, {})
    if not isinstance(own, dict):
        raise RecipeError(f'{name}: unlabelled must be a table, as in [unlabelled] kind = "verified"')
    if mining is not None:
        own = own if own.get("kind") == mining else {"kind": mining}
    others = []
    for change in changes:
        key, equals, text = change.partition("=")
        before, _, after = key.strip().partition(".")
        if equals and before == _TABLE and after:
            own = {**own, after: read_value(text.strip())}
        else:
            others.append(change)
    own = {"kind": "verified", **own}
    if own["kind"] not in KINDS:
        raise RecipeError(f"unlabelled.kind must be one of {', '.join(KINDS)}, not {own['kind']}")
    usual = load_settings(None, others, **table | {key: value for key, value in given.items() if value is not None})
    try:
        return UnlabelledTraining.model_validate({**usual.model_dump(exclude_unset=True), _TABLE: own})
    except ValidationError as error:
        origin = "settings" if name is None else str(name)
        raise RecipeError(f"{origin}: {problems(error, 'settings')}") from error
