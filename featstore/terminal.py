"""What reaches a terminal or a notebook: texts that act on nothing, tables, progress, and cards.

Names and texts may be a stranger's. So whatever a command or a library prints while a command
runs goes through `VisibleText`: it shows what would act on a terminal. What a long command shows
while it works goes to stderr; sizes and times are in a person's words. Cards are plain lines in a
terminal and a table in a notebook: HTML without a script or a colour of its own, so that it reads
in dark themes.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any, Self, TextIO

import click

if TYPE_CHECKING:
    from rich.console import RenderableType

#: What acts on a terminal instead of being shown: control characters but newline and tab, marks
#: that turn the direction of what follows, separators of lines, halves of surrogate pairs, and
#: what is no character.
_ACTING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def visible(text: str) -> str:
    r"""Return a text in which what acts on a terminal is escaped.

    Examples
    --------
    >>> print(visible("a\x1b]52;c;YQ==\x07\u202eb"))
    a\x1b]52;c;YQ==\x07\u202eb
    """
    return _ACTING.sub(
        lambda found: f"\\x{ord(found[0]):02x}" if found[0] < "\u0100" else _unicode(found), text
    )


def _unicode(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def json_text(value: Any) -> str:
    """Return a value as JSON that acts on no terminal; numbers that JSON lacks are null."""
    import json

    plain = json.loads(json.dumps(value), parse_constant=lambda _: None)
    return _ACTING.sub(_unicode, json.dumps(plain, indent=2, ensure_ascii=False))


class VisibleText:
    """A stream of text that acts on no terminal, whatever is written to it.

    Attributes
    ----------
    stream : text stream
        Where it goes; only what a command itself draws is written there directly.
    """

    #: So that nobody writes past it.
    buffer = None

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str | bytes) -> int:
        """Write a text; what the encoding lacks is escaped, too."""
        if isinstance(text, bytes):  # click's, of a completion
            text = text.decode("utf-8", "replace")
        self.stream.write(encodable(visible(text), self.stream))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def encodable(text: str, stream: Any) -> str:
    """Return a text in which what a stream's encoding lacks is escaped."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def drawing_on(stream: Any) -> Any:
    """Return where a command draws whose texts are visible already: behind `VisibleText`."""
    return stream.stream if isinstance(stream, VisibleText) else stream


@contextlib.contextmanager
def visible_output() -> Iterator[None]:
    """Within the block, whatever is printed is made visible."""
    with contextlib.ExitStack() as stack:
        for stream, redirect in (
            (sys.stdout, contextlib.redirect_stdout), (sys.stderr, contextlib.redirect_stderr),
        ):  # fmt: skip
            if stream is not None and not isinstance(stream, VisibleText):
                stack.enter_context(redirect(VisibleText(stream)))
        yield


#: The digits of a set_id at the end of a set's name, and how a number or a size begins.
_DIGITS = re.compile(r"-[0-9a-f]{8}(?=\s|$)")
_NUMBER = re.compile(r"[*]*[-+\N{MINUS SIGN}\[<\d]|$")


class Toned(str):
    """A text with a meaning, which a terminal shows by keywords of `click.style`.

    Examples
    --------
    >>> Toned("OK", fg="green") == "OK"
    True
    """

    __slots__ = ("style",)

    style: dict[str, Any]

    def __new__(cls, text: str, **style: Any) -> Self:
        """Return `text` in this style."""
        toned = super().__new__(cls, text)
        toned.style = style
        return toned


#: What colours mean: green is fine, yellow needs a look, red is wrong; the best value is bold, and
#: what few readers need (digits of an id, controls) is dim.
good = partial(Toned, fg="green")
warning = partial(Toned, fg="yellow")
bad = partial(Toned, fg="red")
dim = partial(Toned, dim=True)
best = partial(Toned, bold=True)


