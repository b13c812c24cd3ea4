"""Rendering of subjects to learn from: pairs a second, and a sheet of pairs to look at."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from common import header, table
from resight.learning.procedural import Rendering, Scenes, render

_WARM = 64  # subjects rendered before the clock starts, that use most of the pool of surfaces


def speed(side: int, pairs: int, batch: int, device: str) -> float:
    """Pairs a second, after a pool of textures is made."""
    render(0, 0, _WARM, side, device=device)
    began = time.perf_counter()
    for first in range(1000, 1000 + pairs, batch):
        scenes = render(0, first, min(batch, 1000 + pairs - first), side, device=device)
    scenes.images.sum().item()
    return pairs / (time.perf_counter() - began)


def sheet(scenes: Scenes, columns: int) -> np.ndarray:
    """Pairs side by side, BGR uint8, and again with what is not visible in the other view darker; whole rows only."""
    tiles = []
    for pair, seen in zip(scenes.images, scenes.visible, strict=True):
        shown = torch.cat([pair, pair * (0.3 + 0.7 * seen[:, None])])
        tiles.append(np.concatenate([p.permute(1, 2, 0).cpu().numpy() for p in shown], axis=1))
        tiles[-1] = np.pad(tiles[-1], ((2, 2), (2, 6), (0, 0)), constant_values=1)
    columns = min(columns, len(tiles))
    rows = [np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles) // columns * columns, columns)]
    return (255 * np.concatenate(rows)[..., ::-1]).round().astype(np.uint8)


def main(arguments: Sequence[str] | None = None) -> dict[int, float]:
    """Measure or draw what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, action="append", help="in pixels; repeatable (default: 96, 160, 224)")
    parser.add_argument("--pairs", type=int, default=200, help="rendered a figure, or a sheet (default: 200)")
    parser.add_argument("--batch", type=int, default=16, help="subjects a call (default: 16)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sheet", type=Path, help="draw a picture of pairs into this file instead")
    parser.add_argument("--columns", type=int, default=2, help="pairs a row of the sheet (default: 2)")
    parser.add_argument("--first", type=int, default=0, help="first subject of the sheet (default: 0)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    sides = options.side or [96, 160, 224]
    if options.sheet is not None:
        scenes = render(
            options.seed, options.first, options.pairs, sides[0], device=options.device, settings=Rendering()
        )
        cv2.imwrite(str(options.sheet), sheet(scenes, options.columns))
        return {}
    speeds = {side: speed(side, options.pairs, options.batch, options.device) for side in sides}
    print(header(f"{options.pairs} pairs, {options.batch} a call, {options.threads} threads, {options.device}"))
    print(table(("side", "pairs a second"), [(side, f"{value:.1f}") for side, value in speeds.items()]))
    return speeds


if __name__ == "__main__":
    main()
