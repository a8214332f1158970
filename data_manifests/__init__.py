"""Datasets and label sets as item tables: one folder each, described in TOML.

The lowest layer: nothing here imports featstore, fitters, bench or timm. Torch is imported with
torchvision alone, which has the names of Flowers-102.
`featstore.datasets` validates what a builder returns and writes it.
"""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(part: str) -> Path:
    """Return the folder of one part of the cache, whether it exists or not.

    It is ``<part>`` in $HEADSTOCK_CACHE, or ``headstock/<part>`` in $XDG_CACHE_HOME, on every
    system; without these it lies where the system keeps caches: ``~/.cache/headstock/<part>`` on
    Linux. As the XDG rules say, a relative path in their variable counts for nothing.

    Parameters
    ----------
    part : str
        ``"stamps"``, ``"remote"``, ``"staging"`` …; ``""`` for the folder of all parts.
    """
    from platformdirs import user_cache_path  # not for the help of a command

    if own := os.environ.get("HEADSTOCK_CACHE"):
        return Path(own).absolute() / part
    return user_cache_path() / "headstock" / part