def is_coloured(stream: Any) -> bool:
    """Return whether what is printed on a stream may have colours.

    At a terminal it may, unless TERM is dumb. NO_COLOR switches colours off, FORCE_COLOR on.
    """
    if os.environ.get("NO_COLOR"):
        return False
    is_terminal = stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
    return bool(os.environ.get("FORCE_COLOR")) or is_terminal


def say(*parts: str, err: bool = False) -> None:
    """Print a line of texts, on stderr if `err`; `Toned` ones in their colours."""
    stream = sys.stderr if err else sys.stdout
    coloured = is_coloured(stream)
    _draw("".join(_in_tone(part, visible(part), coloured=coloured) for part in parts), stream)


def _draw(line: str, stream: Any) -> None:
    """Print a line whose texts are visible already."""
    out = drawing_on(stream)
    click.echo(encodable(line, out), file=out, color=True)


def _in_tone(cell: str, text: str, *, coloured: bool) -> str:
    """Return the text of a cell as it is printed."""
    if not coloured or not text:
        return text
    if isinstance(cell, Toned):
        return click.style(text, **cell.style)
    return _DIGITS.sub(lambda found: click.style(found[0], dim=True), text, count=1)


@dataclass(frozen=True)
class TextTable:
    """Rows in columns, numbers to the right.

    A terminal gets the table in its own width: where room is short, texts are wrapped. Elsewhere
    the table is as wide as it is.

    Attributes
    ----------
    headings : sequence of str
        Empty for a table without headings.
    rows : sequence of rows
        A text a column, of which `Toned` ones have a colour.
    ruled : bool
        Whether a line is drawn below the headings.
    indent : int
        Blanks before every line.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    ruled: bool = False
    indent: int = 0

    def text(self) -> str:
        """Return the table as plain text."""
        return "".join(f"{line}\n" for line in self._drawn(_WIDE, coloured=False))

    def show(self) -> None:
        """Print the table."""
        import shutil

        room = _WIDE
        if sys.stdout is not None and sys.stdout.isatty():
            room = shutil.get_terminal_size().columns - self.indent
        # What is the same in all rows is said once; a few rows are read as they are.
        same = {
            i for i, own in enumerate(zip(*self.rows, strict=True))
            if i and self.headings and len(own) >= _FEW and own[0] and len(set(own)) == 1
        }  # fmt: skip
        for i in sorted(same):
            constant = f"{self.headings[i]}: {self.rows[0][i]}"
            say(" " * self.indent, constant.replace("\n", "\\n"))
        kept = [[cell for i, cell in enumerate(row) if i not in same]
                for row in (self.headings, *self.rows)]  # fmt: skip
        table = replace(self, headings=kept[0], rows=kept[1:])
        for line in table._drawn(room, coloured=is_coloured(sys.stdout)):
            _draw(" " * self.indent + line, sys.stdout)

    def _drawn(self, width: int, *, coloured: bool) -> list[str]:
        """Return the lines of the table in a width, texts made visible."""
        import io

        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        def shown(cell: str) -> Text:
            plain = visible(cell).replace("\n", "\\n")
            return Text.from_ansi(_in_tone(cell, plain, coloured=coloured))

        table = Table(
            box=SIMPLE_HEAD if self.ruled else None, padding=(0, 2 - self.ruled, 0, 0),
            pad_edge=False, show_edge=False, show_header=bool(self.headings), header_style="",
        )  # fmt: skip
        headings = self.headings or (self.rows[0] if self.rows else ())
        for heading, numeric in zip(headings, are_numbers(self.rows, len(headings)), strict=True):
            justify: Any = "right" if numeric else "left"
            table.add_column(shown(heading), justify=justify, no_wrap=numeric, overflow="fold")
        for row in self.rows:
            table.add_row(*map(shown, row))
        drawn, colours = io.StringIO(), "standard" if coloured else None
        how: dict[str, Any] = {"force_terminal": coloured, "color_system": colours, "_environ": {}}
        Console(file=drawn, width=width, **how).print(table)
        return [line.rstrip() for line in drawn.getvalue().splitlines()]


#: Rows from which on a column that is the same in all of them is printed above the table.
_FEW = 4

#: Columns of a table that nobody looks at in a terminal.
_WIDE = 10**6


def are_numbers(rows: Sequence[Sequence[str]], n_columns: int) -> list[bool]:
    """Return which columns hold numbers, and are set to the right; the first holds names."""
    return [i > 0 and all(_NUMBER.match(row[i]) for row in rows) for i in range(n_columns)]


def print_facts(sections: Mapping[str, Sequence[tuple[str, str]]]) -> None:
    """Print facts in sections: below each heading a line a fact, name and value.

    A fact without a name goes on with the one above; a section without facts is left out.
    """
    given = {title: facts for title, facts in sections.items() if facts}
    width = max((len(name) for facts in given.values() for name, _ in facts), default=0)
    for number, (title, facts) in enumerate(given.items()):
        say(*(["\n"] if number else []), best(title))
        named = any(name for name, _ in facts)
        rows = [((name.ljust(width),) if named else ()) + (value,) for name, value in facts]
        TextTable((), rows, indent=2).show()


def in_words(value: Any) -> str:
    """Return a value of a document in words.

    Examples
    --------
    >>> in_words({"crop_pct": 0.875, "size": [3, 224], "icc": None, "names": ["a", "b"]})
    'crop pct 0.875, size 3 × 224, names a and b'
    >>> in_words(4652008), in_words(True), in_words(0.20563058), in_words([])
    ('4,652,008', 'yes', '0.2056', 'none')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        facts = ((str(name).replace("_", " "), one) for name, one in value.items())
        return ", ".join(f"{name} {in_words(one)}" for name, one in facts if one is not None)
    if isinstance(value, list | tuple):
        if value and all(isinstance(one, int) and not isinstance(one, bool) for one in value):
            return " × ".join(map(in_words, value))
        *others, last = map(in_words, value) if value else ("none",)
        return f"{', '.join(others)} and {last}" if others else last
    return str(value)


