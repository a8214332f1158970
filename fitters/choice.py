"""Choose the settings of a method on its training pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import isfinite
from typing import Any

import numpy as np

from fitters.aligners.asif import ASIFAligner
from fitters.aligners.base import BaseAligner
from fitters.errors import SettingError
from fitters.methods import FitConfig, Method, Settings, Sources
from fitters.moments.moments import Folds, Moments, merge_pooled
from fitters.pairs import Pairs
from fitters.select.grid import WEIGHTS, Axis, Surface, folds_of_pairs
from fitters.select.held_out import cross_validate, validate_by_error
from fitters.select.kernel import (
    GAMMAS,
    KERNEL_PENALTIES,
    choose_mass,
    choose_on_prototypes,
    cross_validate_kernel,
)
from fitters.select.leave_out import leave_one_group_out
from fitters.select.refitting import (
    POWERS,
    TOP_KS,
    Refit,
    choose_anchors,
    choose_components,
    validate_by_refitting,
)


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


@dataclass(frozen=True, eq=False)
class _Task:
    """What is chosen, from what, and how.

    Attributes
    ----------
    method : Method
    sources : Sources of Pairs
        Transformed.
    config : FitConfig
        What is "auto" is chosen.
    n_folds : int
    rng : numpy.random.Generator
    grid : mapping of str to Axis
        Named as in `Choice`; the default grids stand for what it lacks.
    """

    method: Method
    sources: Sources[Pairs]
    config: FitConfig
    n_folds: int
    rng: np.random.Generator
    grid: Mapping[str, Axis]

    @property
    def by(self) -> Any:
        """What real pairs are validated by; each validation refuses what it does not know."""
        return self.config.validation

    @property
    def axes(self) -> tuple[Axis, Axis]:
        """The grids of penalties and weights."""
        return self.config.axes(self.method, mixed=self.sources.mixed, grid=self.grid)

    def axis(self, name: str, default: Axis, own: float | None = None) -> Axis:
        """Return the grid of a setting; if it is given, or the method's own, that value alone."""
        value = getattr(self.config, name)
        if value == "auto":
            return self.grid.get(name, default)
        return Axis.fixed(own if value is None and own is not None else value)

    @property
    def left_out(self) -> tuple[Pairs, Pairs | None]:
        """The pairs that are left out by fold, and the prototypes that are always in training.

        Without real pairs the prototypes are left out themselves, by name.
        """
        real, prototypes = self.sources.real, self.sources.prototypes
        if real is not None:
            return real, prototypes
        assert prototypes is not None
        return prototypes, None

    def folds(self, what: str) -> np.ndarray:
        """Return the folds of what is left out, for choosing `what`."""
        kind = "prototypes" if self.sources.real is None else "real pairs"
        return folds_of_pairs(self.left_out[0], self.n_folds, what, self.rng, kind=kind)


def choose(
    method: Method,
    sources: Sources[Pairs],
    config: FitConfig,
    rng: np.random.Generator,
    *,
    n_folds: int = 4,
    grid: Mapping[str, Axis] | None = None,
) -> Choice:
    """Choose what is "auto".

    Raises
    ------
    SelectionError
        If the training data have too few groups to choose from.
    """
    task = _Task(method, sources, config, n_folds, rng, grid or {})
    return {"kernel": _choose_kernel, "anchors": _choose_anchors}.get(method.rule, _choose_linear)(
        task
    )


def _choose_linear(task: _Task) -> Choice:
    """Choose penalty, mixing weight and directions kept, in closed form or by fitting anew."""
    method, config = task.method, task.config
    if config.validation == "squared" and method.direction:
        # The name that kernel ridge has for it.
        config = replace(config, criterion="error", validation="mrr")
        task = replace(task, config=config)
    penalties, weights = task.axes
    many = config.chooses_components(method)
    surface = _scores(task) if many or penalties.searched or weights.searched else None
    at = {"penalty": penalties.values[0], "weight": weights.values[0]} | _chosen(surface)
    settings = replace(config.given, penalty=at["penalty"])
    if "n_components" in method.options:
        kept: Any = round(at["components"]) if many else config.n_components
        settings = replace(settings, n_components=kept)
    facts = _facts(method, settings, surface)
    if task.sources.mixed and "mix" in method.options:
        facts["mix"] = at["weight"]
    return Choice(settings, at["weight"], facts, {} if surface is None else surface.searched)


def _scores(task: _Task) -> Surface:
    """Return the scores of a linear method over what is "auto"."""
    method, config, sources = task.method, task.config, task.sources
    penalties, weights = task.axes
    if sources.real is None and method.rule == "ridge" and config.criterion != "error":
        assert sources.prototypes is not None
        return leave_one_group_out(
            sources.prototypes,
            direction=method.direction,
            penalties=penalties,
            criterion=config.criterion,
        )
    what = "penalty" if penalties.searched else "mix" if weights.searched else "components"
    real, prototypes = task.left_out
    folded = _Folded(method, config.given, real, task.folds(what), prototypes)
    same: dict[str, Any] = {"penalties": penalties, "weights": weights}
    by_ranks = same | {"real": real, "folds": folded.folds, "metric": task.by}
    if config.chooses_components(method):
        return choose_components(folded.refit, **by_ranks)
    if config.criterion == "error" and method.direction:
        return validate_by_error(
            folded.of_folds, folded.of_prototypes, direction=method.direction, **same
        )
    if method.rule == "refit":
        return validate_by_refitting(folded.refit, **by_ranks)
    return cross_validate(
        method.rule, prototypes=prototypes, direction=method.direction, **by_ranks
    )


