"""Layouts: each published network is built here by hand, and its conversion must compute the same."""

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402

from resight.errors import RecipeError  # noqa: E402
from resight.networks.backbone import load_backbone  # noqa: E402
from resight.networks.layouts import LAYOUTS, Published, check, convert_plain, recognise  # noqa: E402
from resight.networks.layouts.affine import centred, with_linear  # noqa: E402
from resight.networks.layouts.plain import PLAIN  # noqa: E402
from resight.networks.layouts.published import Descriptor, build, gem  # noqa: E402
from resight.networks.torchvision_ops import ensure_torchvision  # noqa: E402
from resight.networks.weights import Checkpoint, load_into, read_checkpoint  # noqa: E402

ensure_torchvision()
import torchvision  # noqa: E402


def shaken(network, seed=0):
    """Every parameter and statistic at random, so that no two can be exchanged unseen."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if tensor.ndim > 1:
            fan_in = tensor[0].numel()
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * (2 / fan_in) ** 0.5)
        elif tensor.is_floating_point():
            low = 0.5 if name.endswith(("running_var", "weight")) else -0.2
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + low)
    return network.eval()


def pictures(height=64, width=96):
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))


def convert(state, facts=None, *, name, single_scale=False, path="w.pth"):
    checkpoint = Checkpoint(path=Path(path), state=state, facts=facts or {})
    layout = recognise(checkpoint)
    assert layout.name == name
    return layout.convert(checkpoint, single_scale)


@torch.inference_mode()
def trunk_output(published, x):
    """What the layer gives in timm's own network, loaded strictly but for what is said to be lacking."""
    with torch.device("meta"):
        network = build(published.network)
    network.to_empty(device="cpu")
    load_into(network, published.trunk, "w", without=("pre_logits", *published.lacks))
    network.eval()
    if published.layer == "features":
        return network.forward_features(x)
    seen = []
    network.get_submodule(published.layer).register_forward_hook(lambda m, i, o: seen.append(o.clone()))
    network.forward_features(x)
    return seen[0]


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def cirtorch_features(name):
    """The ``features`` of ``init_network``."""
    if name.startswith("vgg"):
        configuration = torchvision.models.vgg.cfgs["A"]
        return nn.Sequential(*list(torchvision.models.vgg.make_layers(configuration).children())[:-1])
    network = getattr(torchvision.models, name)()
    if name.startswith("densenet"):
        return nn.Sequential(*network.features.children(), nn.ReLU())
    return nn.Sequential(*list(network.children())[:-2])


def numbered(features, prefix="features."):
    return {f"{prefix}{name}": tensor for name, tensor in features.state_dict().items()}


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "vgg11"])
def test_cirtorch_trunks(name):
    features = shaken(cirtorch_features(name))
    meta = {"architecture": name, "pooling": "gem", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    published = convert(numbered(features) | {"pool.p": torch.tensor([2.5])}, {"meta": meta}, name="cirtorch")
    made = published.descriptor
    assert made.table == {"pooling": {"kind": "gem", "p": 2.5}}
    assert (made.scales, made.scale_pooling, made.projection) == ((1.0, 2**-0.5, 0.5), "gem", None)
    with torch.inference_mode():
        close(trunk_output(published, pictures()), features(pictures()))
    assert check(published, "w") == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pooling": "other"}, "pooling is other"),
        ({"regional": True}, "regional"),
        ({"local_whitening": True}, "local"),
    ],
)
def test_cirtorch_poolings_that_no_recipe_says_yet_keep_their_trunk(change, said):
    state = numbered(cirtorch_features("resnet18")) | {"pool.rpool.p": torch.ones(1)}
    published = convert(state, {"meta": {"architecture": "resnet18", "pooling": "gem"} | change}, name="cirtorch")
    assert said in published.obstacle
    assert published.descriptor is None
    assert published.head.keys() == {"pool.rpool.p"}
    assert check(published, "w") == ""


