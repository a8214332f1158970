"""The settings of a fit, and what a fit on a store is asked for: records of plain values.

Whoever only has to know which settings there are, such as the help of a command, imports this file
and no numeric library. `FitConfig` holds every setting that a fit may be asked for;
`fitters.methods.Method.options` says which of them a method has.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeAlias, TypedDict, TypeVar, get_args

from featstore.errors import OptionError
from featstore.options import check_values, option
from fitters.errors import SettingError, check_names

MOST = 10**12
"""Settings are below this: beyond, sums in float64 lose what they are added to, or overflow."""

Metric = Literal["mrr", "top-1", "top-5", "top-10"]
"""What a choice by rank can go by; see `fitters.select.ranking.METRICS`."""

Validation = Literal[Metric, "cosine", "squared"]
"""What cross-validation over real pairs can score by; see `fitters.select.noise.VALIDATIONS`."""

Control = Literal["random", "random-cov", "shuffled", "rotated", "shuffled-within"]
"""Controls of a head; see `fitters.prototypes.CONTROLS`."""

PairControl = Literal["repeated", "mixup"]
"""Controls made of real pairs alone; see `fitters.prototypes.PAIR_CONTROLS`."""

Scorer = Literal["cosine", "csls", "inverted-softmax", "sinkhorn", "hub"]
"""Scores of an image and a text; see `fitters.scorers.SCORERS`."""

TrainingPrecision = Literal["auto", "float32", "bf16"]
"""Precisions of a training; see `fitters.MLPAligner`."""

MomentsPrecision = Literal["float32", "float64"]
"""Precisions of moments; see `fitters.moments.PRECISIONS`."""

Centring = Literal["centred", "unit", "raw"]
"""Unit length, less the mean of their source, unit length again; unit length alone; as stored."""


@dataclass(frozen=True)
class Preparation:
    """How rows are prepared before an aligner is fitted on them, or projects them.

    Attributes
    ----------
    images, texts : {"centred", "unit", "raw"}
        What is done to the rows of each side.
    head_bias : bool
        Prototypes are [w, b] and images [f, 1], where the head has a bias.
    alike : bool
        Every pair counts alike: the m captions of an image are m pairs, not m parts of one.

    Examples
    --------
    >>> METHODS["ridge"].rows.images, METHODS["sail"].rows.images
    ('centred', 'unit')
    >>> Preparation().centred(False).texts
    'unit'
    """

    images: Centring = "centred"
    texts: Centring = "centred"
    head_bias: bool = False
    alike: bool = False

    def centred(self, centre: bool | None) -> Preparation:  # noqa: FBT001
        """Return the same with its rows centred or not; raw rows stay raw, as all do for None."""
        if centre is None:
            return self
        rows: Centring = "centred" if centre else "unit"
        images, texts = (side if side == "raw" else rows for side in (self.images, self.texts))
        return replace(self, images=images, texts=texts)


OPTIONS = ("penalty", "mix", "gamma", "n_components", "rank", "top_k", "power")
"""Settings that some methods have and others do not."""

TRAINING = ("epochs", "batch_size", "learning_rate", "sequential", "patience")
"""Settings of the methods that are trained; see `TrainingOptions`."""

Criterion = Literal["cosine", "rank", "error"]
"""How a choice is scored; see `fitters.alignment.fit`."""


@dataclass(frozen=True)
class EpochDone:
    """One epoch was trained.

    Attributes
    ----------
    stage, n_stages : int
        From 1; two in sequential training.
    epoch, n_epochs : int
        Within the stage, from 1.
    loss : float
        Mean over the epoch's batches.
    metric : float or None
        Mean reciprocal rank of held-out pairs; None without validation.
    """

    stage: int
    n_stages: int
    epoch: int
    n_epochs: int
    loss: float
    metric: float | None

    def __str__(self) -> str:
        stage = f"stage {self.stage}/{self.n_stages}, " if self.n_stages > 1 else ""
        metric = "" if self.metric is None else f", held-out MRR {self.metric:.3f}"
        return f"{stage}epoch {self.epoch}/{self.n_epochs}: loss {self.loss:.4f}{metric}"


OnEpoch = Callable[[EpochDone], None]


@dataclass(frozen=True)
class TrainingOptions:
    """What may be asked of a trained method; None leaves the preset's own.

    Attributes
    ----------
    epochs, batch_size : int, optional
    learning_rate : float, optional
    sequential : bool
        Prototypes first, then real pairs alone.
    patience : int, optional
        Epochs without a better held-out mean reciprocal rank before it stops.
    precision : {"auto", "float32", "bf16"}, optional
        See `fitters.MLPAligner`.
    device : str
        As torch names it, or "auto"; neither recorded as a setting nor part of an id.
    on_epoch : callable, optional
        Is given an `EpochDone` after each epoch.
    """

    epochs: int | None = option(
        None,
        help="Train for this many epochs [default: the preset's].",
        at_least=1,
        below=1_000_000,
        flag="-s",
    )
    batch_size: int | None = option(
        None,
        help="Train with this many rows in a batch [default: the preset's].",
        at_least=2,
        below=MOST,
        flag="-s",
    )
    learning_rate: float | None = option(
        None,
        help="Train with this learning rate [default: the preset's].",
        above=0,
        below=1000,
        flag="-s",
    )
    sequential: bool = option(
        False,
        help="Train on the prototypes first, then on the real pairs.",
        needs=("y", "head"),
        flag="-s",
    )
    patience: int | None = option(
        None,
        help="Stop after this many epochs without a better held-out MRR.",
        at_least=1,
        below=MOST,
        flag="-s",
    )
    precision: TrainingPrecision | None = option(
        None, help="Train in this precision [default: the preset's].", flag="-s"
    )
    device: str = option(
        "cpu",
        help="Train on this device, named as in torch (cpu, cuda, cuda:1); auto takes a GPU if "
        "torch can use one. The device changes the last bits of the "
        "result, and no id.",
    )
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
        One of `fitters.methods.METHODS`.
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
    top_k : int, "auto" or None
        Classes in ConSE's mix (10 if None), or anchors that ASIF keeps (800). Only ASIF's can be
        chosen; see `fitters.aligners.tune_by_refitting`.
    power : float, "auto" or None
        Of ASIF's similarities (8 if None).
    centre : bool, optional
        False: rows are brought to unit length only, and no mean is subtracted. None: as the
        method's source has it, which is True but for the trained ones and paper-cca. ConSE reads
        images raw in any case; its source has texts as they are, and centring them is ours.
    criterion : {"cosine", "rank", "error"}, optional
        "cosine" and "rank" are of leave-one-name-group-out; see `leave_one_group_out`. "error"
        chooses a ridge by its held-out squared error in either case; see `validate_by_error`.
        None: "cosine", of a ridge from images to texts "rank"; docs/statistics.md compares them.
    validation : str
        What cross-validation over real pairs scores by: "mrr", or "top-1", "top-5" or "top-10",
        the recall (with class texts, the accuracy) that will be reported; see `METRICS` in
        `fitters.select.ranking`; of ridges also "squared", which is criterion "error". Of kernel
        ridge: see `VALIDATIONS` in `fitters.select.noise`.
    training : TrainingOptions
        Of the trained methods: epochs, mixing, early stopping, progress.

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

    method: str = option(
        help="Fit by this method, one of those that `headstock fit --help` lists.", flag=None
    )
    penalty: float | Literal["auto"] = option(
        "auto",
        help="Set the ridge penalty; auto chooses it on the training pairs.",
        at_least=0,
        below=MOST,
        flag="-s",
    )
    mix: float | Literal["auto"] = option(
        "auto",
        help="Give the prototypes this weight beside real pairs; auto chooses it on the training "
        "pairs.",
        above=0,
        below=MOST,
        needs=("y", "head"),
        flag="-s",
    )
    gamma: float | Literal["auto"] = option(
        "auto",
        help="Set the inverse squared width of the kernel; auto chooses it.",
        above=0,
        # The kernel of rows that are apart by more than 1 is then 0 but for rounding.
        below=1000,
        flag="-s",
    )
    n_components: int | Literal["auto"] | None = option(
        "auto",
        help="Keep this many directions; auto chooses the number.",
        none="all",
        at_least=1,
        below=MOST,
        flag="-s components",
    )
    rank: int | None = option(
        None,
        help="Limit the map to this rank [default: the full rank].",
        at_least=1,
        below=MOST,
        flag="-s",
    )
    top_k: int | Literal["auto"] | None = option(
        None,
        help="Average this many classes (conse), or keep this many anchors (asif, where auto "
        "chooses it) [default: 10 for conse, 800 for asif].",
        at_least=1,
        below=MOST,
        flag="-s",
    )
    power: float | Literal["auto"] | None = option(
        None,
        help="Raise similarities to this power; auto chooses it [default: 8].",
        above=0,
        below=1000,
        flag="-s",
    )
    centre: bool | None = option(
        None,
        help="Centre the rows of a trained method, or the texts of conse, or do not [default: as "
        "in the paper; centred for conse].",
        flag="-s",
    )
    criterion: Criterion | None = option(
        None,
        help="Choose a ridge by cosine or rank without real pairs, or by the held-out squared "
        "error, which needs only moments [default: cosine, for ridge-x2y rank].",
        flag="-s",
    )
    validation: Validation | Metric = option(
        "mrr",
        help="Choose settings by this metric on held-out real pairs.",
        choices=get_args(Metric),
        needs=("y",),
        flag="-s",
    )
    training: TrainingOptions = TrainingOptions()

    def __post_init__(self) -> None:
        check_values(self, SettingError, of="a fit")
        if not isinstance(self.training, TrainingOptions):
            raise OptionError(f"training must be TrainingOptions(…); got {self.training!r}.")

    @classmethod
    def of(cls, method: str | FitConfig, settings: Mapping[str, Any]) -> FitConfig:
        """Return the config of a method, or the given one, with these settings by keyword.

        Raises
        ------
        SettingError
            If there is no setting of a name, or a number is out of its range.
        """
        known = [setting.name for setting in fields(FitConfig) if setting.name != "method"]
        where = "of a fit on arrays (n_pairs, split, source and sets are of a store)"
        check_names(settings, known, what="setting", error=SettingError, where=where)
        return replace(cls(method) if isinstance(method, str) else method, **settings)

    def open_settings(self, options: Collection[str], *, mixed: bool) -> list[str]:
        """Return which options of a method are left to choose, on both sources or on one."""
        return [
            name
            for name in options
            if getattr(self, name, None) == "auto" and (mixed or name != "mix")
        ]


#: Variants and templates of class names, unless others are asked for.
VARIANTS, TEMPLATES = ("name",), ("none", "photo")

#: In place of variants of a head: those that leaving out classes speaks for; see `HeadTexts`.
CHOSEN = "auto"

#: The split of the images if none is named.
SPLIT = "train"


@dataclass(frozen=True, kw_only=True)
class FitRequest(FitConfig):
    """What ``headstock fit`` is asked for: the settings of a fit, and the sets that it reads.

    Attributes
    ----------
    x : str
        Image set: its space is the one that is aligned, and the unlabelled images of `split`
        give the mean that images are centred by.
    y, split, n_pairs : str, str, int or None
        Caption set for real pairs, the split they come from, and how many images (all if None).
        Without `y` no real pair is used.
    head : str
        Head set for prototypes.
    names : str
        Class-name set of the head's classes; needed with a head.
    source : str
        ``head``, or a control of it, one of `fitters.prototypes.CONTROLS`.
    variants, templates : sequence of str
        Which class texts are averaged: of a `y` of class names what is fitted, of a head the form
        in which a name will be asked for.
    head_variants, head_templates : sequence of str
        Which class texts a head is fitted on; see `HeadTexts`.
    moments : str
        Precision of the products, where a fit on real pairs is made from their moments.
    seed : int
        Draws the subset of images, the folds, the control and what a training draws.
    """

    x: str = option(
        help="Fit on this image set [default: the only one of the head's encoder].",
        metavar="KEY",
        flag="--images",
    )
    y: str | None = option(
        None,
        help="Fit on real pairs with this caption set [default: with --n-pairs the only one].",
        metavar="KEY",
        flag="--captions",
    )
    split: str = option(
        SPLIT,
        help="Fit on the images of this split. A fit on a head alone takes all images if none is "
        "in the split train.",
        metavar="NAME",
    )
    n_pairs: int | None = option(
        None,
        help="Fit on this many captioned images [default: all].",
        at_least=1,
        below=MOST,
        needs=("y",),
    )
    head: str | None = option(
        None,
        help="Fit on the rows of this head set, or of the head of this label set.",
        metavar="KEY",
    )
    names: str | None = option(
        None,
        help="Take the names of the head's classes from this class-name set.",
        flag="--head-names",
        metavar="KEY",
    )
    source: str = option(
        "head",
        help="Fit on the rows of the head, or on a control that carries no class information. "
        "The control shuffled-within keeps that of ten clusters of similar names.",
        choices=("head", *get_args(Control)),
        needs=("head",),
    )
    variants: tuple[str, ...] = option(
        VARIANTS,
        help="Use these variants of class names: class names as texts are fitted in them, and the "
        "classes of a head are asked for in them.",
        flag=None,
    )
    templates: tuple[str, ...] = option(
        TEMPLATES, help="Put the names of `variants` into these prompt templates.", flag=None
    )
    head_variants: tuple[str, ...] = option(
        (),
        help="Fit on these variants of the names of the head's classes, separated by commas; "
        "auto chooses them on the head [default: `variants`, and the definition where the "
        "label set has it].",
        needs=("head",),
        flag=None,
    )
    head_templates: tuple[str, ...] = option(
        (),
        help="Put the names of the head's classes into these prompt templates, separated by "
        "commas [default: `templates`].",
        needs=("head",),
        flag=None,
    )
    moments: MomentsPrecision = option(
        "float32",
        help="Accumulate the moments of real pairs in this precision.",
        needs=("y",),
        flag="-s",
    )
    seed: int = option(
        0,
        help="Draw the subset, the folds, the controls and the training with this random seed.",
        at_least=0,
        below=2**63,
        flag=None,
    )

    @property
    def facts(self) -> dict[str, Any]:
        """What was asked for, by the names under which alignments record it."""
        left_out = ("training", "centre")
        facts = {name: getattr(self, name) for name in (field.name for field in fields(self))
                 if name not in left_out}  # fmt: skip
        facts |= {name: getattr(self.training, name) for name in TRAINING}
        facts["centred"] = self.centre
        return {name: list(value) if isinstance(value, tuple) else value
                for name, value in facts.items()}  # fmt: skip


T = TypeVar("T")
Several: TypeAlias = T | Sequence[T]
"""One of them, or a sequence of them."""


class Settings(TypedDict, total=False):
    """What `headstock.fit` and `headstock.evaluate` take by keyword, for type checkers.

    The sets of a store, and settings of a fit. A list is several values, a run each: of
    `evaluate` alone; a fit refuses it.
    """

    images: str
    names: str
    head: str
    head_names: str
    dataset: str | None
    label_set: str | None
    variants: str | Several[tuple[str, ...]]
    templates: str | Several[tuple[str, ...]]
    head_variants: str | Several[tuple[str, ...]]
    head_templates: str | Several[tuple[str, ...]]
    penalty: Several[float | Literal["auto"]]
    mix: Several[float | Literal["auto"]]
    gamma: Several[float | Literal["auto"]]
    n_components: Several[int | Literal["auto"] | None]
    rank: Several[int | None]
    top_k: Several[int | Literal["auto"] | None]
    power: Several[float | Literal["auto"] | None]
    centre: Several[bool | None]
    criterion: Several[Criterion | None]
    validation: Several[Validation | Metric]


class FitSettings(Settings, total=False):
    """Settings of `headstock.fit`: those of `FitConfig`, and of a store those of `FitRequest`."""

    training: TrainingOptions
    epochs: int
    batch_size: int
    learning_rate: float
    sequential: bool
    patience: int
    captions: str
    n_pairs: int | Literal["all"]
    split: str
    source: str
    moments: MomentsPrecision
