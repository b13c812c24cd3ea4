"""Guided similarity separation, GSS (Liu et al., NeurIPS 2019): graph convolution over the neighbours, without labels.

Layers h ↦ ÂhW + b, with Â = D^(−½)(A + I)D^(−½) of the kNN graph's similarities A, make descriptors ê of unit length.
They are trained so that each similarity s = max(0, ⟨êᵢ, êⱼ⟩) moves away from β, up from above it and down from below:
the loss is the mean over all pairs of −α/2 (s − β)². A query joins the graph on line, by edges that lead from it only,
so that the database's descriptors stay and search is one inner product.

As the authors' code does (github.com/layer6ai-labs/GSS: ``model.py``, ``utils/helper.py``), with these differences: k
counts other images, where theirs counts the image itself; negative similarities are no edges, as degrees must be
positive; no penalty on weights, since theirs, applied twice by a slip, is some 10⁻¹⁰.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array, eye_array
from torch import Tensor, nn
from torch.nn.functional import elu, normalize

from resight.artefact import load_artefact, save_artefact
from resight.errors import QueryError, RecipeError
from resight.search.ranking import Ranking
from resight.search.rerank.neighbours import affinity, knn_graph, nearest
from resight.search.rerank.reranker import Database, best, check_queries, check_query, first

KIND, ENCODING = "gss", "gss-encoding"
_NOISE = 1e-5  # of what is not on the diagonal of fresh weights, the authors'

Gather = Callable[[int, Tensor], Tensor]
"""(layer, that layer's N×D input) to its mean over neighbours, Âh: N×D."""


def separation_loss(similarity: Tensor, beta: float, alpha: float = 1.0) -> Tensor:
    """Mean of −α/2 (max(0, s) − β)² over similarities of any shape; a scalar. s below 0 have no gradient."""
    return -0.5 * alpha * (similarity.relu() - beta).square().mean()


def convolution_graph(vectors: NDArray[np.float32], k: int) -> tuple[csr_array, NDArray[np.float64]]:
    """Â of N×D ℓ2-normalised vectors, N×N symmetric float64, and the degrees, D's diagonal (N,).

    An edge joins two images where one is among the other's k nearest. RecipeError for k below 1.
    """
    edges = affinity(knn_graph(vectors, k), gamma=1.0)
    joined = csr_array(edges.maximum(edges.T) + eye_array(len(vectors), format="csr"))
    degrees = np.asarray(joined.sum(axis=1), np.float64)
    scale = diags_array(1 / np.sqrt(degrees))
    return csr_array(scale @ joined @ scale), degrees


class GssModel(nn.Module):
    """The layers. Their weights begin as the identity, so that untrained they only smooth over the graph.

    dimension: D. neighbours: k of the graph they are for. decay: weight of a layer's ELU beside what the layer before
    it had before its ELU; the first layer has no such residual. fitted_on: what they learned from, in words.
    Raises RecipeError for values out of range.
    """

    def __init__(
        self,
        dimension: int,
        *,
        layers: int = 2,
        neighbours: int = 4,
        decay: float = 0.3,
        seed: int = 0,
        fitted_on: str = "nothing yet",
    ) -> None:
        if min(dimension, layers, neighbours) < 1 or not decay > 0:
            raise RecipeError(
                "dimension, layers and neighbours must be 1 or more and decay above 0, not "
                f"{dimension}, {layers}, {neighbours} and {decay}"
            )
        super().__init__()
        rng = np.random.default_rng(seed)
        self.layers = nn.ModuleList(nn.Linear(dimension, dimension) for _ in range(layers))
        for layer in self.layers:
            weights = rng.normal(scale=_NOISE, size=(dimension, dimension))
            np.fill_diagonal(weights, 1)
            layer.load_state_dict({"weight": torch.as_tensor(weights), "bias": torch.zeros(dimension)})
        self.dimension, self.neighbours, self.decay, self.fitted_on = dimension, neighbours, decay, fitted_on

    def forward(self, x: Tensor, gather: Gather) -> list[Tensor]:
        """What each layer takes, and last what the last one makes, before normalisation; each the N×D of `x`."""
        states: list[Tensor] = [x]
        before: Tensor | None = None
        for i, layer in enumerate(self.layers):
            linear = layer(gather(i, states[-1]))
            made = elu(linear)
            states.append(made if before is None else before + self.decay * made)
            before = linear
        return states

    def similarities(self, x: Tensor, edges: Tensor, places: Tensor | None = None) -> Tensor:
        """M×M cosines of what the layers make of N×D descriptors on a graph, N×N sparse; of those places, or of all."""
        made = self(x, lambda _, h: torch.sparse.mm(edges, h))[-1]
        unit = normalize(made if places is None else made[places])
        return unit @ unit.T

    @classmethod
    def fit(
        cls,
        vectors: NDArray[np.float32],
        *,
        fitted_on: str,
        neighbours: int = 4,
        layers: int = 2,
        epochs: int = 200,
        seed: int = 0,
        decay: float = 0.3,
        percentile: float = 98.0,
        learning_rate: float = 1e-4,
        pairs_of: int = 8192,
        device: str = "cpu",
        on_epoch: Callable[[int, float], None] | None = None,
    ) -> Self:
        """Train by Adam on N×D ℓ2-normalised vectors, all at once, without labels; defaults are the published ones.

        percentile: β is this percentile of the similarities before training, copies and an image's own among them.
        pairs_of: an epoch's loss is of all pairs among so many images, drawn anew where there are more.
        on_epoch: told each epoch and the loss it began with.
        α is left out, as Adam undoes a factor. Takes memory for some 4·layers N×D matrices and pairs_of² floats.
        Raises RecipeError for values out of range and QueryError for vectors that are none.
        """
        if epochs < 0 or not 0 <= percentile <= 100 or not learning_rate > 0 or pairs_of < 2:
            raise RecipeError(
                "epochs must not be below 0, percentile within 0 and 100, learning_rate above 0 and pairs_of 2 or more"
            )
        if vectors.ndim != 2 or len(vectors) < 2:
            raise QueryError(f"GSS learns from N×D vectors of 2 images or more, not from {vectors.shape}")
        model = cls(
            vectors.shape[1], layers=layers, neighbours=neighbours, decay=decay, seed=seed, fitted_on=fitted_on
        ).to(device)
        x, edges = torch.as_tensor(vectors).to(device), sparse(convolution_graph(vectors, neighbours)[0]).to(device)
        rng = np.random.default_rng(seed)

        def similarities() -> Tensor:
            drawn = rng.choice(len(x), pairs_of, replace=False) if len(x) > pairs_of else None
            return model.similarities(x, edges, None if drawn is None else torch.as_tensor(drawn).to(device))

        with torch.no_grad():
            beta = float(np.percentile(similarities().cpu().numpy(), percentile))
        optimiser = torch.optim.Adam(model.parameters(), learning_rate)
        for epoch in range(epochs):
            loss = separation_loss(similarities(), beta)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if on_epoch is not None:
                on_epoch(epoch, loss.item())
        return model.cpu()

    def save(self, path: str | Path) -> str:
        """Write the artefact and return its fingerprint; raises as ``save_artefact``."""
        tensors = {name: tensor.detach().numpy() for name, tensor in self.state_dict().items()}
        meta = {"neighbours": self.neighbours, "decay": self.decay, "fitted_on": self.fitted_on}
        return save_artefact(path, KIND, tensors, meta)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """What ``save`` wrote. Raises RecipeError as ``load_artefact``, and where the weights do not fit."""
        tensors, meta = load_artefact(path, KIND)
        try:
            model = cls(
                len(tensors["layers.0.bias"]),
                layers=len(tensors) // 2,
                neighbours=int(meta["neighbours"]),
                decay=float(meta["decay"]),
                fitted_on=str(meta["fitted_on"]),
            )
            model.load_state_dict({name: torch.as_tensor(tensor) for name, tensor in tensors.items()})
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise RecipeError(f"{path}: is damaged: {error}; fit it again") from error
        return model


@dataclass(frozen=True, eq=False)
class Gss:
    """A database seen through the model; make it by ``encode``. Ranks all its images.

    database: the original vectors. representations: their descriptors ê. states: of each layer, its N×D input.
    degrees: (N,) of the graph's nodes.
    query_neighbours: the first results of the ranking that join the query in the graph, so that a verified ranking
        makes a verified neighbourhood; 5 to 25 in the authors' runs.
    """

    model: GssModel
    database: Database
    representations: Database
    states: tuple[Tensor, ...]
    degrees: NDArray[np.float64]
    query_neighbours: int

    @classmethod
    def encode(cls, model: GssModel, database: Database, *, query_neighbours: int = 5) -> Self:
        """Build the graph of a database, one row an image, and run the model on it; memory for layers + 2 N×D matrices.

        An image without a vector is left without. Raises RecipeError where the model takes vectors of another length or
        query_neighbours is below 0, and QueryError where images have several rows.
        """
        if database.dimension != model.dimension:
            raise RecipeError(f"the model takes vectors of {model.dimension} entries, not {database.dimension}")
        if query_neighbours < 0:
            raise RecipeError(f"query_neighbours must not be below 0, not {query_neighbours}")
        if not database.one_row_an_image:
            raise QueryError("the database has several rows an image; give GSS one vector an image")
        adjacency, degrees = convolution_graph(database.vectors, model.neighbours)
        graph = sparse(adjacency)
        with torch.no_grad():
            *states, made = model(torch.as_tensor(database.vectors), lambda _, h: torch.sparse.mm(graph, h))
            unit = np.where(database.vectors.any(axis=1, keepdims=True), normalize(made).numpy(), np.float32(0))
        return cls(model, database, Database(database.ids, unit), tuple(states), degrees, query_neighbours)

    def save(self, path: str | Path) -> str:
        """Write what ``encode`` computed, without model and database; raises as ``save_artefact``."""
        states = {f"state{i}": state.numpy() for i, state in enumerate(self.states)}
        tensors: dict[str, NDArray[Any]] = {"representations": self.representations.vectors, "degrees": self.degrees}
        return save_artefact(path, ENCODING, tensors | states, {"query_neighbours": self.query_neighbours})

    @classmethod
    def load(cls, path: str | Path, model: GssModel, database: Database) -> Self:
        """What ``save`` wrote, of this model and database. Raises RecipeError as ``load_artefact``."""
        tensors, meta = load_artefact(path, ENCODING)
        states = tuple(torch.as_tensor(tensors[f"state{i}"]) for i in range(len(tensors) - 2))
        encoded = Database(database.ids, tensors["representations"])
        return cls(model, database, encoded, states, tensors["degrees"], int(meta["query_neighbours"]))

    def transform(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Descriptors of Q×D ℓ2-normalised queries with their nearest of the database: Q×D. QueryError for others."""
        checked = check_queries(queries, self.database.dimension)
        return self._joined(checked, nearest(checked, self.database.vectors, self.query_neighbours)[0])

    def rerank(self, query: NDArray[np.float32], ranking: Ranking, database: Database) -> Ranking:
        """All encoded images by ⟨ê_q, ê⟩; other images of the ranking follow in their order.

        Raises QueryError where one of the ranking's first `query_neighbours` was not encoded.
        """
        check_query(query, database.dimension)
        rows = self.database.rows(ranking.ids[: self.query_neighbours])
        scores = self.representations.vectors @ self._joined(query[None], rows[None])[0]
        return first(ranking, *best(self.representations.ids, scores))

    def _joined(self, queries: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Descriptors of Q×D queries that have edges to Q×k rows."""
        similarity = np.maximum(np.einsum("qd,qkd->qk", queries, self.database.vectors[rows]), 0)
        degrees = 1 + similarity.sum(axis=1, keepdims=True, dtype=np.float64)
        own = torch.as_tensor(1 / degrees).float()
        weights = torch.as_tensor(similarity / np.sqrt(degrees * self.degrees[rows])).float()
        at = torch.as_tensor(rows)
        with torch.no_grad():
            made = self.model(
                torch.as_tensor(queries),
                lambda layer, h: own * h + torch.einsum("qk,qkd->qd", weights, self.states[layer][at]),
            )[-1]
        return np.asarray(normalize(made).numpy())


def sparse(matrix: csr_array) -> Tensor:
    """As a float32 tensor of torch's coordinate format."""
    entries = matrix.tocoo()
    at = torch.as_tensor(np.stack(entries.coords).astype(np.int64))
    return torch.sparse_coo_tensor(
        at, torch.as_tensor(entries.data).float(), entries.shape, check_invariants=True
    ).coalesce()
