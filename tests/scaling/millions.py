"""What a job of millions of pictures costs: planned, begun, killed, resumed, finished, pushed.

    python -m tests.scaling.millions build/millions 10000000

The pictures are bitmaps of 4 × 4 pixels, computed from their number and packed into one file from
which items are read by offset; the encoder gives 8 numbers of each. So nearly all that is measured
is the job itself: its items, processes, blocks, commit and log. Every step is a process of its own.
With ``begun`` a job is only planned, begun, killed and resumed for `SOME` blocks.
Processor seconds are those of the process and its children; memory is the largest anonymous memory
of the parent beyond what it had after its imports.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featstore import open_store
from featstore.extraction.job import extract
from featstore.extraction.options import EncoderSpec, ExtractConfig
from featstore.extraction.targets import Job
from featstore.images import Geometry
from featstore.manifest import read_manifest, write_manifest
from featstore.share import copy_sets
from featstore.store import BLOCK_ROWS
from tests.featstore.remote.buckets import environment
from tests.featstore.remote.s3_server import s3_server
from tests.perf.scan_memory import sampled

SIDE, DIM, CHUNK = 4, 8, 2**18

DATA = Path(__file__).parents[2] / "docs" / "data" / "millions.json"

#: Bytes of a bitmap: its header, then rows of pixels, each padded to four bytes.
_HEAD = b"BM" + b"".join(
    number.to_bytes(size, "little")
    for number, size in (
        (54 + 3 * SIDE * SIDE, 4), (0, 4), (54, 4), (40, 4), (SIDE, 4), (SIDE, 4), (1, 2), (24, 2),
        (0, 4), (3 * SIDE * SIDE, 4), (2835, 4), (2835, 4), (0, 4), (0, 4),
    )
)  # fmt: skip


class Colours:
    """An encoder that costs nothing: eight of the 48 numbers of a picture."""

    geometry = Geometry(resize=(SIDE,), crop=(SIDE, SIDE), interpolation="BILINEAR")

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Return (b, 8) of (b, 4, 4, 3) pixels."""
        return pixels.reshape(len(pixels), -1)[:, :DIM].astype(np.float32)


def pictures(first: int, count: int) -> np.ndarray:
    """Return bitmaps by their numbers, one a row: different numbers have different pixels."""
    rows = np.empty((count, len(_HEAD) + 3 * SIDE * SIDE), np.uint8)
    rows[:, : len(_HEAD)] = np.frombuffer(_HEAD, np.uint8)
    pixels = np.random.default_rng(first).integers(
        256, size=(count, 3 * SIDE * SIDE), dtype=np.uint8
    )
    pixels[:, -4:] = np.arange(first, first + count, dtype="<u4").view(np.uint8).reshape(-1, 4)
    rows[:, len(_HEAD) :] = pixels
    return rows


def make(folder: Path, count: int) -> None:
    """Write the pictures, and a manifest of them."""
    files = folder / "files"
    files.mkdir(parents=True)
    digests: list[str] = []
    with (files / "pictures.tar").open("wb") as file:
        for first in range(0, count, CHUNK):
            rows = pictures(first, min(CHUNK, count - first))
            file.write(rows.tobytes())
            digests += [hashlib.sha256(row).hexdigest() for row in rows]
    size = len(_HEAD) + 3 * SIDE * SIDE
    numbers = pl.DataFrame({"number": pl.int_range(count, eager=True)})
    name = pl.concat_str(pl.lit("p"), pl.col("number").cast(pl.String))
    table = numbers.select(
        item_id=name, uri=pl.concat_str(pl.lit("pictures.tar::"), name),
        split=pl.lit("train"), content_sha256=pl.Series(digests),
        byte_offset=pl.col("number") * size, byte_size=pl.lit(size, pl.Int64),
    )  # fmt: skip
    write_manifest(
        folder / "manifest", facts={"name": "millions"}, tables={"image": table}, data_root=files
    )


def plan(root: Path) -> dict[str, Any]:
    """Return what ``extract --dry-run`` says."""
    spec = EncoderSpec(Colours(), space={"name": "colours"})
    job = Job(read_manifest(root / "manifest"), "image", [spec], root / "store").open()
    [state] = [target.state(target.known_rows(None)) for target in job.targets]
    return {"rows": state.rows, "to_encode": state.new, "write_bytes": state.write_bytes}


#: Blocks of a job that is begun.
SOME = 25


def encode(root: Path, most: float = float("inf")) -> dict[str, Any]:
    """Extract what is not there, so many blocks of it; say when the first block was written."""
    found: dict[str, Any] = {}
    blocks = itertools.count(1)

    def tell(done: Any) -> None:
        if "first_block" not in found:
            found["first_block"] = processor_seconds()
        (root / "blocks").write_text(str((done + 1) * BLOCK_ROWS))
        if next(blocks) >= most:
            raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        made = extract(
            root / "manifest", root / "store", encoder=Colours(), space={"name": "colours"},
            kind="image", config=ExtractConfig(batch_size=1024, on_block=tell),
        )  # fmt: skip
        found |= {"new": made.new, "reused": made.reused, "failed": made.failed}
    return found


def check(root: Path) -> dict[str, Any]:
    """Compare every row with its picture; return the sizes of the files by their kind."""
    view = open_store(root / "store").view(KEY)
    items = view.items["item_id"]
    for first in range(0, len(view), CHUNK):
        rows = pictures(first, min(CHUNK, len(view) - first))
        pixels = rows[:, len(_HEAD) :].reshape(len(rows), SIDE, SIDE, 3)[:, ::-1, :, ::-1]
        assert (view[first : first + len(rows)] == pixels.reshape(len(rows), -1)[:, :DIM]).all()
        ids = [f"p{number}" for number in range(first, first + len(rows))]
        assert items[first : first + len(rows)].to_list() == ids
    found: dict[str, Any] = {"rows": len(view)}
    for name, pattern in FILES.items():
        sizes = [path.stat().st_size for path in (root / "store").glob(pattern)]
        found[name] = f"{len(sizes):,} of {sum(sizes):,} bytes"
    return found


