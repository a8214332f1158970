"""The page of a bridge: its verdict, the curve over pairs, the controls, and the numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
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
        "dek": " ".join(found.sentences[:-1]), "figures": figures, "facts": _facts(found),
        "rows": [
            (one.by, f"{one.mapped} mapped", percent(one.nearest), percent(one.ten))
            for one in found.kept
        ],
    }  # fmt: skip
    write_file(out, [render("bridge.html", context).encode("utf-8")])
    return out


def _facts(found: Bridge) -> list[tuple[str, str]]:
    worst = found.worst
    facts = [
        ("spaces", found.relation.sentence),
        ("items in both", f"{found.n_items:,}"),
        ("pairs of a draw", f"{found.n_pairs:,}"),
        ("items searched", f"{found.gallery:,}"),
        ("maps, by draws", ", ".join(f"{kind} {n}" for kind, n in found.kinds.items())),
        ("least is kept of group", "" if worst is None else f"{worst[0]}: {percent(worst[1])}"),
        ("gate", "" if found.gate is None else f"{100 * found.gate:g} %"),
    ]
    return [(name, value) for name, value in facts if value]


def curve_figure(found: Bridge) -> Figure:
    """Draw what is kept by the number of pairs, what more may keep, and the gate."""
    rows = [
        {"pairs": n, "kept": one.mean, "low": shares(one)[0], "high": shares(one)[1],
         "predicted": False}
        for n, one in found.curve.items()
    ]  # fmt: skip
    rows += [
        {"pairs": n, "kept": (low + high) / 2, "low": low, "high": high, "predicted": True}
        for n, (low, high) in found.predicted.items()
    ]
    data = pl.DataFrame(rows)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        measured = data.filter(~pl.col("predicted"))
        x, y = measured["pairs"].to_numpy(), 100 * measured["kept"].to_numpy()
        off = np.abs(100 * measured.select("low", "high").to_numpy().T - y)
        axes.errorbar(x, y, off, marker="o", color=colour("head"), linewidth=2)
        ahead = data.tail(1 + len(found.predicted))
        if found.predicted:
            low, high = (100 * ahead[end].to_numpy() for end in ("low", "high"))
            low[0] = high[0] = y[-1]
            axes.fill_between(ahead["pairs"], low, high, color=colour("head"), alpha=0.2, lw=0)
        if found.gate is not None:
            axes.axhline(100 * found.gate, color=colour("random"), linestyle=DASHED)
        other = found.shuffled.mean
        axes.axhline(100 * other, color=colour("shuffled"), linestyle=DOTTED)
        axes.set_xscale("log", base=2)
        axes.set_xticks(data["pairs"], [f"{n:,}" for n in data["pairs"]])
        axes.minorticks_off()
        axes.set_xlabel("pairs, doubling")
        axes.set_ylim(0, 104)
        with_ticks(axes, "y")

    marks = ["bars: 95 % intervals", "dotted: shuffled pairs"]
    marks += ["band: predictions by the power laws of the draws"] * bool(found.predicted)
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
    rows = [
        {"label": f"{one.by}, {one.mapped} mapped", "value": one.ten.mean,
         "low": shares(one.ten)[0], "high": shares(one.ten)[1],
         "role": _ROLES.get(one.by, "real"), "marker": "o" if one.mapped == "old items" else "s",
         "strong": one.by == "the map", "text": f"{100 * one.ten.mean:.1f}"}
        for one in found.kept
    ]  # fmt: skip
    best = max(found.kept[2:], key=lambda one: one.ten.mean)

    def draw(figure: Any) -> None:
        draw_dots(figure.subplots(), rows, None)

    return Figure(
        "bridge_controls",
        f"The best of the controls, {best.by}, keeps {percent(best.ten)}.",
        f"Percent of the {NEIGHBOURS} nearest that are kept, with 95 % intervals.",
        f"The map and controls in both directions, among {found.gallery:,} items.",
        pl.DataFrame(rows).select("label", "value", "low", "high"), draw, 32 * len(rows) + 40,
    )  # fmt: skip
