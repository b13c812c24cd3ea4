"""RBM hashing: a restricted Boltzmann machine whose hidden units, each spread evenly over 0 … 1, are the bits
(survey §4.2.4; Morère et al., "Nested invariance pooling and RBM hashing for image instance retrieval", ICMR 2017).

The survey says of the regulariser that it draws each unit towards U(0, 1). Targets by rank within the batch, and
cross-entropy to them, are after Goh et al. ("Unsupervised and supervised visual codes with RBMs", ECCV 2010).
"""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, linear, softplus

from resight.fitted import PhotoSketch
from resight.hashing.centring import Centring, check_vectors
from resight.hashing.function import HashFunction
from resight.hashing.training import Descent, Progress, layers_of, perceptron

_DESCENT = Descent()


def free_energy(visible: Tensor, offset: Tensor, outputs: Tensor) -> Tensor:
    """F(v) = ½‖v − c‖² − Σ_j log(1 + exp(w_j·v + b_j)): −log of v's probability, up to a constant.

    visible: v, N×D, of Gaussian units of variance 1, since descriptors are real. offset: c, (D,). outputs: Wv + b, N×B.
    Returns (N,).
    """
    return 0.5 * (visible - offset).square().sum(dim=1) - softplus(outputs).sum(dim=1)


def divergence_loss(data: Tensor, dreamt: Tensor, weight: Tensor, bias: Tensor, offset: Tensor) -> Tensor:
    """Mean free energy of data less that of what the machine dreams up from it: contrastive divergence's gradient.

    data, dreamt: N×D. weight, bias, offset: W, B×D; b, (B,); c, (D,). No gradient runs through dreamt.
    """
    seen, dreamt = free_energy(data, offset, linear(data, weight, bias)), dreamt.detach()
    return seen.mean() - free_energy(dreamt, offset, linear(dreamt, weight, bias)).mean()


def uniform_targets(outputs: Tensor) -> Tensor:
    """N×B: for each unit's outputs over a batch, in their own order, the N values (rank − ½)/N of a uniform spread.

    Outputs alike share the mean of their ranks.
    """
    ranks = rankdata(outputs.detach().cpu().numpy(), axis=0)
    return torch.as_tensor((ranks - 0.5) / len(ranks), dtype=outputs.dtype, device=outputs.device)


def uniform_loss(outputs: Tensor) -> Tensor:
    """Mean cross-entropy of sigmoid(outputs), N×B, to their ``uniform_targets``: least where they follow U(0, 1).

    A unit spread evenly over 0 … 1 is on for half of the batch, yet tells its images apart; a target of ½ for all would
    ask them to be alike.
    """
    return binary_cross_entropy_with_logits(outputs, uniform_targets(outputs))


def fit_rbm(
    x: ArrayLike,
    bits: int,
    *,
    seed: int,
    fitted_on: str,
    descriptor: str = "",
    photos: PhotoSketch | None = None,
    uniform: float = 1.0,
    descent: Descent = _DESCENT,
    on_epoch: Progress | None = None,
) -> HashFunction:
    """Hidden units of an RBM, learned by contrastive divergence (one step; Hinton 2002) and ``uniform_loss``.

    uniform: weight of the latter. A bit is 1 where its unit's probability is above ½.
    The likelihood term is divided by D, so that the weight need not follow D.
    The loss told to on_epoch is a difference of energies: it need not fall as the machine learns.
    Raises ValueError for values out of range, and as ``check_vectors`` and ``Centring``.
    """
    vectors = check_vectors(x, bits)
    if not uniform >= 0:
        raise ValueError(f"uniform must be at least 0, not {uniform}")
    centring, generator = Centring.of(vectors), torch.Generator().manual_seed(seed)
    inputs = torch.from_numpy(centring(vectors))
    network = perceptron((vectors.shape[1], bits), generator)
    weight, bias = network.parameters()
    offset = nn.Parameter(torch.zeros(vectors.shape[1]))

    def loss(rows: NDArray[np.int64], _: int) -> Tensor:
        data = inputs[rows]
        outputs = network(data)
        with torch.no_grad():
            dreamt = torch.bernoulli(outputs.sigmoid(), generator=generator) @ weight + offset  # its mean
        divergence = divergence_loss(data, dreamt, weight, bias, offset)
        return divergence / data.shape[1] + uniform * uniform_loss(outputs)

    descent.run([*network.parameters(), offset], loss, len(vectors), seed=seed, on_epoch=on_epoch)
    return HashFunction(layers_of(network, centring), "rbm", len(vectors), fitted_on, descriptor, photos)