@pytest.mark.parametrize(
    ("pooling", "table"),
    [
        ("mac", {"pooling": "mac"}),
        ("spoc", {"pooling": "average"}),
        ("rmac", {"pooling": "mac", "scheme": {"kind": "grid", "levels": 3, "variant": "cirtorch"}}),
    ],
)
def test_cirtorch_poolings_other_than_gem(pooling, table):
    state = numbered(cirtorch_features("resnet18"))
    published = convert(state, {"meta": {"architecture": "resnet18", "pooling": pooling}}, name="cirtorch")
    assert (published.descriptor.table, published.descriptor.scale_pooling) == (table, "mean")


def test_cirtorch_gem_with_an_exponent_a_channel_or_none():
    state, meta = numbered(cirtorch_features("resnet18")), {"architecture": "resnet18", "pooling": "gem"}
    published = convert(state | {"pool.p": torch.ones(512)}, {"meta": meta}, name="cirtorch")
    assert "512 exponents" in published.obstacle
    with pytest.raises(RecipeError, match=r"w\.pth.*no pool\.p"):
        convert(state, {"meta": meta}, name="cirtorch")


def test_networks_that_timm_lacks_and_positions_that_do_not_exist_are_refused():
    meta = {"architecture": "squeezenet1_0", "pooling": "gem"}
    state = {"features.0.weight": torch.ones(1), "pool.p": torch.ones(1)}
    with pytest.raises(RecipeError, match="squeezenet1_0"):
        convert(state, {"meta": meta}, name="cirtorch")
    with pytest.raises(RecipeError, match=r"9\.weight is at no position"):
        convert({"features.9.weight": torch.ones(1)}, {"meta": meta | {"architecture": "resnet18"}}, name="cirtorch")


