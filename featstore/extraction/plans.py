"""How the rows of a set were computed: what its runs recorded, and what is here now."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from featstore.errors import FeatstoreError
from featstore.extraction.options import MODEL_OPTIONS
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
    options: Mapping[str, Any] = field(default_factory=dict)
    """What else the encoder was asked for: pool, prompt_name, prefix, max_length, compile."""
    tiff: bool = False
    """Whether TIFF files were decoded."""
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


def recorded_plans(directory: Path, encoder: str = "") -> list[Plan]:
    """Return the distinct plans of a set's runs, the newest first; one of defaults if none.

    Parameters
    ----------
    encoder : str
        Name of the set's encoder: a run may have had several.
    """
    found: list[Plan] = []
    for path in sorted((directory / "runs").glob("*.json"), reverse=True):
        try:
            run = read_json(path, limit=MAX_METADATA_BYTES)
        except (FeatstoreError, OSError):
            continue  # a run is recorded for people; a damaged one costs a guess
        if isinstance(run, dict):
            for plan in _plans(run, encoder):
                found += [] if plan in found else [plan]
    return found or [Plan()]


def _plans(run: Mapping[str, Any], encoder: str) -> list[Plan]:
    """Return the plans of a run: one for each way in which it asked for the encoder."""
    settings = _mapping(run.get("settings"))
    asked = settings.get("encoders")
    choices = [_mapping(one) for one in asked] if isinstance(asked, list) else []
    ways = [choice for choice in choices if encoder and choice.get("encoder") == encoder]
    shared = {"compile": True} if settings.get("compile") is True else {}
    return [
        replace(
            _plan(run),
            options={**{name: way[name] for name in MODEL_OPTIONS if name in way}, **shared},
        )
        for way in ways or [{}]
    ]


def _plan(run: Mapping[str, Any]) -> Plan:
    weights = _texts(_mapping(run.get("encoder")).get("weights"))
    package = weights.get("package")
    return Plan(
        batch=_count(run.get("batch")),
        threads=_count(run.get("threads")),
        device=str(run.get("device", "cpu")),
        weights=f"package:{package}" if package else None,
        tiff=_mapping(run.get("settings")).get("tiff") is True,
        run=run,
    )


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _texts(value: Any) -> dict[str, Any]:
    return {name: what for name, what in _mapping(value).items() if isinstance(what, str)}


def _version(name: str) -> str | None:
    if name == "python":
        return platform.python_version()
    try:
        return version(name)
    except PackageNotFoundError:
        return None
