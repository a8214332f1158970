"""Curves of a report: accuracy against the number of real pairs, and against the mixing weight."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl

from bench.cells import CONTROLS, MIXED_NAMES, in_order, method_title, pairs_order, whole_heads
from bench.comparisons import LEVEL
from bench.geometry import METHOD
from bench.report.theme import (
    DASHED,
    DOTTED,
    SOURCE_STYLES,
    Figure,
    Sheet,
    capital,
    colour,
    draws_text,
    few_ticks,
    measured,
    spread,
    way,
    without_frame,
)
from bench.report.verdict import DIRECTION, METRIC, among
from bench.tables import p_text, signed_text, value_text

#: Direction and metric of the panels of the pairs curve: large ones, and small ones below them.
LARGE = (("image→name", "top-1"), ("image→name", "top-10"))
SMALL = (
    ("image→caption", "R@1"), ("image→caption", "R@10"),
    ("caption→image", "R@1"), ("caption→image", "R@10"),
)  # fmt: skip

#: Evaluations in which a number of real pairs can be drawn.
_WITH_PAIRS = ("held-out", "split")

#: Space that a line of text takes, in ems.
_LINE = 1.35


def pairs_figure(table: pl.DataFrame, comparisons: pl.DataFrame, method: str) -> Figure | None:
    """Draw accuracy against the number of real pairs for one method, with bands over draws.

    Parameters
    ----------
    table : DataFrame
        Of `bench.tables.result_table`.
    comparisons : DataFrame
        Of `bench.comparisons.compare`; says whether the head adds anything to real pairs.
    method : str

    Returns
    -------
    Figure or None
        None if no number of real pairs was run.
    """
    held = table.filter(pl.col("eval").is_in(_WITH_PAIRS) & (pl.col("method") == method))
    panels = [panel for panel in (*LARGE, *SMALL) if _has(held, *panel)]
    if not panels or held.filter(pl.col("n_pairs") != "0").is_empty():
        return None
    positions = Positions.of(held)
    large = [panel for panel in LARGE if panel in panels]
    small = [panel for panel in SMALL if panel in panels]
    if not large:
        large, small = small[:2], small[2:]
    gain = _gain_over_pairs(comparisons, method, *large[0])
    lines = {panel: curve_lines(table, method, *panel) for panel in panels}
    data = [row for panel in panels for row in lines[panel]]

    def draw(sheet: Sheet) -> None:
        _draw_pairs_figure(sheet, lines, large, small, positions, gain)

    title, name = method_title(method), positions.counts
    direction, metric = large[0]
    return Figure(
        "accuracy_by_pairs",
        f"{_pairs_title(title, gain, lines[large[0]], name, metric)}, {_pool(held, direction)}.",
        f"{title}: percent of queries whose right answer is first or among the first ten, by the "
        "number of real pairs; bands: one standard deviation over draws; dotted: chance.",
        _pairs_caption(title, held, lines[large[0]], direction, metric, name),
        pl.DataFrame(data),
        draw,
        method=method,
    )


def _gain_over_pairs(
    comparisons: pl.DataFrame, method: str, direction: str, metric: str
) -> dict[str, Any] | None:
    """Return what the head adds to the largest number of real pairs, if that was compared."""
    own = whole_heads(comparisons).filter(
        (pl.col("comparison") == "over-real") & (pl.col("source") == "head")
        & (pl.col("method") == method) & pl.col("eval").is_in(_WITH_PAIRS)
        & (pl.col("direction") == direction) & (pl.col("metric") == metric)
        & (pl.col("n_pairs") != "0")
    )  # fmt: skip
    return None if own.is_empty() else in_order(own).row(-1, named=True)


def _side(gain: dict[str, Any] | None) -> str:
    """Return on which side of zero an interval and its test are; empty if on neither."""
    if gain is None or (p := _corrected(gain)[0]) is None or p >= LEVEL:
        return ""
    higher, lower = (gain["low"] or 0.0) > 0, (gain["high"] or 0.0) < 0
    return "higher" if higher else "lower" if lower else ""


def _corrected(gain: dict[str, Any]) -> tuple[float | None, str]:
    """Return p as it may be read: corrected where the comparison was named beforehand."""
    if gain["p_holm"] is None:
        return gain["p"], "exploratory"
    return gain["p_holm"], "Holm"


def _pool(held: pl.DataFrame, direction: str) -> str:
    own = held.filter(pl.col("direction") == direction)
    return among(direction, own["gallery"][0])


def _pairs_title(
    title: str,
    gain: dict[str, Any] | None,
    lines: list[dict[str, Any]],
    counts: dict[str, str],
    metric: str,
) -> str:
    if gain is None:
        best = max((row for row in lines if row["source"] != ""), key=lambda row: row["mean"])
        return (
            f"{title} reaches at most {value_text(metric, best['mean'])} % {metric} "
            f"({best['line']}, {counts[best['n_pairs']]} pairs)"
        )
    both = value_text(metric, gain["a"]), value_text(metric, gain["b"])
    numbers = f"{both[0]} % {metric} with it, {both[1]} % without"
    said = "no difference by the head is shown"
    if side := _side(gain):
        moved = signed_text(gain["difference"]).lstrip("+\N{MINUS SIGN}")
        pool = " for this pool of pairs" if "this pool" in gain["population"] else ""
        said = f"the head is {moved} points {side}{pool}"
        p, how = _corrected(gain)
        said += f" (p {p_text(p)}, {how})"
    return f"With {counts[gain['n_pairs']]} real pairs {said}: {numbers}"


def _pairs_caption(
    title: str,
    held: pl.DataFrame,
    lines: list[dict[str, Any]],
    direction: str,
    metric: str,
    counts: dict[str, str],
) -> str:
    own = held.filter(pl.col("direction") == direction)
    first = own.row(0, named=True)
    parts = []
    for source, name in (("head", "with the head"), ("none", "real pairs alone")):
        numbers = [
            f"{value_text(metric, row['mean'])} at {counts[row['n_pairs']]}"
            for row in lines
            if row["source"] == source
        ]
        if numbers:
            parts.append(f"{name} {', '.join(numbers)}")
    controls = [row["mean"] for row in lines if row["source"] in CONTROLS]
    if controls:
        ends = value_text(metric, min(controls)), value_text(metric, max(controls))
        parts.append(f"controls in place of the head from {ends[0]} to {ends[1]}")
    parts += [
        f"{row['line']} {value_text(metric, row['mean'])}" for row in lines if not row["source"]
    ]
    return (
        f"{title}: {metric} of {way(direction)} in percent, mean over "
        f"{draws_text(first['n_seeds'])}, {_pool(held, direction)}; {'; '.join(parts)}."
    )


@dataclass(frozen=True)
class Positions:
    """Where each number of pairs lies on the logarithmic axis; 0 is left of a break.

    Attributes
    ----------
    at : dict
        Number of pairs → place.
    counts : dict
        Number of pairs → how many images these are, as text.
    broken : float
        Place of the break.
    """

    at: dict[str, float]
    counts: dict[str, str]
    broken: float

    @classmethod
    def of(cls, held: pl.DataFrame) -> Positions:
        """Return the places of the numbers of pairs in a result table."""
        fitted = {
            str(k): float(n)
            for k, n in held.filter(pl.col("n_pairs") != "0")
            .group_by("n_pairs", maintain_order=True)
            .agg(pl.col("n_images_fitted").mean())
            .iter_rows()
        }
        at = {k: float(np.log2(n)) for k, n in fitted.items()}
        first = min(at.values())
        at["0"] = first - 1.6
        counts = {k: f"{fitted[k]:,.0f}" if k == "all" else k for k in fitted} | {"0": "0"}
        return cls(at, counts, first - 0.8)

    @property
    def last(self) -> str:
        """The largest number of pairs."""
        return max(self.at, key=lambda k: self.at[k])

    @property
    def limits(self) -> tuple[float, float]:
        """Ends of the axis."""
        return self.at["0"] - 0.35, max(self.at.values()) + 0.3

    def on(self, axes: Any, ems: float | None = None) -> None:
        """Put the axis below axes that are so many ems wide; what collides has no number.

        The last number and 0 always stand.
        """
        axes.set_xlim(*self.limits)
        places = sorted(self.at, key=lambda k: -self.at[k])
        kept: dict[str, str] = {}
        scale = (ems or 1e9) / (self.limits[1] - self.limits[0])
        for k in [places[0], places[-1], *places[1:-1]]:
            free = all(
                scale * abs(self.at[k] - self.at[other])
                > (measured(self.counts[k]) + measured(text)) / 2 + 0.5
                for other, text in kept.items()
            )
            if free:
                kept[k] = self.counts[k]
        axes.set_xticks(list(self.at.values()), [kept.get(k, "") for k in self.at])
        # Two short strokes say that the axis is broken between 0 and the first number.
        for shift in (-0.09, 0.09):
            axes.plot(
                [self.broken + shift - 0.07, self.broken + shift + 0.07], [-0.02, 0.02],
                transform=axes.get_xaxis_transform(), color=colour("muted"), linewidth=1,
                clip_on=False,
            )  # fmt: skip


def curve_lines(
    table: pl.DataFrame, method: str, direction: str, metric: str
) -> list[dict[str, Any]]:
    """Return one metric of a method by number of real pairs: a row a source and number, and levels.

    Rows of a level (ConSE, chance) have an empty source.
    """
    here = table.filter(
        pl.col("eval").is_in(_WITH_PAIRS) & (pl.col("direction") == direction)
        & pl.col(metric).is_not_null()
    )  # fmt: skip
    rows = []
    for source in ("head", "none", *CONTROLS):
        if source in SOURCE_STYLES:
            own = here.filter((pl.col("method") == method) & (pl.col("source") == source))
            rows += [(source, MIXED_NAMES[source], row) for row in in_order(own).to_dicts()]
    for name, label in (("conse", "ConSE"), ("chance", "chance")):
        own = here.filter(pl.col("method") == name)
        rows += [("", label, row) for row in own.head(1).to_dicts()]
    return [
        {
            "direction": direction, "metric": metric, "line": label, "source": source,
            "n_pairs": row["n_pairs"] if source else "0",
            "mean": row[metric], "sd": row[f"{metric}_sd"] or 0.0,
        }
        for source, label, row in rows
    ]  # fmt: skip


def draw_pairs(
    axes: Any, table: pl.DataFrame, method: str, direction: str, metric: str, at: Positions
) -> None:
    """Draw one metric of a method against the number of real pairs on axes of one's own.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    table : DataFrame
        Of `bench.tables.result_table`.
    method, direction, metric : str
    at : Positions
        Where the numbers of pairs lie.
    """
    lines = curve_lines(table, method, direction, metric)
    sources = [s for s in dict.fromkeys(row["source"] for row in lines) if s]
    for source in reversed(sources):
        _curve(axes, lines, source, at, label=MIXED_NAMES[source])
    _levels(axes, lines)
    _from_zero(axes, lines)
    at.on(axes)
    without_frame(axes, grid="y")


def _curve(
    axes: Any, lines: Iterable[dict[str, Any]], source: str, at: Positions, *, label: str = ""
) -> None:
    """Draw the means of a source as a line, with a band of one standard deviation."""
    own = [row for row in lines if row["source"] == source]
    role, marker, dash = SOURCE_STYLES[source]
    x = np.array([at.at[row["n_pairs"]] for row in own])
    mean = 100 * np.array([row["mean"] for row in own])
    sd = 100 * np.array([row["sd"] for row in own])
    axes.fill_between(x, mean - sd, mean + sd, color=colour(role), alpha=0.15, linewidth=0)
    axes.plot(x, mean, color=colour(role), marker=marker, linestyle=dash, label=label or None)


def _levels(axes: Any, lines: Iterable[dict[str, Any]]) -> None:
    for row in lines:
        if not row["source"]:
            role, dash = ("conse", DASHED) if row["line"] == "ConSE" else ("muted", DOTTED)
            axes.axhline(
                100 * row["mean"], color=colour(role), linestyle=dash, label=row["line"], zorder=1.5
            )


def _from_zero(axes: Any, lines: Iterable[dict[str, Any]]) -> None:
    most = max(100 * (row["mean"] + row["sd"]) for row in lines)
    axes.set_ylim(0, 1.04 * most or 1.0)


def _controls_band(axes: Any, lines: Iterable[dict[str, Any]], at: Positions) -> float | None:
    """Draw the range of all controls as one band; return the middle of its right end."""
    ranges: dict[str, list[float]] = {}
    for row in lines:
        if row["source"] in CONTROLS:
            ranges.setdefault(row["n_pairs"], []).append(100 * row["mean"])
    if not ranges:
        return None
    keys = sorted(ranges, key=lambda k: at.at[k])
    x = [at.at[k] for k in keys]
    low, high = [min(ranges[k]) for k in keys], [max(ranges[k]) for k in keys]
    axes.fill_between(x, low, high, color=colour("muted"), alpha=0.3, linewidth=0)
    for edge in (low, high):
        axes.plot(x, edge, color=colour("muted"), linewidth=0.7, marker="_")
    return (low[-1] + high[-1]) / 2


def _draw_pairs_figure(
    sheet: Sheet,
    lines: dict[tuple[str, str], list[dict[str, Any]]],
    large: list[tuple[str, str]],
    small: list[tuple[str, str]],
    at: Positions,
    gain: dict[str, Any] | None,
) -> None:
    """Draw large panels with direct labels, and small ones below; a row shares its y axis."""
    columns, beside = (2, 4) if sheet.wide else (1, 2)
    tall, low = (13.5, 8.5) if sheet.wide else (11.0, 7.5)
    head, foot, gap = 2.6, 3.4, 1.2
    rows = -(-len(large) // columns), -(-len(small) // beside)
    sheet.tall(rows[0] * (head + tall + foot) + rows[1] * (head + low + foot) + gap * bool(small))
    labels = {panel: _end_labels(lines[panel], at, panel[1]) for panel in large}
    widths = [measured(text) for own in labels.values() for _, _, text in own.values()]
    label = max(11.0, 2.0 + max(widths, default=0.0))
    for place, panel in enumerate(large):
        row, column = divmod(place, columns)
        own = (sheet.width - gap * (columns - 1)) / columns
        left, top = column * (own + gap) + 3.2, row * (head + tall + foot)
        axes = sheet.axes(left, top + head, own - 3.2 - label, tall)
        _from_zero(axes, [line for other in large for line in lines[other]])
        _panel(sheet, axes, lines[panel], at, own - 3.2 - label, _heading(panel), (left - 3.2, top))
        _line_ends(axes, labels[panel], at, tall)
        if place == 0 and gain is not None and _side(gain) == "higher":
            _bracket(axes, gain, lines[panel], at, tall)
        sheet.text(left + (own - 3.2 - label) / 2, top + head + tall + 2.5, "real pairs, log scale",
                   role="muted", ha="center")  # fmt: skip
    offset = rows[0] * (head + tall + foot) + gap
    for place, panel in enumerate(small):
        row, column = divmod(place, beside)
        own = (sheet.width - gap * (beside - 1)) / beside
        left, top = column * (own + gap), offset + row * (head + low + foot)
        margin = 3.2 if column == 0 or sheet.wide else 2.6
        axes = sheet.axes(left + margin, top + head, own - margin - 0.4, low)
        _from_zero(axes, [line for other in small for line in lines[other]])
        _panel(
            sheet, axes, lines[panel], at, own - margin - 0.4,
            _heading(panel, short=not sheet.wide), (left, top),
        )  # fmt: skip
        sheet.text(left + margin + (own - margin - 0.4) / 2, top + head + low + 2.5, "real pairs",
                   role="muted", ha="center")  # fmt: skip


def _heading(panel: tuple[str, str], *, short: bool = False) -> str:
    direction, metric = panel
    if short:
        return f"→ {direction.split('→')[-1]} {metric}"
    return f"{way(direction)}, {metric}"


def _panel(
    sheet: Sheet,
    axes: Any,
    lines: list[dict[str, Any]],
    at: Positions,
    ems: float,
    heading: str,
    corner: tuple[float, float],
) -> None:
    _levels(axes, lines)
    _controls_band(axes, lines, at)
    for source in ("none", "head"):
        if any(row["source"] == source for row in lines):
            _curve(axes, lines, source, at)
    at.on(axes, ems)
    few_ticks(axes, "y")
    without_frame(axes, grid="y")
    sheet.text(corner[0], corner[1] + 0.7, heading, weight="bold")


def _end_labels(
    lines: list[dict[str, Any]], at: Positions, metric: str
) -> dict[str, tuple[str, float, str]]:
    """Return for every role where its line ends: number of pairs, value, and what is said of it."""
    last: dict[str, tuple[str, float, str]] = {}
    for source, name in (("head", "with head"), ("none", "pairs alone")):
        for row in lines:
            if row["source"] == source:
                text = f"{name} {value_text(metric, row['mean'])}"
                last[SOURCE_STYLES[source][0]] = (row["n_pairs"], 100 * row["mean"], text)
    controls = [row for row in lines if row["source"] in CONTROLS]
    if controls:
        most = max(controls, key=lambda row: at.at[row["n_pairs"]])["n_pairs"]
        ends = [100 * row["mean"] for row in controls if row["n_pairs"] == most]
        texts = sorted({f"{end:.1f}" for end in (min(ends), max(ends))}, key=float)
        middle = float(np.mean([min(ends), max(ends)]))
        last["muted"] = (most, middle, f"controls {'–'.join(texts)}")
    final = at.last
    for row in lines:
        if row["line"] == "ConSE":
            # It reads no pair: the same at every number of them.
            last["conse"] = (final, 100 * row["mean"], f"ConSE {value_text(metric, row['mean'])}")
    return {
        role: (k, value, text if k == final else f"{text} at {at.counts[k]}")
        for role, (k, value, text) in last.items()
    }


def _line_ends(
    axes: Any, labels: dict[str, tuple[str, float, str]], at: Positions, ems: float
) -> None:
    """Write name and last value of every line beside the axes, spread so that none overlap.

    Each is joined to its line at the number of pairs that the value is of.
    """
    right = at.limits[1]
    scale = axes.get_ylim()[1] / ems
    places = spread([value for _, value, _ in labels.values()], 1.25 * scale, 0.4 * scale)
    for (role, (k, value, text)), y in zip(labels.items(), places, strict=True):
        where = right if k == at.last else at.at[k]
        axes.annotate(
            text, (where, value), (right + 0.06 * (right - at.limits[0]), y),
            color=colour(role), va="center", annotation_clip=False,
            weight="bold" if role == "head" else "normal",
            arrowprops={"arrowstyle": "-", "color": colour(role), "linewidth": 0.6,
                        "shrinkA": 1, "shrinkB": 0, "relpos": (0, 0.5)},
        )  # fmt: skip


def _bracket(
    axes: Any, gain: dict[str, Any], lines: list[dict[str, Any]], at: Positions, ems: float
) -> None:
    """Say between two line ends by how much the head's lies higher, where there is room."""
    low, high = 100 * gain["b"], 100 * gain["a"]
    band = sum(
        100 * row["sd"]
        for row in lines
        if (row["source"], row["n_pairs"]) == ("head", gain["n_pairs"])
    )
    conse = [100 * row["mean"] for row in lines if row["line"] == "ConSE"]
    edges = [low, *(level for level in conse if low < level < high - band), high - band]
    rooms = [(above - below, (above + below) / 2) for below, above in pairwise(edges)]
    room, middle = max(rooms)
    if room * ems / axes.get_ylim()[1] < _LINE:
        return
    x = at.at[gain["n_pairs"]] - 0.16
    ink = colour("ink")
    axes.annotate(
        "", (x, low), (x, high),
        arrowprops={"arrowstyle": "<->", "color": ink, "linewidth": 0.9, "shrinkA": 3,
                    "shrinkB": 3},
    )  # fmt: skip
    axes.text(
        x - 0.12, middle, f"{signed_text(gain['difference'])} points", color=ink,
        ha="right", va="center", weight="bold",
    )  # fmt: skip


