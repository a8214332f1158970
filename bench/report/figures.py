"""Figures of a report, with the sentences that are made from their numbers.

A figure is drawn once, in the light palette, and matplotlib lays it out. On the page its colours
become CSS variables, so that the browser paints them for either mode. Hues can be distinguished in
all common forms of colour blindness, and every role has its own marker and dash as well.
"""

from __future__ import annotations

import base64
import io
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from typing import Any

import numpy as np
import polars as pl

from bench.cells import (
    CONTROLS,
    in_order,
    method_title,
    pairs_order,
    source_name,
    whole_heads,
)
from bench.report.verdict import DIRECTION, METRIC, among, as_planned
from bench.tables import comma_separated, pairs_text, value_text
from featstore.errors import needs_extra


@dataclass(frozen=True)
class Ink:
    """A role's colours on paper, in which it is drawn and which nothing else has, and on dark."""

    light: str
    dark: str


INKS: dict[str, Ink] = {
    "paper": Ink("#fcfbf8", "#14161a"),
    "ink": Ink("#1c1e22", "#e9e7e2"),
    "muted": Ink("#63666d", "#a2a4a9"),
    "rule": Ink("#e3e0d8", "#30343a"),
    "head": Ink("#0a5ea8", "#6fb7f5"),
    "real": Ink("#4d5057", "#c3c5c9"),
    "random": Ink("#bd5206", "#f2a65a"),
    "random-cov": Ink("#8a6d00", "#d9c15a"),
    "shuffled": Ink("#9c4a8b", "#dc9fce"),
    "conse": Ink("#0b7657", "#55c9a6"),
    "rotated": Ink("#7a5c3a", "#c9a987"),
}

#: Role and marker of each source of pairs.
SOURCE_STYLES: dict[str, tuple[str, str]] = {
    "head": ("head", "o"),
    "none": ("real", "s"),
    "random": ("random", "^"),
    "random-cov": ("random-cov", "v"),
    "shuffled": ("shuffled", "D"),
    "rotated": ("rotated", "P"),
}


def css_variables() -> str:
    """Return a sheet of the colours of all roles, on paper and on a dark screen."""
    light, dark = (
        " ".join(f"--{role}: {getattr(ink, mode)};" for role, ink in INKS.items())
        for mode in ("light", "dark")
    )
    return f":root{{{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"


def colour(role: str) -> str:
    """Return the colour that a role is drawn in."""
    return INKS[role].light


DASHED, DOTTED = (0, (4, 2)), (0, (1, 2))

#: CSS pixels, which are the points of a drawing: of text, and of a figure's width.
TEXT, WIDE = 13.0, 760.0

#: How every figure looks. Text is kept as text, and nothing depends on the date.
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "headstock",
    "pdf.fonttype": 42,
    "text.parse_math": False,  # a name with dollars is no formula
    "text.color": colour("ink"),
    "font.family": "DejaVu Sans",
    "font.size": TEXT,
    "axes.titlesize": TEXT,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": TEXT,
    "axes.edgecolor": colour("muted"),
    "axes.labelcolor": colour("muted"),
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "figure.constrained_layout.w_pad": 0.1,
    "figure.constrained_layout.hspace": 0.06,
    "xtick.color": colour("muted"),
    "ytick.color": colour("muted"),
    "ytick.major.size": 0,
    "grid.color": colour("rule"),
    "lines.linewidth": 2.0,
    "lines.markersize": 6.5,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.1,
}


