"""Series: results that may stand in one table.

One folder may collect several suites, and the same suite before and after a set was extracted
again. Only runs over the same revisions, prompts, limit and definitions compare.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from bench.errors import NoResultsError
from bench.results import run_path
from featstore.errors import did_you_mean
from featstore.keys import SHORT, canonical_json, sha256_hex

#: Fields in which the runs of a series agree.
SERIES = (
    "suite", "image_revision", "name_revision", "caption_revision", "head_revision",
    "head_name_revision", "variants", "templates", "locales", "train_fraction", "train_splits",
    "limit", "metric_version", "protocol_version", "code",
)  # fmt: skip


def series_table(root: Path, results: pl.DataFrame) -> pl.DataFrame:
    """Return one row per series, the last written first.

    Columns: ``series`` (8 hex digits), suite, limit, n_runs, n_seeds, methods, sources,
    n_pairs, written (seconds since the epoch), and the fields of `SERIES`.
    """
    rows = []
    for key, part in results.group_by(list(SERIES), maintain_order=True):
        facts = dict(zip(SERIES, key, strict=True))
        ids = part["run_id"].unique().to_list()
        rows.append(
            {
                "series": sha256_hex(canonical_json(facts))[:SHORT],
                "n_runs": len(ids),
                "n_seeds": part["seed"].n_unique(),
                "methods": ",".join(sorted(set(part["method"]))),
                "sources": ",".join(sorted(set(part["source"]))),
                "n_pairs": ",".join(sorted(set(part["n_pairs"]), key=_pairs_key)),
                "written": max(run_path(root, run).stat().st_mtime for run in ids),
                **facts,
            }
        )
    return pl.DataFrame(rows, infer_schema_length=None).sort("written", descending=True)


def only_series(root: Path, results: pl.DataFrame, *, suite: str | None = None) -> pl.DataFrame:
    """Return the rows of the series written last, of one suite.

    Raises
    ------
    NoResultsError
        If the folder has no run of the suite, or has several suites and none was named.
    """
    suites = sorted(set(results["suite"]))
    if suite is None and len(suites) > 1:
        msg = (
            f"{root} holds results of {len(suites)} suites: {', '.join(suites)}. Name one: --suite."
        )
        raise NoResultsError(msg)
    if suite is not None and suite not in suites:
        hint = did_you_mean(suite, suites)
        msg = f"{root} holds no run of suite {suite!r}. It holds: {', '.join(suites)}.{hint}"
        raise NoResultsError(msg)
    own = results.filter(pl.col("suite") == (suite or suites[0]))
    last = series_table(root, own).row(0, named=True)
    return own.filter(
        pl.all_horizontal(pl.col(name).eq_missing(pl.lit(last[name])) for name in SERIES)
    )


def _pairs_key(n_pairs: str) -> float:
    return float("inf") if n_pairs == "all" else float(n_pairs.removesuffix("/class"))
