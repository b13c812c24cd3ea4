"""What each pooling takes beside the network's pass before it: DenseNet-169, one photograph of 362 pixels.

Weights and picture are random: speed needs no trained ones. Every pooling is timed from the layer's output to the unit
vector, as recipes run it, and like the pass on one core. The multiplications of what is learned, in matrix products and
convolutions, are beside those of the network: below their share of these no implementation gets far.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from common import header, table, write_json
from resight.describe.global_descriptor import one_thread
from resight.describe.head import Head, make_head
from resight.describe.pooling import ChannelStatistics
from resight.evaluation.study import POOLINGS
from resight.networks.architectures import create_network
from resight.networks.backbone import load_backbone
from resight.networks.engine import make_engine
from resight.pooling.attention_gem import AttentionGeM
from resight.pooling.crn import ContextualReweighting
from resight.pooling.delf_attention import DelfAttention
from resight.pooling.multiscale_attention import RegionalAttention
from resight.pooling.second_order import SecondOrderAttention
from resight.recipes.network_stages import Branch

NETWORK, LAYER = "densenet169", "features"


@dataclass(frozen=True)
class Result:
    """One pooling. seconds: median for one picture. share, products: of the median pass, of its multiplications."""

    pooling: str
    seconds: float
    share: float
    products: float


def heads(folder: Path, layer: Any) -> dict[str, Head]:
    """Every pooling and attention that a recipe can name, with what they learn drawn at random."""
    mean, variance = np.random.default_rng(0).random((2, layer.channels), dtype=np.float32)
    ChannelStatistics(mean, variance, 2, "nothing").save(folder / "channels.safetensors")
    tables = dict(POOLINGS)
    tables |= {kind: {"pooling": kind, "learned": "channels.safetensors"} for kind in ("heat", "sba")}
    tables |= {"cam-crow": {"pooling": "cam-crow"}}
    for kind, (module, pooling) in modules(layer.channels).items():
        torch.save(module.state_dict(), folder / f"{kind}.pth")
        tables[kind] = {"attention": {"kind": kind, "weights": f"{kind}.pth"}, "pooling": pooling}
    for by in ("norms", "spectral-residual", "centre", "sums"):
        tables[f"saliency, {by}"] = {"attention": {"kind": "saliency", "by": by}, "pooling": "average"}
    classifier = torch.randn(1000, layer.channels), torch.zeros(1000)
    return {
        name: make_head(Branch.model_validate({"network": NETWORK, **part}), layer, folder, classifier, NETWORK)
        for name, part in tables.items()
    }


def modules(channels: int) -> dict[str, tuple[torch.nn.Module, Any]]:
    """By kind of attention, its module and the pooling that goes with it."""
    return {
        "second-order": (SecondOrderAttention(channels), "gem"),
        "crn": (ContextualReweighting(channels), "average"),
        "delf": (DelfAttention(channels), "sum"),
        "regional": (RegionalAttention(channels), "mac"),
        "attention-gem": (AttentionGeM(channels), "gem"),
    }


def clocked(work: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Median seconds of each piece of work, done by turns, so that other load on the machine slows all alike."""
    seconds = np.empty((rounds, len(work)))
    for turn in range(-1, rounds):  # the first is not counted
        for place, each in enumerate(work):
            began = time.perf_counter()
            each()
            seconds[turn, place] = time.perf_counter() - began
    return np.median(seconds, axis=0).tolist()


def pool(head: Head, output: torch.Tensor, picture: np.ndarray) -> np.ndarray:
    """1×C from the layer's output."""
    return head.vectors([(head.features(output, picture, None),)])


def multiplications(work: Callable[[], object]) -> int:
    """Of PyTorch's matrix products and convolutions, times two for their additions."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def main(arguments: Sequence[str] | None = None) -> list[Result]:
    """Time the pass and every pooling, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=362, help="longest side of a 4:3 picture (default: 362)")
    parser.add_argument("--rounds", type=int, default=20, help="timed passes (default: 20)")
    parser.add_argument("--out", type=Path, help="also write the results to this JSON file")
    options = parser.parse_args(arguments)
    with one_thread(), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(0)
        torch.save(create_network(NETWORK).state_dict(), folder / "weights.pth")
        backbone = load_backbone(NETWORK, layers=[LAYER], weights=folder / "weights.pth")
        engine, made = make_engine(backbone), heads(folder, backbone.layers[0])
        height = round(0.75 * options.side)
        picture = np.random.default_rng(0).integers(0, 255, (height, options.side, 3), np.uint8)
        (output,) = engine(picture[None])
        work = [partial(engine, picture[None]), *(partial(pool, head, output, picture) for head in made.values())]
        forward, *times = clocked(work, options.rounds)
        total = multiplications(lambda: backbone(torch.from_numpy(picture[None]).permute(0, 3, 1, 2)))
        products = [multiplications(each) / total for each in work[1:]]
    shares = [seconds / forward for seconds in times]
    results = [Result(*row) for row in zip(made, times, shares, products, strict=True)]
    channels, rows, columns = output.shape[1:]
    protocol = (
        f"{NETWORK}, one picture of {options.side}×{height}, map of {channels}×{rows}×{columns}; a pass by "
        f"{engine.name} takes {1000 * forward:.1f} ms of one core; medians of {options.rounds} turns"
    )
    print(header(protocol), render(results), sep="\n")
    write_json(options.out, protocol, [asdict(result) for result in results])
    return results


def render(results: Sequence[Result]) -> str:
    """A Markdown table."""
    rows = [
        (r.pooling, f"{1000 * r.seconds:.2f}", f"{100 * r.share:.2f} %", f"{100 * r.products:.2f} %") for r in results
    ]
    return table(("pooling", "ms", "of the network's pass", "of its multiplications"), rows)


if __name__ == "__main__":
    main()
