"""What a builder promises before it works, and what it returns afterwards."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

#: Called after each finished file with (done, total); may be called from a worker thread.
OnDone = Callable[[int, int], None]


class BuildError(ValueError):
    """A dataset cannot be built: its source is missing, damaged, or lacks what was asked for."""


@dataclass(frozen=True)
class Built:
    """What a builder made: tables in memory; its files lie under the output folder."""

    tables: dict[str, pl.DataFrame]
    """Item tables by kind, without hashes."""

    classes: pl.DataFrame | None
    """The label set, one row a class, in the order of `index`; None without classes."""

    prompts: Mapping[str, tuple[str, ...]]
    """Which class_name items to make: variant -> template ids."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    """What only building could tell, e.g. what was left out and why."""


@dataclass(frozen=True)
class Plan:
    """A dataset whose source was found and read, but nothing of which has been written."""

    name: str
    """Name of the dataset, also the first part of its ids."""

    facts: Mapping[str, Any]
    """The facts of its dataset.toml, completed by what the source says (revision, options)."""

    fingerprint: str
    """sha256 of everything that decides the result: source bytes, options, builder version."""

    make: Callable[[Path, OnDone | None], Built]
    """Write the files under the folder given, and return the tables."""

    root: Path | None = None
    """Folder that uris are relative to, if files stay where they lie; else the output folder."""


#: Sections of dataset.toml that say how to read a copy; a built manifest does not repeat them.
HOW_TO_READ = (
    "coop", "expected_with", "files", "folders", "image_folders", "names", "options", "prompts",
    "reader", "split_folders", "versions", "words",
)  # fmt: skip


def read_facts(folder: Path) -> dict[str, Any]:
    """Return the dataset.toml that lies beside a builder."""
    return tomllib.loads((folder / "dataset.toml").read_text(encoding="utf-8"))


def published_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of a dataset.toml that a built manifest repeats."""
    return {key: value for key, value in facts.items() if key not in HOW_TO_READ}


def fingerprint(parts: Iterable[str | bytes]) -> str:
    """Return the sha256 of `parts`, each preceded by its length so that none runs into another."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()
