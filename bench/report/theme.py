"""Colours of a report, and what every figure of it has: words, numbers and a drawing.

A drawing takes the width and the text size of the sheet that it is put on, so that one function
gives the page's wide and narrow forms and a paper's columns. It uses placeholder colours that
represent roles. Inside the page they become CSS variables, so that the browser paints them for
either mode; in files they become the light palette. Hues can be distinguished in all common forms
of colour blindness, and every role has its own marker and dash as well.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, cached_property
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bench.tables import comma_separated


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


DASHED, DOTTED = (0, (4, 2)), (0, (1, 2))

#: Lengths of a page in CSS pixels: text, and the drawing in its wide and its narrow form.
TEXT, WIDE, NARROW = 13.0, 760.0, 300.0

#: A drawing with fewer ems than this puts its parts below each other.
_NARROW_EMS = 40.0

#: Of a paper's figure: points of text, and of an inch.
_PAPER_TEXT, _INCH = 8.0, 72.0

#: Of the file: pixels of a PNG for one of the drawing, and the margin around it.
_ZOOM, _MARGIN = 2.5, 24.0

_FONT = "'DejaVu Sans', Verdana, sans-serif"


@dataclass(frozen=True)
class Figure:
    """A figure: its words, its numbers, and the drawing in every form that is written.

    Attributes
    ----------
    kind : str
        Which figure of a report; also how the names of its files begin.
    title : str
        What it shows, in a sentence made from the data.
    subtitle : str
        What is drawn and its unit.
    caption : str
        The numbers that a reader needs to quote it; also the text read in place of the picture.
    data : DataFrame
        What is drawn, unrounded.
    draw : callable
        Draws it on a `Sheet` of any width.
    method : str
        Name of the method that it is about; empty if it is about several.
    number : int
        In the order of the page; 0 before a page has numbered it.
    width : float
        Of the wide form, in CSS pixels.
    """

    kind: str
    title: str
    subtitle: str
    caption: str
    data: pl.DataFrame
    draw: Callable[[Sheet], None]
    method: str = ""
    number: int = 0
    width: float = WIDE

    def __post_init__(self) -> None:
        # A number keeps its unit on its line.
        for words in ("title", "subtitle", "caption"):
            text = getattr(self, words).replace(" %", "\N{NO-BREAK SPACE}%")
            object.__setattr__(self, words, text)

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
        """Return both forms as parts of a page, ``svg.wide`` and ``svg.narrow``: one is shown.

        Text is 13 px where the wide form has `width` pixels or the narrow one 300; a page shows
        the narrow form where the wide one would have less than 640. Ids begin with the name.
        """
        return "".join(
            page_svg(
                svg, prefix=f"{self.name}-{form}", title=self.title, text=self.caption, form=form
            )
            for form, svg in (("wide", self._wide), ("narrow", self._drawn(NARROW, TEXT)))
        )

    def svg(self) -> str:
        """Return a file of its own: on white, with its title, subtitle and caption inside."""
        return file_svg(self._wide, self)

    def files(self) -> dict[str, bytes]:
        """Return what lies beside a page, by ending: ``.svg``, ``.png`` and ``.csv``."""
        svg = self.svg()
        return {
            ".svg": svg.encode("utf-8"),
            ".png": png_bytes(svg, zoom=_ZOOM),
            ".csv": comma_separated(self.data).encode("utf-8"),
        }

    def pdf(self, inches: float) -> bytes:
        """Return the drawing as a PDF of this width: fonts embedded, on white, without a title."""
        with painted(), canvas(inches * _INCH, _PAPER_TEXT) as sheet:
            self.draw(sheet)
            return sheet.pdf()

    @cached_property
    def _wide(self) -> str:
        return self._drawn(self.width, TEXT)

    def _drawn(self, width: float, text: float) -> str:
        with canvas(width, text) as sheet:
            self.draw(sheet)
            return sheet.svg()


def page_svg(svg: str, *, prefix: str, title: str, text: str, form: str) -> str:
    """Return a drawing as part of the page.

    Parameters
    ----------
    svg : str
        What matplotlib wrote, in placeholder colours.
    prefix : str
        Put before every id, so that drawings on one page do not share any.
    title, text : str
        Read aloud in place of the picture.
    form : str
        Its class.
    """
    body, _ = _plain(svg)
    body = re.sub(r'\bid="', f'id="{prefix}-', body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", body)
    # The page's own typeface; its lengths differ little from those the drawing was set in.
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    for role, ink in INKS.items():
        body = body.replace(ink.placeholder, f"var(--{role})")
    opening = (
        f'<svg class="{form}" role="img" aria-labelledby="{prefix}-title" '
        f'aria-describedby="{prefix}-text" '
    )
    body = body.replace("<svg ", opening, 1)
    end = body.index(">") + 1
    words = (
        f'<title id="{prefix}-title">{escape(title)}</title>'
        f'<desc id="{prefix}-text">{escape(text)}</desc>'
    )
    return f"{body[:end]}{words}{body[end:]}"


def _plain(svg: str) -> tuple[str, tuple[float, float]]:
    """Return an svg element without matplotlib's style, metadata and size, and its size."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # matplotlib's style element would reach the whole page; the page's own sheet has its rule.
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", rf"font-size: \1px; font-family: {_FONT}", body)
    body = re.sub(
        r"font: (\d+) ([\d.]+)px [^;\"]*",
        rf"font-size: \2px; font-weight: \1; font-family: {_FONT}", body,
    )  # fmt: skip
    body = re.sub(r' (width|height)="[\d.]+pt"', "", body, count=2)
    # A hundredth of a pixel is enough; the numbers of a text are no places.
    body = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0]), body)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', body)
    assert box is not None
    return body, (float(box[1]), float(box[2]))