def test_what_does_not_fit_is_listed_and_other_colours_are_an_obstacle():
    state = numbered(cirtorch_features("resnet18")) | {"pool.p": torch.ones(1)}
    meta = {"architecture": "resnet18", "pooling": "gem", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    assert "normalises colours" in check(convert(state, {"meta": meta}, name="cirtorch"), "w")
    del state["features.0.weight"]
    state["features.1.weight"] = torch.ones(7)
    with pytest.raises(RecipeError, match=r"missing conv1\.weight; misshapen bn1\.weight \(7,\) for \(64,\)"):
        check(convert(state, {"meta": meta}, name="cirtorch"), "w")


def test_netvlad_pools_the_last_convolution_and_keeps_its_centroids():
    configuration = torchvision.models.vgg.cfgs["D"]
    encoder = shaken(nn.Sequential(*list(torchvision.models.vgg.make_layers(configuration).children())[:-2]))
    pool = {"pool.module.centroids": torch.rand(4, 512), "pool.module.conv.weight": torch.rand(4, 512, 1, 1)}
    published = convert(numbered(encoder, "encoder.module.") | pool, name="netvlad")
    assert published.descriptor.table == {"embedding": {"kind": "netvlad", "words": 4}}
    assert published.descriptor.learned.keys() == {"centroids", "conv.weight"}
    assert published.head.keys() == {"pool.centroids", "pool.conv.weight"}
    assert (published.network, published.layer) == ("vgg16", "features.28")
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(published.trunk[f"features.{name}"], tensor)
    assert check(published, "w") == ""


@pytest.mark.parametrize("first_format", [True, False])
def test_how_lacks_its_last_stage(first_format):
    features = shaken(nn.Sequential(*list(torchvision.models.resnet18().children())[:-3]))
    key = "whiten" if first_format else "dim_reduction"
    head = {f"{key}.weight": torch.rand(8, 256, 1, 1), f"{key}.bias": torch.rand(8)}
    colours = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    if first_format:
        meta = {"architecture": "resnet18", "skip_layer": 1, "mean": colours[0], "std": colours[1], "feat_pool_k": 3}
        facts = {"meta": meta}
    else:
        runtime = {"mean_std": colours, "image_size": 960, "features_num": 500, "scales": [1.0, 0.5]}
        smoothing = {"kernel_size": 3}
        facts = {"net_params": {"architecture": "resnet18", "smoothing": smoothing, "runtime": runtime}}
    published = convert(numbered(features) | head, facts, name="how")
    assert (published.layer, published.lacks) == ("layer3", ("layer4",))
    assert published.head.keys() == {"dim_reduction.weight", "dim_reduction.bias"}
    stated = {} if first_format else {"max_side": 960, "max_features": 500, "scales": [1.0, 0.5]}
    assert published.local.table == {"detector": "how"} | stated
    x, reduction = torch.rand(256, dtype=torch.float64), published.local.reduction
    expected = head[f"{key}.weight"].double().flatten(1) @ x + head[f"{key}.bias"]
    assert np.allclose(reduction.matrix @ (x.numpy() - reduction.mean), expected)
    assert check(published, "w") == ""
    with torch.inference_mode():
        close(trunk_output(published, pictures()), features(pictures()))


@pytest.mark.parametrize(
    ("change", "head", "said"),
    [
        ({"smoothing": {"kernel_size": 5}}, ("weight", "bias"), "by 5 cells"),
        ({"smoothing": None}, ("weight", "bias"), "by None cells"),
        ({}, ("weight",), "does not reduce"),
        ({}, (), "does not reduce"),
    ],
)
def test_how_in_ways_that_no_recipe_says_keeps_its_trunk(change, head, said):
    features = numbered(nn.Sequential(*list(torchvision.models.resnet18().children())[:-3]))
    state = features | {f"dim_reduction.{part}": torch.rand(8, 256, 1, 1) for part in head}
    params = {"architecture": "resnet18", "smoothing": {"kernel_size": 3}} | change
    published = convert(state, {"net_params": params}, name="how")
    assert said in published.obstacle and published.local is None
    assert published.head.keys() == {f"dim_reduction.{part}" for part in head}


class PyclsBlock(nn.Module):
    """pycls's ResBlock with a BottleneckTransform, ``STRIDE_1X1: False``."""

    def __init__(self, w_in, w_out, stride):
        super().__init__()
        if w_in != w_out:
            self.proj, self.bn = nn.Conv2d(w_in, w_out, 1, stride, bias=False), nn.BatchNorm2d(w_out)
        w = w_out // 4
        self.f = nn.ModuleDict(
            {
                "a": nn.Conv2d(w_in, w, 1, bias=False),
                "a_bn": nn.BatchNorm2d(w),
                "b": nn.Conv2d(w, w, 3, stride, 1, bias=False),
                "b_bn": nn.BatchNorm2d(w),
                "c": nn.Conv2d(w, w_out, 1, bias=False),
                "c_bn": nn.BatchNorm2d(w_out),
            }
        )

    def forward(self, x):
        y = F.relu(self.f["a_bn"](self.f["a"](x)))
        y = F.relu(self.f["b_bn"](self.f["b"](y)))
        y = self.f["c_bn"](self.f["c"](y))
        return F.relu(y + (self.bn(self.proj(x)) if hasattr(self, "proj") else x))


def pycls_resnet50():
    stem = nn.ModuleDict({"conv": nn.Conv2d(3, 64, 7, 2, 3, bias=False), "bn": nn.BatchNorm2d(64)})
    stages, w_in = {}, 64
    for i, (depth, w_out) in enumerate([(3, 256), (4, 512), (6, 1024), (3, 2048)], 1):
        blocks = {}
        for j in range(depth):
            blocks[f"b{j + 1}"] = PyclsBlock(w_in, w_out, 2 if i > 1 and j == 0 else 1)
            w_in = w_out
        stages[f"s{i}"] = nn.ModuleDict(blocks)
    head = nn.ModuleDict(
        {"pool": nn.ParameterDict({"p": nn.Parameter(torch.tensor([2.8]))}), "fc": nn.Linear(2048, 16)}
    )
    return nn.ModuleDict({"stem": stem, **stages, "head": head})


def pycls_features(network, bgr):
    x = F.max_pool2d(F.relu(network["stem"]["bn"](network["stem"]["conv"](bgr))), 3, 2, 1)
    for stage in ("s1", "s2", "s3", "s4"):
        for block in network[stage].values():
            x = block(x)
    return x


def test_delg_sees_bgr_and_its_layer_without_bias_is_a_projection():
    network = shaken(pycls_resnet50())
    network["head"]["pool"]["p"].data.fill_(2.8)
    state = {f"globalmodel.{name}": tensor for name, tensor in network.state_dict().items()}
    others = {"localmodel.conv1.weight": torch.ones(1), "desc_cls.weight": torch.ones(9, 16)}
    published = convert(state | others, {"cfg": "RESNET:\n  STRIDE_1X1: False\nBN:\n  EPS: 1.0e-05\n"}, name="delg")
    assert published.network == "resnet50"
    made, fc = published.descriptor, network["head"]["fc"]
    assert (made.table["whiten"], made.scales) == ("layer", (2**-0.5, 1.0, 2**0.5))
    g = torch.rand(2048)
    expected = fc(g).detach().double().numpy()
    assert np.allclose(made.projection.matrix @ (g.double().numpy() - made.projection.mean), expected, atol=1e-5)
    assert published.head.keys() == {n for n in state if ".head." in n} | {"localmodel.conv1.weight"}
    with torch.inference_mode():
        close(trunk_output(published, pictures()), pycls_features(network, pictures().flip(1)))

    state["globalmodel.head.fc.bias"] = torch.zeros(16)
    published = convert(state, name="delg")
    assert published.descriptor.table["pooling"]["p"] == pytest.approx(2.8)
    assert published.descriptor.scales == (2**-0.5, 1.0, 2**0.5)
    weight = state["globalmodel.head.fc.weight"].double().numpy()
    assert np.array_equal(published.descriptor.projection.matrix, weight)
    assert not published.descriptor.projection.mean.any()


@pytest.mark.parametrize("config", ["RESNET:\n  STRIDE_1X1: True", "BN:\n  EPS: 0.001"])
def test_delg_with_other_settings_is_refused(config):
    names = ("stem.conv.weight", "head.fc.weight", "head.pool.p")
    state = {f"globalmodel.{name}": torch.ones(1) for name in names}
    with pytest.raises(RecipeError, match=r"w\.pth: its (ResNet|batch)"):
        convert(state, {"cfg": config}, name="delg")


@pytest.mark.parametrize("registers", [False, True])
def test_dinov2_tokens(registers):
    """Its ``prepare_tokens``: the class token gets the first position; registers, put after it, get none."""
    with torch.device("meta"):
        network = build("vit_small_patch14_reg4_dinov2" if registers else "vit_small_patch14_dinov2")
    network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    own = {name: torch.randn(t.shape, generator=generator) * 0.02 for name, t in network.state_dict().items()}
    own["pos_embed"] = torch.randn(1, 37 * 37 + 1, 384, generator=generator)
    own["mask_token"] = torch.zeros(1, 384)
    if registers:
        own["register_tokens"] = own.pop("reg_token")
    published = convert(own, name="dinov2")
    assert (published.layer, published.descriptor.table) == ("cls", {"whiten": "none"})
    load_into(network, published.trunk, "w")
    x = torch.rand(1, 3, 518, 518, generator=generator)
    patches = F.conv2d(x, own["patch_embed.proj.weight"], own["patch_embed.proj.bias"], stride=14)
    tokens = torch.cat([own["cls_token"], patches.flatten(2).mT], dim=1) + own["pos_embed"]
    if registers:
        tokens = torch.cat([tokens[:, :1], own["register_tokens"], tokens[:, 1:]], dim=1)
    with torch.inference_mode():
        close(network._pos_embed(network.patch_embed(x)), tokens)
    assert "mask_token" in own


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "densenet121", "wide_resnet50_2", "resnext50_32x4d"])
def test_plain_networks_are_recognised_without_their_classifier(name):
    with torch.device("meta"):
        state = getattr(torchvision.models, name)().state_dict()
    if name.startswith("densenet"):  # as torchvision's files still have it
        for old in [n for n in state if "denselayer" in n]:
            state[old.replace("norm1", "norm.1").replace("conv2", "conv.2")] = state.pop(old)
    published = convert(state, name="plain")
    assert published.network == name
    assert not any(key.startswith(("fc.", "classifier.")) for key in published.trunk)


