"""Choose the settings of a method on its training pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import isfinite
from typing import Any, Literal

import numpy as np

from fitters.aligners.base import BaseAligner
from fitters.errors import SettingError
from fitters.methods import Method, Settings, Sources
from fitters.moments.moments import Moments, merge_pooled
from fitters.pairs import Pairs
from fitters.select.grid import (
    PENALTIES,
    WEIGHTS,
    Axis,
    Curve,
    Rule,
    Surface,
    folds_of_pairs,
    geometric,
)
from fitters.select.held_out import cross_validate, validate_by_error
from fitters.select.kernel import (
    GAMMAS,
    KERNEL_PENALTIES,
    MassCurve,
    Precision,
    Validation,
    choose_mass,
    choose_on_prototypes,
    cross_validate_kernel,
)
from fitters.select.leave_out import LeaveOutCriterion, leave_one_group_out
from fitters.select.ranking import Metric
from fitters.select.refitting import (
    POWERS,
    TOP_KS,
    ComponentsChoice,
    Refit,
    choose_anchors,
    choose_components,
    validate_by_refitting,
)


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
    criterion: LeaveOutCriterion,
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
    criterion: LeaveOutCriterion,
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


Criterion = Literal["cosine", "rank", "error"]
"""How a choice is scored; see `fitters.recipe.fit_alignment`."""

COARSE = 1
"""Values a decade where every point of the grid costs a fit: a third of the closed forms' grid."""


@dataclass(frozen=True, eq=False)
class Choice:
    """The settings of the final fit, the mixing weight, and what they were chosen from.

    `axes` are the grids of what was chosen, as evaluated: "penalty", "weight" (the mix), "gamma",
    "top_k", "power".
    """

    settings: Settings
    mix: float
    facts: dict[str, Any]
    axes: dict[str, Axis] = field(default_factory=dict)


@dataclass(frozen=True)
class Open:
    """What may be chosen: "auto", or a value that is given; and how held-out pairs are scored.

    `grid` are the axes that "auto" settings are chosen from, named as in `Choice`; the default
    grids stand for what it lacks.
    """

    penalty: float | Literal["auto"]
    mix: float | Literal["auto"]
    n_components: int | Literal["auto"] | None
    gamma: float | Literal["auto"] = "auto"
    validation: Validation | Metric = "mrr"
    reading: Reading = "anchored"
    top_k: int | Literal["auto"] | None = None
    power: float | Literal["auto"] | None = None
    grid: Mapping[str, Axis] = field(default_factory=dict)

    def axes(self, method: Method, *, mixed: bool) -> tuple[Axis, Axis]:
        """Return the grids of penalties and weights; of what plays no part, a fixed value."""
        per_decade = COARSE if method.rule == "refit" else 0
        default = {"penalty": _grid(PENALTIES, per_decade), "weight": _grid(WEIGHTS, per_decade)}
        grid = {**default, **self.grid}
        penalties = grid["penalty"] if self.penalty == "auto" else None
        weights = grid["weight"] if self.mix == "auto" else None
        if "penalty" not in method.options:
            penalties = Axis.fixed(0.0)
        elif penalties is None:
            penalties = Axis.fixed(float(self.penalty))
        if not mixed or "mix" not in method.options:
            weights = Axis.fixed(1.0)
        elif weights is None:
            weights = Axis.fixed(float(self.mix))
        return penalties, weights


