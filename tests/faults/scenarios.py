"""What the children of the fault tests do: small sets, written by the real writer."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featstore.errors import AlreadyFinishedError
from featstore.store.commit import read_commit, read_pointer
from featstore.store.layout import SetKey
from featstore.store.settle import settle_set
from featstore.store.writer import SetWriter

#: 16 KiB a row: shards of four rows, so that a small set has several data files.
DIM = 4096
LIMITS = {"block_rows": 2, "plain_bytes": 0, "shard_bytes": 1}

#: Rows of the first revision and of the second: two data files, the last of which grows; three.
SIZES = (7, 11)

FAILED = frozenset({3, 8})


def items(n: int, dataset: str = "birds") -> pl.DataFrame:
    """Return an item table of n rows."""
    ids = [f"{dataset}/{i:03d}" for i in range(n)]
    return pl.DataFrame({"item_id": ids, "content_sha256": [f"{i:064x}" for i in range(n)]})


def rows(n: int, dim: int = DIM) -> np.ndarray:
    """Return the n first rows, (n, dim) float32; exact in float16 too."""
    numbers = np.arange(n, dtype=np.float32)[:, None] + 1
    return numbers * (np.arange(dim, dtype=np.float32) % 31 + 1)


def write(
    root: Path,
    n: int,
    *,
    dataset: str = "birds",
    kind: str = "image",
    before_block: Callable[[SetWriter, int], None] | None = None,
    before_finish: Callable[[SetWriter], None] | None = None,
    **options: Any,
) -> str:
    """Write or extend a set to n rows as an extraction does; return "written" or "reused"."""
    head = kind == "head_weight"
    limits = {} if head else LIMITS
    dim = 6 if head else DIM
    table = items(n, dataset)
    try:
        with SetWriter(
            root, dataset=dataset, kind=kind, encoder="timm:toy", space={"name": "toy"},
            items=table, dim=dim, dtype="float32", **{**limits, **options},
        ) as writer:  # fmt: skip
            for block in writer.pending():
                if before_block is not None:
                    before_block(writer, block)
                where = writer.layout.block_slice(block)
                failed = {
                    table["item_id"][i]: "cannot be decoded"
                    for i in FAILED
                    if not head and where.start <= i < where.stop
                }
                writer.write_block(block, rows(n, dim)[where], failed)
            if before_finish is not None:
                before_finish(writer)
            bias = np.arange(n, dtype=np.float32) if head else None
            writer.finish(bias=bias, golden={"vectors": [[1.0, 2.0]]}, run={"host": "here"})
    except AlreadyFinishedError:
        settle_set(root, key_of(root, dataset, kind))
        return "reused"
    return "written"


def key_of(root: Path, dataset: str = "birds", kind: str = "image") -> SetKey:
    """Return the key of the only set of a dataset and kind."""
    folder = root / dataset / kind
    return SetKey(dataset, kind, next(path.name for path in folder.iterdir() if path.is_dir()))


def published_rows(root: Path, dataset: str = "birds", kind: str = "image") -> int:
    """Return the rows of the current revision, or 0 if there is none."""
    folder = root / dataset / kind
    found = [p for p in folder.iterdir() if p.is_dir()] if folder.is_dir() else []
    pointer = read_pointer(found[0]) if found else None
    return read_commit(found[0], pointer["revision"]).n if pointer else 0


def grow(root: Path) -> str:
    """Write a set in two revisions, and a head between them: each step only if it is missing."""
    for n, dataset, kind in [
        (SIZES[0], "birds", "image"),
        (5, "birds", "head_weight"),
        (SIZES[1], "birds", "image"),
    ]:
        if published_rows(root, dataset, kind) <= n:
            write(root, n, dataset=dataset, kind=kind)
    return "written"


def once(root: Path, *, n: int = SIZES[0], **options: Any) -> str:
    """Write one set; with `nap`, slowly: that many seconds before each block."""
    nap = options.pop("nap", 0.0)

    def sleep(*_: Any) -> None:
        time.sleep(nap)

    return write(root, n, before_block=sleep if nap else None, **options)


def stop_before(root: Path, *, where: str, n: int, expiry: float, beat: float) -> str:
    """Write a set and stop this process (SIGSTOP) at a place; it goes on when it is resumed."""
    from featstore.store import claim as claims

    def stop(*_: Any) -> None:
        os.kill(os.getpid(), 19)

    with _stopping(claims, where, stop), _quick(expiry, beat):
        return write(
            root,
            n,
            before_block=(lambda _, block: stop() if block % 3 == 1 else None)
            if where == "block"
            else None,
            before_finish=stop if where == "finish" else None,
        )


@contextmanager
def _stopping(claims: Any, where: str, stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` right before the first rename to a name that ends in `where`."""
    replace = Path.replace
    done: list[Path] = []

    def stopping(self: Path, target: Path) -> Path:
        if where.startswith("/") and not done and f"/{Path(target).as_posix()}".endswith(where):
            done.append(target)
            stop()
        return replace(self, target)

    Path.replace = stopping  # type: ignore[method-assign]
    try:
        yield
    finally:
        Path.replace = replace  # type: ignore[method-assign]


@contextmanager
def _quick(expiry: float, beat: float) -> Iterator[None]:
    """Let claims expire fast, in this process."""
    from featstore.store import claim as claims
    from featstore.store import writer

    real = claims.claim_set

    def quick(*args: Any, **options: Any) -> Any:
        return real(*args, **{**options, "expiry": expiry, "beat": beat})

    writer.claim_set = quick  # type: ignore[attr-defined]
    try:
        yield
    finally:
        writer.claim_set = real  # type: ignore[attr-defined]


def succeed(root: Path, *, n: int, expiry: float, beat: float, wait: float, nap: float = 0) -> str:
    """Write a set, waiting for another writer, with claims that expire fast."""
    with _quick(expiry, beat):
        return once(root, n=n, wait=wait, nap=nap)
