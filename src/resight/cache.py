"""Where this machine keeps what can be made again: converted networks, copies of shards."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """RESIGHT_CACHE, or `resight` in the user's cache folder (XDG_CACHE_HOME)."""
    own = os.environ.get("RESIGHT_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "resight"
