"""PCA and PCA-whitening of global descriptors (survey §4.2; Jégou & Chum, ECCV 2012)."""

import numpy as np
from numpy.typing import NDArray

from resight.errors import RecipeError
from resight.fitted import PhotoSketch
from resight.projection.moments import Moments
from resight.projection.projection import Projection


def pca(
    moments: Moments, dimensions: int, *, fitted_on: str, descriptor: str, photos: PhotoSketch | None = None
) -> Projection:
    """The rotation to the first K principal axes, which are of unit length.

    fitted_on, descriptor, photos: as ``Projection`` keeps them. An axis's sign makes its largest entry positive.
    Raises RecipeError unless there are more vectors than ``dimensions`` and D is at least ``dimensions``.
    """
    check_enough(moments, dimensions)
    _, axes = moments.leading(dimensions)
    return Projection(
        moments.mean.astype(np.float32),
        upright(axes).astype(np.float32),
        "pca",
        moments.n,
        fitted_on,
        descriptor,
        photos,
    )


def pca_whitening(
    moments: Moments,
    dimensions: int,
    *,
    fitted_on: str,
    descriptor: str,
    ridge: float = 10.0,
    photos: PhotoSketch | None = None,
) -> Projection:
    """The first K principal axes, each divided by the standard deviation along it.

    ridge: added to every variance, as a multiple of the mean variance over all D axes. 0 whitens fully,
        which needs very many vectors of the kind that is searched; large values only rotate.
    The others, and what is raised, as ``pca``; also RecipeError where an axis without variance would be divided by.
    """
    check_enough(moments, dimensions)
    variances, axes = moments.leading(dimensions)
    variances = np.maximum(variances, 0.0) + ridge * moments.total_variance / axes.shape[1]
    if variances[-1] <= np.finfo(np.float64).eps * axes.shape[1] * variances[0]:
        raise RecipeError(
            f"the {moments.n} vectors vary along fewer than {dimensions} axes, so not all can be whitened: "
            "give more varied photos, a ridge above 0, or fewer dimensions"
        )
    return Projection(
        moments.mean.astype(np.float32),
        (upright(axes) / np.sqrt(variances)[:, np.newaxis]).astype(np.float32),
        "pca-whitening",
        moments.n,
        fitted_on,
        descriptor,
        photos,
    )


def check_enough(moments: Moments, dimensions: int) -> None:
    """RecipeError unless so many principal axes of the vectors are defined."""
    if moments.n <= dimensions:
        raise RecipeError(
            f"{dimensions} dimensions are learned from more than {dimensions} photos, better several times as many; "
            f"here are {moments.n}: give more, or lower `dimensions` in the recipe"
        )
    if dimensions > len(moments.mean):
        raise RecipeError(f"`dimensions` is {dimensions}, but the descriptor has only {len(moments.mean)}: lower it")


def upright(axes: NDArray[np.float64]) -> NDArray[np.float64]:
    """K×D axes with the signs that make the largest entry by magnitude of each positive."""
    peaks = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, np.newaxis], axis=1)
    return axes * np.sign(peaks)
