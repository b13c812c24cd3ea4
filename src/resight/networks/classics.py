"""Networks that timm has not: torchvision's AlexNet and GoogLeNet, with timm's two halves of a forward pass, the first
form of ResNet-50, and our own.

Parameters keep torchvision's names, so that its published files load. Import after ``ensure_torchvision``.
"""

from typing import Any, ClassVar

import timm
import torch
import torch.nn.functional as F
import torchvision.models
from torch import Tensor, nn

from resight.networks.compact import Compact


class WindowLinear(nn.Linear):
    """A fully connected layer over a k×k window of a map, slid over the map as a convolution.

    Maps B×C×h×w to B×D×(h−k+1)×(w−k+1); the parameters have the names and shapes of the ``nn.Linear`` over
    the flattened window, D×(C·k·k) and (D,).
    """

    def __init__(self, channels: int, window: int, features: int) -> None:
        super().__init__(channels * window * window, features)
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight.view(self.out_features, -1, self.window, self.window), self.bias)


class AlexNet(torchvision.models.AlexNet):  # type: ignore[misc]
    """Krizhevsky's network in one tower (2014), its fully connected layers sliding over maps above 6×6 (224 px)."""

    pretrained_cfg: ClassVar[dict[str, Any]] = {
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "url": torchvision.models.AlexNet_Weights.IMAGENET1K_V1.url,
    }

    def __init__(self) -> None:
        super().__init__()
        self.classifier[1] = WindowLinear(256, 6, 4096)
        self.classifier[4] = WindowLinear(4096, 1, 4096)
        self.classifier[6] = WindowLinear(4096, 1, 1000)

    def forward_features(self, x: Tensor) -> Tensor:
        """B×256×h×w: the map after the last pooling."""
        return self.features(x)  # type: ignore[no-any-return]

    def forward_head(self, x: Tensor, pre_logits: bool = True) -> Tensor:
        """B×1000×h×w: the class scores (fc8) of every 6×6 window; its layers fc6 and fc7 lie on the way."""
        return self.classifier(x)  # type: ignore[no-any-return]


class GoogLeNet(torchvision.models.GoogLeNet):  # type: ignore[misc]
    """Inception v1 (Szegedy et al. 2015) without its classifier and the two that only serve training.

    torchvision's weights come from TensorFlow and expect pixels in [−1, 1].
    """

    pretrained_cfg: ClassVar[dict[str, Any]] = {
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "url": torchvision.models.GoogLeNet_Weights.IMAGENET1K_V1.url,
        "classifier": "fc",
    }

    def __init__(self) -> None:
        super().__init__(aux_logits=False, init_weights=False)
        self.fc = nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        """B×1024×h×w: the output of inception5b."""
        x = self.maxpool1(self.conv1(x))
        x = self.maxpool2(self.conv3(self.conv2(x)))
        x = self.maxpool3(self.inception3b(self.inception3a(x)))
        for letter in "abcde":
            x = self.get_submodule(f"inception4{letter}")(x)
        return self.inception5b(self.inception5a(self.maxpool4(x)))  # type: ignore[no-any-return]

    def forward_head(self, x: Tensor, pre_logits: bool = True) -> Tensor:
        """B×1024: the average of the map."""
        return torch.flatten(self.avgpool(x), 1)


def resnet50_v1() -> nn.Module:
    """ResNet-50 as first published (He et al. 2016) and kept by Caffe and Keras; timm's otherwise.

    A stage is reduced by its first 1×1 convolution, not by the 3×3 one. Pixels less Caffe's mean, in 0 … 255.
    """
    network: nn.Module = timm.create_model("resnet50", num_classes=0)
    for stage in ("layer2", "layer3", "layer4"):
        block: Any = network.get_submodule(f"{stage}.0")
        block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
    mean = (123.68 / 255, 116.779 / 255, 103.939 / 255)
    network.pretrained_cfg = {"mean": mean, "std": (1 / 255,) * 3, "classifier": "fc"}  # type: ignore[assignment]
    return network


CLASSICS = {"alexnet": AlexNet, "googlenet": GoogLeNet, "resnet50_v1": resnet50_v1, "compact": Compact}
