"""The verdict: whether random vectors would have done as well.

The question is settled by one task, metric and method that are fixed before an image is scored,
never by the best of many: by the rank of the head among the draws of its controls. `shown_method`
says which method that is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bench.cells import ARENA, HEAD_PARTS, SETTINGS, in_order, method_title, whole_heads
from bench.comparisons import LEVEL, MAIN_EVALS, PRIMARY_METRICS
from bench.runs import LEAVES
from bench.statistics import ENOUGH_CONTROLS, holm
from bench.suites.few_shot import few_shot_claim
from bench.tables import gain_text, p_text, value_text, with_unit

#: What the first screen is about, fixed in advance, beside the method.
DIRECTION, METRIC = PRIMARY_METRICS[0]

#: The methods that a verdict is on, the first that was run on a head. The order is no ranking by
#: results: docs/read-the-report.md gives its reasons.
ORDER = ("kernel-ridge", "ridge", "procrustes")

#: The head, and the controls that carry nothing of a class: those in doses are no answer.
NAMES = {
    "head": "Head weights",
    "random": "Random rows",
    "random-cov": "Random, same covariance",
    "shuffled": "Names shuffled",
    "rotated": "Rotated",
}

#: What tells cells of one method apart on whole heads, each with its default.
_DEFAULTS = {
    leaf.name: leaf.default
    for leaf in LEAVES
    if leaf.name in SETTINGS and leaf.name not in HEAD_PARTS
}

#: Of these, what says how a head is mixed with real pairs.
_OF_MIXTURES = ("mix", "sequential")


@dataclass(frozen=True)
class Verdict:
    """The answer, and the numbers that it follows from.

    Attributes
    ----------
    headline, numbers : str
        The answer, and how it follows.
    tone : str
        How the head stands beside its controls, by what weighs most against it: ``"worse"``,
        ``"same"``, ``"undecided"`` (too few draws of a control), ``"unknown"`` (no control, or one
        that was drawn once) or ``"better"``; see `judged`.
    method, direction, metric, eval : str
        What it is on.
    rows : DataFrame
        The comparisons of `bench.comparisons.compare` of just that.
    cells : mapping
        Source of prototypes → its row of `bench.tables.result_table`, without real pairs.
    controls : list of dict
        Those of `rows` that compare the head with a control, without real pairs; see `judged`.
    settings : mapping
        Column of `bench.cells.SETTINGS` → its value in all of these; see `planned_settings`.
    n_settings : int
        In how many settings the method was scored on the head alone.
    """

    headline: str
    numbers: str
    tone: str
    method: str
    direction: str
    metric: str
    eval: str
    rows: pl.DataFrame
    cells: Mapping[str, Mapping[str, Any]]
    controls: list[dict[str, Any]]
    settings: Mapping[str, Any]
    n_settings: int

    @property
    def sentence(self) -> str:
        """The answer with its numbers, to stand alone."""
        return f"{self.headline.removesuffix('.')}{self.numbers}."

    def cell(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the rows of a frame that belong to the head."""
        return _with_settings(whole_heads(frame), self.settings).filter(
            method=self.method, source="head", n_pairs="0", eval=self.eval, direction=self.direction
        )

    def of(self, comparison: str, source: str = "head", n_pairs: str = "0") -> dict[str, Any]:
        """Return one of the comparisons by its name; empty if there is none."""
        found = self.rows.filter(comparison=comparison, source=source, n_pairs=n_pairs)
        return {} if found.is_empty() else found.row(0, named=True)

    @property
    def pool(self) -> str:
        """What each query is ranked against, such as ``"among 207 names"``."""
        return among(self.direction, next(iter(self.cells.values()))["gallery"])

    def value(self, source: str) -> str:
        """Return the value of a source without real pairs as text, with its unit."""
        return with_unit(self.metric, self.cells[source][self.metric])


