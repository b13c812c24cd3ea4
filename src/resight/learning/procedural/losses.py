"""Losses of rendered pairs, whose correspondences are known: descriptors, reliability and global vectors."""

import torch
import torch.nn.functional as F
from torch import Tensor


def dual_softmax(a: Tensor, b: Tensor, ignored: Tensor, temperature: float) -> Tensor:
    """−½(log P(b_i | a_i) + log P(a_i | b_i)), mean over i, with softmax of a·b/temperature over the other side's rows.

    a, b: N×D of unit length; rows of equal place match. ignored: N×N bool, (i, j) that are left out of the sums.
    The dual-softmax loss of descriptors: LoFTR (Sun et al., CVPR 2021) has it of its coarse matches, XFeat (Potje et
    al., CVPR 2024) of points drawn from pairs. Here negatives are of all pictures of the batch, as in InfoNCE (van den
    Oord et al., 2018). 0 for no point.
    """
    if not len(a):
        return a.sum() * 0
    logits = (a @ b.T / temperature).masked_fill(ignored, -torch.inf)
    places = torch.arange(len(a), device=a.device)
    return (F.cross_entropy(logits, places) + F.cross_entropy(logits.T, places)) / 2


def nearest_right(a: Tensor, b: Tensor, pair: Tensor, ignored: Tensor) -> Tensor:
    """N bool: whether a_i and b_i are one another's nearest among the points of their pair.

    a, b: N×D of unit length. pair: N int64. ignored: N×N bool, (i, j) that do not count. Ties are right.
    """
    same = (pair[:, None] == pair[None]) & ~ignored
    cosine = (a @ b.T).masked_fill(~same, -torch.inf)
    own = cosine.diagonal()
    return (own >= cosine.amax(dim=1)) & (own >= cosine.amax(dim=0)) if len(a) else pair.bool()


def reliability(logits: Tensor, right: Tensor) -> Tensor:
    """Cross-entropy of the likelihood that a point's nearest descriptor is the right one; 0 for no point.

    logits: N. right: N bool, as ``nearest_right`` finds. That a network predicts whether its descriptors will do is
    R2D2's idea (Revaud et al., NeurIPS 2019, by average precision); XFeat's target is the dual softmax's confidence.
    """
    if not len(logits):
        return logits.sum() * 0
    return F.binary_cross_entropy_with_logits(logits, right.to(logits.dtype))


def info_nce(x: Tensor, subject: Tensor, temperature: float) -> Tensor:
    """Softmax cross-entropy of the two views of B subjects among all others: NT-Xent (Chen et al., SimCLR, ICML 2020).

    x: 2B×D of unit length, view 0 of all and then view 1 of all. subject: B; other pictures of an equal subject are
    left out of the sum.
    """
    count = len(subject)
    labels = subject.repeat(2)
    other = (torch.arange(2 * count, device=x.device) + count) % (2 * count)
    same = labels[:, None] == labels[None]
    same[torch.arange(2 * count, device=x.device), other] = False
    return F.cross_entropy((x @ x.T / temperature).masked_fill(same, -torch.inf), other)


def relations(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL divergence of the teacher's from the student's likenesses: softmax of cosines over the other pictures.

    student, teacher: n×D of unit length, of the same pictures, D of each its own. Similarity distillation as in
    CompRess (Koohpayegani, Tejankar & Pirsiavash, NeurIPS 2020), among the batch's pictures instead of a memory's.
    """
    own = torch.eye(len(student), dtype=torch.bool, device=student.device)
    wanted = (teacher @ teacher.T / temperature).masked_fill(own, -torch.inf).log_softmax(dim=1)
    found = (student @ student.T / temperature).masked_fill(own, -torch.inf).log_softmax(dim=1)
    each = wanted.exp() * (wanted - found).masked_fill(own, 0)
    return each.sum() / len(student)