def choose(
    method: Method,
    sources: Sources,
    settings: Settings,
    open_: Open,
    n_folds: int,
    criterion: Criterion,
    rng: np.random.Generator,
) -> Choice:
    """Choose what is open.

    Raises
    ------
    SelectionError
        If the training data have too few groups to choose from.
    """
    if method.rule == "kernel":
        return _choose_kernel(sources, settings, open_, n_folds, criterion, rng)
    if method.rule == "anchors":
        return _choose_anchors(method, sources, settings, open_, n_folds, rng)
    if open_.validation == "squared" and method.direction:
        # The name that kernel ridge has for it.
        criterion, open_ = "error", replace(open_, validation="mrr")
    mixed = sources.prototypes is not None and sources.real is not None
    penalties, weights = open_.axes(method, mixed=mixed)
    many = "n_components" in method.options and open_.n_components == "auto"
    curve: Curve | None = None
    components: ComponentsChoice | None = None
    if many or penalties.searched or weights.searched:
        if sources.real is None and method.rule == "ridge" and criterion != "error":
            assert sources.prototypes is not None
            curve = leave_one_group_out(
                sources.prototypes,
                direction=method.direction,
                penalties=penalties,
                criterion=criterion,
            )
        else:
            what = "penalty" if penalties.searched else "mix" if weights.searched else "components"
            folded = _Folded.of(method, sources, settings, n_folds, what, rng)
            # Ranks are what these validations have; `check_metric` refuses the kernel's others.
            by: Any = open_.validation
            if many:
                components = folded.components(penalties, weights, by)
                curve = components.curve
            else:
                curve = folded.curve(penalties, weights, criterion, by)
    chosen = replace(settings, penalty=penalties.values[0] if curve is None else curve.penalty)
    mix = weights.values[0] if curve is None or not mixed else curve.weight
    if components is not None:
        chosen = replace(chosen, n_components=components.n_components)
    elif "n_components" in method.options and open_.n_components != "auto":
        chosen = replace(chosen, n_components=open_.n_components)
    facts = _facts(method, chosen, mix if mixed else None, components or curve)
    axes = {} if curve is None else {"penalty": curve.penalties, "weight": curve.weights}
    searched = {name: axis for name, axis in axes.items() if axis.searched}
    return Choice(chosen, mix, facts, searched)


def _choose_kernel(
    sources: Sources,
    settings: Settings,
    open_: Open,
    n_folds: int,
    criterion: Criterion,
    rng: np.random.Generator,
) -> Choice:
    if criterion == "error" and sources.real is None:
        msg = "Kernel ridge is chosen on prototypes by 'cosine' or 'rank'. Got criterion 'error'."
        raise SettingError(msg)
    # The kernel's own validation refuses what it does not know.
    by: Any = open_.validation
    chosen = choose_kernel(
        sources.prototypes,
        sources.real,
        penalty=open_.penalty,
        mix=open_.mix,
        gamma=open_.gamma,
        n_folds=n_folds,
        criterion="cosine" if criterion == "error" else criterion,
        # Of the criteria for both kinds of data, this is the one that real pairs have too.
        validation="squared" if criterion == "error" else by,
        reading=open_.reading,
        grid=open_.grid,
        rng=rng,
    )
    fixed = replace(settings, penalty=chosen.penalty, gamma=chosen.gamma)
    mix = 1.0 if chosen.mix is None else chosen.mix
    return Choice(fixed, mix, chosen.to_facts(), chosen.axes)


def _choose_anchors(
    method: Method,
    sources: Sources,
    settings: Settings,
    open_: Open,
    n_folds: int,
    rng: np.random.Generator,
) -> Choice:
    own: Any = method.make(settings)
    top_ks, powers = (
        grid if value == "auto" else Axis.fixed(float(default if value is None else value))
        for value, default, grid in (
            (open_.top_k, own.top_k, open_.grid.get("top_k", TOP_KS)),
            (open_.power, own.power, open_.grid.get("power", POWERS)),
        )
    )
    facts: dict[str, Any] = {}
    axes: dict[str, Axis] = {}
    at = {"top_k": top_ks.values[0], "power": powers.values[0]}
    if top_ks.searched or powers.searched:
        # Ranks are all that can be asked for; `check_metric` refuses the kernel's others.
        by: Any = open_.validation
        surface = choose_anchors(
            sources.prototypes, sources.real, top_ks=top_ks, powers=powers, metric=by,
            n_folds=n_folds, rng=rng,
        )  # fmt: skip
        facts, at = surface.to_facts(), surface.chosen
        axes = {name: axis for name, axis in surface.axes.items() if axis.searched}
    chosen = replace(settings, top_k=round(at["top_k"]), power=at["power"])
    return Choice(chosen, 1.0, _facts(method, chosen, None, None) | facts, axes)