def human_bytes(size: int) -> str:
    """Return a size in the unit that leaves one to three digits before the point."""
    value, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if value < 999.5:  # what is printed is rounded
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"


#: Seconds from one line to the next where stderr is not a terminal.
EVERY = 30.0

#: Seconds after which a log says what is going on.
SOON = 1.0

#: Drawings a second at a terminal, and the width of the bar there, in characters.
REFRESH = 4.0
BAR = 20


class ProgressBar:
    """Shows on stderr how far a command is, with rate and time left; nothing on stdout.

    Entered as a context. At a terminal it is a bar. Elsewhere it is a line after a second and one
    every half minute, also while nothing advances: a log then shows that the command lives. What is
    done within a second gets one line at the end, or
    none if nothing was counted.

    Parameters
    ----------
    what : str
        What is worked on, such as ``"toy/image"``: the beginning of every line.
    unit : str, optional
        What is counted, in the plural: ``"rows"``; ``"bytes"`` are shown as KiB, MiB …. Without
        one the note alone says how far it is.
    total : int, optional
        How many there are; 0 shows nothing at all.
    doing : str, optional
        The note until another is given, such as ``"fitting"``.
    terminal : bool, optional
        Whether stderr is a terminal; looked up by default.

    Examples
    --------
    >>> with ProgressBar("birds", "images", total=3, terminal=False) as bar:
    ...     for _ in range(3):
    ...         bar.advance()
    """

    def __init__(
        self,
        what: str,
        unit: str = "",
        *,
        total: int | None = None,
        doing: str = "",
        terminal: bool | None = None,
    ) -> None:
        self._what, self._unit, self._total, self._note = what, unit, total, doing
        if terminal is None:
            terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._terminal = terminal
        self._done, self._counted = 0, False
        self._rate: str | None = None
        self._left: float | None = None
        self._ending = ""
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        if self._total == 0:
            return self
        if self._terminal:
            from rich.console import Console
            from rich.live import Live

            # What is printed on stdout meanwhile stays there.
            self._live = Live(
                console=Console(file=drawing_on(sys.stderr), force_terminal=True),
                get_renderable=self._draw,
                refresh_per_second=REFRESH,
                redirect_stdout=False,
            )
            self._live.start()
            sys.stderr = VisibleText(sys.stderr)  # what others print above the bar
        else:
            self._thread = threading.Thread(target=self._write_lines, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._total == 0:
            return
        if self._terminal:
            self._live.transient = not self._counted
            self._live.stop()
        else:
            self._ended.set()
            self._thread.join()
            if self._counted:
                click.echo(self.line(), err=True)
        if self._ending:
            click.echo(self._ending, err=True)

    def advance(self, n: int = 1) -> None:
        """Count `n` more as done; any thread may."""
        with self._lock:
            self._done += n
            self._counted = True

    def stage(self, name: str) -> None:
        """Say what begins now, such as ``"reading pairs"``."""
        with self._lock:
            self._note = name

    def update(
        self,
        done: int,
        total: int | None = None,
        *,
        rate: str | None = None,
        left: float | None = None,
        note: str = "",
        ending: str = "",
    ) -> None:
        """Say how far it is.

        Parameters
        ----------
        done, total : int
            In the unit of the bar; without a total the last one stays.
        rate : str, optional
            Such as ``"12.5 items/s"``; by default what was done since the start, by the seconds.
        left : float, optional
            Seconds that are left; by default at the pace since the start.
        note : str, optional
            What else there is to say.
        ending : str, optional
            A sentence for a line of its own, should this be the last update.
        """
        with self._lock:
            self._done, self._total = done, self._total if total is None else total
            self._rate, self._left, self._note, self._ending = rate, left, note, ending
            self._counted = True

    def line(self) -> str:
        """Return what there is to say now, in one line."""
        with self._lock:
            seconds = time.monotonic() - self._started
            parts, left = [], self._left
            if self._unit and (self._counted or self._total is not None):
                pace = self._done / seconds if seconds > 0 else 0.0
                parts.append(self._count())
                if self._rate or pace:
                    parts.append(self._rate or self._pace(pace))
                if left is None and pace and self._total is not None:
                    left = (self._total - self._done) / pace
            if left:
                parts.append(f"{duration(left)} left")
            parts += [self._note] if self._note else []
            if not self._counted and self._total is None:
                parts.append(f"{duration(seconds)} so far")
        return f"{self._what}: {', '.join(parts)}"

    def _count(self) -> str:
        if self._unit == "bytes":
            return human_bytes(self._done)
        if self._total is None:
            return f"{self._done:,} {self._unit}"
        share = self._done / max(1, self._total)
        return f"{self._done:,} of {self._total:,} {self._unit} ({share:.0%})"

    def _pace(self, per_second: float) -> str:
        if self._unit == "bytes":
            return f"{human_bytes(round(per_second))}/s"
        if per_second < 1:
            return f"{60 * per_second:,.1f} {self._unit}/min"
        return f"{per_second:,.1f} {self._unit}/s"

    def _draw(self) -> RenderableType:
        from rich.progress_bar import ProgressBar as Drawn
        from rich.table import Column, Table
        from rich.text import Text

        row = Table.grid(Column(ratio=1), Column(width=BAR), padding=(0, 1))
        bar = Drawn(self._total, self._done, width=BAR, pulse=self._total is None)
        row.add_row(Text(visible(self.line())), bar)
        return row

    def _write_lines(self) -> None:
        """Write a line soon, and one now and then, until the end."""
        wait = SOON
        while not self._ended.wait(wait):
            click.echo(self.line(), err=True)
            wait = EVERY


@contextmanager
def show_log(*names: str) -> Iterator[None]:
    """Show on stderr what these loggers say."""
    import logging

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)


