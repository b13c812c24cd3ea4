"""What computes a network: PyTorch, on a CPU or a CUDA device, or OpenVINO on a CPU."""

import hashlib
import importlib
import importlib.util
import json
import os
import platform
import sys
import tempfile
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from resight.cache import cache_folder
from resight.errors import RecipeError
from resight.networks.backbone import Backbone

EngineName = Literal["auto", "torch", "openvino"]
WINDOW = 32
"""Pictures, at most, that an engine holds at a time."""
_BATCH_PIXELS = 1 << 20  # of pictures that PyTorch computes at a time: bounds memory
_CUDA_PIXELS = 1 << 24  # the same on a CUDA device, which small batches leave idle
_REQUESTS = 4  # of OpenVINO for each thread, so that it goes on while the caller is busy with outputs
TOLERANCE = 1e-3
"""Of an engine's outputs against PyTorch's on the same device in float32, relative to the largest output."""


class Engine(Protocol):
    """A network ready to run.

    name: with its version, for reports.
    identity: of what it computes where that is not the backbone's own function, as by quantised weights; else "".
    """

    name: str
    identity: str

    def __call__(self, pictures: NDArray[np.uint8]) -> tuple[Tensor, ...]:
        """The outputs of the backbone's layers, float32, for B×H×W×3 RGB pictures; on the device that computed them."""

    def each(self, pictures: Iterable[NDArray[np.uint8]]) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
        """Place and outputs, 1×…, of each H×W×3 RGB picture, whatever their sizes, in any order.

        Takes at most ``WINDOW`` pictures ahead of those whose outputs it has given.
        """


class FromBytes(nn.Module):
    """B×H×W×3 uint8 to the outputs of a backbone's layers."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.network = backbone.module

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = self.network(pictures.permute(0, 3, 1, 2).float() / 255)
        return outputs


def make_engine(backbone: Backbone, name: str | None = None) -> Engine:
    """The engine of that name, or the one that RESIGHT_ENGINE names.

    ``torch`` moves the backbone to a CUDA device where there is one. ``auto``, if neither does: PyTorch there; else
    OpenVINO where it is installed, which is the fastest on a CPU (docs/measurements.md), and converts the network for
    pictures of any size. Raises RecipeError for an unknown name and for an engine that is not installed.
    """
    name = name or os.environ.get("RESIGHT_ENGINE") or "auto"
    if name not in get_args(EngineName):
        raise RecipeError(f"there is no engine {name!r}: RESIGHT_ENGINE is one of {', '.join(get_args(EngineName))}")
    installed = importlib.util.find_spec("openvino") is not None
    if name == "openvino" and not installed:
        raise RecipeError(
            "the engine openvino is not installed: pip install 'resight[fast]', or set RESIGHT_ENGINE=torch"
        )
    cuda = torch.cuda.is_available()
    if name == "torch" or (name == "auto" and (cuda or not installed)):
        return CudaEngine(backbone) if cuda else TorchEngine(backbone)
    engine = OpenVinoEngine(backbone)
    # Converting for each size anew takes seconds.
    return engine if engine.any_size or name == "openvino" else TorchEngine(backbone)


class TorchEngine:
    """PyTorch on a CPU, in float32."""

    identity = ""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self.name = f"torch {torch.__version__}"

    @torch.inference_mode()
    def __call__(self, pictures: NDArray[np.uint8]) -> tuple[Tensor, ...]:
        return self._backbone(torch.from_numpy(pictures).permute(0, 3, 1, 2))

    def each(self, pictures: Iterable[NDArray[np.uint8]]) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
        for places, batch in _batches(pictures, _BATCH_PIXELS):
            yield from _rows(places, self(np.stack(batch)))


class CudaEngine:
    """PyTorch on a CUDA device, in bfloat16; the outputs stay there. Moves the backbone."""

    identity = ""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone.to("cuda")
        self.name = f"torch {torch.__version__}, bfloat16"

    def __call__(self, pictures: NDArray[np.uint8]) -> tuple[Tensor, ...]:
        return self._run(torch.from_numpy(pictures))

    def each(self, pictures: Iterable[NDArray[np.uint8]]) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
        """As ``Engine``'s, but up to 2 · ``WINDOW`` pictures ahead: a batch is computed, on a stream of its own, while
        the caller is busy with the last.
        """
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        before: Iterator[tuple[int, tuple[Tensor, ...]]] = iter(())
        for places, batch in _batches(pictures, _CUDA_PIXELS):
            # Memory that the system may not move: what lies there is copied while the CPU goes on.
            pinned = torch.empty((len(batch), *batch[0].shape), dtype=torch.uint8, pin_memory=True)
            np.stack(batch, out=pinned.numpy())
            with torch.cuda.stream(stream):
                outputs = self._run(pinned)
            yield from before
            before = self._awaited(places, outputs, stream.record_event())
        yield from before

    @torch.inference_mode()
    def _run(self, pictures: Tensor) -> tuple[Tensor, ...]:
        images = pictures.to("cuda", non_blocking=True).permute(0, 3, 1, 2)
        with torch.autocast("cuda", torch.bfloat16):
            outputs = self._backbone(images)
        return tuple(output.float() for output in outputs)

    @staticmethod
    def _awaited(
        places: Sequence[int], outputs: tuple[Tensor, ...], done: torch.cuda.Event
    ) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
        """The rows of a batch for the caller's stream, which waits for it; only then may its memory be used again."""
        here = torch.cuda.current_stream()
        here.wait_event(done)
        for output in outputs:
            output.record_stream(here)
        yield from _rows(places, outputs)


