"""Trainable embeddings, NetVLAD, RN-BoF and the Fisher layer, as fitted ones that are saved and used like others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resight.artefact import artefact_fingerprint, load_artefact_of, save_artefact
from resight.embedding.embedding import Features, Weights, join_weights
from resight.embedding.fisher_layer import FisherLayer
from resight.embedding.learned_bof import LearnedBof
from resight.embedding.netvlad import NetVlad
from resight.errors import RecipeError

Layer = NetVlad | LearnedBof | FisherLayer
Kind = Literal["netvlad", "learned-bof", "fisher-layer"]

_MAKE: dict[str, Callable[[dict[str, Tensor]], Layer]] = {
    "netvlad": NetVlad.from_state,
    "learned-bof": lambda state: LearnedBof(state["centres"], state["widths"]),
    "fisher-layer": lambda state: FisherLayer(state["logits"], state["means"], state["log_sigmas"]),
}


@dataclass(frozen=True, eq=False)
class LayerEmbedding:
    """A trainable layer, frozen. kind: which. fitted_on: what it was learned from, in words."""

    kind: Kind
    layer: Layer
    fitted_on: str

    @property
    def dimension(self) -> int:
        """K, the length of what ``transform`` returns."""
        return self.layer.dimension

    @property
    def input_dimension(self) -> int:
        """D, the length of a feature."""
        match self.layer:
            case NetVlad():
                return self.layer.centroids.shape[1]
            case LearnedBof():
                return self.layer.centres.shape[1]
            case FisherLayer():
                return self.layer.means.shape[1]

    @property
    def fingerprint(self) -> str:
        """sha256 of the kind and the parameters, in hex; ``fitted_on`` does not enter."""
        return artefact_fingerprint(self.kind, self._tensors())

    def transform(self, features: Features) -> NDArray[np.float32]:
        """n×D to (K,) float32, ℓ2-normalised; zeros for no features."""
        vector: NDArray[np.float32] = self.transform_sets([features])[0]
        return vector

    @torch.inference_mode()
    def transform_sets(self, sets: Sequence[Features], weights: Weights | None = None) -> NDArray[np.float32]:
        """N sets of n_i×D features to N×K float32, weights as ``Embedding`` has them."""
        join_weights(sets, weights)  # only to check them
        own = [None] * len(sets) if weights is None else [_batch_of_one(w) for w in weights]
        found = [self.layer(_batch_of_one(x), w)[0] for x, w in zip(sets, own, strict=True)]
        return np.stack([vector.numpy() for vector in found])

    def save(self, path: str | Path) -> str:
        """Write as a safetensors artefact; returns the fingerprint. Raises RecipeError where that fails."""
        return save_artefact(path, self.kind, self._tensors(), {"fitted_on": self.fitted_on})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Raises RecipeError, naming the file, where it is missing, damaged or something else."""
        kind, tensors, meta = load_artefact_of(path, tuple(_MAKE))
        state = {name: torch.from_numpy(tensor.copy()) for name, tensor in tensors.items()}
        try:
            layer = _MAKE[kind](state).eval().requires_grad_(False)
        except (KeyError, ValueError, RecipeError) as error:
            raise RecipeError(f"{path}: not a {kind} that this version can use: {error}") from error
        return cls(kind, layer, str(meta.get("fitted_on", "")))  # type: ignore[arg-type]

    def _tensors(self) -> dict[str, NDArray[np.float32]]:
        return {name: tensor.detach().numpy() for name, tensor in self.layer.state_dict().items()}


def _batch_of_one(x: NDArray[np.floating]) -> Tensor:
    return torch.from_numpy(np.asarray(x, np.float32))[None]
