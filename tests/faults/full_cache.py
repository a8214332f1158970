"""A script for its own mount namespace: read a remote store through a cache on a full disk.

Run as ``unshare -m python -m tests.faults.full_cache MOUNTPOINT STORE ADDRESS``. Prints one line
for each amount of free space: the free kibibytes, and the error message or "read".
"""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from featstore import open_store
from featstore.errors import CacheFullError

IMAGES = "birds/image/toy"


def main(mountpoint: Path, folder: Path, address: str) -> None:
    """Fill, fail, make room, read again and compare; for disks with more and more room."""
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(mountpoint)], check=True
    )  # fmt: skip
    cache, filler = mountpoint / "cache", mountpoint / "filler"
    os.environ["XDG_CACHE_HOME"] = str(cache)
    right = open_store(folder).view(IMAGES)
    rows, items = right.numpy(), right.items
    for free in [*range(0, 64, 8), *range(64, 1400, 96)]:
        filler.write_bytes(bytes(shutil.disk_usage(mountpoint).free - free * 1024))
        try:
            np.testing.assert_array_equal(open_store(address).view(IMAGES).numpy(), rows)
            message = "read"
        except CacheFullError as err:
            message = str(err)
        filler.unlink()
        view = open_store(address).view(IMAGES)
        np.testing.assert_array_equal(view.numpy(), rows)
        assert view.items.equals(items)
        assert not list(cache.rglob("*.staged"))
        del view
        gc.collect()  # a mapping that is left would keep its disk space
        shutil.rmtree(cache)
        print(free, message)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
