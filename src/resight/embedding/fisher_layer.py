"""Fisher vectors as a layer whose mixture is learned end to end (survey §4.2.1; Ong, Husain & Bober, "Siamese network
of deep Fisher-vector descriptors for image retrieval", 2017; Sánchez et al., IJCV 2013, Eq. 14, 17 and 18).
"""

import math
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from resight.embedding.netvlad import columns, weighted

_FLAT = 1e-8  # the square root is smoothed at magnitudes of this order, where it would have no gradient


class FisherLayer(nn.Module):
    """Gradients of a diagonal Gaussian mixture's log-likelihood with respect to means and deviations, signed root, ℓ2.

        G_μk = Σ_i γ_i(k) (x_i − μ_k)/σ_k / (N √w_k)
        G_σk = Σ_i γ_i(k) [((x_i − μ_k)/σ_k)² − 1] / (N √(2 w_k))

    Takes B×C×H×W maps or B×N×C sets; gives B×2·K·C, G_μ of all components, then G_σ; zeros for no features.
    Called with weights too, B×1×H×W or B×N, those multiply γ, and N is their sum.
    logits (K,), means K×C, log_sigmas K×C: w = softmax(logits) and σ = exp(log_sigmas), so that any step of
    training leaves a mixture. The root is z/√(|z| + 1e-8), whose gradient at 0 is finite.
    """

    def __init__(self, logits: Tensor, means: Tensor, log_sigmas: Tensor) -> None:
        super().__init__()
        if means.ndim != 2 or log_sigmas.shape != means.shape or logits.shape != means.shape[:1]:
            shapes = [tuple(t.shape) for t in (logits, means, log_sigmas)]
            raise ValueError(f"logits must be (K,), means and log_sigmas K×C, not {shapes}")
        self.logits = nn.Parameter(logits.clone())
        self.means = nn.Parameter(means.clone())
        self.log_sigmas = nn.Parameter(log_sigmas.clone())

    @classmethod
    def from_gmm(
        cls, weights: NDArray[np.floating], means: NDArray[np.floating], variances: NDArray[np.floating]
    ) -> Self:
        """Start from a fitted mixture: weights (K,), means K×C, variances K×C; float32.

        Raises ValueError for shapes that do not fit, or a weight or variance that is not above 0.
        """
        if not ((np.asarray(weights) > 0).all() and (np.asarray(variances) > 0).all()):
            raise ValueError("the weights and variances of a mixture must be above 0")
        w, mu, var = (torch.as_tensor(np.asarray(a, np.float32)) for a in (weights, means, variances))
        return cls(w.log(), mu, var.log() / 2)

    @property
    def dimension(self) -> int:
        """2·K·C, the length of its vectors."""
        return 2 * self.means.numel()

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        # The vector does not depend on the origin; far from the data, the moments below would lose their digits.
        origin = self.means.detach().mean(dim=0)
        x, means = columns(x) - origin, self.means - origin
        posterior = weighted(self._log_joint(x, means).softmax(dim=2), weights)  # γ
        total = posterior.sum(dim=(1, 2)).view(-1, 1, 1)  # N, or the sum of the weights
        shares = posterior.mT / total.where(total > 0, 1.0)
        mass, first, second = shares.sum(dim=2, keepdim=True), shares @ x, shares @ x.square()
        sigmas, root = self.log_sigmas.exp(), self.logits.softmax(0).sqrt()[:, None]
        # Σ γ (x − μ)² multiplied out into the moments, which needs no B×N×K×C differences.
        spread = second - 2 * first * means + mass * means.square()
        by_mean = (first - mass * means) / (sigmas * root)
        by_sigma = (spread / sigmas.square() - mass) / (math.sqrt(2) * root)
        fisher = torch.cat([by_mean.flatten(1), by_sigma.flatten(1)], dim=1)
        return normalize(fisher / (fisher.abs() + _FLAT).sqrt(), dim=1)

    def _log_joint(self, x: Tensor, means: Tensor) -> Tensor:
        """log w_k N(x; μ_k, σ_k) but for what all components share; B×N×K."""
        precision = (-2 * self.log_sigmas).exp()
        distance = x.square() @ precision.mT - 2 * x @ (precision * means).mT + (precision * means.square()).sum(dim=1)
        return self.logits - self.log_sigmas.sum(dim=1) - distance / 2