def test_plain_vgg_ends_before_its_last_pooling():
    state = numbered(torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["A"], batch_norm=True))
    published = convert(state | {"classifier.0.weight": torch.ones(1)}, name="plain")
    assert (published.network, published.layer) == ("vgg11_bn", "features.27")


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "mixer_s32_224"])
def test_plain_network_that_is_none_of_torchvisions_is_named_by_the_caller(name):
    """ConvNeXt keeps a norm under ``head``, which is no classifier; MLP-Mixer has colours of its own."""
    timm = pytest.importorskip("timm")
    state = timm.create_model(name, pretrained=False, num_classes=7).state_dict()
    with pytest.raises(RecipeError, match="--network"):
        PLAIN.convert(Checkpoint(path=Path("w"), state=state), False)
    published = convert_plain(Checkpoint(path=Path("w"), state=state), name)
    assert check(published, "w") == ""
    assert published.trunk.keys() == build(name).state_dict().keys()


def test_layouts_by_name_and_unknown_ones(tmp_path):
    checkpoint = Checkpoint(path=Path("w.pth"), state={"a.weight": torch.ones(1)})
    assert [recognise(checkpoint, layout.name) for layout in LAYOUTS] == list(LAYOUTS)
    with pytest.raises(RecipeError, match="no layout 'x'; there are how, cirtorch"):
        recognise(checkpoint, "x")
    with pytest.raises(RecipeError, match=r"w\.pth: its layout is not recognised .*a\.weight"):
        recognise(checkpoint)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_a_layout_forced_on_something_else_is_refused_by_name(layout):
    checkpoint = Checkpoint(path=Path("w.pth"), state={"a.weight": torch.ones(1)})
    with pytest.raises(RecipeError, match=r"w\.pth"):
        layout.convert(checkpoint, False)


