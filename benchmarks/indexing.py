"""Photos indexed a second and peak memory, beside the plain loops that scripts of the field run."""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2

import photos
from common import DATA, header, table, write_json
from process import watched
from resight.errors import ImageError, RecipeError
from resight.local.rootsift import root
from resight.recipes import load_recipe
from resight.recipes.poolings import Gem, Plain
from resight.search.collection import Collection


@dataclass(frozen=True)
class Result:
    """One way of indexing. seconds: without starting Python. state: bytes a photo on disk, None where nothing is kept.

    peak, private: bytes of resident memory, of the process and its workers, with and without mapped files.
    """

    system: str
    photos: int
    seconds: float
    peak: int
    private: int
    state: float | None

    @property
    def rate(self) -> float:
        """Photos a second."""
        return self.photos / self.seconds


def index(paths: Sequence[Path], recipe: str, workers: int) -> tuple[float, float]:
    """Index into a new collection: seconds, codebook included, and bytes a photo."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        with Collection.create(Path(folder) / "c", recipe) as collection:
            collection.add(paths, workers=workers)
            seconds = time.perf_counter() - began
            return seconds, collection.info().bytes_per_image


def plain_sift(paths: Sequence[Path], keep: bool) -> float:
    """OpenCV's SIFT in a loop of one process, at the default recipe's sizes: seconds. keep: all RootSIFT in a list."""
    recipe = load_recipe("rootsift-asmk")
    if recipe.local is None:
        raise RecipeError("the default recipe has no local features")
    began = time.perf_counter()
    sift = cv2.SIFT_create(recipe.local.max_features, contrastThreshold=recipe.local.contrast_threshold)
    kept = []
    for path in paths:
        grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if grey is None:
            raise ImageError(f"{path}: cannot be read")
        scale = min(1.0, recipe.image.max_side / max(grey.shape))
        _, descriptors = sift.detectAndCompute(cv2.resize(grey, None, fx=scale, fy=scale), None)
        if keep and descriptors is not None:
            kept.append((root(descriptors) / 512).astype("float32"))
    return time.perf_counter() - began


def plain_network(paths: Sequence[Path], recipe: str) -> float:
    """The recipe's network in an eager PyTorch loop, one photo at a time at the same sizes: seconds.

    Pooled by GeM or MAC over the last map alone: of regions, further layers and local features it does nothing.
    """
    import torch

    from resight.networks.architectures import import_timm

    stage = load_recipe(recipe).global_
    if stage is None:
        raise RecipeError(f"recipe {recipe} has no [global] table")
    network = (
        import_timm().create_model(stage.network, pretrained=False, num_classes=0).eval()
    )  # speed needs no weights
    pooling = stage.pooling
    if not isinstance(pooling, Gem | Plain) or pooling.kind not in ("gem", "mac"):
        raise SystemExit(f"the plain loop pools by gem or mac, not by {pooling.kind}")
    began = time.perf_counter()
    with torch.inference_mode():
        for path in paths:
            pixels = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
            for scale in stage.scales:
                factor = scale * min(1.0, stage.max_side / max(pixels.shape[:2]))
                small = cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
                x = torch.from_numpy(small).permute(2, 0, 1)[None].float() / 255
                maps = network.forward_features((x - 0.45) / 0.225)
                if isinstance(pooling, Gem):
                    maps.clamp(min=1e-6).pow(pooling.p).mean((2, 3)).pow(1 / pooling.p)
                else:
                    maps.amax((2, 3))
    return time.perf_counter() - began


def main(arguments: Sequence[str] | None = None) -> list[Result]:
    """Measure each way in a fresh process, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, default=DATA / "distractors", help="folder of real photographs")
    parser.add_argument("--photos", type=int, nargs="+", default=[500, 5000], help="sizes (default: 500 5000)")
    parser.add_argument("--plain-photos", type=int, default=500, help="photos for the plain loops (default: 500)")
    parser.add_argument("--side", type=int, default=1024, help="longest side of the photos (default: 1024)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--recipe", action="append", default=[], help="also this recipe; repeatable")
    parser.add_argument("--work", type=Path, help="folder that keeps the photos made (default: temporary)")
    parser.add_argument("--out", type=Path, help="also write the results to this JSON file")
    options = parser.parse_args(arguments)
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as temporary:
        count = max(*options.photos, options.plain_photos)
        sources = photos.originals(options.source)
        made = photos.write(sources, range(count), options.work or Path(temporary), side=options.side)
        plain = made[: options.plain_photos]
        for name, keep in (("plain SIFT loop", False), ("plain SIFT loop, kept in a list", True)):
            run = watched(plain_sift, plain, keep)
            results.append(Result(name, len(plain), run.value, run.peak, run.private, None))
        for recipe in ["rootsift-asmk", *options.recipe]:
            name = load_recipe(recipe).name
            if load_recipe(recipe).global_ is not None:
                run = watched(plain_network, plain, recipe)
                results.append(
                    Result(f"plain PyTorch loop ({name})", len(plain), run.value, run.peak, run.private, None)
                )
            for size in options.photos:
                run = watched(index, made[:size], recipe, options.workers)
                results.append(Result(f"resight {name}", size, run.value[0], run.peak, run.private, run.value[1]))
    protocol = (
        f"photos of {options.source}, {len(sources)} real ones, the rest warped copies, longest side at most "
        f"{options.side} px; resight with {options.workers} workers, codebook included; plain loops in one process, "
        "with the threads OpenCV and PyTorch take; peak: resident memory of process and workers summed, every 50 ms, "
        "and of it what is private, which is all but pages of mapped files"
    )
    print(header(protocol), render(results), sep="\n")
    write_json(options.out, protocol, [asdict(r) for r in results])
    return results


def render(results: Sequence[Result]) -> str:
    """A Markdown table; the ratio is to the last plain loop above."""
    rows, plain = [], results[0].rate
    for r in results:
        if r.system.startswith("plain") and "list" not in r.system:
            plain = r.rate
        state = None if r.state is None else f"{r.state:,.0f}"
        rows.append(
            (
                r.system,
                r.photos,
                f"{r.rate:.2f}",
                f"{r.rate / plain:.2f}",
                f"{r.peak / 2**20:.0f}",
                f"{r.private / 2**20:.0f}",
                state,
            )
        )
    return table(
        ("", "photos", "photos a second", "× plain loop", "peak memory, MiB", "private, MiB", "bytes a photo"), rows
    )


if __name__ == "__main__":
    main()
