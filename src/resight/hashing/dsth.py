"""Deep self-taught hashing: bits that a neighbourhood graph proposes, and a network that learns to predict them
(survey §4.2.4, §5.3; Zhou et al., ICMR 2015; Liu et al., TCYB 2019; after Zhang et al., SIGIR 2010).
"""

import faiss
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array, csr_array, dia_array
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from resight.errors import RecipeError
from resight.fitted import PhotoSketch
from resight.hashing.centring import Centring, check_vectors
from resight.hashing.function import HashFunction
from resight.hashing.methods import NEIGHBOURS
from resight.hashing.training import Descent, Progress, layers_of, perceptron

_DESCENT = Descent(rate=1e-3)
_LEAST = 1e-3  # weight of an edge, so that a vector opposed to all of its neighbours is still joined to them


def neighbour_graph(x: NDArray[np.float32], k: int) -> csr_array:
    """N×N symmetric weights: the cosine of N×D vectors where one is among the k nearest of the other, else 0.

    Cosines are raised to 0.001 at least. Raises RecipeError unless N is above k, and ValueError for k below 1.
    """
    if k < 1:
        raise ValueError(f"a vector needs 1 neighbour or more, not {k}")
    n = len(x)
    if n <= k:
        raise RecipeError(f"a graph of {k} neighbours needs more than {k} photos; here are {n}: give more")
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    unit = np.ascontiguousarray(x / np.where(norms > 0, norms, 1), np.float32)
    index = faiss.IndexFlatIP(x.shape[1])
    index.add(unit)
    cosines, nearest = index.search(unit, k + 1)
    others = nearest != np.arange(n)[:, None]
    others &= others.cumsum(axis=1) <= k  # of vectors alike, one may lie before the vector itself, or in its place
    rows = np.repeat(np.arange(n), others.sum(axis=1))
    weights = np.maximum(cosines[others], _LEAST).astype(np.float64)
    graph = csr_array(coo_array((weights, (rows, nearest[others])), shape=(n, n)))
    return graph.maximum(graph.T)


def pseudo_labels(graph: csr_array, bits: int, *, seed: int) -> NDArray[np.bool_]:
    """N×B: the graph's smoothest B coordinates but the constant one (Laplacian eigenmaps), each [v > its median].

    They are the v of smallest λ with (D − W)v = λDv, D the degrees. The median makes either bit as frequent.
    seed: of the eigensolver's start. Raises RecipeError unless N is above B + 1.
    """
    n = graph.shape[0]
    if n <= bits + 1:
        raise RecipeError(f"{bits} bits are learned from more than {bits + 1} photos, better thousands; here are {n}")
    degrees = np.asarray(graph.sum(axis=1), np.float64)
    root = np.sqrt(degrees)
    inverse = dia_array((1 / root[None], [0]), shape=(n, n))
    normalised = csr_array(inverse @ graph @ inverse)
    constant = root / np.linalg.norm(root)
    # With u = D^½ v these are the largest eigenvectors of D^-½ W D^-½. The constant v, of eigenvalue 1, is moved to -1:
    # in a graph of several parts 1 has further eigenvectors, and could not be told from them.
    deflated = LinearOperator((n, n), matvec=lambda u: normalised @ u - 2 * constant * (constant @ u), dtype=np.float64)
    start = np.random.default_rng(seed).standard_normal(n)
    values, vectors = eigsh(deflated, k=bits, which="LA", v0=start)
    coordinates = vectors[:, np.argsort(-values, kind="stable")] / root[:, None]
    return np.asarray(coordinates > np.median(coordinates, axis=0))


def dsth_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of B independent bits: outputs N×B before the sigmoid; labels N×B, booleans."""
    return binary_cross_entropy_with_logits(outputs, labels.to(outputs.dtype))


def fit_dsth(
    x: ArrayLike,
    bits: int,
    *,
    seed: int,
    fitted_on: str,
    descriptor: str = "",
    photos: PhotoSketch | None = None,
    neighbours: int = NEIGHBOURS,
    hidden: int = 512,
    descent: Descent = _DESCENT,
    on_epoch: Progress | None = None,
) -> HashFunction:
    """A hidden layer and an output for each bit, learned to predict the ``pseudo_labels`` of N×D vectors.

    neighbours: of each vector in the graph. hidden: width of the layer, of ReLUs.
    It is the paper's multilayer perceptron, on a frozen network's vectors; the paper also trains a CNN on the same
    labels. Cosines as weights are Zhang et al.'s.
    Raises ValueError and RecipeError as the functions beside, ``check_vectors`` and ``Centring``.
    """
    vectors = check_vectors(x, bits)
    if hidden < 1:
        raise ValueError(f"hidden must be at least 1, not {hidden}")
    labels = torch.from_numpy(pseudo_labels(neighbour_graph(vectors, neighbours), bits, seed=seed))
    centring = Centring.of(vectors)
    inputs = torch.from_numpy(centring(vectors))
    network = perceptron((vectors.shape[1], hidden, bits), torch.Generator().manual_seed(seed))
    descent.run(
        network.parameters(),
        lambda rows, _: dsth_loss(network(inputs[rows]), labels[rows]),
        len(vectors),
        seed=seed,
        on_epoch=on_epoch,
    )
    return HashFunction(layers_of(network, centring), "dsth", len(vectors), fitted_on, descriptor, photos)
