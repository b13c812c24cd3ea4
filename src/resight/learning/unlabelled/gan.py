"""Adversarial retrieval: a network retrieves, and a judge tells that from true neighbours (survey §5.2.2).

ILRGAN: Bai, Li, Zhang, Huang & Zhang, "Unsupervised Adversarial Instance-level Image Retrieval", IEEE TMM 2021 (cited
from memory). Its text was not at hand: this is the survey's account of it, by the game of IRGAN (Wang et al., SIGIR
2017). The judge's cosine of query and photo gives the reward, as the survey says; that true neighbours are reciprocal
ones in the graph of the network as it was is ours, as no labels say which photos match.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from resight.learning.losses.loss import Loss, Memory
from resight.learning.task import Tuples
from resight.learning.unlabelled.pools import Places, Pools, pools_of
from resight.learning.unlabelled.stages import GanStage
from resight.search.rerank.neighbours import affinity, graph, knn, mutual

_SHARPNESS = 10.0  # of the judge's cosines, whose middle is learned
_MIDDLE = 0.5


def gan_pools(x: NDArray[np.float32], stage: GanStage, before: Pools | None = None) -> Pools:
    """Of each photo its reciprocal neighbours, the judge's examples, as positives; as negatives, the k nearest others.

    x: N×D, ℓ2-normalised. before: of an earlier mining, whose positives stay as they are, since they are of the network
    as it was. Raises RecipeError where no photo has both.
    """
    neighbours, k = stage.reach(len(x))
    rows, similarity = knn(x, max(neighbours, k))
    if before is None:
        edges = mutual(affinity(graph(rows[:, :neighbours], similarity[:, :neighbours]), 1.0))
        anchors = np.arange(len(x), dtype=np.int64)
        found = (np.split(part, edges.indptr[1:-1]) for part in (edges.indices, edges.data))
        positives = [_strongest(places, weights) for places, weights in zip(*found, strict=True)]
    else:
        anchors, positives = before.anchors, list(before.positives)
    close = rows[anchors, :k]
    negatives = [row[~np.isin(row, own)] for row, own in zip(close, positives, strict=True)]
    return pools_of(anchors, positives, negatives)


class AdversarialLoss(Loss):
    """The value V of the game, which the network lessens and the judge raises, each by its own gradient.

    V = mean over queries q of log D(q, p) + Σ_c G(c|q) log(1 − D(q, c)), over a true neighbour p and what can be
    retrieved, c: p, and the negatives (IRGAN's objective). G(·|q) is the softmax of the network's cosines by a
    temperature. D = σ(10 (cos(Wa, Wb) − m)), of descriptors by the network as it was, less their mean in the batch, as
    all of them may have much in common; W, m are the judge's. The network's gradient is that of −Σ_c G(c|q) r(c), with
    the reward r = log(1 + e^logit D) as it is: the expectation of what IRGAN estimates by drawing c. Both move in each
    step, where IRGAN has them take turns. W begins with orthonormal rows, so that the judge begins by those
    descriptors' cosines, or nearly.
    leads: whether only the judge learns; a judge that knows nothing yet undoes the network.
    figures: of the last batch, before its step: what D says of true neighbours (``judged true``), and of what is
        retrieved, by its probability (``judged retrieved``).
    """

    takes_tuples = True
    takes_original = True

    def __init__(self, dimension: int, judge: int, temperature: float, *, seed: int = 0) -> None:
        super().__init__()
        drawn = np.random.default_rng(seed).normal(size=(dimension, min(judge or dimension, dimension)))
        rows = np.linalg.qr(drawn)[0].T if judge else np.eye(dimension)
        self.judge = nn.Parameter(torch.tensor(rows, dtype=torch.float32))
        self.middle = nn.Parameter(torch.tensor(_MIDDLE))
        self.temperature = temperature
        self.leads = False
        self.figures: dict[str, float] = {}

    def forward(
        self,
        x: Tensor,
        labels: Tensor,
        tuples: Tuples | None = None,
        memory: Memory | None = None,
        original: Tensor | None = None,
    ) -> Tensor:
        """As ``Loss.forward``. tuples: (q, p, n), where one q has one p. original: B×D, by the network as it was.

        The scalar has each player's gradient. Its value is the mean −log D(q, p), as the players' other terms cancel;
        while the judge leads it is −V. Raises ValueError where tuples or original are missing.
        """
        if tuples is None or len(tuples) != 3:
            raise ValueError("what is retrieved is given by triplets")
        if original is None or len(original) != len(x):
            raise ValueError("original must be descriptors of the network as it was, one for each of x")
        x, _ = self._checked(x, labels, tuples, memory)
        with torch.autocast(x.device.type, enabled=False):
            return self._game(x, original.to(x.dtype), tuples)

    def judged(self, one: Tensor, other: Tensor) -> Tensor:
        """(T,) logits of D for T×D pairs of descriptors."""
        w = self.judge.to(one.dtype)
        cosine = F.cosine_similarity(one @ w.T, other @ w.T)
        return _SHARPNESS * (cosine - self.middle.to(one.dtype))

    def _game(self, x: Tensor, original: Tensor, tuples: Tuples) -> Tensor:
        queries, group = torch.unique(tuples[0], return_inverse=True)
        true = torch.empty_like(queries).scatter_(0, group, tuples[1])
        group = torch.cat([torch.arange(len(queries), device=x.device), group])
        found = torch.cat([true, tuples[2]])
        asked = queries[group]
        logits = (x[asked] * x[found]).sum(1) / self.temperature
        retrieved = _softmax(logits, group, len(queries))
        original = original - original.mean(dim=0)
        judged = self.judged(original[asked], original[found])
        reward, doubt = F.softplus(judged), F.softplus(-judged[: len(queries)])
        network = -(retrieved * reward.detach()).sum() * (not self.leads)
        judge = doubt.sum() + (retrieved.detach() * reward).sum()
        self.figures = {
            "judged true": float(judged[: len(queries)].detach().sigmoid().mean()),
            "judged retrieved": float((retrieved.detach() * judged.detach().sigmoid()).sum()) / len(queries),
        }
        return (network + judge) / len(queries)

    def _loss(self, x: Tensor, labels: Tensor, tuples: Tuples | None, memory: Memory | None) -> Tensor:
        raise ValueError("the game is of descriptors of the network as it was, too")


def _softmax(logits: Tensor, group: Tensor, groups: int) -> Tensor:
    """(T,), summing to 1 in each group."""
    most = logits.new_full((groups,), -torch.inf).scatter_reduce(0, group, logits.detach(), "amax")
    powers = (logits - most[group]).exp()
    return powers / logits.new_zeros(groups).index_add(0, group, powers)[group]


def _strongest(places: NDArray[np.int32], weights: NDArray[np.float64]) -> Places:
    return np.asarray(places[np.lexsort((places, -weights))], np.int64)
