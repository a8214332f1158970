"""The group ``share``: a store in moto's S3 on this machine, and moments by Ray's workers."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import obstore
import polars as pl

from featstore import open_store
from featstore.remote.cache import user_cache
from featstore.share import copy_sets
from featstore.store.layout import SetLayout, SetSpec
from featstore.store.view import Selection
from tests.featstore.remote.buckets import environment, make_bucket, moto_server, plain_store
from tests.featstore.remote.hub_server import TOKEN, hub_server
from tests.featstore.remote.proxy import proxy
from tests.perf.engine import PAIRS, Figure, compare, figure_of
from tests.perf.sample import BLOCK, Sample
from tests.perf.share_ray import ray_figure
from tests.perf.store_opening import make_sets

N, DIM = 200_000, 768

#: Rows of the set that goes over the link: 2.5 GB, of which a dozen round trips are 3 %.
LINKED = 1_600_000
GATHERED = 4096
GOAL_SECONDS = 5.0
SETS = 1000
LINK_RUNS = 6


def figures(out: Path) -> Iterator[Figure]:
    """Yield the lines of the group ``share``; its files and its cache lie in a folder in `out`."""
    with tempfile.TemporaryDirectory(dir=out) as folder, moto_server() as (host, port):
        root, endpoint = Path(folder).resolve(), f"http://{host}:{port}"
        with _environment({**environment(endpoint), "XDG_CACHE_HOME": str(root / "cache")}):
            make_bucket(endpoint, "team")
            key = _write(root / "store")
            copy_sets(root / "store", "s3://team/store")
            yield _first_scan(root, endpoint, key)
            yield _second_scan(root, key)
            yield _gather((host, port), key)
            yield _push_unchanged(root, endpoint)
        yield from _over_a_link(root)
        yield ray_figure(root)


class Link:
    """A link of 100 MB/s and 50 ms there and back, which all connections share."""

    rate, trip = 100e6, 0.05

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free = 0.0

    def answer(self, _: int) -> None:
        """Wait for a request to arrive and its answer to come back."""
        time.sleep(self.trip)

    def carry(self, n_bytes: int) -> None:
        """Wait until so many bytes have passed."""
        with self._lock:
            now = time.monotonic()
            # What the link could have carried a moment ago makes up for sleeping too long.
            self._free = max(self._free, now - 0.02) + n_bytes / self.rate
            left = self._free - now
        if left > 0:
            time.sleep(left)


def _serve_hub(line: Connection) -> None:
    """Serve an empty dataset over a link, in a process of its own; ends with a word on `line`."""
    with hub_server(None, "team/store") as hub:
        link = Link()
        hub.latency, hub.carry = link.answer, link.carry
        line.send(hub.url)
        line.recv()
        line.send(sum(map(len, hub.files().values())))


def _over_a_link(root: Path) -> Iterator[Figure]:
    """Push to the local hub and scan from it: the link's own time over that of all."""
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_XET = True
    key = _write(root / "linked", LINKED)
    processes, cpu = multiprocessing.get_context("spawn"), time.process_time()
    pushed, scanned = [], []
    for _ in range(LINK_RUNS):
        line, theirs = processes.Pipe()
        server = processes.Process(target=_serve_hub, args=(theirs,))
        server.start()
        with _environment({"HF_ENDPOINT": line.recv(), "HF_TOKEN": TOKEN}):
            began = time.perf_counter()
            copy_sets(root / "linked", "hf://datasets/team/store")
            push = time.perf_counter() - began
            user_cache().forget()
            began = time.perf_counter()
            _scan(open_store("hf://datasets/team/store").view(key))
            scan = time.perf_counter() - began
        line.send("end")
        pushed.append(line.recv() / Link.rate / push)
        scanned.append(LINKED * DIM * 2 / Link.rate / scan)
        server.join()
    cpu = time.process_time() - cpu
    for name, ratios in (("share.link_push", pushed), ("share.link_scan", scanned)):
        yield figure_of(
            name, ratios, against=f"{LINKED * DIM * 2 / 1e6:,.0f} MB over 100 MB/s and 50 ms; "
            "the hub's server is a process beside it", cpu_seconds=cpu,
        )  # fmt: skip


def _write(store: Path, n: int = N) -> str:
    from featstore.store.writer import SetWriter

    block = np.random.default_rng(0).standard_normal((BLOCK, DIM)).astype(np.float16)
    items = pl.DataFrame({"item_id": [f"i/{i}" for i in range(n)], "kind": ["image"] * n})
    items = items.with_columns(pl.lit(None, pl.String).alias("split"))
    with SetWriter(
        store, SetSpec("d", "image", "timm:toy", {"name": "toy"}, "float16"), items, DIM,
    ) as writer:  # fmt: skip
        for number in writer.pending():
            where = writer.layout.block_slice(number)
            # Different blocks, or the cache would be right by accident.
            writer.write_block(number, np.roll(block, number, axis=1)[: where.stop - where.start])
        writer.finish()
    return str(writer.key)


