"""The steps of the state machine: each changes a store with the public functions alone.

They run in the test's own process, or in a child that is killed in the middle (`killed`).
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import signal
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featstore import copy_sets, open_store
from featstore.errors import AlreadyFinishedError, StoreWriteError
from featstore.store import (
    LayoutLimits,
    SetKey,
    SetSpec,
    SetWriter,
    WriteOptions,
    collect_garbage,
    remove_set,
    tidy_set,
)
from featstore.store.gc import compact_set
from featstore.store.layout import blank_value

#: A set a kind, each cut into files in its own way: shards of four rows, one plain array that
#: grows, shards of eight rows of bfloat16, and a head with its bias, which never grows.
SETS: dict[str, dict[str, Any]] = {
    "image": {"dim": 4096, "dtype": "float32", "block_rows": 2, "plain_bytes": 0, "shard_bytes": 1},
    "caption": {"dim": 3, "dtype": "float16", "block_rows": 4},
    "class_name": {
        "dim": 4096, "dtype": "bfloat16", "block_rows": 2, "plain_bytes": 0, "shard_bytes": 1,
    },
    "head_weight": {"dim": 6, "dtype": "float32", "block_rows": 2},
}  # fmt: skip

DATASET, REASON = "birds", "cannot be decoded"

#: Calls of the interpreter that change a file system, as it announces them to audit hooks.
_CHANGES = frozenset({"os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "os.chmod"})


def item_ids(kind: str, n: int) -> list[str]:
    """Return the ids of the first n items of a set."""
    return [f"{DATASET}/{kind}{i:02d}" for i in range(n)]


def rows_of(kind: str, n: int) -> np.ndarray:
    """Return the first n rows of a set, (n, dim) float32; exact in bfloat16 too."""
    seed = list(SETS).index(kind)
    dim = SETS[kind]["dim"]
    rows = [np.random.default_rng([seed, i]).integers(-127, 128, dim) for i in range(n)]
    return (np.array(rows) / 8).astype(np.float32)


def block_hashes(kind: str, parts: Sequence[int], failed: Collection[int]) -> tuple[str, ...]:
    """Return the sha256 of each block of parts of so many items, as they are stored."""
    n, starts = sum(parts), [0, *itertools.accumulate(parts)]
    dtype, size = SETS[kind]["dtype"], SETS[kind]["block_rows"]
    rows = rows_of(kind, n)
    # Each row is exact in each dtype: bfloat16 is the upper half of a float32.
    stored = (rows.view("<u4") >> 16).astype("<u2") if dtype == "bfloat16" else rows.astype(dtype)
    stored[sorted(failed)] = blank_value(dtype)
    blocks = [stored[first : min(first + size, stop)] for start, stop in itertools.pairwise(starts)
              for first in range(start, stop, size)]  # fmt: skip
    return tuple(hashlib.sha256(block.tobytes()).hexdigest() for block in blocks)


def bias_of(n: int) -> np.ndarray:
    """Return the bias of a head of n classes."""
    return np.arange(n, dtype=np.float32) / 4


def set_writer(
    root: Path, kind: str, n: int, *, dataset: str = DATASET, **options: Any
) -> SetWriter:
    """Return the writer of the first n items of a set."""
    items = pl.DataFrame(
        {
            "item_id": item_ids(kind, n),
            "kind": [kind] * n,
            "content_sha256": [f"{i:064x}" for i in range(n)],
        }
    )
    limits = dict(SETS[kind])
    dim, dtype = limits.pop("dim"), limits.pop("dtype")
    return SetWriter(
        root, SetSpec(dataset, kind, "test:toy", {"name": kind}, dtype), items, dim,
        options=WriteOptions(**options), limits=LayoutLimits(**limits),
    )  # fmt: skip


def write_blocks(
    writer: SetWriter,
    failing: Collection[int],
    *,
    stop_after: int | None = None,
    before: Callable[[SetWriter, int], None] | None = None,
    bits: float = 1.0,
) -> None:
    """Write the pending blocks; items whose number is in `failing` have no embedding.

    With `stop_after`, KeyboardInterrupt is raised instead of writing one block more than that;
    with other `bits` rows come out otherwise, as those of another library do.
    """
    kind, n = writer.key.kind, writer.layout.n
    ids, rows = item_ids(kind, n), rows_of(kind, n) * np.float32(bits)
    for done, block in enumerate(writer.pending()):
        if done == stop_after:
            raise KeyboardInterrupt
        if before is not None:
            before(writer, block)
        where = writer.layout.block_slice(block)
        kept = writer.kept(block)
        reasons = {
            ids[i]: REASON
            for i in range(where.start, where.stop)
            if i in failing and not kept[i - where.start]
        }
        writer.write_block(block, rows[where], reasons)


def finish(writer: SetWriter) -> str:
    """Publish a set whose blocks are all written, and return its revision_id."""
    head = writer.key.kind == "head_weight"
    return writer.finish(
        bias=bias_of(writer.layout.n) if head else None,
        golden=None if head else {"vectors": [[1.0, 2.0]]},
        run={"host": "here"},
    )


def write(
    root: Path,
    *,
    kind: str,
    n: int,
    failing: Collection[int] = (),
    dataset: str = DATASET,
    before_finish: Callable[[SetWriter], None] = lambda _: None,
    blocks: Mapping[str, Any] = {},
    **options: Any,
) -> str:
    """Write, resume, extend or retry a set as an extraction does; return what became of it.

    `blocks` are options of `write_blocks`.
    """
    writer = set_writer(root, kind, n, dataset=dataset, **options)
    try:
        with writer:
            write_blocks(writer, failing, **blocks)
            before_finish(writer)
            finish(writer)
    except AlreadyFinishedError:
        tidy_set(root, writer.key)
        return "reused"
    return "written"


def collect(root: Path) -> None:
    """Remove all litter: what one pass sets free is found by the next."""
    while collect_garbage(root, grace=-1):
        pass


def compact(root: Path) -> None:
    """Make one part of each set that is not being written."""
    for key in open_store(root):
        with contextlib.suppress(StoreWriteError):
            compact_set(root, SetKey(*key.split("/")))


def copy(root: Path, *, target: str) -> dict[str, dict[str, str]]:
    """Copy all sets and tags of a store to another; return the report's two mappings."""
    report = copy_sets(root, target)
    return {"sets": dict(report.sets), "failed": report.failed}


def killed(
    root: Path, *, step: str, at: int, places: list[str], args: dict[str, Any], among: str = ""
) -> Any:
    """Run a step in this process and kill it before its `at`-th change of a file.

    Counted are renames, removals, new folders and files opened for writing below `places`; with
    `among` only those whose path, the new one of a rename, holds this.
    """
    left = at

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if (
            event == "open" and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
        ) or event in _CHANGES:
            path = arguments[1] if event == "os.rename" else arguments[0]
            name = "" if isinstance(path, int) else os.fsdecode(path)
            if not name.startswith(tuple(places)) or among not in name:
                return
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    steps: dict[str, Callable[..., Any]] = {
        "write": write, "remove": remove_set, "collect": collect, "compact": compact, "copy": copy,
    }  # fmt: skip
    return steps[step](root, **args)


def key_of_kind(root: Path, kind: str) -> SetKey:
    """Return the key that a set has, or will have."""
    return set_writer(root, kind, 1).key