def shown_method(comparisons: pl.DataFrame, question: tuple[str, str] | None = None) -> str:
    """Return the method that a verdict is on.

    Of the methods that were scored on a head alone, it is the one whose head stands beside the
    most draws of a control, up to `ENOUGH_CONTROLS`: its rank among them says most. Of equals it
    is the first of `ORDER`, then of the table. Both follow from what was run, and neither from how
    it scored.
    """
    alone = _of_question(_alone(comparisons), question)
    methods = sorted([*dict.fromkeys(alone["method"])] or ORDER, key=_place)
    beside = alone.filter(_IS_CONTROL & pl.col("eval").is_in([_evaluation(alone) or ""]))
    draws = dict(beside.group_by("method").agg(pl.col("n_controls").max()).iter_rows())
    return str(max(methods, key=lambda name: min(draws.get(name) or 0, ENOUGH_CONTROLS)))


_IS_CONTROL = (pl.col("comparison") == "over-control") & pl.col("source").is_in([*NAMES])


def _alone(comparisons: pl.DataFrame) -> pl.DataFrame:
    """Return the comparisons of a whole head alone: with chance, or with a control of it."""
    of_head = (pl.col("comparison") == "over-chance") & (pl.col("source") == "head")
    return whole_heads(comparisons).filter(
        pl.col("method") != "conse",
        (of_head | (pl.col("comparison") == "over-control")),
        n_pairs="0",
    )


def _of_question(alone: pl.DataFrame, question: tuple[str, str] | None) -> pl.DataFrame:
    """Return the rows of a question; without one, of the first of `PRIMARY_METRICS` there is."""
    have = alone.select("direction", "metric").rows()
    asked = question or next((one for one in PRIMARY_METRICS if one in have), PRIMARY_METRICS[0])
    return alone.filter(direction=asked[0], metric=asked[1])


def _evaluation(alone: pl.DataFrame) -> str | None:
    """Return the first of `MAIN_EVALS` with controls; where none has any, the first of all."""
    frames = (alone.filter(_IS_CONTROL), alone)
    return next((name for own in frames for name in MAIN_EVALS if name in own["eval"]), None)


