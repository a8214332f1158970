"""Every door takes large sets whose items compress to nothing, and what it publishes is read.

A default run writes 400,000 rows by two doors; ``HEADSTOCK_FAULTS=all`` ten million by all.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import featstore
from featstore import open_store
from featstore.command_line import run_command
from featstore.manifest.io import read_manifest, write_manifest
from featstore.store.verify import verify_store
from headstock.__main__ import cli

EVERYTHING = os.environ.get("HEADSTOCK_FAULTS") == "all"
ROWS = 10_000_000 if EVERYTHING else 400_000


def _regular(n: int) -> pl.DataFrame:
    return pl.select(item_id=pl.format("i{}", pl.int_range(n)), text=pl.lit("a kite"))


def _constant(n: int) -> pl.DataFrame:
    return _regular(n).with_columns(
        text=pl.lit("A photograph of a kite. " * 40), split=pl.lit("train")
    )


def _long(n: int) -> pl.DataFrame:
    """Half of the rows: texts of two kilobytes that differ in a few letters."""
    number = pl.int_range(pl.len())
    text = pl.format(f"{'A photograph of a very small kite. ' * 60} {{}}", number)
    return _regular(min(n // 2, 400_000)).with_columns(text=text)


ITEMS: dict[str, Callable[[int], pl.DataFrame]] = {
    "regular ids": _regular, "constant columns": _constant, "long texts": _long,
}  # fmt: skip


def _run(*words: object) -> None:
    assert run_command(cli, "headstock", list(map(str, words))) == 0


def _written(tmp_path: Path, items: pl.DataFrame) -> pl.DataFrame:
    """By Python, from arrays."""
    rows = np.ones((items.height, 1), np.int8)
    view = featstore.write(
        tmp_path / "store", dataset="d", kind="caption", encoder="a:b", rows=rows, items=items
    )
    return view.items


def _imported(tmp_path: Path, items: pl.DataFrame) -> pl.DataFrame:
    """By `import`, from files of other tools."""
    np.save(tmp_path / "rows.npy", np.ones((items.height, 1), np.int8))
    items.write_parquet(tmp_path / "items.parquet")
    _run(
        "import", tmp_path / "rows.npy", "--items", tmp_path / "items.parquet", "--store",
        tmp_path / "store", "--dataset", "d", "--kind", "caption", "--encoder", "a:b",
    )  # fmt: skip
    return open_store(tmp_path / "store").view("d/caption/a.b").items


def _made(tmp_path: Path, items: pl.DataFrame) -> pl.DataFrame:
    """By `data make`, from a table."""
    items.select(id="item_id", caption="text").write_parquet(tmp_path / "t.parquet")
    out = tmp_path / "made"
    source = ("parquet", tmp_path / "t.parquet", "-s", "texts=true")
    _run("data", "make", *source, "-o", out)
    return read_manifest(out).items("caption")


def _extracted(tmp_path: Path, items: pl.DataFrame) -> pl.DataFrame:
    """By `extract`, from a manifest."""
    write_manifest(tmp_path / "m", facts={"name": "d"}, tables={"caption": items})
    made = featstore.extract(
        read_manifest(tmp_path / "m"), kind="caption", store=tmp_path / "store",
        encoder=lambda found: np.ones((len(found), 1), np.float32), space={"name": "ones"},
    )  # fmt: skip
    return open_store(tmp_path / "store").view(made.key).items


DOORS = {"write": _written, "import": _imported, "data make": _made, "extract": _extracted}


#: Doors that go through items in Python, half a minute for a million.
SLOW = ("data make", "extract")


@pytest.mark.parametrize(
    ("door", "kind"),
    [(door, kind) for door in DOORS for kind in ITEMS
     if EVERYTHING or door == "write" or (door not in SLOW and kind == "constant columns")],
)  # fmt: skip
def test_what_is_published_is_read(door: str, kind: str, tmp_path: Path) -> None:
    items = ITEMS[kind](ROWS)
    found = DOORS[door](tmp_path, items)
    assert found.height == items.height
    assert found["text"].equals(items["text"])
    if (tmp_path / "store").exists():
        assert verify_store(tmp_path / "store").problems == []