def show_failures(failures: Mapping[str, str], *, shown: int = 20) -> None:
    """Print on stderr which items have no embedding, and why: the first few."""
    for item, reason in list(failures.items())[:shown]:
        click.echo(f"skipped {item}: {reason}", err=True)
    if len(failures) > shown:
        click.echo(f"… and {len(failures) - shown:,} more, in failures.parquet", err=True)


def duration(seconds: float) -> str:
    """Return seconds in their largest unit.

    Examples
    --------
    >>> [duration(s) for s in (0.4, 42, 312, 7260, 1e6)]
    ['0.4 s', '42 s', '5.2 min', '2.0 h', '11.6 d']
    """
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def age(when: float) -> str:
    """Return how long ago a time was, in its largest unit."""
    return duration(max(0.0, time.time() - when))


# ---- Cards: what an object shows of itself, in a terminal and in a notebook ----------------

LINES, WIDTH, LONGEST = 6, 100, 400
"""Lines of the plain form, characters of each but the first, and of anything that is shown."""

SHOWN = 20
"""Rows of a table that a card shows."""

_LEFT = 'style="text-align:left"'

#: A table that is wider than a notebook scrolls by itself, and a long word is broken.
_FITS = 'style="max-width:1000px;overflow-x:auto;overflow-wrap:anywhere"'


