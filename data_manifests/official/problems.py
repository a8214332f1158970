"""What is wrong with a copy of a dataset, item by item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "missing list", "changed list", "unreadable list", "missing folder", "missing image",
    "empty image", "bad path", "listed twice", "images", "captions", "classes", "class",
]  # fmt: skip

#: Nothing can be built before these are gone.
FATAL: tuple[Kind, ...] = ("missing list", "unreadable list", "missing folder", "bad path")


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it should be."""

    kind: Kind
    """Which sort of thing."""

    where: str
    """The file, image, split or class."""

    text: str
    """One sentence: what is wrong, and what to do."""


def summary(problems: Sequence[Problem], shown: int = 5) -> str:
    """Return the first problems in one line, and how many more there are."""
    first = " ".join(problem.text for problem in problems[:shown])
    more = len(problems) - shown
    return first + (f" And {more:,} more." if more > 0 else "")
