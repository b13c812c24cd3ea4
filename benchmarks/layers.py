"""mAP by layer, pooling, scheme and fusion, as the survey's §6.3 compares them; cosine of unwhitened vectors.

A thin user of `resight.evaluation.variants`, which shares a network's passes among its variants; schemes and fusions
are only here. Words of all layers, joined, are MOF; pairs of words are the recipe deepindex, fitted and evaluated as
the commands do it.
"""

import argparse
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import tomli_w
from numpy.typing import NDArray

from common import DATA, add_set_options, cache_name, header, labelled_sets, percent, protocol_text, table, write_json
from photos import originals
from resight.describe.fit import fit_recipe
from resight.describe.learn import learn_heads, save_learned
from resight.describe.published import import_weights
from resight.errors import ImageError
from resight.evaluation import LabelledSet, evaluate
from resight.evaluation.variants import Described, Variants, Vectors, measure
from resight.features.fusion import Late, append_orthogonal, concatenate, fuse
from resight.geometry.boxes import Box, crop
from resight.images.image import Image
from resight.images.read import read_image
from resight.recipes import Recipe, load_recipe
from resight.recipes.network_stages import GlobalStage

LATE: tuple[Late, ...] = tuple(method for method in get_args(Late) if method != "scores")  # which joining is, too
_GRID: dict[str, Any] = {"kind": "grid", "levels": 3}
_WORDS: dict[str, Any] = {"kind": "bow", "words": 1000, "idf": True}

Tables = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Network:
    """A network with trained weights.

    name: as recipes name it. file: of shared/data/weights. imported: whether it is a published checkpoint's layout,
    which `resight weights import` turns into ours. layers: from low to high, the last being the network's. paired: one
    before it whose map has as many positions.
    """

    name: str
    file: str
    layers: tuple[str, ...]
    paired: str
    imported: bool = False

    def weights(self, folder: Path) -> Path:
        """The weights file; what is imported is kept in ``folder``."""
        file = DATA / "weights" / self.file
        if not self.imported:
            return file
        into = folder / f"{file.stem}-imported"
        if not into.is_dir():
            import_weights(file, into)
        return into / "model.safetensors"

    def variants(self, side: int, pixels: bool) -> dict[str, dict[str, Any]]:
        """Each variant's name and [global] table, of which the first is the plain one."""
        last = self.layers[-1]
        base = {"max_side": side, "layer": last}
        found: dict[str, dict[str, Any]] = {f"{last}, gem": base}
        found |= {f"{layer}, gem": {**base, "layer": layer} for layer in self.layers[:-1]}
        found |= {f"{last}, {pooling}": {**base, "pooling": pooling} for pooling in ("average", "mac")}
        found |= {
            f"{layer}, R-MAC": {**base, "layer": layer, "pooling": "mac", "scheme": _GRID} for layer in self.layers
        }
        schemes: dict[str, dict[str, Any]] = {
            "grid": _GRID,
            "pyramid 1+2, sum": {"kind": "pyramid"},
            "pyramid 1+2, joined": {"kind": "pyramid", "aggregate": "concatenate"},
            "dense 128 px": {"kind": "dense", "on": "map", "sides": (128,), "stride": 64},
            "selective search": {"kind": "selective-search", "top": 20},
            "edge boxes": {"kind": "edge-boxes", "top": 20},
        }
        if pixels:
            schemes |= {
                "grid of pixels": {**_GRID, "on": "pixels", "levels": 2},
                "hessian-affine patches": {"kind": "hessian-affine", "top": 20, "side": 96},
            }
        found |= {f"{last}, gem, {name}": {**base, "scheme": scheme} for name, scheme in schemes.items()}
        found |= {f"{layer}, words": {**base, "layer": layer, "embedding": _WORDS} for layer in self.layers}
        found[f"{last}, gem, 3 scales"] = {**base, "scales": (1.0, 0.7071, 0.5)}
        return found