def _has(held: pl.DataFrame, direction: str, metric: str) -> bool:
    return (
        metric in held.columns
        and not held.filter(
            (pl.col("direction") == direction) & pl.col(metric).is_not_null()
        ).is_empty()
    )


def mixing_figure(fixed: pl.DataFrame, chosen: pl.DataFrame) -> Figure | None:
    """Draw accuracy against the mixing weight, one panel a number of real pairs.

    Parameters
    ----------
    fixed : DataFrame
        Result rows with fixed mixing weights, as a sweep makes them.
    chosen : DataFrame
        Result rows of the same images with the weight chosen by the fit, and of the head alone. Of
        them the seeds of `fixed` are drawn.

    Returns
    -------
    Figure or None
        None where fewer than two mixing weights were run. Of several penalties the middle one is
        drawn: choosing the best would be a choice made on what is scored.
    """
    asked = (
        (pl.col("method") == METHOD) & (pl.col("direction") == DIRECTION)
        & (pl.col("metric") == METRIC)
    )  # fmt: skip
    rows = fixed.filter(
        asked & (pl.col("mix") != "auto") & (pl.col("penalty") != "auto")
        & (pl.col("n_pairs") != "0")
    ).with_columns(pl.col("mix").cast(pl.Float64), pl.col("penalty").cast(pl.Float64))  # fmt: skip
    mixed = rows.filter(pl.col("source") != "none")
    if rows.is_empty() or mixed["mix"].n_unique() < 2:
        return None
    penalties = sorted(set(rows["penalty"]))
    penalty = penalties[len(penalties) // 2]
    rows = rows.filter(pl.col("penalty") == penalty)
    keys = sorted(set(mixed["n_pairs"]), key=pairs_order)
    own = chosen.filter(
        asked & (pl.col("source") == "head") & (pl.col("mix") == "auto")
        & pl.col("eval").is_in(set(rows["eval"])) & pl.col("seed").is_in(set(rows["seed"]))
    )  # fmt: skip
    panels = [_mixing_lines(rows, own, k) for k in keys]
    counts = {
        k: f"{n:,.0f}"
        for k, n in rows.group_by("n_pairs").agg(pl.col("n_images_fitted").mean()).iter_rows()
    }
    data = pl.DataFrame([row for panel in panels for row in panel], infer_schema_length=None)
    best = {k: max(_fixed(panel)) for k, panel in zip(keys, panels, strict=True)}
    auto = {row["n_pairs"]: row["mean"] for row in data.to_dicts() if row["line"] == _AUTO}
    title = _mixing_title(dict(zip(keys, panels, strict=True)), best, auto)
    title += f", {among(DIRECTION, rows['gallery'][0])}."
    seeds = rows["seed"].n_unique()
    weights = own.filter(pl.col("n_pairs") != "0")["mix_chosen"].drop_nulls()
    how = ""
    if auto:
        how = (
            " Ticks below: the weight that each draw chose."
            if len(weights)
            else " The automatic choice has no single weight: it corrects the map of the head by "
            "the real pairs and averages the fits by how well they rank held-out training pairs."
        )
    parts = []
    for k in keys:
        text = f"{counts[k]} pairs: best fixed weight {value_text(METRIC, best[k])}"
        parts.append(text + (f", automatic {value_text(METRIC, auto[k])}" if k in auto else ""))
    caption = (
        f"{method_title(METHOD)}, {METRIC} of {way(DIRECTION)} in percent, mean over "
        f"{draws_text(seeds)}, penalty {penalty:g} for fixed weights, "
        f"{among(DIRECTION, rows['gallery'][0])}. {'; '.join(parts)}.{how}"
    )

    def draw(sheet: Sheet) -> None:
        _draw_mixing(sheet, panels, [counts[k] for k in keys])

    return Figure(
        "accuracy_by_mix",
        title,
        f"{capital(METRIC)} in percent of images, by the weight of one class against one real "
        "image; bands: one standard deviation over draws.",
        caption,
        data,
        draw,
        method=METHOD,
    )


#: Lines of the mixing curve, and how they are drawn.
_FIXED, _AUTO, _RANDOM = "with head, weight fixed", "automatic", "with random rows"
_HEAD_ALONE, _PAIRS_ALONE = "head alone", "pairs alone"
_MIXING_STYLES: dict[str, tuple[str, str, Any]] = {
    _FIXED: ("head", "o", "-"),
    _AUTO: ("head", "", "-"),
    _HEAD_ALONE: ("head", "", DOTTED),
    _PAIRS_ALONE: ("real", "", DASHED),
    _RANDOM: ("random", "^", "-"),
}


def _mixing_lines(rows: pl.DataFrame, own: pl.DataFrame, k: str) -> list[dict[str, Any]]:
    """Return the lines of a panel: of the weights, and levels without one, pooled over draws."""
    here = rows.filter(pl.col("n_pairs") == k)
    found = [
        (_FIXED, here.filter(pl.col("source") == "head")),
        (_RANDOM, here.filter(pl.col("source") == "random")),
        (_PAIRS_ALONE, here.filter(pl.col("source") == "none").with_columns(mix=None)),
        (_AUTO, own.filter(pl.col("n_pairs") == k).with_columns(mix=None)),
        (_HEAD_ALONE, own.filter(pl.col("n_pairs") == "0").with_columns(mix=None)),
    ]
    lines = []
    for line, frame in found:
        pooled = frame.group_by("mix").agg(
            ((pl.col("value") * pl.col("n_queries")).sum() / pl.col("n_queries").sum())
            .alias("mean"),
            pl.col("value").std(ddof=1).fill_null(0.0).alias("sd"),
            pl.col("mix_chosen").drop_nulls().alias("chosen"),
        )  # fmt: skip
        for row in pooled.sort("mix").iter_rows(named=True):
            weights = " ".join(f"{w:g}" for w in sorted(row["chosen"])) if line == _AUTO else ""
            lines.append(
                {
                    "n_pairs": k, "line": line,
                    "mix": None if row["mix"] is None else float(row["mix"]),
                    "mean": row["mean"], "sd": row["sd"], "chosen": weights,
                }
            )  # fmt: skip
    return lines


def _draw_mixing_lines(axes: Any, panel: list[dict[str, Any]], names: list[str]) -> None:
    """Draw levels without a weight as lines across, and means at fixed weights with their bands."""
    for name in names:
        role, marker, dash = _MIXING_STYLES[name]
        ink = colour(role)
        lines = [line for line in panel if line["line"] == name]
        for line in lines:
            if line["mix"] is None:
                axes.axhline(100 * line["mean"], color=ink, linestyle=dash)
        if fixed := [line for line in lines if line["mix"] is not None]:
            x = np.log10([line["mix"] for line in fixed])
            mean = 100 * np.array([line["mean"] for line in fixed])
            sd = 100 * np.array([line["sd"] for line in fixed])
            axes.fill_between(x, mean - sd, mean + sd, color=ink, alpha=0.15, linewidth=0)
            axes.plot(x, mean, color=ink, marker=marker, linestyle=dash)


def _fixed(panel: list[dict[str, Any]]) -> list[float]:
    """Return the means at fixed weights."""
    return [row["mean"] for row in panel if row["line"] == _FIXED]


def _mixing_title(
    panels: dict[str, list[dict[str, Any]]], best: dict[str, float], auto: dict[str, float]
) -> str:
    if not auto:
        most = max(best[k] - min(_fixed(panel)) for k, panel in panels.items())
        return f"The mixing weight moves mean {METRIC} by up to {100 * most:.1f} points"
    short = max(best[k] - auto[k] for k in auto)
    if short <= 0:
        return f"No fixed weight had a higher mean {METRIC} than the automatic one"
    return (
        f"Mean {METRIC} of the automatic weight was at most {100 * short:.1f} points below that of "
        "the best fixed one"
    )


def _draw_mixing(sheet: Sheet, panels: list[list[dict[str, Any]]], counts: list[str]) -> None:
    present = dict.fromkeys(line["line"] for panel in panels for line in panel)
    entries = [(name, *style) for name, style in _MIXING_STYLES.items() if name in present]
    columns = min(len(panels), 4 if sheet.wide else 2)
    tall, head, foot, gap = (11.0 if sheet.wide else 8.0), 1.9, 2.0, 1.8
    rows = -(-len(panels) // columns)
    top = sheet.key_height(entries)
    sheet.tall(top + rows * (head + tall + foot) + 1.6)
    sheet.key(entries)
    most = max(100 * (line["mean"] + line["sd"]) for panel in panels for line in panel)
    own = (sheet.width - 3.9 - gap * (columns - 1)) / columns
    for place, panel in enumerate(panels):
        row, column = divmod(place, columns)
        left, at = 3.0 + column * (own + gap), top + row * (head + tall + foot)
        axes = sheet.axes(left, at + head, own, tall)
        axes.set_ylim(0, 1.04 * most)
        _draw_mixing_lines(axes, panel, [*reversed(present)])
        weights = sorted({line["mix"] for line in panel if line["mix"] is not None})
        kept = weights if own > 2.6 * len(weights) else weights[::2]
        axes.set_xticks(
            [float(np.log10(w)) for w in weights], [f"{w:g}" if w in kept else "" for w in weights]
        )
        for weight in (float(word) for line in panel for word in line["chosen"].split()):
            axes.plot([np.log10(weight)] * 2, [0, 0.04 * most], color=colour("head"))
        few_ticks(axes, "y")
        axes.tick_params(labelleft=not column)
        without_frame(axes, grid="y")
        sheet.text(left, at + 0.7, f"{counts[place]} real pairs", weight="bold")
    sheet.text(
        3.0 + (sheet.width - 3.0) / 2, top + rows * (head + tall + foot) + 0.8,
        "weight of one class against one real image" if sheet.wide else "weight of a class",
        role="muted", ha="center",
    )  # fmt: skip