def file_svg(svg: str, figure: Figure) -> str:
    """Return a drawing as a file of its own, in the light palette on white, with its words."""
    body, (width, height) = _plain(svg)
    for role, ink in INKS.items():
        body = body.replace(ink.placeholder, "#ffffff" if role == "paper" else ink.light)
    inside, out = body[body.index(">") + 1 : body.rindex("</svg>")], []
    y = _MARGIN
    words = (
        (figure.title, 18.0, True, "ink", 0.0),
        (figure.subtitle, TEXT, False, "muted", 12.0),
        (f"{figure.label}. {figure.caption}", TEXT, False, "muted", 0.0),
    )
    for text, size, bold, role, below in words:
        if text == words[-1][0]:
            out.append(f'<g transform="translate({_MARGIN:g} {y:g})">{inside}</g>')
            y += height + 16
        weight = "700" if bold else "400"
        for line in wrapped(text, width / size, bold=bold):
            y += 1.35 * size
            out.append(
                f'<text x="{_MARGIN:g}" y="{y - 0.3 * size:.2f}" style="font-size: {size:g}px; '
                f'font-weight: {weight}; font-family: {_FONT}; fill: {INKS[role].light}">'
                f"{escape(line)}</text>"
            )
        y += below
    box = f"{width + 2 * _MARGIN:g}", f"{y + _MARGIN:.2f}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{box[0]}" height="{box[1]}" viewBox="0 0 {box[0]} {box[1]}" role="img">\n'
        f"<title>{escape(figure.title)}</title>\n<desc>{escape(figure.caption)}</desc>\n"
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n' + "\n".join(out) + "\n</svg>\n"
    )


def png_bytes(svg: str, *, zoom: float) -> bytes:
    """Return an SVG file as PNG, set in the DejaVu fonts that matplotlib brings."""
    import resvg_py
    from matplotlib import get_data_path

    folder = Path(get_data_path(), "fonts/ttf")
    faces = ("Sans", "Sans-Bold")
    fonts = [str(folder / f"DejaVu{face}.ttf") for face in faces]
    return bytes(
        resvg_py.svg_to_bytes(
            svg_string=svg, zoom=zoom, skip_system_fonts=True, font_files=fonts,
            sans_serif_family="DejaVu Sans",
        )
    )  # fmt: skip


