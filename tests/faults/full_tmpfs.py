"""A script for its own mount namespace: write to a small disk until it is full, make room, go on.

Run as ``unshare -m python -m tests.faults.full_tmpfs MOUNTPOINT``. Prints one line for each
amount of free space: the free kibibytes, the error message or "written".
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from featstore.errors import StoreWriteError
from tests.faults import scenarios
from tests.faults.trees import check_readable, litter, tree


def main(mountpoint: Path) -> None:
    """Fill, fail, make room, complete, compare; for disks with more and more room."""
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mountpoint)], check=True
    )  # fmt: skip
    root, filler = mountpoint / "store", mountpoint / "filler"
    scenarios.grow(root)
    whole = tree(root)
    shutil.rmtree(root)
    for free in range(0, 400, 20):
        room = shutil.disk_usage(mountpoint).free
        filler.write_bytes(bytes(room - free * 1024))
        try:
            scenarios.grow(root)
            message = "written"
        except StoreWriteError as err:
            message = str(err)
        check_readable(root, f"{free} KiB")
        filler.unlink()
        scenarios.grow(root)
        assert tree(root) == whole, free
        assert litter(root) == [], free
        shutil.rmtree(root)
        print(free, message)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
