"""The methods by name: what makes the aligner of each, and which settings it has.

The table names the classes and imports none, so that a command can list the methods in no time.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache, cached_property, partial
from inspect import signature
from typing import TYPE_CHECKING, Any

from featstore.errors import lookup
from featstore.options import Option, settings_of
from featstore.plugins import Registry, first_line, origin_in
from fitters.errors import SettingError, UnknownMethodError
from fitters.settings import (
    OPTIONS,
    TRAINING,
    FitConfig,
    Preparation,
    TrainingOptions,
)
from fitters.trained import PRESETS

if TYPE_CHECKING:
    import numpy.typing as npt

    from fitters.aligners import BaseAligner
    from fitters.pairs import Pairs
    from fitters.select import Choice
    from fitters.sources import Sources

#: Characters of a name that is made of parameters, before a digest of them.
_LONGEST = 48

_DEFAULTS = {setting.name: setting.default for setting in fields(FitConfig)}


@dataclass(frozen=True)
class Method:
    """An aligner under a name, as `fitters.alignment.fit` makes and fits it.

    What the aligner needs, how its rows are prepared and how its settings are chosen is the class's
    own; see `fitters.aligners`.

    Attributes
    ----------
    aligner : type, callable or str
        What makes it: its class, a ``functools.partial`` of it, or a function without arguments
        that must be given; or a function that fits two matrices, see
        `fitters.aligners.matrix_aligner`; of Headstock's own "module:name", which is imported
        when it is first used. A setting of `fitters.settings.OPTIONS` exists if this has a
        parameter of its name ("alpha" for the penalty) that neither a partial nor `given` gives.
    text : str
        One line on it.
    title : str
        What tables and figures call it; empty: the class's own `title`, or else its name.
    preparation : Preparation, optional
        In place of the class's own.
    version : str
        Of a method of one's own: whatever its source does not show; see `METHODS`.
    given : mapping
        Parameters of `aligner` that the method gives.
    has : tuple of str, optional
        Its `settings`, where they are stated so that a help need not import its class.

    Examples
    --------
    >>> METHODS["ridge"].label, METHODS["ridge"].options
    ('Ridge', ('penalty', 'mix'))
    >>> METHODS["ridge"].make(FitConfig("ridge", penalty=0.3)).alpha
    0.3
    """

    aligner: Callable[..., Any] | str
    text: str = ""
    title: str = ""
    preparation: Preparation | None = None
    version: str = ""
    given: Mapping[str, Any] = field(default_factory=dict, hash=False)
    has: tuple[str, ...] | None = None

    @cached_property
    def factory(self) -> Callable[..., Any]:
        """What makes the aligner; of a function that fits two matrices, its class."""
        from pkgutil import resolve_name

        from fitters.aligners import fits_matrices, matrix_aligner

        named = self.aligner
        made: Callable[..., Any] = resolve_name(named) if isinstance(named, str) else named
        made = matrix_aligner(made) if fits_matrices(made) else made
        return partial(made, **self.given) if self.given else made

    @cached_property
    def cls(self) -> type[Any]:
        """The class of the aligner."""
        made: Any = self.factory
        while isinstance(made, partial):
            made = made.func
        return made if isinstance(made, type) else type(self.factory())

    @cached_property
    def options(self) -> tuple[str, ...]:
        """Those of `OPTIONS` and `TRAINING` that it has."""
        from fitters.aligners import takes_weights
        from fitters.select import parameter_of

        given = self.factory.keywords if isinstance(self.factory, partial) else {}
        free = signature(self.factory).parameters.keys() - given.keys()
        own = [name for name in OPTIONS if parameter_of(name) in free]
        alone = self.rows.alike or "raw" in (self.rows.images, self.rows.texts)
        if self.fitted_on in ("moments", "rows") and not alone and takes_weights(self.cls):
            own += ["mix"] if getattr(self.cls, "mixes", True) else []
        return (*own, *TRAINING) if self.fitted_on == "training" else tuple(own)

    @cached_property
    def settings(self) -> dict[str, Option]:
        """What ``-s`` sets of it, by what a command line calls it."""
        own = self.has
        if own is None:
            flags = {
                "criterion": self.by_error,
                "validation": self.tunes,
                "centre": self.takes("centre"),
                "precision": self.takes("precision"),
            }
            own = (*self.options, *(name for name, has in flags.items() if has))
        every = settings_of(FitConfig, TrainingOptions).values()
        return {one.setting: one for one in every if one.name in own}

    @property
    def is_trained(self) -> bool:
        """Whether it is trained by steps; of what says its settings, no class is imported."""
        return self.fitted_on == "training" if self.has is None else {*TRAINING} <= {*self.has}

    @property
    def fitted_on(self) -> str:
        """What it needs: "moments", "rows", "head" or "training"; see `BaseAligner.fitted_on`."""
        by_moments = hasattr(self.cls, "fit_moments")
        return str(getattr(self.cls, "fitted_on", "moments" if by_moments else "rows"))

    @property
    def rows(self) -> Preparation:
        """How its rows are prepared, unless a config says otherwise."""
        own: Preparation = getattr(self.cls, "preparation", Preparation())
        return own if self.preparation is None else self.preparation

    @property
    def reads_bias(self) -> bool:
        """Whether it reads the bias of a head, which goes with the head's own rows."""
        return self.fitted_on == "head" or self.rows.head_bias

    @property
    def by_error(self) -> bool:
        """Whether its settings can be chosen by the held-out squared error: it is a ridge."""
        return getattr(self.cls, "by_error", False) and "penalty" in self.options

    @property
    def label(self) -> str:
        """What tables and figures call it; empty: its name."""
        return self.title or str(getattr(self.cls, "title", ""))

    def takes(self, setting: str) -> bool:
        """Return whether a setting plays a part; what is no setting of a method always does."""
        if setting in ("device", "precision"):
            return self.fitted_on == "training"
        if setting == "centre":
            return self.fitted_on in ("training", "head")
        return setting in self.options or setting not in (*OPTIONS, *TRAINING)

    @property
    def tunes(self) -> bool:
        """Whether it has a setting that "auto" is for."""
        return not {"penalty", "mix", "gamma", "n_components", "power"}.isdisjoint(self.options)

    def sources(
        self,
        config: FitConfig,
        *,
        prototypes: Pairs | None = None,
        real: Pairs | None = None,
        image_mean: npt.NDArray[Any] | None = None,
        bias: npt.NDArray[Any] | None = None,
    ) -> Sources[Pairs]:
        """Return what a fit with this config is on: raw pairs, checked and prepared.

        Parameters
        ----------
        prototypes, real, image_mean, bias
            As for `fitters.alignment.fit`.

        Raises
        ------
        SettingError
            If a source that the method needs is missing, or one that it cannot use is there.
        """
        from fitters.sources import prepare

        how, name = self.rows.centred(config.centre), config.method
        if self.fitted_on == "head":
            real = None
            if prototypes is None:
                raise SettingError(
                    f"{self.label or name} reads a classification head. Pass the head's rows and "
                    "class texts."
                )
        if how.texts == "raw" and prototypes is not None:
            raise SettingError(
                f"{name} is fitted on images that both encoders have seen, not on a head. Leave "
                "the prototypes out."
            )
        if prototypes is None and real is None:
            raise SettingError("There is nothing to fit on. Pass prototypes, real pairs, or both.")
        _check_spaces(prototypes, real)
        column = bias if how.head_bias and prototypes is not None else None
        return replace(
            prepare(prototypes, real, image_mean, how=how, bias_column=column), bias=bias
        )

    def check(self, config: FitConfig, *, prototypes: bool, real: bool) -> None:
        """Raise SettingError for settings that have no effect here, or that contradict each other.

        Nothing is read for it.

        Parameters
        ----------
        config : FitConfig
        prototypes, real : bool
            Which sources the fit is on.
        """
        idle = [name for name in OPTIONS if not self.takes(name)
                and getattr(config, name) != _DEFAULTS[name]]  # fmt: skip
        idle += [name for name in config.training.changes if self.fitted_on != "training"]
        if idle:
            raise SettingError(
                f"{idle[0]} has no effect in {config.method}, whose settings are "
                f"{', '.join(self.options) or 'none'}. Leave it out."
            )
        # An aligner of anyone's need not have it.
        check_settings = getattr(self.cls, "check_settings", None)
        if check_settings is not None:
            check_settings(config, prototypes=prototypes, real=real)

    def make(self, config: FitConfig | None = None, **params: Any) -> Any:
        """Return the aligner, not fitted, with the settings of a config that are given.

        `params` are constructor parameters that count before these.
        """
        from fitters.select import parameter_of

        given = {
            parameter_of(name): getattr(config, name)
            for name in self.options
            if hasattr(config, name) and name != "mix"
        }
        given = {name: value for name, value in given.items() if value not in ("auto", None)}
        return self.factory(**given | params)

    def tune(self, config: FitConfig, data: Sources[Any], **how: Any) -> Choice:
        """Return what the aligner chooses with a config: by its own `tune`, or by refitting.

        `how` are `rng`, `n_folds` and `grid` of a `Search`.

        Raises
        ------
        SettingError
            If a setting has no effect, or is "auto" and the aligner cannot choose it.
        """
        from fitters.aligners import BaseAligner, tune_by_refitting
        from fitters.select import Search

        self.check(config, prototypes=data.prototypes is not None, real=data.real is not None)
        aligner = self.make(config)
        own = config.criterion or getattr(aligner, "criterion", BaseAligner.criterion)
        search = Search(replace(config, criterion=own), self.options, **how)
        choice: Choice = getattr(aligner, "tune", partial(tune_by_refitting, aligner))(data, search)
        for name in ("top_k", "power"):
            if getattr(config, name) == "auto" and name not in choice.params:
                raise SettingError(
                    f"{name}='auto' is of ASIF. {config.method} has nothing to choose there."
                )
        return choice

    def facts(self, aligner: Any, choice: Choice, *, mixed: bool) -> dict[str, Any]:
        """Return the settings of an aligner by name, and what its choice records."""
        from fitters.select import parameter_of

        own = {name: getattr(aligner, parameter_of(name)) for name in self.options if name != "mix"}
        if own.get("n_components") and hasattr(aligner, "strengths_"):
            own["n_components"] = len(aligner.strengths_)  # fewer, where the data have no more
        return ({"mix": choice.mix} if mixed and "mix" in self.options else {}) | choice.facts | own


