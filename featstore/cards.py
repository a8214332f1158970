"""Cards: what an object shows of itself, as plain lines in a terminal and a table in a notebook.

Names and values may come from a store of anyone's: they are escaped in either form. The HTML has no
script and no colour of its own, so that it reads in dark themes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

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
