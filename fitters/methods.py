"""The methods by name, and the settings of a fit.

`FitConfig` holds every setting that a fit may be asked for, `Method.options` says which of them a
method has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt

from featstore.errors import lookup, unknown_name
from featstore.options import check_values, option
from featstore.plugins import Registry, first_line
from fitters.aligners.asif import ASIFAligner
from fitters.aligners.base import (
    BaseAligner,
    fits_matrices,
    matrix_aligner,
    takes_weights,
    tune_by_refitting,
)
from fitters.aligners.conse import ConSEAligner
from fitters.aligners.directions import CCAAligner, CSAAligner, PLSAligner
from fitters.aligners.kernel import KernelRidgeAligner
from fitters.aligners.mean_shift import MeanShiftAligner, TextToConceptAligner
from fitters.aligners.mini_vec2vec import MiniVec2VecAligner
from fitters.aligners.procrustes import ProcrustesAligner
from fitters.aligners.ridge import RidgeAligner, TwoWayRidgeAligner
from fitters.errors import SettingError, UnknownMethodError
from fitters.pairs import Pairs
from fitters.select.grid import MOST, Choice, Search, parameter_of
from fitters.select.kernel import Validation
from fitters.select.ranking import METRICS, Metric
from fitters.sources import Preparation, Sources, prepare
from fitters.trained.base import OnEpoch, Precision
from fitters.trained.presets import PRESETS, preset

OPTIONS = ("penalty", "mix", "gamma", "n_components", "rank", "scale", "top_k", "power", "legacy")
"""Settings that some methods have and others do not."""

TRAINING = ("epochs", "batch_size", "learning_rate", "share", "sequential", "patience")
"""Settings of the methods that are trained; see `TrainingOptions`."""

Criterion = Literal["cosine", "rank", "error"]
"""How a choice is scored; see `fitters.recipe.fit_alignment`."""


@dataclass(frozen=True)
class TrainingOptions:
    """What may be asked of a trained method; None leaves the preset's own.

    Attributes
    ----------
    epochs, batch_size : int, optional
    learning_rate : float, optional
    share : float, optional
        Share of prototypes in every batch; None concatenates both sources, as in the paper.
    sequential : bool
        Prototypes first, then real pairs alone.
    patience : int, optional
        Epochs without a better held-out mean reciprocal rank before it stops.
    precision : {"auto", "float32", "bf16"}, optional
        See `fitters.MLPAligner`.
    checkpoint : Path, optional
        File that the state is kept in; see `TrainedAligner.fit`.
    on_epoch : callable, optional
        Is given an `EpochDone` after each epoch.
    """

    epochs: int | None = option(
        None,
        help="Number of epochs (trained methods) [default: the preset's].",
        at_least=1,
        below=1_000_000,
    )
    batch_size: int | None = option(
        None,
        help="Rows in a batch (trained methods) [default: the preset's].",
        at_least=2,
        below=MOST,
    )
    learning_rate: float | None = option(
        None,
        help="Learning rate (trained methods) [default: the preset's].",
        above=0,
        below=1000,
    )
    share: float | None = option(
        None,
        help="Share of prototypes in every batch (trained methods) [default: shuffle both "
        "sources].",
        above=0,
        below=1,
        needs=("y", "head"),
    )
    sequential: bool = option(
        False,
        help="Train on the prototypes first, then on the real pairs (trained methods).",
        needs=("y", "head"),
    )
    patience: int | None = option(
        None,
        help="Stop after this many epochs without a better held-out MRR (trained methods).",
        at_least=1,
        below=MOST,
    )
    precision: Precision | None = option(
        None, help="Precision of a training [default: the preset's].", flag=None
    )
    checkpoint: Path | None = None
    on_epoch: OnEpoch | None = None

    def __post_init__(self) -> None:
        check_values(self, SettingError, of="a training")

    @property
    def changes(self) -> dict[str, Any]:
        """The settings that differ from the preset's own."""
        requested = {name: getattr(self, name) for name in (*TRAINING, "precision")}
        return {name: value for name, value in requested.items() if value not in (None, False)}


