"""The methods by name, and how each prepares its two sides.

`FitConfig` holds every setting that a fit may be asked for, `Method.takes` says which of them a
method has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from math import inf, isfinite
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from featstore.errors import lookup, unknown_name
from featstore.options import option
from fitters.aligners.asif import ASIFAligner
from fitters.aligners.base import BaseAligner
from fitters.aligners.conse import ConSEAligner
from fitters.aligners.directions import CCAAligner, CSAAligner, PLSAligner
from fitters.aligners.kernel import KernelRidgeAligner
from fitters.aligners.mean_shift import MeanShiftAligner, TextToConceptAligner
from fitters.aligners.procrustes import ProcrustesAligner
from fitters.aligners.ridge import RidgeAligner, TwoWayRidgeAligner
from fitters.errors import PairsError, SettingError, UnknownMethodError
from fitters.moments.transform import SideTransform, append_column
from fitters.pairs import Pairs
from fitters.select.grid import PENALTIES, WEIGHTS, Axis, geometric
from fitters.select.kernel import Validation
from fitters.select.ranking import METRICS, Metric
from fitters.trained.base import OnEpoch, Precision
from fitters.trained.presets import PRESETS, preset

OPTIONS = ("penalty", "mix", "gamma", "n_components", "rank", "scale", "top_k", "power", "legacy")
"""Settings that some methods have and others do not."""

TRAINING = ("epochs", "batch_size", "learning_rate", "share", "sequential", "patience")
"""Settings of the methods that are trained; see `TrainingOptions`."""

Criterion = Literal["cosine", "rank", "error"]
"""How a choice is scored; see `fitters.recipe.fit_alignment`."""


@dataclass(frozen=True)
class Settings:
    """One value of every option; what a method does not have, it does not read.

    Attributes
    ----------
    penalty : float
        Relative; of kernel ridge absolute.
    gamma : float
        Of a kernel.
    n_components, rank : int, optional
        None: all.
    top_k, power : optional
        None: the method's own default.
    scale, legacy : bool
    """

    penalty: float = 0.0
    gamma: float = 4.0
    n_components: int | None = None
    rank: int | None = None
    scale: bool = False
    top_k: int | None = None
    power: float | None = None
    legacy: bool = False


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
        None, help="Number of epochs (trained methods) [default: the preset's].", at_least=1
    )
    batch_size: int | None = option(
        None, help="Rows in a batch (trained methods) [default: the preset's].", at_least=2
    )
    learning_rate: float | None = option(
        None, help="Learning rate (trained methods) [default: the preset's].", above=0
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
    )
    precision: Precision | None = None
    checkpoint: Path | None = None
    on_epoch: OnEpoch | None = None

    @property
    def changes(self) -> dict[str, Any]:
        """The settings that differ from the preset's own."""
        asked = {name: getattr(self, name) for name in (*TRAINING, "precision")}
        return {name: value for name, value in asked.items() if value not in (None, False)}


