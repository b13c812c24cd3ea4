"""deep-image-retrieval: AP-GeM of Revaud et al. (``dirtorch/nets/rmac_resnet.py``, ``dirtorch/test_dir.py``)."""

import re
from collections.abc import Mapping
from dataclasses import replace

from resight.errors import RecipeError
from resight.networks.layouts.affine import with_linear
from resight.networks.layouts.plain import recognise_network
from resight.networks.layouts.published import Layout, Published, exponent, gem, normalisation
from resight.networks.layouts.sequential import besides
from resight.networks.weights import Checkpoint


def _recognises(checkpoint: Checkpoint) -> bool:
    return "adpool.p" in checkpoint.state and "conv1.weight" in checkpoint.state


def _convert(checkpoint: Checkpoint, single_scale: bool) -> Published:
    """Its publication describes at one scale, so ``single_scale`` changes nothing."""
    origin, state, facts = str(checkpoint.path), checkpoint.state, checkpoint.facts
    options, preprocess = facts.get("model_options", {}), facts.get("preprocess", {})
    if not isinstance(options, Mapping) or not isinstance(preprocess, Mapping):
        raise RecipeError(f"{origin}: its model_options or preprocess is no mapping")
    trunk = besides(state, "adpool.", "fc.")
    arch = options.get("arch")
    published = Published(
        re.sub(r"_rmac$", "", arch) if isinstance(arch, str) else recognise_network(trunk, origin),
        trunk,
        head={name: tensor for name, tensor in state.items() if name not in trunk},
        normalisation=normalisation(preprocess.get("mean"), preprocess.get("std"), origin),
        notes=("the PCA whitening of AP-GeM is not part of it",),
    )
    if options.get("center_bias"):
        return replace(published, obstacle="it weights the photo's centre, which a recipe of this version cannot say")
    if "adpool.p" not in state:
        return replace(published, obstacle=f"its pooling is {options.get('pooling')}; a recipe here has gem only")
    descriptor = gem(exponent(state["adpool.p"], origin))
    if options.get("without_fc") or "fc.weight" not in state:
        return replace(published, descriptor=descriptor)
    fitted_on = f"layer fc of {checkpoint.path.name}, learned with the network"
    normalised = bool(options.get("norm_features"))
    return with_linear(
        published, descriptor, state["fc.weight"], state.get("fc.bias"), fitted_on=fitted_on, normalised=normalised
    )


AP_GEM = Layout("dirtorch", "AP-GeM: Revaud, Almazán, Rezende & de Souza, ICCV 2019", _recognises, _convert)
