"""Images described by a network a second, beside the field's loop and beside the bare forward pass.

The field's loop is cirtorch's: one photograph at a time is opened, reduced by Pillow, and goes through PyTorch in eager
mode. The bare pass has the same pictures, ready, in memory. Speed needs no trained weights: they are random.

Where the network keeps all cores busy, reading takes its time from it: of b images a second bare, and r seconds of
one core to read and prepare an image, c cores make at most 1 / (1 + b · r / c). Starting the reading processes and
preparing the network for each new size of picture weigh the more, the fewer the photographs.

Where other processes take their share of the machine, images a second say little, the loop's least of all, whose
threads wait for each other. The core's time that each image takes, in all processes, still compares what they do;
with OMP_NUM_THREADS=1, since threads that wait may spin.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import psutil

import photos
from common import DATA, header, table, write_json
from process import watched
from resight.describe.describer import Describer
from resight.images.read import read_image
from resight.recipes import Recipe
from resight.recipes.network_stages import GlobalStage
from resight.recipes.recipe import ImageStage
from resight.search.collection import Collection

# timm's name, layer, longest side in pixels, length of the layer's vector
NETWORKS = {
    "resnet50": ("layer4", 362, 2048),
    "densenet169": ("features", 320, 1664),
    "mobilenetv3_large_100": ("features", 224, 960),
    "vit_small_patch14_dinov2": ("cls", 224, 384),
    "resnet101": ("layer4", 1024, 2048),
}
FOR_CPU = tuple(NETWORKS)[:-1]  # benchmarks/gpu.py has the last
_WARM = 16  # pictures that go through a network before it is timed
MEGAPIXELS = (0.3, 1, 4, 12, 24, 50)  # of the photographs of the memory test


@dataclass(frozen=True)
class Result:
    """One network. loop, ours, bare: images a second. work: seconds of a core that each of them takes for an image.

    reading: the same for reading and preparing one. bound: of ours / bare.

    peak, loop_peak: bytes of private memory of all processes. others: largest share of the machine's time that other
    processes took from a run.
    """

    network: str
    engine: str
    images: int
    side: int
    loop: float
    ours: float
    bare: float
    work: tuple[float, float, float]
    reading: float
    bound: float
    peak: int
    loop_peak: int
    others: float


def recipe(network: str, weights: Path, quantised: str = "") -> Recipe:
    """The recipe that is measured: one layer, one scale, no whitening."""
    layer, side, length = NETWORKS[network]
    stage = GlobalStage(
        network=network,
        layer=layer,
        max_side=side,
        dimensions=length,
        whiten="none",
        weights=str(weights),
        quantised=quantised,
    )
    facts = {"name": "extraction", "title": network, "source": "benchmarks/extraction.py", "filter": "global"}
    return Recipe.model_validate({**facts, "image": ImageStage(max_side=side), "global": stage})


def write_quantised(paths: Sequence[Path], chosen: Recipe, into: Path) -> str:
    """The recipe's network in 8 bits, as a file."""
    into.mkdir(exist_ok=True)
    network = Describer(chosen).network
    if network is None:
        raise ValueError("the recipe has no network")
    prepared = [network.prepare(read_image(path, max_side=chosen.image.max_side).pixels) for path in paths]
    return str(into / network.quantise(prepared, into, "photographs of the benchmark")[0])


def write_random(network: str, weights: Path) -> None:
    """Random weights of a network, as a file."""
    import torch
    from safetensors.torch import save_file

    from resight.networks.architectures import import_timm

    torch.manual_seed(0)
    model = import_timm().create_model(network, pretrained=False, num_classes=0)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, weights)


def computed() -> float:
    """Seconds of cores that this process and its children that have ended took."""
    times = psutil.Process().cpu_times()
    return times.user + times.system + times.children_user + times.children_system


def loop(paths: Sequence[Path], network: str) -> tuple[float, float]:
    """The field's loop: images a second, and seconds of a core an image."""
    import torch

    from resight.networks.architectures import import_timm

    layer, side, _ = NETWORKS[network]
    size = {"dynamic_img_size": True} if network.startswith("vit") else {}
    model = import_timm().create_model(network, pretrained=False, num_classes=0, **size).eval()
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    began, before = time.perf_counter(), computed()
    with torch.no_grad():
        for path in paths:
            image = PIL.Image.open(path).convert("RGB")
            image.thumbnail((side, side), PIL.Image.Resampling.LANCZOS)
            if size:  # a transformer's patches have to fit
                image = image.resize(tuple(max(14, round(s / 14) * 14) for s in image.size))
            x = (torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 - mean) / std
            out = model.forward_features(x[None])
            pooled = out[:, 0] if layer == "cls" else out.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)
            torch.nn.functional.normalize(pooled)
    return len(paths) / (time.perf_counter() - began), (computed() - before) / len(paths)


