"""Hash functions that are one matrix and a threshold: LSH, PCA-sign and ITQ (survey §4.2.4, Eq. 9)."""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from resight.embedding.hamming import orthogonal
from resight.errors import RecipeError
from resight.fitted import PhotoSketch
from resight.hashing.function import HashFunction, Kind, Layer
from resight.projection.moments import Moments, gather
from resight.projection.pca import upright

_BATCH = 4096  # vectors


def fit_lsh(
    dimension: int,
    bits: int,
    *,
    seed: int,
    mean: ArrayLike | None = None,
    n: int = 0,
    fitted_on: str = "nothing: drawn at random",
    descriptor: str = "",
    photos: PhotoSketch | None = None,
) -> HashFunction:
    """Random hyperplanes (Charikar, STOC 2002): a bit differs with probability θ/π, for an angle θ seen from ``mean``.

    mean: (D,), a point that all the planes go through, better the data's than the origin, which is Charikar's: vectors
        of images lie on one side of it. n: of how many vectors it is the mean.
    The normals are drawn evenly from the sphere, and those of fewer bits are the first of those of more.
    Raises ValueError for a mean of another length.
    """
    centre = np.zeros(dimension) if mean is None else np.asarray(mean, np.float64)
    if centre.shape != (dimension,) or not np.isfinite(centre).all():
        raise ValueError(f"the mean must be ({dimension},) and finite, not {centre.shape}")
    normals = np.random.default_rng(seed).normal(size=(_checked(bits), dimension))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return _function(normals, centre, "lsh", n, fitted_on, descriptor, photos)


def fit_pca_sign(
    batches: Iterable[ArrayLike],
    bits: int,
    *,
    fitted_on: str,
    descriptor: str = "",
    photos: PhotoSketch | None = None,
) -> HashFunction:
    """On which side of their mean vectors lie, along each of the first B principal axes (Gong & Lazebnik's PCA-Direct).

    batches: of n×D vectors, each read once; memory is that of ``resight.projection.moments.gather``.
    An axis's sign makes its largest entry positive. Raises ValueError for more bits than the vectors have entries, and
    RecipeError where the vectors do not vary along so many axes.
    """
    moments = gather(batches, _checked(bits))
    return _function(
        _axes(moments, bits, "pca-sign"), moments.mean, "pca-sign", moments.n, fitted_on, descriptor, photos
    )


def fit_itq(
    x: ArrayLike,
    bits: int,
    *,
    seed: int,
    fitted_on: str,
    iterations: int = 50,
    descriptor: str = "",
    photos: PhotoSketch | None = None,
) -> HashFunction:
    """Iterative quantisation (Gong & Lazebnik, CVPR 2011; Gong et al., TPAMI 2013): the first B principal axes, turned
    so that what is centred and projected to them lies near the corners of the cube of ±1.

    x: N×D. With V, the projections, N×B, and R, a random rotation (or reflection) at first, each iteration takes
    B = sign(VR) and then the orthogonal R that makes the loss ‖B - VR‖²_F least (Procrustes). The loss never grows.
    iterations: the paper's 50; 0 leaves the random rotation. N·B float32 are held twice.
    Raises as ``fit_pca_sign``, and ValueError for fewer than no iterations.
    """
    if iterations < 0:
        raise ValueError(f"iterations must be at least 0, not {iterations}")
    vectors = np.asarray(x, np.float32)
    moments = gather(in_batches(vectors), _checked(bits))
    axes = _axes(moments, bits, "itq")
    projected = vectors @ axes.T.astype(np.float32) - (axes @ moments.mean).astype(np.float32)
    rotation = orthogonal(bits, seed).astype(np.float64)
    for _ in range(iterations):
        signs = np.where(projected @ rotation.astype(np.float32) > 0, np.float32(1), np.float32(-1))
        left, _, right = np.linalg.svd((projected.T @ signs).astype(np.float64))
        rotation = left @ right
    return _function(rotation.T @ axes, moments.mean, "itq", len(vectors), fitted_on, descriptor, photos)


def in_batches(x: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """N×D vectors in parts, which what sums them up in float64 takes one at a time."""
    return (x[start : start + _BATCH] for start in range(0, len(x), _BATCH))


def _checked(bits: int) -> int:
    """ValueError unless codes can have so many bits."""
    if bits < 8 or bits % 8:
        raise ValueError(f"bits must be a multiple of 8, not {bits}")
    return bits


def _axes(moments: Moments, bits: int, kind: Kind) -> NDArray[np.float64]:
    """The first B principal axes, B×D, along all of which the vectors vary: signs along the others are of rounding."""
    if bits > len(moments.mean):
        raise ValueError(
            f"{kind} makes at most a bit for each of a vector's {len(moments.mean)} entries, not {bits}: ask for fewer "
            "bits, or use lsh, which makes any number"
        )
    if moments.n <= bits:
        raise RecipeError(
            f"{bits} bits of {kind} are learned from more than {bits} photos, better several times as many; here are "
            f"{moments.n}: give more, or ask for fewer bits"
        )
    variances, axes = moments.leading(bits)
    if variances[-1] <= np.finfo(np.float64).eps * axes.shape[1] * variances[0]:
        raise RecipeError(
            f"the {moments.n} vectors vary along fewer than {bits} axes: give more varied photos, or ask for fewer bits"
        )
    return upright(axes)


def _function(
    weight: NDArray[np.float64],
    mean: NDArray[np.float64],
    kind: Kind,
    n: int,
    fitted_on: str,
    descriptor: str,
    photos: PhotoSketch | None,
) -> HashFunction:
    """x ↦ W(x - mean)."""
    layer = Layer(weight.astype(np.float32), (-weight @ mean).astype(np.float32))
    return HashFunction((layer,), kind, n, fitted_on, descriptor, photos)
