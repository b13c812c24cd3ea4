"""Settings: which photos make a batch, and which of its pairs and triplets count."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from resight.recipes.stage import Stage

Positives = Literal["random", "closest", "hardest"]
Form = Literal["triplets", "pairs"]


class Sampling(Stage):
    """An epoch's batches.

    kind: "balanced" batches have ``each`` photos of ``classes`` objects; "shuffled" ones have classes × each photos
        in an order drawn anew; "whole" is one batch of all photos.
    batches: how many an epoch has if balanced; None for as many as show about each photo once.
    repeat: an object with fewer photos than ``each`` shows them again, instead of fewer.
    sets: where several sets are learned from at once, each gives as many objects, however large it is. In "mixed"
        batches all do, so that negatives are of the photo's own set, where the hard ones are, and of the others, from
        which the one collection that holds all is to tell it; and no step goes one set's way alone. "alternate" batches
        are of one set each, in turn: all negatives are of its own, at the price of steps that pull this way and that.
    """

    kind: Literal["balanced", "shuffled", "whole"] = "balanced"
    classes: int = Field(default=16, ge=2)
    each: int = Field(default=4, ge=2)
    batches: int | None = Field(default=None, ge=1)
    repeat: bool = False
    sets: Literal["mixed", "alternate"] = "mixed"


class MemoryStage(Stage):
    """Cross-batch memory (Wang et al., CVPR 2020): the last ``size`` descriptors, used after ``warm`` steps."""

    size: int = Field(ge=1)
    warm: int = Field(default=1000, ge=0)


class AllStage(Stage):
    """All pairs, or triplets, of the batch."""

    kind: Literal["all"] = "all"


class HardestStage(Stage):
    """The closest negative.

    positives: "all" matching pairs, each with the negative closest to either (HardNet); or of each photo the
        "hardest", which is farthest (batch hard).
    """

    kind: Literal["hardest"]
    positives: Literal["all", "hardest"] = "all"


class SemiHardStage(Stage):
    """The closest negative that is farther than the positive, by less than ``margin`` in squared distance (FaceNet)."""

    kind: Literal["semi-hard"]
    margin: float = Field(default=0.2, gt=0)


class DistanceWeightedStage(Stage):
    """Negatives drawn evenly over distances (Wu et al., ICCV 2017).

    cutoff: distances below it count as it. far: none is drawn from there on, where the margin loss is 0.
    """

    kind: Literal["distance-weighted"]
    cutoff: float = Field(default=0.5, gt=0, lt=2)
    far: float = Field(default=1.4, gt=0, lt=2)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.cutoff >= self.far:
            raise ValueError(f"cutoff must be below far, not {self.cutoff} and {self.far}")
        return self


class PoolStage(Stage):
    """Tuples mined before each epoch (Radenović, Tolias & Chum, ECCV 2016): an anchor, a positive, hard negatives.

    queries: anchors an epoch. pool: photos that negatives are sought in. negatives: of each anchor, of as many
        objects. positives: "random"; "closest" by descriptor (their m1; NetVLAD); or "hardest", the farthest.
    tuples_per_batch: anchors a batch. form: of its rows. block: anchors compared at a time.
    """

    kind: Literal["pool"]
    queries: int = Field(default=2000, ge=1)
    pool: int = Field(default=20000, ge=2)
    negatives: int = Field(default=5, ge=1)
    positives: Positives = "random"
    tuples_per_batch: int = Field(default=5, ge=1)
    form: Form = "triplets"
    block: int = Field(default=256, ge=1)


MinerStage = Annotated[
    AllStage | HardestStage | SemiHardStage | DistanceWeightedStage | PoolStage, Field(discriminator="kind")
]
