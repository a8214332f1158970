"""Moments kept between commands, so that the second aligner on the same data reads no row.

An entry is one file, named by what its moments are of: the fingerprints of the sets and of the row
selection, the preprocessing, the folds, and the precision. Nothing else decides them, so an entry
never goes stale; it can only become useless, and those used longest ago make room for new ones.

A file is the sha256 of the rest, then a safetensors file. One that is damaged, or that this version
does not know, counts as missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from data_manifests import cache_folder
from featstore.durable import write_durably
from featstore.identity import canonical_json, sha256_hex
from fitters.moments.moments import Moments

FORMAT = 1
SUFFIX = ".moments"
DIGEST_BYTES = 32

#: What the entries take together, at most; the last one written stays whatever it takes.
MOST_BYTES = 10_000_000_000
FIELDS = ("shift_x", "shift_y", "sum_x", "sum_y", "sxx", "sxy", "syy")
Vectors = dict[str, npt.NDArray[np.float64]]


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
    found = [(own.stat(), own) for own in path.parent.glob(f"*{SUFFIX}")]
    taken = 0
    for status, own in sorted(found, key=lambda one: (-one[0].st_mtime, one[1] != path)):
        taken += status.st_size
        if taken > MOST_BYTES and own != path:
            own.unlink(missing_ok=True)
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
    with contextlib.suppress(OSError):  # a cache that may only be read serves as well
        os.utime(path)
    start = "vector/"
    vectors = {n.removeprefix(start): a for n, a in arrays.items() if n.startswith(start)}
    return parts, vectors


def _header(packed: bytes) -> dict[str, Any]:
    size = int.from_bytes(packed[:8], "little")
    return json.loads(json.loads(packed[8 : 8 + size])["__metadata__"]["headstock"])