def ours(paths: Sequence[Path], chosen: Recipe, workers: int) -> tuple[str, float, float]:
    """Index into a new collection: engine, and as ``loop``, from files to descriptors on disk."""
    with tempfile.TemporaryDirectory() as folder, Collection.create(Path(folder) / "c", chosen) as collection:
        began, before = time.perf_counter(), computed()
        report = collection.add(paths, workers=workers)
        seconds, work = time.perf_counter() - began, computed() - before
    network = Describer(chosen).network
    return ("" if network is None else network.engine), report.added / seconds, work / report.added


def bare(paths: Sequence[Path], chosen: Recipe) -> tuple[float, float]:
    """As ``loop``, of the same engine with the pictures in memory."""
    describer = Describer(chosen)
    network = describer.network
    if network is None:
        raise ValueError("the recipe has no network")
    prepared = [network.prepare(read_image(path, max_side=chosen.image.max_side).pixels) for path in paths]
    list(network.describe_each(prepared[:_WARM]))
    began, before = time.perf_counter(), computed()
    for _ in network.describe_each(prepared):
        pass
    return len(prepared) / (time.perf_counter() - began), (computed() - before) / len(prepared)


def reading(paths: Sequence[Path], chosen: Recipe) -> float:
    """Seconds of one core to read a photograph and prepare it for the network."""
    network = Describer(chosen).network
    if network is None:
        raise ValueError("the recipe has no network")
    began = time.process_time()
    for path in paths:
        network.prepare(read_image(path, max_side=chosen.image.max_side).pixels)
    return (time.process_time() - began) / len(paths)


def mixed(sources: Sequence[Path], into: Path, count: int, megapixels: Sequence[float]) -> list[Path]:
    """Photographs of so many megapixels, by turns."""
    into.mkdir(parents=True, exist_ok=True)
    made = []
    for number in range(count):
        path = into / f"{number:04d}.jpg"
        if not path.is_file():
            pixels = read_image(sources[number % len(sources)]).pixels
            factor = (megapixels[number % len(megapixels)] * 1e6 / (pixels.shape[0] * pixels.shape[1])) ** 0.5
            size = round(pixels.shape[1] * factor), round(pixels.shape[0] * factor)
            PIL.Image.fromarray(pixels).resize(size, PIL.Image.Resampling.BILINEAR).save(path, quality=90)
        made.append(path)
    return made


