"""What a table, its comparisons and its doses say of a small study on the store of `world`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from bench import Run, read_results, run_all
from bench.comparisons import compare
from bench.suites.demo import dose_table
from bench.tables import result_table
from featstore import open_store
from tests.goldens.files import rounded
from tests.goldens.world import SETS, write_world
from tests.shorthand import task_runs

SEEDS, DRAWS = (0, 1, 2), (0, 1, 2, 3)


def _runs(root: Path) -> Iterator[Run]:
    """Yield a head beside real pairs and controls, in draws; its doses; and retrieval."""
    store = open_store(root)
    base: dict[str, Any] = {"method": "ridge", "eval": "held-out", "seeds": SEEDS, **SETS}
    for n_pairs in (0, 24):
        yield from task_runs(store, "zero_shot", **base, source="head", n_pairs=n_pairs)
        for source in ("random", "shuffled"):
            for draw in DRAWS:
                drawn = {**base, "source": source, "n_pairs": n_pairs, "control_draw": draw}
                yield from task_runs(store, "zero_shot", **drawn)
    yield from task_runs(store, "zero_shot", **base, source="none", n_pairs=24)
    for parts in ({"head_size": 20}, {"head_size": 40}):
        yield from task_runs(store, "zero_shot", **base, source="head", **parts)
    for clusters in (3, 12):
        within = {"source": "shuffled-within", "clusters": clusters}
        yield from task_runs(store, "zero_shot", **base, **within)
    for source in ("head", "none"):
        yield from task_runs(store, "retrieval", **base, source=source, n_pairs=24)


def claims(folder: Path) -> dict[str, Any]:
    """Return table and row -> the numbers and words that are not null."""
    write_world(folder / "store")
    run_all(list(_runs(folder / "store")), folder / "store", folder / "results")
    rows = read_results(folder / "results")
    found: dict[str, Any] = {}
    for name, table in (
        ("table", result_table(rows)),
        ("comparison", compare(folder / "results", rows)),
        ("dose", dose_table(folder / "results", rows)),
    ):
        # The sets are those of the world, whatever their ids; what is never changed says nothing.
        told = [
            column.name
            for column in _sorted(table)
            if column.n_unique() > 1 and not column.name.endswith("_set")
        ]
        for number, row in enumerate(_sorted(table).select(told).iter_rows(named=True)):
            found[f"{name} {number}"] = {
                key: rounded(value) if isinstance(value, float) else value
                for key, value in row.items()
                if value is not None
            }
    return found


def _sorted(table: pl.DataFrame) -> pl.DataFrame:
    """Return the rows in an order of their words, which no refactoring changes."""
    words = [name for name, dtype in table.schema.items() if dtype == pl.String]
    numbers = [name for name in ("clusters", "head_size", "level") if name in table.columns]
    return table.sort(*words, *numbers, nulls_last=True, maintain_order=True)
