"""Facts of a run: recorded under ``runs/``, never keyed and never compared."""

from __future__ import annotations

import platform
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = (
    "headstock",
    "numpy",
    "pillow",
    "sentence-transformers",
    "timm",
    "torch",
    "transformers",
)


def run_facts() -> dict[str, Any]:
    """Return the date, the machine's architecture and the versions of what computes."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": versions,
    }