@cache
def measured(text: str, *, bold: bool = False) -> float:
    """Return the width of a line in ems, as set in DejaVu Sans: few typefaces are wider."""
    return float(_typeface("DejaVuSans-Bold" if bold else "DejaVuSans").getlength(text)) / 100


@cache
def _typeface(name: str) -> Any:
    # Pillow comes with matplotlib. It also measures characters that the typeface lacks, without a
    # warning; its basic layout is the same in every build and refuses no text.
    from matplotlib import get_data_path
    from PIL import ImageFont

    path = str(Path(get_data_path(), f"fonts/ttf/{name}.ttf"))
    return ImageFont.truetype(path, 100, layout_engine=ImageFont.Layout.BASIC)


def wrapped(text: str, width: float, *, bold: bool = False) -> list[str]:
    """Return the lines of a text that is set in `width` ems."""
    lines: list[str] = []
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and measured(longer, bold=bold) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def shortened(text: str, width: float) -> str:
    """Return a text that fits into `width` ems, with an ellipsis where it was cut."""
    if measured(text) <= width:
        return text
    while text and measured(f"{text}…") > width:
        text = text[:-1].rstrip()
    return f"{text}…"


def spread(
    wanted: Sequence[float], gap: float, low: float = -math.inf, high: float = math.inf
) -> list[float]:
    """Return the places nearest to the wanted ones that lie at least `gap` apart, in their order.

    Nearest by the sum of squares: an isotonic regression after the gaps are taken off. Where they
    do not all fit between `low` and `high`, they begin at `low`.
    """
    from sklearn.isotonic import isotonic_regression

    if not len(wanted):
        return []
    order = np.argsort(np.asarray(wanted, dtype=np.float64), kind="stable")
    steps = gap * np.arange(len(order))
    places = np.empty(len(order))
    free = np.asarray(wanted, np.float64)[order] - steps
    places[order] = np.clip(isotonic_regression(free), low, max(low, high - steps[-1])) + steps
    return [float(place) for place in places]


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


_PAINTED: ContextVar[bool] = ContextVar("painted", default=False)


def colour(role: str) -> str:
    """Return the placeholder colour of a role; within `painted`, that of the light palette."""
    if not _PAINTED.get():
        return INKS[role].placeholder
    return "#ffffff" if role == "paper" else INKS[role].light


@contextmanager
def painted() -> Iterator[None]:
    """Draw in the light palette at once, on axes that are no part of a page."""
    token = _PAINTED.set(True)
    try:
        yield
    finally:
        _PAINTED.reset(token)


class Sheet:
    """What a figure is drawn on: a matplotlib figure measured in ems from its top left corner.

    Attributes
    ----------
    figure : matplotlib.figure.Figure
    em : float
        Size of all text, in points.
    width : float
        In ems.
    wide : bool
        Whether parts stand beside each other.
    """

    def __init__(self, figure: Any, em: float) -> None:
        self.figure, self.em = figure, em
        self.width = float(figure.get_figwidth()) * _INCH / em
        self.wide = self.width >= _NARROW_EMS
        self._height = 0.0

    def tall(self, height: float) -> None:
        """Set the height, in ems; before anything is drawn."""
        self._height = height
        self.figure.set_figheight(height * self.em / _INCH)

    def axes(self, left: float, top: float, width: float, height: float) -> Any:
        """Return new axes at this place."""
        across, down = self.width, self._height
        return self.figure.add_axes(
            (left / across, 1 - (top + height) / down, width / across, height / down)
        )

    def text(self, left: float, top: float, text: str, *, role: str = "ink", **style: Any) -> Any:
        """Write a line whose middle is `top` ems below the upper edge."""
        style.setdefault("va", "center")
        return self.figure.text(
            left / self.width, 1 - top / self._height, text, color=colour(role), **style
        )

    def key_height(self, entries: Sequence[tuple[str, str, str, Any]]) -> float:
        """Return how many ems the lines of a key take."""
        return 1.5 * (1 + max(line for line, _ in self._key_places(entries))) + 0.4

    def key(self, entries: Sequence[tuple[str, str, str, Any]]) -> None:
        """Draw a key at the top, from a text, role, marker and dash each."""
        from matplotlib.lines import Line2D

        places = self._key_places(entries)
        for (text, role, marker, dash), (line, left) in zip(entries, places, strict=True):
            y = 1 - (0.75 + 1.5 * line) / self._height
            self.figure.add_artist(
                Line2D(
                    [(left + at) / self.width for at in (0.0, 0.9, 1.8)], [y] * 3, marker=marker,
                    markevery=[1], linestyle=dash, color=colour(role),
                )
            )  # fmt: skip
            self.text(left + 2.3, 0.75 + 1.5 * line, text, role=role)

    def _key_places(self, entries: Sequence[tuple[str, Any, Any, Any]]) -> list[tuple[int, float]]:
        """Return line and left end of every entry of a key, broken where it would not fit."""
        places, line, left = [], 0, 0.0
        for text, *_ in entries:
            width = 2.3 + measured(text)
            if left and left + width > self.width:
                line, left = line + 1, 0.0
            places.append((line, left))
            left += width + 1.6
        return places

    def svg(self) -> str:
        """Return the drawing as SVG in placeholder colours."""
        return self._saved("svg", {"Date": None}).decode("utf-8")

    def pdf(self) -> bytes:
        """Return the drawing as PDF, without a date."""
        return self._saved("pdf", {"CreationDate": None, "Creator": None, "Producer": None})

    def _saved(self, form: str, metadata: dict[str, Any]) -> bytes:
        for axes in self.figure.axes:
            axes.patch.set_alpha(0.0)
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            # Of a name in another script: a browser has a typeface for it.
            warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
            self.figure.savefig(buffer, format=form, metadata=metadata)
        return buffer.getvalue()