@pytest.mark.parametrize(
    ("facts", "p", "said"),
    [
        ({"mean": "grey"}, [3.0], "colours"),
        ({"std": 3}, [3.0], "colours"),
        ({}, [0.0], "exponent"),
        ({}, [float("nan")], "exponent"),
        ({"Lw": 3}, [3.0], "Lw"),
        ({"Lw": {"s": {"ms": {"m": "x"}}}}, [3.0], "Lw s ms"),
        ({"Lw": {"s": {"ms": {"m": np.zeros((3, 1)), "P": np.eye(2)}}}}, [3.0], "Lw s ms"),
    ],
)
def test_malformed_facts_are_refused_by_name(facts, p, said):
    meta = {"architecture": "resnet18", "pooling": "gem"} | facts
    state = {"features.0.weight": torch.ones(1), "pool.p": torch.tensor(p)}
    with pytest.raises(RecipeError, match=rf"w\.pth: .*{said}"):
        convert(state, {"meta": meta}, name="cirtorch")


@pytest.mark.parametrize("rows", [6, 3])
def test_a_linear_layer_is_a_centred_projection(rows):
    rng = np.random.default_rng(0)
    weight, bias, x = rng.normal(size=(rows, 6)), rng.normal(size=rows), rng.normal(size=6)
    projection = centred(torch.tensor(weight), torch.tensor(bias), "here")
    assert np.allclose(projection.matrix @ (x - projection.mean), weight @ x + bias)
    assert projection.fitted_on == "here"