def _check_spaces(prototypes: Pairs | None, real: Pairs | None) -> None:
    """Raise SettingError if prototypes and real pairs have other columns than each other."""
    if prototypes is None or real is None:
        return
    for side, a, b in (("x", prototypes.x, real.x), ("y", prototypes.y, real.y)):
        if a.shape[1] != b.shape[1]:
            raise SettingError(
                f"Prototypes and real pairs are of different spaces: {side} has "
                f"{a.shape[1]:,} and {b.shape[1]:,} columns. Use one encoder a side."
            )


def _trained(name: str) -> Method:
    """Return the method that trains a preset."""
    chosen = PRESETS[name]
    has = " ".join((*TRAINING, "centre", "precision"))
    return _method("trained:preset", chosen.text, chosen.title, has, name=name)


def _method(aligner: str, text: str, title: str, has: str = "", **given: Any) -> Method:
    return Method(f"fitters.{aligner}", text, title, given=given, has=tuple(has.split()))


#: Settings of what chooses a penalty and a mixing weight, of ridges, and of what mixes alone.
_CHOSEN = "penalty mix validation"
_RIDGE = f"{_CHOSEN} criterion"
_MIXED = "mix validation"


_UNIT = Preparation(images="unit", texts="unit")
_CCA_200: dict[str, Any] = {"n_components": 200, "alpha": 1e-6, "relative": False}