@contextmanager
def canvas(width: float, text: float) -> Iterator[Sheet]:
    """Yield a sheet of this width and text size, both in points, which the drawing makes tall.

    Deterministic: no date, ids from a fixed salt, text kept as text.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as MatplotlibFigure

    settings = {
        "svg.fonttype": "none",
        "pdf.fonttype": 42,
        "text.parse_math": False,  # a name with dollars is no formula
        "svg.hashsalt": "headstock",
        "font.family": "DejaVu Sans",
        "font.size": text,
        "axes.titlesize": text,
        "axes.labelsize": text,
        "xtick.labelsize": text,
        "ytick.labelsize": text,
        "axes.edgecolor": colour("muted"),
        "axes.labelcolor": colour("muted"),
        "axes.linewidth": 0.06 * text,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.unicode_minus": True,
        "xtick.color": colour("muted"),
        "ytick.color": colour("muted"),
        "xtick.major.size": 0.3 * text,
        "xtick.major.pad": 0.3 * text,
        "xtick.major.width": 0.06 * text,
        "ytick.major.pad": 0.4 * text,
        "grid.color": colour("rule"),
        "grid.linewidth": 0.07 * text,
        "lines.linewidth": 0.16 * text,
        "lines.markersize": 0.5 * text,
        "text.color": colour("ink"),
    }
    with rc_context(settings):
        figure = MatplotlibFigure(figsize=(width / _INCH, 1))
        figure.patch.set_alpha(0.0)
        FigureCanvasSVG(figure)
        yield Sheet(figure, text)


def without_frame(axes: Any, *, grid: str) -> None:
    """Draw grid lines across an axis, and no left edge."""
    axes.grid(visible=True, axis=grid)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def ground() -> dict[str, Any]:
    """Return a box of the paper's colour behind a text that lines may cross."""
    return {"facecolor": colour("paper"), "edgecolor": "none", "pad": 1.0}


def few_ticks(axes: Any, side: str, unit: str = " %") -> None:
    """Put few round numbers on an axis, the last with its unit."""
    from matplotlib.ticker import MaxNLocator

    axis = axes.xaxis if side == "x" else axes.yaxis
    low, high = sorted(axis.get_view_interval())
    found = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    ticks = [round(t, 12) + 0.0 for t in found if low <= t <= high]
    texts = [f"{t:g}".replace("-", "\N{MINUS SIGN}") for t in ticks]
    axis.set_ticks(ticks, [*texts[:-1], *(text + unit for text in texts[-1:])])
