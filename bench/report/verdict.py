"""The verdict: whether random vectors would have done as well.

The question is settled by one task, metric and method that are fixed before an image is scored,
never by the best of many: by the rank of the head among the draws of its controls. `shown_method`
says which method that is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from bench.cells import method_title, whole_heads
from bench.comparisons import MAIN_EVALS, PRIMARY_METRICS
from bench.statistics import ENOUGH_CONTROLS
from bench.tables import interval_text, p_text, signed_text, value_text

#: What the first screen is about, fixed in advance, beside the method.
DIRECTION, METRIC = PRIMARY_METRICS[0]

#: The methods that a verdict is on, the first that was run on a head. The order is no ranking by
#: results: docs/bench.md gives its reasons.
ORDER = ("kernel-ridge", "ridge", "procrustes")

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


@dataclass(frozen=True)
class Verdict:
    """The answer, and the numbers that it follows from.

    Attributes
    ----------
    sentence : str
        The answer with its numbers, to stand alone.
    tone : str
        ``"better"``, ``"same"``, ``"worse"`` or ``"unknown"``.
    method, direction, metric, eval : str
        What it is on.
    rows : DataFrame
        The comparisons of `bench.comparisons.compare` of just that.
    cells : mapping
        Source of prototypes → its row of `bench.tables.result_table`, without real pairs.
    gains : DataFrame
        Those of `rows` that compare a source with chance, or with the real pairs beside it.
    sources : tuple of str
        The head, and the controls that were scored without real pairs.
    """

    sentence: str
    tone: str
    method: str
    direction: str
    metric: str
    eval: str
    rows: pl.DataFrame
    cells: Mapping[str, Mapping[str, Any]]
    gains: pl.DataFrame
    sources: tuple[str, ...]

    def of(self, comparison: str, source: str = "head", n_pairs: str = "0") -> dict[str, Any]:
        """Return one of the comparisons by its name; empty if there is none."""
        found = self.rows.filter(
            (pl.col("comparison") == comparison)
            & (pl.col("source") == source)
            & (pl.col("n_pairs") == n_pairs)
        )
        return {} if found.is_empty() else found.row(0, named=True)

    @property
    def controls(self) -> list[dict[str, Any]]:
        """The comparisons of the head with each of its controls, without real pairs."""
        return [row for source in NAMES if (row := self.of("over-control", source))]

    def value(self, source: str) -> str:
        """Return the value of a source without real pairs as text, with its unit."""
        return f"{value_text(self.metric, self.cells[source][self.metric])} %"


def shown_method(comparisons: pl.DataFrame, table: pl.DataFrame) -> str:
    """Return the method that a verdict is on.

    The one whose head stands beside the most draws of a control, up to `ENOUGH_CONTROLS`: its rank
    among them says most. Of equals the first of `ORDER`, then of the table. Both follow from what
    was run, and neither from how it scored.
    """
    on_head = table.filter((pl.col("source") == "head") & (pl.col("method") != "conse"))["method"]
    methods = sorted([*dict.fromkeys(on_head)] or ORDER, key=_place)
    alone = whole_heads(comparisons).filter(
        (pl.col("comparison") == "over-control")
        & (pl.col("n_pairs") == "0")
        & pl.col("source").is_in([*NAMES])
        & pl.struct("direction", "metric").is_in(
            [{"direction": way, "metric": metric} for way, metric in PRIMARY_METRICS]
        )
    )
    main = [name for name in MAIN_EVALS if name in alone["eval"]][:1]
    alone = alone.filter(pl.col("eval").is_in(main))
    draws = dict(alone.group_by("method").agg(pl.col("n_controls").max()).iter_rows())
    return str(max(methods, key=lambda name: min(draws.get(name) or 0, ENOUGH_CONTROLS)))


def first_of_order(methods: Iterable[str]) -> str:
    """Return the first method by `ORDER`; where none is in it, the first that is given."""
    return min(methods, key=_place)


def _place(method: str) -> int:
    return ORDER.index(method) if method in ORDER else len(ORDER)


def verdict(
    comparisons: pl.DataFrame,
    table: pl.DataFrame,
    *,
    method: str | None = None,
    question: tuple[str, str] | None = None,
) -> Verdict | None:
    """Return the verdict, or None if the results do not hold the question.

    Parameters
    ----------
    comparisons : DataFrame
        Of `bench.comparisons.compare`.
    table : DataFrame
        Of `bench.tables.result_table`.
    method : str, optional
        Instead of `shown_method`.
    question : tuple of direction and metric, optional
        Instead of the first of `bench.comparisons.PRIMARY_METRICS` that there is.
    """
    method = method or shown_method(comparisons, table)
    of_method = whole_heads(comparisons).filter(pl.col("method") == method)
    direction, metric = question or next(
        (asked for asked in PRIMARY_METRICS if asked[0] in of_method["direction"]),
        (DIRECTION, METRIC),
    )
    own = of_method.filter((pl.col("direction") == direction) & (pl.col("metric") == metric))
    evaluation = next(
        (
            name
            for name in MAIN_EVALS
            if not _of_head(own.filter(pl.col("eval") == name)).is_empty()
        ),
        None,
    )
    if evaluation is None:
        return None
    own = own.filter(pl.col("eval") == evaluation)
    cells = whole_heads(table).filter(
        (pl.col("method") == method)
        & (pl.col("eval") == evaluation)
        & (pl.col("direction") == direction)
        & (pl.col("n_pairs") == "0")
    )
    against = own.filter(
        (pl.col("comparison") == "over-control")
        & (pl.col("n_pairs") == "0")
        & pl.col("source").is_in(list(NAMES))
    )
    tone = _tone(against.to_dicts())
    head = _of_head(own).row(0, named=True)
    found = f"{value_text(metric, head['a'])} % of images are named right"
    if direction != DIRECTION:
        found = f"{metric} of {direction} is {value_text(metric, head['a'])} %"
    numbers = ""
    if not against.is_empty():
        numbers = f": the head differs from {' and from '.join(_beside(against))}"
    return Verdict(
        sentence=(
            f"{found} by {method_title(method)} on head weights alone"
            f"{chance_text(metric, head['chance'])}, and {_CLAUSES[tone]}{numbers}."
        ),
        tone=tone,
        method=method,
        direction=direction,
        metric=metric,
        eval=evaluation,
        rows=own,
        cells={row["source"]: row for row in cells.iter_rows(named=True)},
        gains=own.filter(
            ((pl.col("comparison") == "over-chance") & (pl.col("n_pairs") == "0"))
            | ((pl.col("comparison") == "over-real") & (pl.col("n_pairs") != "0"))
        ),
        sources=tuple(s for s in NAMES if not _alone(own, s).is_empty()),
    )


def _alone(own: pl.DataFrame, source: str) -> pl.DataFrame:
    return own.filter(
        (pl.col("comparison") == "over-chance")
        & (pl.col("source") == source)
        & (pl.col("n_pairs") == "0")
    )


def _of_head(own: pl.DataFrame) -> pl.DataFrame:
    """Return the comparisons of the head alone: with chance, or with a control of it."""
    of_control = (pl.col("comparison") == "over-control") & (pl.col("n_pairs") == "0")
    return pl.concat([_alone(own, "head"), own.filter(of_control)])


def is_beaten(row: Mapping[str, Any]) -> bool:
    """Return whether the head beats a control: interval above zero, and p below `LEVEL`."""
    return bool(row["low"] is not None and row["low"] > 0 and row["p"] < LEVEL)


def beats_head(row: Mapping[str, Any]) -> bool:
    """Return whether a control beats the head: interval below zero, and p below `LEVEL`."""
    return bool(row["high"] is not None and row["high"] < 0 and row["p_below"] < LEVEL)


def _tone(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return how the head stands beside its controls."""
    if not rows or any(row["p"] is None for row in rows):
        return "unknown"
    if all(map(is_beaten, rows)):
        return "better"
    return "worse" if any(map(beats_head, rows)) else "same"


