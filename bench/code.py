"""The digest of the code that makes a result, so that changed code never passes for a rerun."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

#: What decides a number: everything of fitters, and these parts of bench.
BENCH_PARTS = (
    "corpus.py", "fits.py", "grid.py", "overlap.py", "protocol.py", "scoring.py", "metrics",
    "tasks",
)  # fmt: skip


@cache
def code_digest() -> str:
    """Return 16 digits of the sha256 over the sources of fitters and of `BENCH_PARTS`."""
    bench = resources.files("bench")
    files = dict(_sources(resources.files("fitters"), "fitters"))
    for part in BENCH_PARTS:
        files.update(_sources(bench.joinpath(part), f"bench/{part}"))
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\0".encode())
        digest.update(files[name])
    return digest.hexdigest()[:16]


def _sources(place: Traversable, name: str) -> list[tuple[str, bytes]]:
    if place.is_dir():
        return [
            found
            for child in place.iterdir()
            if child.name not in ("__pycache__", "cli")
            for found in _sources(child, f"{name}/{child.name}")
        ]
    # Line ends differ between checkouts, and mean nothing.
    return [(name, place.read_bytes().replace(b"\r\n", b"\n"))] if name.endswith(".py") else []
