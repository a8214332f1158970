"""Width, penalty and mixing weight of kernel ridge: what is given, and the rest chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fitters.pairs import Pairs
from fitters.select.curve import WEIGHTS, Axis
from fitters.select.folds import folds_of_pairs
from fitters.select.kernel_mixing import Validation, cross_validate_kernel
from fitters.select.kernel_prototypes import GAMMAS, KERNEL_PENALTIES, choose_on_prototypes
from fitters.select.leave_out import Criterion
from fitters.select.surface import Rule, Surface


@dataclass(frozen=True, eq=False)
class KernelChoice:
    """What kernel ridge is fitted with.

    Attributes
    ----------
    penalty, gamma : float
    mix : float or None
        None unless both sources are there.
    surface : Surface or None
        What it was chosen from; None where everything was given.
    """

    penalty: float
    gamma: float
    mix: float | None
    surface: Surface | None

    def to_facts(self) -> dict[str, Any]:
        """Return the choice as plain values for JSON."""
        facts: dict[str, Any] = {"penalty": self.penalty, "gamma": self.gamma}
        if self.mix is not None:
            facts["mix"] = self.mix
        return facts if self.surface is None else {**facts, **self.surface.to_facts()}


def choose_kernel(
    prototypes: Pairs | None,
    real: Pairs | None,
    *,
    penalty: float | str,
    mix: float | str,
    gamma: float | str,
    n_folds: int,
    criterion: Criterion,
    validation: Validation,
    rule: Rule,
    rng: np.random.Generator,
) -> KernelChoice:
    """Choose whatever is "auto" from the transformed pairs alone; see `fit_alignment`.

    Raises
    ------
    SelectionError
        If there are too few groups to choose from.
    """
    both = prototypes is not None and real is not None
    penalties = KERNEL_PENALTIES if penalty == "auto" else Axis.fixed(float(penalty))
    gammas = GAMMAS if gamma == "auto" else Axis.fixed(float(gamma))
    weights = Axis.fixed(1.0)
    if both:
        weights = WEIGHTS if mix == "auto" else Axis.fixed(float(mix))
    axes = {"penalty": penalties, "mix": weights, "gamma": gammas}
    searched = [name for name, axis in axes.items() if axis.searched]
    if not searched:
        given = weights.values[0] if both else None
        return KernelChoice(penalties.values[0], gammas.values[0], given, None)
    if real is None:
        assert prototypes is not None
        surface = choose_on_prototypes(
            prototypes, gammas=gammas, penalties=penalties, criterion=criterion, rng=rng
        )
    else:
        surface = cross_validate_kernel(
            real=real,
            folds=folds_of_pairs(real, n_folds, searched[0], rng),
            prototypes=prototypes,
            gammas=gammas,
            penalties=penalties,
            weights=weights,
            criterion=validation,
            rule=rule,
            rng=rng,
        )
    chosen = surface.chosen
    return KernelChoice(
        chosen["penalty"], chosen["gamma"], chosen["weight"] if both else None, surface
    )
