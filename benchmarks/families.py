"""Every scheme of the survey's §4.1.1 on every family of networks of its §3, through `evaluate`, on a few photographs.

It shows that each pair runs, or says why not; the figures are of so few photographs that they compare nothing. The set
and the recipes are kept: `resight evaluate WORK/set --recipe WORK/recipes/NAME.toml` repeats one cell.
"""

import argparse
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from safetensors.torch import save_file

from common import DATA, header, percent, table, write_json
from layers import NETWORKS
from resight.errors import ResightError
from resight.evaluation import LabelledSet, evaluate, load_labelled, sample
from resight.networks.architectures import create_network
from resight.networks.sketch import Sketch

_SECONDS = "s of indexing and asking, with the network's loading"


@dataclass(frozen=True)
class Family:
    """A network of a family and the layer that is pooled.

    trained: its name in ``layers.NETWORKS`` where there are trained weights; else they are random.
    """

    network: str
    layer: str = "features"
    trained: str = ""

    def weights(self, folder: Path, seed: int) -> Path:
        """The weights file; random and imported ones are written into ``folder`` once."""
        if self.trained:
            return NETWORKS[self.trained].weights(folder)
        path = folder / f"{self.network}-{seed}.safetensors"
        if not path.is_file():
            torch.manual_seed(seed)
            network = create_network(self.network)
            for name, parameter in network.named_parameters():
                if name.endswith("gamma"):  # blocks begin as next to nothing, and all pictures would look alike
                    parameter.fill_(1)
            unused = ("pre_logits.", "classifier.")  # most of VGG's and AlexNet's weights
            state = {k: v.contiguous() for k, v in network.state_dict().items() if not k.startswith(unused)}
            save_file(state, path)
        return path


FAMILIES = {
    "AlexNet": Family("alexnet"),
    "VGG-16": Family("vgg16", "conv5"),
    "GoogLeNet": Family("googlenet"),
    "ResNet-50": Family("resnet50_v1", "layer3", trained="resnet50"),
    "DenseNet-169": Family("densenet169", trained="densenet169"),
    "ConvNeXt": Family("convnext_atto"),
    "ViT": Family("vit_tiny_patch16_224"),
    "ViT, cls": Family("vit_tiny_patch16_224", "cls"),
    "DeiT": Family("deit_tiny_patch16_224"),
    "Swin": Family("swin_tiny_patch4_window7_224"),
    "DINOv2": Family("vit_small_patch14_dinov2"),
    "DINOv3": Family("vit_small_patch16_dinov3"),
    "CLIP": Family("vit_xsmall_patch16_clip_224"),
    "SigLIP": Family("vit_base_patch16_siglip_224"),
}


