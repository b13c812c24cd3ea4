"""Published checkpoints, one layout a file: from their names to timm's, with how their descriptor is made."""

from resight.errors import RecipeError
from resight.networks.layouts.cirtorch import CIRTORCH
from resight.networks.layouts.delg import DELG
from resight.networks.layouts.dinov2 import DINOV2
from resight.networks.layouts.dirtorch import AP_GEM
from resight.networks.layouts.how import HOW
from resight.networks.layouts.keras import KERAS
from resight.networks.layouts.netvlad import NETVLAD
from resight.networks.layouts.plain import PLAIN
from resight.networks.layouts.plain import convert as convert_plain
from resight.networks.layouts.published import Descriptor, Layout, Local, Projection, Published, check
from resight.networks.weights import Checkpoint

LAYOUTS = (HOW, CIRTORCH, AP_GEM, NETVLAD, DELG, DINOV2, KERAS, PLAIN)  # the first to recognise a checkpoint has it

__all__ = [
    "LAYOUTS",
    "Descriptor",
    "Layout",
    "Local",
    "Projection",
    "Published",
    "check",
    "convert_plain",
    "recognise",
]


def recognise(checkpoint: Checkpoint, name: str | None = None) -> Layout:
    """The layout of a checkpoint, or the one called ``name``. RecipeError where there is none."""
    names = ", ".join(layout.name for layout in LAYOUTS)
    if name is not None:
        for layout in LAYOUTS:
            if layout.name == name:
                return layout
        raise RecipeError(f"there is no layout {name!r}; there are {names}")
    for layout in LAYOUTS:
        if layout.recognises(checkpoint):
            return layout
    some = ", ".join(sorted(checkpoint.state)[:5])
    raise RecipeError(
        f"{checkpoint.path}: its layout is not recognised from its names ({some} …): give one of {names} by --layout, "
        "or timm's name of its network by --network"
    )
