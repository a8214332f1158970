"""Colours of a report, and what every figure of it has: words, numbers and one drawing.

A figure is drawn once, in the light palette, and matplotlib lays it out. On the page its colours
become CSS variables, so that the browser paints them for either mode. Hues can be distinguished in
all common forms of colour blindness, and every role has its own marker and dash as well.
"""

from __future__ import annotations

import base64
import io
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from typing import Any

import polars as pl

from bench.tables import comma_separated
from featstore.errors import needs_extra


@dataclass(frozen=True)
class Ink:
    """A role's colours on paper, in which it is drawn and which nothing else has, and on dark."""

    light: str
    dark: str


INKS: dict[str, Ink] = {
    "paper": Ink("#fcfbf8", "#14161a"),
    "ink": Ink("#1c1e22", "#e9e7e2"),
    "muted": Ink("#63666d", "#a2a4a9"),
    "rule": Ink("#e3e0d8", "#30343a"),
    "head": Ink("#0a5ea8", "#6fb7f5"),
    "real": Ink("#4d5057", "#c3c5c9"),
    "random": Ink("#bd5206", "#f2a65a"),
    "random-cov": Ink("#8a6d00", "#d9c15a"),
    "shuffled": Ink("#9c4a8b", "#dc9fce"),
    "conse": Ink("#0b7657", "#55c9a6"),
    "rotated": Ink("#7a5c3a", "#c9a987"),
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


def css_variables() -> str:
    """Return a sheet of the colours of all roles, on paper and on a dark screen."""
    light, dark = (
        " ".join(f"--{role}: {getattr(ink, mode)};" for role, ink in INKS.items())
        for mode in ("light", "dark")
    )
    return f":root{{{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"


def colour(role: str) -> str:
    """Return the colour that a role is drawn in."""
    return INKS[role].light


DASHED, DOTTED = (0, (4, 2)), (0, (1, 2))

#: CSS pixels, which are the points of a drawing: of text, and of a figure's width.
TEXT, WIDE = 13.0, 760.0

#: How every figure looks. Text is kept as text, and nothing depends on the date.
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "headstock",
    "pdf.fonttype": 42,
    "text.parse_math": False,  # a name with dollars is no formula
    "text.color": colour("ink"),
    "font.family": "DejaVu Sans",
    "font.size": TEXT,
    "axes.titlesize": TEXT,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": TEXT,
    "axes.edgecolor": colour("muted"),
    "axes.labelcolor": colour("muted"),
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "figure.constrained_layout.w_pad": 0.1,
    "figure.constrained_layout.hspace": 0.06,
    "xtick.color": colour("muted"),
    "ytick.color": colour("muted"),
    "ytick.major.size": 0,
    "grid.color": colour("rule"),
    "lines.linewidth": 2.0,
    "lines.markersize": 6.5,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.1,
}


