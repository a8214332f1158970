"""What reaches a terminal: texts that act on nothing, colours with a meaning, tables that fit.

Names and texts may be a stranger's. So whatever a command or a library prints while a command
runs goes through `VisibleText`: it shows what would act on a terminal.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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
    """Return a value as JSON that acts on no terminal."""
    import json

    return _ACTING.sub(_unicode, json.dumps(value, indent=2, ensure_ascii=False))


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
    of sets go; prose in the last column is wrapped; names are shortened in the middle; a value that
    is the same in all rows moves into a line above; and columns that still find no room are named
    below. Elsewhere the table is as wide as it is.

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
        return "".join(f"{line}\n" for line in self._lines(self._cells(), coloured=False))

    def show(self) -> None:
        """Print the table."""
        import shutil

        lines, above, below = self._cells(), "", ""
        if sys.stdout.isatty():
            room = shutil.get_terminal_size().columns - self.indent
            lines, above, below = _fitted(lines, room, headed=bool(self.headings))
        for line in (above, *self._lines(lines, coloured=is_coloured(sys.stdout)), below):
            if line:
                _draw(line, sys.stdout)

    def _cells(self) -> list[list[str]]:
        rows = [self.headings, *self.rows] if self.headings else self.rows
        return [[_like(cell, visible(cell).replace("\n", "\\n")) for cell in row] for row in rows]

    def _lines(self, lines: list[list[str]], *, coloured: bool) -> Iterator[str]:
        widths = _widths(lines)
        numbers = are_numbers(lines[bool(self.headings) :], len(widths))
        for number, line in enumerate(lines):
            cells = []
            for cell, width, numeric in zip(line, widths, numbers, strict=True):
                pad = " " * (width - len(cell))
                text = _in_tone(cell, cell, coloured=coloured)
                cells.append(pad + text if numeric else text + pad)
            yield (" " * self.indent + "  ".join(cells)).rstrip()
            if self.ruled and number == 0:
                yield " " * self.indent + "  ".join("─" * width for width in widths)


def are_numbers(rows: Sequence[Sequence[str]], n_columns: int) -> list[bool]:
    """Return which columns hold numbers, and are set to the right; the first holds names."""
    return [i > 0 and all(_NUMBER.match(row[i]) for row in rows) for i in range(n_columns)]


#: Characters that a name keeps, and those of a line of prose, however narrow a terminal is.
_NAME, _PROSE = 20, 24


def _fitted(lines: list[list[str]], room: int, *, headed: bool) -> tuple[list[list[str]], str, str]:
    """Return the lines of a table that fits, and what is said above and below it."""
    above = below = ""
    if _excess(lines, room) > 0:
        lines = _without_digits(lines)
    last = len(lines[0]) - 1 if lines else 0
    prose = last > 0 and (not headed or any(" " in line[last] for line in lines[1:]))
    if prose and (excess := _excess(lines, room)) > 0:
        lines = _wrapped(lines, max(_PROSE, _widths(lines)[last] - excess))
    found = _shortened(lines, room, prose=prose)
    if headed and _excess(found, room) > 0:
        lines, above = _without_shared(lines, last + 1 - prose)
        found = _shortened(lines, room, prose=prose)
    gone: list[str] = []
    while headed and _excess(found, room) > 0 and (column := len(found[0]) - 1 - prose) > 0:
        gone.insert(0, found[0][column])
        found = _without(found, [column])
    if gone:
        below = f"No room for {', '.join(gone)}: a wider terminal or a pipe has them."
    return found, above, below


def _without_shared(lines: list[list[str]], n_columns: int) -> tuple[list[list[str]], str]:
    """Return lines without the columns, of the first, that are the same in all rows; and these."""
    rows = [line for line in lines[1:] if any(line[:n_columns])]  # the rest are of wrapped prose
    columns = range(1, n_columns) if len(rows) > 1 else ()
    same = [i for i in columns if len({row[i] for row in rows}) == 1]
    values = [f"{lines[0][i]} {rows[0][i]}" for i in same if rows[0][i]]
    return _without(lines, same), f"In all rows: {', '.join(values)}." if values else ""


def _excess(lines: list[list[str]], room: int) -> int:
    """Return by how many characters lines are too wide."""
    widths = _widths(lines)
    return sum(widths) + 2 * (len(widths) - 1) - room


def _widths(lines: list[list[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*lines, strict=True)]


def _without(lines: list[list[str]], columns: Collection[int]) -> list[list[str]]:
    return [[cell for i, cell in enumerate(line) if i not in columns] for line in lines]


def _without_digits(lines: list[list[str]]) -> list[list[str]]:
    """Return lines whose names end before the digits, as long as they differ without these."""
    names = [_like(line[0], _DIGITS.sub("", line[0])) for line in lines]
    if len(set(names)) < len(lines):
        return lines
    return [[name, *line[1:]] for name, line in zip(names, lines, strict=True)]


def _wrapped(lines: list[list[str]], width: int) -> list[list[str]]:
    """Return lines whose last cells have at most so many characters, the rest in lines below."""
    found = []
    for *cells, prose in lines:
        first, *others = textwrap.wrap(prose, width, break_long_words=False) or [""]
        found.append([*cells, _like(prose, first)])
        found += [["" for _ in cells] + [_like(prose, other)] for other in others]
    return found


def _shortened(lines: list[list[str]], room: int, *, prose: bool) -> list[list[str]]:
    """Return lines whose longest names lack their middles, as far as they must."""
    widths = _widths(lines)
    numbers = are_numbers(lines[1:], len(widths))
    names = [i for i in range(len(widths) - prose) if not numbers[i]]
    for _ in range(max(0, _excess(lines, room))):
        widest = max(names, key=widths.__getitem__, default=None)
        if widest is None or widths[widest] <= _NAME:
            break
        widths[widest] -= 1
    return [[_like(c, _middle_out(c, w)) for c, w in zip(line, widths, strict=True)]
            for line in lines]  # fmt: skip


def _middle_out(text: str, width: int) -> str:
    """Return a text of at most so many characters, the middle of a longer one left out."""
    if len(text) <= width:
        return text
    head = width // 2
    return f"{text[:head]}…{text[len(text) - (width - head - 1) :]}"


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