def _scan(view: Selection) -> None:
    for _ in view.astype(np.float16).batches(BLOCK, reuse=True):
        pass


def _first_scan(root: Path, endpoint: str, key: str) -> Figure:
    bucket = plain_store(endpoint, "team")
    names = [f"store/{path.relative_to(root / 'store').as_posix()}"
             for path in sorted((root / "store" / key / "embedding" / "c").rglob("0"))
             if path.is_file()]  # fmt: skip
    view = open_store("s3://team/store").view(key)  # items and records are in the cache
    assert view.shape == (N, DIM)

    def forget() -> None:
        user_cache().trim(limit=0)
        for path in root.glob("*.bin"):
            path.unlink()

    def download() -> None:
        for number, name in enumerate(names):
            with (root / f"{number}.bin").open("wb") as file:
                for piece in obstore.get(bucket, name).stream():
                    file.write(piece)

    return compare(
        "share.first_scan",
        lambda: _scan(open_store("s3://team/store").view(key)),
        download,
        against=f"obstore's stream of the same {N * DIM * 2 / 2**20:,.0f} MiB into files",
        before=forget,
    )


def _second_scan(root: Path, key: str) -> Figure:
    _scan(open_store("s3://team/store").view(key))
    remote = open_store("s3://team/store").view(key)
    local = open_store(root / "store").view(key)
    return compare(
        "share.second_scan",
        lambda: _scan(remote),
        lambda: _scan(local),
        against="the same scan of the folder that was pushed",
        pairs=31,
    )


def _gather(moto: tuple[str, int], key: str) -> Figure:
    """Count requests: each draw of rows from an empty cache, through a counting proxy."""
    ratios, asked, n_bytes, ideal = [], 0, 0, 0
    with proxy(moto) as state, _environment({"AWS_ENDPOINT_URL": state.url}):
        for seed in range(PAIRS):
            user_cache().trim(limit=0)
            view = open_store("s3://team/store").view(key)
            layout = open_store("s3://team/store").info(key).commit.layout
            rows = np.random.default_rng(seed).permutation(N)[:GATHERED]
            state.requests.clear()
            view.source.read(rows)
            data = [(path, span) for _, path, span in state.requests if "/c/" in path]
            blocks = np.unique(layout.blocks_of(rows))
            jumps = (np.diff(blocks) > 1) | (np.diff(layout.file_of[blocks]) > 0)
            ideal, asked = 1 + int(jumps.sum()), len(state.requests)
            n_bytes = sum(_asked_bytes(path, span, layout) for path, span in data)
            ratios.append(ideal / asked)
    return figure_of(
        "share.gather",
        ratios,
        against=f"requests: {ideal} runs of blocks; {asked} requests, {n_bytes / 2**20:,.0f} MiB "
        f"for {GATHERED:,} random rows of {N:,} ({PAIRS} draws)",
    )


def _asked_bytes(path: str, span: str, layout: SetLayout) -> int:
    """Return the bytes of a request: of its range, or of the whole file if it has none."""
    if not span:
        return layout.files[int(path.split("/c/")[1].split("/")[0])].size
    first, last = map(int, span.removeprefix("bytes=").split("-"))
    return last - first + 1


def _push_unchanged(root: Path, endpoint: str) -> Figure:
    many = root / "many"
    items = pl.DataFrame({"item_id": [f"i/{i}" for i in range(64)], "kind": ["image"] * 64})
    make_sets(many, Sample(root, "", items, np.empty((0, 0))), SETS)
    bucket = plain_store(endpoint, "team")
    files = [path for path in many.rglob("*") if path.is_file()]
    with ThreadPoolExecutor(8) as pool:  # a copy of the folder is a store
        list(pool.map(lambda path: obstore.put(
            bucket, f"many/{path.relative_to(many).as_posix()}", path), files))  # fmt: skip
    ratios = []
    cpu = time.process_time()
    for _ in range(PAIRS):
        started = time.perf_counter()
        report = copy_sets(many, "s3://team/many")
        ratios.append(GOAL_SECONDS / (time.perf_counter() - started))
        assert list(report.sets.values()) == ["same"] * SETS, report
    return figure_of(
        "share.push_unchanged",
        ratios,
        against=f"5 s; {SETS:,} sets, none changed",
        cpu_seconds=time.process_time() - cpu,
    )


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
