"""The page of a bridge: its verdict, the curve over pairs, the controls, and the numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from bench.bridge import CONTROLS, NEIGHBOURS, Bridge, percent, shares
from bench.report.page import render
from bench.report.theme import DASHED, DOTTED, Figure, colour, numbered, with_ticks
from featstore.store.files import write_file


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
    figures, verdict = numbered([curve_figure(found)]), found.sentences[-1]
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
        shuffled = found.kept[CONTROLS[0], "old items", NEIGHBOURS]
        axes.axhline(100 * shuffled.mean, color=colour("shuffled"), linestyle=DOTTED)
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
