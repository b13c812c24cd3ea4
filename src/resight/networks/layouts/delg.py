"""DELG of Cao, Araujo & Sim, as ported to PyTorch by feymanpriv on pycls (``model/resnet.py``, ``core/config.py``)."""

import re

from torch import Tensor

from resight.errors import RecipeError
from resight.networks.layouts.affine import with_linear
from resight.networks.layouts.published import Layout, Published, exponent, gem
from resight.networks.layouts.sequential import under
from resight.networks.weights import Checkpoint

_DEPTHS = {(3, 4, 6, 3): "resnet50", (3, 4, 23, 3): "resnet101", (3, 8, 36, 3): "resnet152"}
_BLOCK = {"f.a.": "conv1.", "f.a_bn.": "bn1.", "f.b.": "conv2.", "f.b_bn.": "bn2.", "f.c.": "conv3.", "f.c_bn.": "bn3."}
_BLOCK |= {"proj.": "downsample.0.", "bn.": "downsample.1."}
_SCALES = (2**-0.5, 1.0, 2**0.5)  # of the paper's global descriptor


def _recognises(checkpoint: Checkpoint) -> bool:
    return {"globalmodel.stem.conv.weight", "globalmodel.head.fc.weight"} <= checkpoint.state.keys()


def _convert(checkpoint: Checkpoint, single_scale: bool) -> Published:
    state, origin = under(checkpoint.state, "globalmodel."), str(checkpoint.path)
    if not _recognises(checkpoint) or "head.pool.p" not in state:
        raise RecipeError(f"{origin}: it lacks globalmodel's stem.conv.weight, head.pool.p or head.fc.weight")
    _check_config(str(checkpoint.facts.get("cfg", "")), origin)
    head = under(state, "head.")
    # Its photos are BGR (cv2.imread), with ImageNet's mean and deviation in that order; ours are RGB.
    trunk = {_timm_name(n, origin): t.flip(1) if n == "stem.conv.weight" else t for n, t in _trunk(state).items()}
    blocks = tuple(len({n.split(".")[1] for n in trunk if n.startswith(f"layer{i}.")}) for i in (1, 2, 3, 4))
    if blocks not in _DEPTHS:
        raise RecipeError(f"{origin}: its stages have {blocks} blocks, which is no ResNet-50, -101 or -152")
    kept = {n: t for n, t in checkpoint.state.items() if n.startswith(("globalmodel.head.", "localmodel."))}
    published = Published(_DEPTHS[blocks], trunk, head=kept)
    return with_linear(
        published,
        gem(exponent(head["pool.p"], origin), (1.0,) if single_scale else _SCALES),
        head["fc.weight"],
        head.get("fc.bias"),
        fitted_on=f"layer fc of {checkpoint.path.name}, learned with the network",
        normalised=False,
    )


def _trunk(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.startswith("head.")}


def _timm_name(name: str, origin: str) -> str:
    if name.startswith("stem."):
        return name.replace("stem.conv.", "conv1.").replace("stem.bn.", "bn1.")
    block = re.fullmatch(r"s(\d)\.b(\d+)\.((?:f\.\w+|proj|bn)\.)(\w+)", name)
    if block is None or block[3] not in _BLOCK:
        raise RecipeError(f"{origin}: globalmodel.{name} is no parameter of pycls's ResNet")
    return f"layer{block[1]}.{int(block[2]) - 1}.{_BLOCK[block[3]]}{block[4]}"


def _check_config(config: str, origin: str) -> None:
    """Refuse what pycls can be configured to and its parameters do not show, if the checkpoint has its settings."""
    if re.search(r"STRIDE_1X1:\s*true", config, re.IGNORECASE):
        raise RecipeError(f"{origin}: its ResNet has its strides in the 1×1 convolutions, timm's in the 3×3")
    eps = re.search(r"^\s*EPS:\s*(\S+)", config, re.MULTILINE)
    if eps is not None and float(eps[1]) != 1e-5:
        raise RecipeError(f"{origin}: its batch normalisation has ε = {eps[1]}, timm's 1e-5")


DELG = Layout("delg", "DELG: Cao, Araujo & Sim, ECCV 2020", _recognises, _convert)
