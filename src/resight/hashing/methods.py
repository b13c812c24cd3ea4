"""The hash methods by name: what each learns from, called alike. Most need torch, so that a method is imported when its
fit is asked for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from resight.errors import RecipeError
from resight.fitted import PhotoSketch
from resight.hashing.function import HashFunction
from resight.hashing.linear import fit_itq, fit_lsh, fit_pca_sign, in_batches

Needs = Literal["vectors", "labels", "views", "sets", "regions"]
Vectors = NDArray[np.float32]
Fit = Callable[..., HashFunction]

NEIGHBOURS = 10  # of each vector in DSTH's graph


@dataclass(frozen=True)
class Method:
    """needs: what ``fit()`` gives a function of, before the bits and the keywords seed, fitted_on, descriptor, photos:

    vectors: x, N×D. labels: x and the N labels. views: x and N×R×D of its images turned.
    sets: N images' local features, each n×D; regions: N images' region vectors, each r×D.
    fit: imports the method; ModuleNotFoundError where it needs torch, and that is not installed.
    most: of N and D, the most bits that it makes of vectors; None for any number.
    """

    needs: Needs
    fit: Callable[[], Fit]
    most: Callable[[int, int], int | None] = lambda n, dimension: None


def fit_method(
    name: str,
    x: Vectors | Sequence[Vectors],
    bits: int,
    *,
    seed: int,
    fitted_on: str,
    beside: ArrayLike | None = None,
    descriptor: str = "",
    photos: PhotoSketch | None = None,
    **options: Any,
) -> HashFunction:
    """The hash function that the method called ``name`` learns.

    x: N×D vectors, or the sets or regions of N images. beside: the labels, or the views, where the method needs them.
    options: further keywords of the method.
    Raises RecipeError where there is no such method, it needs torch and that is not installed, it cannot make so many
    bits, or as it does; ValueError where ``beside`` is lacking or given in vain.
    """
    method = wanted_method(name)
    check_bits(bits)
    if (beside is not None) != (method.needs in ("labels", "views")):
        raise ValueError(f"{name} learns from {method.needs}: give `beside` for labels and views, and only for them")
    if isinstance(x, np.ndarray):
        most = method.most(*x.shape)
        if most is not None and bits > most:
            raise RecipeError(
                f"{name} makes at most {most} bits of {x.shape[0]:,} vectors of {x.shape[1]} entries, not {bits}: give "
                "more photos, ask for fewer bits, or use lsh, which makes any number"
            )
    try:
        fit = method.fit()
    except ModuleNotFoundError as error:
        raise RecipeError(f"hashing method {name} needs {error.name}: pip install 'resight[deep]'") from error
    given = (x,) if beside is None else (x, beside)
    return fit(*given, bits, seed=seed, fitted_on=fitted_on, descriptor=descriptor, photos=photos, **options)


def wanted_method(name: str) -> Method:
    """The method called ``name``; RecipeError where there is none."""
    if name not in METHODS:
        raise RecipeError(f"no hashing method is called {name!r}; choose {', '.join(METHODS)}")
    return METHODS[name]


def check_bits(bits: int) -> None:
    """RecipeError unless a code can have so many."""
    if bits < 8 or bits % 8:
        raise RecipeError(f"a code has a multiple of 8 bits, not {bits}")


def lacks_vectors(name: str, n: int, dimension: int, bits: int) -> bool:
    """Whether the method would make so many bits of more vectors, and does not of N×D."""
    most, ever = METHODS[name].most(n, dimension), METHODS[name].most(1 << 62, dimension)
    return most is not None and most < bits and (ever is None or bits <= ever)


def _lsh(
    x: Vectors, bits: int, *, seed: int, fitted_on: str, descriptor: str, photos: PhotoSketch | None
) -> HashFunction:
    if not len(x):
        raise RecipeError("there are no vectors whose mean the planes of lsh go through: give readable photos")
    mean = x.mean(axis=0, dtype=np.float64)
    return fit_lsh(
        x.shape[1], bits, seed=seed, mean=mean, n=len(x), fitted_on=fitted_on, descriptor=descriptor, photos=photos
    )


def _pca_sign(
    x: Vectors, bits: int, *, seed: int, fitted_on: str, descriptor: str, photos: PhotoSketch | None
) -> HashFunction:
    return fit_pca_sign(in_batches(x), bits, fitted_on=fitted_on, descriptor=descriptor, photos=photos)


def _dsth() -> Fit:
    from resight.hashing.dsth import fit_dsth

    return fit_dsth


def _rbm() -> Fit:
    from resight.hashing.rbm import fit_rbm

    return fit_rbm


def _autoencoder() -> Fit:
    from resight.hashing.autoencoder import fit_autoencoder

    return fit_autoencoder


def _ssdh() -> Fit:
    from resight.hashing.ssdh import fit_ssdh

    return fit_ssdh


def _siamese() -> Fit:
    from resight.hashing.siamese import fit_siamese

    return fit_siamese


def _deepbit() -> Fit:
    from resight.hashing.deepbit import fit_deepbit

    return fit_deepbit


def _sah() -> Fit:
    from resight.hashing.sah import fit_sah

    return fit_sah


def _regional() -> Fit:
    from resight.hashing.regional import fit_regional

    return fit_regional


def _axes(n: int, dimension: int) -> int:
    """The principal axes that n vectors can have."""
    return max(0, min(n - 1, dimension))


def _coordinates(n: int, dimension: int) -> int:
    """Those that ``pseudo_labels`` of a graph of n vectors can have."""
    return max(0, n - 2) if n > NEIGHBOURS else 0


METHODS: Mapping[str, Method] = {
    "lsh": Method("vectors", lambda: _lsh),
    "pca-sign": Method("vectors", lambda: _pca_sign, _axes),
    "itq": Method("vectors", lambda: fit_itq, _axes),
    "dsth": Method("vectors", _dsth, _coordinates),
    "rbm": Method("vectors", _rbm),
    "autoencoder": Method("vectors", _autoencoder),
    "ssdh": Method("labels", _ssdh),
    "siamese": Method("labels", _siamese),
    "deepbit": Method("views", _deepbit),
    "sah": Method("sets", _sah),
    "regional": Method("regions", _regional),
}
LINEAR = ("lsh", "pca-sign", "itq")  # which take seconds, and no torch
