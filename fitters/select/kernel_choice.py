"""Width, penalty and mixing weight of kernel ridge: what is given, and the rest chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

import numpy as np

from fitters.errors import SettingError
from fitters.pairs import Pairs
from fitters.select.curve import WEIGHTS, Axis
from fitters.select.folds import folds_of_pairs
from fitters.select.kernel_mass import MassCurve, choose_mass
from fitters.select.kernel_mixing import Validation, cross_validate_kernel
from fitters.select.kernel_prototypes import (
    GAMMAS,
    KERNEL_PENALTIES,
    Precision,
    choose_on_prototypes,
)
from fitters.select.leave_out import Criterion
from fitters.select.surface import Rule, Surface


@dataclass(frozen=True, eq=False)
class KernelChoice:
    """What kernel ridge is fitted with.

    Attributes
    ----------
    penalty, gamma : float
    mix : float or None
        None unless both sources are there; infinite where the real pairs are not used.
    surface : Surface, MassCurve or None
        What it was chosen from; None where everything was given.
    of_prototypes : Surface or None
        What width and penalty were chosen from, where that was before.
    """

    penalty: float
    gamma: float
    mix: float | None
    surface: Surface | MassCurve | None
    of_prototypes: Surface | None = None

    @property
    def axes(self) -> dict[str, Axis]:
        """The grids of what was chosen, as evaluated."""
        axes: dict[str, Axis] = {}
        for found in (self.of_prototypes, self.surface):
            axes |= found.axes if found is not None else {}
        return {name: axis for name, axis in axes.items() if axis.searched}

    def to_facts(self) -> dict[str, Any]:
        """Return the choice as plain values for JSON; an infinite mix is null."""
        facts: dict[str, Any] = {"penalty": self.penalty, "gamma": self.gamma}
        if self.mix is not None:
            facts["mix"] = self.mix if isfinite(self.mix) else None
            facts["real_pairs_used"] = isfinite(self.mix)
        if self.surface is not None:
            facts |= self.surface.to_facts()
        if self.of_prototypes is not None:
            facts["of_prototypes"] = self.of_prototypes.to_facts()
        return facts


Reading = Literal["anchored", "best", "one-se"]
"""How settings are chosen where there are prototypes and real pairs.

"anchored": width and penalty on the prototypes alone, by leaving out names; on the real pairs only
the mixing weight, where not to use them at all is one of its values. "best" and "one-se": all three
on the real pairs, read off one surface; see `Surface`.
"""

READINGS: tuple[str, ...] = ("anchored", "best", "one-se")


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
    reading: Reading,
    grid: Mapping[str, Axis],
    rng: np.random.Generator,
) -> KernelChoice:
    """Choose whatever is "auto" from the transformed pairs alone; see `fit_alignment`.

    The default grids stand for what `grid` lacks of "penalty", "gamma" and "weight".

    Raises
    ------
    SelectionError
        If there are too few groups to choose from.
    """
    if reading not in READINGS:
        msg = f"reading must be one of {', '.join(READINGS)}. Got {reading!r}."
        raise SettingError(msg)
    both = prototypes is not None and real is not None
    # Whose grid is given is one of many controls of the same texts.
    precision: Precision = "float32" if grid else "float64"
    grid = {"penalty": KERNEL_PENALTIES, "gamma": GAMMAS, "weight": WEIGHTS, **grid}
    penalties = grid["penalty"] if penalty == "auto" else Axis.fixed(float(penalty))
    gammas = grid["gamma"] if gamma == "auto" else Axis.fixed(float(gamma))
    weights = Axis.fixed(1.0)
    if both:
        weights = grid["weight"] if mix == "auto" else Axis.fixed(float(mix))
    if both and reading == "anchored":
        assert prototypes is not None
        assert real is not None
        return _anchored(
            prototypes, real, penalties, gammas, weights, n_folds, criterion, validation, precision,
            rng,
        )  # fmt: skip
    rule: Rule = "one-se" if reading == "one-se" else "best"
    axes = {"penalty": penalties, "mix": weights, "gamma": gammas}
    searched = [name for name, axis in axes.items() if axis.searched]
    if not searched:
        given = weights.values[0] if both else None
        return KernelChoice(penalties.values[0], gammas.values[0], given, None)
    if real is None:
        assert prototypes is not None
        surface = choose_on_prototypes(
            prototypes, gammas=gammas, penalties=penalties, criterion=criterion,
            precision=precision, rng=rng,
        )  # fmt: skip
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


def _anchored(
    prototypes: Pairs,
    real: Pairs,
    penalties: Axis,
    gammas: Axis,
    weights: Axis,
    n_folds: int,
    criterion: Criterion,
    validation: Validation,
    precision: Precision,
    rng: np.random.Generator,
) -> KernelChoice:
    """Choose width and penalty on the prototypes, and only the mixing weight on real pairs."""
    surface = None
    gamma, penalty = gammas.values[0], penalties.values[0]
    if gammas.searched or penalties.searched:
        surface = choose_on_prototypes(
            prototypes, gammas=gammas, penalties=penalties, criterion=criterion,
            precision=precision, rng=rng,
        )  # fmt: skip
        gamma, penalty = surface.chosen["gamma"], surface.chosen["penalty"]
    if not weights.searched:
        mix = weights.values[0]
        return KernelChoice(penalty * mix, gamma, mix, None, surface)
    curve = choose_mass(
        prototypes,
        real,
        folds_of_pairs(real, n_folds, "mix", rng),
        gamma=gamma,
        penalty=penalty,
        weights=weights,
        criterion=validation,
        rng=rng,
    )
    used = isfinite(curve.weight)
    return KernelChoice(
        penalty * curve.weight if used else penalty, gamma, curve.weight, curve, surface
    )
