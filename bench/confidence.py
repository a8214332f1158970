"""The table of confidence: how far runs know which of their answers are right.

A row has the calibration error over all images of all draws, its interval over clusters (the draws
are held fixed), and AUROC with the interval over draws and clusters that every mean has.
"""

from __future__ import annotations

from operator import itemgetter
from pathlib import Path
from typing import Any

import polars as pl

from bench.cells import ARENA, Cell, in_order, method_title, read_cells, source_name
from bench.metrics.confidence import Calibration, calibration
from bench.metrics.summary import CONFIDENCE_METRICS
from bench.results import RUN_COLUMNS, read_ranks
from bench.statistics import two_term
from bench.tables import Column, Table, interval_text, metric_name, value_text

_NUMBERS = ("top-1", "confidence", "ECE", "calibration-error", "low", "high", "AURC", "AUROC",
            "AUROC_low", "AUROC_high", "temperature")  # fmt: skip

SCHEMA: dict[str, Any] = {
    **dict.fromkeys(ARENA, pl.String),
    **{name: RUN_COLUMNS[name] for name in ("method", "source", "n_pairs")},
    "learner": pl.String,
    "shots": pl.Int64,
    **dict.fromkeys(_NUMBERS, pl.Float64),
    "n_draws": pl.Int64,
}


def confidence_table(root: Path, results: pl.DataFrame) -> pl.DataFrame:
    """Return one row a cell that was scored with confidence: schema `SCHEMA`.

    Parameters
    ----------
    root : Path
        The results folder; ranks are read from it.
    results : DataFrame
        Rows of `bench.results.read_results`, of one series.
    """
    scored = results.filter(pl.col("metric") == "AUROC").select("run_id", "direction")
    own = results.join(scored, on=["run_id", "direction"], how="semi", maintain_order="left")
    rows = [_row(cell, own) for cell in read_cells(root, own)]
    return in_order(pl.DataFrame(rows, schema=SCHEMA))


def of_cell(cell: Cell) -> tuple[Calibration, pl.DataFrame]:
    """Return the calibration of all runs of a cell, and each image's confidence, right, cluster."""
    place = sorted(CONFIDENCE_METRICS).index("confidence")
    images = read_ranks(cell.root, cell.run_ids).filter(
        pl.col("direction") == cell.arena[ARENA.index("direction")]
    ).select(
        "cluster_id", confidence=pl.col("own").list.get(place), right=pl.col("rank") == 1
    )  # fmt: skip
    columns = (images[name].to_numpy() for name in ("confidence", "right", "cluster_id"))
    return calibration(*columns), images


def _row(cell: Cell, results: pl.DataFrame) -> dict[str, Any]:
    runs = results.filter(pl.col("run_id").is_in(cell.run_ids))
    first, error = runs.row(0, named=True), of_cell(cell)[0]
    rejection = two_term(cell.runs("AUROC"))
    low, high = rejection.interval()
    return {
        **{name: first[name] for name in SCHEMA if name in first},
        "top-1": cell.mean("top-1"), "confidence": cell.mean("confidence"), "ECE": error.raw,
        "calibration-error": error.error, "low": error.low, "high": error.high,
        "AURC": cell.mean("AURC"), "AUROC": rejection.mean, "AUROC_low": low, "AUROC_high": high,
        "temperature": runs["temperature"].mean(), "n_draws": len(cell.run_ids),
    }  # fmt: skip


def confidence_lines(table: pl.DataFrame) -> Table:
    """Return the rows of `confidence_table` as text, percent."""

    def shown(name: str) -> Column:
        return metric_name(name), lambda row: value_text(name, row[name])

    def between(low: str, high: str) -> Column:
        text = lambda row: interval_text(row[low], row[high]).replace("+", "")  # noqa: E731
        return "95 % interval", text

    columns: list[Column] = [
        ("eval", itemgetter("eval")),
        ("method", lambda row: row["learner"] or method_title(row["method"])),
        ("fitted on", lambda row: source_name(row["source"], row["n_pairs"])),
        ("K", lambda row: row["n_pairs"] if row["shots"] is None else f"{row['shots']} shots"),
        *map(shown, ("top-1", "confidence", "ECE", "calibration-error")),
        between("low", "high"),
        *map(shown, ("AURC", "AUROC")),
        between("AUROC_low", "AUROC_high"),
        ("draws", lambda row: str(row["n_draws"])),
    ]
    return Table.of(table, columns)
