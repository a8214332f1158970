"""The paper's published numbers beside ours: what we measured, what they report, the difference."""

from __future__ import annotations

import io
from importlib import resources
from typing import Any

import polars as pl

#: Columns of ``published.csv``: which cell a number is of, what kind it is, and how it is known.
#: ``kind``: ``value``; ``gain-over-real``, of real pairs with weights over these pairs alone;
#: ``gain-over-head``, over the weights alone. ``how``: ``exact``, as printed; ``figure``, read off
#: a figure, to about 0.2 points, or to 0.05 where the page draws it by coordinates (mutual k-NN).
SCHEMA: dict[str, Any] = {
    "experiment": pl.String,
    "dataset": pl.String,
    "task": pl.String,
    "direction": pl.String,
    "metric": pl.String,
    "label_set": pl.String,
    "image_encoder": pl.String,
    "source": pl.String,
    "n_pairs": pl.String,
    "options": pl.String,
    "kind": pl.String,
    "theirs": pl.Float64,
    "how": pl.String,
    "where": pl.String,
}

TABLE: dict[str, Any] = {
    "experiment": pl.String,
    "dataset": pl.String,
    "image_encoder": pl.String,
    "text_encoder": pl.String,
    "head": pl.String,
    "direction": pl.String,
    "metric": pl.String,
    "kind": pl.String,
    "n_pairs": pl.String,
    "method": pl.String,
    "as_run": pl.String,
    "ours": pl.Float64,
    "ours_sd": pl.Float64,
    "n_seeds": pl.Int64,
    "gallery": pl.Float64,
    "theirs": pl.Float64,
    "how": pl.String,
    "difference": pl.Float64,
    "where": pl.String,
}


def published_numbers() -> pl.DataFrame:
    """Return the paper's numbers as shares, schema `SCHEMA`; an empty text means any."""
    data = resources.files("bench.suites").joinpath("published.csv").read_bytes()
    return pl.read_csv(io.BytesIO(data), schema=SCHEMA).with_columns(
        pl.col(pl.String).fill_null("")
    )


def published_table(results: pl.DataFrame) -> pl.DataFrame:
    """Return every published number with ours, one row a number, method and encoders.

    Parameters
    ----------
    results : DataFrame
        Rows of `bench.results.read_results`, of the paper suite.

    Returns
    -------
    DataFrame
        Schema `TABLE`. ``ours`` is the mean over seeds, of a gain the mean over the seeds that
        both sides have, ``difference`` is ours − theirs; all three are null where nothing of ours
        is there yet. The paper's own methods (``paper-mlp``, ``paper-text2concepts``,
        ``paper-cca``) are listed with ours; ``as_run`` says where a run differs from theirs or is
        one of several modes: "two stages", and "names for captions" where no caption of a class
        was in the store. Encoders may be others: a difference does not say which is right.
    """
    # None of the published numbers is of moved rows, or of pairs of another dataset.
    own = results.filter(pl.col("pairs_from") == "", pl.col("head_rows") == "weights")
    cells = _with_names(own)
    rows: list[dict[str, Any]] = []
    for number in published_numbers().iter_rows(named=True):
        found = _matching(cells, number)
        base = {name: number[name] for name in TABLE if name in SCHEMA}
        for ours in found:
            difference = None if ours["ours"] is None else ours["ours"] - number["theirs"]
            rows.append(base | ours | {"difference": difference})
        if not found:
            # A pattern is not a name: `where` says what it matches.
            rows.append(base | {"image_encoder": "", "head": number["label_set"]})
    return pl.DataFrame(rows, schema=TABLE, infer_schema_length=None)


