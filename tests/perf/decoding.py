"""Decoding: in processes of its own, against as many threads in this one."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tests.perf.engine import Figure, compare


def figures(_: Path) -> Iterator[Figure]:
    """Yield the line of the group ``decode``."""
    from PIL import Image

    from featstore.decoding import DecodePool
    from featstore.images import decode_image

    rng = np.random.default_rng(0)
    files = []
    for _ in range(20):
        image = Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        image.resize((640, 480), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as threads, DecodePool(workers) as processes:

        def ours() -> None:
            for future in [processes.submit(data) for data in files * 20]:
                future.result()

        def theirs() -> None:
            list(threads.map(decode_image, files * 20))

        yield compare(
            "decode.isolated", ours, theirs, against=f"{workers} threads, JPEGs of 640 × 480"
        )
