"""Figures of the geometry: head × name heatmap, matched and unmatched cosines, and a map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from bench.report.canvas import Figure, canvas, colour
from bench.report.geometry import Geometry, Side, area_under_curve, matched, unmatched

#: Classes in the heatmap, and of each side in the map.
HEATMAP_CLASSES, MAP_CLASSES = 60, 24

#: Head rows drawn as a cloud behind the map.
CLOUD = 600

_TOO_LONG = 26


def heatmap_figure(found: Geometry, name: Callable[[str], str]) -> Figure:
    """Draw the cosines of head rows (down) and names (across) for a sample of classes.

    Classes stand in the order of a hierarchical clustering of the head rows, so that related
    ones are neighbours: what lies beside the diagonal are confusions within a family.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage

    head = found.head
    shown = _spread(len(head.ids), HEATMAP_CLASSES)
    if len(shown) > 2:
        shown = shown[leaves_list(linkage(head.rows[shown], "average"))]
    cosines = head.rows[shown] @ head.texts[shown].T
    names = [name(head.ids[place]) for place in shown]
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
    areas = []
    with canvas((9.2, 2.7)) as (figure, svg):
        grid = figure.subplots(1, 2, squeeze=False)
        figure.subplots_adjust(left=0.03, right=0.99, bottom=0.2, top=0.84, wspace=0.08)
        for axes, (heading, side) in zip(grid.flat, panels, strict=True):
            own, other = matched(side), unmatched(side)
            areas.append(area_under_curve(own, other))
            low, high = min(own.min(), other.min()), max(own.max(), other.max())
            edges = np.linspace(low, high, 41)
            for label, values, role in (("unmatched", other, "muted"), ("matched", own, "head")):
                share, _ = np.histogram(values, edges)
                height = share / share.sum()
                axes.stairs(
                    height, edges, fill=True, color=colour(role), alpha=0.45,
                    label=f"{label}, mean {round(float(values.mean()), 2) + 0.0:.2f}",
                )  # fmt: skip
                axes.axvline(values.mean(), color=colour(role), linewidth=1.3)
                data += [
                    {"side": heading, "pairs": label, "from": a, "to": b, "share": h}
                    for a, b, h in zip(edges[:-1], edges[1:], height, strict=True)
                ]
            axes.set_title(
                f"{heading}: AUC {areas[-1]:.2f}", loc="left", color=colour("ink"), fontsize=9
            )
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            axes.set_xlabel("cosine")
            legend = axes.legend(frameon=False, fontsize=8, loc="upper right")
            for text in legend.get_texts():
                text.set_color(colour("ink"))
    title = (
        "Cosines of matched and of unmatched classes; the area under the curve is the chance that "
        f"a matched one is the higher: {areas[0]:.2f} for head rows, {areas[1]:.2f} for images."
    )
    return Figure("matched_cosines", svg[0], pl.DataFrame(data), title)


def map_figure(found: Geometry, name: Callable[[str], str]) -> Figure:
    """Draw head rows, class means and projected texts on two principal axes, linked by class."""
    head = found.head
    cloud = _spread(len(head.ids), CLOUD)
    centre = head.rows.mean(axis=0)
    _, spread, axes_of = np.linalg.svd(head.rows[cloud] - centre, full_matrices=False)
    basis = axes_of[:2].T
    # The sign of an axis is arbitrary: the largest entry is positive.
    basis = basis * np.sign(basis[np.abs(basis).argmax(axis=0), [0, 1]])
    share = spread[:2] ** 2 / np.sum(spread**2)

    def flat(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        out: NDArray[np.float64] = (rows - centre) @ basis
        return out

    data: list[dict[str, Any]] = []
    with canvas((9.2, 5.4)) as (figure, svg):
        axes = figure.add_axes((0.02, 0.08, 0.96, 0.84))
        behind = flat(head.rows[cloud])
        axes.scatter(
            behind[:, 0], behind[:, 1], s=5, color=colour("rule"), linewidths=0, label="_cloud"
        )
        for side, what, role, marker in (
            (head, "head row", "head", "o"),
            (found.images, "mean of images", "random", "s"),
        ):
            data += _links(axes, side, what, role, marker, flat, name)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xlabel(f"first axis, {share[0]:.0%} of the spread of head rows")
        axes.set_ylabel(f"second axis, {share[1]:.0%}")
        legend = figure.legend(
            *axes.get_legend_handles_labels(), loc="upper left", bbox_to_anchor=(0.015, 1.0),
            ncol=4, frameon=False, fontsize=9, columnspacing=1.5, handletextpad=0.4,
        )  # fmt: skip
        for text in legend.get_texts():
            text.set_color(colour("ink"))
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
    flat: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    name: Callable[[str], str],
) -> list[dict[str, Any]]:
    shown = _spread(len(side.ids), MAP_CLASSES)
    rows, texts = flat(side.rows[shown]), flat(side.texts[shown])
    for a, b in zip(rows, texts, strict=True):
        axes.plot([a[0], b[0]], [a[1], b[1]], color=colour(role), linewidth=0.8, alpha=0.6)
    axes.scatter(*rows.T, s=24, marker=marker, color=colour(role), label=what, linewidths=0)
    axes.scatter(
        *texts.T, s=22, marker=marker, facecolors="none", edgecolors=colour(role),
        label=f"its name ({'head' if role == 'head' else 'images'})", linewidths=1,
    )  # fmt: skip
    data = []
    for number, (place, a, b) in enumerate(zip(shown, rows, texts, strict=True)):
        text = name(side.ids[place])
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


def _spread(n: int, most: int) -> NDArray[np.int64]:
    """Return up to `most` places, evenly over n."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.int64))


def _short(text: str) -> str:
    # matplotlib reads $…$ as mathematics; a class name is text.
    plain = text.replace("$", r"\$")
    return plain if len(plain) <= _TOO_LONG else f"{plain[: _TOO_LONG - 1]}…"


def figures_of(found: Geometry | None, name: Callable[[str], str]) -> Sequence[Figure]:
    """Return the figures of a geometry, none without one."""
    if found is None:
        return ()
    return (heatmap_figure(found, name), histogram_figure(found), map_figure(found, name))