@dataclass(frozen=True, repr=False)
class Figure:
    """A figure: its words, its numbers, and its drawing.

    Attributes
    ----------
    kind : str
        Which figure of a report; also how the names of its files begin.
    title : str
        What it shows, in a sentence made from the data.
    subtitle : str
        What is drawn and its unit.
    caption : str
        What a reader needs to quote it, in one sentence; also read in place of the picture.
    data : DataFrame
        What is drawn, unrounded.
    draw : callable
        Draws it on a `matplotlib.figure.Figure`.
    height : float
        In CSS pixels.
    method : str
        Name of the method that it is about; empty if it is about several.
    number : int
        In the order of the page; 0 before a page has numbered it.
    width : float
        In CSS pixels, at which text has 13.
    """

    kind: str
    title: str
    subtitle: str
    caption: str
    data: pl.DataFrame
    draw: Callable[[Any], None]
    height: float
    method: str = ""
    number: int = 0
    width: float = WIDE

    @property
    def name(self) -> str:
        """File name without its ending: the kind, and the method where it is about one."""
        # A name that a user registered may hold what a file's name may not.
        return re.sub(r"[^\w-]", "_", f"{self.kind}_{self.method}" if self.method else self.kind)

    @property
    def label(self) -> str:
        """``Figure 3``, or ``Figure`` without a number."""
        return f"Figure {self.number}" if self.number else "Figure"

    def inline(self) -> str:
        """Return the drawing as a part of a page, in its CSS variables; ids begin with the name."""
        svg = self._saved("svg", {"Date": None}).decode("utf-8")
        body = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
        # matplotlib's style element would reach the whole page; the page's own sheet has its rule.
        body = re.sub(r"<style.*?</style>", "", body, count=1, flags=re.DOTALL)
        body = re.sub(r' (width|height)="[\d.]+pt"', "", body, count=2)
        body = re.sub(r'\bid="|(href="#|url\(#)', rf"\g<0>{self.name}-", body)
        for role, ink in INKS.items():
            body = body.replace(ink.light, f"var(--{role})")
        words = (
            f'<title id="{self.name}-title">{escape(self.title)}</title>'
            f'<desc id="{self.name}-text">{escape(self.caption)}</desc>'
        )
        opening = f'<svg role="img" style="min-width: {0.93 * self.width:g}px" '
        opening += f'aria-labelledby="{self.name}-title" aria-describedby="{self.name}-text" '
        end = body.index(">") + 1
        return f"{opening}{body[len('<svg ') : end]}{words}{body[end:]}"

    def png(self) -> bytes:
        """Return the drawing as a picture on white."""
        return self._saved("png", {"Software": None}, facecolor="white")

    def links(self) -> dict[str, str]:
        """Return what a page holds to be saved, as addresses by ending: picture and numbers."""
        csv = comma_separated(self.data).encode("utf-8")
        return {"png": data_uri("image/png", self.png()), "csv": data_uri("text/csv", csv)}

    def pdf(self) -> bytes:
        """Return the drawing as a PDF without words: TrueType fonts embedded, and no date."""
        return self._saved("pdf", {"CreationDate": None, "Creator": None, "Producer": None})

    @cached_property
    @needs_extra("A figure")
    def drawing(self) -> Any:
        """The drawing as a `matplotlib.figure.Figure`, laid out once for all its files."""
        from matplotlib.figure import Figure as Drawing
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        drawing = Drawing(figsize=(self.width / 72, self.height / 72))
        self.draw(drawing)
        # Of a figure with an engine every file would be laid out, and drawn, twice.
        ConstrainedLayoutEngine().execute(drawing)
        return drawing

    def __repr__(self) -> str:
        return f"{self.label}: {self.title}"

    def _repr_png_(self) -> bytes:
        return self.png()

    @needs_extra("A figure")
    def _saved(self, form: str, metadata: dict[str, Any], **more: Any) -> bytes:
        """Return the drawing in a format; `more` is what `savefig` takes."""
        from matplotlib import rc_context

        buffer = io.BytesIO()
        with rc_context(STYLE), warnings.catch_warnings():
            # Of a name in another script: a browser has a typeface for it.
            warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
            self.drawing.savefig(buffer, format=form, metadata=metadata, dpi=144, **more)
        return buffer.getvalue()


