"""Pictures of datasets that are arrays: lossless PNG files."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data_manifests.official.listing import Listing
from data_manifests.plan import BuildError, OnDone


def write_pixels(out: Path, listing: Listing, on_done: OnDone | None) -> None:
    """Write the arrays of a listing as PNG files below `out`, where its paths say.

    The files are not synced one by one: a manifest holds the sha256 of each, and building again
    makes those anew that a crash took.

    Raises
    ------
    BuildError
        If a file cannot be written.
    """
    paths = listing.images.group_by("split", maintain_order=True).agg("path")
    jobs = [
        (out / path, split, row) for split, own in paths.iter_rows() for row, path in enumerate(own)
    ]
    for folder in {path.parent for path, _, _ in jobs}:
        folder.mkdir(parents=True, exist_ok=True)

    def write(job: tuple[Path, str, int]) -> None:
        from PIL import Image

        path, split, row = job
        try:
            Image.fromarray(listing.arrays[split][row]).save(path, format="PNG", compress_level=1)
        except OSError as err:
            msg = f"Cannot write {path}: {err.strerror or err}. Free space, or another folder."
            raise BuildError(msg) from err

    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        for done, _ in enumerate(pool.map(write, jobs), start=1):
            if on_done is not None:
                on_done(done, len(jobs))
