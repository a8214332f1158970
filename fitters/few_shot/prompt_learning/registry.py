"""The prompt learners by name; beside those of `fitters.few_shot.LEARNERS`, they need a tower."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from featstore.errors import did_you_mean, needs_extra
from fitters.errors import UnknownMethodError
from fitters.few_shot.learner import Learner
from fitters.few_shot.prompt_learning.tower import TextTower

PROMPT_LEARNERS: dict[str, dict[str, Any]] = {
    "coop": {},
    "coop-middle": {"position": "middle"},
    "coop-specific": {"class_specific": True},
    "coop-words": {"words": "a photo of a"},
    "cocoop": {},
}
"""Name → settings of `CoOp`, or of `CoCoOp`, that are not its defaults."""


def prompt_learner(name: str, tower: TextTower, names: Sequence[str], *, seed: int = 0) -> Learner:
    """Return a new prompt learner.

    Parameters
    ----------
    name : str
        One of `PROMPT_LEARNERS`.
    tower : TextTower
    names : sequence of str
        One a class, in the order of the labels.
    seed : int

    Raises
    ------
    UnknownMethodError
        If there is none; the message lists those that exist.
    MissingPackageError
        If torch is not installed.
    """
    if name not in PROMPT_LEARNERS:
        known = ", ".join(PROMPT_LEARNERS)
        hint = did_you_mean(name, PROMPT_LEARNERS)
        msg = f"No prompt learner named {name!r}. Known prompt learners: {known}.{hint}"
        raise UnknownMethodError(msg)
    settings = PROMPT_LEARNERS[name]
    with needs_extra(f"The learner {name}", "coop"):
        from fitters.few_shot.prompt_learning.cocoop import CoCoOp
        from fitters.few_shot.prompt_learning.coop import CoOp
    if name == "cocoop":
        return CoCoOp(tower, names, seed=seed, **settings)
    return CoOp(tower, names, seed=seed, **settings)