@dataclass(frozen=True)
class FitConfig:
    """The method and every setting of a fit; "auto" is chosen from the training data.

    Attributes
    ----------
    method : str
        One of `METHODS`.
    penalty : float or "auto"
        Relative: α = penalty · tr(gram) / columns. For kernel ridge it is absolute, on a kernel
        whose diagonal is 1.
    mix : float or "auto"
        Mass of one class relative to one real image, above 0. No part without both sources.
    gamma : float or "auto"
        Of kernel ridge: inverse squared width of the kernel between unit text rows, above 0. It
        is chosen with the penalty, by closed forms in either case.
    n_components : int, "auto" or None
        Directions of CCA, CSA and PLS; None keeps all.
    rank : int, optional
        Of a truncated Procrustes rotation.
    scale : bool
        Procrustes also scales; cosines do not see it.
    top_k : int, "auto" or None
        Classes in ConSE's mix (10 if None), or anchors that ASIF keeps (800). Only ASIF's can be
        chosen; see `fitters.aligners.asif.choose_anchors`.
    power : float, "auto" or None
        Of ASIF's similarities (8 if None).
    legacy : bool
        Text-to-Concept with the bias bug of its original; for the trained methods see
        `fitters.trained.presets`.
    centre : bool, optional
        False: rows are brought to unit length only, and no mean is subtracted. None: as the
        method's source has it, which is True but for the trained ones and paper-cca. ConSE reads
        images raw in any case; its source has texts as they are, and centring them is ours.
    criterion : {"cosine", "rank", "error"}, optional
        "cosine" and "rank" are of leave-one-name-group-out; see `leave_one_group_out`. "error"
        chooses a ridge by its held-out squared error in either case; see `validate_by_error`.
        None: the aligner's own, "rank" of a ridge and "cosine" of kernel ridge.
    validation : str
        What cross-validation over real pairs scores by: "mrr", or "top-1", "top-5" or "top-10",
        the recall (with class texts, the accuracy) that will be reported; see `METRICS` in
        `fitters.select.ranking`; of ridges also "squared", which is criterion "error". Of kernel
        ridge: see `VALIDATIONS` in `fitters.select.kernel`.
    training : TrainingOptions
        Of the trained methods: epochs, mixing, early stopping, checkpoint, progress.

    Raises
    ------
    SettingError
        If a number is out of its range.

    Examples
    --------
    >>> FitConfig("ridge", penalty=0.3).penalty
    0.3
    >>> FitConfig("ridge", penalty=-1)
    Traceback (most recent call last):
    fitters.errors.SettingError: ...
    """

    method: str = option(help="A method that `fitters fit --help` lists.", flag=None)
    penalty: float | Literal["auto"] = option(
        "auto",
        help="Ridge penalty; auto chooses it on the training pairs.",
        at_least=0,
        below=MOST,
    )
    mix: float | Literal["auto"] = option(
        "auto",
        help="Weight of the prototypes beside real pairs; auto chooses it on the training pairs.",
        above=0,
        below=MOST,
        needs=("y", "head"),
    )
    gamma: float | Literal["auto"] = option(
        "auto",
        help="Inverse squared width of the kernel of kernel-ridge; auto chooses it.",
        above=0,
        # The kernel of rows that are apart by more than 1 is then 0 but for rounding.
        below=1000,
    )
    n_components: int | Literal["auto"] | None = option(
        "auto",
        help="Number of directions that cca, csa and pls keep; auto chooses it.",
        flag="--components",
        none="all",
        at_least=1,
        below=MOST,
    )
    rank: int | None = option(
        None, help="Rank of procrustes [default: the full rank].", at_least=1, below=MOST
    )
    scale: bool = option(False, help="Let procrustes fit a scale too.")
    top_k: int | Literal["auto"] | None = option(
        None,
        help="Number of classes that conse averages [default: 10], or of anchors that asif keeps "
        "[default: 800]; auto chooses that of asif.",
        at_least=1,
        below=MOST,
    )
    power: float | Literal["auto"] | None = option(
        None,
        help="Exponent of the similarities of asif [default: 8]; auto chooses it.",
        above=0,
        below=1000,
    )
    legacy: bool = option(
        False, help="Reproduce the original code where it differs from the paper."
    )
    centre: bool | None = option(
        None,
        help="Centre the rows of a trained method, or not [default: as in its paper]; of conse its "
        "texts [default: centred].",
        flag="--centred/--uncentred",
    )
    criterion: Criterion | None = option(
        None,
        help="How a ridge is chosen: by cosine or rank without real pairs, or by the held-out "
        "squared error, which needs moments alone [default: rank; of kernel-ridge cosine].",
    )
    validation: Validation | Metric = option(
        "mrr",
        help="Metric by which settings are chosen on held-out real pairs.",
        choices=tuple(METRICS),
        needs=("y",),
    )
    training: TrainingOptions = TrainingOptions()

    def __post_init__(self) -> None:
        check_values(self, SettingError, of="a fit")

    @classmethod
    def of(cls, method: str | FitConfig, settings: Mapping[str, Any]) -> FitConfig:
        """Return the config of a method, or the given one, with these settings by keyword.

        Raises
        ------
        SettingError
            If there is no setting of a name, or a number is out of its range.
        """
        known = [setting.name for setting in fields(FitConfig) if setting.name != "method"]
        for name in settings:
            if name not in known:
                raise SettingError(unknown_name("setting", name, known, where="of a fit"))
        if isinstance(method, str):
            return cls(method, **settings)
        return replace(method, **settings)

    def open_settings(self, method: Method, *, mixed: bool) -> list[str]:
        """Return the settings of a method that are left to choose, on both sources or on one."""
        return [
            name
            for name in method.options
            if getattr(self, name, None) == "auto" and (mixed or name != "mix")
        ]

    def chooses(self, method: Method, *, mixed: bool) -> bool:
        """Return whether anything is left to choose."""
        return bool(self.open_settings(method, mixed=mixed))


