"""Layers by plain names: each is the module named here by hand, or timm's own way to the same output."""

from functools import cache

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402

from resight.errors import RecipeError  # noqa: E402
from resight.networks.architectures import create_network  # noqa: E402
from resight.networks.layers import Layer  # noqa: E402
from resight.networks.sketch import Sketch  # noqa: E402
from resight.networks.torchvision_ops import ensure_torchvision  # noqa: E402
from resight.networks.trunk import Trunk  # noqa: E402

ensure_torchvision()
import timm  # noqa: E402
import torchvision  # noqa: E402

PLAIN = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


sketch_of = cache(Sketch)


def seeded(network):
    """The network with scales, shifts and means that leave no layer as it is."""
    torch.manual_seed(5)
    for name, tensor in network.state_dict().items():
        if tensor.ndim == 1 and not name.endswith("running_var"):
            tensor.normal_(mean=0.5, std=0.5)
    return network.eval().requires_grad_(False)


def filled(make):
    """A network without normalisation, with parameters that take little time to draw."""
    with torch.device("meta"):
        network = make()
    network = network.to_empty(device="cpu")
    torch.manual_seed(5)
    for parameter in network.parameters():
        parameter.requires_grad_(False).uniform_(-1, 1).mul_(parameter[0].numel() ** -0.5)
    return network.eval()


def pair(name, **options):
    """(its sketch, our network, timm's own) with the same parameters."""
    sketch = sketch_of(name)
    ours = seeded(create_network(name, **sketch.options))
    theirs = timm.create_model(name, num_classes=0, **options).eval().requires_grad_(False)
    theirs.load_state_dict(ours.state_dict())
    return sketch, ours, theirs


def outputs(sketch, network, names, x):
    """{name: output}, after checking what the sketch says of each."""
    trunk = Trunk(network, sketch.taps(names), *PLAIN)
    found = {}
    for tap, output in zip(trunk.taps, trunk(x), strict=True):
        layer = tap.layer
        assert output.shape[:2] == (len(x), layer.channels)
        assert output.ndim == (4 if layer.kind == "map" else 2)
        found[layer.name] = output
    assert list(found) == list(names)
    return found


def hooked(network, paths, x):
    """Outputs of modules, copied as they appear, over the whole forward pass."""
    seen = {}
    for path in paths:

        def keep(_module, _inputs, output, path=path):
            seen[path] = output.clone()

        network.get_submodule(path).register_forward_hook(keep)
    network.forward_features(x)
    return seen


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("resnet10t", {"conv1": "act1", "layer1": "layer1", "layer4": "layer4"}),
        ("densenet121", {"conv1": "features.norm0", "block2": "features.denseblock2"}),
        ("mobilenetv3_small_050", {"stem": "bn1", "stage1": "blocks.0", "stage6": "blocks.5"}),
        ("convnext_atto", {"stem": "stem", "stage1": "stages.0", "stage4": "stages.3"}),
    ],
)
def test_convolutional_networks(name, modules):
    sketch, ours, theirs = pair(name)
    x = torch.randn(2, 3, 64, 96)
    expected = hooked(theirs, modules.values(), x)
    found = outputs(sketch, ours, [*modules, "features", "pooled"], x)
    for plain, path in modules.items():
        torch.testing.assert_close(found[plain], expected[path])
    torch.testing.assert_close(found["features"], theirs.forward_features(x))
    torch.testing.assert_close(found["pooled"], theirs(x))


