"""Whether what many clients saw of a register is what one after another could have seen.

A register holds a value. A push replaces the value `base` by `new`, if `base` is what it holds, and
no two pushes have the same `new`. That makes the question of Wing and Gong, which is hard for any
register, easy for this one: each value names the push that made it, so the order of the pushes is
known, and with it the place of each read, right behind the push whose value it returned. A history
is linearizable if and only if no operation that ended before another began has the later place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Operation:
    """A push or a read of one client.

    Attributes
    ----------
    start, end : int
        When it was called and when it returned, by a clock that all clients share.
    value : str
        What was read, or pushed; ``""`` is the value of a register that nobody has pushed to.
    base : str or None
        What a push replaces; None of a read.
    ok : bool
        False of a push that was refused, which must have had no effect.
    """

    start: int
    end: int
    value: str
    base: str | None = None
    ok: bool = True


def violations(chain: Sequence[str], operations: Sequence[Operation]) -> list[str]:
    """Return why a history is not that of a register whose values were `chain`, the oldest first.

    None is returned of a history that is linearizable, with every push that was acknowledged in it
    once (nothing is lost) and none that was refused.
    """
    place = {value: 2 * number for number, value in enumerate(["", *chain])}
    found = []
    if len(place) != len(chain) + 1:
        found.append("a value is in the chain twice")
    pushes = {one.value: one for one in operations if one.base is not None and one.ok}
    for value, before in zip(chain, ["", *chain], strict=False):
        if value not in pushes:
            found.append(f"{value} was pushed by nobody")
        elif pushes[value].base != before:
            found.append(f"{value} replaced {before}, not {pushes[value].base}")
    for one in operations:
        if one.base is not None and one.ok != (one.value in place):
            found.append(f"{one.value} was {'lost' if one.ok else 'published though refused'}")
        elif one.base is None and one.value not in place:
            found.append(f"{one.value} was read and never published")
    return found or _order(place, operations)


def _order(place: dict[str, int], operations: Sequence[Operation]) -> list[str]:
    """Return the operations that ended before another began and have a later place."""
    seen = [one for one in operations if one.base is None or one.ok]
    placed = [(one, place[one.value] + (one.base is None)) for one in seen]
    found: list[str] = []
    ends = sorted(placed, key=lambda entry: entry[0].end)
    latest, done = (-1, ""), 0
    for one, where in sorted(placed, key=lambda entry: entry[0].start):
        while done < len(ends) and ends[done][0].end < one.start:
            latest, done = max(latest, (ends[done][1], ends[done][0].value)), done + 1
        if where < latest[0]:
            found.append(f"{one.value} was seen after {latest[1]}")
    return found