#: What the sentence of a verdict ends with.
_CLAUSES = {
    "better": "random vectors would not have done as well",
    "same": "a control may have done as well",
    "worse": "a control did better",
    "unknown": "no control says whether random vectors would have done as well",
}


def chance_text(metric: str, chance: float | None) -> str:
    """Return what a random order gives, in brackets; nothing where a metric has no such level."""
    return "" if chance is None else f" (chance {value_text(metric, chance)} %)"


def _beside(against: pl.DataFrame) -> list[str]:
    """Return how far the head is from each of its controls, in words."""
    rows = sorted(against.iter_rows(named=True), key=lambda row: [*NAMES].index(row["source"]))
    return [
        f"{NAMES[row['source']].lower()} by {signed_text(row['difference'])} points "
        f"{interval_text(row['low'], row['high'])} ({standing(row)})"
        for row in rows
    ]


def standing(row: Mapping[str, Any]) -> str:
    """Return the rank of the head among the draws of a control, as text."""
    if row["p"] is None:
        return "no test"
    p = f"p {p_text(row['p'])}"
    if row["control_rank"] is not None and row["control_rank"] > 1:
        return f"rank {row['control_rank']} of {row['n_controls'] + 1}, {p}"
    first = "above all of" if row["control_rank"] == 1 else "over"
    return f"{first} {row['n_controls']} draws, {p}"
