"""Local detectors side by side: what they find again in photos seen under known homographies, their speed and size.

Each photo is seen twice, plainly and warped, with other light, noise and compression in the second view. Of the
keypoints within the area that both views show:

repeatability: the share that has one of the other view within 3 pixels, over both views (Mikolajczyk et al., IJCV 2005,
    by distance, as DeTone et al., CVPR Workshops 2018, measure it).
matching score: mutual nearest neighbours by descriptor within 3 pixels, of the mean number of keypoints of a view.
precision: the share of right ones of the mutual nearest neighbours.
homography: the share of pairs for which the map that MAGSAC finds from these moves the corners by 3 pixels at most, on
    average.

Retrieval is benchmarks/accuracy.py's, on the four sets, of recipes fitted on other photos; TRAINED is what
`resight train --procedural` made, and `compact` with the weights that come with resight the same:

    resight fit aliked-asmk PHOTOS --local-weights aliked-n16rot.pth --into FIT/aliked
    resight fit hardtfeat-asmk PHOTOS --local-weights hardtfeat --into FIT/hardtfeat
    resight fit compact-asmk PHOTOS --local-weights TRAINED/model.safetensors --into FIT/compact
    resight fit gem-densenet169 PHOTOS --weights densenet169.safetensors --into FIT/gem
    python benchmarks/accuracy.py --collections FOLDER --recipe rootsift-asmk --recipe FIT/aliked \\
        --recipe FIT/hardtfeat --recipe FIT/compact --recipe FIT/gem --recipe TRAINED
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from common import DATA, SETS, header, percent, table, write_json
from resight.describe.local_features import load_local
from resight.evaluation import load_labelled
from resight.evaluation.made_ready import with_weights_from
from resight.geometry.homography import corners, project
from resight.images.image import Image
from resight.images.read import read_image
from resight.local.aliked import AlikedNetwork
from resight.local.features import LocalFeatures
from resight.local.nearest import match_all
from resight.networks.compact import Compact
from resight.networks.torchvision_ops import ensure_torchvision
from resight.recipes import load_recipe
from resight.recipes.local_stages import LocalStage

# Recipe whose local features they are, and the folder of DATA that has their weights.
SYSTEMS = {
    "rootsift": ("rootsift-asmk", None),
    "hardtfeat": ("hardtfeat-asmk", "weights"),
    "aliked-n16rot": ("aliked-asmk", "weights/aliked"),
    "compact": ("compact-asmk", None),
}
# Turn in degrees, factor of scale and shift of a corner as a fraction of the side, each at most.
VIEWS = {"viewpoint": (15.0, 1.4, 0.15), "turned": (60.0, 2.0, 0.15)}
ALIKED_N16 = (16, 32, 64, 128), 16  # its channels and deformable positions
_WITHIN = 3.0  # pixels


@dataclass(frozen=True)
class Pair:
    """Two views of a photo; homography: 3×3, from pixels of the first to pixels of the second."""

    first: Image
    second: Image
    homography: NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """Of one pair. error: of the estimated homography, mean over the first view's corners in pixels; inf for none."""

    repeatability: float
    matching_score: float
    precision: float
    error: float


@dataclass(frozen=True)
class Result:
    """Of one detector under views of one kind, means over pairs. speed: images a second of one core. size: bytes."""

    system: str
    views: str
    features: float
    repeatability: float
    matching_score: float
    precision: float
    homography: float
    speed: float
    size: float