@dataclass(frozen=True, repr=False)
class Figure:
    """A figure: its words, its numbers, and its drawing.

    Attributes
    ----------
    kind : str
        Which figure of a report; also how the names of its files begin.
    title : str
        What it shows, in a sentence made from the data.
    subtitle : str
        What is drawn and its unit.
    caption : str
        What a reader needs to quote it, in one sentence; also read in place of the picture.
    data : DataFrame
        What is drawn, unrounded.
    draw : callable
        Draws it on a `matplotlib.figure.Figure`.
    height : float
        In CSS pixels.
    method : str
        Name of the method that it is about; empty if it is about several.
    number : int
        In the order of the page; 0 before a page has numbered it.
    width : float
        In CSS pixels, at which text has 13.
    """

    kind: str
    title: str
    subtitle: str
    caption: str
    data: pl.DataFrame
    draw: Callable[[Any], None]
    height: float
    method: str = ""
    number: int = 0
    width: float = WIDE

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
        """Return the drawing as a part of a page, in its CSS variables; ids begin with the name."""
        svg = self._saved("svg", {"Date": None}).decode("utf-8")
        body = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
        # matplotlib's style element would reach the whole page; the page's own sheet has its rule.
        body = re.sub(r"<style.*?</style>", "", body, count=1, flags=re.DOTALL)
        body = re.sub(r' (width|height)="[\d.]+pt"', "", body, count=2)
        body = re.sub(r'\bid="|(href="#|url\(#)', rf"\g<0>{self.name}-", body)
        for role, ink in INKS.items():
            body = body.replace(ink.light, f"var(--{role})")
        words = (
            f'<title id="{self.name}-title">{escape(self.title)}</title>'
            f'<desc id="{self.name}-text">{escape(self.caption)}</desc>'
        )
        opening = f'<svg role="img" style="min-width: {0.93 * self.width:g}px" '
        opening += f'aria-labelledby="{self.name}-title" aria-describedby="{self.name}-text" '
        end = body.index(">") + 1
        return f"{opening}{body[len('<svg ') : end]}{words}{body[end:]}"

    def png(self) -> bytes:
        """Return the drawing as a picture, with the words inside."""
        return self._saved("png", {"Software": None}, words=True)

    def links(self) -> dict[str, str]:
        """Return what a page holds to be saved, as addresses by ending: picture and numbers."""
        csv = comma_separated(self.data).encode("utf-8")
        return {"png": data_uri("image/png", self.png()), "csv": data_uri("text/csv", csv)}

    def pdf(self) -> bytes:
        """Return the drawing as a PDF without words: TrueType fonts embedded, and no date."""
        return self._saved("pdf", {"CreationDate": None, "Creator": None, "Producer": None})

    @cached_property
    @needs_extra("A figure")
    def drawing(self) -> Any:
        """The drawing as a `matplotlib.figure.Figure`, laid out once for all its files."""
        from matplotlib.figure import Figure as Drawing
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        drawing = Drawing(figsize=(self.width / 72, self.height / 72))
        self.draw(drawing)
        # Of a figure with an engine every file would be laid out, and drawn, twice.
        ConstrainedLayoutEngine().execute(drawing)
        return drawing

    def __repr__(self) -> str:
        return f"{self.label}: {self.title}"

    def _repr_png_(self) -> bytes:
        return self.png()

    @needs_extra("A figure")
    def _saved(self, form: str, metadata: dict[str, Any], *, words: bool = False) -> bytes:
        """Return the drawing in a format; with its title above and its caption below if asked."""
        from matplotlib import rc_context
        from matplotlib.transforms import Bbox

        buffer, how = io.BytesIO(), {"format": form, "metadata": metadata, "dpi": 144}
        with rc_context(STYLE), warnings.catch_warnings():
            # Of a name in another script: a browser has a typeface for it.
            warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
            if words:
                title = textwrap.wrap(self.title, int(self.width / 9.5))
                below = textwrap.wrap(f"{self.label}. {self.caption}", int(self.width / 8.5))
                texts = [
                    self.drawing.text(
                        0.01, 1.0, "\n".join([*title, ""]), va="bottom", weight="bold"
                    ),
                    self.drawing.text(
                        0.01, -0.01, "\n".join(below), va="top", color=colour("muted")
                    ),
                ]
                # How much room they take is known: finding it out would draw everything once more.
                line = 1.3 * TEXT / 72
                size = self.width / 72, self.height / 72 + line * (len(title) + 2)
                room = Bbox.from_extents(0, -line * (len(below) + 1), *size)
                self.drawing.savefig(buffer, bbox_inches=room, facecolor="white", **how)
                for text in texts:
                    text.remove()
            else:
                self.drawing.savefig(buffer, **how)
        return buffer.getvalue()


def data_uri(kind: str, content: bytes) -> str:
    """Return the address of a content of a MIME type that holds the content itself."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def numbered(figures: Iterable[Figure | None]) -> list[Figure]:
    """Return the figures that there are with their numbers: those of one kind share one."""
    kept = [figure for figure in figures if figure is not None]
    kinds = list(dict.fromkeys(figure.kind for figure in kept))
    return [replace(figure, number=1 + kinds.index(figure.kind)) for figure in kept]


def panels(figure: Any, n: int, columns: int, **shared: bool) -> list[Any]:
    """Return so many axes of a matplotlib figure, in rows of at most so many columns."""
    columns = max(1, min(n, columns))
    axes = figure.subplots(-(-n // columns), columns, squeeze=False, **shared).ravel()
    for unused in axes[n:]:
        unused.set_axis_off()
    return list(axes[:n])


def with_ticks(axes: Any, side: str, unit: str = "%") -> None:
    """Put few round numbers with their unit on the axis ``"x"`` or ``"y"``, and a grid across."""
    from matplotlib.ticker import MaxNLocator

    axis = axes.xaxis if side == "x" else axes.yaxis
    axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(lambda value, _: f"{value:g} {unit}".replace("-", "\N{MINUS SIGN}"))
    axes.grid(visible=True, axis=side)


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
