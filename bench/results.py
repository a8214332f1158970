"""Results on disk: long-format Parquet, never written twice, per-query ranks beside it.

    RESULTS/runs/<run_id>.parquet      one row per direction and metric; written last
    RESULTS/ranks/<run_id>.parquet     one row per query
    RESULTS/sums/<run_id>.parquet      one row per cluster of queries: sums of every metric
    RESULTS/runs/many-<sha256>.parquet the runs of a batch in one file; ranks/ and sums/ likewise
    RESULTS/sessions/<date>-<pid>.json command without its paths, versions, dates; not keyed

A file's name is the id of its run, or the hash of the ids of its runs, and its content says so
too. Files appear whole or not at all, and nothing is ever changed or shared between writers: any
number of processes may write into one folder. A batch is for a sweep: its thousand runs of some
milliseconds would otherwise wait for a thousand durable writes.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bench.errors import NoResultsError
from bench.metrics.ranks import CUTOFFS, Ranks
from bench.metrics.summary import METRICS, query_values
from bench.runs import LEAVES
from featstore.durable import is_free, json_bytes, read_json, read_regular, write_file
from featstore.errors import CorruptStoreError, listed
from featstore.identity import canonical_json, sha256_hex
from featstore.store.parquet_guard import unpack

#: Settings that may be chosen from the training data.
CHOSEN = ("penalty", "mix", "gamma", "n_components", "top_k", "power")

#: Columns of a result row that say what was run, with their types.
RUN_COLUMNS: dict[str, Any] = {"run_id": pl.String, **{leaf.name: leaf.dtype for leaf in LEAVES}}

#: One row per run, direction and metric.
RESULT_SCHEMA: dict[str, Any] = RUN_COLUMNS | {
    "direction": pl.String,  # image→name, image→caption, caption→image, …
    "metric": pl.String,
    "value": pl.Float64,
    "chance": pl.Float64,  # null for a metric that has no chance level
    "n_queries": pl.Int64,
    "n_clusters": pl.Int64,
    "clusters_of": pl.String,  # classes or images: what was sampled, and what intervals are about
    "gallery": pl.Int64,
    "seen_share": pl.Float64,  # of the queries, those whose class the head's label set has
    "equal_names": pl.String,  # classes whose names have one text: none of them can be preferred
    "n_twins": pl.Int64,  # pictures under two ids or more; null where nothing was split
    "n_left_out": pl.Int64,  # training images whose picture is scored, under another id
    "n_images_fitted": pl.Int64,  # also where n_pairs is "all"
    "n_pool": pl.Float64,  # independent images that the fitted ones were drawn from, over all seeds
    "n_prototypes": pl.Int64,
    "own_names": pl.Float64,  # share of them that a shuffle within clusters left their own name
    "image_mean": pl.String,  # which mean centres the images; says when it is transductive
    **{f"{name}_chosen": pl.Float64 for name in CHOSEN},
    **{f"{name}_at_edge": pl.Boolean for name in CHOSEN},  # of the grid that was searched
    "agreement": pl.Float64,  # cosine between starts of a fit, where another draw may change it
    "flat_choice": pl.Boolean,  # no point of the grid is a standard error worse than the best
    "learner": pl.String,  # of a few-shot run, and the shots of its largest class
    "shots": pl.Int64,
    "n_views": pl.Int64,  # of every shot; 1 where the image itself is the only one
    "n_shots": pl.Int64,  # labelled images of a few-shot learner, and those it chose by
    "n_validation": pl.Int64,
    "learner_penalty": pl.Float64,
    "learner_mix": pl.Float64,
    "learner_scale": pl.Float64,  # before cosines in a softmax
    "learner_alpha": pl.Float64,  # Tip-Adapter's weight of the cache, LP++'s mean one of names
    "learner_beta": pl.Float64,  # Tip-Adapter's sharpness
    "learner_epoch": pl.Float64,  # that was kept
    "learner_columns": pl.Float64,  # that APE's cache looks at
    "learner_share": pl.Float64,  # of class means in ReHARK's prior
    "learner_bridge": pl.Float64,  # mass of the prototype in ReHARK's second rows
    "learner_folds": pl.Float64,  # shots (of GDA folds) left out to choose by; 0: fixed values
    "learner_seconds": pl.Float64,  # processor time of the learner's fit
    "temperature": pl.Float64,  # of the scores whose softmax is the confidence
    "fit_seconds": pl.Float64,
    "score_seconds": pl.Float64,
    "origin": pl.String,  # package or file of a method, learner or task of others; "" for ours
    "finished_at": pl.Float64,  # seconds since 1970; null where it is not known
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
    "top": pl.List(pl.String),  # item_ids of the first places, best first; null in a sweep
    "own": pl.List(pl.Float64),  # of a task of others: its metrics by name; rank is then 0
}

#: Metrics whose sums over the queries of a cluster are kept; ``top-k`` is ``R@k``.
SUMMED = tuple(m for m in METRICS if m != "median_rank" and not m.startswith("top-"))


def summed_as(metric: str) -> str:
    """Return the column of `SUM_SCHEMA` that holds the sums of a metric."""
    return metric.replace("top-", "R@")


#: One row per run, direction and cluster: from these follow all comparisons of means.
SUM_SCHEMA: dict[str, Any] = {
    "run_id": pl.String,
    "direction": pl.String,
    "queries": pl.String,  # digest of the ids of all queries of this run and direction
    "cluster_id": pl.String,
    "n_queries": pl.Int64,
    **dict.fromkeys(SUMMED, pl.Float64),
    "own": pl.List(pl.Float64),
}


def sums_of(ranks: pl.DataFrame) -> pl.DataFrame:
    """Return the sums per cluster of per-query ranks, under `SUM_SCHEMA`.

    Parameters
    ----------
    ranks : DataFrame
        Under `RANK_SCHEMA`, of any number of runs.
    """
    hits = ranks["hits"].list.to_array(len(CUTOFFS)).to_numpy() if ranks.height else None
    columns = Ranks(
        ranks["rank"].to_numpy(),
        ranks["average_precision"].to_numpy(),
        ranks["truncated_precision"].to_numpy(),
        np.empty((0, len(CUTOFFS)), np.int64) if hits is None else hits,
        ranks["n_relevant"].to_numpy(),
        top=np.empty((ranks.height, 0), np.int64),
        gallery=0,
    )
    keys = ["run_id", "direction"]
    n_own: Any = ranks["own"].list.len().max() or 0
    own = [pl.col("own").list.get(i, null_on_oob=True).alias(f"own{i}") for i in range(n_own)]
    # Ranks of a task of others are 0.
    with np.errstate(divide="ignore", invalid="ignore"):
        values = ranks.select(*keys, "query_id", "cluster_id", *own).with_columns(
            pl.Series(metric, query_values(metric, columns), dtype=pl.Float64) for metric in SUMMED
        )
    digests = (
        ranks.lazy().select(*keys, "query_id").sort(*keys, "query_id").group_by(keys)
        .agg(pl.col("query_id").str.join("\0")).collect()
    )  # fmt: skip
    digests = digests.with_columns(
        pl.Series("queries", [sha256_hex(ids.encode())[:16] for ids in digests["query_id"]],
                  dtype=pl.String)
    ).drop("query_id")  # fmt: skip
    sums = values.group_by([*keys, "cluster_id"], maintain_order=True).agg(
        pl.len().cast(pl.Int64).alias("n_queries"),
        *(pl.col(metric).sum() for metric in SUMMED),
        *(pl.col(f"own{i}").sum() for i in range(n_own)),
    )
    lists = pl.concat_list(f"own{i}" for i in range(n_own)) if n_own else pl.lit(None)
    sums = sums.with_columns(own=lists)
    joined = sums.join(digests, on=keys, how="left", maintain_order="left")
    return joined.select(pl.col(name).cast(dtype) for name, dtype in SUM_SCHEMA.items())


#: The tables of a results folder, and how each looks.
TABLES = {"runs": RESULT_SCHEMA, "ranks": RANK_SCHEMA, "sums": SUM_SCHEMA}


def file_of(root: Path, table: str, name: str) -> Path:
    """Return where one of the `TABLES` of a run, or of a batch of this name, lies."""
    return root / table / f"{name}.parquet"


def write_batch(root: Path, rows: pl.DataFrame, ranks: pl.DataFrame) -> None:
    """Write finished runs as one file each of rows, of ranks and of sums.

    The file of their rows comes last and makes them count.

    Parameters
    ----------
    root : Path
    rows, ranks : DataFrame
        Of all the runs, one run after another.

    Raises
    ------
    StoreWriteError
        If the file system refuses. No partial file is left, and no run of the batch counts.
    """
    name = _name_of(set(rows["run_id"]))
    for table, frame in (("ranks", ranks), ("sums", sums_of(ranks)), ("runs", rows)):
        write_file(file_of(root, table, name), [_parquet(frame.select(list(TABLES[table])))])


def files_of(root: Path) -> dict[str, str]:
    """Return the name of the file of every finished run, by run_id.

    A file that does not open, that holds other runs than its name says, or that has no ranks
    beside it, does not count: its runs are redone.
    """
    return dict(_read_runs(root)[1])


def _read_runs(root: Path) -> tuple[pl.DataFrame, dict[str, str], str]:
    """Return all rows, the file of every finished run, and what is wrong with the first bad file.

    Commands ask for rows and for files: both come of one reading until a file changes.
    """
    facts = [(path, path.stat()) for path in _run_files(root.absolute())]
    stamps = tuple((path, stat.st_mtime_ns, stat.st_size) for path, stat in facts)
    ranks = root / "ranks"
    return _runs_at(stamps, ranks.absolute(), ranks.stat().st_mtime_ns if ranks.is_dir() else 0)


@lru_cache(maxsize=4)
def _runs_at(
    stamps: tuple[tuple[Path, int, int], ...], ranks: Path, _changed: int
) -> tuple[pl.DataFrame, dict[str, str], str]:
    frames, named, wrong = [pl.DataFrame(schema=RESULT_SCHEMA)], dict[str, str](), ""
    for path, *_ in stamps:
        try:
            frames.append(_read(path, RESULT_SCHEMA))
        except NoResultsError as err:
            wrong = wrong or str(err)
            continue
        ids = set(frames[-1]["run_id"])
        # Its name is that of all its runs: a part of a file is none.
        if path.stem == _name_of(ids) and (ranks / path.name).is_file():
            named |= dict.fromkeys(ids - named.keys(), path.stem)
    return pl.concat(frames), named, wrong


def finished(root: Path) -> set[str]:
    """Return the ids of the runs whose rows and ranks are both there and readable."""
    return set(files_of(root))


def read_results(root: Path | str) -> pl.DataFrame:
    """Return all result rows, in a fixed order.

    Raises
    ------
    NoResultsError
        If the folder is missing or holds no finished run, or a file cannot be read.

    Examples
    --------
    >>> from bench.suites.demo import create_smoke_store, smoke_runs
    >>> create_smoke_store("smoke")
    >>> done = run_all(smoke_runs(open_store("smoke"))[:2], "smoke", "results")
    >>> read_results("results")["method"].unique(maintain_order=True).to_list()
    ['conse', 'ridge']
    """
    root = Path(root)
    if not _run_files(root):
        what = "holds no finished run" if root.is_dir() else "does not exist"
        raise NoResultsError(
            f"{root} {what}. Make one with `headstock eval run demo --store STORE -o {root}`."
        )
    keys = ["suite", "task", "eval", "direction", "method", "source", "seed", "run_id", "metric"]
    # Two sweeps at once may hold the same run, with the same numbers: it counts once.
    rows, _, wrong = _read_runs(root)
    if wrong:
        raise NoResultsError(wrong)
    once = rows.unique(["run_id", "direction", "metric"], keep="first")
    return once.sort(keys, maintain_order=True)


def read_ranks(root: Path | str, run_ids: Iterable[str]) -> pl.DataFrame:
    """Return the per-query ranks of these runs, in the order given.

    Raises
    ------
    NoResultsError
        If a file is missing or cannot be read.

    Examples
    --------
    >>> from bench.suites.demo import create_smoke_store, smoke_runs
    >>> create_smoke_store("smoke")
    >>> runs = smoke_runs(open_store("smoke"))[1:2]
    >>> done = run_all(runs, "smoke", "results")
    >>> read_ranks("results", [runs[0].run_id])["rank"].min()
    1
    """
    return _of_runs(Path(root), run_ids, "ranks")


def read_sums(root: Path | str, run_ids: Iterable[str]) -> pl.DataFrame:
    """Return the sums per cluster of these runs, in the order given.

    Raises
    ------
    NoResultsError
        If a file is missing or cannot be read.
    """
    return _of_runs(Path(root), run_ids, "sums")


def _of_runs(root: Path, run_ids: Iterable[str], table: str) -> pl.DataFrame:
    """Return the rows of these runs from files of one run or of many, in the order given."""
    order = {run_id: number for number, run_id in enumerate(run_ids)}
    named = files_of(root)
    names = dict.fromkeys(named.get(run_id, run_id) for run_id in order)
    held = _read_all([file_of(root, table, name) for name in names], TABLES[table])
    held = held.filter(pl.col("run_id").is_in(list(order)))
    # A run may be in two files of many, with the same numbers: it counts once.
    keys = [key for key in ("run_id", "direction", "cluster_id", "query_id") if key in held.columns]
    number = pl.col("run_id").replace_strict(order, return_dtype=pl.Int64)
    return held.unique(keys, keep="first", maintain_order=True).sort(number, maintain_order=True)


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def write_session(root: Path, name: str, facts: dict[str, Any]) -> None:
    """Write what one `headstock eval run` was: command, versions, dates.

    Other files take away what a killed process left of them when they are written again, unless the
    disk refuses it then. No session has the name of another. What is left of all goes away here.
    """
    for folder in ("sessions", "runs", "ranks", "sums"):
        for left in (root / folder).glob(".*.staged"):
            is_free(left)
    write_file(root / "sessions" / f"{name}.json", [json_bytes(facts)])


def read_sessions(root: Path) -> list[dict[str, Any]]:
    """Return what was recorded of every `headstock eval run` into this folder, oldest first.

    One that is damaged, or no record, is left out: nothing that is scored depends on it.
    """
    found = []
    for path in sorted((root / "sessions").glob("*.json")):
        with suppress(CorruptStoreError):
            found.append(read_json(path))
    return [one for one in found if isinstance(one, dict)]


def unfinished(root: Path, suite: str) -> list[str]:
    """Return a sentence for every command of a suite that has not made all that it planned.

    A session is recorded when it begins, with the runs that it will make, and again when it ends.
    Of several with one command the last counts.
    """
    last = {one.get("command"): one for one in read_sessions(root) if one.get("suite") == suite}
    have, said = finished(root), []
    for command, session in last.items():
        planned = {*session.get("planned", ())}
        if left := len(planned - have):
            said.append(
                f"Unfinished: {left:,} of {len(planned):,} runs are missing that `{command}` "
                "planned. Run it again, with these results as OUT, to make them."
            )
    return said


#: Tasks that name images by a text of their class alone.
_BY_NAME = ("zero_shot", "generalised")


#: Mean cosine between starts of a fit, below which its score is called a draw.
_AGREED = 0.9


def data_notes(rows: pl.DataFrame) -> list[str]:
    """Return a sentence for what is odd in the data of these result rows."""
    notes = []
    n_twins, left_out = rows.select("n_twins", "n_left_out").fill_null(0).to_numpy().T
    if left_out.any():
        notes.append(
            f"{n_twins.max():,} pictures stand under two ids or more, as equal or nearly equal "
            f"rows. Up to {left_out.max():,} images a split were not trained on, since the same "
            "picture is scored."
        )
    drawn = rows.filter(pl.col("agreement") < _AGREED)
    if drawn.height:
        notes.append(
            f"Starts of {listed(drawn['method'].unique().sort())} do not agree in "
            f"{drawn['run_id'].n_unique():,} of {rows['run_id'].n_unique():,} runs (cosine from "
            f"{drawn['agreement'].to_numpy().min():.2f}): there, a score is a draw."
        )
    equal = rows.filter(pl.col("task").is_in(_BY_NAME))["equal_names"].drop_nulls().unique().sort()
    return notes + [
        f"Classes with equal texts cannot be told apart by name, and none of their images counts "
        f"as named right: {names}. Give them texts that differ, or make them one class."
        for names in equal
    ]


def _run_files(root: Path) -> list[Path]:
    folder = root / "runs"
    return sorted([*folder.glob("[0-9a-f]*.parquet"), *folder.glob(f"{_MANY}*.parquet")])


#: What is raised of a file that is no table, or would unpack to far more than it is.
_UNREADABLE = (pl.exceptions.PolarsError, OSError, ValueError, CorruptStoreError)

#: Bytes of a file of results, at most.
_MOST = 2**34


#: How the name of a file of many runs begins.
_MANY = "many-"


def _name_of(ids: Collection[str]) -> str:
    """Return the name of the file of these runs."""
    return next(iter(ids)) if len(ids) == 1 else _MANY + sha256_hex(canonical_json(sorted(ids)))


def _read_all(paths: Sequence[Path], schema: dict[str, Any]) -> pl.DataFrame:
    """Return the rows of these files, one file after another."""
    return pl.concat([pl.DataFrame(schema=schema), *(_read(path, schema) for path in paths)])


def _read(path: Path, schema: dict[str, Any]) -> pl.DataFrame:
    try:
        table = unpack(read_regular(path, limit=_MOST), columns=[*schema])
        return table.select(pl.col(name).cast(dtype) for name, dtype in schema.items())
    except _UNREADABLE as err:
        reason = str(err).splitlines()[0].partition(";")[0]  # polars goes on with all columns
        raise NoResultsError(
            f"{path} cannot be read as a result: {reason}. Delete it and run "
            "the suite again: only its runs are redone."
        ) from err


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", compression_level=3)
    return buffer.getvalue()
