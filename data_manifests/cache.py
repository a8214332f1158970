"""The cache folder of the user."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path


def cache_folder(part: str) -> Path:
    """Return the folder of one part of the cache, whether it exists or not.

    It is ``headstock/<part>`` below $XDG_CACHE_HOME, on every system; without that variable it lies
    where the system keeps caches: ``~/.cache/headstock/<part>`` on Linux. As the XDG rules say, a
    relative path in the variable counts for nothing.

    Parameters
    ----------
    part : str
        ``"manifests"``, ``"moments"``, ``"remote"`` …; ``""`` for the folder of all parts.
    """
    stated = Path(os.environ.get("XDG_CACHE_HOME", ""))
    base = stated if stated.is_absolute() else user_cache_path()
    return base / "headstock" / part
