"""Colours of a report, and the canvas that figures are drawn on.

A figure is drawn once, in placeholder colours that represent roles. Inside the page they
become CSS variables, so that the browser paints them for either mode; in the SVG file beside
the page they become the light palette. Hues can be distinguished in all common forms of colour
blindness, and every role has its own marker and dash as well.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import polars as pl


@dataclass(frozen=True)
class Ink:
    """A role's colours.

    Attributes
    ----------
    placeholder : str
        The colour a figure is drawn in; occurs for nothing else.
    light, dark : str
        Colours on paper and on a dark ground.
    """

    placeholder: str
    light: str
    dark: str


INKS: dict[str, Ink] = {
    "paper": Ink("#fe0100", "#fcfbf8", "#14161a"),
    "ink": Ink("#fe0101", "#1c1e22", "#e9e7e2"),
    "muted": Ink("#fe0102", "#63666d", "#a2a4a9"),
    "rule": Ink("#fe0103", "#e3e0d8", "#30343a"),
    "head": Ink("#fe0104", "#0a5ea8", "#6fb7f5"),
    "real": Ink("#fe0105", "#4d5057", "#c3c5c9"),
    "random": Ink("#fe0106", "#bd5206", "#f2a65a"),
    "random-cov": Ink("#fe0107", "#8a6d00", "#d9c15a"),
    "shuffled": Ink("#fe0108", "#9c4a8b", "#dc9fce"),
    "conse": Ink("#fe0109", "#0b7657", "#55c9a6"),
    "rotated": Ink("#fe010a", "#7a5c3a", "#c9a987"),
}

#: Role, marker and dash of each source of pairs.
SOURCE_STYLES: dict[str, tuple[str, str, str]] = {
    "head": ("head", "o", "-"),
    "none": ("real", "s", "-"),
    "random": ("random", "^", "-"),
    "random-cov": ("random-cov", "v", "-"),
    "shuffled": ("shuffled", "D", "-"),
    "rotated": ("rotated", "P", "-"),
}


def css_variables(mode: str) -> str:
    """Return the declarations of all roles for ``"light"`` or ``"dark"``."""
    return " ".join(f"--{role}: {getattr(ink, mode)};" for role, ink in INKS.items())


def page_svg(svg: str, *, prefix: str, title: str) -> str:
    """Return a drawn figure as part of the page.

    Parameters
    ----------
    svg : str
        What matplotlib wrote, in placeholder colours.
    prefix : str
        Put before every id, so that figures on one page do not share any.
    title : str
        Read aloud in place of the picture.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # matplotlib's style element would reach the whole page; the page's own sheet has its rule.
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{prefix}-', body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", body)
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", body)
    body = re.sub(r"font: (\d+) ([\d.]+)px [^;\"]*", r"font-size: \2px; font-weight: \1", body)
    # The page's own typeface; its lengths differ little from those the figure was set in.
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = re.sub(r' (width|height)="[\d.]+pt"', "", body, count=2)
    for role, ink in INKS.items():
        body = body.replace(ink.placeholder, f"var(--{role})")
    name = f"{prefix}-title"
    opening = f'<svg role="img" aria-labelledby="{name}" '
    body = body.replace("<svg ", opening, 1)
    end = body.index(">") + 1
    return f'{body[:end]}<title id="{name}">{_escape(title)}</title>{body[end:]}'


def file_svg(svg: str) -> str:
    """Return a drawn figure as a file of its own, in the light palette."""
    for ink in INKS.values():
        svg = svg.replace(ink.placeholder, ink.light)
    return svg


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


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


_PAINTED: ContextVar[bool] = ContextVar("painted", default=False)


def colour(role: str) -> str:
    """Return the placeholder colour of a role; within `painted`, that of the light palette."""
    return INKS[role].light if _PAINTED.get() else INKS[role].placeholder


@contextmanager
def painted() -> Iterator[None]:
    """Draw in the light palette at once, on axes that are no part of a page."""
    token = _PAINTED.set(True)
    try:
        yield
    finally:
        _PAINTED.reset(token)


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
        "text.parse_math": False,  # a name with dollars is no formula
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
