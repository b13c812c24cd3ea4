"""What the poolings and embeddings of a recipe learn from photos, before any whitening."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from resight.describe.embedding import Embedder, learn_embedding, learn_reduction, reduced
from resight.describe.pooling import ChannelStatistics, StatisticsOf
from resight.errors import RecipeError
from resight.fitted import PhotoSketch
from resight.images.image import Image
from resight.recipes.network_stages import Branch

if TYPE_CHECKING:  # it imports torch
    from resight.describe.global_descriptor import GlobalDescriber, Prepared

_BATCH = 16  # images prepared and described together: bounds memory
_SAMPLE_BYTES = 1 << 28  # of features that an embedding is learned from

Learned = Embedder | ChannelStatistics


@dataclass
class _Sample:
    """A bounded sample of one branch's features, or statistics of all of them."""

    branch: Branch
    photos: int
    statistics: StatisticsOf = field(default_factory=StatisticsOf)
    sets: list[NDArray[np.float32]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.branch.embedding.seed if self.branch.embedding else 0)

    def add(self, features: NDArray[np.floating]) -> None:
        """One image's, n×C."""
        if self.branch.embedding is None:
            self.statistics.add(features)
            return
        if self.branch.weighted:  # their lengths are weights: what counts for nothing teaches nothing
            features = features[features.any(axis=1)]
        share = max(1, _SAMPLE_BYTES // (4 * features.shape[1] * self.photos))
        drawn = np.sort(self._rng.permutation(len(features))[:share])
        self.sets.append(features[drawn].astype(np.float32))

    def finish(self, fitted_on: str, descriptor: str) -> Learned:
        """What the branch learns from it."""
        stage = self.branch.embedding
        if stage is None:
            return self.statistics.finish(fitted_on)
        if not self.sets:
            raise RecipeError("there are no photos to learn an embedding from")
        reduction = learn_reduction(stage, self.sets, fitted_on, descriptor)
        sets = [reduced(features, reduction) for features in self.sets]
        return Embedder(learn_embedding(stage, sets, fitted_on), reduction)


def learn_heads(
    describer: "GlobalDescriber", images: Iterable[Image], photos: int, fitted_on: str
) -> dict[int, Learned]:
    """By the place of the branch, what each branch that needs it learns from images, each read once.

    photos: how many images there are, at most. An embedding learns from a sample drawn with its seed, as many features
    of every image, that takes a quarter of a GiB; document frequencies are of that sample.
    Raises RecipeError where there are too few.
    """
    samples = {place: _Sample(describer.stage.branches[place], photos) for place in describer.unlearned}
    for batch in prepared_batches(describer, images):
        features = describer.features(batch)
        for place, sample in samples.items():
            for scales in features[place]:
                sample.add(np.concatenate(scales))
    descriptors = describer.branch_fingerprints
    return {place: sample.finish(fitted_on, descriptors[place]) for place, sample in samples.items()}


def save_learned(learned: Learned, into: Path, place: int, photos: PhotoSketch | None = None) -> dict[str, str]:
    """Write what the branch at a place learned; the recipe's keys and the files' names in the folder ``into``.

    photos: which it was learned from, where that is known.
    """
    number = "" if place == 0 else f"-{place + 1}"
    learned = replace(learned, photos=photos)
    if isinstance(learned, ChannelStatistics):
        learned.save(into / f"channels{number}.safetensors")
        return {"learned": f"channels{number}.safetensors"}
    files = {"learned": f"embedding{number}.safetensors", "reduction": f"reduction{number}.safetensors"}
    learned.save(into / files["learned"], into / files["reduction"])
    return files if learned.reduction is not None else {"learned": files["learned"]}


def prepared_batches(describer: "GlobalDescriber", images: Iterable[Image]) -> Iterator[list["Prepared"]]:
    """Prepared images, the next batch in a thread while the network computes the last one."""
    source = iter(images)

    def take() -> list["Prepared"]:
        return [describer.prepare(image.pixels) for image in islice(source, _BATCH)]

    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(take)
        while batch := coming.result():
            coming = reader.submit(take)
            yield batch
