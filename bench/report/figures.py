"""Figures of a report, with the sentences that are made from their numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from bench.cells import in_order, mean_over_queries, method_title, whole_heads
from bench.doses import DOSES
from bench.geometry import METHOD, Geometry, Side
from bench.report.theme import (
    DASHED,
    SOURCE_STYLES,
    Figure,
    Sheet,
    capital,
    colour,
    draws_text,
    evaluation_text,
    few_ticks,
    ground,
    measured,
    shortened,
    spread,
    way,
    without_frame,
)
from bench.report.verdict import DIRECTION, METRIC, among, as_planned
from bench.tables import value_text

#: What a figure calls the controls, each of which replaces the head's rows.
CONTROL_NAMES = {
    "random": "random rows",
    "random-cov": "random rows, same covariance",
    "shuffled": "names shuffled",
    "rotated": "head rotated",
}


def headline_figure(
    comparisons: pl.DataFrame,
    *,
    method: str,
    evaluation: str,
    direction: str = DIRECTION,
    metric: str = METRIC,
) -> Figure | None:
    """Draw every method on head weights alone, best first, and the controls of one of them.

    Parameters
    ----------
    comparisons : DataFrame
        Of `bench.comparisons.compare`; its rows over chance without real pairs are drawn.
    method : str
        Whose controls are drawn: the method of the verdict.
    evaluation, direction, metric : str
        The verdict's.

    Returns
    -------
    Figure or None
        None where the method was not run on head weights alone.
    """
    alone = as_planned(
        whole_heads(comparisons).filter(
            (pl.col("comparison") == "over-chance") & (pl.col("n_pairs") == "0")
            & (pl.col("eval") == evaluation) & (pl.col("direction") == direction)
            & (pl.col("metric") == metric)
        )
    )  # fmt: skip
    heads = alone.filter(pl.col("source") == "head").sort("a", descending=True, maintain_order=True)
    controls = [
        row
        for source in CONTROL_NAMES
        for row in alone.filter(
            (pl.col("source") == source) & (pl.col("method") == method)
        ).iter_rows(named=True)
    ]
    if method not in heads["method"]:
        return None
    rows = [_dot(row, method) for row in [*heads.iter_rows(named=True), *controls]]
    by_method = {row["method"]: row for row in heads.iter_rows(named=True)}
    shown, name = by_method[method], method_title(method)
    value, pool = f"{value_text(metric, shown['a'])} %", among(direction, shown["gallery"])
    if (direction, metric) == (DIRECTION, METRIC):
        title = f"{name} on the head alone names {value} of images correctly {pool}"
        subtitle = "Share of images whose own name ranks first, in percent"
    else:
        title = f"{name} on the head alone reaches {value} {metric} of {way(direction)} {pool}"
        subtitle = f"{metric} of {way(direction)}, in percent"
    if controls:
        best = max(row["a"] for row in controls)
        title += f", its best control (mean of its draws) {value_text(metric, best)} %"
    if "conse" in by_method:
        subtitle += "; dashed line: ConSE, which reads the head without fitting"
    values = ", ".join(
        f"{row['label']} {value_text(metric, row['value'])}{_range(row)}" for row in rows
    )
    caption = (
        f"{capital(metric)} of {way(direction)} without real pairs, {_scope(shown)}. "
        f"Percent, with 95 % intervals where there is one: {values}."
    )
    conse = by_method.get("conse")

    def draw(sheet: Sheet) -> None:
        _dots(sheet, rows, metric, None if conse is None else 100 * conse["a"])

    data = pl.DataFrame(
        [{name: row[name] for name in ("label", "method", "source", "value", "low", "high")}
         for row in rows]
    )  # fmt: skip
    return Figure("headline", title + ".", subtitle + ".", caption, data, draw, width=620.0)


def _dot(row: dict[str, Any], method: str) -> dict[str, Any]:
    """Return a row of the dot plot: its interval is that of the gain, moved by the level."""
    title, source = method_title(row["method"]), row["source"]
    role, marker, _ = SOURCE_STYLES[source]
    label = f"{title}, {CONTROL_NAMES[source]}" if source != "head" else f"{title} on the head"
    if row["method"] == "conse":
        role, marker, label = "conse", "D", "ConSE, the head unfitted"
    ends = {
        name: None if row[name] is None else min(max(row["b"] + row[name], 0.0), 1.0)
        for name in ("low", "high")
    }
    return {
        "label": label, "method": row["method"], "source": source, "value": row["a"], **ends,
        "role": role, "marker": marker, "strong": row["method"] == method and source == "head",
    }  # fmt: skip


def _dots(sheet: Sheet, rows: list[dict[str, Any]], metric: str, level: float | None) -> None:
    """Draw values with their intervals, a row each; a narrow sheet has labels above the dots."""
    step = 2.0 if sheet.wide else 2.9
    height = step * len(rows) + 0.3
    column = 0.6
    # A method of one's own may have a name of any length.
    labels = [shortened(row["label"], (0.5 if sheet.wide else 0.85) * sheet.width) for row in rows]
    if sheet.wide:
        column = 1.2 + max(
            measured(label, bold=row["strong"]) for label, row in zip(labels, rows, strict=True)
        )
    room = 1.0 + max(measured(value_text(metric, row["value"]), bold=True) for row in rows)
    sheet.tall(height + 2.2)
    width = sheet.width - column - 0.8
    axes = sheet.axes(column, 0.1, width, height)
    most = max(100 * (row["value"] if row["high"] is None else row["high"]) for row in rows)
    right = max(most, 1e-9) * width / max(width - room, 1.0)
    low = min(0.0, *(100 * (row["low"] or 0.0) for row in rows))
    if level is not None:
        axes.axvline(level, color=colour("conse"), linestyle=DASHED, linewidth=0.1 * sheet.em)
    axes.set_xlim(low - 0.01 * right, right)
    axes.set_ylim(height, 0)
    for place, (row, label) in enumerate(zip(rows, labels, strict=True)):
        y = step * (place + 0.5) if sheet.wide else step * place + 2.1
        value, ink = 100 * row["value"], colour(row["role"])
        if row["low"] is not None and row["high"] is not None:
            axes.plot([100 * row["low"], 100 * row["high"]], [y, y], color=ink)
        axes.plot([value], [y], row["marker"], color=ink)
        end = max(value, 100 * (row["high"] or 0.0)) + 0.7 * right / width
        axes.text(
            end, y, value_text(metric, row["value"]), color=ink, va="center", weight="bold",
            bbox=ground(),
        )  # fmt: skip
        weight = "bold" if row["strong"] else "normal"
        if sheet.wide:
            sheet.text(column - 0.8, 0.1 + y, label, ha="right", weight=weight)
        else:
            sheet.text(0, y - 1.2, label, weight=weight, bbox=ground())
    axes.set_yticks([])
    few_ticks(axes, "x")
    without_frame(axes, grid="x")


def _scope(row: dict[str, Any]) -> str:
    """Return what a comparison is about: evaluation, queries, draws, candidates, chance."""
    chance = (
        "" if row["chance"] is None else f", chance {value_text(row['metric'], row['chance'])} %"
    )
    return (
        f"{evaluation_text(row['eval'])}: {row['n_queries']:,} queries over "
        f"{draws_text(row['n_seeds'])}, {among(row['direction'], row['gallery'])}{chance}"
    )


def _range(row: dict[str, Any]) -> str:
    if row["low"] is None or row["high"] is None:
        return ""
    low, high = (f"{round(100 * row[end], 1) + 0.0:.1f}" for end in ("low", "high"))
    return f" [{low}, {high}]".replace("-", "\N{MINUS SIGN}")


def controls_figure(
    rows: pl.DataFrame,
    table: pl.DataFrame,
    doses: pl.DataFrame,
    *,
    evaluation: str,
    method: str = METHOD,
) -> Figure | None:
    """Draw every draw of every control beside the head, and how accuracy answers to the doses.

    Parameters
    ----------
    rows : DataFrame
        Result rows, of whole heads.
    table : DataFrame
        Of `bench.tables.result_table`, whose means are drawn.
    doses : DataFrame
        Of `bench.doses.dose_table`; may be empty.
    evaluation, method : str
        The verdict's; the doses of this method are coloured.

    Returns
    -------
    Figure or None
        None where no control was run without real pairs.
    """
    asked = (
        (pl.col("eval") == evaluation) & (pl.col("direction") == DIRECTION)
        & (pl.col("n_pairs") == "0") & (pl.col("method") != "conse")
        & pl.col("source").is_in(["head", *CONTROL_NAMES])
    )  # fmt: skip
    runs = as_planned(rows.filter(asked & (pl.col("metric") == METRIC)))
    means = table.clear()
    if METRIC in table.columns:
        means = as_planned(whole_heads(table).filter(asked))
    beside = runs.filter(pl.col("source") != "head")
    methods = [m for m in dict.fromkeys(in_order(runs)["method"]) if m in set(beside["method"])]
    if not methods:
        return None
    order = {m: _mean_of(means, m, "head") or 0.0 for m in methods}
    methods.sort(key=lambda m: (m != method, -order[m]))
    sources = [s for s in ("head", *CONTROL_NAMES) if s in set(runs["source"])]
    data = _control_data(runs, means, methods, sources)
    data += _dose_data(doses.filter(pl.col("eval") == evaluation), methods)
    first = runs.row(0, named=True)
    caption = _controls_caption(data, methods, evaluation, first)

    def draw(sheet: Sheet) -> None:
        _draw_controls(sheet, data, methods, sources, method if method in methods else methods[0])

    written = pl.DataFrame(
        [
            {**{name: row[name] for name in ("method", "source", "dose", "level")},
             **{name: row[name] for name in ("mean", "low", "high")}, "draw": value}
            for row in data for value in (row["draws"] or [None])
        ],
        schema_overrides={"level": pl.Int64, "low": pl.Float64, "high": pl.Float64,
                          "draw": pl.Float64},
    )  # fmt: skip
    subtitle = (
        "Share of images whose own name ranks first, in percent; a dot a draw, a bar the mean."
    )
    title = _controls_title(data, among(DIRECTION, first["gallery"]))
    return Figure("controls", title, subtitle, caption, written, draw)


def _control_data(
    runs: pl.DataFrame, means: pl.DataFrame, methods: list[str], sources: list[str]
) -> list[dict[str, Any]]:
    """Return a row for every method and source: its mean, and each of its draws."""
    return [
        {
            "method": method, "source": source, "dose": "", "level": None,
            "mean": mean, "low": None, "high": None, "draws": sorted(values),
        }
        for method in methods
        for source in sources
        if len(values := _values(runs, method, source))
        and (mean := _mean_of(means, method, source)) is not None
    ]  # fmt: skip


def _dose_data(doses: pl.DataFrame, methods: list[str]) -> list[dict[str, Any]]:
    """Return a row for every level of the doses of these methods."""
    shown = doses.filter(pl.col("method").is_in(methods) & pl.col("dose").is_in(DOSES))
    return [
        {
            "method": row["method"], "source": "", "dose": row["dose"], "level": row["level"],
            "mean": row["value"], "low": row["low"], "high": row["high"], "draws": [],
        }
        for row in shown.filter(pl.col("direction") == DIRECTION).iter_rows(named=True)
    ]  # fmt: skip


def _controls_title(data: list[dict[str, Any]], pool: str) -> str:
    others = [row for row in data if row["source"] in CONTROL_NAMES]
    most = max(max(row["draws"]) for row in others)
    n_draws = sum(len(row["draws"]) for row in others)
    title = f"The best of {n_draws:,} control draws names {value_text(METRIC, most)} % of images"
    title += f" correctly {pool}"
    heads = {value_text(METRIC, row["mean"]) for row in data if row["source"] == "head"}
    if ends := sorted(heads, key=float):
        title += f", the head {' to '.join([ends[0], ends[-1]] if len(ends) > 1 else ends)} %"
    return f"{title}."


def _controls_caption(
    data: list[dict[str, Any]], methods: list[str], evaluation: str, first: dict[str, Any]
) -> str:
    parts = []
    for method in methods:
        numbers = [
            f"{'head' if row['source'] == 'head' else CONTROL_NAMES[row['source']]} "
            f"{value_text(METRIC, row['mean'])} ({len(row['draws'])})"
            for row in data
            if row["method"] == method and row["source"]
        ]
        parts.append(f"{method_title(method)}: {', '.join(numbers)}")
    below = " Below: means with 95 % intervals by level of each dose."
    return (
        f"{capital(METRIC)} of {way(DIRECTION)} in percent without real pairs, "
        f"{evaluation_text(evaluation)}, {among(DIRECTION, first['gallery'])}, chance "
        f"{value_text(METRIC, first['chance'])} %. Mean and, in brackets, number of draws. "
        f"{'; '.join(parts)}.{below if any(row['dose'] for row in data) else ''}"
    )


def _values(runs: pl.DataFrame, method: str, source: str) -> list[float]:
    """Return the value of every draw, a mean over the splits that it was scored on."""
    own = runs.filter((pl.col("method") == method) & (pl.col("source") == source))
    # What draws a control is the seed where no other draw is named.
    draw = pl.col("control_draw").fill_null(pl.col("seed")).alias("draw")
    return own.group_by(draw).agg(mean_over_queries("value"))["value"].to_list()


def _mean_of(means: pl.DataFrame, method: str, source: str) -> float | None:
    own = means.filter((pl.col("method") == method) & (pl.col("source") == source))
    return None if own.is_empty() else own[METRIC][0]


_SHORT_NAMES = {
    "head": "head rows",
    "random": "random rows",
    "random-cov": "random, same cov.",
    "shuffled": "names shuffled",
    "rotated": "head rotated",
}


def _draw_controls(
    sheet: Sheet,
    data: list[dict[str, Any]],
    methods: list[str],
    sources: list[str],
    shown: str,
) -> None:
    """Draw the draws of every method side by side, and below them a panel a dose."""
    step, column, gap = 1.9, 11.2, 1.4
    beside = min(len(methods), 3) if sheet.wide else 1
    rows = -(-len(methods) // beside)
    tall, head, foot = step * len(sources) + 0.3, 1.6, 3.6
    doses = [dose for dose in DOSES if any(row["dose"] == dose for row in data)]
    per_row = min(len(doses), 3 if sheet.wide else 1) or 1
    low, dose_rows = 9.0, -(-len(doses) // per_row)
    above = rows * (head + tall + foot)
    sheet.tall(above + dose_rows * (head + low + foot))
    own = (sheet.width - column - gap * beside) / beside
    most = 100 * max(max(row["draws"], default=0.0) for row in data)
    for place, method in enumerate(methods):
        across, down = place % beside, place // beside
        left, top = column + across * (own + gap), down * (head + tall + foot)
        axes = sheet.axes(left, top + head, own, tall)
        axes.set_xlim(-0.02 * most, 1.04 * most + 3.2 * most / own)
        axes.set_ylim(tall, 0)
        for y, source in enumerate(sources):
            at = step * (y + 0.5) + 0.15
            role, marker, _ = SOURCE_STYLES[source]
            if across == 0:
                sheet.text(column - 0.8, top + head + at, _SHORT_NAMES[source], ha="right")
            for row in data:
                if (row["method"], row["source"]) == (method, source):
                    ink, mean = colour(role), 100 * row["mean"]
                    draws = 100 * np.unique(row["draws"])
                    axes.plot(
                        draws, np.full(len(draws), at), marker, color=ink,
                        alpha=0.35, markersize=0.4 * sheet.em, markeredgewidth=0, linestyle="",
                    )  # fmt: skip
                    axes.plot([mean] * 2, [at - 0.55, at + 0.55], color=ink)
                    end = 100 * max(row["draws"]) + 0.7 * 1.1 * most / own
                    text = value_text(METRIC, row["mean"])
                    axes.text(end, at, text, color=ink, va="center", weight="bold", bbox=ground())
        axes.set_yticks([])
        few_ticks(axes, "x")
        without_frame(axes, grid="x")
        sheet.text(left, top + 0.6, method_title(method), weight="bold")
    width = (sheet.width - gap * (per_row - 1)) / per_row
    high = max((100 * (row["high"] or row["mean"]) for row in data if row["dose"]), default=1.0)
    for place, dose in enumerate(doses):
        across, down = place % per_row, place // per_row
        left, top = across * (width + gap), above + down * (head + low + foot)
        axes = sheet.axes(left + 3.0, top + head, width - 3.0 - 7.5, low)
        axes.set_ylim(0, 1.04 * high)
        _draw_dose(axes, [row for row in data if row["dose"] == dose], methods, shown, low)
        sheet.text(left, top + 0.6, capital(dose), weight="bold")
        sheet.text(
            left + 3.0 + (width - 10.5) / 2, top + head + low + 2.4,
            "clusters" if dose == "clusters of names" else "classes of the head", role="muted",
            ha="center",
        )  # fmt: skip


def _draw_dose(
    axes: Any, rows: list[dict[str, Any]], methods: list[str], shown: str, ems: float
) -> None:
    """Draw accuracy by level of a dose, a line a method, each named at its right end."""
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log")
    ends: list[tuple[float, str, str]] = []
    levels = sorted({row["level"] for row in rows})
    for method in methods:
        own = sorted((row for row in rows if row["method"] == method), key=lambda row: row["level"])
        if not own:
            continue
        role = "head" if method == shown else "muted"
        for row in own:
            if row["low"] is not None and row["high"] is not None:
                span = [100 * row["low"], 100 * row["high"]]
                axes.plot([row["level"]] * 2, span, color=colour(role), linewidth=1)
        mean = [100 * row["mean"] for row in own]
        axes.plot([row["level"] for row in own], mean, "o-", color=colour(role))
        ends.append((mean[-1], role, method_title(method)))
    scale = axes.get_ylim()[1] / ems
    places = spread([end for end, _, _ in ends], 1.25 * scale, 0.4 * scale)
    for (_, role, text), place in zip(ends, places, strict=True):
        axes.annotate(
            text, (1, place), (0.5, 0), xycoords=("axes fraction", "data"),
            textcoords="offset fontsize", color=colour(role), va="center", annotation_clip=False,
        )  # fmt: skip
    factor = (levels[-1] / levels[0]) ** 0.06 if len(levels) > 1 else 2
    axes.set_xlim(levels[0] / factor, levels[-1] * factor)
    ticks = [levels[0], levels[-1]] if len(levels) > 1 else levels
    axes.set_xticks(ticks, [f"{level:,}" for level in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    few_ticks(axes, "y")
    without_frame(axes, grid="y")


#: Classes that are named at either end of the strip.
_NAMED = 5


def head_rows_figure(found: Geometry, name: Callable[[str], str]) -> Figure:
    """Draw the cosine of every head row with its own name, sorted, beside those with other names.

    Parameters
    ----------
    found : Geometry
    name : callable
        Gives the text of a class_id.
    """
    head = found.head
    order = np.argsort(-np.array(head.cosines), kind="stable")
    cosines = np.array(head.cosines)[order]
    names = [name(head.ids[i]) for i in order]
    low, middle, high = head.other
    share = float((cosines > high).mean())
    title = (
        f"{100 * share:.0f} % of the head's {len(cosines):,} rows are closer to their own name "
        "than 95 % of other names are."
    )
    caption = (
        f"Cosine of each of {len(cosines):,} head rows with its own name, projected by a map that "
        f"has not seen it ({method_title(METHOD)}, penalty {found.penalty:.3g}): mean "
        f"{_plain(cosines.mean())}; with other names {_plain(middle)} in the median, 5 to 95 %: "
        f"{_plain(low)} to {_plain(high)}. A row is closer to its own name than to another one in "
        f"{100 * head.area:.1f} % of pairs; means of the images of a class, none of which is in "
        f"the fit, in {100 * found.images.area:.1f} % ({len(found.images.ids):,} classes)."
    )

    def draw(sheet: Sheet) -> None:
        _draw_strip(sheet, cosines, names, head)

    data = pl.DataFrame({"class": names, "cosine": cosines})
    return Figure(
        "head_rows",
        title,
        "Cosine of each head row with its own name, sorted; band: 90 % of the cosines with other "
        "names.",
        caption,
        data,
        draw,
    )


def _plain(number: float) -> str:
    return f"{round(float(number), 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}")


def _draw_strip(sheet: Sheet, cosines: Any, names: list[str], head: Side) -> None:
    """Draw sorted cosines as dots, and name those at either end beside them."""
    tall, column = (15.0, 14.0) if sheet.wide else (15.0, 8.5)
    sheet.tall(tall + 3.6)
    width = sheet.width - 3.6 - column
    axes = sheet.axes(3.6, 0.5, width, tall)
    n, (low, _, high) = len(cosines), head.other
    bottom, top = min(float(cosines.min()), low), max(float(cosines.max()), high)
    margin = 0.06 * (top - bottom)
    axes.set_ylim(bottom - margin, top + margin)
    axes.set_xlim(-0.01 * n, 1.01 * n)
    scale = (top - bottom + 2 * margin) / tall
    axes.axhspan(low, high, color=colour("muted"), alpha=0.2, linewidth=0)
    axes.text(0.01 * n, low + 0.7 * scale, "other names", color=colour("muted"), va="center")
    axes.axhline(0, color=colour("muted"), linewidth=0.8)
    axes.plot(np.arange(n) + 0.5, cosines, color=colour("head"), linewidth=0.25 * sheet.em)
    few = min(_NAMED, n // 2)
    room = width - 3.0
    best, worst = list(range(few)), list(range(n - few, n))
    style = {"color": colour("ink"), "va": "center", "annotation_clip": False}
    line = {"arrowstyle": "-", "color": colour("muted"), "linewidth": 0.6, "relpos": (0, 0.5),
            "shrinkA": 1, "shrinkB": 1}  # fmt: skip
    # The upper right of a falling curve is free: there the best are named, downwards from the top.
    ceiling = -(top + margin - 0.6 * scale)
    places = spread([-float(cosines[i]) for i in best], 1.25 * scale, ceiling)
    lowest = -max(places, default=0.0) - 0.8 * scale
    left = max(0.06 * n, 1.0 + float((cosines > lowest).sum()))
    end = left
    for i, y in zip(best, places, strict=True):
        where = (left, -y)
        text = f"{shortened(names[i], min(room, 20.0))} {_plain(cosines[i])}"
        axes.annotate(text, (i + 0.5, cosines[i]), where, arrowprops=line, **style)
        end = max(end, left + measured(text) * 1.02 * n / width)
    # Where the curve hardly falls, the names of the best reach to those of the worst.
    below = max(places, default=0.0) + 1.25 * scale if end > n else -math.inf
    places = spread([-float(cosines[i]) for i in worst], 1.25 * scale, below)
    for i, y in zip(worst, places, strict=True):
        where = (1.01 * n + 0.7 * 1.02 * n / width, -y)
        value = f" {_plain(cosines[i])}" if sheet.wide else ""
        text = f"{shortened(names[i], column - 1.1 - measured(value))}{value}"
        axes.annotate(text, (i + 0.5, cosines[i]), where, arrowprops=line, **style)
    ends = [1, n] if n > 1 else [n]
    axes.set_xticks([end - 0.5 for end in ends], [f"{end:,}" for end in ends])
    axes.set_xlabel("classes of the head, best first")
    few_ticks(axes, "y", "")
    without_frame(axes, grid="y")


def numbered(figures: Iterable[Figure | None]) -> list[Figure]:
    """Return the figures that there are with their numbers: those of one kind share one."""
    kept = [figure for figure in figures if figure is not None]
    kinds = list(dict.fromkeys(figure.kind for figure in kept))
    return [replace(figure, number=1 + kinds.index(figure.kind)) for figure in kept]


#: Widths of a paper: one column of two, and the page, in inches.
PAPER = {"column": 3.25, "page": 6.75}

#: What LaTeX reads as a command, and signs that its usual fonts lack.
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$",
    "#": r"\#", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "\N{NO-BREAK SPACE}": "~", "→": r"$\rightarrow$", "\N{MINUS SIGN}": "$-$", "±": r"$\pm$",
    "–": "--",
}  # fmt: skip


def paper_files(figures: Sequence[Figure]) -> dict[str, bytes]:
    """Return what a paper includes, by file name: drawings as PDF, and captions.

    Every figure has ``<name>_column.pdf`` and ``<name>_page.pdf``, see `PAPER`, without a title.
    Title, subtitle and caption are in ``captions.txt``, and in ``captions.tex`` as LaTeX.
    """
    files = {
        f"{figure.name}_{width}.pdf": figure.pdf(inches)
        for figure in figures
        for width, inches in PAPER.items()
    }
    plain, latex = [], []
    for figure in figures:
        text = f"{figure.subtitle} {figure.caption}"
        plain.append(f"{figure.name}\n{figure.title} {text}\n")
        latex.append(
            f"% {figure.name}\n\\caption{{\\textbf{{{_latex(figure.title)}}} {_latex(text)}}}\n"
            f"\\label{{fig:{figure.name}}}\n"
        )
    for ending, parts in (("txt", plain), ("tex", latex)):
        files[f"captions.{ending}"] = "\n".join(parts).encode("utf-8")
    return files


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)
