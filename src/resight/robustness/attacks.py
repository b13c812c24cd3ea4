"""Queries altered by no more than ε a value so that a search goes wrong (survey §7).

Untargeted and targeted by the gradient of one picture, universal by one perturbation for all, and, without the
gradient, by asking the search. ε is in whole values of 255, and what is given back is whole values within ε.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from resight.learning.adversarial import projected_gradient
from resight.robustness.gradients import as_pixels, as_tensor

Pixels = NDArray[np.uint8]
Describe = Callable[[Tensor, int], Tensor]
"""1×3×H×W floating pixels from 0 to 255, and the number of a draw for what is random, to a unit vector (D,)."""

Score = Callable[[Pixels], float]
"""What an attacker reads from the answer to a query: the larger, the better it still is."""

_MOMENTUM, _PART = 1.0, 10  # of a universal perturbation, as in theFool32/UAP_retrieval: steps of ε / 10
_SQUARES = 0.05  # the share of the picture that the first squares cover, as in max-andr/square-attack
# At what share of the queries that share halves again; the published schedule, of 10,000 queries.
_HALVES = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


def untargeted(
    describe: Describe, pixels: Pixels, clean: Tensor, *, epsilon: int, steps: int, seed: int, draws: int = 1
) -> Pixels:
    """A picture whose descriptor is as far from that of the clean one, (D,), as it can be brought."""
    return _descended(describe, pixels, clean, epsilon, steps, seed, draws)


def targeted(
    describe: Describe, pixels: Pixels, target: Tensor, *, epsilon: int, steps: int, seed: int, draws: int = 1
) -> Pixels:
    """A picture whose descriptor is as near to a target's, (D,), as it can be brought: 1 − cosine is made small.

    The descriptor loss of Tolias, Radenović & Chum, "Targeted Mismatch Adversarial Attack", ICCV 2019. Their carrier is
    held near by a penalty, and steps are Adam's; here by ε, and steps are of projected gradient descent.
    """
    return _descended(describe, pixels, -target, epsilon, steps, seed, draws)


def _descended(
    describe: Describe, pixels: Pixels, away: Tensor, epsilon: int, steps: int, seed: int, draws: int
) -> Pixels:
    def loss_of(x: Tensor, draw: int) -> Tensor:
        return (describe(x, draw) * away).sum()[None]

    found = projected_gradient(loss_of, as_tensor(pixels), epsilon=epsilon, steps=steps, seeds=[seed], draws=draws)
    return as_pixels(found)


@dataclass(frozen=True, eq=False)
class Universal:
    """One perturbation for every picture: 3×S×S float32, within ±ε, stretched to a picture's sides."""

    perturbation: Tensor
    epsilon: int

    def apply(self, pixels: Pixels) -> Pixels:
        """The picture with the perturbation, in whole values."""
        x = as_tensor(pixels).float()
        return as_pixels((x + _stretched(self.perturbation, x).round()).clamp(0, 255))


def universal(
    describe: Describe,
    pictures: Sequence[Pixels],
    clean: Sequence[Tensor],
    *,
    epsilon: int,
    passes: int,
    side: int,
    seed: int,
    draws: int = 1,
) -> Universal:
    """A perturbation that drives the descriptors of pictures from their clean ones, (D,) each, learned on all in turn.

    Li, Ji, Liu, Hong, Gao & Tian, "Universal Perturbation Attack Against Image Retrieval", ICCV 2019: a square that is
    stretched to each picture, and stepped by the sign of a momentum of gradients, by the point-wise loss of their code
    (theFool32/UAP_retrieval; paper not checked). Theirs of pairs and lists of neighbours, their random sizes, steps
    that shrink by the epoch and the halving of what is saturated are left out; and theirs begins with zeros.
    side: of the square, in pixels. passes: over all pictures, in orders that the seed draws.
    """
    rng = np.random.default_rng(seed)
    made = torch.from_numpy(rng.uniform(-epsilon, epsilon, (3, side, side)).astype(np.float32))
    gathered = torch.zeros_like(made)
    count = 0
    for _ in range(passes):
        for place in rng.permutation(len(pictures)).tolist():
            x = as_tensor(pictures[place]).float()
            made = made.detach().requires_grad_()
            slope = torch.zeros_like(made)
            for _ in range(draws):
                altered = (x + _stretched(made, x)).clamp(0, 255)
                slope += torch.autograd.grad((describe(altered, count) * clean[place]).sum(), made)[0]
                count += 1
            norm = slope.abs().mean()
            gathered = _MOMENTUM * gathered + (slope / norm if norm > 0 else slope)
            made = (made.detach() - epsilon / _PART * gathered.sign()).clamp(-epsilon, epsilon)
    return Universal(made.detach(), epsilon)


def _stretched(perturbation: Tensor, x: Tensor) -> Tensor:
    size = (x.shape[2], x.shape[3])
    return interpolate(perturbation[None], size, mode="bilinear", align_corners=False)


def black_box(score: Score, pixels: Pixels, *, epsilon: int, queries: int, seed: int) -> Pixels:
    """A picture with a low score, found by random search.

    Square Attack in L∞ (Andriushchenko, Croce, Flammarion & Hein, ECCV 2020; schedule and start of their code): stripes
    first, then squares of ±ε a channel that are kept where they lower the score.
    queries: that are asked, 1 at least; ValueError for fewer.
    """
    if queries < 1:
        raise ValueError(f"a black-box attack asks at least one query, not {queries}")
    rng = np.random.default_rng(seed)
    clean = pixels.astype(np.int16)
    height, width = pixels.shape[:2]
    best = _within(clean + rng.choice([-epsilon, epsilon], (1, width, 3)))
    least = score(best)
    for asked in range(1, queries):
        share = _SQUARES / 2 ** sum(asked / queries > part for part in _HALVES)
        side = min(max(round(math.sqrt(share * height * width)), 1), height, width)
        y, x = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        here = slice(y, y + side), slice(x, x + side)
        tried = best.copy()
        tried[here] = _within(clean[here] + rng.choice([-epsilon, epsilon], (1, 1, 3)))
        found = score(tried)
        if found < least:
            best, least = tried, found
    return best


def _within(values: NDArray[np.integer]) -> Pixels:
    return np.asarray(np.clip(values, 0, 255), np.uint8)
