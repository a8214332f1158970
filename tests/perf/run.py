"""Speed as ratios against a floor or a peer, both measured alternately in this one run.

``make perf`` (or ``make perf ONLY=store``) prints a table and writes ``build/perf.json``. A ratio
is the floor's or peer's time over ours: higher is better. Absolute times on a shared machine mean
little, so none is asserted anywhere; goals are in goals.json beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl

PAIRS = 9
GOALS = json.loads((Path(__file__).parent / "goals.json").read_text())


@dataclass(frozen=True)
class Figure:
    """One line of the table: median of `n` alternated pairs, with their interquartile range."""

    name: str
    ratio: float
    low: float
    high: float
    against: str
    goal: float
    holds: bool
    cpu: float
    n: int


def compare(
    name: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    against: str,
    before: Callable[[], object] = lambda: None,
) -> Figure:
    """Time both sides alternately, first one then the other first, and return their ratio.

    `before` runs before each side, untimed.
    """
    for warm in (ours, theirs):
        warm()
    ratios = []
    cpu = time.process_time()
    for pair in range(PAIRS):
        sides = (ours, theirs) if pair % 2 == 0 else (theirs, ours)
        seconds = {}
        for side in sides:
            before()
            started = time.perf_counter()
            side()
            seconds[side] = time.perf_counter() - started
        ratios.append(seconds[theirs] / seconds[ours])
    low, ratio, high = statistics.quantiles(ratios, n=4)
    goal = GOALS[name]
    return Figure(
        name, round(ratio, 3), round(low, 3), round(high, 3), against, goal, ratio >= goal,
        round(time.process_time() - cpu, 2), PAIRS,
    )  # fmt: skip


def store_figures() -> Iterator[Figure]:
    """Compare reading and writing with a plain memory map and a plain file."""
    from featstore.store.store import open_store
    from featstore.store.writer import SetWriter

    n, dim = 200_000, 768
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((4096, dim)).astype(np.float32)
    items = pl.DataFrame({"item_id": [f"i/{i}" for i in range(n)], "kind": ["image"] * n})
    items = items.with_columns(pl.lit(None, pl.String).alias("split"))
    with tempfile.TemporaryDirectory(dir="build") as folder:
        root = Path(folder)

        def write_ours(name: str = "timm:toy", count: int = n) -> str:
            with SetWriter(
                root / "store", dataset="d", kind="image", encoder=name, space={"name": name},
                items=items.head(count), dim=dim, dtype="float16",
            ) as writer:  # fmt: skip
                for block in writer.pending():
                    where = writer.layout.block_slice(block)
                    writer.write_block(block, rows[: where.stop - where.start])
                writer.finish()
            return str(writer.key)

        def write_plain() -> None:
            half = rows.astype(np.float16)
            with (root / "plain.bin").open("wb") as file:
                for start in range(0, n, 4096):
                    file.write(half[: min(4096, n - start)].data)
                file.flush()
                os.fsync(file.fileno())

        count = 0

        def write_another() -> None:
            nonlocal count
            count += 1
            from featstore.store.remove import remove_set

            remove_set(root / "store", write_ours(f"timm:toy{count}"))

        key = write_ours()
        write_plain()
        view = open_store(root / "store").view(key)
        plain = np.memmap(root / "plain.bin", dtype=np.float16, mode="r", shape=(n, dim))
        buffer = np.empty((4096, dim), np.float16)
        starts = range(0, n - 4096, 4096)
        every = np.arange(n)

        def scan_ours() -> None:
            for start in starts:
                np.copyto(buffer, view.source.read(every[start : start + 4096]))

        def scan_plain() -> None:
            for start in starts:
                np.copyto(buffer, plain[start : start + 4096])

        chosen = rng.permutation(n)[:4096]
        yield compare("store.scan", scan_ours, scan_plain, against="np.memmap")
        yield compare(
            "store.gather",
            lambda: view.source.read(chosen),
            lambda: plain[chosen],
            against="np.memmap",
        )
        yield first_touch_figure(root / "store", key, plain)
        yield cold_figure(root, key, plain.shape)
        yield open_figure(root / "many", items)
        yield compare(
            "store.write", write_another, write_plain, against="one sequential file with fsync"
        )


def first_touch_figure(store: Path, key: str, plain: np.ndarray) -> Figure:
    """Compare a scan that hashes every block once with a scan of a memory map that hashes none."""
    from featstore.store.store import open_store

    n = 32_768
    starts = range(0, n, 4096)
    every = np.arange(n)
    buffer = np.empty((4096, plain.shape[1]), plain.dtype)

    def ours() -> None:
        view = open_store(store, verify="first-touch").view(key)
        for start in starts:
            np.copyto(buffer, view.source.read(every[start : start + 4096]))

    def theirs() -> None:
        for start in starts:
            np.copyto(buffer, plain[start : start + 4096])

    return compare("store.first_touch", ours, theirs, against="np.memmap, nothing checked")


def cold_figure(root: Path, key: str, shape: tuple[int, int]) -> Figure:
    """Compare gathers of rows that are in no page cache; each gather opens its files anew.

    512 of 200,000 rows lie as far apart as 4,096 of 1,600,000.
    """
    import shutil

    from featstore.store.store import open_store

    # Copies, because pages that another figure still maps could not be dropped.
    store, path = root / "cold" / "store", root / "cold" / "plain.bin"
    shutil.copytree(root / "store", store)
    shutil.copyfile(root / "plain.bin", path)
    files = [file for file in (store / key).rglob("c/*/0") if file.is_file()]
    chosen = np.random.default_rng(0).permutation(shape[0])[:512]

    def ours() -> np.ndarray:
        return open_store(store).view(key).source.read(chosen)

    def theirs() -> np.ndarray:
        return np.memmap(path, dtype=np.float16, mode="r", shape=shape)[chosen]

    def forget() -> None:
        for file in (*files, path):
            with file.open("rb") as handle:
                os.fsync(handle.fileno())  # only clean pages can be dropped
                os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    return compare("store.gather_cold", ours, theirs, against="np.memmap", before=forget)


def open_figure(root: Path, items: pl.DataFrame) -> Figure:
    """Compare opening a store and one set among 1,000 with 3 ms, which is its goal."""
    import shutil

    from featstore.store.store import open_store
    from featstore.store.writer import SetWriter

    rows = np.ones((64, 32), np.float32)
    with SetWriter(
        root, dataset="d", kind="image", encoder="timm:toy", space={"name": "toy"},
        items=items.head(64), dim=32, dtype="float16",
    ) as writer:  # fmt: skip
        writer.write_block(0, rows)
        writer.finish()
    # Copies under other names are sets too, as far as finding one among them goes.
    stem, digits = writer.key.encoder.rsplit("-", 1)
    for copy in range(999):
        shutil.copytree(writer.directory, writer.directory.parent / f"{stem}{copy}-{digits}")

    def ours() -> None:
        open_store(root).view("d/image/timm:toy").numpy()

    return compare("store.open", ours, lambda: time.sleep(0.003), against="3 ms")


def decode_figures() -> Iterator[Figure]:
    """Compare decoding in processes with decoding in as many threads, here."""
    import io
    from concurrent.futures import ThreadPoolExecutor

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


def fit_figures() -> Iterator[Figure]:
    """Compare the moments with three bare products, and the ridge path with scikit-learn."""
    from sklearn.linear_model import Ridge

    from fitters.linear.solvers import ridge_path
    from fitters.moments import accumulate

    rng = np.random.default_rng(0)
    n, dim = 32_768, 768
    x = rng.standard_normal((n, dim)).astype(np.float32)
    y = rng.standard_normal((n, dim)).astype(np.float32)
    blocks = [(x[start : start + 4096], y[start : start + 4096]) for start in range(0, n, 4096)]

    def bare() -> None:
        for a, b in blocks:
            _ = (a.T @ a, a.T @ b, b.T @ b)

    yield compare(
        "fit.moments", lambda: accumulate(blocks), bare, against="X'X, X'Y, Y'Y in float32"
    )
    small_x, small_y = x[:8192], y[:8192]
    alphas = np.geomspace(1e-2, 1e3, 50)

    def path() -> None:
        moments = accumulate([(small_x, small_y)])
        for weights in ridge_path(moments.scatter_xx, moments.scatter_xy, alphas):
            assert weights is not None

    def one_by_one() -> None:
        for alpha in alphas[:5]:
            Ridge(alpha=alpha, solver="cholesky").fit(small_x, small_y)

    figure = compare("fit.ridge_path", path, one_by_one, against="sklearn Ridge, 5 of 50 penalties")
    # Only a tenth of the peer's penalties were run: its whole path takes ten times as long.
    scaled = {**asdict(figure)}
    for name in ("ratio", "low", "high"):
        scaled[name] = round(10 * scaled[name], 2)
    yield Figure(**{**scaled, "holds": scaled["ratio"] >= figure.goal,
                    "against": "sklearn Ridge, 50 penalties (5 measured)"})  # fmt: skip


def bench_figures() -> Iterator[Figure]:
    """Compare rank counting in both directions with the bare matrix product."""
    from bench.metrics import rank_projections

    rng = np.random.default_rng(0)
    images = rng.standard_normal((2000, 512)).astype(np.float32)
    texts = np.repeat(images, 5, axis=0) + rng.standard_normal((10_000, 512)).astype(np.float32)
    of_image, of_text = np.arange(2000), np.repeat(np.arange(2000), 5)

    def ours() -> None:
        rank_projections(images, texts, of_image, of_text)
        rank_projections(texts, images, of_text, of_image)

    def bare() -> None:
        _ = (images @ texts.T, texts @ images.T)

    yield compare("bench.retrieval", ours, bare, against="the two bare products")


GROUPS = {
    "store": store_figures,
    "decode": decode_figures,
    "fit": fit_figures,
    "bench": bench_figures,
}


def main() -> int:
    """Run the groups asked for, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=sorted(GROUPS), help="one group")
    only = parser.parse_args().only
    Path("build").mkdir(exist_ok=True)
    figures = []
    print(f"{'name':<18}{'ratio':>8}{'quartiles':>18}{'goal':>7}  holds  against", flush=True)
    for name, group in GROUPS.items():
        if only in (None, name):
            for figure in group():
                figures.append(figure)
                quartiles = f"{figure.low:.2f}–{figure.high:.2f}"
                holds = "yes" if figure.holds else "NO"
                print(
                    f"{figure.name:<18}{figure.ratio:>8.2f}{quartiles:>18}{figure.goal:>7.2f}"
                    f"  {holds:<5}  {figure.against}",
                    flush=True,
                )
    missing = {goal for goal in GOALS if only in (None, goal.split(".")[0])}
    missing -= {figure.name for figure in figures}
    rows = [asdict(figure) for figure in figures]
    Path("build/perf.json").write_text(json.dumps(rows, indent=1) + "\n")
    if missing:
        print(f"perf: no figure for {', '.join(sorted(missing))}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
