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
    Surface,
    folds_of_pairs,
    geometric,
)
from fitters.select.held_out import cross_validate, validate_by_error
from fitters.select.kernel import (
    GAMMAS,
    KERNEL_PENALTIES,
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
    Refit,
    choose_anchors,
    choose_components,
    validate_by_refitting,
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
    return _choose_linear(method, sources, settings, open_, n_folds, criterion, rng)


def _choose_linear(
    method: Method,
    sources: Sources,
    settings: Settings,
    open_: Open,
    n_folds: int,
    criterion: Criterion,
    rng: np.random.Generator,
) -> Choice:
    """Choose penalty, mixing weight and directions kept, in closed form or by fitting anew."""
    if open_.validation == "squared" and method.direction:
        # The name that kernel ridge has for it.
        criterion, open_ = "error", replace(open_, validation="mrr")
    mixed = sources.prototypes is not None and sources.real is not None
    penalties, weights = open_.axes(method, mixed=mixed)
    many = "n_components" in method.options and open_.n_components == "auto"
    surface: Surface | None = None
    if many or penalties.searched or weights.searched:
        surface = _surface(method, sources, settings, open_, n_folds, criterion, rng)
    at = {"penalty": penalties.values[0], "weight": weights.values[0]} | _chosen(surface)
    chosen = replace(settings, penalty=at["penalty"])
    if many:
        chosen = replace(chosen, n_components=round(at["components"]))
    elif "n_components" in method.options and open_.n_components != "auto":
        chosen = replace(chosen, n_components=open_.n_components)
    facts = _facts(method, chosen, at["weight"] if mixed else None, surface)
    return Choice(chosen, at["weight"], facts, _searched(surface))


def _surface(
    method: Method,
    sources: Sources,
    settings: Settings,
    open_: Open,
    n_folds: int,
    criterion: Criterion,
    rng: np.random.Generator,
) -> Surface:
    """Return the scores of the linear methods over what is "auto"."""
    mixed = sources.prototypes is not None and sources.real is not None
    penalties, weights = open_.axes(method, mixed=mixed)
    if sources.real is None and method.rule == "ridge" and criterion != "error":
        assert sources.prototypes is not None
        return leave_one_group_out(
            sources.prototypes,
            direction=method.direction,
            penalties=penalties,
            criterion=criterion,
        )
    what = "penalty" if penalties.searched else "mix" if weights.searched else "components"
    folded = _Folded.of(method, sources, settings, n_folds, what, rng)
    # Ranks are what these validations have; `check_metric` refuses the kernel's others.
    by: Any = open_.validation
    if "n_components" in method.options and open_.n_components == "auto":
        return folded.components(penalties, weights, by)
    return folded.surface(penalties, weights, criterion, by)


def _choose_kernel(
    sources: Sources,
    settings: Settings,
    open_: Open,
    n_folds: int,
    criterion: Criterion,
    rng: np.random.Generator,
) -> Choice:
    """Choose width and penalty on the prototypes, and only the mixing weight on real pairs.

    Not to use the real pairs is one of the weights. Without prototypes, width and penalty are
    chosen on the real pairs.
    """
    prototypes, real = sources.prototypes, sources.real
    if criterion == "error" and real is None:
        msg = "Kernel ridge is chosen on prototypes by 'cosine' or 'rank'. Got criterion 'error'."
        raise SettingError(msg)
    if criterion == "error":
        # Of the criteria for both kinds of data, this is the one that real pairs have too.
        criterion, open_ = "cosine", replace(open_, validation="squared")
    shape = _kernel_shape(sources, open_, n_folds, criterion, rng)
    given = {name: getattr(open_, name) for name in ("penalty", "gamma")}
    at = {name: float(value) for name, value in given.items() if value != "auto"} | _chosen(shape)
    facts: dict[str, Any] = {} if shape is None else shape.to_facts()
    axes, mix = _searched(shape), 1.0
    if prototypes is not None and real is not None:
        facts = {"of_prototypes": facts} if facts else {}
        if open_.mix == "auto":
            of_mix = choose_mass(
                prototypes, real, folds_of_pairs(real, n_folds, "mix", rng), **at,
                weights=open_.grid.get("weight", WEIGHTS), criterion=_of_kernel(open_), rng=rng,
            )  # fmt: skip
            facts |= of_mix.to_facts()
            axes, mix = axes | of_mix.searched, of_mix.chosen["weight"]
        else:
            mix = float(open_.mix)
        facts |= {"mix": mix if isfinite(mix) else None, "real_pairs_used": isfinite(mix)}
        # A real pair has `mix` times the penalty that the prototypes keep.
        at["penalty"] *= mix if isfinite(mix) else 1.0
    chosen = replace(settings, penalty=at["penalty"], gamma=at["gamma"])
    return Choice(chosen, mix, at | facts, axes)


def _kernel_shape(
    sources: Sources,
    open_: Open,
    n_folds: int,
    criterion: LeaveOutCriterion,
    rng: np.random.Generator,
) -> Surface | None:
    """Return the scores over width and penalty; None if both are given."""
    grid = {"penalty": KERNEL_PENALTIES, "gamma": GAMMAS, **open_.grid}
    penalties, gammas = (
        grid[name] if value == "auto" else Axis.fixed(float(value))
        for name, value in (("penalty", open_.penalty), ("gamma", open_.gamma))
    )
    if "auto" not in (open_.penalty, open_.gamma):
        return None
    if sources.prototypes is not None:
        return choose_on_prototypes(
            sources.prototypes, gammas=gammas, penalties=penalties, criterion=criterion,
            # Whose grid is given is one of many controls of the same texts.
            precision="float32" if open_.grid else "float64", rng=rng,
        )  # fmt: skip
    assert sources.real is not None
    what = "penalty" if open_.penalty == "auto" else "gamma"
    return cross_validate_kernel(
        real=sources.real, folds=folds_of_pairs(sources.real, n_folds, what, rng),
        gammas=gammas, penalties=penalties, criterion=_of_kernel(open_),
    )  # fmt: skip


def _of_kernel(open_: Open) -> Any:
    """Return what kernel ridge validates by: `check_validation` refuses what it does not know."""
    return open_.validation


def _chosen(surface: Surface | None) -> dict[str, float]:
    return {} if surface is None else surface.chosen


def _searched(surface: Surface | None) -> dict[str, Axis]:
    return {} if surface is None else surface.searched


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
        facts, at, axes = surface.to_facts(), surface.chosen, surface.searched
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

    def surface(self, penalties: Axis, weights: Axis, criterion: Criterion, by: Metric) -> Surface:
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

    def components(self, penalties: Axis, weights: Axis, by: Metric) -> Surface:
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
    chosen_from: Surface | None,
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