_BUILT_IN: dict[str, Method] = {
    "ridge": _method(
        "aligners.ridge:RidgeAligner",
        "ridge regression from text to image rows: each text becomes a row of a head",
        "Ridge",
        _RIDGE,
        direction="y->x",
        center=False,
    ),
    "ridge-x2y": _method(
        "aligners.ridge:RidgeAligner",
        "ridge regression from image to text rows",
        "Ridge to texts",
        _RIDGE,
        direction="x->y",
        center=False,
    ),
    "ridge-both": _method(
        "aligners.ridge:TwoWayRidgeAligner",
        "ridge regression in both directions, the mean of the two cosines",
        "Ridge both ways",
        _RIDGE,
        center=False,
    ),
    "kernel-ridge": _method(
        "aligners.ridge:KernelRidgeAligner",
        "ridge from text to image rows, nonlinear: Gaussian kernel ridge regression",
        "Kernel ridge",
        f"{_RIDGE} gamma",
        relative=False,
        center=False,
    ),
    "least-squares": _method(
        "aligners.ridge:RidgeAligner",
        "ridge-x2y without a penalty: needs more pairs than image columns",
        "Least squares",
        _MIXED,
        direction="x->y",
        alpha=0.0,
        center=False,
    ),
    "text-to-concept": _method(
        "aligners.baselines:TextToConceptAligner",
        "affine map into the image space of a CLIP model, whose texts then need none",
        "Text-to-Concept",
        alpha=0.0,
    ),
    "procrustes": _method(
        "aligners.rotations:ProcrustesAligner",
        "the rotation between both spaces that fits best",
        "Procrustes",
        f"{_MIXED} rank",
        center=False,
    ),
    "cca": _method(
        "aligners.rotations:CCAAligner",
        "canonical correlations with shrinkage, scored by the plain cosine",
        "CCA",
        f"{_CHOSEN} n_components",
    ),
    "csa": _method(
        "aligners.rotations:CSAAligner",
        "canonical correlations, each direction of the cosine weighted by its strength",
        "CSA",
        f"{_CHOSEN} n_components",
    ),
    "cca-200": _method(
        "aligners.rotations:CCAAligner",
        "canonical correlations as in the head-recycling experiments: 200, plain cosine, 1e-6 I",
        "CCA, 200 directions",
        _MIXED,
        **_CCA_200,
    ),
    "paper-cca": _method(
        "aligners.rotations:CCAAligner",
        "cca-200 as the paper's code has it: rows not centred, one mean of all pairs, all alike",
        "CCA of the paper",
        **_CCA_200,
    ),
    "pls": _method(
        "aligners.rotations:PLSAligner",
        "the directions of both spaces that covary most",
        "PLS",
        f"{_MIXED} n_components",
    ),
    "mean-shift": _method(
        "aligners.baselines:MeanShiftAligner",
        "subtract the mean of each side and nothing else: a baseline",
        "Mean shift",
    ),
    "mini-vec2vec": _method(
        "aligners.rotations:MiniVec2VecAligner",
        "a rotation from the geometry of each side alone, blind to which rows are pairs: a control",
        "mini-vec2vec (no pairs)",
        center=False,
    ),
    "asif": _method(
        "aligners.baselines:ASIFAligner",
        "similarity to the same pairs, on both sides; fits nothing",
        "ASIF",
        "top_k power validation",
        precision="float32",
    ),
    "conse": _method(
        "aligners.baselines:ConSEAligner",
        "the mix of the class texts that the classifier believes in; uses no real pair",
        "ConSE",
        "top_k centre",
    ),
    **{name: _trained(name) for name in PRESETS},
}
_BUILT_IN["paper-cca"] = replace(_BUILT_IN["paper-cca"], preparation=replace(_UNIT, alike=True))


