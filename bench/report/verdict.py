"""The verdict: whether random vectors would have done as well.

The question is settled by one task, metric and method that were named before any result was seen,
never by the best of many: by the rank of the head among the draws of its controls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from bench.cells import method_title, whole_heads
from bench.geometry import METHOD
from bench.tables import BY_NAME, interval_text, p_text, pairs_text, signed_text, value_text

#: What the first screen is about, fixed in advance, beside the method.
DIRECTION, METRIC = "image→name", "top-1"

#: An answer needs both: an interval on one side of zero, and a one-sided p below this.
LEVEL = 0.05

#: The head, and the controls that carry nothing of a class: those in doses are no answer.
NAMES = {
    "head": "Head weights",
    "random": "Random rows",
    "random-cov": "Random, same covariance",
    "shuffled": "Names shuffled",
    "rotated": "Rotated",
}


_ORDER = [*NAMES]


@dataclass(frozen=True)
class Tile:
    """One source of prototypes without real pairs.

    Attributes
    ----------
    source, name : str
    gain, interval : str
        Percentage points over chance.
    value : str
        Percent.
    by_name : str
        Percent where the head has the name of the image's class, and where it lacks it.
    """

    source: str
    name: str
    gain: str
    interval: str
    value: str
    by_name: str = ""


@dataclass(frozen=True)
class Verdict:
    """What the first screen says.

    Attributes
    ----------
    answer : str
        A sentence.
    tone : str
        ``"better"``, ``"same"``, ``"worse"`` or ``"unknown"``.
    reason : str
        The numbers behind the answer.
    tiles : tuple of Tile
        Head weights and the controls.
    remarks : tuple of str
        What else a reader must know: ConSE, and the mix with real pairs.
    setting : str
        Task, metric, method, gallery.
    eval : str
        The evaluation that is shown.
    gains : DataFrame
        The comparisons of the figure beside it.
    sources : tuple of str
    """

    answer: str
    tone: str
    reason: str
    tiles: tuple[Tile, ...]
    remarks: tuple[str, ...]
    setting: str
    eval: str
    gains: pl.DataFrame
    sources: tuple[str, ...]


def verdict(comparisons: pl.DataFrame, table: pl.DataFrame) -> Verdict | None:
    """Return the verdict, or None if the results do not hold the question.

    Parameters
    ----------
    comparisons : DataFrame
        Of `bench.comparisons.compare`.
    table : DataFrame
        Of `bench.tables.result_table`.
    """
    main = whole_heads(comparisons).filter(
        (pl.col("direction") == DIRECTION) & (pl.col("metric") == METRIC)
    )
    own = main.filter(pl.col("method") == METHOD)
    evaluation = next(
        (
            name
            for name in ("held-out", "split", "all-names")
            if not _alone(own.filter(pl.col("eval") == name), "head").is_empty()
        ),
        None,
    )
    if evaluation is None:
        return None
    own = own.filter(pl.col("eval") == evaluation)
    sources = tuple(s for s in NAMES if not _alone(own, s).is_empty())
    against = own.filter(
        (pl.col("comparison") == "over-control")
        & (pl.col("n_pairs") == "0")
        & pl.col("source").is_in(list(NAMES))
    )
    cells = {
        row["source"]: row
        for row in whole_heads(table)
        .filter(
            (pl.col("method") == METHOD)
            & (pl.col("eval") == evaluation)
            & (pl.col("direction") == DIRECTION)
            & (pl.col("n_pairs") == "0")
        )
        .iter_rows(named=True)
    }
    answer, tone, reason = _answer(against)
    head = _alone(own, "head").row(0, named=True)
    seeds = f"{head['n_seeds']} draws" if head["n_seeds"] > 1 else "one run"
    setting = (
        f"Zero-shot {METRIC} by {method_title(METHOD)}, {head['gallery']:,.0f} candidate names, "
        f"chance {value_text(METRIC, head['chance'])} %, {head['n_queries']:,} image queries over "
        f"{seeds}, {head['n_clusters']:,} clusters."
    )
    if (share := cells["head"]["seen_share"]) is not None:
        setting += (
            f" The head has the names of {100 * share:.0f} % of the queries (seen); the others are "
            "unseen."
        )
    shown = own.filter(
        ((pl.col("comparison") == "over-chance") & (pl.col("n_pairs") == "0"))
        | ((pl.col("comparison") == "over-real") & (pl.col("n_pairs") != "0"))
    )
    return Verdict(
        answer=answer,
        tone=tone,
        reason=reason,
        tiles=tuple(_tile(own, source, cells[source]) for source in sources),
        remarks=tuple(_remarks(own, table, evaluation)),
        setting=setting,
        eval=evaluation,
        gains=shown,
        sources=sources,
    )


def _alone(own: pl.DataFrame, source: str) -> pl.DataFrame:
    return own.filter(
        (pl.col("comparison") == "over-chance")
        & (pl.col("source") == source)
        & (pl.col("n_pairs") == "0")
    )


def _tile(own: pl.DataFrame, source: str, cell: dict[str, Any]) -> Tile:
    by_name = [
        f"{name} {value_text(name, cell[name])} %" for name in BY_NAME if cell.get(name) is not None
    ]
    row = _alone(own, source).row(0, named=True)
    return Tile(
        source=source,
        name=NAMES[source],
        gain=signed_text(row["difference"]),
        interval=interval_text(row["low"], row["high"]),
        value=value_text(METRIC, row["a"]),
        by_name=", ".join(by_name),
    )


def _answer(against: pl.DataFrame) -> tuple[str, str, str]:
    if against.is_empty():
        return (
            "No control was run: nothing here says that the head's meaning matters.",
            "unknown",
            "Run the sources random and shuffled beside the head.",
        )
    rows = sorted(against.iter_rows(named=True), key=lambda row: _ORDER.index(row["source"]))
    parts = [
        f"{NAMES[row['source']].lower()} by {signed_text(row['difference'])} points "
        f"{interval_text(row['low'], row['high'])} ({_standing(row)})"
        for row in rows
    ]
    reason = f"On the same images, head weights differ from {' and from '.join(parts)}."
    if any(row["p"] is None for row in rows):
        return "Undecided. A control was drawn only once.", "unknown", reason
    if all(row["low"] is not None and row["low"] > 0 and row["p"] < LEVEL for row in rows):
        return "No. Random vectors would not have done as well.", "better", reason
    if any(row["high"] is not None and row["high"] < 0 and row["p_below"] < LEVEL for row in rows):
        return "Yes. A control did better than the head weights.", "worse", reason
    return "Undecided. A control may have done as well.", "same", reason


def _standing(row: dict[str, Any]) -> str:
    """Return the rank of the head among the draws of a control, as text."""
    if row["p"] is None:
        return "no test"
    if row["control_rank"] is not None and row["control_rank"] > 1:
        return f"rank {row['control_rank']} of {row['n_controls'] + 1}, p {p_text(row['p'])}"
    first = "above all of" if row["control_rank"] == 1 else "over"
    return f"{first} {row['n_controls']} draws, p {p_text(row['p'])}"


def _remarks(own: pl.DataFrame, table: pl.DataFrame, evaluation: str) -> list[str]:
    conse = own.filter((pl.col("comparison") == "over-conse") & (pl.col("n_pairs") == "0"))
    remarks = [
        f"ConSE reads the same head without fitting and reaches {value_text(METRIC, row['b'])} %; "
        f"the fitted map differs from it by {_difference(row)}."
        for row in conse.iter_rows(named=True)
    ]
    images: dict[str, Any] = {
        row["n_pairs"]: row["n_images_fitted"]
        for row in table.filter(
            (pl.col("eval") == evaluation) & (pl.col("method") == METHOD)
        ).iter_rows(named=True)
    }
    mixed = own.filter(pl.col("comparison") == "over-parts")
    if not mixed.is_empty():
        parts = "; ".join(
            f"{pairs_text(row['n_pairs'], images.get(row['n_pairs']))} pairs {_difference(row)}"
            for row in mixed.iter_rows(named=True)
        )
        remarks.append(f"Mixed with real pairs, against the better of the two alone: {parts}.")
    return remarks


def _difference(row: dict[str, Any]) -> str:
    return f"{signed_text(row['difference'])} {interval_text(row['low'], row['high'])}"
