"""How the rows of a set were computed: what its runs recorded, and what is here now."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from featstore.errors import FeatstoreError
from featstore.store.files import MAX_METADATA_BYTES, read_json


@dataclass(frozen=True)
class Plan:
    """What decides the last bits of a row: two runs may have differed in it.

    `batch` is None if no run says it.
    """

    batch: int | None = None
    threads: int | None = None
    device: str = "cpu"
    weights: str | None = None
    """As ``--weights`` takes it, where a run says that; else None."""
    run: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        batch = "the encoder's batch" if self.batch is None else f"batch {self.batch:,}"
        threads = "all" if self.threads is None else f"{self.threads:,}"
        return f"{batch}, {threads} threads, {self.device}"

    def differences(self) -> str:
        """Return which versions of libraries, and what machine, are others here than recorded."""
        recorded = {**_texts(self.run.get("versions")), "python": self.run.get("python")}
        here = {name: _version(name) for name in recorded}
        recorded["machine"], here["machine"] = self.run.get("machine"), platform.machine()
        return ", ".join(
            f"{name} {was} (here {here[name] or 'none'})"
            for name, was in sorted(recorded.items())
            if was is not None and was != here[name]
        )


def recorded_plans(directory: Path) -> list[Plan]:
    """Return the distinct plans of a set's runs, the newest first; one of defaults if none."""
    found: list[Plan] = []
    for path in sorted((directory / "runs").glob("*.json"), reverse=True):
        try:
            run = read_json(path, limit=MAX_METADATA_BYTES)
        except (FeatstoreError, OSError):
            continue  # a run is recorded for people; a damaged one costs a guess
        if isinstance(run, dict):
            plan = _plan(run)
            found += [] if plan in found else [plan]
    return found or [Plan()]


def _plan(run: Mapping[str, Any]) -> Plan:
    weights = _texts(_texts(run.get("encoder"), nested=True).get("weights"))
    package = weights.get("package")
    return Plan(
        batch=_count(run.get("batch")),
        threads=_count(run.get("threads")),
        device=str(run.get("device", "cpu")),
        weights=f"package:{package}" if package else None,
        run=run,
    )


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _texts(value: Any, *, nested: bool = False) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {}
    return {name: what for name, what in value.items() if nested or isinstance(what, str)}


def _version(name: str) -> str | None:
    if name == "python":
        return platform.python_version()
    try:
        return version(name)
    except PackageNotFoundError:
        return None