def make_pair(pixels: NDArray[np.uint8], side: int, views: tuple[float, float, float], seed: int) -> Pair:
    """Two views of side × side' pixels, the longest `side`, of a photo of at least twice as many."""
    rng = np.random.default_rng(seed)
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    w, h = round(width * scale), round(height * scale)
    turn, zoom, shift = views
    angle = np.radians(rng.uniform(-turn, turn))
    factor = np.exp(rng.uniform(-np.log(zoom), np.log(zoom)))
    outline = corners((0, 0, w - 1, h - 1))
    centre = outline.mean(axis=0)
    turned = factor * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = (outline - centre) @ turned.T + centre + rng.uniform(-shift, shift, (4, 2)) * side
    homography = cv2.getPerspectiveTransform(outline.astype(np.float32), moved.astype(np.float32)).astype(float)
    # Drawn at twice the size, since warping does not smooth what it makes smaller; pixel p is at 2p + 1/2 there.
    double = np.array([[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1]])
    drawn = cv2.resize(pixels, (2 * w, 2 * h), interpolation=cv2.INTER_AREA)
    warped = cv2.warpPerspective(
        drawn,
        double @ homography @ np.linalg.inv(double),
        (2 * w, 2 * h),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    first, second = (cv2.resize(each, (w, h), interpolation=cv2.INTER_AREA) for each in (drawn, warped))
    return Pair(Image(first, (w, h), "first"), Image(_seen_otherwise(second, rng), (w, h), "second"), homography)


def _seen_otherwise(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """With another gamma, gain and colour of light, noise, and JPEG's compression."""
    light = 255 * (pixels / 255.0) ** rng.uniform(0.7, 1.4) * rng.uniform(0.7, 1.2) * rng.uniform(0.9, 1.1, 3)
    noisy = np.clip(light + rng.normal(scale=rng.uniform(0, 5), size=pixels.shape), 0, 255).astype(np.uint8)
    _, data = cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(50, 95))])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def compare(first: LocalFeatures, second: LocalFeatures, pair: Pair) -> Agreement:
    """How far the features of the two views agree."""
    w, h = pair.first.size
    there, back = project(pair.homography, first.xy), project(np.linalg.inv(pair.homography), second.xy)
    shared = [((xy >= 0) & (xy <= (w - 1, h - 1))).all(axis=1) for xy in (there, back)]
    a, b, there = first.part(shared[0]), second.part(shared[1]), there[shared[0]]
    if not (len(a) and len(b)):
        return Agreement(0.0, 0.0, 0.0, np.inf)
    near = np.linalg.norm(there[:, None] - b.xy, axis=2) <= _WITHIN
    i, j, _ = match_all(a.descriptors, b.descriptors)
    right = int(near[i, j].sum())
    return Agreement(
        (near.any(axis=1).sum() + near.any(axis=0).sum()) / (len(a) + len(b)),
        right / ((len(a) + len(b)) / 2),
        right / max(1, len(i)),
        _error(first, second, pair),
    )


def _error(first: LocalFeatures, second: LocalFeatures, pair: Pair) -> float:
    """Of the homography from all mutual nearest neighbours, whether or not both views show them."""
    i, j, _ = match_all(first.descriptors, second.descriptors)
    if len(i) < 4:
        return np.inf
    cv2.setRNGSeed(0)
    found, _ = cv2.findHomography(first.xy[i], second.xy[j], cv2.USAC_MAGSAC, _WITHIN)
    if found is None:
        return np.inf
    w, h = pair.first.size
    outline = corners((0, 0, w - 1, h - 1))
    return float(np.linalg.norm(project(found, outline) - project(pair.homography, outline), axis=1).mean())


def stage_of(system: str, weights: Path | None) -> LocalStage:
    """The detector's table; weights: of compact, None for those that come with resight."""
    name, folder = SYSTEMS[system]
    recipe = load_recipe(name)
    if folder is not None:
        recipe = with_weights_from(recipe, DATA / folder)
    if recipe.local is None:
        raise ValueError(f"recipe {name} has local features")
    given = {"weights": str(weights)} if system == "compact" and weights is not None else {}
    return recipe.local.model_copy(update=given)


def measure(system: str, stage: LocalStage, views: str, pairs: Sequence[Pair]) -> Result:
    """One detector on all pairs."""
    extractor = load_local(stage, system)
    extractor.extract(pairs[0].first)  # what is loaded or compiled at the first call is not timed
    agreements, seconds, counts, sizes = [], 0.0, [], []
    for pair in pairs:
        began = time.process_time()
        first, second = extractor.extract(pair.first), extractor.extract(pair.second)
        seconds += time.process_time() - began
        agreements.append(compare(first, second, pair))
        for each in (first, second):
            counts.append(len(each))
            columns = (each.xy, each.size, each.angle, each.score, each.descriptors)
            sizes.append(sum(column.nbytes for column in columns))
    return Result(
        system,
        views,
        float(np.mean(counts)),
        float(np.mean([each.repeatability for each in agreements])),
        float(np.mean([each.matching_score for each in agreements])),
        float(np.mean([each.precision for each in agreements])),
        float(np.mean([each.error <= _WITHIN for each in agreements])),
        2 * len(pairs) / seconds,
        float(np.mean(sizes)),
    )


