"""Learned discriminative whitening, Lw (Mikolajczyk & Matas, ICCV 2007; Radenović et al., TPAMI 2019, §3.3)."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import LinAlgError, cholesky, solve_triangular

from resight.errors import RecipeError
from resight.fitted import PhotoSketch
from resight.projection.covariance import RunningCovariance, largest_eigenvectors
from resight.projection.pca import check_enough, upright
from resight.projection.projection import Projection


def learned_whitening(
    vectors: RunningCovariance,
    differences: RunningCovariance,
    dimensions: int,
    *,
    fitted_on: str,
    descriptor: str,
    centre: ArrayLike | None = None,
    ridge: float = 0.0,
    photos: PhotoSketch | None = None,
) -> Projection:
    """Whiten what differs between matching images; then the K axes along which images differ most.

    vectors: moments of the D-dimensional vectors of all images; they stand for the non-matching pairs, whose
        covariance about the centre is theirs up to a factor.
    differences: of xᵢ - xⱼ for the matching pairs, in either order.
    centre: (D,) that is subtracted; None for the vectors' mean. The published code takes the mean of the queries.
    ridge: added to every variance of the differences, as a multiple of the mean one; 0 as published.

    With C_S = mean of (xᵢ - xⱼ)(xᵢ - xⱼ)ᵀ = LLᵀ, and C of the vectors about the centre, P = VᵀL⁻¹ for the leading
    eigenvectors V of L⁻¹CL⁻ᵀ. Any other root of C_S gives the same P. An axis's sign makes its largest entry positive.
    Takes O(D²) memory and O(D³) time: longer vectors than some 8192 are best reduced by ``pca`` first.
    Raises RecipeError where C_S is singular, as it is for fewer pairs than dimensions, and as ``pca``.
    """
    check_enough(vectors, dimensions)
    mean = vectors.mean if centre is None else np.asarray(centre, dtype=np.float64)
    if differences.n == 0 or differences.mean.shape != mean.shape:
        raise RecipeError(f"learned whitening of vectors of {len(mean)} entries needs differences of matching pairs")
    root = _root(differences, ridge)
    half = solve_triangular(root, vectors.second_moment(mean), lower=True)
    _, axes = largest_eigenvectors(solve_triangular(root, half.T, lower=True), dimensions)
    matrix = solve_triangular(root, axes.T, lower=True, trans="T").T
    return Projection(
        mean.astype(np.float32),
        upright(matrix).astype(np.float32),
        "learned-whitening",
        vectors.n,
        fitted_on,
        descriptor,
        photos,
    )


def learned_whitening_of_pairs(
    x: ArrayLike,
    queries: ArrayLike,
    positives: ArrayLike,
    dimensions: int,
    *,
    fitted_on: str,
    descriptor: str,
    ridge: float = 0.0,
    photos: PhotoSketch | None = None,
) -> Projection:
    """``learned_whitening`` of N×D vectors in memory, as the published code (cirtorch) learns it.

    queries, positives: rows of x, of which the m-th of each are a matching pair. Centred on the mean of the queries.
    Raises as ``learned_whitening``, and ValueError where the indices do not fit.
    """
    rows, first, second = np.asarray(x, dtype=np.float64), np.asarray(queries), np.asarray(positives)
    if rows.ndim != 2 or first.ndim != 1 or first.shape != second.shape or len(first) == 0:
        raise ValueError(f"x must be N×D with as many queries as positives, not {rows.shape}, {first.shape}")
    if min(first.min(), second.min()) < 0 or max(first.max(), second.max()) >= len(rows):
        raise ValueError(f"queries and positives must be rows of x, from 0 to {len(rows) - 1}")
    vectors, differences = RunningCovariance(), RunningCovariance()
    vectors.update(rows)
    differences.update(rows[first] - rows[second])
    return learned_whitening(
        vectors,
        differences,
        dimensions,
        fitted_on=fitted_on,
        descriptor=descriptor,
        centre=rows[first].mean(axis=0),
        ridge=ridge,
        photos=photos,
    )


def _root(differences: RunningCovariance, ridge: float) -> NDArray[np.float64]:
    """The lower Cholesky factor of C_S with its ridge."""
    within = differences.second_moment(np.zeros_like(differences.mean))
    size, scale = len(within), float(np.trace(within)) / len(within)
    within[np.diag_indices(size)] += ridge * scale
    try:
        root = np.asarray(cholesky(within, lower=True))
    except LinAlgError:
        root = np.zeros_like(within)
    if np.diag(root).min() ** 2 <= np.finfo(np.float64).eps * size * scale:
        raise RecipeError(
            f"the differences of {differences.n} matching pairs do not span all {size} dimensions: give more varied "
            "pairs, better several times as many as dimensions, or a ridge above 0, such as 0.01"
        )
    return root