def test_vgg_convolutions_and_fully_connected_layers_as_convolutions():
    sketch = sketch_of("vgg11")
    network = filled(lambda: create_network("vgg11"))
    x = torch.randn(1, 3, 224, 256)
    # vgg11: 64 M 128 M 256 256 M 512 512 M 512 512 M, each number a convolution and a ReLU
    ends = {"conv1_1": 2, "pool1": 3, "conv2_1": 5, "conv3_2": 10, "conv3": 10, "conv5_2": 20, "conv5": 20, "pool5": 21}
    found = outputs(sketch, network, [*ends, "fc6", "fc7"], x)
    for name, end in ends.items():
        torch.testing.assert_close(found[name], network.features[:end](x))
    fc1, fc2 = network.pre_logits.fc1, network.pre_logits.fc2
    for column in range(2):  # each window of 7×7 cells by itself, as the paper computes it at 224×224
        window = found["pool5"][:, :, :, column : column + 7].flatten(1)
        fc6 = F.relu(F.linear(window, fc1.weight.flatten(1), fc1.bias))
        fc7 = F.relu(F.linear(fc6, fc2.weight.flatten(1), fc2.bias))
        torch.testing.assert_close(found["fc6"][:, :, 0, column], fc6, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(found["fc7"][:, :, 0, column], fc7, rtol=1e-3, atol=1e-5)


def test_alexnet_is_torchvisions():
    ours = filled(lambda: create_network("alexnet"))
    with torch.device("meta"):
        theirs = torchvision.models.alexnet(weights=None).eval()
    theirs.load_state_dict(ours.state_dict(), assign=True)
    theirs.requires_grad_(False)
    x = torch.randn(1, 3, 224, 224)
    ends = {"conv1": 2, "pool1": 3, "conv2": 5, "conv3": 8, "conv4": 10, "conv5": 12, "pool5": 13, "features": 13}
    found = outputs(sketch_of("alexnet"), ours, [*ends, "fc6", "fc7", "fc8"], x)
    for name, end in ends.items():
        torch.testing.assert_close(found[name], theirs.features[:end](x))
    flat = torch.flatten(theirs.avgpool(theirs.features(x)), 1)
    for name, end in {"fc6": 3, "fc7": 6, "fc8": 7}.items():
        torch.testing.assert_close(found[name][:, :, 0, 0], theirs.classifier[:end](flat), rtol=1e-3, atol=1e-5)


def test_googlenet_is_torchvisions():
    ours = seeded(create_network("googlenet"))
    theirs = torchvision.models.GoogLeNet(aux_logits=False, init_weights=False, transform_input=True).eval()
    theirs.fc = torch.nn.Identity()
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(1, 3, 64, 96)
    modules = {"conv1": "conv1", "conv2": "conv3", "inception3a": "inception3a", "inception5b": "inception5b"}
    seen = {}
    for name, path in modules.items():
        theirs.get_submodule(path).register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
    # torchvision's own preprocessing, which its transform_input then undoes in part
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        seen["pooled"] = theirs((x - mean) / std)
    config = ours.pretrained_cfg
    trunk = Trunk(ours, sketch_of("googlenet").taps([*modules, "pooled"]), config["mean"], config["std"])
    for name, output in zip([*modules, "pooled"], trunk(x), strict=True):
        torch.testing.assert_close(output, seen[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "prefix", "cls"),
    [
        ("deit_tiny_distilled_patch16_224", 2, True),
        ("test_vit2", 1, False),  # a register and no class token; normalised after pooling
        ("test_vit3", 1, False),  # SigLIP's attention pooling
        ("vit_pe_core_tiny_patch16_384", 1, True),  # the eva module, with rotary positions, as DINOv3's
    ],
)
def test_transformers_at_other_shapes(name, prefix, cls):
    sketch, ours, theirs = pair(name, dynamic_img_size=True)
    assert sketch.multiple == sketch.least(["tokens"]) == 16
    names = ["block.1", "block.5", "tokens", "features", "pooled", *(["cls"] if cls else [])]
    for rows, columns in [(4, 6), (7, 4)]:
        x = torch.randn(2, 3, 16 * rows, 16 * columns)
        found = outputs(sketch, ours, names, x)
        inner = theirs.forward_intermediates(x, indices=[1, 5], norm=False, intermediates_only=True)
        torch.testing.assert_close(found["block.1"], inner[0])
        torch.testing.assert_close(found["block.5"], inner[1])
        sequence = theirs.forward_features(x)
        for row, column in [(0, 0), (0, columns - 1), (rows - 1, 1)]:
            expected = sequence[:, prefix + row * columns + column]
            torch.testing.assert_close(found["tokens"][:, :, row, column], expected)
        torch.testing.assert_close(found["features"], found["tokens"])
        torch.testing.assert_close(found["pooled"], theirs(x))
        if cls:
            torch.testing.assert_close(found["cls"], sequence[:, 0])


def test_no_class_token():
    with pytest.raises(RecipeError, match="test_vit2 has no class token, so no layer 'cls': take pooled or tokens"):
        sketch_of("test_vit2").taps(["cls"])


def test_swins_maps_come_with_channels_first():
    sketch, ours, theirs = pair("swin_tiny_patch4_window7_224", strict_img_size=False)
    for size in [(64, 96), (100, 60)]:
        x = torch.randn(1, 3, *size)
        found = outputs(sketch, ours, ["stage1", "stage3", "features"], x)
        expected = hooked(theirs, ["layers.0", "layers.2"], x)
        torch.testing.assert_close(found["stage1"], expected["layers.0"].permute(0, 3, 1, 2))
        torch.testing.assert_close(found["stage3"], expected["layers.2"].permute(0, 3, 1, 2))
        torch.testing.assert_close(found["features"], theirs.forward_features(x).permute(0, 3, 1, 2))


@pytest.mark.parametrize("name", ["seresnext50_32x4d", "convnext_atto", "swin_tiny_patch4_window7_224"])
def test_channels_and_strides_are_those_of_timms_table(name):
    with torch.device("meta"):
        info = timm.create_model(name, features_only=True).feature_info
    layers = {(layer.channels, layer.stride) for layer in sketch_of(name).layers()}
    assert layers >= set(zip(info.channels(), info.reduction(), strict=True))


def test_names_multiples_and_least_sides():
    vgg = sketch_of("vgg16_bn")
    blocks = [f"conv{b}_{i}" for b, n in enumerate((2, 2, 3, 3, 3), start=1) for i in range(1, n + 1)]
    assert [layer.name for layer in vgg.layers() if "_" in layer.name] == blocks
    assert next(layer for layer in vgg.layers() if layer.name == "fc6") == Layer(
        "fc6", "pre_logits.act1", "map", 4096, 32
    )
    # torchvision's published min_size of each
    assert sketch_of("vgg11").least(["features"]) == 32
    assert sketch_of("alexnet").least(["features"]) == 63
    assert sketch_of("googlenet").least(["features"]) == 15
    dino = sketch_of("vit_small_patch14_reg4_dinov2")
    assert [layer.name for layer in dino.layers()] == [
        *(f"block.{i}" for i in range(12)),
        *("tokens", "cls", "features", "pooled"),
    ]
    assert (dino.multiple, dino.taps(["tokens"])[0].prefix) == (14, 5)


def test_any_module_by_its_path_and_what_follows_does_not_change_it():
    sketch, ours, theirs = pair("resnet10t")
    x = torch.randn(1, 3, 64, 96)
    # A ReLU works in place on the one, and a shortcut is added in place to the other.
    paths = ["layer1.0.bn1", "layer2.0.bn2"]
    expected = hooked(theirs, paths, x)
    found = outputs(sketch, ours, [*paths, "layer3"], x)
    for path in paths:
        assert expected[path].min() < 0
        torch.testing.assert_close(found[path], expected[path])


@pytest.mark.parametrize(
    ("name", "layer", "message"),
    [
        ("resnet10t", "fc", "takes no part in computing the features"),
        ("resnet10t", "layer9", "no layer 'layer9'; try one of features, conv1, layer1"),
        ("test_vit", "blocks.0.attn.q_norm", "gives neither a map nor a vector"),
    ],
)
def test_what_cannot_be_taken_is_refused(name, layer, message):
    with pytest.raises(RecipeError, match=message):
        sketch_of(name).taps([layer])


def test_a_network_of_one_size_is_refused():
    with pytest.raises(RecipeError, match="mixer_s32_224 takes pictures of one size only"):
        Sketch("mixer_s32_224")