def schemes(side: int, models: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Each scheme's name and keys of [global], for pictures of a longest side; regions of pixels are half as large.

    models: of the proposals that need one, by kind.
    """
    crop = {"on": "pixels", "side": max(32, side // 2)}
    found: dict[str, dict[str, Any]] = {
        "grid on map": {"kind": "grid", "levels": 2},
        "grid on pixels": {"kind": "grid", "levels": 1, **crop},
        "pyramid on map": {"kind": "pyramid"},
        "dense on map": {"kind": "dense", "on": "map", "sides": [side // 2], "stride": side // 4},
        "dense on pixels": {"kind": "dense", "sides": [3 * side // 4], "stride": side // 4, **crop},
    }
    proposals = {"top": 4, "seen": max(64, side)}
    found |= {f"{kind} on map": {"kind": kind, **proposals} for kind in ("selective-search", "edge-boxes")}
    found["edge-boxes on pixels"] = {"kind": "edge-boxes", **proposals, **crop}
    for kind in ("bing", "rpn"):
        model = {"model": str(models[kind].absolute())} if kind in models else {}
        found[kind] = {"kind": kind, **proposals, **model}
    found |= {kind: {"kind": kind, "top": 4, "side": crop["side"]} for kind in ("dog", "mser", "hessian-affine")}
    tables = {name: {"scheme": scheme} for name, scheme in found.items()}
    return {"whole": {}, "2 scales": {"scales": [1.0, 0.7071]}, **tables}


@dataclass(frozen=True)
class Cell:
    """One scheme on one family. mAP: None where the recipe was refused. said: why, or what could not be indexed."""

    family: str
    scheme: str
    weights: str
    mAP: float | None
    seconds: float
    said: str


def main(arguments: Sequence[str] | None = None) -> list[Cell]:
    """Evaluate every pair that is asked for, and print a table and what was refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", type=Path, default=DATA / "museum_mcv", help="folder of a labelled set to draw from")
    parser.add_argument("--work", type=Path, required=True, help="folder for the set, weights and recipes")
    parser.add_argument("--family", action="append", choices=FAMILIES, help="repeatable (default: all)")
    parser.add_argument("--scheme", action="append", choices=schemes(128, {}), help="repeatable (default: all)")
    parser.add_argument("--photos", type=int, default=12, help="of the database (default: 12)")
    parser.add_argument("--queries", type=int, default=4, help="(default: 4)")
    parser.add_argument("--side", type=int, default=128, help="longest side the networks see (default: 128)")
    parser.add_argument("--bing", type=Path, help="folder of BING's trained model (default: none, so it is refused)")
    parser.add_argument("--rpn", type=Path, help="weights of a Faster R-CNN (default: none, so it is refused)")
    parser.add_argument("--seed", type=int, default=0, help="of the photographs and of random weights (default: 0)")
    parser.add_argument("--out", type=Path, help="also write the results to this JSON file")
    options = parser.parse_args(arguments)
    recipes = options.work / "recipes"
    recipes.mkdir(parents=True, exist_ok=True)
    source = load_labelled(options.set)
    labelled = load_labelled(few(source, options.work / "set", options.photos, options.queries, options.seed))
    models = {kind: path for kind in ("bing", "rpn") if (path := getattr(options, kind)) is not None}
    chosen = {name: keys for name, keys in schemes(options.side, models).items() if name in (options.scheme or [name])}
    cells = []
    for family in options.family or FAMILIES:
        member = FAMILIES[family]
        weights = member.weights(options.work, options.seed)
        (tap,) = Sketch(member.network).taps([member.layer])
        for scheme, keys in chosen.items():
            text = recipe_text(member, tap.layer.channels, weights, options.side, keys)
            file = recipes / f"{_slug(family)}-{_slug(scheme)}.toml"
            file.write_text(text, encoding="utf-8")
            cells.append(_run(labelled, file, family, scheme))
            print(cells[-1], flush=True)
    protocol = (
        f"{len(labelled.queries)} queries of {source.name} against {len(labelled.database)} photographs, seed "
        f"{options.seed}; pictures of at most {options.side} px, average of the layer, cosine, no whitening"
    )
    print(header(protocol), render(cells), sep="\n")
    write_json(options.out, protocol, [asdict(cell) for cell in cells])
    return cells


def few(labelled: LabelledSet, folder: Path, photos: int, queries: int, seed: int) -> Path:
    """A small set as a folder of links with its gt.json: some queries, a positive of each, and others to fill up."""
    answered = replace(labelled, queries=tuple(query for query in labelled.queries if query.positives))
    asked = sample(answered, queries, seed).queries
    positives = dict.fromkeys(min(query.positives) for query in asked)
    related = {path for query in asked for path in (query.path, *query.positives, *query.junk)}
    others = [path for path in labelled.database if path not in related]
    filling = np.random.default_rng(seed).choice(others, max(0, photos - len(positives)), replace=False)
    names = {path: path.replace("/", "-") for path in (*positives, *filling.tolist(), *(q.path for q in asked))}
    folder.mkdir(parents=True, exist_ok=True)
    for path, name in names.items():
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to(labelled.locate(path))
    database = [names[path] for path in (*positives, *filling.tolist())]
    answers = {names[q.path]: {"positives": [names[p] for p in positives if p in q.positives]} for q in asked}
    truth = {"name": f"few of {labelled.name}", "database": database, "queries": answers}
    (folder / "gt.json").write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")
    return folder


def recipe_text(family: Family, channels: int, weights: Path, side: int, keys: Mapping[str, Any]) -> str:
    """The TOML of a recipe for a layer of so many channels. keys: of [global], that say the scheme."""
    stage = {
        "network": family.network,
        "layer": family.layer,
        "weights": str(weights.absolute()),
        "max_side": side,
        "pooling": "average",
        "whiten": "none",
        "dimensions": channels,
        **keys,
    }
    about = {"name": "families", "title": "A scheme on a family of networks", "source": "benchmarks/families.py"}
    return tomli_w.dumps({**about, "filter": "global", "image": {"max_side": side}, "global": stage})


def render(cells: Sequence[Cell]) -> str:
    """A Markdown table, a line a scheme and a column a family: mAP and seconds, or the number of a refusal below."""
    families = list(dict.fromkeys(cell.family for cell in cells))
    named = list(dict.fromkeys(cell.scheme for cell in cells))
    texts = list(dict.fromkeys(cell.said for cell in cells if cell.said))
    by_place = {(cell.scheme, cell.family): _shown(cell, texts) for cell in cells}
    weights = {cell.family: cell.weights for cell in cells}
    rows = [(scheme, *(by_place[scheme, family] for family in families)) for scheme in named]
    lines = table(("scheme", *families), [("weights", *weights.values()), *rows])
    notes = "\n".join(f"{number}. {text}" for number, text in enumerate(texts, 1))
    return f"{lines}\n\nA cell: mAP in per cent, {_SECONDS}; in brackets, what was said:\n\n{notes}"


def _run(labelled: LabelledSet, recipe: Path, family: str, scheme: str) -> Cell:
    weights, began = "trained" if FAMILIES[family].trained else "random", time.perf_counter()
    try:
        report = evaluate(labelled, recipe, workers=1)
    except ResightError as error:
        return Cell(family, scheme, weights, None, time.perf_counter() - began, str(error))
    figure, seconds = report.figures.mean_average_precision, time.perf_counter() - began
    return Cell(family, scheme, weights, figure, seconds, "; ".join(sorted(set(report.not_indexed.values()))))


def _shown(cell: Cell, texts: Sequence[str]) -> str:
    said = [f"({texts.index(cell.said) + 1})"] if cell.said else []
    figure = percent(cell.mAP)
    return " ".join([*([] if figure is None else [f"{figure}, {cell.seconds:.1f} s"]), *said])


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower())


if __name__ == "__main__":
    main()
