"""Non-metric similarity: a network that reads two descriptors and says how alike they are (Garcia & Vogiatzis, IVC
2019; survey §5.1.2a).

It need be neither symmetric nor greatest of a descriptor with itself, so that no index searches by it: it re-ranks.
``resight.learning.losses.nonmetric`` teaches it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn.functional import linear

from resight.artefact import load_artefact, save_artefact
from resight.errors import QueryError, RecipeError
from resight.hashing.training import perceptron
from resight.search.ranking import Ranking
from resight.search.rerank.reranker import Database, best, check_depth, check_query, first, head

KIND = "nonmetric-similarity"

_QUERIES, _VECTORS = 16, 256  # compared at a time: each pair takes a layer's width of numbers


class SimilarityNetwork(nn.Module):
    """S_W of the concatenation of two descriptors: layers with ReLUs between them, from 2D inputs to 1 output.

    hidden: widths in between; two of 4096 as in the paper's architecture B. Drawn by the seed alone.
    Raises RecipeError for sizes below 1.
    """

    def __init__(
        self, dimension: int, hidden: Sequence[int] = (4096, 4096), *, seed: int = 0, fitted_on: str = "nothing yet"
    ) -> None:
        if min((dimension, *hidden)) < 1:
            raise RecipeError(f"dimension and hidden must be 1 or more, not {dimension} and {tuple(hidden)}")
        super().__init__()
        self.dimension, self.fitted_on = dimension, fitted_on
        self.layers = perceptron((2 * dimension, *hidden, 1), torch.Generator().manual_seed(seed))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """(P,) of P pairs, each P×D. The two are not interchangeable."""
        similarity: Tensor = self.layers(torch.cat([first, second], dim=1))
        return similarity[:, 0]

    def of_rows(self, x: Tensor, y: Tensor, rows: Tensor, others: Tensor) -> Tensor:
        """``forward(x[rows], y[others])``, (P,), with the first layer computed once a descriptor, not once a pair."""
        affine, *deeper = (layer for layer in self.layers if isinstance(layer, nn.Linear))
        left, right = affine.weight[:, : self.dimension], affine.weight[:, self.dimension :]
        state = linear(x, left, affine.bias)[rows] + linear(y, right)[others]
        for layer in deeper:
            state = layer(state.relu())
        return state[:, 0]

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return next(self.parameters()).device

    def save(self, path: str | Path) -> str:
        """Write the artefact and return its fingerprint; raises as ``save_artefact``."""
        tensors = {name: tensor.detach().cpu().numpy() for name, tensor in self.state_dict().items()}
        return save_artefact(path, KIND, tensors, {"fitted_on": self.fitted_on})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """What ``save`` wrote. Raises RecipeError as ``load_artefact``, and where the weights do not fit."""
        tensors, meta = load_artefact(path, KIND)
        weights = [tensors.get(f"layers.{2 * i}.weight", np.empty(0)) for i in range(len(tensors) // 2)]
        if not weights or any(w.ndim != 2 or 0 in w.shape for w in weights) or weights[0].shape[1] % 2:
            raise RecipeError(f"{path}: holds no layers of a similarity network; train it again")
        network = cls(weights[0].shape[1] // 2, [len(w) for w in weights[:-1]], fitted_on=str(meta.get("fitted_on")))
        try:
            network.load_state_dict({name: torch.as_tensor(tensor) for name, tensor in tensors.items()})
        except RuntimeError as error:
            raise RecipeError(f"{path}: its layers do not fit each other: {error}; train it again") from error
        return network.eval()


def similarity(network: SimilarityNetwork, queries: ArrayLike, database: ArrayLike) -> NDArray[np.float32]:
    """S_W of each query with each vector of a database, Q×N, from Q×D and N×D.

    Raises QueryError where these are not of the network's dimension.
    """
    x, y = np.asarray(queries, np.float32), np.asarray(database, np.float32)
    if x.ndim != 2 or y.ndim != 2 or {x.shape[1], y.shape[1]} != {network.dimension}:
        raise QueryError(f"the network compares vectors of {network.dimension} entries, not {x.shape} and {y.shape}")
    scores = np.empty((len(x), len(y)), np.float32)
    with torch.inference_mode():
        for q, v in product(range(0, len(x), _QUERIES), range(0, len(y), _VECTORS)):
            left, right = (
                torch.tensor(side, device=network.device) for side in (x[q : q + _QUERIES], y[v : v + _VECTORS])
            )
            rows, columns = torch.cartesian_prod(
                torch.arange(len(left), device=network.device), torch.arange(len(right), device=network.device)
            ).T
            found = network.of_rows(left, right, rows, columns).view(len(left), len(right))
            scores[q : q + len(left), v : v + len(right)] = found.cpu().numpy()
    return scores


@dataclass(frozen=True, eq=False)
class NonMetric:
    """Re-orders the first `depth` images of a ranking, None for all, by S_W of the query with each."""

    network: SimilarityNetwork
    depth: int | None = 100

    def __post_init__(self) -> None:
        check_depth(self.depth)

    def rerank(self, query: NDArray[np.float32], ranking: Ranking, database: Database) -> Ranking:
        check_query(query, database.dimension)
        ids, vectors = head(ranking, database, self.depth)
        return first(ranking, *best(ids, similarity(self.network, query[None], vectors)[0]))
