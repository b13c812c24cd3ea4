"""Learning what a recipe's stages need from photos."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from resight.images.image import Image
from resight.projection.whitening import PcaWhitening

if TYPE_CHECKING:  # it imports torch, which a recipe without a network does not need
    from resight.describe.global_descriptor import GlobalDescriber

_BATCH = 64  # vectors an update of the covariance: bounds memory


def fit_whitening(
    describer: "GlobalDescriber", images: Iterable[Image], dimensions: int, fitted_on: str
) -> PcaWhitening:
    """The PCA-whitening of ``describer``'s raw descriptors over ``images``, each read once.

    fitted_on: which photos these are, in words for reports; not those that will be searched.
    Raises RecipeError unless there are more images than ``dimensions``.
    """
    return PcaWhitening.fit(
        _batches(describer, images), dimensions, fitted_on=fitted_on, descriptor=describer.raw_fingerprint
    )


def _batches(describer: "GlobalDescriber", images: Iterable[Image]) -> Iterator[NDArray[np.float64]]:
    batch: list[NDArray[np.float64]] = []
    for image in images:
        batch.append(describer.raw(image.pixels))
        if len(batch) == _BATCH:
            yield np.stack(batch)
            batch.clear()
    if batch:
        yield np.stack(batch)
