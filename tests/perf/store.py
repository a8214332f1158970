"""The group ``store``: one set of 1e6 × 768 float16 and the same rows in a plain file."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.perf import (
    store_growing,
    store_nearest,
    store_opening,
    store_peers,
    store_reading,
    store_writing,
)
from tests.perf.engine import Figure
from tests.perf.sample import DIM, N, make_sample

#: The set, the plain file, one more of each while writing is measured, and the peers' files; and
#: the sets that grow.
DISK_BYTES = 4 * N * DIM * 2 + 3 * 2**30


def figures(out: Path) -> Iterator[Figure]:
    """Yield the lines of the group ``store``; its files lie in a temporary folder in `out`."""
    free = shutil.disk_usage(out).free
    if free < DISK_BYTES:
        msg = (
            f"The figures of the store need {DISK_BYTES / 1e9:.1f} GB in {out.resolve()}; "
            f"{free / 1e9:.1f} GB are free. Free some, or name another folder with --out."
        )
        raise SystemExit(msg)
    with tempfile.TemporaryDirectory(dir=out) as folder:
        sample = make_sample(Path(folder))
        modules = (
            store_reading, store_opening, store_growing, store_nearest, store_peers, store_writing
        )  # fmt: skip
        for module in modules:
            yield from module.figures(sample)