@dataclass(frozen=True, eq=False)
class _Folded:
    """The pairs that are left out in folds, and the aligner fitted without one."""

    method: Method
    settings: Settings
    real: Pairs
    folds: np.ndarray
    prototypes: Pairs | None

    @classmethod
    def of(
        cls,
        method: Method,
        sources: Sources,
        settings: Settings,
        n_folds: int,
        what: str,
        rng: np.random.Generator,
    ) -> _Folded:
        # Without real pairs the prototypes are left out themselves, by name.
        real = sources.real if sources.real is not None else sources.prototypes
        assert real is not None
        prototypes = sources.prototypes if sources.real is not None else None
        kind = "real pairs" if sources.real is not None else "prototypes"
        folds = folds_of_pairs(real, n_folds, what, rng, kind=kind)
        return cls(method, settings, real, folds, prototypes)

    # Ranks are validated on rows: moments of 1,280 columns, 60 ms each, are made only if needed.
    @cached_property
    def of_folds(self) -> tuple[Moments, ...]:
        """Moments of every fold alone."""
        return tuple(
            moments_of(self.real.take(self.folds == fold)) for fold in np.unique(self.folds)
        )

    @cached_property
    def of_prototypes(self) -> Moments | None:
        """Moments of the prototypes."""
        return None if self.prototypes is None else moments_of(self.prototypes)

    def curve(self, penalties: Axis, weights: Axis, criterion: Criterion, by: Metric) -> Curve:
        if criterion == "error" and self.method.direction:
            return validate_by_error(
                self.of_folds,
                self.of_prototypes,
                direction=self.method.direction,
                penalties=penalties,
                weights=weights,
            )
        if self.method.rule == "refit":
            return validate_by_refitting(
                self.refit,
                real=self.real,
                folds=self.folds,
                penalties=penalties,
                weights=weights,
                metric=by,
            )
        return cross_validate(
            self.method.rule,
            real=self.real,
            folds=self.folds,
            prototypes=self.prototypes,
            direction=self.method.direction,
            penalties=penalties,
            weights=weights,
            metric=by,
        )

    def components(self, penalties: Axis, weights: Axis, by: Metric) -> ComponentsChoice:
        return choose_components(
            self.refit,
            real=self.real,
            folds=self.folds,
            penalties=penalties,
            weights=weights,
            metric=by,
        )

    @property
    def refit(self) -> Refit:
        rest = [
            merge_pooled(*(part for part in self.of_folds if part is not held))
            for held in self.of_folds
        ]

        def fit(fold: int, weight: float, penalty: float) -> BaseAligner:
            training = rest[fold]
            if self.of_prototypes is not None:
                training = merge_pooled(training, self.of_prototypes.scaled(weight))
            settings = replace(self.settings, penalty=penalty, n_components=None)
            aligner: Any = self.method.make(settings)
            fitted: BaseAligner = aligner.fit_moments(training)
            return fitted

        return fit


def moments_of(pairs: Pairs) -> Moments:
    """Return the moments of transformed pairs about 0, products in float64."""
    return Moments.from_rows(pairs.x, pairs.y, pairs.row_weight, centre=False)


def _facts(
    method: Method,
    settings: Settings,
    mix: float | None,
    chosen_from: Curve | ComponentsChoice | None,
) -> dict[str, Any]:
    facts: dict[str, Any] = {
        name: getattr(settings, name) for name in method.options if name != "mix"
    }
    if mix is not None and "mix" in method.options:
        facts["mix"] = mix
    return facts if chosen_from is None else {**facts, **chosen_from.to_facts()}


def _grid(axis: Axis, per_decade: int) -> Axis:
    if per_decade == 0:
        return axis
    return replace(axis, values=geometric(axis.values[0], axis.values[-1], per_decade))