def data_uri(kind: str, content: bytes) -> str:
    """Return the address of a content of a MIME type that holds the content itself."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def numbered(figures: Iterable[Figure | None]) -> list[Figure]:
    """Return the figures that there are with their numbers: those of one kind share one."""
    kept = [figure for figure in figures if figure is not None]
    kinds = list(dict.fromkeys(figure.kind for figure in kept))
    return [replace(figure, number=1 + kinds.index(figure.kind)) for figure in kept]


def with_ticks(axes: Any, side: str, unit: str = "%") -> None:
    """Put few round numbers with their unit on the axis ``"x"`` or ``"y"``, and a grid across."""
    from matplotlib.ticker import MaxNLocator

    axis = axes.xaxis if side == "x" else axes.yaxis
    axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(lambda value, _: f"{value:g} {unit}".replace("-", "\N{MINUS SIGN}"))
    axes.grid(visible=True, axis=side)


_EVALS = {
    "all-names": "every name",
    "held-out": "held-out names",
    "split": "test split",
    "in-class": "held-out images",
}


def way(direction: str) -> str:
    """Return a direction with room around its arrow."""
    return direction.replace("→", " → ")


def capital(text: str) -> str:
    """Return a text with a capital."""
    return text[:1].upper() + text[1:]


def draws_text(n: int) -> str:
    """Return how many draws a mean is of."""
    return f"{n} draws" if n > 1 else "one run"


def evaluation_text(evaluation: str) -> str:
    """Return what a figure calls an evaluation."""
    return _EVALS.get(evaluation, evaluation)


#: The method that is drawn first: it is linear, and soon fitted.
METHOD = "ridge"

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

    Of `bench.comparisons.compare` the rows over chance without real pairs are drawn; method,
    evaluation, direction and metric are the verdict's. None where the method was not run on head
    weights alone.
    """
    alone = as_planned(
        whole_heads(comparisons).filter(
            comparison="over-chance",
            n_pairs="0",
            eval=evaluation,
            direction=direction,
            metric=metric,
        )
    )
    heads = alone.filter(source="head").sort("a", descending=True, maintain_order=True)
    controls = [
        row
        for source in CONTROL_NAMES
        for row in alone.filter(source=source, method=method).iter_rows(named=True)
    ]
    if method not in heads["method"]:
        return None
    rows = [_dot(row, method) for row in [*heads.iter_rows(named=True), *controls]]
    by_method = {row["method"]: row for row in heads.iter_rows(named=True)}
    shown, name = by_method[method], method_title(method)
    title = (
        f"{name} on the head alone reaches {value_text(metric, shown['a'])} % {metric} "
        f"{among(direction, shown['gallery'])}"
    )
    if controls:
        title += f", its best control {value_text(metric, max(row['a'] for row in controls))} %"
    subtitle = f"{capital(metric)} of {way(direction)}, with 95 % intervals"
    if "conse" in by_method:
        subtitle += "; dashed line: ConSE, which reads the head without fitting"
    chance = "" if shown["chance"] is None else f", chance {value_text(metric, shown['chance'])} %"
    caption = (
        f"{capital(metric)} of {way(direction)} without real pairs, "
        f"{evaluation_text(shown['eval'])}: {shown['n_queries']:,} queries over "
        f"{draws_text(shown['n_seeds'])}, {among(shown['direction'], shown['gallery'])}{chance}."
    )
    conse = by_method.get("conse")
    data = pl.DataFrame(rows).select("label", "method", "source", "value", "low", "high")
    level = None if conse is None else 100 * conse["a"]

    def draw(figure: Any) -> None:
        _draw_dots(figure.subplots(), rows, level)

    words = "headline", title + ".", subtitle + ".", caption
    return Figure(*words, data, draw, 32 * len(rows) + 40, width=620.0)


def _dot(row: dict[str, Any], method: str) -> dict[str, Any]:
    """Return a row of the dot plot: its interval is that of the gain, moved by the level."""
    title, source = method_title(row["method"]), row["source"]
    role, marker = SOURCE_STYLES[source]
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
        "text": value_text(row["metric"], row["a"]),
    }  # fmt: skip


