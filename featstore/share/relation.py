"""How the revisions of a set in two stores stand to each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from featstore.errors import PublishConflictError

#: ``new`` and ``behind`` are to be sent; ``same`` and ``newer`` need nothing.
Relation = Literal["new", "behind", "same", "newer"]


def relation(there: Mapping[str, Any] | None, here: Mapping[str, Any], *, where: str) -> Relation:
    """Return how the set there stands to the one here, from the attributes of both.

    Raises
    ------
    PublishConflictError
        If each has a revision that the other lacks: both were extended apart.
    """
    if there is None:
        return "new"
    theirs, ours = there["revision"], here["revision"]
    if theirs == ours:
        return "same"
    if theirs in here.get("history", []):
        return "behind"
    if ours in there.get("history", []):
        return "newer"
    raise conflict(where, winner=theirs, loser=ours)


def conflict(where: str, *, winner: str, loser: str) -> PublishConflictError:
    """Return the error of a publisher who came second."""
    return PublishConflictError(
        f"{where} has revision {winner[:12]}, which another publisher put there first; revision "
        f"{loser[:12]} does not follow from it and was not published. Pull theirs into a store of "
        "its own, and extend that."
    )
