"""The mixing curve: accuracy against the mass of one class relative to one real image."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from bench.cells import METHOD_NAMES, MIXED_NAMES, pairs_order
from bench.report.canvas import Figure, canvas, colour
from bench.report.theme import SOURCE_STYLES
from bench.report.verdict import DIRECTION, METHOD, METRIC


def mixing_figure(results: pl.DataFrame) -> Figure | None:
    """Draw accuracy against the mixing weight, one panel a number of real pairs.

    Parameters
    ----------
    results : DataFrame
        Result rows with fixed mixing weights, as a sweep makes them.

    Returns
    -------
    Figure or None
        None where fewer than two mixing weights were run. Of several penalties the middle one is
        drawn: choosing the best would be a choice made on what is scored.
    """
    rows = results.filter(
        (pl.col("method") == METHOD)
        & (pl.col("direction") == DIRECTION)
        & (pl.col("metric") == METRIC)
        & (pl.col("mix") != "auto")
        & (pl.col("penalty") != "auto")
        & (pl.col("n_pairs") != "0")
    ).with_columns(pl.col("mix").cast(pl.Float64), pl.col("penalty").cast(pl.Float64))
    if rows.is_empty() or rows.filter(pl.col("source") != "none")["mix"].n_unique() < 2:
        return None
    penalties = sorted(set(rows["penalty"]))
    penalty = penalties[len(penalties) // 2]
    rows = rows.filter(pl.col("penalty") == penalty)
    keys = sorted(set(rows.filter(pl.col("source") != "none")["n_pairs"]), key=pairs_order)
    weights = sorted(set(rows.filter(pl.col("source") != "none")["mix"]))
    drawn: list[dict[str, Any]] = []
    width = 2.75 * len(keys) + 0.5
    with canvas((width, 2.95)) as (figure, svg):
        grid = figure.subplots(1, len(keys), squeeze=False, sharey=True)
        figure.subplots_adjust(left=0.48 / width, right=0.99, bottom=0.17, top=0.78, wspace=0.1)
        for axes, k in zip(grid.flat, keys, strict=True):
            drawn += _panel(axes, rows.filter(pl.col("n_pairs") == k), k, weights)
            axes.set_title(f"{k} real pairs", loc="left", color=colour("ink"), fontsize=9.5, pad=5)
        grid.flat[0].set_ylim(bottom=0)
        grid.flat[0].set_ylabel(f"{METRIC} %")
        handles, labels = grid.flat[0].get_legend_handles_labels()
        legend = figure.legend(
            handles, labels, loc="upper left", bbox_to_anchor=(0.4 / width, 1.0), frameon=False,
            ncol=len(labels), fontsize=8.5, handlelength=1.9, columnspacing=1.4,
        )  # fmt: skip
        for text in legend.get_texts():
            text.set_color(colour("ink"))
    title = (
        f"Zero-shot {METRIC} of {METHOD_NAMES[METHOD]} against the mixing weight, for each number "
        f"of real pairs, penalty {penalty:g}: how much the choice of the weight matters."
    )
    return Figure(f"accuracy_by_mix_{METHOD}", svg[0], pl.DataFrame(drawn), title)


def _panel(axes: Any, rows: pl.DataFrame, k: str, weights: list[float]) -> list[dict[str, Any]]:
    drawn: list[dict[str, Any]] = []
    for source in ("none", "shuffled", "random-cov", "random", "head"):
        own = rows.filter(pl.col("source") == source)
        if own.is_empty():
            continue
        line = own.group_by("mix").agg(
            pl.col("value").mean().alias("mean"), pl.col("value").std(ddof=1).alias("sd")
        )
        role, marker, _ = SOURCE_STYLES[source]
        if source == "none":
            # Without prototypes there is nothing to mix: a level.
            level = 100 * line["mean"][0]
            axes.axhline(
                level, color=colour(role), linewidth=1.3, linestyle=(0, (5, 2)),
                label=MIXED_NAMES[source],
            )  # fmt: skip
        else:
            line = line.sort("mix")
            mean = 100 * line["mean"].to_numpy()
            sd = 100 * line["sd"].fill_null(0).to_numpy()
            x = np.log10(line["mix"].to_numpy())
            axes.fill_between(x, mean - sd, mean + sd, color=colour(role), alpha=0.15, linewidth=0)
            axes.plot(
                x, mean, marker=marker, color=colour(role), markersize=4, linewidth=1.5,
                label=MIXED_NAMES[source],
            )  # fmt: skip
        drawn += [
            {"n_pairs": k, "line": MIXED_NAMES[source], "mix": None if source == "none" else mix,
             "mean": m, "sd": s}
            for mix, m, s in line.select("mix", "mean", "sd").iter_rows()
        ]  # fmt: skip
    axes.set_xticks([float(np.log10(w)) for w in weights], [f"{w:g}" for w in weights])
    axes.set_xlabel("mass of a class / of a real image")
    axes.grid(visible=True, axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return drawn
