"""Second-order attention: every position re-written by those like it (survey §4.2.3; SOLAR, Ng et al., ECCV 2020)."""

import torch.nn.functional as F
from torch import Tensor, nn

from resight.pooling.sum_pooling import check_map


def second_order_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(qᵀk / √K) v: at each position the values' mean, weighted by how its query meets the keys (§3.2).

    query, key: B×K×H×W. value: B×V×H×W. Returns B×V×H×W. Raises ValueError where these do not fit.
    """
    check_map(query)
    if query.shape != key.shape or (len(value), *value.shape[2:]) != (len(key), *key.shape[2:]):
        raise ValueError(
            "query and key must be B×K×H×W and value B×V×H×W, not "
            f"{tuple(query.shape)}, {tuple(key.shape)} and {tuple(value.shape)}"
        )
    q, k, v = (t.flatten(2).mT for t in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v).mT.reshape(value.shape)


class SecondOrderAttention(nn.Module):
    """x + v(attention(f(x), g(x), h(x))); B×C×H×W to the same. It starts as the identity, v being zero.

    f, g: 1×1 convolution to C / reduction channels, batch normalisation, ReLU; h: 1×1 convolution to as many; v: 1×1
    convolution back to C. Names and order are those of ``SOABlock`` in tonyngjichun/SOLAR, so that its checkpoints
    load: ``soa4.*`` has 1024 channels and reduction 4, ``soa5.*`` has 2048 and 2, after ResNet-101's third and fourth
    stage; GeM follows. Initialised as there.

    Raises ValueError where the reduction leaves no channel.
    """

    def __init__(self, channels: int, reduction: int = 2) -> None:
        super().__init__()
        if not 1 <= reduction <= channels:
            raise ValueError(f"reduction must be from 1 to the {channels} channels, not {reduction}")
        inner = channels // reduction
        self.f = nn.Sequential(nn.Conv2d(channels, inner, 1), nn.BatchNorm2d(inner), nn.ReLU())
        self.g = nn.Sequential(nn.Conv2d(channels, inner, 1), nn.BatchNorm2d(inner), nn.ReLU())
        self.h = nn.Conv2d(channels, inner, 1)
        self.v = nn.Conv2d(inner, channels, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.v.weight)

    def forward(self, x: Tensor) -> Tensor:
        check_map(x)
        attended: Tensor = self.v(second_order_attention(self.f(x), self.g(x), self.h(x)))
        return x + attended
