"""What 8-bit networks cost in mAP and gain in speed, beside the same networks in float32 by the same engine.

GeM vectors by cosine, no whitening. Networks are quantised on photographs that belong to none of the sets.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import photos
from common import DATA, add_set_options, header, labelled_sets, percent, protocol_text, table, write_json
from layers import NETWORKS, measure
from resight.describe.views import Feeding
from resight.evaluation import LabelledSet
from resight.features.multiscale import l2_normalise
from resight.geometry.boxes import crop
from resight.images.read import read_image
from resight.networks.backbone import load_backbone
from resight.networks.engine import Engine, OpenVinoEngine
from resight.networks.quantise import QuantisedEngine, quantise
from resight.pooling.gem import gem
from resight.recipes.network_stages import Branch

SIDES = {"densenet169": 320, "resnet50": 362}
_ROUNDS, _TIMED = 7, 16  # by turns, so that other work on the machine slows both alike


@dataclass(frozen=True)
class Result:
    """One network on one set. mAP as fractions; speed: images a second of 8 bits over those of float32."""

    network: str
    side: int
    set: str
    float_map: float
    int8_map: float
    cosine: float
    speed: float


def pictures(paths: Sequence[tuple[Path, object]], feeding: Feeding) -> list[NDArray[np.uint8]]:
    """1×H×W×3 each, as the network sees them, of images or boxes in them."""
    found = []
    for path, box in paths:
        image = read_image(path, max_side=feeding.branch.max_side) if box is None else crop(read_image(path), box)[0]
        found.append(feeding.views(image.pixels).pictures[0][None])
    return found


def vectors(engine: Engine, batches: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """N×C, ℓ2-normalised."""
    return l2_normalise(np.concatenate([gem(engine(batch)[0]).double().numpy() for batch in batches]))


def speed(plain: Engine, quick: Engine, batches: Sequence[NDArray[np.uint8]]) -> float:
    """Median over rounds of the time of `plain` over that of `quick`."""
    ratios = []
    for _ in range(_ROUNDS + 1):  # the first prepares both for these sizes
        times = []
        for engine in (plain, quick):
            began = time.perf_counter()
            for batch in batches:
                engine(batch)
            times.append(time.perf_counter() - began)
        ratios.append(times[0] / times[1])
    return float(np.median(ratios[1:]))


def compare(labelled: LabelledSet, feeding: Feeding, plain: Engine, quick: Engine) -> tuple[float, float, float]:
    """mAP in float32 and in 8 bits, and the mean cosine between the two vectors of an image."""
    database = pictures([(labelled.locate(path), None) for path in labelled.database], feeding)
    queries = pictures([(labelled.locate(q.path), q.box) for q in labelled.queries], feeding)
    (x, asked), (x8, asked8) = ((vectors(e, database), vectors(e, queries)) for e in (plain, quick))
    cosine = float(np.mean(np.einsum("nc,nc->n", x, x8)))
    return measure(labelled, asked @ x.T), measure(labelled, asked8 @ x8.T), cosine


def main(arguments: Sequence[str] | None = None) -> list[Result]:
    """Measure the networks asked for on the sets asked for, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_set_options(parser)
    parser.add_argument("--network", action="append", choices=SIDES, help="repeatable (default: all)")
    parser.add_argument("--source", type=Path, default=DATA / "distractors", help="photographs to quantise on")
    parser.add_argument("--photos", type=int, default=300, help="how many of these (default: 300)")
    options = parser.parse_args(arguments)
    options.collections.mkdir(parents=True, exist_ok=True)
    results = []
    for name in options.network or SIDES:
        network = NETWORKS[name]
        layer = network.layers[-1]
        backbone = load_backbone(network.name, layers=[layer], weights=network.weights(options.collections))
        feeding = Feeding(Branch(network=network.name, max_side=SIDES[name]), backbone.multiple, backbone.least)
        drawn = np.random.default_rng(options.seed).permutation(photos.originals(options.source))[: options.photos]
        shown = pictures([(path, None) for path in drawn], feeding)
        file = options.collections / f"{name}-{len(shown)}.xml"
        if not file.is_file():
            quantise(backbone, [batch[0] for batch in shown], file, fitted_on=f"{len(shown)} of {options.source}")
        plain, quick = OpenVinoEngine(backbone), QuantisedEngine(backbone, file)
        ratio = speed(plain, quick, shown[:_TIMED])
        for labelled in labelled_sets(options):
            result = Result(name, SIDES[name], labelled.name, *compare(labelled, feeding, plain, quick), ratio)
            print(result, flush=True)
            results.append(result)
    protocol = (
        f"{protocol_text(options)}; quantised on {options.photos} photographs drawn from {options.source}; speed: "
        f"median of {_ROUNDS} turns of {_TIMED} photographs one at a time"
    )
    print(header(protocol), render(results), sep="\n")
    write_json(options.out, protocol, [asdict(result) for result in results])
    return results


def render(results: Sequence[Result]) -> str:
    """A Markdown table."""
    head = ("network", "longest side", "set", "mAP float32, %", "mAP 8 bits, %", "difference", "cosine", "speed")
    rows = [
        (
            r.network,
            r.side,
            r.set,
            percent(r.float_map),
            percent(r.int8_map),
            f"{100 * (r.int8_map - r.float_map):+.2f}",
            f"{r.cosine:.4f}",
            f"{r.speed:.2f}×",
        )
        for r in results
    ]
    return table(head, rows)


if __name__ == "__main__":
    main()
