"""Facts of a run: recorded under ``runs/``, never keyed and never compared."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = (
    "headstock",
    "numpy",
    "open_clip_torch",
    "pillow",
    "sentence-transformers",
    "timm",
    "torch",
    "transformers",
)


#: Facts of an encoder that differ between machines without changing a bit of what is stored.
OF_THE_RUN = ("versions", "weights", "compute")


def lasting_facts(encoder: Mapping[str, Any]) -> dict[str, Any]:
    """Return an encoder's facts that belong to the set, and so to its revision."""
    return {name: value for name, value in encoder.items() if name not in OF_THE_RUN}


def run_facts(encoder: Mapping[str, Any], *, device: str) -> dict[str, Any]:
    """Return what is true of this run only: date, machine, device, versions, weights' source."""
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
        "device": device,
        "versions": versions,
        "encoder": {name: encoder[name] for name in OF_THE_RUN if name in encoder},
    }