def test_a_bias_outside_the_range_and_a_nearly_singular_layer_are_refused():
    flat = torch.eye(3)
    flat[2, 2] = 0
    assert centred(flat, torch.tensor([1.0, 2, 0]), "").mean.tolist() == pytest.approx([-1, -2, 0])
    with pytest.raises(RecipeError, match="cannot be written"):
        centred(flat, torch.tensor([0.0, 0, 1]), "")
    flat[2, 2] = 1e-6
    with pytest.raises(RecipeError, match="cannot be written"):
        centred(flat, torch.tensor([0.0, 0, 1]), "")
    with pytest.raises(RecipeError, match="finite"):
        centred(torch.full((2, 2), torch.nan), None, "")


def test_a_layer_with_a_bias_takes_what_the_pooling_gives():
    published, weight = Published("n", {}), torch.eye(2)
    for bias, normalised, whiten in [
        (torch.ones(2), True, None),
        (torch.ones(2), False, "layer"),
        (torch.zeros(2), False, None),
        (None, False, None),
    ]:
        result = with_linear(published, gem(3.0), weight, bias, fitted_on="", normalised=normalised)
        assert (result.descriptor.table.get("whiten"), result.obstacle) == (whiten, "")
    regions = Descriptor("R-MAC", {"pooling": "mac", "scheme": {"kind": "grid"}})
    result = with_linear(published, regions, weight, torch.ones(2), fitted_on="", normalised=False)
    assert result.descriptor is None and "normalises regions" in result.obstacle


def test_several_scales_are_projected_one_by_one_where_the_whole_is_pooled():
    published, weight = Published("n", {}), torch.eye(2)
    for table, whiten, noted in [({}, "regions", False), ({"scheme": {"kind": "grid"}}, None, True)]:
        pooled = Descriptor("", {"pooling": "mac"} | table, (1.0, 0.5))
        result = with_linear(published, pooled, weight, torch.ones(2), fitted_on="", normalised=True)
        assert result.descriptor.table.get("whiten") == whiten
        assert any("differs a little" in note for note in result.notes) == noted


def test_numpy_arrays_beside_the_tensors_are_read_and_arrays_of_objects_are_not(tmp_path):
    facts = {"m": np.arange(3.0)[:, np.newaxis], "i": np.int64(3), "f": np.float32(0.5)}
    torch.save({"state_dict": {"a": torch.ones(1)}, "meta": facts}, tmp_path / "w.pth")
    read = read_checkpoint(tmp_path / "w.pth").facts["meta"]
    assert read["m"].tolist() == [[0.0], [1.0], [2.0]]
    assert (read["i"], read["f"]) == (3, 0.5)
    torch.save({"state_dict": {"a": torch.ones(1)}, "o": np.array([{}], dtype=object)}, tmp_path / "o.pth")
    with pytest.raises(RecipeError, match=r"o\.pth: holds more than tensors"):
        read_checkpoint(tmp_path / "o.pth")


def test_the_files_of_2018_are_read_too(tmp_path):
    """Before zip files, and with the module names of NumPy 1."""
    facts = {"m": np.arange(3.0), "f": np.float64(0.5)}
    torch.save({"state_dict": {"a": torch.ones(2)}, **facts}, tmp_path / "w", _use_new_zipfile_serialization=False)
    old = (tmp_path / "w").read_bytes().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert b"_core" not in old
    (tmp_path / "w.pth.tar").write_bytes(old)
    read = read_checkpoint(tmp_path / "w.pth.tar")
    assert read.state["a"].tolist() == [1.0, 1.0]
    assert (read.facts["m"].tolist(), read.facts["f"]) == ([0.0, 1.0, 2.0], 0.5)


