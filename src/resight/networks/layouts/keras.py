"""ResNet-50 of Keras (tf.keras.applications), its arrays under torchvision's names, as a whole or cut after a stage."""

from torch import Tensor

from resight.errors import RecipeError
from resight.networks.layouts.published import Layout, Published, gem
from resight.networks.weights import Checkpoint

# "caffe" preprocessing: BGR in 0 … 255 less a mean. Here as RGB in 0 … 1, the channels turned in the first layer.
_MEAN, _STD = (123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255,) * 3
_EPS = 1.001e-5
_STAGES = ("layer1", "layer2", "layer3", "layer4")


def _recognises(checkpoint: Checkpoint) -> bool:
    return {"conv1.bias", "bn1.running_mean", "layer1.0.conv1.bias", "layer1.0.conv3.bias"} <= checkpoint.state.keys()


def _convert(checkpoint: Checkpoint, single_scale: bool) -> Published:
    if not _recognises(checkpoint):
        raise RecipeError(f"{checkpoint.path}: it lacks the biases by which Keras's ResNets are known")
    trunk: dict[str, Tensor] = {}
    for name, tensor in checkpoint.state.items():
        layer, _, kind = name.rpartition(".")
        bias = checkpoint.state.get(f"{_convolution(layer)}.bias")
        if kind == "running_mean" and bias is not None:
            tensor = tensor.float() - bias.float()  # normalisation takes a convolution's bias away again
        if not (kind == "bias" and f"{layer}.running_mean" not in checkpoint.state):
            trunk[name] = tensor
    trunk["conv1.weight"] = trunk["conv1.weight"].flip(1)
    present = [stage for stage in _STAGES if any(name.startswith(f"{stage}.") for name in trunk)]
    lacks = tuple(stage for stage in _STAGES if stage not in present)
    return Published(
        "resnet50_v1",
        trunk,
        layer=present[-1],
        lacks=lacks,
        normalisation=(_MEAN, _STD),
        batchnorm_eps=_EPS,
        descriptor=gem(3.0),
        notes=("the network is not made for retrieval: GeM with p = 3 at one scale is a beginning",),
    )


def _convolution(normalisation: str) -> str:
    """Of layer1.0.bn2, layer1.0.conv2; of layer1.0.downsample.1, layer1.0.downsample.0."""
    if normalisation.endswith("downsample.1"):
        return f"{normalisation[:-1]}0"
    head, _, last = normalisation.rpartition(".")
    return f"{head}.{last}".lstrip(".").replace("bn", "conv") if last.startswith("bn") else ""


KERAS = Layout("keras", "ResNet: He et al., CVPR 2016; weights of tf.keras.applications", _recognises, _convert)
