"""Images described on a CUDA device a second, and the share of the time in which it computes: ResNet-101 at 1024 px.

From files to stored descriptors, in bfloat16, with random weights. The share is of the time in which at least one of
the device's kernels ran, as PyTorch's profiler saw it.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

import photos
from common import DATA, header, table, write_json
from extraction import bare, mixed, reading, recipe, write_random
from resight.recipes import Recipe
from resight.search.collection import Collection

_NETWORK = "resnet101"
_MEGAPIXELS = 2  # of the photographs: more than the network sees
_WARM = 32  # photographs
_DIFFERENT = 300  # of them; the others repeat these


def busy(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals (start, end)."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def repeated(paths: Sequence[Path], into: Path, count: int) -> list[Path]:
    """So many files, each of other content: photographs in turns and, after their end, a number."""
    into.mkdir(parents=True, exist_ok=True)
    made = [into / f"{number:05d}.jpg" for number in range(count)]
    for number, path in enumerate(made):
        path.write_bytes(paths[number % len(paths)].read_bytes() + number.to_bytes(4))
    return made


def indexed(
    paths: Sequence[Path], chosen: Recipe, workers: int, during: AbstractContextManager[object]
) -> tuple[float, float]:
    """Images a second, and seconds, of adding all photographs but the first, with which CUDA picks its kernels."""
    with tempfile.TemporaryDirectory() as folder, Collection.create(Path(folder) / "c", chosen) as collection:
        collection.add(paths[:_WARM], workers=workers)
        with during:
            began = time.perf_counter()
            report = collection.add(paths[_WARM:], workers=workers)
            seconds = time.perf_counter() - began
    return report.added / seconds, seconds


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measure, and print the table. Exits where PyTorch finds no CUDA device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=DATA / "distractors", help="folder of photographs")
    parser.add_argument("--photos", type=int, default=4000, help="how many, enlarged to 2 megapixels (default: 4000)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that read (default: all)")
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps the photos made")
    parser.add_argument("--out", type=Path, help="also write the results to this JSON file")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        parser.exit(2, "there is no CUDA device, or PyTorch was built without it: nothing was measured\n")
    options.work.mkdir(parents=True, exist_ok=True)
    weights = options.work / f"{_NETWORK}.safetensors"
    if not weights.is_file():
        write_random(_NETWORK, weights)
    chosen = recipe(_NETWORK, weights)
    large = mixed(photos.originals(options.source), options.work / "large", _DIFFERENT, (_MEGAPIXELS,))
    paths = repeated(large, options.work / "repeated", options.photos)
    only, _ = bare(paths[:_DIFFERENT], chosen)
    rate, _ = indexed(paths, chosen, options.workers, nullcontext())
    seen = profile(activities=[ProfilerActivity.CUDA])
    _, seconds = indexed(paths, chosen, options.workers, seen)
    events = [event for event in seen.events() if event.device_type == DeviceType.CUDA]
    kernels = [event.time_range for event in events if not event.name.startswith(("Memcpy", "Memset"))]
    share = busy((span.start, span.end) for span in kernels) / 1e6 / seconds
    read = options.workers / reading(paths[:64], chosen)
    protocol = (
        f"{len(paths) - _WARM} photographs of {_MEGAPIXELS} megapixels, from files to descriptors on disk, "
        f"{options.workers} reading processes; reading: what these could read and prepare without a network; bare: "
        "pictures in memory; starting Python and loading the network left out"
    )
    print(header(protocol))
    head = ("device", "network", "longest side", *(f"{what}, images/s" for what in ("resight", "reading", "bare")))
    device = torch.cuda.get_device_name()
    row = (device, _NETWORK, 1024, f"{rate:.1f}", f"{read:.1f}", f"{only:.1f}", f"{100 * share:.0f}")
    print(table((*head, "device computes, % of the time"), [row]))
    results = [{"device": device, "network": _NETWORK, "resight": rate, "reading": read, "bare": only, "share": share}]
    write_json(options.out, protocol, results)
    return results


if __name__ == "__main__":
    main()
