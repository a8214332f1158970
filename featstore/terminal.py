"""What reaches a terminal: texts that act on nothing, colours with a meaning, tables that fit.

Names and texts may be a stranger's. So whatever a command or a library prints while a command
runs goes through `VisibleText`: it shows what would act on a terminal.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, TextIO

import click

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

    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(_with_nulls(value), indent=2, ensure_ascii=False)
    return _ACTING.sub(_unicode, text)


def _with_nulls(value: Any) -> Any:
    """Return a value with None for every NaN and every infinity in it."""
    if isinstance(value, dict):
        return {key: _with_nulls(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_with_nulls(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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


def _like(cell: str, text: str) -> str:
    """Return a text in the tone of a cell."""
    return Toned(text, **cell.style) if isinstance(cell, Toned) else text


@dataclass(frozen=True)
class TextTable:
    """Rows in columns, numbers to the right.

    A terminal gets the table in its own width. Where room is short, the digits that end the names
    of sets go, and texts are wrapped. Elsewhere the table is as wide as it is.

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
        return "".join(f"{line}\n" for line in self._drawn(self.rows, _WIDE, coloured=False))

    def show(self) -> None:
        """Print the table."""
        import shutil

        rows, room = self.rows, _WIDE
        if sys.stdout is not None and sys.stdout.isatty():
            room = shutil.get_terminal_size().columns - self.indent
            whole = self._drawn(rows, _WIDE, coloured=False)
            names = [_like(row[0], _DIGITS.sub("", row[0])) for row in rows]
            if max(map(len, whole), default=0) > room and len(set(names)) == len(names):
                rows = [[name, *row[1:]] for name, row in zip(names, rows, strict=True)]
        for line in self._drawn(rows, room, coloured=is_coloured(sys.stdout)):
            _draw(" " * self.indent + line, sys.stdout)

    def _drawn(self, rows: Sequence[Sequence[str]], width: int, *, coloured: bool) -> list[str]:
        """Return the lines of the table in a width, texts made visible."""
        import io

        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.style import Style
        from rich.table import Table
        from rich.text import Text

        def shown(cell: str) -> Text:
            text = Text(visible(cell).replace("\n", "\\n"))
            if isinstance(cell, Toned):
                names = {"fg": "color"}  # click's words, and rich's
                text.stylize(Style(**{names.get(k, k): v for k, v in cell.style.items()}))
            else:
                text.highlight_regex(_DIGITS, "dim")
            return text

        table = Table(
            box=SIMPLE_HEAD if self.ruled else None, padding=(0, 2 - self.ruled, 0, 0),
            pad_edge=False, show_edge=False, show_header=bool(self.headings), header_style="",
        )  # fmt: skip
        headings = self.headings or (rows[0] if rows else ())
        for heading, numeric in zip(headings, are_numbers(rows, len(headings)), strict=True):
            justify: Any = "right" if numeric else "left"
            table.add_column(shown(heading), justify=justify, no_wrap=numeric, overflow="fold")
        for row in rows:
            table.add_row(*map(shown, row))
        drawn, colours = io.StringIO(), "standard" if coloured else None
        how: dict[str, Any] = {"force_terminal": coloured, "color_system": colours, "_environ": {}}
        Console(file=drawn, width=width, **how).print(table)
        return [line.rstrip() for line in drawn.getvalue().splitlines()]


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
