"""Print the bytes of peak memory of extracting N images, in this process alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from featstore.extraction.job import extract
from featstore.manifest import Manifest, conform_items

DIM = 512


class Pixels:
    """Takes the first pixels of an image for its embedding: costs nothing but memory."""

    def encode(self, items: list[Any]) -> np.ndarray:
        """Return (b, d) values."""
        rows = [np.resize(np.asarray(item, np.float32), DIM) / 255 + 0.01 for item in items]
        return np.stack(rows)


def main() -> None:
    """Make images, extract them, print the peak."""
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    # A hundred files, each named by many items: what grows is the number of items.
    for number in range(100):
        pixels = rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")
    items = pl.DataFrame(
        {
            "item_id": [str(number) for number in range(count)],
            "uri": [f"{number % 100}.jpg" for number in range(count)],
        }
    )
    manifest = Manifest("m", folder, {"name": "m"}, {"image": conform_items(items, "image")}, None)
    extract(
        manifest,
        kind="image",
        encoder=Pixels(),
        space={"name": "pixels"},
        store=folder / "store",
        block_rows=512,
    )
    print(peak_bytes())


def peak_bytes() -> int:
    """Return the peak of this process; ``ru_maxrss`` would count what its parent had, too."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    msg = "This system does not say how much memory a process had at most."
    raise OSError(msg)


if __name__ == "__main__":
    main()