class OpenVinoEngine:
    """OpenVINO in float32. A network is converted once and kept in the cache folder.

    any_size: whether what is kept is for pictures of any size.
    The conversion is checked against PyTorch at two sizes. Where the traced network is right only at the size it was
    traced at, as some transformers' are, it is converted for each size anew.
    """

    identity = ""

    def __init__(self, backbone: Backbone, cache: Path | None = None) -> None:
        self._ov = import_openvino()
        self.name = f"openvino {version('openvino')}"
        self._backbone = backbone
        self._cache = cache_folder() if cache is None else cache
        self._core = self._ov.Core()
        self._models: dict[tuple[int, int] | None, Any] = {}
        self._runners: dict[tuple[int, int] | None, Runner] = {}
        self.any_size = self._kept_or_converted(None) is not None

    def __call__(self, pictures: NDArray[np.uint8]) -> tuple[Tensor, ...]:
        return self._runner((pictures.shape[1], pictures.shape[2]))(pictures)

    def each(self, pictures: Iterable[NDArray[np.uint8]]) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
        if self.any_size:
            yield from self._runner((0, 0)).each(pictures)
            return
        for first, window in _windows(pictures):
            for size, places in _by_size(window).items():
                for row, outputs in self._runner(size).each([window[place] for place in places]):
                    yield first + places[row], outputs

    def _runner(self, size: tuple[int, int]) -> "Runner":
        key = None if self.any_size else size
        if key not in self._runners:
            if key not in self._models:
                self._kept_or_converted(key)
            self._runners[key] = Runner(self._core, self._models[key])
        return self._runners[key]

    @property
    def model(self) -> Any:
        """The network as ``openvino.Model`` for pictures of any size, or None where each size needs its own."""
        return self._models.get(None)

    def _kept_or_converted(self, size: tuple[int, int] | None) -> Any:
        """The converted network for one size, or for any size (None where that cannot be had)."""
        facts = [self._backbone.fingerprint, self.name, torch.__version__, version("timm"), platform.machine(), size]
        key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
        file, refused = self._cache / f"{key}.xml", self._cache / f"{key}.fixed"
        if refused.exists():
            return None
        if not file.is_file():
            self._cache.mkdir(parents=True, exist_ok=True)
            model = self._convert(size)
            if not self._right(compile_model(self._core, model, streams=1), size):
                if size is not None:
                    raise RecipeError(
                        f"openvino computes {self._backbone.name} otherwise than PyTorch does: set RESIGHT_ENGINE=torch"
                    )
                refused.touch()
                return None
            with tempfile.TemporaryDirectory(dir=self._cache) as folder:
                written = Path(folder) / file.name
                self._ov.save_model(model, written, compress_to_fp16=False)
                written.with_suffix(".bin").replace(file.with_suffix(".bin"))
                written.replace(file)  # last: where it is, both are whole
        self._models[size] = self._core.read_model(file)
        return self._models[size]

    def _convert(self, size: tuple[int, int] | None) -> Any:
        height, width = size or self._sizes()[0]
        example = torch.randint(0, 256, (2, height, width, 3), dtype=torch.uint8)
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # torch.jit's tracer warns of what `_right` finds out
            model = self._ov.convert_model(FromBytes(self._backbone).eval(), example_input=example)
        model.reshape([-1, *(size or (-1, -1)), 3])
        return model

    def _right(self, compiled: Any, size: tuple[int, int] | None) -> bool:
        """Whether the outputs are PyTorch's, at the size or at sizes unlike the one it was traced at."""
        generator = np.random.default_rng(0)
        for height, width in [size] if size else self._sizes():
            pictures = generator.integers(0, 256, (1, height, width, 3), dtype=np.uint8)
            with torch.inference_mode():
                expected = self._backbone(torch.from_numpy(pictures).permute(0, 3, 1, 2))
            try:
                found = compiled(pictures)
            except RuntimeError:
                return False
            for place, output in enumerate(expected):
                got, wanted = np.asarray(found[place]), output.numpy()
                if got.shape != wanted.shape or np.abs(got - wanted).max() > TOLERANCE * np.abs(wanted).max():
                    return False
        return True

    def _sizes(self) -> list[tuple[int, int]]:
        unit = self._backbone.multiple
        least = -(-max(self._backbone.least, 96) // unit)
        return [(least * unit, (least + 3) * unit), ((least + 5) * unit, (least + 1) * unit)]


class Runner:
    """A model of OpenVINO for pictures, run. Safe in threads that share it.

    A picture alone is computed by all threads together, of several each by a thread of its own, which is quicker.
    """

    def __init__(self, core: Any, model: Any) -> None:
        self._core, self._model = core, model
        self._compiled: dict[bool, Any] = {}

    def __call__(self, pictures: NDArray[np.uint8]) -> tuple[Tensor, ...]:
        """As ``Engine``'s."""
        found = dict(self.each(list(pictures)))
        outputs = zip(*(found[place] for place in range(len(pictures))), strict=True)
        return tuple(torch.cat(rows) for rows in outputs)

    def each(self, pictures: Iterable[NDArray[np.uint8]]) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
        """As ``Engine``'s. The next are computed while the caller is busy with one."""
        coming = iter(pictures)
        first = list(islice(coming, 2))
        if not first:
            return
        model = self._ready(several=len(first) > 1)
        # No callbacks: OpenVINO's threads would want the GIL while who destroys the model holds it and awaits them.
        most, idle = min(WINDOW, _REQUESTS * torch.get_num_threads()), []
        running: deque[tuple[int, Any]] = deque()
        try:
            for place, picture in enumerate(chain(first, coming)):
                if len(running) == most:
                    done, request = running.popleft()
                    yield done, _outputs(request)
                    idle.append(request)
                request = idle.pop() if idle else model.create_infer_request()
                request.start_async({0: picture[None]})
                running.append((place, request))
            while running:
                done, request = running.popleft()
                yield done, _outputs(request)
        finally:
            for _, request in running:
                request.wait()

    def _ready(self, several: bool) -> Any:
        if several not in self._compiled:
            streams = torch.get_num_threads() if several else 1
            self._compiled[several] = compile_model(self._core, self._model, streams)
        return self._compiled[several]


def _outputs(request: Any) -> tuple[Tensor, ...]:
    request.wait()
    # Copied: OpenVINO reuses its buffers.
    return tuple(torch.from_numpy(np.array(tensor.data)) for tensor in request.output_tensors)


def compile_model(core: Any, model: Any, streams: int) -> Any:
    """A model ready to run on the CPU with as many threads as PyTorch has, in float32 where it is not quantised.

    streams: pictures computed at a time.
    """
    settings = {
        "NUM_STREAMS": streams,
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    return core.compile_model(model, "CPU", settings)


def _windows(pictures: Iterable[NDArray[np.uint8]]) -> Iterator[tuple[int, list[NDArray[np.uint8]]]]:
    """Pictures that follow each other, and the place of the first of them."""
    coming, first = iter(pictures), 0
    while window := list(islice(coming, WINDOW)):
        yield first, window
        first += len(window)


def _by_size(pictures: Sequence[NDArray[np.uint8]]) -> dict[tuple[int, int], list[int]]:
    """Places of the pictures of each (height, width)."""
    places: dict[tuple[int, int], list[int]] = {}
    for place, picture in enumerate(pictures):
        places.setdefault((picture.shape[0], picture.shape[1]), []).append(place)
    return places


def _batches(pictures: Iterable[NDArray[np.uint8]], pixels: int) -> Iterator[tuple[list[int], list[NDArray[np.uint8]]]]:
    """Pictures of one size and their places; with so many pixels at most, or one."""
    for first, window in _windows(pictures):
        for (height, width), places in _by_size(window).items():
            many = max(1, pixels // (height * width))
            for start in range(0, len(places), many):
                part = places[start : start + many]
                yield [first + place for place in part], [window[place] for place in part]


def _rows(places: Sequence[int], outputs: tuple[Tensor, ...]) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    """The outputs of a batch by the places of its pictures."""
    for row, place in enumerate(places):
        yield place, tuple(output[row : row + 1] for output in outputs)


def import_openvino() -> Any:
    """The module ``openvino``, kept from reporting to a server."""
    if "openvino" not in sys.modules:
        # Its converter reports every use to a server; without this module it does not.
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    return importlib.import_module("openvino")
