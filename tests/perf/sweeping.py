"""A sweep of a thousand ridge cells, against the time that it may take.

The store has the shape of the demo's: 570 images of 1,280 columns, 517 names, 570 captions and
1,000 head rows with texts of 384 columns. The budget is three times the reading of the store plus
20 ms a cell; the ratio is budget over measured.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from featstore.testing import item_table, write_set
from tests.perf.engine import Figure, figure_of

#: Seconds that one cell may take.
CELL = 0.020

#: How often the store may be read.
READS = 3

#: Sweeps that are timed; each takes some ten seconds.
ROUNDS = 7

IMAGE, TEXT = "perf:image", "perf:text"
N_IMAGES, N_NAMES, N_HEAD, P, Q = 570, 517, 1_000, 1_280, 384


def figures(folder: Path) -> Iterator[Figure]:
    """Yield the line ``bench.sweep``."""
    from bench import run_all
    from featstore import open_store
    from fitters.from_store import find_fits
    from tests.shorthand import sweep_runs

    root = folder / "sweep-store"
    if not root.exists():
        _write_store(root)
    store = open_store(root)
    runs = sweep_runs(store, find_fits(store)[0])
    cells = len({run.fit_key for run in runs})
    ratios, cpu = [], 0.0
    for turn in range(ROUNDS):
        out = folder / f"sweep-{turn}"
        started = time.perf_counter()
        opened = open_store(root)
        for info in opened.sets():
            view = opened.view(str(info.key))
            view.numpy()
            _ = view.items
        reading = time.perf_counter() - started
        cpu -= time.process_time()
        started = time.perf_counter()
        run_all(runs, root, out)
        taken = time.perf_counter() - started
        cpu += time.process_time()
        shutil.rmtree(out)
        ratios.append((READS * reading + CELL * cells) / taken)
    yield figure_of(
        "bench.sweep", ratios, cpu_seconds=cpu,
        against=f"{READS} readings of the store + {CELL * 1000:.0f} ms for each of {cells:,} cells",
    )  # fmt: skip


def _write_store(root: Path) -> None:
    rng = np.random.default_rng(0)
    to_image, to_text = rng.standard_normal((64, P)), rng.standard_normal((64, Q))
    classes, head = rng.standard_normal((N_NAMES, 64)), rng.standard_normal((N_HEAD, 64))
    owner = np.sort(np.arange(N_IMAGES) % N_NAMES)

    def view(latent: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        rows = latent @ matrix + 4 * rng.standard_normal((len(latent), matrix.shape[1]))
        return rows.astype(np.float32)

    def write(
        dataset: str,
        kind: str,
        encoder: str,
        rows: np.ndarray,
        ids: list[str],
        **columns: list[str],
    ) -> None:
        bias = np.zeros(len(rows), np.float32) if kind == "head_weight" else None
        items = item_table(ids, kind, **columns)
        write_set(root, rows, items, dataset=dataset, kind=kind, encoder=encoder, bias=bias)

    images = [f"perf/{i:03d}" for i in range(N_IMAGES)]
    own = [f"perf/c{c:03d}" for c in owner]
    write("perf", "image", IMAGE, view(classes[owner], to_image), images, class_id=own)
    said = [f"{i}#en" for i in images]
    rows = view(classes[owner], to_text)
    write("perf", "caption", TEXT, rows, said, class_id=own, parent_id=images)
    for dataset, latent in (("perf", classes), ("perfhead", head)):
        ids = [f"{dataset}/c{c:03d}" for c in range(len(latent))]
        prompts = [(c, t) for c in range(len(ids)) for t in ("none", "photo")]
        rows = view(latent[[c for c, _ in prompts]], to_text)
        write(
            dataset, "class_name", TEXT, rows, [f"{ids[c]}#name#{t}" for c, t in prompts],
            class_id=[ids[c] for c, _ in prompts], variant=["name"] * len(prompts),
            template_id=[t for _, t in prompts], text=[ids[c] for c, _ in prompts],
        )  # fmt: skip
    ids = [f"perfhead/c{c:03d}" for c in range(N_HEAD)]
    rows = view(head, to_image)
    write("perfhead", "head_weight", IMAGE, rows, [f"{c}#head" for c in ids], class_id=ids)
