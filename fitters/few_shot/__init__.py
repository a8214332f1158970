"""Few-shot learners: a few labelled rows of every class in, a score for every class out.

`LEARNERS` has them by name; those that learn prompts are `PROMPT_LEARNERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from featstore.errors import lookup, needs_extra
from featstore.plugins import Registry
from fitters.errors import UnknownMethodError
from fitters.few_shot.descent import CLAP, ZSLP, CrossModal, LPPlusPlus, PaperFewShot
from fitters.few_shot.learner import Classifier, ClassMeans, Learner, Shots
from fitters.few_shot.probes import GDA, ClassMoments, LogisticProbe, RanPAC, RidgeProbe
from fitters.few_shot.proker import ProKeR, ReHARK
from fitters.few_shot.tip_adapter import APE, TipAdapter, TipAdapterF

if TYPE_CHECKING:
    from fitters.few_shot.prompt_learning import TextTower

__all__ = [
    "APE",
    "CLAP",
    "GDA",
    "LEARNERS",
    "PROMPT_LEARNERS",
    "ZSLP",
    "ClassMeans",
    "ClassMoments",
    "Classifier",
    "CrossModal",
    "LPPlusPlus",
    "Learner",
    "LogisticProbe",
    "PaperFewShot",
    "ProKeR",
    "RanPAC",
    "ReHARK",
    "RidgeProbe",
    "Shots",
    "TipAdapter",
    "TipAdapterF",
    "learner_named",
    "prompt_learner",
]

PROMPT_LEARNERS: dict[str, dict[str, Any]] = {
    "coop": {},
    "coop-middle": {"position": "middle"},
    "coop-specific": {"class_specific": True},
    "coop-words": {"words": "a photo of a"},
    "cocoop": {},
}
"""Name → settings of `CoOp`, or of `CoCoOp`, that are not its defaults."""


def prompt_learner(
    name: str, tower: TextTower, names: Sequence[str], *, seed: int = 0, device: str = "cpu"
) -> Learner:
    """Return a new prompt learner.

    Parameters
    ----------
    name : str
        One of `PROMPT_LEARNERS`.
    tower : TextTower
    names : sequence of str
        One a class, in the order of the labels.
    seed : int
    device : str
        Of the training, or "auto".

    Raises
    ------
    UnknownMethodError
        If there is none; the message lists those that exist.
    MissingPackageError
        If torch is not installed.
    """
    settings = lookup(PROMPT_LEARNERS, name, what="prompt learner", error=UnknownMethodError)
    with needs_extra(f"The learner {name}", "coop"):
        from fitters.few_shot.prompt_learning import CoCoOp, CoOp
    if name == "cocoop":
        return CoCoOp(tower, names, seed=seed, device=device, **settings)
    return CoOp(tower, names, seed=seed, device=device, **settings)


_BUILT_IN: dict[str, Callable[[], Learner]] = {
    "class-means": ClassMeans,
    "ridge-probe": RidgeProbe,
    "logistic-probe": LogisticProbe,
    "tip-adapter": TipAdapter,
    "tip-adapter-f": TipAdapterF,
    "ape": APE,
    "gda": GDA,
    "proker": ProKeR,
    "rehark": ReHARK,
    "ranpac": RanPAC,
    "lp++": LPPlusPlus,
    "zs-lp": ZSLP,
    "clap": CLAP,
    "cross-modal": CrossModal,
    "paper-few-shot": PaperFewShot,
}


def _checked(_: str, make: Any) -> Callable[[], Learner]:
    if not callable(make):
        raise TypeError(f"expected what makes a learner: its class, or a function; got {make!r}.")
    return make


LEARNERS: Registry[Callable[[], Learner]] = Registry(
    "learner", _BUILT_IN, accept=_checked, reserved=lambda: PROMPT_LEARNERS
)
"""Name → what makes the learner.

A learner of one's own (``register("learner", NAME)``, an entry point of ``headstock.learners``) is
called without arguments: its class, or a ``functools.partial`` of it; see
`fitters.few_shot.Learner`. The id of a run holds a digest of its source (the modules that define
it and the classes that it inherits from) and of its attribute ``version``, if it has one: change
one of them, and the runs are made anew. Other processes (``jobs`` above 1, Ray) find one that an
installed package or a file of ``--plugin`` registers.
"""


def learner_named(name: str) -> Learner:
    """Return a new learner of this name.

    Raises
    ------
    UnknownMethodError
        If there is none; the message lists those that exist.
    """
    where = f"that needs no text tower ({' and '.join(PROMPT_LEARNERS)} need one)"
    return lookup(LEARNERS, name, what="learner", where=where, error=UnknownMethodError)()
