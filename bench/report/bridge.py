"""The page of a bridge: its verdict, the curve over pairs, the controls, and the numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from bench.bridge import NEIGHBOURS, Bridge, percent, shares
from bench.report.figures import draw_dots
from bench.report.page import render
from bench.report.theme import DASHED, DOTTED, Figure, colour, numbered, with_ticks
from featstore.store.files import write_file

#: Name of a map -> role, as what else knows nothing is drawn.
_ROLES = {"the map": "head", "shuffled pairs": "shuffled", "random rotation": "rotated"}


def write_bridge(found: Bridge, out: Path) -> Path:
    """Write one page that says what a bridge keeps; it holds all and asks for nothing.

    Parameters
    ----------
    found : Bridge
    out : Path
        The HTML file.

    Raises
    ------
    MissingPackageError
        If jinja2 or matplotlib is missing.
    featstore.errors.StoreWriteError
        If it cannot be written.
    """
    figures = numbered([curve_figure(found), controls_figure(found)])
    verdict = found.sentences[-1]
    context = {
        "title": f"{verdict} · Headstock", "description": verdict, "image": "",
        "dek": " ".join(found.sentences[:-1]), "figures": figures, "facts": found.facts,
        "rows": found.table,
    }  # fmt: skip
    write_file(out, [render("bridge.html", context).encode("utf-8")])
    return out


def curve_figure(found: Bridge) -> Figure:
    """Draw what is kept by the number of pairs, what more may keep, and the gate."""
    rows = [(n, one.mean, *shares(one), False) for n, one in found.curve.items()]
    rows += [(n, (a + b) / 2, a, b, True) for n, (a, b) in found.predicted.items()]
    data = pl.DataFrame(rows, ["pairs", "kept", "low", "high", "predicted"], orient="row")

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        pairs, kept, low, high, _ = (column.to_numpy() for column in data)
        own, ink = len(found.curve), colour("head")
        axes.fill_between(pairs, 100 * low, 100 * high, color=ink, alpha=0.2, lw=0)
        axes.plot(pairs[:own], 100 * kept[:own], marker="o", color=ink, linewidth=2)
        if found.gate is not None:
            axes.axhline(100 * found.gate, color=colour("random"), linestyle=DASHED)
        axes.axhline(100 * found.shuffled.mean, color=colour("shuffled"), linestyle=DOTTED)
        axes.set_xscale("log", base=2)
        axes.set_xticks(pairs, [f"{n:,}" for n in pairs])
        axes.minorticks_off()
        axes.set_xlabel("pairs, doubling")
        axes.set_ylim(0, 104)
        with_ticks(axes, "y")

    ahead = ", beyond them predictions by power laws of the draws" if found.predicted else ""
    marks = [f"band: 95 % intervals{ahead}", "dotted: shuffled pairs"]
    marks += ["dashed: the gate"] * (found.gate is not None)
    return Figure(
        "bridge_curve",
        f"{found.n_pairs:,} pairs keep {percent(found.own)} of the {NEIGHBOURS} nearest.",
        f"Percent of the {NEIGHBOURS} nearest that new queries find among mapped old items; "
        f"{'; '.join(marks)}.",
        f"What a search keeps by the number of pairs, among {found.gallery:,} items, mean of "
        f"{found.own.n_draws} draws.",
        data, draw, 320, width=600.0,
    )  # fmt: skip


def controls_figure(found: Bridge) -> Figure:
    """Draw the map and its controls, in both directions."""
    tens = {(by, mapped): one for (by, mapped, k), one in found.kept.items() if k == NEIGHBOURS}
    rows = [
        {"label": f"{by}, {mapped} mapped", "value": one.mean,
         "low": shares(one)[0], "high": shares(one)[1],
         "role": _ROLES.get(by, "real"), "marker": "o" if mapped == "old items" else "s",
         "strong": by == "the map", "text": f"{100 * one.mean:.1f}"}
        for (by, mapped), one in tens.items()
    ]  # fmt: skip
    best = max(tens, key=lambda key: -1.0 if key[0] == "the map" else tens[key].mean)

    def draw(figure: Any) -> None:
        draw_dots(figure.subplots(), rows, None)

    return Figure(
        "bridge_controls",
        f"The best of the controls, {best[0]}, keeps {percent(tens[best])}.",
        f"Percent of the {NEIGHBOURS} nearest that are kept, with 95 % intervals.",
        f"The map and controls in both directions, among {found.gallery:,} items.",
        pl.DataFrame(rows).select("label", "value", "low", "high"), draw, 32 * len(rows) + 40,
    )  # fmt: skip
