"""Images described on a CUDA device a second, and the share of the time in which it computes: ResNet-101 at 1024 px.

From files to stored descriptors, in bfloat16, with random weights. The share is of the time in which at least one of
the device's kernels ran, as PyTorch's profiler saw it.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

import photos
from common import DATA, header, table, write_json
from extraction import bare, mixed, recipe, write_random
from resight.search.collection import Collection

_NETWORK = "resnet101"
_MEGAPIXELS = 2  # of the photographs: more than the network sees


def busy(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals (start, end)."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measure, and print the table. Exits where PyTorch finds no CUDA device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=DATA / "distractors", help="folder of photographs")
    parser.add_argument("--photos", type=int, default=500, help="how many, enlarged to 2 megapixels (default: 500)")
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
    paths = mixed(photos.originals(options.source), options.work / "large", options.photos, (_MEGAPIXELS,))
    only, _ = bare(paths, chosen)
    with tempfile.TemporaryDirectory() as folder, Collection.create(Path(folder) / "c", chosen) as collection:
        collection.add(paths[:32], workers=options.workers)  # CUDA picks its kernels
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            began = time.perf_counter()
            report = collection.add(paths[32:], workers=options.workers)
            seconds = time.perf_counter() - began
    kernels = [e.time_range for e in seen.events() if e.device_type == DeviceType.CUDA]
    share = busy((span.start, span.end) for span in kernels) / 1e6 / seconds
    rate = report.added / seconds
    protocol = (
        f"{report.added} photographs of {_MEGAPIXELS} megapixels, from files to descriptors on disk, {options.workers} "
        "reading processes; bare: pictures in memory; starting Python and loading the network left out"
    )
    print(header(protocol))
    head = (
        "device",
        "network",
        "longest side",
        "resight, images/s",
        "bare, images/s",
        "device computes, % of the time",
    )
    device = torch.cuda.get_device_name()
    print(table(head, [(device, _NETWORK, 1024, f"{rate:.1f}", f"{only:.1f}", f"{100 * share:.0f}")]))
    results = [{"device": device, "network": _NETWORK, "resight": rate, "bare": only, "share": share}]
    write_json(options.out, protocol, results)
    return results


if __name__ == "__main__":
    main()