def _draw_dots(axes: Any, rows: list[dict[str, Any]], level: float | None) -> None:
    """Draw a line of text, a dot and its interval a row; a level is dashed."""
    if level is not None:
        axes.axvline(level, color=colour("conse"), linestyle=DASHED, linewidth=1.3)
    for y, row in enumerate(rows):
        value, ink, end = 100 * row["value"], colour(row["role"]), row["value"]
        if row["low"] is not None and row["high"] is not None:
            axes.plot([100 * row["low"], 100 * row["high"]], [y, y], color=ink)
            end = row["high"]
        axes.plot([value], [y], row["marker"], color=ink)
        # To the right of its end, over whatever crosses it.
        axes.annotate(
            row["text"], (100 * end, y), (8, 0), textcoords="offset points", color=ink,
            va="center", weight="bold",
            bbox={"facecolor": colour("paper"), "edgecolor": "none", "pad": 1.0},
        )  # fmt: skip
    # A method of one's own may have a name of any length.
    axes.set_yticks(
        range(len(rows)), [textwrap.shorten(row["label"], 44, placeholder="…") for row in rows]
    )
    for text, row in zip(axes.get_yticklabels(), rows, strict=True):
        text.set(color=colour("ink"), weight="bold" if row["strong"] else "normal")
    axes.set_ylim(len(rows) - 0.4, -0.6)
    low, high = min(0.0, axes.get_xlim()[0]), max(0.0, axes.get_xlim()[1])
    axes.set_xlim(low, high + 0.12 * (high - low))
    with_ticks(axes, "x")


#: Direction and metric of the panels of the pairs curve: large ones, and small ones below them.
LARGE = (("image→name", "top-1"), ("image→name", "top-10"))
SMALL = (
    ("image→caption", "R@1"), ("image→caption", "R@10"),
    ("caption→image", "R@1"), ("caption→image", "R@10"),
)  # fmt: skip

#: Evaluations in which a number of real pairs can be drawn.
_WITH_PAIRS = ("held-out", "split")


def pairs_figure(table: pl.DataFrame, method: str) -> Figure | None:
    """Draw accuracy against the number of real pairs for one method, with bands over draws.

    Of a `bench.tables.result_table`. None if no number of real pairs was run.
    """
    held = table.filter(pl.col("eval").is_in(_WITH_PAIRS), method=method)
    panels_of = [
        (side, metric) for side, metric in (*LARGE, *SMALL)
        if metric in held.columns and held.filter(direction=side)[metric].count()
    ]  # fmt: skip
    if not panels_of or held.filter(pl.col("n_pairs") != "0").is_empty():
        return None
    large = [panel for panel in LARGE if panel in panels_of]
    small = [panel for panel in SMALL if panel in panels_of]
    if not large:
        large, small = small[:2], small[2:]
    lines = {panel: curve_lines(table, method, *panel) for panel in panels_of}
    data = pl.DataFrame([row for panel in panels_of for row in lines[panel]])

    def draw(figure: Any) -> None:
        upper, lower = figure.subfigures(2, 1, height_ratios=(3, 2)) if small else (figure, None)
        parts: Any = ((large, upper), (small, lower))
        for own, part in parts[: 1 + bool(small)]:
            (drawn,) = part.subplots(1, len(own), squeeze=False, sharey=True)
            for axes, panel in zip(drawn, own, strict=True):
                _curves(axes, lines[panel])
                axes.set_title(f"{way(panel[0])},\n{panel[1]}")
                axes.set_xlabel("real pairs, in even steps" if own is large else "")
            if own is large:
                known = drawn[0].get_legend_handles_labels()
                part.legend(*known, loc="outside lower center", ncols=3)

    title = method_title(method)
    direction, metric = large[0]
    of_task = held.filter(direction=direction).row(0, named=True)
    pool = among(direction, of_task["gallery"])
    return Figure(
        "accuracy_by_pairs",
        f"{title} on real pairs, with the head and without: {metric} {pool}.",
        f"{title}: percent of queries whose right answer is first or among the first ten, by the "
        "number of real pairs; bands: one standard deviation over draws; dotted: chance.",
        f"{title}: {metric} of {way(direction)} in percent, mean over "
        f"{draws_text(of_task['n_seeds'])}, {pool}.",
        data,
        draw,
        440 if small else 270,
        method=method,
    )