def planned_settings(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the settings in which a head was scored alone, those with the most defaults first.

    Of equally many, the first by their values. The scores play no part, so that the first is
    chosen before an image is scored.
    """
    own = whole_heads(frame).filter(source="head", n_pairs="0")
    return sorted(own.select(list(_DEFAULTS)).unique().iter_rows(named=True), key=_unusual)


def _unusual(row: Mapping[str, Any]) -> tuple[int, list[str]]:
    """Return what sorts rows by how many settings are not the default."""
    given = [row[name] not in ("", None, default) for name, default in _DEFAULTS.items()]
    return sum(given), [str(row[name]) for name in _DEFAULTS]


def _with_settings(
    frame: pl.DataFrame, settings: Mapping[str, Any], but: Sequence[str] = ()
) -> pl.DataFrame:
    own = {name: value for name, value in settings.items() if name not in but}
    types = frame.schema
    return frame.filter(
        *(pl.col(n).eq_missing(pl.lit(v, dtype=types[n])) for n, v in own.items() if n in types)
    )


def as_planned(frame: pl.DataFrame) -> pl.DataFrame:
    """Return of every method the rows of the first of its `planned_settings`.

    Parameters
    ----------
    frame : DataFrame
        Rows without real pairs, with the columns of `bench.cells.CELL`.
    """
    kept = [
        _with_settings(own, next(iter(planned_settings(own)), {}))
        for _, own in frame.group_by("method", maintain_order=True)
    ]
    return pl.concat(kept) if kept else frame


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
    method = method or shown_method(comparisons, question)
    alone = _of_question(_alone(comparisons).filter(method=method), question)
    evaluation = _evaluation(alone)
    if evaluation is None:
        return None
    asked = (*ARENA, "metric", "method")
    alone = alone.filter(eval=evaluation).sort(
        pl.col("comparison") != "over-chance", maintain_order=True
    )
    # The first gallery: of other options it is another. What an arena lacks is None.
    named = alone.select(asked).row(0, named=True).items()
    first = {name: value for name, value in named if value is not None}
    alone, (direction, metric) = alone.filter(**first), (first["direction"], first.pop("metric"))
    own = whole_heads(comparisons).filter(metric=metric, **first)
    # Of a head whose values are only side a of a control, the settings are those of that row.
    every = planned_settings(alone.with_columns(source=pl.lit("head")))
    own = _of_settings(own, every[0])
    alone = _with_settings(alone, every[0])
    cells = _with_settings(whole_heads(table), every[0]).filter(n_pairs="0", **first)
    against = alone.filter(_IS_CONTROL).to_dicts()
    controls = judged(sorted(against, key=lambda row: [*NAMES].index(row["source"])))
    found_tones = {row["stands"] for row in controls} or {"unknown"}
    tone = next(tone for tone in _CLAUSES if tone in found_tones)
    head = alone.row(0, named=True)
    found = f"names {value_text(metric, head['a'])} % of images right"
    if direction != DIRECTION:
        found = f"reaches {with_unit(metric, head['a'])} in {metric} of {direction}"
    found += f" {among(direction, head['gallery'])}{chance_text(metric, head['chance'])}"
    numbers = ""
    if controls:
        numbers = f": the head differs from {' and from '.join(map(_beside, controls))}"
    return Verdict(
        headline=(f"{method_title(method)} on head weights alone {found}. {_CLAUSES[tone]}."),
        numbers=numbers,
        tone=tone,
        method=method,
        direction=direction,
        metric=metric,
        eval=evaluation,
        rows=own,
        cells={row["source"]: row for row in cells.iter_rows(named=True)},
        controls=controls,
        settings=every[0],
        n_settings=len(every),
    )


def first_question(comparisons: pl.DataFrame, results: pl.DataFrame) -> tuple[str, str]:
    """Return the first direction and metric of `PRIMARY_METRICS` that was scored, or of all."""
    frames = [comparisons, in_order(results)]
    have = [asked for frame in frames for asked in frame.select("direction", "metric").rows()]
    return next((asked for asked in PRIMARY_METRICS if asked in have), have[0])


def without_head(
    root: Path,
    results: pl.DataFrame,
    table: pl.DataFrame,
    question: tuple[str, str],
    method: str | None = None,
) -> str:
    """Return what is said of results without a verdict.

    Parameters
    ----------
    root : Path
        Results folder; sums of few-shot learners are read from it.
    results : DataFrame
    table : DataFrame
        Of `bench.tables.result_table`.
    question : tuple of direction and metric
    method : str, optional
        Instead of the first one that is scored.
    """
    direction, metric = question
    claim = few_shot_claim(root, results) if direction == "image→class" else None
    if claim is not None:
        named = f"{value_text(metric, claim.value)} % of images are named right"
        by = f"by ProKeR with {claim.shots} labelled images a class"
        return f"{named} {among(direction, claim.gallery)} {by}. {claim.sentence}"
    cells = table.filter(
        pl.col(metric).is_not_null(),
        ~pl.col("method").is_in(["chance", "conse"]),
        direction=direction,
    )
    if cells.is_empty():
        return "No method that was fitted is scored here, so there is no verdict."
    name = str(method if method in cells["method"] else cells["method"][0])
    row = cells.filter(method=name).row(-1, named=True)
    here = results.filter(direction=direction, metric=metric, eval=row["eval"])
    levels = here["chance"].drop_nulls()
    chance = chance_text(metric, None if levels.is_empty() else float(levels.to_numpy().mean()))
    value = f"{metric} of {direction} is {with_unit(metric, row[metric])}"
    return f"{value} {among(direction, row['gallery'])} by {method_title(name)}{chance}."


def _of_settings(own: pl.DataFrame, settings: Mapping[str, Any]) -> pl.DataFrame:
    """Return one row of each comparison; beside real pairs, the mixture with most defaults."""
    alone = pl.col("n_pairs") == "0"
    beside = _with_settings(own.filter(~alone), settings, _OF_MIXTURES)
    rows = beside.rows(named=True)
    usual = beside[sorted(range(len(rows)), key=lambda place: _unusual(rows[place]))]
    once = usual.unique(["comparison", "source", "n_pairs"], keep="first", maintain_order=True)
    return pl.concat([_with_settings(own.filter(alone), settings), once])


def judged(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the comparisons of a head with its controls, each with ``stands`` and ``p_lower``.

    ``stands`` is ``"better"`` or ``"worse"`` where the interval is on one side of zero and the p of
    that side is at most 5 %, which a head above 19 draws reaches by its rank. A verdict that the
    head is better needs every control to be beaten, so that each may have its own p (Berger, 1982).
    That *some* control did better is one claim of many: its p, ``p_lower``, is corrected by Holm
    over the controls. ``"unknown"`` is a control without a test, ``"undecided"`` one that the head
    is above all draws of, which are too few for the test, and ``"same"`` any other: a difference
    that is not shown.
    """
    lower = iter(holm(np.array([row["p_below"] for row in rows if row["p"] is not None])))
    out = []
    for row in rows:
        p = None if row["p"] is None else float(next(lower))
        out.append({**row, "p_lower": p, "stands": _stands(row, p)})
    return out


def _stands(row: Mapping[str, Any], p_lower: float | None) -> str:
    if p_lower is None:
        return "unknown"
    if row["low"] > 0 and row["p"] <= LEVEL:
        return "better"
    if row["high"] < 0 and p_lower <= LEVEL:
        return "worse"
    few = row["n_controls"] < ENOUGH_CONTROLS
    first = row["difference"] > 0 and row["control_rank"] in (None, 1)
    return "undecided" if few and first else "same"


#: What the sentence of a verdict ends with, by what weighs most against the head.
_CLAUSES = {
    "worse": "A control did better",
    "same": "A control may have done as well",
    "undecided": (
        "There are too few control draws to say whether random vectors would have done as well"
    ),
    "unknown": "No control says whether random vectors would have done as well",
    "better": "Random vectors would not have done as well",
}


def chance_text(metric: str, chance: float | None) -> str:
    """Return what a random order gives, in brackets; nothing where a metric has no such level."""
    return "" if chance is None else f" (chance {with_unit(metric, chance)})"


def among(direction: str, gallery: float) -> str:
    """Return what a query of this direction is ranked against, such as ``"among 207 names"``."""
    # A task of one's own may rank nothing.
    return (
        f"among {gallery:,.0f} {_POOLS.get(direction.rsplit('→', 1)[-1], 'candidates')}"
        if gallery
        else "without candidates"
    )


_POOLS = {"name": "names", "class": "classes", "caption": "captions", "image": "images"}


def _beside(row: Mapping[str, Any]) -> str:
    """Return how far the head is from one of its controls, in words."""
    return (
        f"{NAMES[row['source']].lower()} by "
        f"{gain_text(row['difference'], row['low'], row['high'])} ({standing(row)})"
    )


def standing(row: Mapping[str, Any]) -> str:
    """Return the place of the head among the draws of a control, and p of the side it is on.

    Below 1 / (m + 1) no rank of m draws can be: there p is of a t test, which takes the draws as
    normal, and the text says so.
    """
    if row["p_lower"] is None:
        return "no test"
    m, rank = row["n_controls"], row["control_rank"]
    lower = row["difference"] < 0
    p = row["p_lower"] if lower else row["p"]
    place = f"rank {rank} of {m + 1}"
    if rank is None or (rank in (1, m + 1) and row["difference"]):  # not where it ties with all
        sides = ("below", "over") if rank is None else ("below all of", "above all of")
        place = f"{sides[not lower]} {m} draws"
    how = " by t" if p < 1 / (m + 1) else ""
    return f"{place}, p {p_text(p)}{how}{' of doing worse, Holm' if lower else ''}"
