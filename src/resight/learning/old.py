"""Learning new objects beside an old network: vectors that its collections are searched with, and no forgetting.

Three means, each alone or together. Backward-compatible training (Shen, Xiong, Xia & Soatto, "Towards
Backward-Compatible Representation Learning", CVPR 2020) adds to the loss its own value under the old network's
classifier; here, as the paper has it for objects that the old one was not trained on, each class's row is the mean of
the old network's vectors of its photos. Distillation draws each photo's vector to the old network's (Li & Hoiem,
"Learning without Forgetting", ECCV 2016, of features in place of class scores). Replay shows photos of the old objects
in each batch (Rebuffi et al., "iCaRL", CVPR 2017; here of all of them, not of a chosen few). What is said of these
papers was not checked against their texts.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from resight.describe.describer import Describer
from resight.errors import ImageError, RecipeError
from resight.learning.datasets.photos import Photo, TrainingSet
from resight.recipes.recipe import Recipe
from resight.recipes.stage import Stage


class OldStage(Stage):
    """The network before, and how much of it is kept.

    recipe: its name, file or folder. compatible: weight of the loss under its classifier, whose cosines are divided by
        ``temperature``; above 0 the trained recipe says that its vectors may be compared with the old one's.
    distil: weight of 1 − the cosine of each photo's vector and the old one's.
    photos: a labelled set of objects that the old network knows. replay: the share of a batch's objects that are those.
    """

    recipe: str
    compatible: float = Field(default=1.0, ge=0)
    temperature: float = Field(default=0.05, gt=0)
    distil: float = Field(default=0.0, ge=0)
    photos: str = ""
    replay: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _replays_photos(self) -> "OldStage":
        if bool(self.photos) != bool(self.replay):
            raise ValueError("old.photos, a labelled set, and old.replay, their share of a batch, go together")
        return self


class OldTerms:
    """What the old network adds to the loss of a batch, made of its vectors of the photos that are learned from.

    vectors: N×D float32 of unit length. labels: (N,) from 0. prototypes: C×D, the classes' mean vectors, normalised.
    """

    def __init__(
        self,
        vectors: NDArray[np.float32],
        labels: NDArray[np.int64],
        *,
        compatible: float,
        distil: float,
        temperature: float = 0.05,
    ) -> None:
        self.compatible, self.distil, self.temperature = compatible, distil, temperature
        self.vectors = torch.from_numpy(vectors)
        sums = torch.zeros(int(labels.max()) + 1, vectors.shape[1])
        self.prototypes = normalize(sums.index_add_(0, torch.from_numpy(labels), self.vectors))

    def __call__(self, x: Tensor, labels: Tensor, places: NDArray[np.int64]) -> Tensor:
        """A scalar. x: B×D, of the photos at ``places``, with ``labels``, (B,) int64."""
        value = x.sum() * 0
        if self.compatible:
            cosines = normalize(x) @ self.prototypes.to(x).T
            value = value + self.compatible * cross_entropy(cosines / self.temperature, labels)
        if self.distil:
            wanted = self.vectors[torch.from_numpy(places)].to(x)
            value = value + self.distil * (1 - cosine_similarity(x, wanted)).mean()
        return value


def old_vectors(describer: Describer, photos: Sequence[Photo]) -> NDArray[np.float32]:
    """What a recipe makes of photos as they are, N×D. Raises RecipeError for one that cannot be described."""
    found = []
    for photo in photos:
        try:
            vector = describer.describe(photo.path, photo.box).global_descriptor
        except ImageError as error:
            raise RecipeError(f"{photo.path}: cannot be described by the old recipe: {error.reason}") from error
        if vector is None:
            raise ValueError("the recipe has no global descriptor")
        found.append(vector)
    return np.stack(found)


def check_old(old: Recipe, dimension: int) -> None:
    """Raises RecipeError unless an old recipe gives one vector of ``dimension`` entries, as the new network does."""
    stage = old.global_
    if stage is None or stage.late is not None or old.local is not None:
        raise RecipeError(f"old recipe {old.name}: gives not one vector an image and nothing else, as is needed here")
    if sum(stage.lengths) != dimension:
        raise RecipeError(
            f"old recipe {old.name}: its vectors have {sum(stage.lengths)} entries, the new ones {dimension}: they "
            f"cannot be compared; say learns.projection = {sum(stage.lengths)}"
        )


def with_replayed(photos: TrainingSet, old: TrainingSet) -> TrainingSet:
    """Both sets' photos; the old objects are the last classes, which ``replayed`` counts."""
    first, known = len(photos.classes), {photo.path for photo in photos.photos}
    if both := sorted(photo.path for photo in old.photos if photo.path in known):
        raise RecipeError(f"{both[0]}: is learned from and replayed ({len(both)} photos are); leave it out of one set")
    return TrainingSet(
        name=photos.name,
        photos=(*photos.photos, *(Photo(photo.path, first + photo.label, photo.box) for photo in old.photos)),
        classes=(*photos.classes, *(f"old {name}" for name in old.classes)),
        file=photos.file,
        revision=photos.revision,
        selection="; ".join(filter(None, [photos.selection, f"and {len(old.classes)} objects of {old.name}"])),
        replayed=len(old.classes),
    )