def _with_names(results: pl.DataFrame) -> pl.DataFrame:
    """Add the columns that identify a published number: dataset, encoders, label set."""
    text = pl.when(pl.col("name_set") != "").then(pl.col("name_set")).otherwise(
        pl.col("caption_set")
    )  # fmt: skip

    def part(column: pl.Expr, place: int) -> pl.Expr:
        return column.str.split("/").list.get(place, null_on_oob=True).fill_null("")

    def encoder(column: pl.Expr) -> pl.Expr:
        # timm.beit_base…-1a2b3c4d: without the family and the digits of the set.
        return part(column, 2).str.replace(r"^[^.]*\.", "").str.replace(r"-[0-9a-f]{8}$", "")

    return results.with_columns(
        part(pl.col("image_set"), 0).alias("_dataset"),
        encoder(pl.col("image_set")).alias("_image"),
        encoder(text).alias("_text"),
        part(pl.col("head_set"), 0).alias("_labels"),
        encoder(pl.col("head_set")).alias("_head"),
    )


def _matching(cells: pl.DataFrame, number: dict[str, Any]) -> list[dict[str, Any]]:
    """Return ours for one published number: one row a method, encoders and head."""
    own = cells.filter(
        (pl.col("task") == number["task"])
        & (pl.col("direction") == number["direction"])
        & (pl.col("metric") == number["metric"])
    )
    for column, name in (("_dataset", "dataset"), ("source", "source"), ("n_pairs", "n_pairs")):
        if number[name]:
            own = own.filter(pl.col(column) == number[name])
    if number["label_set"]:
        own = own.filter(pl.col("_labels") == number["label_set"])
    elif number["source"] == "none":
        own = own.filter(pl.col("method") == "identity")
    if number["image_encoder"]:
        own = own.filter(pl.col("_image").str.contains(number["image_encoder"]))
    if number["options"]:
        own = own.filter(pl.col("options").str.contains(number["options"], literal=True))
    keys = [
        "_image", "_text", "_labels", "_head", "method", "image_set", "name_set", "caption_set",
        "sequential", "pair_variants",
    ]  # fmt: skip
    out = []
    for key, part in own.group_by(keys, maintain_order=True):
        facts = dict(zip(keys, key, strict=True))
        values = _gain(cells, part, number["kind"])
        if values.is_empty():
            continue
        out.append(
            {
                "dataset": part["_dataset"][0],
                "image_encoder": facts["_image"],
                "text_encoder": facts["_text"],
                "head": f"{facts['_labels']} · {facts['_head']}" if facts["_head"] else "",
                "method": facts["method"],
                "as_run": _as_run(facts, part["n_pairs"][0]),
                "ours": values.mean(),
                "ours_sd": values.std(ddof=1) if len(values) > 1 else None,
                "n_seeds": len(values),
                "gallery": part["gallery"].mean(),
            }
        )
    return out


def _as_run(facts: dict[str, Any], n_pairs: str) -> str:
    """Return what a reader has to know of how a cell was run, beside its method."""
    notes = ["two stages"] if facts["sequential"] else []
    captions = "description" in str(facts["pair_variants"] or "").split(",")
    if n_pairs.endswith("/class") and not captions:
        notes.append("names for captions")
    return ", ".join(notes)


def _gain(cells: pl.DataFrame, part: pl.DataFrame, kind: str) -> pl.Series:
    """Return the value of every seed, of a gain the difference to the side it is over."""
    own = part.select("seed", "value").sort("seed")
    if kind == "value":
        return own["value"]
    first = part.row(0, named=True)
    same = ["task", "direction", "metric", "options", "eval", "method", "image_set", "name_set"]
    base = cells.filter(
        *(pl.col(name) == first[name] for name in [*same, "caption_set"]),
        pl.col("epochs").eq_missing(first["epochs"]),
    )
    if kind == "gain-over-real":
        base = base.filter((pl.col("source") == "none") & (pl.col("n_pairs") == first["n_pairs"]))
        joined = own.join(base.select("seed", "value"), on="seed", suffix="_base")
        return (joined["value"] - joined["value_base"]).alias("gain")
    # The weights alone are the same whatever the seed.
    base = base.filter(
        (pl.col("source") == "head")
        & (pl.col("n_pairs") == "0")
        & (pl.col("head_set") == first["head_set"])
    )
    if base.is_empty():
        return pl.Series("gain", [], dtype=pl.Float64)
    return (own["value"] - base["value"].mean()).alias("gain")