def _choose_kernel(task: _Task) -> Choice:
    """Choose width and penalty on the prototypes, and only the mixing weight on real pairs.

    Not to use the real pairs is one of the weights. Without prototypes, width and penalty are
    chosen on the real pairs.
    """
    config, prototypes, real = task.config, task.sources.prototypes, task.sources.real
    if config.criterion == "error" and real is None:
        raise SettingError(
            "Kernel ridge is chosen on prototypes by 'cosine' or 'rank'. Got criterion 'error'."
        )
    if config.criterion == "error":
        # Of the criteria for both kinds of data, this is the one that real pairs have too.
        config = replace(config, criterion="cosine", validation="squared")
        task = replace(task, config=config)
    axes = {
        "penalty": task.axis("penalty", KERNEL_PENALTIES), "gamma": task.axis("gamma", GAMMAS)
    }  # fmt: skip
    shape = _kernel_shape(task, axes) if "auto" in (config.penalty, config.gamma) else None
    at = {name: axis.values[0] for name, axis in axes.items()} | _chosen(shape)
    facts: dict[str, Any] = {} if shape is None else shape.to_facts()
    searched, mix = {} if shape is None else shape.searched, 1.0
    if prototypes is not None and real is not None:
        facts = {"of_prototypes": facts} if facts else {}
        if config.mix == "auto":
            of_mix = choose_mass(
                prototypes, real, task.folds("mix"), **at,
                weights=task.grid.get("weight", WEIGHTS), criterion=task.by, rng=task.rng,
            )  # fmt: skip
            facts |= of_mix.to_facts()
            searched, mix = searched | of_mix.searched, of_mix.chosen["weight"]
        else:
            mix = float(config.mix)
        facts |= {"mix": mix if isfinite(mix) else None, "real_pairs_used": isfinite(mix)}
        # A real pair has `mix` times the penalty that the prototypes keep.
        at["penalty"] *= mix if isfinite(mix) else 1.0
    settings = replace(config.given, penalty=at["penalty"], gamma=at["gamma"])
    return Choice(settings, mix, at | facts, searched)


def _kernel_shape(task: _Task, axes: Mapping[str, Axis]) -> Surface:
    """Return the scores over width and penalty."""
    sources = task.sources
    same: dict[str, Any] = {"gammas": axes["gamma"], "penalties": axes["penalty"]}
    by: Any = task.config.criterion
    if sources.prototypes is not None:
        return choose_on_prototypes(
            sources.prototypes, **same, criterion=by, rng=task.rng,
            # Whose grid is given is one of many controls of the same texts.
            precision="float32" if task.grid else "float64",
        )  # fmt: skip
    assert sources.real is not None
    folds = task.folds("penalty" if task.config.penalty == "auto" else "gamma")
    return cross_validate_kernel(real=sources.real, folds=folds, **same, criterion=task.by)


def _choose_anchors(task: _Task) -> Choice:
    """Choose how many anchors ASIF keeps, and the power of its similarities."""
    config, own = task.config, task.method.make(task.config.given)
    assert isinstance(own, ASIFAligner)
    top_ks, powers = task.axis("top_k", TOP_KS, own.top_k), task.axis("power", POWERS, own.power)
    surface = None
    if "auto" in (config.top_k, config.power):
        surface = choose_anchors(
            task.sources.prototypes, task.sources.real, top_ks=top_ks, powers=powers,
            metric=task.by, n_folds=task.n_folds, rng=task.rng,
        )  # fmt: skip
    at = {"top_k": top_ks.values[0], "power": powers.values[0]} | _chosen(surface)
    settings = replace(config.given, top_k=round(at["top_k"]), power=at["power"])
    searched = {} if surface is None else surface.searched
    return Choice(settings, 1.0, _facts(task.method, settings, surface), searched)


def _chosen(surface: Surface | None) -> dict[str, float]:
    return {} if surface is None else surface.chosen


def _facts(method: Method, settings: Settings, surface: Surface | None) -> dict[str, Any]:
    facts = {name: getattr(settings, name) for name in method.options if name != "mix"}
    return facts if surface is None else facts | surface.to_facts()


@dataclass(frozen=True, eq=False)
class _Folded:
    """The pairs that are left out in folds, and the aligner fitted without one."""

    method: Method
    settings: Settings
    real: Pairs
    folds: np.ndarray
    prototypes: Pairs | None

    # Ranks are validated on rows: moments of 1,280 columns, 60 ms each, are made only if needed.
    @cached_property
    def of_folds(self) -> Folds:
        """Moments of every fold alone."""
        return Folds(
            moments_of(self.real.take(self.folds == fold)) for fold in np.unique(self.folds)
        )

    @cached_property
    def of_prototypes(self) -> Moments | None:
        """Moments of the prototypes."""
        return None if self.prototypes is None else moments_of(self.prototypes)

    @property
    def refit(self) -> Refit:
        """What fits without a fold, with all directions."""
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