def photos(sets: Sequence[Path], count: int, seed: int) -> list[Path]:
    """So many photos, evenly of the sets' databases, drawn with the seed."""
    drawn = []
    for number, folder in enumerate(sets):
        labelled = load_labelled(folder)
        share = count // len(sets) + (number < count % len(sets))
        chosen = np.random.default_rng(seed).permutation(len(labelled.database))[:share]
        drawn += [Path(labelled.locate(labelled.database[place])) for place in np.sort(chosen)]
    return drawn


def time_networks() -> None:
    """Print milliseconds of one core that networks take for one picture, best of three; weights are random."""
    ensure_torchvision()
    import timm

    compact = Compact().folded().to(memory_format=torch.channels_last)
    timms = {
        name: timm.create_model(name, num_classes=0).eval().to(memory_format=torch.channels_last).forward_features
        for name in ("mobilenetv3_large_100", "densenet169")
    }
    networks = {
        "compact": compact,
        "compact, global side": compact.forward_features,
        "aliked-n16rot, without descriptors": AlikedNetwork(*ALIKED_N16).eval(),
        **timms,
    }
    sides = ((480, 640), (352, 352))
    rows = []
    with torch.inference_mode():
        pictures = [torch.rand(1, 3, *side).to(memory_format=torch.channels_last) for side in sides]
        for name, network in networks.items():
            rows.append([name, *(f"{1000 * min(_seconds(network, x) for _ in range(3)):.0f}" for x in pictures)])
    print(header("PyTorch, one picture, channels last, milliseconds of CPU time, best of three"))
    print(table(["network", *(f"{width}×{height}" for height, width in sides)], rows))


def _seconds(network: Callable[[torch.Tensor], object], x: torch.Tensor) -> float:
    began = time.process_time()
    network(x)
    return time.process_time() - began


def main(arguments: Sequence[str] | None = None) -> list[Result]:
    """Measure what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", choices=SYSTEMS, action="append", help="repeatable (default: all)")
    parser.add_argument("--compact", type=Path, help="weights of compact (default: those that come with resight)")
    parser.add_argument("--set", dest="sets", type=Path, action="append", help="folder of a labelled set; repeatable")
    parser.add_argument("--pairs", type=int, default=60, help="photos, each seen twice (default: 60)")
    parser.add_argument("--side", type=int, default=640, help="longest side of a view in pixels (default: 640)")
    parser.add_argument("--features", type=int, default=1000, help="at most, an image (default: 1000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--networks", action="store_true", help="only the networks' own time")
    parser.add_argument("--out", type=Path, help="also write the results to this JSON file")
    options = parser.parse_args(arguments)
    if options.networks:
        time_networks()
        return []
    sets = options.sets or [DATA / name for name in SETS]
    protocol = (
        f"{options.pairs} photos of {', '.join(folder.name for folder in sets)}, views of {options.side} pixels, "
        f"{options.features} features at most, mutual nearest neighbours, {_WITHIN:g} pixels; seed {options.seed}. "
        "Speed is of the CPU time of all threads; bytes are those of keypoints and descriptors as they are kept"
    )
    print(header(protocol))
    originals = [
        read_image(path, max_side=4 * options.side).pixels for path in photos(sets, options.pairs, options.seed)
    ]
    results = []
    for kind, views in VIEWS.items():
        pairs = [make_pair(pixels, options.side, views, options.seed + n) for n, pixels in enumerate(originals)]
        for system in options.system or SYSTEMS:
            stage = stage_of(system, options.compact).model_copy(update={"max_features": options.features})
            results.append(measure(system, stage, kind, pairs))
    shares = ("repeatability, %", "matching score, %", "precision, %", "homography, %")
    print(table(["views", "detector", "features", *shares, "images/s", "bytes"], [_row(each) for each in results]))
    write_json(options.out, protocol, [asdict(each) for each in results])
    return results


def _row(result: Result) -> list[object]:
    shares = (result.repeatability, result.matching_score, result.precision, result.homography)
    sizes = (f"{result.speed:.1f}", f"{result.size:,.0f}")
    return [result.views, result.system, f"{result.features:.0f}", *map(percent, shares), *sizes]


if __name__ == "__main__":
    main()
