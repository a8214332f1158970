"""Series: results that may stand in one table.

One folder may collect several suites, and the same suite before and after a set was extracted
again. Only runs over the same revisions, prompts, limit and definitions compare.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from bench.cells import pairs_order
from bench.errors import NoResultsError
from bench.results import files_of, run_path
from featstore.errors import did_you_mean
from featstore.keys import SHORT, canonical_json, sha256_hex

#: Fields in which the runs of a series agree, beside the revisions of the sets that they read.
SERIES = (
    "suite", "locales", "train_fraction", "train_splits", "limit", "metric_version",
    "protocol_version", "code",
)  # fmt: skip

#: Fields in which the runs of one task over one set agree: a suite may prompt the classes of one
#: dataset otherwise than those of another. Each stands beside the column of its set.
CHOICES = {
    "variants": "name_set", "templates": "name_set", "head_variants": "head_name_set",
    "head_templates": "head_name_set", "pair_variants": "name_set", "pair_templates": "name_set",
}  # fmt: skip

#: Columns that name a set; its revision stands in a column beside each.
SETS = ("image", "name", "caption", "head", "head_name")

#: Those that are empty where a run pairs no class with a text.
_OF_PAIRS = ("pair_variants", "pair_templates")


def series_table(root: Path, results: pl.DataFrame) -> pl.DataFrame:
    """Return one row per series, the last written first.

    Columns: ``series`` (8 hex digits), suite, limit, n_runs, n_seeds, methods, sources,
    n_pairs, written (seconds since the epoch), and the fields of `SERIES` and `CHOICES`, of which
    a series may have several.
    """
    marked = _with_series(root, results)
    rows = []
    for (name,), part in marked.group_by(["series"], maintain_order=True):
        rows.append(
            {
                "series": name,
                "n_runs": part["run_id"].n_unique(),
                "n_seeds": part["seed"].n_unique(),
                "methods": ",".join(sorted(set(part["method"]))),
                "sources": ",".join(sorted(set(part["source"]))),
                "n_pairs": ",".join(sorted(set(part["n_pairs"]), key=pairs_order)),
                "written": part["written"].max(),
                **part.select(SERIES).row(0, named=True),
                **{name: _together(part[name]) for name in CHOICES},
            }
        )
    return pl.DataFrame(rows, infer_schema_length=None).sort("written", descending=True)


def _together(values: pl.Series) -> str:
    """Return the different values of a column as one text."""
    return "; ".join(sorted({value for value in values.to_list() if value}))


def _with_series(root: Path, results: pl.DataFrame) -> pl.DataFrame:
    """Return the rows with the columns ``series`` and ``written``.

    A suite may read many sets. What tells series apart is that one set stands at two revisions:
    the runs that read the revision last used of each of their sets are together, and every other
    combination of revisions is a series of its own. So it is with what was chosen for a set and a
    task (`CHOICES`); a run without real pairs of classes has no texts of them, and goes with any.
    """
    files = files_of(root)
    stamps = {name: run_path(root, name).stat().st_mtime for name in set(files.values())}
    written = {run: stamps[name] for run, name in files.items()}
    marked = results.with_columns(
        pl.col("run_id")
        .replace_strict(written, default=0.0, return_dtype=pl.Float64)
        .alias("written")
    )
    fresh = pl.lit(value=True)
    for role in SETS:
        key, revision = f"{role}_set", f"{role}_revision"
        last = pl.col(revision).sort_by("written").last().over([*SERIES, key])
        fresh = fresh & pl.col(revision).eq_missing(last)
    for name, key in CHOICES.items():
        own = pl.col(name)
        given = pl.when(own != "").then(own) if name in _OF_PAIRS else own
        last = given.sort_by("written").drop_nulls().last().over([*SERIES, "task", key])
        fits = given.eq_missing(last)
        fresh = fresh & (fits | own.eq_missing(pl.lit("")) if name in _OF_PAIRS else fits)
    marked = marked.with_columns(fresh.alias("fresh"))
    names: dict[str, str] = {}
    revisions = [f"{role}_revision" for role in SETS]
    columns = [*SERIES, "fresh", *revisions, *CHOICES]
    for values, part in marked.group_by(columns, maintain_order=True):
        facts = dict(zip(columns, values, strict=True))
        if facts.pop("fresh"):
            facts = {name: facts[name] for name in SERIES}
        names |= dict.fromkeys(part["run_id"], sha256_hex(canonical_json(facts))[:SHORT])
    return marked.with_columns(pl.col("run_id").replace_strict(names).alias("series"))


def only_series(root: Path, results: pl.DataFrame, *, suite: str | None = None) -> pl.DataFrame:
    """Return the rows of the series written last, of one suite.

    A sweep beside one suite does not make the choice ambiguous: without a name it is the suite.

    Raises
    ------
    NoResultsError
        If the folder has no run of the suite, or has several suites and none was named.
    """
    suites = sorted(set(results["suite"]))
    alone = [name for name in suites if name != "sweep"]
    if suite is None and len(alone) == 1:
        suite = alone[0]
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
    marked = _with_series(root, own)
    last = marked.sort("written", maintain_order=True)["series"][-1]
    return marked.filter(pl.col("series") == last).drop("written", "fresh", "series")
