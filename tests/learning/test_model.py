"""The trainable form of a recipe gives what the ordinary describer gives; what learns, and what stays as it is."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402
from PIL import Image as PilImage  # noqa: E402

from resight.describe.fit import fit_recipe  # noqa: E402
from resight.describe.global_descriptor import GlobalDescriber  # noqa: E402
from resight.errors import RecipeError  # noqa: E402
from resight.features.fusion import append_orthogonal, concatenate  # noqa: E402
from resight.learning.model import Learns, make_model  # noqa: E402
from resight.learning.model_layers import join, power  # noqa: E402
from resight.learning.model_trunk import learned_parameters  # noqa: E402
from resight.networks.architectures import create_free_size  # noqa: E402
from resight.pooling.attention_gem import AttentionGeM  # noqa: E402
from resight.pooling.crn import ContextualReweighting  # noqa: E402
from resight.pooling.delf_attention import DelfAttention  # noqa: E402
from resight.pooling.multiscale_attention import RegionalAttention  # noqa: E402
from resight.pooling.second_order import SecondOrderAttention  # noqa: E402
from resight.projection.power import power as numpy_power  # noqa: E402
from resight.projection.projection import Projection  # noqa: E402
from resight.recipes import load_recipe  # noqa: E402
from resight.recipes.network_stages import GlobalStage  # noqa: E402
from resight.recipes.poolings import Gem  # noqa: E402

pytestmark = pytest.mark.usefixtures("sketched_once")

CHANNELS = 192
SMALL = {"network": "test_resnet", "layer": "layer3", "max_side": 96, "dimensions": 4}

ATTENTIONS = {
    "second-order": (lambda: SecondOrderAttention(CHANNELS, 4), {"reduction": 4}, {}),
    "crn": (
        lambda: ContextualReweighting(CHANNELS, ((3, 4), (5, 2)), (3, 3)),
        {"filters": ((3, 4), (5, 2)), "context": (3, 3)},
        {"pooling": "average"},
    ),
    "delf": (lambda: DelfAttention(CHANNELS, 8), {"hidden": 8}, {"pooling": "sum"}),
    "regional": (lambda: RegionalAttention(CHANNELS, 8, 2), {"hidden": 8, "levels": 2}, {"pooling": "mac"}),
    "attention-gem": (
        lambda: AttentionGeM(CHANNELS, 8, p=2.0),
        {"hidden": 8},
        {"pooling": {"kind": "gem", "p": 2.0}},
    ),
}
PLAIN = {
    "gem": {},
    "a p for each channel": {"pooling": {"kind": "gem", "p": np.linspace(1, 5, CHANNELS).tolist()}},
    "mac": {"pooling": "mac"},
    "average": {"pooling": "average"},
    "sum": {"pooling": "sum"},
    "spoc": {"pooling": "spoc"},
    "crow": {"pooling": "crow"},
    "gram": {"pooling": "gram"},
    "power": {"power": 0.5, "pooling": "mac"},
    "r-mac": {"pooling": "mac", "scheme": {"kind": "grid", "levels": 2}},
    "maxima of gem over a grid": {"scheme": {"kind": "grid", "levels": 2, "aggregate": "max"}},
    "pyramid": {"scheme": {"kind": "pyramid", "cells": [1, 2], "aggregate": "concatenate"}},
    "norms": {"attention": {"kind": "saliency", "by": "norms"}, "pooling": "average"},
    "centre": {"attention": {"kind": "saliency", "by": "centre"}, "pooling": "sum"},
    "sums": {"attention": {"kind": "saliency", "by": "sums"}, "pooling": "sum"},
    "two layers": {"also": ({"layer": "layer4", "pooling": "average", "weight": 0.5},)},
    "orthogonal": {"also": ({"pooling": "average", "weight": 0.5},), "fusion": "orthogonal"},
    "vector": {"layer": "pooled"},
}
TOKENS = {
    "class token": {"layer": "cls"},
    "tokens": {"layer": "tokens", "pooling": "average"},
    "a block": {"layer": "block.1", "pooling": "spoc"},
    "a grid of tokens": {"layer": "tokens", "scheme": {"kind": "grid", "levels": 2}, "pooling": "mac"},
    "attention of the class token": {"layer": "tokens", "attention": {"kind": "class-token"}, "pooling": "average"},
    "class token and patches": {"layer": "cls", "also": ({"layer": "tokens"},)},
}
FITTED = {
    "netvlad": {"embedding": {"kind": "netvlad", "words": 3}},
    "netvlad after pca": {"embedding": {"kind": "netvlad", "words": 3, "reduce": 5}},
    "learned bof": {"embedding": {"kind": "learned-bof", "words": 4}},
    "fisher": {"embedding": {"kind": "fisher-layer", "words": 3, "reduce": 4}},
    "netvlad under a mask": {"embedding": {"kind": "netvlad", "words": 3, "mask": "sum"}},
    "fisher under a mask": {"embedding": {"kind": "fisher-layer", "words": 2, "reduce": 4, "mask": "max"}},
    "weighted netvlad": {
        "embedding": {"kind": "netvlad", "words": 3},
        "attention": {"kind": "saliency", "by": "norms"},
    },
    "netvlad of regions": {"embedding": {"kind": "netvlad", "words": 3}, "scheme": {"kind": "grid", "levels": 2}},
    "sba": {"pooling": {"kind": "sba", "parts": 3}},
}


@pytest.fixture
def resnet(weights_of):
    return weights_of("test_resnet")


@pytest.fixture
def vit(weights_of):
    return weights_of("test_vit")


def pictures_of(folder, count=3):
    return [np.asarray(PilImage.open(folder / f"{number}.png")) for number in range(count)]


def batch_of(pictures):
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def model_of(stage, seed=0, initial=None, **learns):
    return make_model(stage, weights=None, learns=Learns(**learns), recipe_name="x", seed=seed, initial=initial)


def fitted_stage(folder, noise, weights, changes, **also):
    """A stage whose embedding or statistics were learned from the pictures."""
    import tomli_w

    stage = SMALL | {"whiten": "none", "weights": str(weights)} | changes
    table = {"name": "x", "title": "", "source": "", "filter": "global", "global": stage, **also}
    (folder / "r.toml").write_text(tomli_w.dumps(table))
    fit_recipe(folder / "r.toml", [noise], weights=None, into=folder / "fitted")
    return load_recipe(folder / "fitted").global_


def attention_stage(folder, weights, kind):
    """A stage with a file of attention weights that a seed draws."""
    make, table, changes = ATTENTIONS[kind]
    torch.manual_seed(3)
    module = make()
    for name, tensor in module.state_dict().items():
        if name.endswith(("weight", "bias")):
            torch.nn.init.normal_(tensor, std=0.3 if kind == "attention-gem" else 0.05)
        if name.endswith("running_var"):
            torch.nn.init.uniform_(tensor, 0.5, 2.0)
        if kind == "crn":
            tensor.abs_()
    path = folder / f"{kind}.safetensors"
    safetensors.torch.save_file({k: v.clone() for k, v in module.state_dict().items()}, path)
    attention = {"kind": kind, "weights": str(path), **table}
    return GlobalStage(**SMALL | {"weights": str(weights), "attention": attention} | changes)


def check_same(stage, noise, atol=1e-5, **learns):
    """Model and describer agree on pictures in a batch, whichever part of the model is the prefix."""
    pictures = pictures_of(noise)
    describer = GlobalDescriber(stage, None)
    expected = np.stack([describer.raw(picture) for picture in pictures])
    model = model_of(stage, **learns)
    with torch.no_grad():
        found = model.train()(batch_of(pictures))
    assert found.dtype == torch.float32
    assert found.shape == (3, model.dimension)
    np.testing.assert_allclose(found.numpy(), expected, atol=atol)
    return model


@pytest.mark.parametrize("name", PLAIN)
def test_it_describes_as_the_recipe_does(name, resnet, noise):
    check_same(GlobalStage(**SMALL | {"weights": str(resnet)} | PLAIN[name]), noise)


@pytest.mark.parametrize("name", TOKENS)
def test_it_describes_by_tokens_as_the_recipe_does(name, vit, noise):
    stage = GlobalStage(**SMALL | {"network": "test_vit", "weights": str(vit)} | TOKENS[name])
    model = check_same(stage, noise, layers="block.1")
    assert model.splits


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_it_describes_by_learned_attention_as_the_recipe_does(kind, resnet, noise, tmp_path):
    check_same(attention_stage(tmp_path, resnet, kind), noise, layers="head")


@pytest.mark.parametrize("name", FITTED)
def test_it_describes_by_what_was_fitted_as_the_recipe_does(name, resnet, noise, tmp_path):
    stage = fitted_stage(tmp_path, noise, resnet, FITTED[name])
    # NetVLAD's sums of few features about centres near them cancel, and leave four digits of float32.
    check_same(stage, noise, atol=5e-5 if name == "netvlad of regions" else 1e-5)


def names_that_learn(model):
    return {name.removeprefix("trunk.network.") for name, x in model.named_parameters() if x.requires_grad}


@pytest.mark.parametrize("layers", ["layer2", "layer3", "layer3.0", "head"])
def test_the_prefix_is_all_that_does_not_learn_and_the_suffix_the_rest(layers, resnet, noise):
    stage = GlobalStage(**SMALL | {"weights": str(resnet)})
    whole, model = model_of(stage), model_of(stage, layers=layers, exponent=True)
    assert model.splits
    assert not whole.splits
    images = batch_of(pictures_of(noise))
    state = model.prefix(images)
    assert not state.requires_grad
    assert state.shape[0] == 3
    kept = state.clone()
    found = model.suffix(state)
    assert torch.equal(state, kept)
    torch.testing.assert_close(found, whole(images), atol=1e-6, rtol=0)
    each = torch.cat([model.suffix(state[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(each, found, atol=1e-6, rtol=0)
    trunk = {name for name in names_that_learn(model) if not name.startswith("heads.")}
    expected = {
        "layer2": {n for n, _ in model.trunk.network.named_parameters() if n.startswith(("layer2.", "layer3."))},
        "layer3": {n for n, _ in model.trunk.network.named_parameters() if n.startswith("layer3.")},
        "head": set(),
    }
    assert trunk == expected[layers.partition(".")[0]]


def test_gradients_of_the_split_model_are_those_of_the_whole(resnet, noise):
    """Against a plain timm network whose last stage learns, normalised and pooled by hand."""
    stage = GlobalStage(**SMALL | {"weights": str(resnet), "layer": "layer4", "pooling": "average"})
    model = model_of(stage, layers="layer4")
    images = batch_of(pictures_of(noise))
    target = torch.randn(3, model.dimension, generator=torch.Generator().manual_seed(0))
    (model(images) * target).sum().backward()
    network, _ = create_free_size("test_resnet")
    network.load_state_dict(safetensors.torch.load_file(resnet))
    network.layer4.requires_grad_(True)
    config = network.pretrained_cfg
    mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    pooled = network.forward_features((images / 255 - mean) / std).mean(dim=(2, 3))
    (torch.nn.functional.normalize(pooled) * target).sum().backward()
    for name, parameter in network.layer4.named_parameters():
        found = model.trunk.network.layer4.get_parameter(name).grad
        torch.testing.assert_close(found, parameter.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "layers", "first", "frozen"),
    [
        ("densenet121", "denseblock4", "features.denseblock4.", "features.transition3."),
        ("densenet121", "conv1", "features.conv0.", None),
        ("vgg11_bn", "conv5_1", "features.22.", "features.18."),
        ("test_convnext", "stage4", "stages.3.", "stages.2."),
        ("test_efficientnet", "stage3", "blocks.2.", "blocks.1."),
        ("test_vit", "block.2", "blocks.2.", "blocks.1."),
    ],
)
def test_a_network_learns_from_a_named_layer_on(name, layers, first, frozen):
    network, _ = create_free_size(name)
    learned = learned_parameters(network, layers, name)
    every = [parameter for parameter, _ in network.named_parameters()]
    assert {parameter for parameter in every if parameter.startswith(first)} <= learned
    if frozen is None:
        assert learned == set(every)
    else:
        assert not {parameter for parameter in learned if parameter.startswith(frozen)}
        place = next(i for i, parameter in enumerate(every) if parameter.startswith(first))
        assert learned == set(every[place:])


def test_normalisation_and_dropout_stay_as_in_evaluation(resnet, noise):
    model = model_of(GlobalStage(**SMALL | {"weights": str(resnet)}))
    images = batch_of(pictures_of(noise))
    before = {name: x.clone() for name, x in model.named_buffers()}
    with torch.no_grad():
        quiet = model.eval()(images)
        assert torch.equal(model.train()(images), quiet)
    assert model.training
    assert not any(m.training for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    model(images).sum().backward()
    assert all(torch.equal(x, before[name]) for name, x in model.named_buffers())


def test_groups_hold_all_that_learns_once_at_the_rates_of_its_kind(resnet):
    model = model_of(
        GlobalStage(**SMALL | {"weights": str(resnet)}), exponent=True, projection=8, layers="layer3", head_rate=5.0
    )
    groups = {group["name"]: group for group in model.groups()}
    grouped = [id(x) for group in groups.values() for x in group["params"]]
    assert sorted(grouped) == sorted(id(x) for x in model.parameters() if x.requires_grad)
    assert [id(x) for x in groups["exponent"]["params"]] == [id(model.branch_heads[0].p)]
    assert {name: (group["lr"], group.get("weight_decay")) for name, group in groups.items()} == {
        "trunk": (1.0, None),
        "trunk without decay": (1.0, 0.0),
        "head": (5.0, None),
        "head without decay": (5.0, 0.0),
        "exponent": (10.0, 0.0),
    }
    assert all(x.ndim > 1 for x in groups["trunk"]["params"])
    torch.optim.AdamW(model.groups(), weight_decay=0.1)


def test_what_is_new_is_drawn_by_the_seed_alone(resnet):
    stage = GlobalStage(
        **SMALL | {"weights": str(resnet), "attention": {"kind": "delf", "hidden": 8}, "pooling": "sum"}
    )
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, same, other = (model_of(stage, seed=s, projection=4, hash_bits=8).state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    drawn = ("heads.0.attention.conv1.weight", "projection.matrix", "hash.weight")
    assert not any(torch.equal(one[name], other[name]) for name in drawn)


def test_a_projection_starts_from_a_fitted_one(resnet, noise, tmp_path):
    stage = GlobalStage(**SMALL | {"weights": str(resnet), "whiten": "image", "dimensions": 5})
    rng = np.random.default_rng(0)
    fitted = Projection(
        rng.normal(size=CHANNELS).astype(np.float32) / 20,
        rng.normal(size=(5, CHANNELS)).astype(np.float32),
        "pca-whitening",
        9,
        "noise",
        GlobalDescriber(stage, None).raw_fingerprints[0],
    )
    fitted.save(tmp_path / "whitening.safetensors")
    whitened = stage.model_copy(update={"whitening": str(tmp_path / "whitening.safetensors")})
    pictures = pictures_of(noise)
    expected = np.stack([GlobalDescriber(whitened, None).describe(picture) for picture in pictures])
    for model in (model_of(stage, initial=fitted, projection=5), model_of(whitened, projection=5)):
        with torch.no_grad():
            np.testing.assert_allclose(model(batch_of(pictures)).numpy(), expected, atol=1e-5)
    with pytest.raises(RecipeError, match="cannot start one of 192 to 6"):
        model_of(stage, initial=fitted, projection=6)
    other = whitened.model_copy(update={"pooling": Gem(p=2.0)})
    for use in (GlobalDescriber, lambda stage, folder: model_of(stage, projection=5)):
        with pytest.raises(
            RecipeError, match=r"whitening\.safetensors: was fitted for another network, other weights or"
        ):
            use(other, None)
    assert model_of(other, projection=6).dimension == 6  # drawn, as the whitening has no part in it


def test_codes_are_relaxed_signs_of_the_hash_layer(resnet, noise):
    model = model_of(GlobalStage(**SMALL | {"weights": str(resnet)}), hash_bits=16, hash_beta=1e4)
    plain = model_of(GlobalStage(**SMALL | {"weights": str(resnet)}))
    images = batch_of(pictures_of(noise))
    with torch.no_grad():
        signs = torch.sign(plain(images) @ model.hash.weight.T)
        torch.testing.assert_close(model(images), signs / 4, atol=1e-4, rtol=0)


def test_the_power_law_has_finite_gradients_at_zero():
    x = torch.tensor([[0.0, 0.25, -0.04]], dtype=torch.float64, requires_grad=True)
    y = power(x, 0.5)
    np.testing.assert_allclose(y.detach().numpy(), numpy_power(x.detach().numpy(), 0.5), atol=1e-12)
    y.sum().backward()
    assert x.grad.isfinite().all()
    away = torch.tensor([[0.3, 0.25, -0.04]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: power(z, 0.3), away)


@pytest.mark.parametrize("fusion", ["concatenate", "orthogonal"])
def test_joined_vectors_are_those_of_the_fusion(fusion):
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 4, 6))
    expected = concatenate([a, b], [1.0, 0.3]) if fusion == "concatenate" else append_orthogonal(a, b, 0.3)
    x, y = (torch.from_numpy(each).requires_grad_(True) for each in (a, b))
    np.testing.assert_allclose(join([x, y], [1.0, 0.3], fusion).detach().numpy(), expected, atol=1e-12)
    assert torch.autograd.gradcheck(lambda u, v: join([u, v], [1.0, 0.3], fusion), (x, y))


REFUSED = {
    "crops": ({"scheme": {"kind": "grid", "on": "pixels"}}, {}, "of pixels.*scheme = "),
    "dense": ({"scheme": {"kind": "dense", "on": "map"}}, {}, "scheme dense"),
    "proposals": ({"scheme": {"kind": "selective-search"}}, {}, "selective-search.*grid"),
    "keypoints": ({"scheme": {"kind": "dog"}}, {}, "scheme dog"),
    "heat": ({"pooling": "heat"}, {}, "pooling heat.*choose gem"),
    "classes": ({"layer": "layer4", "pooling": "cam-crow"}, {}, "pooling cam-crow"),
    "bow": ({"embedding": {"kind": "bow", "words": 3}}, {}, "bow is fitted.*netvlad"),
    "sift": ({"embedding": {"kind": "netvlad", "words": 3, "mask": "sift"}}, {}, 'mask = "sift"'),
    "spectrum": ({"attention": {"kind": "saliency", "by": "spectral-residual"}}, {}, "norms, centre"),
    "unfitted": ({"embedding": {"kind": "netvlad", "words": 3}}, {}, "nothing to start from.*resight fit"),
    "unfitted parts": ({"pooling": "sba"}, {}, "has not learned its channels.*resight fit"),
    "late": ({"also": ({"layer": "layer4"},), "fusion": "scores"}, {}, "train each as a recipe"),
    "two networks": ({"also": ({"network": "test_vit", "layer": "cls"},)}, {}, "differ in network"),
    "lengths": ({"also": ({"layer": "layer4"},), "fusion": "orthogonal"}, {}, "do not fit each other"),
    "nothing": ({}, {"layers": "head"}, "nothing learns"),
    "an unknown layer": ({}, {"layers": "layer9"}, "choose one of all, head, conv1"),
    "beyond what is read": ({}, {"layers": "layer4"}, "nothing learns"),
    "no gem": ({"pooling": "mac"}, {"exponent": True}, "exponent is GeM's"),
    "too long": ({}, {"projection": 400}, "only 192 entries"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_learn_is_refused_with_what_to_choose(name, resnet):
    changes, learns, said = REFUSED[name]
    with pytest.raises(RecipeError, match=said):
        model_of(GlobalStage(**SMALL | {"weights": str(resnet)} | changes), **learns)


def test_pictures_that_do_not_fit_are_refused(vit):
    model = model_of(GlobalStage(**SMALL | {"network": "test_vit", "layer": "cls", "weights": str(vit)}))
    with pytest.raises(ValueError, match="multiples of 16"):
        model(torch.zeros(1, 3, 96, 97))
    with pytest.raises(ValueError, match="B×3×H×W"):
        model(torch.zeros(3, 96, 96))
    floats = torch.rand(1, 3, 96, 96)
    rounded = (floats * 255).round().to(torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(model(rounded), model(rounded / 255), atol=1e-6, rtol=0)
