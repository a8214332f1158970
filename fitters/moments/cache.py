"""Moments kept between commands, so that the second aligner on the same data reads no row.

An entry is one file, named by what its moments are of: the fingerprints of the sets and of the row
selection, the preprocessing, the folds, and the precision. Nothing else decides them, so an entry
never goes stale; it can only become useless, which `collect` is for.

A file is the sha256 of the rest, then a safetensors file. One that is damaged, or that this version
does not know, counts as missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from data_manifests.cache import cache_folder
from featstore.durable import write_durably
from featstore.identity import canonical_json, sha256_hex
from fitters.errors import FittersError
from fitters.moments.moments import Moments

FORMAT = 1
SUFFIX = ".moments"
DIGEST_BYTES = 32
FIELDS = ("shift_x", "shift_y", "sum_x", "sum_y", "sxx", "sxy", "syy")
Vectors = dict[str, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Entry:
    """One file of the cache.

    Attributes
    ----------
    path : Path
    facts : dict
        What its moments are of.
    n_bytes : int
    used : float
        When it was last read or written, seconds since the epoch.
    """

    path: Path
    facts: dict[str, Any]
    n_bytes: int
    used: float


def entry_path(facts: Mapping[str, Any]) -> Path:
    """Return where the moments of these facts lie, whether they do or not."""
    key = sha256_hex(canonical_json({"format": FORMAT, "facts": dict(facts)}))
    return cache_folder("moments") / f"{key[:40]}{SUFFIX}"


def write_entry(facts: Mapping[str, Any], parts: Mapping[str, Moments], vectors: Vectors) -> Path:
    """Keep named moments, and named vectors such as the means that rows were centred by.

    Raises
    ------
    OSError
        If the cache cannot be written.
    """
    arrays = {f"{name}/{field}": getattr(part, field)
              for name, part in parts.items() for field in FIELDS}  # fmt: skip
    arrays |= {f"vector/{name}": vector for name, vector in vectors.items()}
    record = {
        "format": FORMAT,
        "facts": dict(facts),
        "parts": {name: [part.n, part.weight] for name, part in parts.items()},
    }
    text = json.dumps(record, sort_keys=True)
    packed = safetensors.numpy.save(
        {name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())},
        metadata={"headstock": text},
    )
    path = entry_path(facts)
    write_durably(path, [hashlib.sha256(packed).digest(), packed])
    return path


def read_entry(facts: Mapping[str, Any]) -> tuple[dict[str, Moments], Vectors] | None:
    """Return the moments and vectors kept for these facts; None if there are none, or damaged."""
    path = entry_path(facts)
    try:
        data = path.read_bytes()
    except OSError:
        return None
    packed = data[DIGEST_BYTES:]
    if hashlib.sha256(packed).digest() != data[:DIGEST_BYTES]:
        return None
    try:
        record = _header(packed)
        arrays = safetensors.numpy.load(packed)
        parts = {
            name: Moments(n, weight, *(arrays[f"{name}/{field}"] for field in FIELDS))
            for name, (n, weight) in record["parts"].items()
        }
    except (SafetensorError, ValueError, KeyError, TypeError):
        return None
    if record.get("facts") != json.loads(json.dumps(dict(facts))):
        return None
    with contextlib.suppress(OSError):  # a cache that may only be read serves as well
        os.utime(path)
    start = "vector/"
    vectors = {n.removeprefix(start): a for n, a in arrays.items() if n.startswith(start)}
    return parts, vectors


def entries() -> list[Entry]:
    """Return what the cache holds, the last used first; damaged files have no facts."""
    found = []
    for path in cache_folder("moments").glob(f"*{SUFFIX}"):
        try:
            status = path.stat()
            with path.open("rb") as file:
                file.seek(DIGEST_BYTES)
                size = int.from_bytes(file.read(8), "little")
                header = file.read(min(size, 2**20))
            facts = json.loads(json.loads(header)["__metadata__"]["headstock"])["facts"]
        except OSError:
            continue
        except (ValueError, KeyError, TypeError):
            facts = {}
        found.append(Entry(path, facts, status.st_size, status.st_mtime))
    return sorted(found, key=lambda entry: (-entry.used, entry.path.name))


def collect(*, max_bytes: int | None = None, older_than: float | None = None) -> list[Entry]:
    """Remove entries, and return them.

    Parameters
    ----------
    max_bytes : int, optional
        Keep the last used up to this size together.
    older_than : float, optional
        Remove what has not been used for so many seconds.

    Raises
    ------
    FittersError
        If a file cannot be removed.
    """
    removed, kept = [], 0
    now = time.time()
    for entry in entries():
        old = older_than is not None and now - entry.used > older_than
        too_much = max_bytes is not None and kept + entry.n_bytes > max_bytes
        if not (old or too_much or not entry.facts):
            kept += entry.n_bytes
            continue
        try:
            entry.path.unlink(missing_ok=True)
        except OSError as err:
            raise FittersError(
                f"{entry.path} cannot be removed: {err.strerror}. Check the folder's permissions."
            ) from err
        removed.append(entry)
    return removed


def _header(packed: bytes) -> dict[str, Any]:
    size = int.from_bytes(packed[:8], "little")
    record: dict[str, Any] = json.loads(
        json.loads(packed[8 : 8 + size])["__metadata__"]["headstock"]
    )
    return record
