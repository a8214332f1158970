"""The verdict: whether random vectors would have done as well.

The question is settled by one task, metric and method that were named before any result was seen,
never by the best of many: by the rank of the head among the draws of its controls. The method is
ridge; where it was not run, the first that stands on a head, or the one that is asked about.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from bench.cells import method_title, whole_heads
from bench.comparisons import MAIN_EVALS, PRIMARY_METRICS
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
    sentence : str
        The same with its numbers, to stand alone.
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
    sentence: str
    tone: str
    reason: str
    tiles: tuple[Tile, ...]
    remarks: tuple[str, ...]
    setting: str
    eval: str
    gains: pl.DataFrame
    sources: tuple[str, ...]


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
        Instead of the method that is named above.
    question : tuple of direction and metric, optional
        Instead of the first of `bench.comparisons.PRIMARY_METRICS` that there is.
    """
    on_head = table.filter((pl.col("source") == "head") & (pl.col("method") != "conse"))["method"]
    if method is None:
        method = METHOD if METHOD in on_head or on_head.is_empty() else str(on_head[0])
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
    sources = tuple(s for s in NAMES if not _alone(own, s).is_empty())
    against = own.filter(
        (pl.col("comparison") == "over-control")
        & (pl.col("n_pairs") == "0")
        & pl.col("source").is_in(list(NAMES))
    )
    shown_cells = whole_heads(table).filter(
        (pl.col("method") == method)
        & (pl.col("eval") == evaluation)
        & (pl.col("direction") == direction)
    )
    cells = {
        row["source"]: row
        for row in shown_cells.filter(pl.col("n_pairs") == "0").iter_rows(named=True)
    }
    answer, tone, reason = _answer(against)
    head = _of_head(own).row(0, named=True)
    seeds = f"{head['n_seeds']} draws" if head["n_seeds"] > 1 else "one run"
    title = method_title(method)
    value = f"{value_text(metric, head['a'])} %"
    what, found = (
        "Zero-shot {} by {}, {:,.0f} candidate names",
        f"{value} of images are named right",
    )
    if direction != DIRECTION:
        what = f"{{}} of {direction} by {{}}, {{:,.0f}} candidates"
        found = f"{metric} of {direction} is {value}"
    setting = (
        f"{what.format(metric, title, head['gallery'])}, "
        f"chance {value_text(metric, head['chance'])} %, {head['n_queries']:,} image queries over "
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
    numbers = ""
    if not against.is_empty():
        numbers = f": the head differs from {' and from '.join(_beside(against))}"
    return Verdict(
        answer=answer,
        sentence=(
            f"{found} by {title} on head weights alone{chance_text(metric, head['chance'])}, and "
            f"{_CLAUSES[tone]}{numbers}."
        ),
        tone=tone,
        reason=reason,
        tiles=tuple(_tile(own, source, cells[source]) for source in sources),
        remarks=tuple(_remarks(own, shown_cells)),
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


def _of_head(own: pl.DataFrame) -> pl.DataFrame:
    """Return the comparisons of the head alone: with chance, or with a control of it."""
    of_control = (pl.col("comparison") == "over-control") & (pl.col("n_pairs") == "0")
    return pl.concat([_alone(own, "head"), own.filter(of_control)])


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
        value=value_text(row["metric"], row["a"]),
        by_name=", ".join(by_name),
    )


def _answer(against: pl.DataFrame) -> tuple[str, str, str]:
    if against.is_empty():
        return (
            "No control was run: nothing here says that the head's meaning matters.",
            "unknown",
            "Run the sources random and shuffled beside the head.",
        )
    reason = f"On the same images, head weights differ from {' and from '.join(_beside(against))}."
    rows = against.to_dicts()
    if any(row["p"] is None for row in rows):
        return "Undecided. A control was drawn only once.", "unknown", reason
    if all(row["low"] is not None and row["low"] > 0 and row["p"] < LEVEL for row in rows):
        return "No. Random vectors would not have done as well.", "better", reason
    if any(row["high"] is not None and row["high"] < 0 and row["p_below"] < LEVEL for row in rows):
        return "Yes. A control did better than the head weights.", "worse", reason
    return "Undecided. A control may have done as well.", "same", reason


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
    rows = sorted(against.iter_rows(named=True), key=lambda row: _ORDER.index(row["source"]))
    return [
        f"{NAMES[row['source']].lower()} by {signed_text(row['difference'])} points "
        f"{interval_text(row['low'], row['high'])} ({_standing(row)})"
        for row in rows
    ]


def _standing(row: dict[str, Any]) -> str:
    """Return the rank of the head among the draws of a control, as text."""
    if row["p"] is None:
        return "no test"
    if row["control_rank"] is not None and row["control_rank"] > 1:
        return f"rank {row['control_rank']} of {row['n_controls'] + 1}, p {p_text(row['p'])}"
    first = "above all of" if row["control_rank"] == 1 else "over"
    return f"{first} {row['n_controls']} draws, p {p_text(row['p'])}"


def _remarks(own: pl.DataFrame, cells: pl.DataFrame) -> list[str]:
    conse = own.filter((pl.col("comparison") == "over-conse") & (pl.col("n_pairs") == "0"))
    remarks = [
        f"ConSE reads the same head without fitting and reaches "
        f"{value_text(row['metric'], row['b'])} %; the fitted map differs from it by "
        f"{_difference(row)}."
        for row in conse.iter_rows(named=True)
    ]
    images: dict[str, Any] = {
        row["n_pairs"]: row["n_images_fitted"] for row in cells.iter_rows(named=True)
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
