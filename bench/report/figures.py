"""Figures of a report."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from bench.cells import MIXED_NAMES, in_order, method_title, pairs_order
from bench.geometry import METHOD, Geometry, Side
from bench.report.theme import SOURCE_STYLES, Figure, canvas, colour
from bench.report.verdict import DIRECTION, METRIC

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
        _without_frame(axes, grid="x")
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
    positions = Positions.of(held)
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
            data += draw_pairs(axes, table, method, direction, metric, positions)
            axes.set_title(heading, loc="left", color=colour("ink"), fontsize=9.5, pad=6)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        handles, labels = grid.flat[0].get_legend_handles_labels()
        _legend(
            figure, handles, labels, loc="upper left", bbox_to_anchor=(0.04, 1.0),
            ncol=len(labels), fontsize=9, handlelength=1.9, columnspacing=1.5, handletextpad=0.5,
        )  # fmt: skip
    title = (
        f"Accuracy of {method_title(method)} against the number of real pairs, by what "
        "the prototypes are: head weights help most where real pairs are few, if they help."
    )
    # A name that a user registered may hold what a file's name may not.
    name = re.sub(r"[^\w-]", "_", method)
    return Figure(f"accuracy_by_pairs_{name}", svg[0], pl.DataFrame(data), title)


_SHORT_NAMES = {
    "head": "head weights",
    "random": "random rows",
    "random-cov": "random, same cov.",
    "shuffled": "names shuffled",
}


@dataclass(frozen=True)
class Positions:
    """Where each number of pairs lies on the logarithmic axis; 0 is left of a break.

    Attributes
    ----------
    at : dict
        Number of pairs → place.
    labels : dict
    broken : float
        Place of the break.
    """

    at: dict[str, float]
    labels: dict[str, str]
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
        # "all" lies close to the number before it: its label takes the line below.
        labels = {k: f"\nall, {fitted[k]:,.0f}" if k == "all" else k for k in at}
        return cls(at, labels, first - 0.8)


def draw_pairs(
    axes: Any, table: pl.DataFrame, method: str, direction: str, metric: str, at: Positions
) -> list[dict[str, Any]]:
    """Draw one metric of a method against the number of real pairs; return what is drawn.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    table : DataFrame
        Of `bench.tables.result_table`.
    method, direction, metric : str
    at : Positions
        Where the numbers of pairs lie.
    """
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
        style = {"marker": marker, "linestyle": dash, "markersize": 4.5, "linewidth": 1.6}
        _band(axes, x, mean, sd, color=colour(role), label=MIXED_NAMES[source], **style)
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
    _without_frame(axes, grid="y")
    # Two short strokes say that the axis is broken between 0 and the first number.
    for shift in (-0.09, 0.09):
        axes.plot(
            [at.broken + shift - 0.07, at.broken + shift + 0.07], [-0.025, 0.025],
            transform=axes.get_xaxis_transform(), color=colour("muted"), linewidth=1, clip_on=False,
        )  # fmt: skip
    return drawn


def _legend(target: Any, *handles: Any, **options: Any) -> None:
    """Draw the legend of a figure or of axes."""
    for text in target.legend(*handles, frameon=False, **options).get_texts():
        text.set_color(colour("ink"))


def _without_frame(axes: Any, *, grid: str) -> None:
    """Draw grid lines across an axis, and no left edge."""
    axes.grid(visible=True, axis=grid)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _band(axes: Any, x: Any, mean: Any, sd: Any, *, color: str, **line: Any) -> None:
    """Draw means as a line, with a band of one standard deviation."""
    axes.fill_between(x, mean - sd, mean + sd, color=color, alpha=0.15, linewidth=0)
    axes.plot(x, mean, color=color, **line)


def _has(held: pl.DataFrame, direction: str, metric: str) -> bool:
    return held.filter((pl.col("direction") == direction) & pl.col(metric).is_not_null()).height > 0


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
        _legend(
            figure, handles, labels, loc="upper left", bbox_to_anchor=(0.4 / width, 1.0),
            ncol=len(labels), fontsize=8.5, handlelength=1.9, columnspacing=1.4,
        )  # fmt: skip
    title = (
        f"Zero-shot {METRIC} of {method_title(METHOD)} against the mixing weight, for each number "
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
            style = {"marker": marker, "markersize": 4, "linewidth": 1.5}
            _band(axes, x, mean, sd, color=colour(role), label=MIXED_NAMES[source], **style)
        drawn += [
            {"n_pairs": k, "line": MIXED_NAMES[source], "mix": None if source == "none" else mix,
             "mean": m, "sd": s}
            for mix, m, s in line.select("mix", "mean", "sd").iter_rows()
        ]  # fmt: skip
    axes.set_xticks([float(np.log10(w)) for w in weights], [f"{w:g}" for w in weights])
    axes.set_xlabel("mass of a class / of a real image")
    _without_frame(axes, grid="y")
    return drawn


_TOO_LONG = 26


def heatmap_figure(found: Geometry, name: Callable[[str], str]) -> Figure:
    """Draw the cosines of head rows (down) and names (across) for a sample of classes.

    Classes are in the order of a hierarchical clustering of the head rows, so that related
    ones are neighbours: what lies beside the diagonal are confusions within a family.
    """
    cosines = np.array(found.heat)
    names = [name(class_id) for class_id in found.heat_ids]
    with canvas((5.6, 5.15)) as (figure, svg):
        axes = figure.add_axes((0.25, 0.03, 0.62, 0.70))
        most = float(np.abs(cosines).max()) or 1.0
        picture = axes.imshow(cosines, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
        every = max(1, len(names) // 20)
        ticks = np.arange(0, len(names), every)
        axes.set_yticks(ticks, [_short(names[t]) for t in ticks], fontsize=6)
        axes.set_xticks(ticks, [_short(names[t]) for t in ticks], rotation=90, fontsize=6)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        bar = figure.colorbar(picture, ax=axes, fraction=0.04, pad=0.02)
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0, labelsize=7)
    data = pl.DataFrame(
        {
            "head_row": [n for n in names for _ in names],
            "name": names * len(names),
            "cosine": cosines.ravel(),
        }
    )
    title = (
        f"Cosine of {len(names)} head rows with the projected names of these classes; the diagonal "
        "is each row with its own name."
    )
    return Figure("head_by_name", svg[0], data, title)


def histogram_figure(found: Geometry) -> Figure:
    """Draw matched and unmatched cosines, for head rows and for means of images."""
    panels = (
        ("head rows and names that the map has not seen", found.head),
        ("image class means and names, no image in the fit", found.images),
    )
    data: list[dict[str, Any]] = []
    with canvas((9.2, 2.7)) as (figure, svg):
        grid = figure.subplots(1, 2, squeeze=False)
        figure.subplots_adjust(left=0.03, right=0.99, bottom=0.2, top=0.84, wspace=0.08)
        for axes, (heading, side) in zip(grid.flat, panels, strict=True):
            edges = side.edges
            for label, counts, mean, role in (
                ("unmatched", side.unmatched, side.means[1], "muted"),
                ("matched", side.matched, side.means[0], "head"),
            ):
                height = np.array(counts) / sum(counts)
                axes.stairs(
                    height, edges, fill=True, color=colour(role), alpha=0.45,
                    label=f"{label}, mean {round(mean, 2) + 0.0:.2f}",
                )  # fmt: skip
                axes.axvline(mean, color=colour(role), linewidth=1.3)
                data += [
                    {"side": heading, "pairs": label, "from": a, "to": b, "share": h}
                    for a, b, h in zip(edges[:-1], edges[1:], height, strict=True)
                ]
            axes.set_title(
                f"{heading}: AUC {side.area:.2f}", loc="left", color=colour("ink"), fontsize=9
            )
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            axes.set_xlabel("cosine")
            _legend(axes, fontsize=8, loc="upper right")
    title = (
        "Cosines of matched and of unmatched classes; the area under the curve is the chance that "
        f"a matched one is the higher: {found.head.area:.2f} for head rows, "
        f"{found.images.area:.2f} for images."
    )
    return Figure("matched_cosines", svg[0], pl.DataFrame(data), title)


def map_figure(found: Geometry, name: Callable[[str], str]) -> Figure:
    """Draw head rows, class means and projected texts on two principal axes, linked by class."""
    data: list[dict[str, Any]] = []
    with canvas((9.2, 5.4)) as (figure, svg):
        axes = figure.add_axes((0.02, 0.08, 0.96, 0.84))
        behind = np.array(found.cloud)
        axes.scatter(
            behind[:, 0], behind[:, 1], s=5, color=colour("rule"), linewidths=0, label="_cloud"
        )
        for side, what, role, marker in (
            (found.head, "head row", "head", "o"),
            (found.images, "mean of images", "random", "s"),
        ):
            data += _links(axes, side, what, role, marker, name)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xlabel(f"first axis, {found.shares[0]:.0%} of the spread of head rows")
        axes.set_ylabel(f"second axis, {found.shares[1]:.0%}")
        _legend(
            figure, *axes.get_legend_handles_labels(), loc="upper left",
            bbox_to_anchor=(0.015, 1.0), ncol=4, fontsize=9, columnspacing=1.5, handletextpad=0.4,
        )  # fmt: skip
    title = (
        "Head rows, means of the images of a class, and the texts of both on the first two "
        "principal axes of the head rows; a line links each class with its own text."
    )
    return Figure("map", svg[0], pl.DataFrame(data), title)


def _links(
    axes: Any,
    side: Side,
    what: str,
    role: str,
    marker: str,
    name: Callable[[str], str],
) -> list[dict[str, Any]]:
    rows, texts = np.array(side.rows), np.array(side.texts)
    for a, b in zip(rows, texts, strict=True):
        axes.plot([a[0], b[0]], [a[1], b[1]], color=colour(role), linewidth=0.8, alpha=0.6)
    axes.scatter(*rows.T, s=24, marker=marker, color=colour(role), label=what, linewidths=0)
    axes.scatter(
        *texts.T, s=22, marker=marker, facecolors="none", edgecolors=colour(role),
        label=f"its name ({'head' if role == 'head' else 'images'})", linewidths=1,
    )  # fmt: skip
    data = []
    for number, (class_id, a, b) in enumerate(zip(side.ids, rows, texts, strict=True)):
        text = name(class_id)
        if number % 2 == 0:
            # At its text, where there is room; the others are in the file of numbers.
            axes.annotate(
                _short(text), b, xytext=(5, 2), textcoords="offset points", fontsize=6.5,
                color=colour("ink"),
            )  # fmt: skip
        data.append(
            {"what": what, "class": text, "x": a[0], "y": a[1], "text_x": b[0], "text_y": b[1]}
        )
    return data


def _short(text: str) -> str:
    return text if len(text) <= _TOO_LONG else f"{text[: _TOO_LONG - 1]}…"


def figures_of(found: Geometry | None, name: Callable[[str], str]) -> Sequence[Figure]:
    """Return the figures of a geometry, none without one."""
    if found is None:
        return ()
    return (heatmap_figure(found, name), histogram_figure(found), map_figure(found, name))