COARSE = 1
"""Values a decade where every point of the grid costs a fit: a third of the closed forms' grid."""


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
        chosen; see `fitters.select.choose_anchors`.
    power : float, "auto" or None
        Of ASIF's similarities (8 if None).
    legacy : bool
        Text-to-Concept with the bias bug of its original; for the trained methods see
        `fitters.trained.presets`.
    centre : bool, optional
        False: rows are brought to unit length only, and no mean is subtracted. None: as the
        method's source has it, which is True but for the trained ones and paper-cca.
    criterion : {"cosine", "rank", "error"}
        "cosine" and "rank" are of leave-one-name-group-out; see `leave_one_group_out`. "error"
        chooses a ridge by its held-out squared error in either case; see `validate_by_error`.
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
    """

    method: str
    penalty: float | Literal["auto"] = option(
        "auto",
        help="Ridge penalty; auto chooses it on the training pairs.",
        at_least=0,
        below=inf,
    )
    mix: float | Literal["auto"] = option(
        "auto",
        help="Weight of the prototypes beside real pairs; auto chooses it on the training pairs.",
        above=0,
        below=inf,
        needs=("y", "head"),
    )
    gamma: float | Literal["auto"] = option(
        "auto",
        help="Inverse squared width of the kernel of kernel-ridge; auto chooses it.",
        above=0,
        below=inf,
    )
    n_components: int | Literal["auto"] | None = option(
        "auto",
        help="Number of directions that cca, csa and pls keep; auto chooses it.",
        flag="--components",
        none="all",
        at_least=1,
    )
    rank: int | None = option(None, help="Rank of procrustes [default: the full rank].", at_least=1)
    scale: bool = option(False, help="Let procrustes fit a scale too.")
    top_k: int | Literal["auto"] | None = option(
        None,
        help="Number of classes that conse averages [default: 10], or of anchors that asif keeps "
        "[default: 800]; auto chooses that of asif.",
        at_least=1,
    )
    power: float | Literal["auto"] | None = option(
        None,
        help="Exponent of the similarities of asif [default: 8]; auto chooses it.",
        above=0,
        below=inf,
    )
    legacy: bool = option(
        False, help="Reproduce the original code where it differs from the paper."
    )
    centre: bool | None = option(
        None,
        help="Centre the rows of a trained method, or not [default: as in its paper].",
        flag="--centred/--uncentred",
    )
    criterion: Criterion = option(
        "cosine",
        help="How a ridge is chosen: by cosine or rank without real pairs, or by the held-out "
        "squared error, which needs moments alone.",
    )
    validation: Validation | Metric = option(
        "mrr",
        help="Metric by which settings are chosen on held-out real pairs.",
        choices=tuple(METRICS),
        needs=("y",),
    )
    training: TrainingOptions = TrainingOptions()

    def __post_init__(self) -> None:
        if self.penalty != "auto" and not (_is_number(self.penalty) and self.penalty >= 0):
            raise SettingError(
                "penalty must be 'auto' or a finite number that is not negative. "
                f"Got {self.penalty!r}."
            )
        for name in ("mix", "gamma"):
            value = getattr(self, name)
            if value != "auto" and not (_is_number(value) and value > 0):
                raise SettingError(
                    f"{name} must be 'auto' or a finite number above 0. Got {value!r}."
                )

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

    @property
    def given(self) -> Settings:
        """The settings that are not chosen from the data; the rest at their defaults."""
        return Settings(
            rank=self.rank, scale=self.scale, legacy=self.legacy,
            top_k=None if self.top_k == "auto" else self.top_k,
            power=None if self.power == "auto" else self.power,
        )  # fmt: skip

    def chooses_components(self, method: Method) -> bool:
        """Return whether the number of directions is to be chosen."""
        return "n_components" in method.options and self.n_components == "auto"

    def chooses(self, method: Method, *, mixed: bool) -> bool:
        """Return whether anything is left to choose."""
        if method.rule == "none":
            return False
        if method.rule == "anchors":
            return "auto" in (self.top_k, self.power)
        if self.chooses_components(method) or ("gamma" in method.options and self.gamma == "auto"):
            return True
        return any(axis.searched for axis in self.axes(method, mixed=mixed))

    def axes(
        self, method: Method, *, mixed: bool, grid: Mapping[str, Axis] | None = None
    ) -> tuple[Axis, Axis]:
        """Return the grids of penalties and weights; of what plays no part, a fixed value.

        `grid` stands for the default grids of "penalty" and "weight".
        """
        coarse = method.rule == "refit"
        default = {"penalty": PENALTIES, "weight": WEIGHTS}
        if coarse:
            default = {name: _coarser(axis) for name, axis in default.items()}
        own = {**default, **(grid or {})}
        penalties, weights = Axis.fixed(0.0), Axis.fixed(1.0)
        if "penalty" in method.options:
            penalties = own["penalty"] if self.penalty == "auto" else Axis.fixed(self.penalty)
        if mixed and "mix" in method.options:
            weights = own["weight"] if self.mix == "auto" else Axis.fixed(self.mix)
        return penalties, weights


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        return False
    return isfinite(value)


def _coarser(axis: Axis) -> Axis:
    return replace(axis, values=geometric(axis.values[0], axis.values[-1], COARSE))


@dataclass(frozen=True)
class Method:
    """How one method is fitted by `fitters.recipe`.

    Attributes
    ----------
    text : str
        One line on it.
    make : callable
        Settings → the estimator. Rows reach it transformed, so that it need not centre them.
    options : tuple of str
        Those of `OPTIONS` and `TRAINING` that it has.
    fitted_on : {"moments", "rows", "head", "training"}
        What it needs: second moments, the rows themselves, a classification head, or rows again
        and again: then it is a preset of `fitters.trained`.
    rule : {"ridge", "procrustes", "kernel", "refit", "anchors", "none"}
        How "auto" settings are chosen with real pairs: by the closed forms of
        `select.cross_validate` or `select.cross_validate_kernel`, by fitting anew without each
        fold, by leaving out anchors, or not at all.
    direction : str
        Of a ridge: "y->x", "x->y" or "both".
    raw : bool
        Rows of both sides are used as they are: no unit length, no centring.
    centred : bool
        Rows are centred, unless raw.
    head_bias : bool
        Prototypes are [w, b] and images [f, 1], where the head has a bias.
    legacy_texts : bool
        With `legacy`, texts are brought to unit length for training and left raw for scoring.
    alike : bool
        Every pair counts alike: the m captions of an image are m pairs, not m parts of one.
    version : str
        Of a method of one's own: whatever its source does not show; see `register_method`.
    title : str
        What tables and figures call it; empty: its name.
    """

    text: str
    make: Callable[[Settings], BaseAligner]
    options: tuple[str, ...] = ()
    fitted_on: Literal["moments", "rows", "head", "training"] = "moments"
    rule: Literal["ridge", "procrustes", "kernel", "refit", "anchors", "none"] = "none"
    direction: str = ""
    raw: bool = False
    centred: bool = True
    head_bias: bool = False
    legacy_texts: bool = False
    alike: bool = False
    version: str = ""
    title: str = ""

    def takes(self, setting: str) -> bool:
        """Return whether a setting plays a part; what is no setting of a method always does."""
        if setting == "centre":
            return self.fitted_on == "training"
        return setting in self.options or setting not in (*OPTIONS, *TRAINING)


def _trained(name: str) -> Method:
    """Return the method that trains a preset; what the paper does is done to its rows too."""
    chosen = PRESETS[name]
    return Method(
        chosen.text,
        lambda s: preset(name, legacy=s.legacy),
        (*TRAINING, "legacy") if chosen.legacy else TRAINING,
        fitted_on="training",
        centred=chosen.centred,
        head_bias=name == "icis",
        legacy_texts=name == "paper-mlp",
        title=chosen.title,
    )


def _asif(settings: Settings) -> BaseAligner:
    return ASIFAligner(
        800 if settings.top_k is None else settings.top_k,
        power=8.0 if settings.power is None else settings.power,
        precision="float32",
    )


METHODS: dict[str, Method] = {
    "ridge": Method(
        "ridge regression from text to image rows: each text becomes a row of a head",
        lambda s: RidgeAligner("y->x", alpha=s.penalty, center=False),
        ("penalty", "mix"),
        rule="ridge",
        direction="y->x",
        title="Ridge",
    ),
    "ridge-x2y": Method(
        "ridge regression from image to text rows",
        lambda s: RidgeAligner("x->y", alpha=s.penalty, center=False),
        ("penalty", "mix"),
        rule="ridge",
        direction="x->y",
        title="Ridge to texts",
    ),
    "ridge-both": Method(
        "ridge regression in both directions, the mean of the two cosines",
        lambda s: TwoWayRidgeAligner(alpha=s.penalty, center=False),
        ("penalty", "mix"),
        rule="refit",
        direction="both",
        title="Ridge both ways",
    ),
    "kernel-ridge": Method(
        "ridge from text to image rows, nonlinear: Gaussian kernel ridge regression",
        lambda s: KernelRidgeAligner(gamma=s.gamma, relative=False, alpha=s.penalty, center=False),
        ("penalty", "mix", "gamma"),
        fitted_on="rows",
        rule="kernel",
        direction="y->x",
        title="Kernel ridge",
    ),
    "least-squares": Method(
        "ridge-x2y without a penalty: needs more pairs than image columns",
        lambda _: RidgeAligner("x->y", alpha=0.0, center=False),
        ("mix",),
        rule="refit",
        title="Least squares",
    ),
    "text-to-concept": Method(
        "affine map into the image space of a CLIP model, whose texts then need none",
        lambda s: TextToConceptAligner(legacy=s.legacy),
        ("legacy",),
        raw=True,
        title="Text-to-Concept",
    ),
    "procrustes": Method(
        "the rotation between both spaces that fits best",
        lambda s: ProcrustesAligner(center=False, rank=s.rank, scale=s.scale),
        ("mix", "rank", "scale"),
        rule="procrustes",
        title="Procrustes",
    ),
    "cca": Method(
        "canonical correlations with shrinkage, scored by the plain cosine",
        lambda s: CCAAligner(s.n_components, alpha=s.penalty),
        ("penalty", "mix", "n_components"),
        rule="refit",
        title="CCA",
    ),
    "csa": Method(
        "canonical correlations, each direction of the cosine weighted by its strength",
        lambda s: CSAAligner(s.n_components, alpha=s.penalty),
        ("penalty", "mix", "n_components"),
        rule="refit",
        title="CSA",
    ),
    "cca-200": Method(
        "canonical correlations as in the head-recycling experiments: 200, plain cosine, 1e-6 I",
        lambda _: CCAAligner(200, alpha=1e-6, relative=False),
        ("mix",),
        rule="refit",
        title="CCA, 200 directions",
    ),
    "paper-cca": Method(
        "cca-200 as the paper's code has it: rows not centred, one mean of all pairs, all alike",
        lambda _: CCAAligner(200, alpha=1e-6, relative=False),
        centred=False,
        alike=True,
        title="CCA of the paper",
    ),
    "pls": Method(
        "the directions of both spaces that covary most",
        lambda s: PLSAligner(s.n_components),
        ("mix", "n_components"),
        rule="refit",
        title="PLS",
    ),
    "mean-shift": Method(
        "subtract the mean of each side and nothing else: a baseline",
        lambda _: MeanShiftAligner(),
        title="Mean shift",
    ),
    "asif": Method(
        "similarity to the same pairs, on both sides; fits nothing",
        _asif,
        ("top_k", "power"),
        fitted_on="rows",
        rule="anchors",
        title="ASIF",
    ),
    "conse": Method(
        "the mix of the class texts that the classifier believes in; uses no real pair",
        lambda s: ConSEAligner(top_k=10 if s.top_k is None else s.top_k),
        ("top_k",),
        fitted_on="head",
        title="ConSE",
    ),
    **{name: _trained(name) for name in PRESETS},
}
"""Methods of `fit_alignment`, and what each is."""


BUILT_IN = dict(METHODS)
"""Those that come with the package: `bench.code` tells what was registered from outside by it."""


def register_method(name: str, method: Method) -> None:
    """Add a method of one's own to `METHODS`, for `fit_alignment` and for `bench`'s runs.

    The id of a run holds a digest of its source (the modules that define ``method.make``, the
    estimator and the classes that this inherits from) and of ``method.version``: change one of
    them, and the runs are made anew. To run in other processes (``jobs`` above 1, Ray), `make` must
    be a function at the top of a module that they can import. A name may be registered again.

    Parameters
    ----------
    name : str
    method : Method
        ``Method("what it does", make)`` at least; see there.

    Raises
    ------
    SettingError
        If a method of the package has this name.
    """
    if name in BUILT_IN:
        raise SettingError(
            f"{name!r} is a method of the package. Register yours under another name."
        )
    METHODS[name] = method


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


class Counted(Protocol):
    """Whatever has a number of pairs."""

    @property
    def n(self) -> int: ...  # noqa: D102


P = TypeVar("P", bound=Counted)


@dataclass(frozen=True, eq=False)
class Sources(Generic[P]):
    """What is fitted on: transformed rows of both sources, or their moments.

    Attributes
    ----------
    prototypes, real : P or None
        `Pairs`, `Folds` of moments, or a `fitters.trained.training.PairSource`.
    image, text : SideTransform
        What is done to rows to come.
    image_centre, text_centre : str
        Whose mean each side is centred by.
    """

    prototypes: P | None
    real: P | None
    image: SideTransform
    text: SideTransform
    image_centre: str
    text_centre: str

    @property
    def given(self) -> tuple[P, ...]:
        """The sources that there are, prototypes first."""
        return tuple(source for source in (self.prototypes, self.real) if source is not None)

    @property
    def mixed(self) -> bool:
        """Whether there are prototypes and real pairs."""
        return self.prototypes is not None and self.real is not None


def prepare(
    prototypes: Pairs | None,
    real: Pairs | None,
    image_mean: npt.NDArray[Any] | None,
    *,
    bias_column: npt.NDArray[Any] | None = None,
    centre: bool = True,
) -> Sources[Pairs]:
    """Return both sources transformed as `fitters.recipe.fit_alignment` says.

    `bias_column` goes to the prototypes as a column more, and 1 to the images. Without `centre`
    rows are brought to unit length and nothing is subtracted.

    Raises
    ------
    PairsError
        If the mean has another number of values than the images get.
    """
    wide = bias_column is not None
    if prototypes is not None and bias_column is not None:
        x = append_column(prototypes.x, bias_column)
        prototypes = Pairs(x, prototypes.y, prototypes.groups, prototypes.weight)
    text_source = real if prototypes is None else prototypes
    assert text_source is not None
    if not centre:
        text = SideTransform(label="texts")
        image = SideTransform(label="images", homogeneous=wide)
        head = SideTransform(label="prototypes")
        return Sources(
            None if prototypes is None else _transformed(prototypes, head, text),
            None if real is None else _transformed(real, image, text),
            image, text, "none", "none",
        )  # fmt: skip
    text = SideTransform.fit([(text_source.y, text_source.row_weight)], label="texts")
    if image_mean is not None:
        # Prototypes have their column already.
        width = text_source.x.shape[1] + (wide and prototypes is None)
        if image_mean.shape != (width,):
            told = " and then 1 for the bias's column" if wide else ""
            raise PairsError(
                f"The images' mean has shape {image_mean.shape}; it needs {width:,} values. Take "
                f"it of embeddings of the same encoder{told}."
            )
        image, from_whom = (
            SideTransform(mean=image_mean, label="images", homogeneous=wide),
            "given mean",
        )
    elif real is not None:
        batches = [(real.x, real.row_weight)]
        image = SideTransform.fit(batches, label="images", homogeneous=wide)
        from_whom = "real images"
    else:
        image, from_whom = SideTransform(label="images", homogeneous=wide), "none"
    if prototypes is not None:
        head = SideTransform.fit([(prototypes.x, prototypes.row_weight)], label="prototypes")
        prototypes = _transformed(prototypes, head, text)
    if real is not None:
        real = _transformed(real, image, text)
    whose = "real texts" if prototypes is None else "class texts"
    return Sources(prototypes, real, image, text, from_whom, whose)


def leave_raw(prototypes: Pairs | None, real: Pairs | None) -> Sources[Pairs]:
    """Return both sources as they are."""
    image, text = SideTransform.identity("images"), SideTransform.identity("texts")
    return Sources(prototypes, real, image, text, "none", "none")


def _transformed(pairs: Pairs, image: SideTransform, text: SideTransform) -> Pairs:
    return Pairs(image.apply(pairs.x), text.apply(pairs.y), pairs.groups, pairs.weight)
