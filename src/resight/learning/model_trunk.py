"""From which of a network's modules on it learns."""

from torch import nn

from resight.errors import RecipeError
from resight.networks.chain import Chain
from resight.networks.layers import plain_names


def learned_parameters(network: nn.Module, layers: str, name: str) -> frozenset[str]:
    """Names of the parameters that learn: those of a layer's module and of all that are registered after it.

    layers: "all"; "head" for none; a plain name; or a module's dotted path, or the end of one that is no other's, such
    as ``denseblock4``. A plain name whose module is a normalisation or has no parameters, as VGG's ``conv5_1`` is the
    ReLU, stands for all since the plain name before it.
    name: the network's, for messages. Raises RecipeError for an unknown layer.
    """
    if layers == "all":
        return frozenset(parameter for parameter, _ in network.named_parameters())
    if layers == "head":
        return frozenset()
    modules = dict(network.named_modules())
    order = list(modules)
    start = _start(network, layers, name, modules, order)
    return frozenset(
        f"{path}.{own}" for path in order[start:] for own, _ in modules[path].named_parameters(recurse=False)
    )


def after(chain: Chain, learned: frozenset[str]) -> int:
    """How many of a chain's links come before anything that learns or is read."""
    places = [place for place, link in enumerate(chain.links) if any(x.startswith(f"{link.name}.") for x in learned)]
    return min([*chain.ends.values(), *places])


def _start(network: nn.Module, layers: str, name: str, modules: dict[str, nn.Module], order: list[str]) -> int:
    """The place, among modules in order, of the first that learns."""
    plain = {key: path for key, path in plain_names(network).items() if path in modules and path}
    path = plain.get(layers, layers)
    if path not in modules:
        ends = [module for module in order if module.endswith(f".{layers}")]
        if len(ends) != 1:
            choice = ", ".join(["all", "head", *plain])
            raise RecipeError(
                f"{name} cannot learn from layer {layers!r} on: choose one of {choice}, or a module's path"
            )
        (path,) = ends
    module = modules[path]
    if layers not in plain or (
        not isinstance(module, nn.modules.batchnorm._BatchNorm | nn.LayerNorm)
        and any(True for _ in module.parameters())
    ):
        return order.index(path)
    paths = list(dict.fromkeys(plain.values()))
    before = paths[: paths.index(path)]
    if not before:
        return 1  # the first is the network itself
    return max(place for place, each in enumerate(order) if f"{each}.".startswith(f"{before[-1]}.")) + 1
