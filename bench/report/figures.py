"""Figures: the gain beside its controls, and accuracy against the number of real pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from bench.cells import METHOD_NAMES, MIXED_NAMES, in_order
from bench.report.canvas import Figure, canvas, colour
from bench.report.theme import SOURCE_STYLES

#: Direction, metric and heading of the panels of the pairs curve.
PANELS: tuple[tuple[str, str, str], ...] = (
    ("image→name", "top-1", "image → name, top-1"),
    ("image→caption", "R@1", "image → caption, R@1"),
    ("caption→image", "R@1", "caption → image, R@1"),
    ("image→name", "top-10", "image → name, top-10"),
    ("image→caption", "R@10", "image → caption, R@10"),
    ("caption→image", "R@10", "caption → image, R@10"),
)


def gain_figure(gains: pl.DataFrame, sources: Sequence[str]) -> Figure:
    """Draw, per number of real pairs, the gain from each source with its interval.

    Parameters
    ----------
    gains : DataFrame
        Rows of `bench.comparisons.compare` of one method and metric: ``over-chance`` without
        real pairs, ``over-real`` with them.
    sources : sequence of str
        Top to bottom within each group.
    """
    groups = list(dict.fromkeys(in_order(gains)["n_pairs"]))
    height = 0.62 + 0.24 * sum(len(gains.filter(pl.col("n_pairs") == k)) + 1.1 for k in groups)
    with canvas((5.3, height)) as (figure, svg):
        axes = figure.add_axes((0.335, 0.5 / height, 0.645, 1 - 0.58 / height))
        place, ticks = 0.0, []
        for k in groups:
            label = (
                "no real pairs, over chance" if k == "0" else f"{k} real pairs, over these alone"
            )
            axes.text(
                -0.52, place, label, transform=axes.get_yaxis_transform(), va="center",
                color=colour("muted"), fontsize=8.5,
            )  # fmt: skip
            place += 1
            for source in sources:
                row = gains.filter((pl.col("n_pairs") == k) & (pl.col("source") == source))
                if row.is_empty():
                    continue
                role, marker, _ = SOURCE_STYLES[source]
                mean = 100 * row["difference"][0]
                low, high = (
                    mean if row[c][0] is None else 100 * row[c][0] for c in ("low", "high")
                )
                axes.plot([low, high], [place, place], color=colour(role), linewidth=2.2)
                axes.plot([mean], [place], marker, color=colour(role), markersize=6)
                ticks.append((place, _SHORT_NAMES.get(source, source), role))
                place += 1
            place += 0.35
        axes.axvline(0, color=colour("ink"), linewidth=0.9)
        axes.set_ylim(place - 0.5, -0.7)
        axes.set_yticks([at for at, _, _ in ticks], [name for _, name, _ in ticks])
        for text, (_, _, role) in zip(axes.get_yticklabels(), ticks, strict=True):
            text.set_color(colour(role))
        axes.set_xlabel("gain in top-1, percentage points, with 95 % interval")
        axes.grid(visible=True, axis="x")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
    title = "Gain in zero-shot top-1 from each source of prototypes, with 95 % intervals."
    return Figure("gain_beside_controls", svg[0], gains, title)


def pairs_figure(table: pl.DataFrame, method: str) -> Figure | None:
    """Draw accuracy against the number of real pairs for one method, with bands over seeds.

    Parameters
    ----------
    table : DataFrame
        Of `bench.tables.result_table`; rows of evaluation ``"held-out"``.
    method : str

    Returns
    -------
    Figure or None
        None if no number of real pairs was run.
    """
    held = table.filter(pl.col("eval").is_in(["held-out", "split"]) & (pl.col("method") == method))
    panels = [panel for panel in PANELS if panel[1] in table.columns and _has(held, *panel[:2])]
    if not panels or held.filter(pl.col("n_pairs") != "0").is_empty():
        return None
    positions = _Positions.of(held)
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    data = []
    with canvas((3.55 * columns, 2.75 * rows + 0.45)) as (figure, svg):
        grid = figure.subplots(rows, columns, squeeze=False)
        figure.subplots_adjust(
            left=0.05, right=0.99, bottom=0.50 / (2.75 * rows + 0.45),
            top=1 - 0.72 / (2.75 * rows + 0.45), wspace=0.17, hspace=0.42,
        )  # fmt: skip
        for axes, (direction, metric, heading) in zip(grid.flat, panels, strict=False):
            data += _draw_panel(axes, table, method, direction, metric, positions)
            axes.set_title(heading, loc="left", color=colour("ink"), fontsize=9.5, pad=6)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        _legend(figure, grid.flat[0])
    title = (
        f"Accuracy of {METHOD_NAMES.get(method, method)} against the number of real pairs, by what "
        "the prototypes are: head weights help most where real pairs are few, if they help."
    )
    return Figure(f"accuracy_by_pairs_{method}", svg[0], pl.DataFrame(data), title)


_SHORT_NAMES = {
    "head": "head weights",
    "random": "random rows",
    "random-cov": "random, same cov.",
    "shuffled": "names shuffled",
}


@dataclass(frozen=True)
class _Positions:
    """Where each number of pairs lies on the logarithmic axis; 0 stands left of a break."""

    at: dict[str, float]
    labels: dict[str, str]
    broken: float

    @classmethod
    def of(cls, held: pl.DataFrame) -> _Positions:
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
        # "all" lies close to the number before it: its label takes the line below.
        labels = {k: f"\nall, {fitted[k]:,.0f}" if k == "all" else k for k in at}
        return cls(at, labels, first - 0.8)


def _draw_panel(
    axes: Any, table: pl.DataFrame, method: str, direction: str, metric: str, at: _Positions
) -> list[dict[str, Any]]:
    here = table.filter(
        pl.col("eval").is_in(["held-out", "split"]) & (pl.col("direction") == direction)
    )
    drawn = []
    for source in ("none", "shuffled", "random-cov", "random", "head"):
        line = in_order(
            here.filter((pl.col("method") == method) & (pl.col("source") == source))
        ).filter(pl.col(metric).is_not_null())
        if line.is_empty():
            continue
        role, marker, dash = SOURCE_STYLES[source]
        x = np.array([at.at[k] for k in line["n_pairs"]])
        mean, sd = 100 * line[metric].to_numpy(), 100 * line[f"{metric}_sd"].fill_null(0).to_numpy()
        axes.fill_between(x, mean - sd, mean + sd, color=colour(role), alpha=0.15, linewidth=0)
        axes.plot(
            x, mean, dash, marker=marker, color=colour(role), markersize=4.5, linewidth=1.6,
            label=MIXED_NAMES[source],
        )  # fmt: skip
        drawn += [
            {
                "direction": direction, "metric": metric, "line": MIXED_NAMES[source],
                "n_pairs": k, "mean": m / 100, "sd": s / 100,
            }
            for k, m, s in zip(line["n_pairs"], mean, sd, strict=True)
        ]  # fmt: skip
    levels: tuple[tuple[str, str, str, Any], ...] = (
        ("conse", "ConSE, head unfitted", "conse", (0, (5, 2))),
        ("chance", "chance", "muted", (0, (1, 2))),
    )
    for name, label, role, line_dash in levels:
        level = here.filter(pl.col("method") == name)
        if not level.is_empty() and level[metric][0] is not None:
            value = 100 * level[metric][0]
            axes.axhline(value, color=colour(role), linewidth=1.3, linestyle=line_dash, label=label)
            drawn.append(
                {
                    "direction": direction, "metric": metric, "line": label, "n_pairs": "0",
                    "mean": value / 100, "sd": level[f"{metric}_sd"][0] or 0.0,
                }
            )  # fmt: skip
    axes.set_ylim(bottom=0)
    axes.set_ylim(top=1.04 * axes.get_ylim()[1])
    axes.set_xticks(list(at.at.values()), [at.labels[k] for k in at.at])
    axes.set_xlim(at.at["0"] - 0.35, max(at.at.values()) + 0.3)
    axes.grid(visible=True, axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    # Two short strokes say that the axis is broken between 0 and the first number.
    for shift in (-0.09, 0.09):
        axes.plot(
            [at.broken + shift - 0.07, at.broken + shift + 0.07], [-0.025, 0.025],
            transform=axes.get_xaxis_transform(), color=colour("muted"), linewidth=1, clip_on=False,
        )  # fmt: skip
    return drawn


def _legend(figure: Any, axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    legend = figure.legend(
        handles, labels, loc="upper left", bbox_to_anchor=(0.04, 1.0), ncol=len(labels),
        frameon=False, fontsize=9, handlelength=1.9, columnspacing=1.5, handletextpad=0.5,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_color(colour("ink"))


def _has(held: pl.DataFrame, direction: str, metric: str) -> bool:
    return held.filter((pl.col("direction") == direction) & pl.col(metric).is_not_null()).height > 0
