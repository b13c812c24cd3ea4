"""What a run took, and which versions it ran on."""

import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import numpy as np

from resight.evaluation.conditions import Costs, Spread

if TYPE_CHECKING:
    from resight.search.collection import Timing

_DECIDING = {
    "opencv": "cv2",
    "faiss": "faiss",
    "numpy": "numpy",
    "torch": "torch",
    "timm": "timm",
    "openvino": "openvino",
}


def costs(
    index_seconds: float,
    indexed_now: int,
    timings: "Sequence[Timing]",
    stored: Sequence[bool],
    bytes_on_disk: int,
) -> Costs:
    """The costs of a run. stored: of each timing, whether its query was taken from the store."""
    described = [timing.describe for timing, from_store in zip(timings, stored, strict=True) if not from_store]
    own, worker = _peak_memory()
    return Costs(
        index_seconds=index_seconds,
        indexed_now=indexed_now,
        describe=_spread(described) if described else None,
        filter=_spread([t.filter for t in timings]),
        verify=_spread([t.verify for t in timings]),
        total=_spread([t.describe + t.filter + t.verify for t in timings]),
        comparisons=float(np.mean([t.comparisons for t in timings])),
        bytes_on_disk=bytes_on_disk,
        peak_memory=own,
        peak_worker_memory=worker,
        cpus=os.cpu_count() or 1,
        platform=f"{platform.system()} {platform.machine()}",
    )


def _spread(seconds: list[float]) -> Spread:
    return Spread(*(1000 * float(np.percentile(seconds, p)) for p in (50, 95)))


def _peak_memory() -> tuple[int | None, int | None]:
    """Bytes of this process and of its largest finished child; None on Windows, which has no getrusage."""
    if sys.platform == "win32":
        return None, None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    own, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own * unit, children * unit


def versions() -> dict[str, str]:
    """Of resight, Python, and those libraries that took part and can change a figure."""
    try:
        own = version("resight")
    except PackageNotFoundError:
        own = "not installed, run from its source"
    libraries = {name: sys.modules[module].__version__ for name, module in _DECIDING.items() if module in sys.modules}
    return {"resight": own, **libraries, "python": platform.python_version()}
