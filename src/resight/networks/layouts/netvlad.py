"""pytorch-NetVlad: VGG-16 with NetVLAD pooling of Arandjelović et al. (``main.py``, ``netvlad.py``)."""

from torch import Tensor

from resight.errors import RecipeError
from resight.networks.layouts.published import Descriptor, Layout, Published
from resight.networks.layouts.sequential import last_position, named, under
from resight.networks.weights import Checkpoint


def _recognises(checkpoint: Checkpoint) -> bool:
    return "pool.centroids" in _single(checkpoint) and any(n.startswith("encoder.") for n in checkpoint.state)


def _convert(checkpoint: Checkpoint, single_scale: bool) -> Published:
    state = _single(checkpoint)
    encoder = under(state, "encoder.")
    if "28.weight" not in encoder:
        raise RecipeError(f"{checkpoint.path}: its encoder is not VGG-16, the one that timm has too")
    learned = under(state, "pool.")
    trunk = named(encoder, "vgg16", str(checkpoint.path))
    return Published(
        "vgg16",
        trunk,
        layer=f"features.{last_position(trunk)}",  # the last convolution, without its ReLU
        head={f"pool.{name}": tensor for name, tensor in learned.items()},
        descriptor=Descriptor(
            "NetVLAD", {"embedding": {"kind": "netvlad", "words": len(learned["centroids"])}}, learned=learned
        ),
    )


def _single(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Without the ``module.`` that nn.DataParallel put inside encoder and pool."""
    return {name.replace(".module.", ".", 1): tensor for name, tensor in checkpoint.state.items()}


NETVLAD = Layout("netvlad", "NetVLAD: Arandjelović, Gronat, Torii, Pajdla & Sivic, CVPR 2016", _recognises, _convert)