def reduced(paths: Sequence[Path], chosen: Recipe) -> tuple[float, float]:
    """Mean and least cosine of descriptors of photographs decoded at a reduced size and of the same decoded in full."""
    network = Describer(chosen).network
    if network is None:
        raise ValueError("the recipe has no network")
    side = chosen.image.max_side
    pairs = [(read_image(path, max_side=side).pixels, read_image(path).pixels) for path in paths]
    cosines = [float(network.describe(small) @ network.describe(full)) for small, full in pairs]
    return float(np.mean(cosines)), min(cosines)


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def main(arguments: Sequence[str] | None = None) -> list[Result]:
    """Measure each network in fresh processes, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=DATA / "distractors", help="folder of photographs")
    parser.add_argument("--network", action="append", choices=FOR_CPU, help="repeatable (default: all)")
    parser.add_argument("--photos", type=int, default=960, help="how many (default: 960)")
    parser.add_argument(
        "--mixed", type=int, default=60, help="photos of the memory test; 0 leaves it out (default: 60)"
    )
    parser.add_argument("--int8", action="store_true", help="resight's networks in 8 bits")
    parser.add_argument("--workers", type=int, default=2, help="processes that read (default: 2)")
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps the photos made")
    parser.add_argument("--out", type=Path, help="also write the results to this JSON file")
    options = parser.parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    sources = photos.originals(options.source)
    paths = sources[: options.photos]
    mixture = mixed(sources, options.work / "mixed", options.mixed, MEGAPIXELS)
    results, memory = [], []
    for network in options.network or FOR_CPU:
        weights = options.work / f"{network}.safetensors"
        if not weights.is_file():
            write_random(network, weights)
        chosen = recipe(network, weights)
        if options.int8:
            chosen = recipe(network, weights, write_quantised(paths[:50], chosen, options.work / f"{network}-int8"))
        # The first run converts the network and is not timed; the conversion is kept.
        watched(bare, paths[:2], chosen)
        plain = watched(loop, paths, network)
        whole = watched(ours, paths, chosen, options.workers)
        only = watched(bare, paths, chosen)
        seconds = watched(reading, paths, chosen).value
        (engine, rate, work), (loop_rate, loop_work), (bare_rate, bare_work) = whole.value, plain.value, only.value
        results.append(
            Result(
                network,
                engine,
                len(paths),
                NETWORKS[network][1],
                loop_rate,
                rate,
                bare_rate,
                (loop_work, work, bare_work),
                seconds,
                1 / (1 + bare_rate * seconds / (os.cpu_count() or 1)),
                whole.private,
                plain.private,
                max(run.others for run in (plain, whole, only)),
            )
        )
        if mixture:
            run, beside = watched(ours, mixture, chosen, options.workers), watched(loop, mixture, network)
            memory.append((network, len(mixture), f"{run.value[1]:.1f}", f"{beside.value[0]:.1f}", run, beside))
    protocol = (
        f"the first {len(paths)} photographs of {options.source}, from files to descriptors; resight with "
        f"{options.workers} reading processes, and with storing; loop: one photograph at a time, Pillow, PyTorch "
        "eager, not stored; bare: the same engine with the pictures in memory; starting Python, loading "
        "and converting the network left out; at most: resight ÷ bare can be, as reading shares the cores; peak: "
        "private memory of all processes; others: most of the machine's time that other processes took from a run"
    )
    print(header(protocol))
    head = ("network", "engine", "longest side", "loop, images/s", "resight, images/s", "bare, images/s")
    ratios = ("resight ÷ loop", "resight ÷ bare", "at most", "peak, MiB", "loop's peak, MiB", "others, %")
    rows = [
        (
            r.network,
            r.engine,
            r.side,
            f"{r.loop:.2f}",
            f"{r.ours:.2f}",
            f"{r.bare:.2f}",
            f"{r.ours / r.loop:.2f}",
            f"{r.ours / r.bare:.2f}",
            f"{r.bound:.2f}",
            f"{r.peak / 2**20:.0f}",
            f"{r.loop_peak / 2**20:.0f}",
            f"{100 * r.others:.0f}",
        )
        for r in results
    ]
    print(table((*head, *ratios), rows))
    print(f"\nMilliseconds of a core for an image, in all processes, with {_threads()} threads a network:\n")
    columns = ("network", "engine", "loop", "resight", "bare", "loop ÷ resight", "bare ÷ resight", "reading")
    works = [
        (
            r.network,
            r.engine,
            *(f"{1000 * work:.1f}" for work in r.work),
            f"{r.work[0] / r.work[1]:.2f}",
            f"{r.work[2] / r.work[1]:.2f}",
            f"{1000 * r.reading:.1f}",
        )
        for r in results
    ]
    print(table(columns, works))
    if memory:
        sizes = ", ".join(map(str, MEGAPIXELS))
        print(f"\nPhotographs of {sizes} megapixels by turns:\n")
        columns = ("network", "photos", "resight, images/s", "loop, images/s", "peak, MiB", "loop's peak, MiB")
        shown = [(*m[:4], f"{m[4].private / 2**20:.0f}", f"{m[5].private / 2**20:.0f}") for m in memory]
        print(table(columns, shown))
        trained = DATA / "weights/densenet169_imagenet/densenet169_notop_fp16.npz"
        large = [path for number, path in enumerate(mixture) if MEGAPIXELS[number % len(MEGAPIXELS)] >= 4]
        if large and trained.is_file():
            mean, least = watched(reduced, large, recipe("densenet169", trained)).value
            print(
                f"\ndensenet169 with trained weights, {len(large)} of these of 4 megapixels and more, decoded at a "
                f"reduced size against in full: cosine of the descriptors {mean:.4f} in the mean, {least:.4f} at least"
            )
    write_json(options.out, protocol, [asdict(result) for result in results])
    return results


if __name__ == "__main__":
    os.environ.setdefault("RESIGHT_CACHE", str(Path(tempfile.gettempdir()) / "resight-benchmark"))
    main()