_DEFAULTS = {setting.name: setting.default for setting in fields(FitConfig)}


@dataclass(frozen=True)
class Method:
    """An aligner under a name, as `fitters.recipe.fit` makes and fits it.

    What the aligner needs, how its rows are prepared and how its settings are chosen is the class's
    own; see `fitters.aligners.base`.

    Attributes
    ----------
    aligner : type or callable
        What makes it: its class, a ``functools.partial`` of it, or a function without arguments
        that must be given; or a function that fits two matrices, see
        `fitters.aligners.base.matrix_aligner`. A setting of `OPTIONS` exists if this has a
        parameter of its name ("alpha" for the penalty) that no partial gives.
    text : str
        One line on it.
    title : str
        What tables and figures call it; empty: the class's own `title`, or else its name.
    preparation : Preparation, optional
        In place of the class's own.
    version : str
        Of a method of one's own: whatever its source does not show; see `METHODS`.

    Examples
    --------
    >>> METHODS["ridge"].label, METHODS["ridge"].options
    ('Ridge', ('penalty', 'mix'))
    >>> METHODS["ridge"].make(FitConfig("ridge", penalty=0.3)).alpha
    0.3
    """

    aligner: Callable[..., Any]
    text: str = ""
    title: str = ""
    preparation: Preparation | None = None
    version: str = ""

    @cached_property
    def factory(self) -> Callable[..., Any]:
        """What makes the aligner; of a function that fits two matrices, its class."""
        return matrix_aligner(self.aligner) if fits_matrices(self.aligner) else self.aligner

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: not what follows from the fields."""
        return {own.name: getattr(self, own.name) for own in fields(self)}

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
        given = self.factory.keywords if isinstance(self.factory, partial) else {}
        free = signature(self.factory).parameters.keys() - given.keys()
        own = [name for name in OPTIONS if parameter_of(name) in free]
        alone = self.rows.alike or "raw" in (self.rows.images, self.rows.texts)
        if self.fitted_on in ("moments", "rows") and not alone and takes_weights(self.cls):
            own += ["mix"] if getattr(self.cls, "mixes", True) else []
        return (*own, *TRAINING) if self.fitted_on == "training" else tuple(own)

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
        bias_column: bool = False,
        blocks: tuple[int, ...] = (),
    ) -> Sources[Pairs]:
        """Return what a fit with this config is on: raw pairs, checked and prepared.

        Parameters
        ----------
        prototypes, real, image_mean, bias
            As for `fitters.recipe.fit_alignment`.
        bias_column : bool
            Prototypes [w, b] and images [f, 1] instead of w and f, before all preprocessing;
            `image_mean` is then of such rows.
        blocks : tuple of int
            Columns of each encoder, where images and prototypes are rows of several side by side.

        Raises
        ------
        SettingError
            If a source that the method needs is missing, or one that it cannot use is there.
        """
        how, name = self.rows.centred(config.centre), config.method
        if self.fitted_on == "head":
            real, bias_column = None, False
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
        if bias_column and (bias is None or prototypes is None):
            raise SettingError(
                "A bias column needs a head with a bias: pass the prototypes and their bias."
            )
        wide = bias_column or (how.head_bias and prototypes is not None)
        if blocks and (wide or self.fitted_on == "training"):
            raise SettingError(
                f"{name} with these settings takes one head. Use another method, or rows 'weights'."
            )
        data = prepare(
            prototypes, real, image_mean, how=how, bias_column=bias if wide else None, blocks=blocks
        )
        return replace(data, bias=bias)

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
        self.check(config, prototypes=data.prototypes is not None, real=data.real is not None)
        own = config.criterion or getattr(self.cls, "criterion", BaseAligner.criterion)
        aligner = self.make(config)
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
        own = [name for name in self.options if name != "mix"]
        mix = {"mix": choice.mix} if mixed and "mix" in self.options else {}
        return mix | choice.facts | {name: getattr(aligner, parameter_of(name)) for name in own}


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
    never = {} if chosen.legacy else {"legacy": False}
    return Method(partial(preset, name, **never), chosen.text, chosen.title)


_CCA_200 = partial(CCAAligner, 200, alpha=1e-6, relative=False)
_UNIT = Preparation(images="unit", texts="unit")

_BUILT_IN: dict[str, Method] = {
    "ridge": Method(
        partial(RidgeAligner, "y->x", center=False),
        "ridge regression from text to image rows: each text becomes a row of a head",
        "Ridge",
    ),
    "ridge-x2y": Method(
        partial(RidgeAligner, "x->y", center=False),
        "ridge regression from image to text rows",
        "Ridge to texts",
    ),
    "ridge-both": Method(
        partial(TwoWayRidgeAligner, center=False),
        "ridge regression in both directions, the mean of the two cosines",
        "Ridge both ways",
    ),
    "kernel-ridge": Method(
        partial(KernelRidgeAligner, relative=False, center=False),
        "ridge from text to image rows, nonlinear: Gaussian kernel ridge regression",
        "Kernel ridge",
    ),
    "least-squares": Method(
        partial(RidgeAligner, "x->y", alpha=0.0, center=False),
        "ridge-x2y without a penalty: needs more pairs than image columns",
        "Least squares",
    ),
    "text-to-concept": Method(
        partial(TextToConceptAligner, alpha=0.0),
        "affine map into the image space of a CLIP model, whose texts then need none",
        "Text-to-Concept",
    ),
    "procrustes": Method(
        partial(ProcrustesAligner, center=False),
        "the rotation between both spaces that fits best",
        "Procrustes",
    ),
    "cca": Method(
        CCAAligner, "canonical correlations with shrinkage, scored by the plain cosine", "CCA"
    ),
    "csa": Method(
        CSAAligner,
        "canonical correlations, each direction of the cosine weighted by its strength",
        "CSA",
    ),
    "cca-200": Method(
        _CCA_200,
        "canonical correlations as in the head-recycling experiments: 200, plain cosine, 1e-6 I",
        "CCA, 200 directions",
    ),
    "paper-cca": Method(
        _CCA_200,
        "cca-200 as the paper's code has it: rows not centred, one mean of all pairs, all alike",
        "CCA of the paper",
        replace(_UNIT, alike=True),
    ),
    "pls": Method(PLSAligner, "the directions of both spaces that covary most", "PLS"),
    "mean-shift": Method(
        MeanShiftAligner,
        "subtract the mean of each side and nothing else: a baseline",
        "Mean shift",
    ),
    "mini-vec2vec": Method(
        partial(MiniVec2VecAligner, center=False),
        "a rotation from the geometry of each side alone, blind to which rows are pairs: a control",
        "mini-vec2vec (no pairs)",
    ),
    "asif": Method(
        partial(ASIFAligner, precision="float32"),
        "similarity to the same pairs, on both sides; fits nothing",
        "ASIF",
    ),
    "conse": Method(
        ConSEAligner,
        "the mix of the class texts that the classifier believes in; uses no real pair",
        "ConSE",
    ),
    **{name: _trained(name) for name in PRESETS},
}
_BUILT_IN["paper-mlp"] = replace(
    _BUILT_IN["paper-mlp"], preparation=replace(_UNIT, legacy_texts=True)
)

ALIGNERS: dict[str, type[BaseAligner]] = {
    method.cls.method: method.cls for method in reversed(_BUILT_IN.values())
}
"""The classes behind them, by the name that saved alignments have for them."""


def _as_method(_: str, thing: Any, **about: Any) -> Method:
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
    "aligner", _BUILT_IN, accept=_as_method, reserved=[*ALIGNERS, "identity"]
)
"""Methods of `fit_alignment`, and what each is.

