"""A drawn figure with the numbers it shows, and the sheet that all figures are drawn on."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import polars as pl

from bench.report.theme import INKS


@dataclass(frozen=True)
class Figure:
    """A figure and the numbers it shows.

    Attributes
    ----------
    name : str
        File name without its ending.
    svg : str
        As drawn, in placeholder colours.
    data : DataFrame
        What is drawn, unrounded.
    title : str
        What it shows, in a sentence; read aloud in place of the picture.
    """

    name: str
    svg: str
    data: pl.DataFrame
    title: str


def colour(role: str) -> str:
    """Return the placeholder colour of a role."""
    return INKS[role].placeholder


@contextmanager
def canvas(size: tuple[float, float]) -> Iterator[tuple[Any, list[str]]]:
    """Yield a matplotlib figure, and a list that holds its SVG afterwards.

    Deterministic: no date, ids from a fixed salt, text kept as text.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as MatplotlibFigure

    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": "headstock",
        "font.family": "sans-serif",
        "font.size": 8.5,
        "axes.edgecolor": colour("muted"),
        "axes.labelcolor": colour("muted"),
        "axes.linewidth": 0.7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.unicode_minus": True,
        "xtick.color": colour("muted"),
        "ytick.color": colour("muted"),
        "xtick.major.size": 3,
        "xtick.major.width": 0.7,
        "grid.color": colour("rule"),
        "grid.linewidth": 0.8,
        "text.color": colour("ink"),
    }
    out: list[str] = []
    with rc_context(settings):
        figure = MatplotlibFigure(figsize=size)
        figure.patch.set_alpha(0.0)
        FigureCanvasSVG(figure)
        yield figure, out
        for axes in figure.axes:
            axes.patch.set_alpha(0.0)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    out.append(buffer.getvalue())
