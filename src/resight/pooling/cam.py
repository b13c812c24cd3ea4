"""Class activation maps as spatial weights (survey §4.2.3; Jimenez, Alvarez & Giro-i-Nieto, BMVC 2017).

One vector a class; the paper then takes each through ℓ2, PCA-whitening and ℓ2 and sums them. ``cam_crow`` is that
sum without the whitening.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from resight.pooling.average import average
from resight.pooling.crow import channel_weights
from resight.pooling.sum_pooling import check_map, unit, weighted_sum


def cam_crow(x: Tensor, classifier: Tensor, classes: Tensor, source: Tensor | None = None) -> Tensor:
    """B×C×H×W to B×C: the sum over classes of ``cam_crow_regions``, each ℓ2-normalised. Arguments as there."""
    return unit(cam_crow_regions(x, classifier, classes, source)).sum(dim=1)


def cam_crow_regions(x: Tensor, classifier: Tensor, classes: Tensor, source: Tensor | None = None) -> Tensor:
    """B×C×H×W to B×T×C: for each of T classes I_c Σ_{h,w} CAM · x_c, not normalised.

    I: CroW's channel weights of the whole of x.
    classifier, classes: as for ``class_activation_maps``.
    source: B×D×H×W, the map the classifier works on, where it is another than x; theirs were different layers.
    Raises ValueError where these do not fit.
    """
    cams = class_activation_maps(x if source is None else source, classifier, classes)
    return channel_weights(x).unsqueeze(1) * weighted_sum(x, cams)


def class_activation_maps(x: Tensor, classifier: Tensor, classes: Tensor) -> Tensor:
    """B×D×H×W to B×T×H×W in [0, 1]: Σ_d classifier[t, d] · x_d, cut off below 0 and divided by its maximum.

    classifier: N×D, the weights of a linear layer after average pooling (Zhou et al., CVPR 2016), its bias left out.
    classes: int64 indices below N: (T,), the same for every image (*offline*), or B×T, each image's own (*online*).
    A map that is nowhere above 0 is zero. The published code divides before it cuts, which turns the sign of such a
    map round.
    Raises ValueError where these do not fit.
    """
    check_map(x)
    if classifier.ndim != 2 or classifier.shape[1] != x.shape[1]:
        raise ValueError(f"classifier must be N×{x.shape[1]} for this map, not {tuple(classifier.shape)}")
    if classes.ndim not in (1, 2) or (classes.ndim == 2 and len(classes) != len(x)):
        raise ValueError(f"classes must be (T,) or {len(x)}×T, not {tuple(classes.shape)}")
    if classes.numel() and not 0 <= int(classes.min()) <= int(classes.max()) < len(classifier):
        raise ValueError(f"classes must be indices from 0 to {len(classifier) - 1}, not {classes.tolist()}")
    maps = (classifier[classes] @ x.flatten(2)).reshape(len(x), classes.shape[-1], *x.shape[2:]).clamp(min=0)
    peak = maps.amax(dim=(2, 3), keepdim=True)
    return maps / peak.where(peak > 0, 1.0)


def top_classes(logits: Tensor, n: int) -> Tensor:
    """The n likeliest classes of each image, likeliest first, ties by class: B×N to B×n int64.

    Raises ValueError where there are fewer.
    """
    if logits.ndim != 2 or not 1 <= n <= logits.shape[1]:
        raise ValueError(f"cannot take the top {n} classes of logits B×N = {tuple(logits.shape)}")
    return logits.sort(dim=1, descending=True, stable=True).indices[:, :n]


def classes_online(x: Tensor, classifier: Tensor, biases: Tensor, n: int) -> Tensor:
    """The n classes that the classifier, N×C with (N,) biases, finds likeliest in each map, B×C×H×W: B×n int64."""
    check_map(x)
    return top_classes(average(x) @ classifier.T + biases, n)


class CamCrow(nn.Module):
    """``cam_crow`` with its classifier; B×C×H×W to B×C.

    classifier: N×C. classes: the same for every image (*offline*). top: with None, so many of each image's own, by
        ``classes_online`` (*online*). biases: (N,), zero by default; of the classifier, for the choice alone.
    Raises ValueError unless it has just one of classes and top.
    """

    classifier: Tensor
    biases: Tensor
    classes: Tensor | None

    def __init__(
        self,
        classifier: Tensor,
        classes: Sequence[int] | None = None,
        *,
        top: int | None = None,
        biases: Tensor | None = None,
    ) -> None:
        super().__init__()
        if (classes is None) == (top is None):
            raise ValueError("class activation maps are of a list of classes, or of the top ones of each image")
        biases = classifier.new_zeros(len(classifier)) if biases is None else biases
        self.register_buffer("classifier", classifier.detach().clone())
        self.register_buffer("biases", biases.detach().clone())
        self.register_buffer("classes", None if classes is None else torch.tensor(classes, dtype=torch.int64))
        self.top = top

    def forward(self, x: Tensor) -> Tensor:
        classes = self.classes
        if classes is None:
            classes = classes_online(x, self.classifier, self.biases, self.top or 1)
        return cam_crow(x, self.classifier, classes)
