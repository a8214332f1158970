"""Commands that stand still while others run to their end; see `interleavings`.

Some, among them all places of those that once lost a set or a tag; ``make faults`` tries all.
"""

from __future__ import annotations

import json
import random

import pytest

from tests.faults.interleavings import COMMANDS, WORLDS, Bed, Interleaving, bed, every
from tests.tables import DATA

#: Interleavings that are drawn in each world, the same ones every time.
DRAWN = 3

#: World, first and second command: each of these pairs once lost a set, a tag, or its way.
FOUND = [
    ("untidy", "extract", "extend"),
    ("untidy", "repair", "extend"),
    ("copying", "repair --from", "extend"),
    ("plain", "tag", "rm, another"),
    ("plain", "tag", "tag --delete"),
    ("plain", "rm", "tag"),
    ("plain", "rm", "gc"),
    ("damaged", "rm", "rm, another"),
    ("damaged", "repair --from", "rm, another"),
    ("pushed", "push, bucket", "rm, another"),
    ("grown", "extend", "compact"),
]


@pytest.fixture(scope="module")
def place():
    with bed() as found:
        yield found


def chosen(place: Bed, world: str) -> list[Interleaving]:
    """Return what is tried in a world."""
    some = list(every(place, [world]))
    once = [
        one for one in some
        if (world, one.first, one.second) in FOUND
        and (not one.asleep or world in ("damaged", "grown"))
    ]  # fmt: skip
    return once + random.Random(f"17 {world}").sample(some, DRAWN)


@pytest.mark.parametrize("world", [world.__name__ for world in WORLDS])
def test_one_command_in_the_middle_of_another(place, world):
    if world == "pushed":
        pytest.importorskip("obstore")
    some = chosen(place, world)
    wrong = {one.name: found for one in some if (found := place.attempt(one))}
    assert wrong == {}, json.dumps(wrong, indent=1)


def test_the_document_counts_these_commands_and_no_others():
    rows = json.loads((DATA / "interleavings.json").read_text("utf-8"))
    assert [row["name"] for row in rows] == [one.name for one in COMMANDS if one.first]
    assert all(row["held"] == row["tried"] <= row["interleavings"] for row in rows)
    assert sum(row["tried"] for row in rows) >= 100