@cache
def aligners() -> dict[str, type[BaseAligner]]:
    """Return the classes behind them, by the name that saved alignments have for them."""
    return {method.cls.method: method.cls for method in reversed(_BUILT_IN.values())}


def _as_method(_: str, thing: Any, **about: Any) -> Method:
    from fitters.aligners import fits_matrices

    own = isinstance(thing, Method)
    made = thing if own else Method(thing, first_line(thing))
    method: Method = replace(made, **about)
    if not callable(method.aligner):
        raise TypeError(
            f"expected a class with fit, project_x and project_y, a function f(x, y) or "
            f"f(x, y, weight) that returns two matrices, or a Method; got {method.aligner!r}."
        )
    if not fits_matrices(method.aligner):
        lacks = [own for own in ("fit", "project_x", "project_y") if not hasattr(method.cls, own)]
        if lacks:
            raise TypeError(f"{method.cls.__name__} has no {lacks[0]}.")
    return method


METHODS: Registry[Method] = Registry(
    "aligner", _BUILT_IN, accept=_as_method, reserved=lambda: {*aligners(), "identity"}
)
"""Methods of `fit`, and what each is.

An aligner of one's own (``register("aligner", NAME)``, an entry point of ``headstock.aligners``) is

- a class with `fit`, `project_x` and `project_y`; see `fitters.aligners`. What else it has
  decides which settings the method has, and what is fitted is saved if it is named as
  `fitters.saved.save_parts` says;
- or a function ``f(x, y)`` or ``f(x, y, weight)`` that returns two matrices; see
  `fitters.aligners.matrix_aligner`;
- or a `Method` of one of these, with a title, a preparation and settings that are given.

The id of a run holds a digest of its source (the modules that define it and the classes that it
inherits from), the versions of their distributions and `Method.version`: change one of them, and
its runs are made anew. Other processes (``jobs`` above 1, Ray) find what an installed package or a
file of ``--plugin`` registers.
"""


