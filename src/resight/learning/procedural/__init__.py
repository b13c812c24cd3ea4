"""A network of our own, learned from pictures that are rendered by code."""

from resight.learning.procedural.scenes import Scenes, render
from resight.learning.procedural.settings import Rendering

__all__ = ["Rendering", "Scenes", "render"]
