"""Locators: uris of items that are a part of a file, such as a member of a tar.

``shard-000.tar::img001.jpg`` is a member of a tar, ``part-0.parquet::image.bytes#17`` the cell of
a column in row 17. What stands before ``::`` is a path with the rules of every path; what stands
behind it is a name inside that file and never becomes a path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Between the file and the part of it.
SEPARATOR = "::"

#: Suffixes of the files that items can be parts of.
CONTAINER_SUFFIXES = (".tar", ".parquet", ".arrow")

#: A uri that is a locator; the same expression for Python and polars.
LOCATOR = r"(?s)^(.+?\.(?:tar|parquet|arrow))::(.+)$"

_LOCATOR = re.compile(LOCATOR)
_CELL = re.compile(r"(.+)#(0|[1-9][0-9]{0,14})")


@dataclass(frozen=True)
class Locator:
    """A part of a file."""

    file: str
    """Path of the file below the manifest's root."""

    part: str
    """Name of the part inside the file."""

    def cell(self) -> tuple[str, int] | None:
        """Return (column, row) if the part is the cell of a table, else None."""
        found = _CELL.fullmatch(self.part)
        return (found[1], int(found[2])) if found else None


def parse_locator(uri: str) -> Locator | None:
    """Return the locator that `uri` is, or None if it is the path of a whole file.

    Examples
    --------
    >>> parse_locator("train/00.tar::n01/cat.jpg")
    Locator(file='train/00.tar', part='n01/cat.jpg')
    >>> parse_locator("images/a::b.jpg") is None
    True
    """
    found = _LOCATOR.match(uri) if SEPARATOR in uri else None
    return Locator(found[1], found[2]) if found else None


def cell_uri(file: str, column: str, row: int) -> str:
    """Return the locator of one cell of a Parquet or Arrow file."""
    return f"{file}{SEPARATOR}{column}#{row}"


def member_uri(file: str, member: str) -> str:
    """Return the locator of one member of a tar."""
    return f"{file}{SEPARATOR}{member}"
