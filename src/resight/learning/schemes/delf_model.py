"""What DELF's scorer and DELG's autoencoder learn from: one vector an image, and a reconstruction, with gradients.

Noh et al., ICCV 2017; Cao, Araujo & Sim, ECCV 2020. Inference is ``resight.local.delf``'s, of the same head.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resight.learning.losses.classification import CrossEntropyLoss
from resight.local.delf import DelfHead, DelgAutoencoder
from resight.pooling.delf_attention import DelfAttention, attention_pool

HIDDEN = 512  # of the scorer, in both publications
RECONSTRUCTION = 10.0
"""λ, the weight of DELG's reconstruction loss beside the attention's (``reconstruction_loss_weight`` in its code)."""


@dataclass(frozen=True)
class Attended:
    """What a head makes of maps, B×C×H×W.

    pooled: B×C, the mean over positions of score · scored feature / its length. scores: B×1×H×W, above 0.
    scored: B×C×H×W, the features that are scored and pooled: DELG's reconstruction, for DELF the map itself.
    """

    pooled: Tensor
    scores: Tensor
    scored: Tensor


def attend(head: DelfHead, maps: Tensor) -> Attended:
    """A head on B×C×H×W maps, which get no gradients from it (DELG §3.3).

    The sum of the paper is a mean here, as in the authors' code, so that a picture's size does not matter.
    """
    x = maps.detach()
    scored = x if head.autoencoder is None else head.autoencoder(x)[1]
    scores = head.attention(scored)
    return Attended(attention_pool(scored, scores) / math.prod(x.shape[2:]), scores, scored)


def head_features(head: DelfHead, maps: Tensor) -> Tensor:
    """n×(C + 1 + 2H) of n×C×h×w maps: what the head pools, its reconstruction loss, and ``hidden_moments``.

    The reconstruction loss of an image is the mean squared difference over positions and channels (DELG §3.3); 0
    without an autoencoder.
    """
    attended = attend(head, maps)
    if head.autoencoder is None:
        reconstruction = maps.new_zeros(len(maps))
    else:
        reconstruction = (attended.scored - maps.detach()).square().mean(dim=(1, 2, 3))
    return torch.cat([attended.pooled, reconstruction[:, None], hidden_moments(head.attention, attended.scored)], dim=1)


def head_rows(features: Tensor, labels: Tensor, classifier: CrossEntropyLoss) -> Tensor:
    """n×(3 + 2H) of ``head_features``: each image's loss, whether the classifier is right, its reconstruction loss;
    and the moments.

    The loss is the cross-entropy of what is pooled, and ``RECONSTRUCTION`` times that of the reconstruction.
    """
    channels = classifier.weight.shape[1]
    logits = classifier.logits(features[:, :channels])
    loss = F.cross_entropy(logits, labels, reduction="none")
    right = (logits.argmax(dim=1) == labels).float()
    reconstruction = features[:, channels]
    rows = torch.stack([loss + RECONSTRUCTION * reconstruction, right, reconstruction.detach()], dim=1)
    return torch.cat([rows, features[:, channels + 1 :].detach()], dim=1)


def new_head(channels: int, reduced: int | None, seed: int) -> DelfHead:
    """A head as learning starts: convolutions N(0, 2/inputs) with biases 0, by the seed alone.

    reduced: dimensions of DELG's autoencoder; None for none.
    """
    with torch.device("meta"):  # draws nothing of torch's own
        autoencoder = None if reduced is None else DelgAutoencoder(channels, reduced)
        head = DelfHead(DelfAttention(channels, HIDDEN), autoencoder)
    head = head.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, 0, math.sqrt(2 / module.in_channels), generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    return head.eval()


def hidden_moments(attention: DelfAttention, scored: Tensor) -> Tensor:
    """B×2H: an image's means of d and of d², d what the scorer's first layer gives less the mean that is kept of it.

    scored: B×C×h×w. B×0 for a scorer without normalisation. Without gradients.
    """
    norm = attention.bn_conv1
    if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None:
        return scored.new_zeros(len(scored), 0)
    with torch.no_grad():
        deviation = attention.conv1(scored).float() - norm.running_mean[:, None, None]
        return torch.cat([deviation.mean(dim=(2, 3)), deviation.square().mean(dim=(2, 3))], dim=1)


@torch.no_grad()
def follow(attention: DelfAttention, moments: Tensor) -> None:
    """Move the statistics of a scorer's normalisation towards a batch's ``hidden_moments``, B×2H.

    The first batch sets them; later ones move them by the module's momentum. While it learns, too, the scorer
    normalises by them and not, as the authors', by each batch: so they are constants to the gradient, and it does not
    matter in which pieces a batch goes through the network.
    """
    norm = attention.bn_conv1
    if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None or norm.running_var is None:
        return
    mean, square = moments.mean(dim=0).to(norm.running_mean.dtype).chunk(2)
    first = norm.num_batches_tracked is None or int(norm.num_batches_tracked) == 0
    rate = 1.0 if first else float(norm.momentum or 0.0)
    norm.running_var.lerp_((square - mean.square()).clamp(min=0), rate)
    norm.running_mean.add_(mean, alpha=rate)
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked += 1
