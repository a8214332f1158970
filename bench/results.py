"""Results on disk: one long-format Parquet file a finished run, per-query ranks beside it.

    RESULTS/runs/<run_id>.parquet      one row per direction and metric; written last
    RESULTS/ranks/<run_id>.parquet     one row per query
    RESULTS/sessions/<date>-<pid>.json what was typed, versions, dates; not keyed

A file's name is the id of its run and its content says so too. Files appear whole or not at
all, and each run has its own: any number of processes may write into one folder.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from bench.errors import NoResultsError
from featstore.store.files import json_bytes, read_json, write_file

RUN_COLUMNS: dict[str, Any] = {
    "run_id": pl.String,
    "suite": pl.String,
    "task": pl.String,
    "eval": pl.String,
    "method": pl.String,
    "source": pl.String,
    "n_pairs": pl.String,
    "seed": pl.Int64,
    "image_set": pl.String,
    "image_revision": pl.String,
    "name_set": pl.String,
    "name_revision": pl.String,
    "caption_set": pl.String,
    "caption_revision": pl.String,
    "head_set": pl.String,
    "head_revision": pl.String,
    "head_name_set": pl.String,
    "head_name_revision": pl.String,
    "variants": pl.String,
    "templates": pl.String,
    "locales": pl.String,
    "penalty": pl.String,
    "mix": pl.String,
    "relevance": pl.String,
    "train_fraction": pl.Float64,
    "train_splits": pl.String,
    "pairs_per_class": pl.Int64,
    "options": pl.String,  # of the task, as JSON; "" for its defaults
    "limit": pl.Int64,
    "metric_version": pl.Int64,
    "protocol_version": pl.Int64,
    "code": pl.String,  # digest of the sources that made the row
}

#: One row per run, direction and metric.
RESULT_SCHEMA: dict[str, Any] = RUN_COLUMNS | {
    "direction": pl.String,  # image→name, image→caption, caption→image, …
    "metric": pl.String,
    "value": pl.Float64,
    "chance": pl.Float64,  # null for a metric that has no chance level
    "n_queries": pl.Int64,
    "n_clusters": pl.Int64,
    "gallery": pl.Int64,
    "n_images_fitted": pl.Int64,  # what "all" meant
    "n_prototypes": pl.Int64,
    "image_mean": pl.String,  # whose mean centres the images; says when it is transductive
    "penalty_chosen": pl.Float64,
    "mix_chosen": pl.Float64,
    "penalty_at_edge": pl.Boolean,
    "mix_at_edge": pl.Boolean,
    "n_shots": pl.Int64,  # labelled images of a few-shot learner, and those it chose by
    "n_validation": pl.Int64,
    "learner_penalty": pl.Float64,
    "learner_mix": pl.Float64,
    "fit_seconds": pl.Float64,
    "score_seconds": pl.Float64,
}

#: One row per run, direction and query.
RANK_SCHEMA: dict[str, Any] = {
    "run_id": pl.String,
    "direction": pl.String,
    "query_id": pl.String,
    "cluster_id": pl.String,
    "rank": pl.Int64,
    "average_precision": pl.Float64,
    "truncated_precision": pl.Float64,
    "hits": pl.List(pl.Int64),  # relevant items among the first 1, 5 and 10
    "n_relevant": pl.Int64,
    "top": pl.List(pl.String),  # item_ids of the first places, best first
}


def write_run(root: Path, run_id: str, rows: pl.DataFrame, ranks: pl.DataFrame) -> None:
    """Write a finished run; its result file comes last and makes it count.

    Raises
    ------
    StoreWriteError
        If the file system refuses. No partial file is left.
    """
    write_file(ranks_path(root, run_id), [_parquet(ranks.select(list(RANK_SCHEMA)))])
    write_file(run_path(root, run_id), [_parquet(rows.select(list(RESULT_SCHEMA)))])


def run_path(root: Path, run_id: str) -> Path:
    """Return where the rows of a run lie."""
    return root / "runs" / f"{run_id}.parquet"


def ranks_path(root: Path, run_id: str) -> Path:
    """Return where the per-query ranks of a run lie."""
    return root / "ranks" / f"{run_id}.parquet"


def finished(root: Path) -> set[str]:
    """Return the ids of the runs whose rows and ranks are both there and readable.

    A file that does not open, or that holds another run, is not finished: it is redone.
    """
    found = set()
    for path in _run_files(root):
        try:
            rows = pl.read_parquet(path, columns=["run_id"])
        except (pl.exceptions.PolarsError, OSError):
            continue
        if set(rows["run_id"]) == {path.stem} and ranks_path(root, path.stem).is_file():
            found.add(path.stem)
    return found


def read_results(root: Path) -> pl.DataFrame:
    """Return all result rows, in a fixed order.

    Raises
    ------
    NoResultsError
        If the folder is missing or holds no finished run, or a file cannot be read.
    """
    paths = _run_files(root)
    if not paths:
        what = "holds no finished run" if root.is_dir() else "does not exist"
        msg = f"{root} {what}. Make one with `bench run --suite demo --store STORE -o {root}`."
        raise NoResultsError(msg)
    frames = [_read(path, RESULT_SCHEMA) for path in paths]
    keys = ["suite", "task", "eval", "direction", "method", "source", "seed", "run_id", "metric"]
    return pl.concat(frames).sort(keys, maintain_order=True)


def read_ranks(root: Path, run_ids: Iterable[str]) -> pl.DataFrame:
    """Return the per-query ranks of these runs, in the order given.

    Raises
    ------
    NoResultsError
        If a file is missing or cannot be read.
    """
    frames = [_read(ranks_path(root, run_id), RANK_SCHEMA) for run_id in run_ids]
    return pl.concat(frames) if frames else pl.DataFrame(schema=RANK_SCHEMA)


def write_session(root: Path, name: str, facts: dict[str, Any]) -> None:
    """Write what one `bench run` was: command, versions, dates."""
    write_file(root / "sessions" / f"{name}.json", [json_bytes(facts)])


def read_sessions(root: Path) -> list[dict[str, Any]]:
    """Return what was recorded of every `bench run` into this folder, oldest first."""
    return [read_json(path) for path in sorted((root / "sessions").glob("*.json"))]


def result_rows(rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """Return rows under the schema of results; a missing column is null."""
    return pl.DataFrame(list(rows), schema=RESULT_SCHEMA)


def _run_files(root: Path) -> list[Path]:
    return sorted((root / "runs").glob("[0-9a-f]*.parquet"))


def _read(path: Path, schema: dict[str, Any]) -> pl.DataFrame:
    try:
        table = pl.read_parquet(path)
        if "run_id" in table.columns:
            # A column that an older version did not write yet is unknown, so that its rows form
            # a series of their own and are never mixed with newer ones.
            absent = [name for name in schema if name not in table.columns]
            table = table.with_columns(pl.lit(None).alias(name) for name in absent)
        return table.select(pl.col(name).cast(dtype) for name, dtype in schema.items())
    except (pl.exceptions.PolarsError, OSError) as err:
        msg = (
            f"{path} cannot be read as a result: {str(err).splitlines()[0]}. Delete it and run "
            "the suite again: only this run is redone."
        )
        raise NoResultsError(msg) from err


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", compression_level=3)
    return buffer.getvalue()
