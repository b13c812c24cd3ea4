"""A network in 8-bit integers: about twice as fast on a CPU, its outputs close to the float network's, not equal.

Post-training quantisation after Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference" (CVPR 2018), as NNCF does it: weights by output channel, activations by the range
they have on real pictures. What it makes is an artefact, as a whitening is: OpenVINO's .xml with a .bin beside it.
"""

import contextlib
import hashlib
import importlib
import importlib.util
import io
import logging
import tempfile
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from resight.errors import RecipeError
from resight.networks.backbone import Backbone
from resight.networks.engine import OpenVinoEngine, Runner, import_openvino

_FACTS = "resight"  # the entry of the model's runtime information that is ours
_FORMAT = "1"


def quantise(backbone: Backbone, pictures: Iterable[NDArray[np.uint8]], into: Path, *, fitted_on: str) -> None:
    """Write the network in 8 bits for ``QuantisedEngine``: ``into``, which ends in .xml, and the .bin beside it.

    pictures: a few hundred H×W×3 uint8 RGB as the network will see them, of any sizes; all are kept in memory.
    fitted_on: which photos these are, in words for reports.
    Raises RecipeError where OpenVINO or NNCF is not installed, there is no picture, or the network cannot be
    converted for pictures of any size.
    """
    _need("openvino", "nncf")
    if into.suffix != ".xml":
        raise RecipeError(f"{into}: a quantised network is written to a file that ends in .xml")
    shown = [picture[None] for picture in pictures]
    if not shown:
        raise RecipeError(f"there are no pictures to quantise {backbone.name} on: give a few hundred")
    ov = import_openvino()
    model = OpenVinoEngine(backbone).model
    if model is None:
        raise RecipeError(
            f"{backbone.name} cannot be quantised: OpenVINO converts it for one size of pictures at a time; "
            "leave `quantised` out of the recipe"
        )
    quantised = _quantised(model, shown, transformer=backbone.multiple > 1)
    for key, value in {"format": _FORMAT, "backbone": backbone.fingerprint, "fitted_on": fitted_on}.items():
        quantised.set_rt_info(value, [_FACTS, key])
    into.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into.parent) as folder:
        written = Path(folder) / into.name
        ov.save_model(quantised, written, compress_to_fp16=False)
        written.with_suffix(".bin").replace(into.with_suffix(".bin"))
        written.replace(into)  # last: where it is, both are whole


def _quantised(model: Any, pictures: list[NDArray[np.uint8]], transformer: bool) -> Any:
    nncf = importlib.import_module("nncf")
    nncf.set_log_level(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):  # it draws progress bars
        return nncf.quantize(
            model,
            nncf.Dataset(pictures),
            subset_size=len(pictures),
            # Activations of both signs, such as hard-swish's, keep their own zero.
            preset=nncf.QuantizationPreset.MIXED,
            model_type=nncf.ModelType.TRANSFORMER if transformer else None,
            # Processors without VNNI add pairs of products in 16 bits: with weights of 7 bits these never overflow,
            # so that all processors compute the same.
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
        )


class QuantisedEngine:
    """OpenVINO with the 8-bit network of a file that ``quantise`` wrote for this backbone.

    fitted_on: which photos it was quantised on, in words.
    Raises RecipeError where OpenVINO is not installed, or the file is missing, damaged, or made for another network,
    other weights or other layers.
    """

    def __init__(self, backbone: Backbone, path: Path) -> None:
        _need("openvino")
        for file in (path, path.with_suffix(".bin")):
            if not file.is_file():
                raise RecipeError(f"{file}: no such file; `resight fit` writes a recipe's quantised network")
        core = import_openvino().Core()
        try:
            model = core.read_model(path)
        except RuntimeError as error:
            raise RecipeError(
                f"{path}: not a readable network: {_first_line(error)}; run `resight fit` again"
            ) from error
        facts = {key: _fact(model, key) for key in ("format", "backbone", "fitted_on")}
        if facts["format"] != _FORMAT:
            raise RecipeError(f"{path}: not a network that this version of resight quantised; run `resight fit` again")
        if facts["backbone"] != backbone.fingerprint:
            raise RecipeError(
                f"{path}: was quantised from another network, other weights or other layers than {backbone.name}'s "
                f"{', '.join(layer.name for layer in backbone.layers)}; run `resight fit` again"
            )
        self.name = f"openvino {version('openvino')}, 8 bits"
        self.identity = _sha256(path, path.with_suffix(".bin"))
        self.fitted_on = facts["fitted_on"]
        self._runner = Runner(core, model)

    def __call__(self, pictures: NDArray[np.uint8]) -> tuple[Tensor, ...]:
        return self._runner(pictures)

    def each(self, pictures: Iterable[NDArray[np.uint8]]) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
        return self._runner.each(pictures)


def _fact(model: Any, key: str) -> str:
    return str(model.get_rt_info([_FACTS, key]).value) if model.has_rt_info([_FACTS, key]) else ""


def _sha256(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]


def _need(*modules: str) -> None:
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise RecipeError(f"a quantised network needs {' and '.join(missing)}: pip install 'resight[fast]'")
