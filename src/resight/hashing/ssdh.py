"""SSDH: bits as the hidden attributes from which a linear layer tells the class (survey §4.2.4; Yang, Lin & Chen,
"Supervised learning of semantics-preserving hash via deep convolutional neural networks", TPAMI 2018).
"""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from resight.fitted import PhotoSketch
from resight.hashing.centring import Centring, check_vectors
from resight.hashing.function import HashFunction
from resight.hashing.labels import check_labels
from resight.hashing.training import Descent, Progress, layers_of, perceptron

_DESCENT = Descent()


def ssdh_loss(latent: Tensor, logits: Tensor, labels: Tensor, *, push: float = 1.0, balance: float = 1.0) -> Tensor:
    """α E₁ − β E₂ + γ E₃: the class by cross-entropy, less mean (a − ½)², which pushes a to 0 or 1, plus the mean over
    images of (mean_bits a − ½)², which asks for half of each image's bits.

    latent: a, N×B within 0 … 1. logits: N×C. labels: (N,) int64, classes below C. push, balance: β and γ, for α = 1.
    E₂ and E₃ are the paper's with p = 2 and over N.
    """
    pushed = (latent - 0.5).square().mean()
    balanced = (latent.mean(dim=1) - 0.5).square().mean()
    return cross_entropy(logits, labels) - push * pushed + balance * balanced


def fit_ssdh(
    x: ArrayLike,
    labels: ArrayLike,
    bits: int,
    *,
    seed: int,
    fitted_on: str,
    descriptor: str = "",
    photos: PhotoSketch | None = None,
    push: float = 1.0,
    balance: float = 1.0,
    descent: Descent = _DESCENT,
    on_epoch: Progress | None = None,
) -> HashFunction:
    """The latent layer, learned together with the classifier on top, which is then dropped.

    x: N×D. labels: (N,), what each image is of; any values that can be sorted. push, balance: as ``ssdh_loss``.
    Raises ValueError and RecipeError as ``check_vectors``, ``check_labels`` and ``Centring``.
    """
    vectors = check_vectors(x, bits)
    numbers = check_labels(labels, len(vectors))
    classes = torch.from_numpy(numbers)
    centring, generator = Centring.of(vectors), torch.Generator().manual_seed(seed)
    inputs = torch.from_numpy(centring(vectors))
    network = perceptron((vectors.shape[1], bits), generator)
    classifier = perceptron((bits, int(numbers.max()) + 1), generator)

    def loss(rows: NDArray[np.int64], _: int) -> Tensor:
        latent = network(inputs[rows]).sigmoid()
        return ssdh_loss(latent, classifier(latent), classes[rows], push=push, balance=balance)

    descent.run([*network.parameters(), *classifier.parameters()], loss, len(vectors), seed=seed, on_epoch=on_epoch)
    return HashFunction(layers_of(network, centring), "ssdh", len(vectors), fitted_on, descriptor, photos)
