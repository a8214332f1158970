"""What a builder promises before it works, and what it returns afterwards."""

from __future__ import annotations

import hashlib
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

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
    "reader", "records", "split_folders", "words",
)  # fmt: skip


def check_known(what: str, words: Iterable[str], known: Iterable[str]) -> None:
    """Raise BuildError if one of these words is none of the known ones."""
    names = list(known)
    for word in words:
        if word not in names:
            close = get_close_matches(word, names, n=1)
            raise BuildError(
                f"No {what} {word!r}. Known {what}s: {', '.join(names) or 'none'}."
                + (f" Did you mean {close[0]!r}?" if close else "")
            )


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


def write_pictures(
    jobs: Sequence[tuple[Path, Callable[[], Picture]]], on_done: OnDone | None
) -> None:
    """Write pictures as PNG files, each to its path from what draws it, in a few threads.

    Decoding and compressing release the interpreter lock. The first error stops the rest.

    Raises
    ------
    BuildError
        If a file cannot be written; what a drawing raises.
    """

    def write(job: tuple[Path, Callable[[], Picture]]) -> None:
        path, draw = job
        picture = draw()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path, format="PNG", compress_level=1)
        except OSError as err:
            raise BuildError(
                f"Cannot write {path}: {err.strerror or err}. Free space, or choose another folder."
            ) from err

    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        try:
            for done, _ in enumerate(chain([None], pool.map(write, jobs))):
                if on_done is not None:
                    on_done(done, len(jobs))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
