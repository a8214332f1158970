"""Manifests of small generated pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from featstore.manifest.io import write_manifest


def make_manifest(root: Path, name: str, n: int) -> str:
    """Make a manifest of n small pictures, one of which is no picture."""
    rng = np.random.default_rng(n)
    (root / "images").mkdir(parents=True)
    for i in range(n):
        pixels = rng.integers(0, 255, (6, 5 + i % 7, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{i:03d}.png")
    (root / "images" / "005.png").write_bytes(b"not a picture")
    ids = [f"{name}/{i:03d}" for i in range(n)]
    table = pl.DataFrame({"item_id": ids, "uri": [f"images/{i:03d}.png" for i in range(n)]})
    write_manifest(root, facts={"name": name, "revision": "1"}, tables={"image": table})
    return str(root)
