"""A hash function h(x) = [f(x) > 0] (survey §4.2.4, Eq. 9): layers that a method has learned, and the sign of the last.

Every method of this room learns one of these, so that whatever hashes, stores and compares does not know which it was.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from resight.artefact import artefact_fingerprint, load_artefact_of, save_artefact
from resight.errors import RecipeError
from resight.fitted import PhotoSketch
from resight.hashing.codes import pack

Kind = Literal["lsh", "pca-sign", "itq", "deepbit", "dsth", "sah", "rbm", "autoencoder", "ssdh", "siamese", "regional"]
Activation = Literal["linear", "sigmoid", "tanh", "relu"]

_ACTIVATIONS: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "linear": lambda x: x,
    "sigmoid": lambda x: 0.5 * (1 + np.tanh(0.5 * x)),  # which, unlike 1/(1 + e⁻ˣ), does not overflow
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
}


@dataclass(frozen=True, eq=False)
class Layer:
    """x ↦ activation(Wx + b). weight: W, K×D float32. bias: b, (K,) float32."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    activation: Activation = "linear"

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or self.bias.shape != (len(self.weight),):
            raise ValueError(f"a layer has K×D weights and K biases, not {self.weight.shape} and {self.bias.shape}")
        if not (np.isfinite(self.weight).all() and np.isfinite(self.bias).all()):
            raise ValueError("a layer's weights and biases must be finite: what learned them has diverged")
        if self.activation not in _ACTIVATIONS:
            raise ValueError(f"there is no activation {self.activation!r}; there are {', '.join(_ACTIVATIONS)}")

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """…×D to …×K float32."""
        return _ACTIVATIONS[self.activation](x @ self.weight.T + self.bias).astype(np.float32, copy=False)


@dataclass(frozen=True, eq=False)
class HashFunction:
    """x ↦ bits, one for each output of the last of `layers`, which is linear: 1 where it is above 0.

    kind: the method that learned it. n, fitted_on: from how many vectors, and which, in words that go into reports.
    descriptor: fingerprint of what made the vectors ("" where unknown); others must not be hashed with it.
    photos: which photos the vectors are of, where that is known.
    """

    layers: tuple[Layer, ...]
    kind: Kind
    n: int
    fitted_on: str
    descriptor: str = ""
    photos: PhotoSketch | None = None

    def __post_init__(self) -> None:
        if not self.layers or self.layers[-1].activation != "linear":
            raise ValueError("a hash function has layers, the last of which is linear: its outputs' signs are the bits")
        for below, above in zip(self.layers, self.layers[1:], strict=False):
            if above.weight.shape[1] != len(below.weight):
                raise ValueError(f"a layer of {len(below.weight)} outputs feeds one of {above.weight.shape[1]} inputs")
        if self.bits == 0 or self.bits % 8:
            raise ValueError(f"a code has a multiple of 8 bits, not {self.bits}")

    @property
    def bits(self) -> int:
        """B, of a code."""
        return len(self.layers[-1].weight)

    @property
    def dimension(self) -> int:
        """D, of the vectors it takes."""
        return int(self.layers[0].weight.shape[1])

    @property
    def fingerprint(self) -> str:
        """sha256 of the kind and the learned values, in hex; ``fitted_on`` and the like do not enter."""
        return artefact_fingerprint(self._kind, self._tensors())

    def project(self, x: ArrayLike) -> NDArray[np.float32]:
        """f(x): N×D to N×B float32, whose signs are the bits; for asymmetric distances. ValueError for another D."""
        vectors = np.asarray(x, np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            raise ValueError(f"vectors must be N×{self.dimension}, not {vectors.shape}")
        for layer in self.layers:
            vectors = layer(vectors)
        return vectors

    def encode(self, x: ArrayLike) -> NDArray[np.uint8]:
        """N×D to codes, N×B/8 packed bytes (``resight.hashing.codes``)."""
        return pack(self.project(x) > 0)

    def save(self, path: str | Path) -> str:
        """Write as a safetensors artefact; returns the fingerprint. Raises RecipeError where that fails."""
        meta = {
            "n": self.n,
            "fitted_on": self.fitted_on,
            "descriptor": self.descriptor,
            "activations": [layer.activation for layer in self.layers],
            **({"photos": self.photos.to_json()} if self.photos else {}),
        }
        return save_artefact(path, self._kind, self._tensors(), meta)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Raises RecipeError, naming the file, where it is missing, damaged or something else."""
        kinds: dict[str, Kind] = {f"{_PREFIX}{kind}": kind for kind in get_args(Kind)}
        kind, tensors, meta = load_artefact_of(path, kinds)
        try:
            layers = tuple(
                Layer(tensors[f"weight.{i}"], tensors[f"bias.{i}"], activation)
                for i, activation in enumerate(meta["activations"])
            )
            photos = PhotoSketch.from_json(meta["photos"]) if "photos" in meta else None
            return cls(layers, kinds[kind], int(meta["n"]), str(meta["fitted_on"]), str(meta["descriptor"]), photos)
        except (KeyError, TypeError, ValueError) as error:
            raise RecipeError(f"{path}: not a hash function that this version can use: {error}") from error

    @property
    def _kind(self) -> str:
        return f"{_PREFIX}{self.kind}"

    def _tensors(self) -> dict[str, NDArray[np.float32]]:
        named = {f"weight.{i}": layer.weight for i, layer in enumerate(self.layers)}
        return named | {f"bias.{i}": layer.bias for i, layer in enumerate(self.layers)}


_PREFIX = "hash-"
