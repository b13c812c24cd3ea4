"""A recipe of a tiny network with two adapters, and the recipes that it has to agree with."""

import numpy as np
import safetensors.torch as safetensors
import torch

from resight.describe.describer import Describer
from resight.networks.architectures import create_network
from resight.projection.projection import Projection
from resight.recipes import Recipe


def parts(folder):
    """A recipe's table without adapters, and two projections with which it is whitened anew or searched as is."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        safetensors.save_file(create_network("test_resnet.r160_in1k").state_dict(), folder / "w.safetensors")
    stage = {"network": "test_resnet.r160_in1k", "weights": str(folder / "w.safetensors"), "pooling": "gem"}
    stage |= {"scales": [1.0], "whiten": "none", "max_side": 64, "dimensions": 96}
    table = {"name": "tiny", "title": "Tiny", "source": "-", "filter": "global", "global": stage}
    table["image"] = {"max_side": 64}
    rng = np.random.default_rng(1)
    # Of a length that leaves little of the mean, as whitenings have it, and with axes of very different weight.
    matrices = [rng.normal(size=(k, 96)) * np.geomspace(300, 1, k)[:, None] for k in (32, 96)]
    mean = Describer(Recipe.model_validate(table)).describe(np.full((64, 64, 3), 128, np.uint8)).global_descriptor
    return folder, table, [(mean, matrix.astype(np.float32)) for matrix in matrices]


def built(made, more=None):
    """Recipes: with two adapters, with neither, and for each with it as its whitening."""
    folder, table, parts = made
    table = {**table, **(more or {})}
    files, whitened = {}, {}
    for name, (mean, matrix) in zip(("joint", "goods"), parts, strict=True):
        plain = Describer(Recipe.model_validate(table))
        file = folder / f"{name}-{len(more or '')}.safetensors"
        Projection(mean, matrix, "pca-whitening", 9, "made up", plain.fingerprint).save(file)
        files[name] = str(file)
        stage = {**table["global"], "whiten": "image", "dimensions": len(matrix), "whitening": f"{file}.whitening"}
        unfitted = Describer(Recipe.model_validate({**table, "global": {**stage, "whitening": ""}}))
        Projection(mean, matrix, "pca-whitening", 9, "made up", unfitted.network.raw_fingerprints[0]).save(
            f"{file}.whitening"
        )
        whitened[name] = Recipe.model_validate({**table, "global": stage})
    return Recipe.model_validate({**table, "adapters": {"files": files}}), Recipe.model_validate(table), whitened