An aligner of one's own (``register("aligner", NAME)``, an entry point of ``headstock.aligners``) is

- a class with `fit`, `project_x` and `project_y`; see `fitters.aligners.base`. What else it has
  decides which settings the method has, and what is fitted is saved if it is named as
  `fitters.saved.save_alignment` says;
- or a function ``f(x, y)`` or ``f(x, y, weight)`` that returns two matrices; see
  `fitters.aligners.base.matrix_aligner`;
- or a `Method` of one of these, with a title, a preparation and settings that are given.

The id of a run holds a digest of its source (the modules that define it and the classes that it
inherits from), the versions of their distributions and `Method.version`: change one of them, and
its runs are made anew. To run in other processes (``jobs`` above 1, Ray) what is registered by hand
must be at the top of a module that they can import.
"""


def aligner_class(name: str) -> type[Any]:
    """Return the class of the aligner that saved alignments call `name`: ours, or a method's.

    Raises
    ------
    UnknownMethodError
        If there is none; the message lists those that exist.
    """
    if name in METHODS and name not in ALIGNERS:
        return METHODS[name].cls
    return lookup(
        ALIGNERS, name, what="aligner", error=UnknownMethodError, listed_by="fitters.ALIGNERS"
    )


def needs_rows(config: FitConfig, *, mixed: bool) -> bool:
    """Return whether a fit on real pairs looks at more of them than their moments."""
    method = method_named(config.method)
    if method.fitted_on != "moments" or method.rows.centred(config.centre).images == "unit":
        # Moments of a store are of centred rows, or of raw ones.
        return True
    by_error = config.criterion == "error" and method.by_error
    return config.chooses(method, mixed=mixed) and not by_error


def method_named(name: str) -> Method:
    """Return the method called `name`.

    Raises
    ------
    UnknownMethodError
        If there is none; the message lists those that exist.
    """
    return lookup(
        METHODS, name, what="method", error=UnknownMethodError, listed_by="fitters fit --help"
    )
