"""Networks as chains: run on from the middle they give what the whole network gives, for each family; or are none."""

import pytest

torch = pytest.importorskip("torch")

from resight.networks.architectures import create_free_size  # noqa: E402
from resight.networks.chain import find_chain, from_grid, to_grid  # noqa: E402
from resight.networks.layers import HEAD, plain_names  # noqa: E402
from resight.networks.trunk import run, watch  # noqa: E402

NETWORKS = {
    "test_resnet": ("layer3", "layer4", "features", "pooled"),
    "test_vit": ("block.1", "tokens", "cls", "pooled"),
    "test_vit2": ("block.2", "tokens"),
    "test_convnext": ("stage2", "features", "pooled"),
    "test_efficientnet": ("stage3", "features", "pooled"),
    "mobilenetv3_small_050": ("stage4", "features", "pooled"),
    "densenet121": ("conv1", "block3", "features"),
    "vgg11_bn": ("conv3_1", "pool4", "features"),
    "swin_tiny_patch4_window7_224": ("stage3", "features"),
    "alexnet": ("conv4", "features"),
}


def made(name):
    torch.manual_seed(0)
    network, _ = create_free_size(name)
    for module in network.modules():  # else an untrained normalisation is nearly the identity
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network


def modules_of(network, layers):
    names = plain_names(network)
    modules = tuple(dict.fromkeys(names[layer] for layer in layers))
    for module in modules:
        watch(network, module)
    return modules


SLOW = ("swin_tiny_patch4_window7_224", "vgg11_bn", "densenet121")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in NETWORKS])
def test_a_chain_run_on_from_anywhere_gives_what_the_network_gives(name):
    network = made(name)
    modules = modules_of(network, NETWORKS[name])
    chain = find_chain(network, modules, (224, 224) if "swin" in name else (128, 160))
    assert chain is not None
    images = torch.rand(2, 3, 224, 224 if "swin" in name else 256, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected = run(network, images.clone(), modules, stop=False)
        for start in range(0, min(chain.ends.values()) + 1, 3):
            state, _ = chain.run(images, 0, start)
            kept = state.clone()
            _, found = chain.run(state, start, len(chain.links), modules)
            assert torch.equal(state, kept)
            for module in modules:
                torch.testing.assert_close(found[module], expected[module], atol=1e-5, rtol=1e-4)


def test_gradients_go_through_the_links_after_the_cut_alone():
    network = made("test_resnet").requires_grad_(True)
    (module,) = modules_of(network, ["layer4"])
    chain = find_chain(network, [module], (96, 96))
    cut = next(i for i, link in enumerate(chain.links) if link.name.startswith("layer4"))
    with torch.no_grad():
        state, _ = chain.run(torch.rand(1, 3, 96, 96), 0, cut)
    chain.run(state, cut, len(chain.links))[0].sum().backward()
    learned = {name.partition(".")[0] for name, p in network.named_parameters() if p.grad is not None}
    assert learned == {"layer4"}


@pytest.mark.parametrize(
    ("name", "layer"),
    [("test_resnet", "layer4.0.conv1"), ("vit_small_patch16_dinov3", "cls")],
)
def test_what_is_no_chain_is_found_out(name, layer):
    """Rotary positions reach into every block; a convolution inside a block is followed by what goes round it."""
    network = made(name)
    module = plain_names(network).get(layer, layer)
    watch(network, module)
    chain = find_chain(network, [module], (96, 96))
    assert chain is None


def test_a_shortcut_past_a_child_is_found_out():
    class Skipping(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch.nn.Conv2d(3, 3, 3, padding=1), torch.nn.Conv2d(3, 3, 3, padding=1)

        def forward_features(self, x):
            return self.second(self.first(x)) + x

    network = Skipping()
    watch(network, "first")
    assert find_chain(network, [""], (32, 32)) is None
    assert find_chain(network, ["first"], (32, 32)).ends == {"first": 1}


@pytest.mark.parametrize(("prefix", "rows", "columns"), [(0, 2, 3), (1, 3, 2), (5, 2, 2), (4, 1, 4), (1, 1, 1)])
def test_tokens_on_a_grid_come_back_as_they_were(prefix, rows, columns):
    tokens = torch.rand(2, prefix + rows * columns, 7)
    grid = to_grid(tokens, rows, columns)
    back, found_rows, found_columns = from_grid(grid, prefix)
    assert (found_rows, found_columns) == (rows, columns)
    assert torch.equal(back, tokens)
    assert torch.equal(grid[:, -rows:].flatten(1, 2), tokens[:, prefix:])
    with pytest.raises(ValueError, match="no map of"):
        to_grid(tokens, rows * 5, columns * 5)


def test_the_head_is_a_link_of_its_own():
    network = made("test_resnet")
    modules = modules_of(network, ["pooled", "layer4"])
    chain = find_chain(network, modules, (96, 128))
    assert chain.links[-1].name == HEAD
    assert chain.ends[HEAD] == chain.ends["layer4"] + 1