def registered(thing: Any, name: str = "") -> str:
    """Return the name of a method, an aligner, its class or a function in `METHODS`.

    What has no name yet is added, under its own or the given one.

    Raises
    ------
    SettingError
        If it is an `Alignment`, or an aligner of which no second one can be made.
    """
    if isinstance(thing, str):
        return thing
    for known, method in METHODS.items():
        if (method is thing or method.aligner is thing) and name in ("", known):
            return known
    if isinstance(getattr(thing, "config", None), FitConfig):
        raise SettingError("An Alignment is the whole protocol: pass its method, or a FitConfig.")
    defined: Any = getattr(thing, "func", thing)
    default, made = getattr(defined, "__name__", ""), thing
    if not isinstance(thing, type) and hasattr(thing, "project_x"):
        defined = type(thing)
        default, made = _of_aligner(thing)
    module = sys.modules.get(getattr(defined, "__module__", ""))
    METHODS.add(name or default, made, origin=origin_in(vars(module) if module else {}))
    return name or default


def _of_aligner(aligner: Any) -> tuple[str, Method]:
    """Return the name of an aligner, with those of its parameters that are not defaults."""
    from fitters.aligners import params_of
    from fitters.kept import digest_of

    cls: Any = type(aligner)
    try:
        params = params_of(aligner)
        plain = {n: v for n, v in params_of(cls()).items() if repr(params[n]) == repr(v)}
    except AttributeError as err:
        raise SettingError(
            f"{cls.__name__} does not keep its constructor parameters under their own names "
            f"({err}), so that no second one can be made of it. Pass the class, or a partial."
        ) from err
    except TypeError:  # it has a parameter without a default
        plain = {}
    said = "-".join([cls.__name__, *(f"{n}-{v}" for n, v in params.items() if n not in plain)])
    name = re.sub(r"[^A-Za-z0-9_.+-]+", "-", said).strip("-_.+")
    if name != said or len(name) > _LONGEST:
        name = f"{name[:_LONGEST]}-{digest_of(sorted(params.items())).hex()[:8]}"
    return name, Method(partial(cls, **params))


def aligner_class(name: str) -> type[Any]:
    """Return the class of the aligner that saved alignments call `name`: ours, or a method's.

    Raises
    ------
    UnknownMethodError
        If there is none; the message lists those that exist.
    """
    if name in METHODS and name not in aligners():
        return METHODS[name].cls
    return lookup(aligners(), name, what="aligner", error=UnknownMethodError)


def needs_rows(config: FitConfig, *, mixed: bool) -> bool:
    """Return whether a fit on real pairs looks at more of them than their moments."""
    method = method_named(config.method)
    if method.fitted_on != "moments" or method.rows.centred(config.centre).images == "unit":
        # Moments of a store are of centred rows, or of raw ones.
        return True
    by_error = config.criterion == "error" and method.by_error
    return not by_error and bool(config.open_settings(method.options, mixed=mixed))


def methods_with(setting: str) -> list[str]:
    """Return the names of the methods that have a setting: a field, or what ``-s`` calls it."""
    return [
        name
        for name, method in METHODS.items()
        if any(setting in (typed, one.name) for typed, one in method.settings.items())
    ]


def method_named(name: str) -> Method:
    """Return the method called `name`.

    Raises
    ------
    UnknownMethodError
        If there is none; the message lists those that exist.
    """
    return lookup(
        METHODS,
        name,
        what="method",
        error=UnknownMethodError,
        listed_by="headstock ls --available methods",
    )
