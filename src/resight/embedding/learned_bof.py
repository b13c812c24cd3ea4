"""RN-BoF: a learned bag of features (survey §4.2.1; Passalis & Tefas, "Learning neural bag-of-features for large-scale
image retrieval", IEEE TSMC: Systems, 2017).
"""

import math
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from resight.embedding.netvlad import columns, mean_gap, weighted

_LEAST = 1e-8  # of a squared distance: its root has no gradient at 0


class LearnedBof(nn.Module):
    """Mean over features of normalised RBF memberships, u_k = exp(−‖(x − v_k) ⊙ w_k‖₂) / Σ_j exp(−‖(x − v_j) ⊙ w_j‖₂).

    Takes B×C×H×W maps or B×N×C sets; gives B×K, of unit ℓ1 or ℓ2 ``norm``; zeros for no features.
    Called with weights too, B×1×H×W or B×N, those multiply the memberships.
    centres, widths: v and w, K×C, both learned; the larger w, the narrower.
    """

    def __init__(self, centres: Tensor, widths: Tensor, norm: Literal["l1", "l2"] = "l2") -> None:
        super().__init__()
        if centres.ndim != 2 or centres.shape != widths.shape:
            raise ValueError(f"centres and widths must be K×C, not {tuple(centres.shape)} and {tuple(widths.shape)}")
        if norm not in ("l1", "l2"):
            raise ValueError(f"norm must be 'l1' or 'l2', not {norm!r}")
        self.centres = nn.Parameter(centres.clone())
        self.widths = nn.Parameter(widths.clone())
        self.norm = norm

    @classmethod
    def from_kmeans(
        cls,
        centroids: NDArray[np.floating],
        features: NDArray[np.floating],
        *,
        ratio: float = 0.01,
        norm: Literal["l1", "l2"] = "l2",
    ) -> Self:
        """Start from K×C centroids, as the paper does, with one width for all.

        ratio: the width is such that the second nearest centre's membership is ``ratio`` times the nearest's at the
            mean gap between them over N×C features. This choice is ours, NetVLAD's carried over.
        Raises ValueError for shapes that do not fit, or without two distinct centroids.
        """
        centres, x = (torch.as_tensor(np.asarray(a, np.float64)) for a in (centroids, features))
        if centres.ndim != 2 or x.ndim != 2 or x.shape[1] != centres.shape[1]:
            raise ValueError(f"centroids must be K×C and features N×C, not {tuple(centres.shape)}, {tuple(x.shape)}")
        width = -math.log(ratio) / mean_gap(-torch.cdist(x, centres))
        return cls(centres.float(), torch.full_like(centres, width).float(), norm)

    @property
    def dimension(self) -> int:
        """K, the length of its vectors."""
        return len(self.centres)

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        # ‖(x − v) ⊙ w‖² multiplied out, which needs no B×N×K×C differences; about the centres' mean, as it would lose
        # its digits far from the origin.
        origin = self.centres.detach().mean(dim=0)
        x, centres, scale = columns(x) - origin, self.centres - origin, self.widths.square()
        squared = x.square() @ scale.mT - 2 * x @ (scale * centres).mT + (scale * centres.square()).sum(dim=1)
        memberships = weighted((-squared.clamp(min=_LEAST).sqrt()).softmax(dim=2), weights)
        return normalize(memberships.sum(dim=1), p=1 if self.norm == "l1" else 2, dim=1)