#: The files of a set, by what they hold.
FILES = {
    "rows": "millions/image/*/embedding/**/c/**/[0-9]*",
    "item tables": "millions/image/*.parquet",
    "commits": "millions/image/*/revisions/*",
    "log": "log.json",
}


def send(root: Path) -> dict[str, Any]:
    """Push the store to an S3, open it and read all rows; return the requests of each."""
    with s3_server() as server:
        os.environ.update(environment(server.url))
        copy_sets(root / "store", "s3://bucket/features")
        pushed = [method for method, _, _ in server.requests]
        os.environ["HEADSTOCK_CACHE"] = str(root / "cache")
        view = open_store("s3://bucket/features").view(KEY)
        opened = len(server.requests) - len(pushed)
        assert view[len(view) // 2].shape == (DIM,)
        assert sum(float(part.sum()) for part in view.batches(CHUNK)) > 0
        sizes = {path: len(data) for path, data in server.objects.items()}
        return {
            "push": {method: pushed.count(method) for method in sorted({*pushed})},
            "open": opened, "scan": len(server.requests) - len(pushed) - opened,
            "objects": len(sizes), "bytes": sum(sizes.values()),
        }  # fmt: skip


STEPS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "plan": plan, "encode": encode, "some": partial(encode, most=SOME), "check": check,
    "send": send,
}  # fmt: skip

KEY = "millions/image/object.colours"


def processor_seconds() -> float:
    """Return the processor time of this process's group, and of its members that have ended."""
    ticks, group = 0, os.getpgid(0)
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                own = fields[11:15] if path.parent.name == str(os.getpid()) else fields[11:13]
                ticks += sum(map(int, own))
    return ticks / os.sysconf("SC_CLK_TCK")


def step() -> None:
    """Run a step in this process, and print what it took."""
    root, name = Path(sys.argv[1]), sys.argv[2]
    started = processor_seconds()
    with sampled(0.02) as seen:
        found = STEPS[name](root)
    if "first_block" in found:
        found["first_block"] -= started
    print(
        json.dumps(
            {"seconds": processor_seconds() - started, "bytes": max(seen) - seen[0], **found}
        )
    )


def run(root: Path, name: str, *, kill_at: int = 0) -> dict[str, Any]:
    """Run a step in processes of its own, and kill them once so many rows are done."""
    code = "from tests.scaling.millions import step; step()"
    words = [sys.executable, "-c", code, str(root), name]
    blocks = root / "blocks"
    blocks.unlink(missing_ok=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
    while child.poll() is None and kill_at:
        time.sleep(0.05)
        if blocks.exists() and int(blocks.read_text() or 0) >= kill_at:
            os.killpg(child.pid, signal.SIGKILL)
    said, _ = child.communicate()
    if kill_at:
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = sum(getattr(after, k) - getattr(before, k) for k in ("ru_utime", "ru_stime"))
        return {"seconds": spent, "killed_at": int(blocks.read_text())}
    if child.returncode:
        raise SystemExit(f"{name} ended with {child.returncode}")
    found: dict[str, Any] = json.loads(said)
    return found


def measured(root: Path, count: int, *, begun: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what each step took."""
    shutil.rmtree(root, ignore_errors=True)
    make(root, count)
    yield "plan", run(root, "plan")
    if begun:
        run(root, "encode", kill_at=1)
        yield f"resume, {SOME} blocks", run(root, "some")
        return
    yield "begin, then SIGKILL", run(root, "encode", kill_at=count // 3)
    yield "resume and finish", run(root, "encode")
    yield "again, nothing to do", run(root, "encode")
    yield "check every row", run(root, "check")
    yield "push, open, scan of a bucket", run(root, "send")


#: What a million items may take in `make test-long`: processor seconds of all steps, and those to
#: the first block of a resumed job; anonymous bytes of the parent an item.
SECONDS, FIRST_BLOCK, BYTES = 360.0, 25.0, 300.0


def main() -> int:
    """Measure a number of items, and print what each step took.

    What a million may take is checked with ``check``; else all is kept for the documents.
    """
    root, count, checks = Path(sys.argv[1]), int(sys.argv[2]), "check" in sys.argv[3:]
    steps: dict[str, dict[str, Any]] = {}
    for name, found in measured(root, count, begun="begun" in sys.argv[3:]):
        print(json.dumps({"step": name, **found}), flush=True)
        steps[name] = {k: round(v, 2) if isinstance(v, float) else v for k, v in found.items()}
    if not checks:
        data = json.loads(DATA.read_text()) if DATA.exists() else {}
        known = data.get(str(count), {}) | steps
        DATA.write_text(json.dumps(data | {str(count): known}, indent=1) + "\n")
        return 0
    resumed = steps["resume and finish"]
    taken = {
        "seconds": (sum(step["seconds"] for step in steps.values()), SECONDS),
        "first block": (resumed["first_block"], FIRST_BLOCK),
        "bytes an item": (resumed["bytes"] / count, BYTES),
    }
    over = [f"{name}: {found:,.1f} of {most:,.0f}" for name, (found, most) in taken.items()
            if found > most]  # fmt: skip
    print("; ".join(over) or "within the limits")
    return int(bool(over))


if __name__ == "__main__":
    raise SystemExit(main())