NETWORKS = {
    "densenet169": Network(
        "densenet169",
        "densenet169_imagenet/densenet169_notop_fp16.npz",
        ("block1", "block2", "block3", "features"),
        "features.transition3",
    ),
    "resnet50": Network(
        "resnet50_v1",
        "resnet50_imagenet_conv1to4/resnet50_conv1to4_fp16.npz",
        ("layer1", "layer2", "layer3"),
        "layer3.2",
        imported=True,
    ),
}


def fusions(layers: Sequence[str], database: Vectors, queries: Vectors) -> dict[str, NDArray[np.floating]]:
    """Q×N similarities of fused layers: the last two, all, all as R-MAC, all as words; early, and late in each way."""
    found = {}
    groups = {
        f"{layers[-2]} + {layers[-1]}": [f"{layer}, gem" for layer in layers[-2:]],
        "all layers": [f"{layer}, gem" for layer in layers],
        "all layers, R-MAC": [f"{layer}, R-MAC" for layer in layers],
        "all layers, words": [f"{layer}, words" for layer in layers],
        f"{layers[-1]}, gem + R-MAC": [f"{layers[-1]}, {pooling}" for pooling in ("gem", "R-MAC")],
    }
    for group, names in groups.items():
        weights = [1.0] * len(names)
        joined = [concatenate([x[name] for name in names], weights) for x in (queries, database)]
        found[f"{group}: joined"] = joined[0] @ joined[1].T
        each = np.stack([queries[name] @ database[name].T for name in reversed(names)], axis=2)
        for method in LATE:
            found[f"{group}: {method}"] = np.stack([fuse(s, weights, method) for s in each])
    # The last group is of vectors of one length.
    orthogonal = [append_orthogonal(*(x[name] for name in names)) for x in (queries, database)]
    found[f"{group}: orthogonal"] = orthogonal[0] @ orthogonal[1].T
    return found


def pairs_of_words(network: Network, weights: str, side: int) -> Recipe:
    """The recipe deepindex for two layers of a network; with cells of their maps, not of pixels."""
    recipe = load_recipe("deepindex")
    assert recipe.global_ is not None
    own = {"network": network.name, "weights": weights, "layer": network.layers[-1], "max_side": side}
    own |= {"also": [{"layer": network.paired}]}
    cells = {"scheme": {"kind": "pyramid", "cells": (1, 2, 3)}}
    return recipe.model_copy(update={"global_": GlobalStage.model_validate(recipe.global_.model_dump() | own | cells)})


def fitted(recipe: Recipe, photos: Path, sample: int, folder: Path) -> Path:
    """The recipe, fitted on a sample of photos; kept in ``folder``."""
    into = folder / f"{recipe.name}-{_key(recipe.model_dump_json(), photos, sample)}"
    if not into.is_dir():
        file = into.with_suffix(".toml")
        file.write_text(tomli_w.dumps(recipe.model_dump(by_alias=True, exclude_none=True)))
        fit_recipe(file, [photos], weights=None, into=into, sample=sample)
    return into


def learned(variants: Variants, tables: Tables, photos: Path, sample: int, folder: Path) -> Tables:
    """The tables with the words that they lack, learned from a sample of photos; kept in ``folder``."""
    into = folder / f"words-{_key(variants.describer.fingerprint, photos, sample)}"
    places = variants.describer.unlearned
    files = {place: into / str(place) for place in places}
    if not all(file.is_dir() for file in files.values()):
        paths = originals(photos)
        drawn = [paths[i] for i in np.sort(np.random.default_rng(0).permutation(len(paths))[:sample])]
        images = (read_image(path) for path in drawn)
        for place, value in learn_heads(variants.describer, images, len(drawn), f"{sample} of {photos}").items():
            files[place].mkdir(parents=True)
            save_learned(value, files[place], 0)
    names = {variants.names[place]: str(file / "embedding.safetensors") for place, file in files.items()}
    return {name: table | ({"learned": names[name]} if name in names else {}) for name, table in tables.items()}