@dataclass(frozen=True)
class Card:
    """A title, a few facts, and a table.

    Attributes
    ----------
    title : str
        The first line.
    facts : mapping
        Name → value; None and empty values are left out. The plain form shows the first five.
    columns : sequence of str
    table : sequence of rows
        Shown in a notebook alone, one value a column.
    left_out : int
        Rows of the table that are not shown.
    """

    title: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    columns: Sequence[str] = ()
    table: Sequence[Sequence[Any]] = ()
    left_out: int = 0

    def __str__(self) -> str:
        facts = self._given
        wide = max(map(len, facts), default=0)
        lines = [f"  {name:<{wide}}  {value}" for name, value in facts.items()][: LINES - 1]
        return "\n".join([printable(self.title), *(printable(line, WIDTH) for line in lines)])

    @property
    def _given(self) -> dict[str, Any]:
        return {name: value for name, value in self.facts.items() if value not in (None, "")}

    @property
    def html(self) -> str:
        """The card as HTML, everything that is not of this file escaped."""
        facts = "".join(
            f'<tr><th {_LEFT} scope="row">{_cell(name)}</th><td {_LEFT}>{_cell(value)}</td></tr>'
            for name, value in self._given.items()
        )
        head = "".join(f"<th {_LEFT}>{_cell(name)}</th>" for name in self.columns)
        rows = "".join(
            f"<tr>{''.join(f'<td {_LEFT}>{_cell(value)}</td>' for value in row)}</tr>"
            for row in self.table
        )
        return (
            f"<div {_FITS}><strong>{_cell(self.title)}</strong>"
            + (f"<table><tbody>{facts}</tbody></table>" if facts else "")
            + (
                f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
                if rows
                else ""
            )
            + (f"<div>… and {self.left_out:,} more</div>" if self.left_out else "")
            + "</div>"
        )


class Shown:
    """Base of what shows itself by a card."""

    @abstractmethod
    def _card(self) -> Card:
        """Return what is shown."""

    def __repr__(self) -> str:
        return str(self._card())

    def _repr_html_(self) -> str:
        return self._card().html

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """Return both forms: scikit-learn's own method of this name would show its diagram."""
        return {"text/plain": repr(self), "text/html": self._repr_html_()}


def printable(value: Any, longest: int = LONGEST) -> str:
    """Return a value as one line of printable characters, cut if it is long."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(value)[: longest + 1])
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def _cell(value: Any) -> str:
    return escape(printable(value))
