"""The few-shot learners by name."""

from __future__ import annotations

from collections.abc import Callable

from featstore.errors import did_you_mean
from fitters.errors import SettingError, UnknownMethodError
from fitters.few_shot.clap import CLAP, ZSLP
from fitters.few_shot.class_means import ClassMeans
from fitters.few_shot.cross_modal import CrossModal
from fitters.few_shot.learner import Learner
from fitters.few_shot.logistic_probe import LogisticProbe
from fitters.few_shot.lp_plus_plus import LPPlusPlus
from fitters.few_shot.paper_few_shot import PaperFewShot
from fitters.few_shot.prompt_learning.registry import PROMPT_LEARNERS
from fitters.few_shot.ridge_probe import RidgeProbe
from fitters.few_shot.tip_adapter import TipAdapter
from fitters.few_shot.tip_adapter_f import TipAdapterF

LEARNERS: dict[str, Callable[[], Learner]] = {
    "class-means": ClassMeans,
    "ridge-probe": RidgeProbe,
    "logistic-probe": LogisticProbe,
    "tip-adapter": TipAdapter,
    "tip-adapter-f": TipAdapterF,
    "lp++": LPPlusPlus,
    "zs-lp": ZSLP,
    "clap": CLAP,
    "cross-modal": CrossModal,
    "paper-few-shot": PaperFewShot,
}
"""Name → what makes the learner; `register_learner` adds one's own."""

BUILT_IN = dict(LEARNERS)
"""Those that come with the package: `bench.code` tells what was registered from outside by it."""


def register_learner(name: str, make: Callable[[], Learner]) -> None:
    """Add a learner of one's own to `LEARNERS`, for `bench`'s few-shot runs.

    The id of a run holds a digest of its source (the modules that define `make`, the learner and
    the classes that this inherits from) and of its attribute ``version``, if it has one: change one
    of them, and the runs are made anew. To run in other processes (``jobs`` above 1, Ray), it must
    be at the top of a module that they can import. A name may be registered again.

    Parameters
    ----------
    name : str
    make : callable
        Called without arguments: the class, or a ``functools.partial`` of it.

    Raises
    ------
    SettingError
        If a learner of the package has this name.
    """
    if name in BUILT_IN or name in PROMPT_LEARNERS:
        msg = f"{name!r} is a learner of the package. Register yours under another name."
        raise SettingError(msg)
    LEARNERS[name] = make


def learner_named(name: str) -> Learner:
    """Return a new learner of this name.

    Raises
    ------
    UnknownMethodError
        If there is none; the message lists those that exist.
    """
    if name not in LEARNERS:
        known = ", ".join(LEARNERS)
        hint = did_you_mean(name, [*LEARNERS, *PROMPT_LEARNERS])
        msg = (
            f"No learner named {name!r}. Known learners: {known}; through a text tower: "
            f"{', '.join(PROMPT_LEARNERS)}.{hint}"
        )
        raise UnknownMethodError(msg)
    return LEARNERS[name]()