def _key(*facts: object) -> str:
    return hashlib.sha256(" ".join(map(str, facts)).encode()).hexdigest()[:12]


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measure every variant of the networks asked for on the sets asked for, and print a table a network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_set_options(parser)
    parser.add_argument("--network", action="append", choices=NETWORKS, help="repeatable (default: all)")
    parser.add_argument("--side", type=int, default=362, help="longest side the networks see (default: 362)")
    parser.add_argument("--pixels", action="store_true", help="also schemes with a pass a region: many times slower")
    parser.add_argument("--fusion", action="store_true", help="only fusions, and the layers that are fused")
    parser.add_argument("--fit", type=Path, default=DATA / "distractors", help="photos that words are learned from")
    parser.add_argument("--sample", type=int, default=300, help="how many of these (default: 300)")
    options = parser.parse_args(arguments)
    options.collections.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    for name in options.network or NETWORKS:
        network = NETWORKS[name]
        weights = str(network.weights(options.collections))
        tables = network.variants(options.side, options.pixels)
        if options.fusion:
            fused = {f"{layer}, {how}" for layer in network.layers for how in ("gem", "R-MAC", "words")}
            tables = {variant: table for variant, table in tables.items() if variant in fused}
        pairs = pairs_of_words(network, weights, options.side)
        ready = fitted(pairs, options.fit, options.sample, options.collections)
        facts = {"network": network.name, "weights": weights}
        tables = {variant: {**facts, **table} for variant, table in tables.items()}
        variants = Variants.of(tables, _read)
        tables = learned(variants, tables, options.fit, options.sample, options.collections)
        variants = Variants.of(tables, _read)
        for labelled in labelled_sets(options):
            began = time.perf_counter()
            described = _kept(labelled, variants, options.collections)
            database, queries = described.vectors, variants.queries(labelled, described)
            similarities = {variant: queries[variant] @ database[variant].T for variant in tables}
            similarities |= fusions(network.layers, database, queries)
            for variant, similarity in similarities.items():
                length = database[variant].shape[1] if variant in database else None
                figure = measure(labelled, similarity)
                results.append(
                    {"network": name, "set": labelled.name, "variant": variant, "length": length, "mAP": figure}
                )
            variant = f"{network.paired} + {network.layers[-1]}: pairs of words"
            figure = evaluate(labelled, ready, workers=options.workers).figures.mean_average_precision
            results.append({"network": name, "set": labelled.name, "variant": variant, "length": 4096, "mAP": figure})
            print(f"{name} on {labelled.name}: {time.perf_counter() - began:.0f} s", flush=True)
    protocol = f"{protocol_text(options)}; pictures of at most {options.side} px, cosine, no whitening"
    print(header(protocol), render(results), sep="\n")
    write_json(options.out, protocol, results)
    return results


def render(results: Sequence[dict[str, Any]]) -> str:
    """A Markdown table: a line a variant, a column a set."""
    sets = list(dict.fromkeys(r["set"] for r in results))
    lines = list(dict.fromkeys((r["network"], r["variant"]) for r in results))
    figure = {(r["network"], r["variant"], r["set"]): r["mAP"] for r in results}
    length = {(r["network"], r["variant"]): r["length"] for r in results}
    rows = [(*line, length[line], *(percent(figure[*line, name]) for name in sets)) for line in lines]
    return table(("network", "variant", "dimensions", *sets), rows)


def _read(path: str | Path, box: Box | None) -> Image:
    """The whole picture, or the box cut out of it, at full resolution."""
    image = read_image(path)
    return image if box is None else crop(image, box)[0]


def _kept(labelled: LabelledSet, variants: Variants, folder: Path) -> Described:
    images = [labelled.locate(path) for path in labelled.database]
    file = folder / f"{cache_name(labelled.name, images, variants.describer.fingerprint)}-variants.npz"
    if not file.is_file():
        described = variants.describe([(path, None) for path in images])
        for place, reason in described.unread.items():
            raise ImageError(f"{images[place]}: {reason}")
        np.savez(file, **described.vectors)
    with np.load(file) as kept:
        return Described({name: kept[name] for name in variants.names}, tuple(range(len(images))), {})


if __name__ == "__main__":
    main()