def curve_lines(
    table: pl.DataFrame, method: str, direction: str, metric: str
) -> list[dict[str, Any]]:
    """Return one metric of a method by number of real pairs: a row a source and number, and levels.

    Rows of a level (ConSE, chance) have an empty source.
    """
    here = table.filter(
        pl.col("eval").is_in(_WITH_PAIRS), pl.col(metric).is_not_null(), direction=direction
    )
    rows = []
    for source in SOURCE_STYLES:
        own = here.filter(method=method, source=source)
        rows += [(source, source_name(source, "all"), row) for row in in_order(own).to_dicts()]
    for name, label in (("conse", "ConSE"), ("chance", "chance")):
        own = here.filter(method=name)
        rows += [("", label, row) for row in own.head(1).to_dicts()]
    return [
        {
            "direction": direction, "metric": metric, "line": label, "source": source,
            "n_pairs": row["n_pairs"] if source else "0",
            "pairs": pairs_text(row["n_pairs"], row["n_images_fitted"], short=True),
            "mean": row[metric], "sd": row[f"{metric}_sd"] or 0.0,
        }
        for source, label, row in rows
    ]  # fmt: skip


def _curves(axes: Any, lines: list[dict[str, Any]]) -> None:
    """Draw the line of every source with its band, and levels across; controls as one band."""
    known = {row["n_pairs"]: row["pairs"] for row in lines if row["source"]}
    at = {k: x for x, k in enumerate(sorted(known, key=pairs_order))}
    _levels(axes, lines)
    _controls_band(axes, lines, at)
    for source in dict.fromkeys(row["source"] for row in reversed(lines)):
        if source and source not in CONTROLS:
            own = [row for row in lines if row["source"] == source]
            role, marker = SOURCE_STYLES[source]
            x = [at[row["n_pairs"]] for row in own]
            mean, sd = (100 * np.array([row[n] for row in own]) for n in ("mean", "sd"))
            axes.fill_between(x, mean - sd, mean + sd, color=colour(role), alpha=0.15, linewidth=0)
            axes.plot(x, mean, marker=marker, color=colour(role), label=source_name(source, "all"))
    axes.set_xticks(list(at.values()), [known[k] for k in at])
    most = max(104 * (row["mean"] + row["sd"]) for row in lines)
    axes.set_ylim(0, max(axes.get_ylim()[1], most))
    with_ticks(axes, "y")


def _levels(axes: Any, lines: list[dict[str, Any]]) -> None:
    """Draw what reads no pair as lines across."""
    for row in lines:
        if not row["source"]:
            role, dash = ("conse", DASHED) if row["line"] == "ConSE" else ("muted", DOTTED)
            axes.axhline(100 * row["mean"], color=colour(role), linestyle=dash, label=row["line"])


def _controls_band(axes: Any, lines: list[dict[str, Any]], at: dict[str, int]) -> None:
    """Draw the range of all controls as one band."""
    means: dict[str, list[float]] = {}
    for row in sorted(lines, key=lambda row: at.get(row["n_pairs"], 0)):
        if row["source"] in CONTROLS:
            means.setdefault(row["n_pairs"], []).append(100 * row["mean"])
    low, high = ([end(own) for own in means.values()] for end in (min, max))
    own = {"label": "controls"} if means else {}
    axes.fill_between([at[k] for k in means], low, high, color=colour("muted"), alpha=0.3, **own)