def keras_resnet(generator):
    """Random parameters of Keras's ResNet-50 up to conv4, under torchvision's names."""
    state = {}

    def add(convolution, normalisation, out, into, side):
        fan = into * side * side
        state[f"{convolution}.weight"] = torch.randn(out, into, side, side, generator=generator) * (2 / fan) ** 0.5
        state[f"{convolution}.bias"] = torch.randn(out, generator=generator)
        state[f"{normalisation}.weight"] = torch.rand(out, generator=generator) + 0.5
        state[f"{normalisation}.bias"] = torch.randn(out, generator=generator)
        state[f"{normalisation}.running_mean"] = torch.randn(out, generator=generator)
        state[f"{normalisation}.running_var"] = torch.rand(out, generator=generator) + 0.5

    add("conv1", "bn1", 64, 3, 7)
    channels = 64
    for stage, (width, blocks) in enumerate([(64, 3), (128, 4), (256, 6)], 1):
        for block in range(blocks):
            at = f"layer{stage}.{block}"
            if block == 0:
                add(f"{at}.downsample.0", f"{at}.downsample.1", 4 * width, channels, 1)
            add(f"{at}.conv1", f"{at}.bn1", width, channels, 1)
            add(f"{at}.conv2", f"{at}.bn2", width, width, 3)
            add(f"{at}.conv3", f"{at}.bn3", 4 * width, width, 1)
            channels = 4 * width
    return state


def keras_forward(state, rgb):
    """tf.keras.applications.resnet50 up to conv4_block6_out, from its source: B×3×H×W in 0 … 255."""

    def step(x, convolution, normalisation, stride=1, padding=0):
        weight, bias = state[f"{convolution}.weight"], state[f"{convolution}.bias"]
        x = F.conv2d(x, weight, bias, stride, padding)
        kinds = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{normalisation}.{kind}"] for kind in kinds), eps=1.001e-5)

    x = rgb.flip(1) - torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1)
    x = step(x, "conv1", "bn1", 2, 3).relu()
    x = F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2)
    for stage, blocks in enumerate((3, 4, 6), 1):
        for block in range(blocks):
            at, stride = f"layer{stage}.{block}", 2 if block == 0 and stage > 1 else 1
            shortcut = step(x, f"{at}.downsample.0", f"{at}.downsample.1", stride) if block == 0 else x
            y = step(x, f"{at}.conv1", f"{at}.bn1", stride).relu()
            y = step(y, f"{at}.conv2", f"{at}.bn2", 1, 1).relu()
            x = (step(y, f"{at}.conv3", f"{at}.bn3") + shortcut).relu()
    return x


def test_keras_resnet_gives_kerass_maps_though_it_lacks_its_last_stage(tmp_path):
    state = keras_resnet(torch.Generator().manual_seed(0))
    checkpoint = Checkpoint(tmp_path / "resnet50.npz", state, {})
    assert recognise(checkpoint).name == "keras"
    published = recognise(checkpoint).convert(checkpoint, False)
    assert (published.network, published.layer, published.lacks) == ("resnet50_v1", "layer3", ("layer4",))
    assert check(published, "resnet50.npz") == ""
    save_file({name: tensor.contiguous() for name, tensor in published.trunk.items()}, tmp_path / "model.safetensors")
    (tmp_path / "meta.json").write_text(json.dumps({"bn_eps": published.batchnorm_eps}))
    backbone = load_backbone("resnet50_v1", layers=["layer3"], weights=tmp_path / "model.safetensors")
    rgb = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    expected = keras_forward(state, rgb.float())
    assert expected.shape == (1, 1024, 4, 6)
    torch.testing.assert_close(backbone(rgb)[0], expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    with pytest.raises(RecipeError, match=r"missing layer4"):
        load_backbone("resnet50_v1", layers=["layer4"], weights=tmp_path / "model.safetensors")
