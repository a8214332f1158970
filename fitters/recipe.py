"""Fit an alignment: prepare both sides, choose the settings, fit.

What needs the rows of real pairs, ranks of true texts or anchors, cannot be done from here.

What enters a choice is the K real training pairs and the prototypes, nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from fitters.aligners.base import BaseAligner
from fitters.aligners.conse import ConSEAligner
from fitters.alignment import Alignment
from fitters.choice import Choice, Criterion, Open, choose, moments_of
from fitters.errors import SettingError
from fitters.methods import (
    TRAINING,
    Method,
    Settings,
    Sources,
    leave_raw,
    method_named,
    prepare,
)
from fitters.moments.moments import Moments, merge_pooled
from fitters.moments.transform import SideTransform
from fitters.pairs import Pairs
from fitters.select.grid import PLURALS, Axis
from fitters.select.held_out import validate_by_error
from fitters.select.kernel import Validation
from fitters.select.ranking import Metric
from fitters.trained.base import ArrayRows, OnEpoch, Precision, resolve
from fitters.trained.presets import preset

if TYPE_CHECKING:
    from fitters.trained.training import PairSource


@dataclass(frozen=True, eq=False)
class MomentSources:
    """Moments of transformed rows, and the transforms.

    Attributes
    ----------
    prototypes : Moments or None
    folds : sequence of Moments
        Of the real pairs, one a fold; one in all if they cannot be folded.
    image, text : SideTransform
    text_centre : str
        Whose mean the texts are centred by.
    """

    prototypes: Moments | None
    folds: Sequence[Moments]
    image: SideTransform
    text: SideTransform
    text_centre: str


def needs_rows(method: Method, open_: Open, criterion: Criterion, *, mixed: bool) -> bool:
    """Return whether a fit on real pairs looks at more of them than their moments."""
    if method.fitted_on != "moments" or not method.centred:
        # Moments of a store are of centred rows.
        return True
    penalties, weights = open_.axes(method, mixed=mixed)
    if "n_components" in method.options and open_.n_components == "auto":
        return True
    searched = penalties.searched or weights.searched
    return searched and not (criterion == "error" and method.direction)


def fit_from_moments(
    method: str,
    sources: MomentSources,
    *,
    penalty: float | Literal["auto"] = "auto",
    mix: float | Literal["auto"] = "auto",
    n_components: int | Literal["auto"] | None = None,
    rank: int | None = None,
    scale: bool = False,
    legacy: bool = False,
) -> Alignment:
    """Fit an alignment from moments; settings that are "auto" go by the held-out squared error.

    Parameters
    ----------
    method : str
        One of `fitters.methods.METHODS` that is fitted on moments.
    sources : MomentSources
    penalty, mix, n_components, rank, scale, legacy
        As for `fitters.recipe.fit_alignment`; "auto" penalty and mix are of ridges only.

    Raises
    ------
    SettingError
        If the method, or something that is "auto", needs the rows.
    """
    spec = method_named(method)
    mixed = sources.prototypes is not None
    open_ = Open(penalty, mix, n_components)
    if needs_rows(spec, open_, "error", mixed=mixed):
        msg = f"{method} with these settings needs rows, not moments. Use fit_alignment."
        raise SettingError(msg)
    penalties, weights = open_.axes(spec, mixed=mixed)
    settings = Settings(rank=rank, scale=scale, legacy=legacy)
    if "n_components" in spec.options and n_components != "auto":
        settings = replace(settings, n_components=n_components)
    surface = None
    if penalties.searched or weights.searched:
        surface = validate_by_error(
            sources.folds,
            sources.prototypes,
            direction=spec.direction,
            penalties=penalties,
            weights=weights,
        )
    at = {"penalty": penalties.values[0], "weight": weights.values[0]}
    at |= {} if surface is None else surface.chosen
    settings, chosen_mix = replace(settings, penalty=at["penalty"]), at["weight"]
    choice: dict[str, Any] = {n: getattr(settings, n) for n in spec.options if n != "mix"}
    if mixed and "mix" in spec.options:
        choice["mix"] = chosen_mix
    parts = list(sources.folds)
    if sources.prototypes is not None:
        parts.append(sources.prototypes.scaled(chosen_mix))
    aligner: Any = spec.make(settings)
    aligner.fit_moments(merge_pooled(*parts))
    facts = {
        "method": method,
        "n_prototypes": 0 if sources.prototypes is None else sources.prototypes.n,
        "n_real": sum(fold.n for fold in sources.folds),
        "image_centre": "none" if spec.raw else "given mean",
        "text_centre": sources.text_centre,
        "choice": choice if surface is None else {**choice, **surface.to_facts()},
    }
    if hasattr(aligner, "gap_"):
        facts["singular_value_gap"] = aligner.gap_
    return Alignment(sources.image, sources.text, aligner, facts)


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

    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    share: float | None = None
    sequential: bool = False
    patience: int | None = None
    precision: Precision | None = None
    checkpoint: Path | None = None
    on_epoch: OnEpoch | None = None


@dataclass(frozen=True, eq=False)
class TrainingSources:
    """Transformed rows of both sources, and the transforms of rows to come.

    Attributes
    ----------
    prototypes, real : PairSource or None
    image, text : SideTransform
    image_centre, text_centre : str
        Whose mean each side is centred by.
    """

    prototypes: PairSource | None
    real: PairSource | None
    image: SideTransform
    text: SideTransform
    image_centre: str
    text_centre: str


def fit_trained(
    method: str,
    sources: TrainingSources,
    options: TrainingOptions,
    *,
    legacy: bool = False,
    rng: np.random.Generator,
) -> Alignment:
    """Train a preset on rows and return the alignment.

    Parameters
    ----------
    method : str
        One of `fitters.methods.METHODS` that is trained.
    rng : numpy.random.Generator
        Draws the seed.

    Raises
    ------
    SettingError
        If a setting is out of range, or asks for two sources where there is one.
    """
    spec = method_named(method)
    prototypes, real = sources.prototypes, sources.real
    if (options.sequential or options.share is not None) and (prototypes is None or real is None):
        msg = "Mixing by share and sequential training need prototypes and real pairs. Give both."
        raise SettingError(msg)
    if options.sequential and options.share is not None:
        msg = "A share of each batch and sequential training exclude each other. Take one."
        raise SettingError(msg)
    if legacy and "legacy" not in spec.options:
        legacy = False
    asked = {name: getattr(options, name) for name in TRAINING}
    asked["precision"] = options.precision
    changes = {name: value for name, value in asked.items() if value not in (None, False)}
    n_prototypes = 0 if prototypes is None else prototypes.n
    n_real = 0 if real is None else real.n
    seed = int(rng.integers(2**31))
    aligner = preset(method, legacy=legacy, n_prototypes=n_prototypes, seed=seed, **changes)
    try:
        aligner._validate_params()
    except ValueError as err:
        raise SettingError(str(err)) from err
    aligner.fit_rows(prototypes, real, checkpoint=options.checkpoint, on_epoch=options.on_epoch)
    told = aligner.history_
    choice: dict[str, Any] = {name: getattr(aligner, name) for name in TRAINING}
    if "legacy" in spec.options:
        choice["legacy"] = legacy
    facts = {
        "method": method,
        "n_prototypes": n_prototypes,
        "n_real": n_real,
        "image_centre": sources.image_centre,
        "text_centre": sources.text_centre,
        "choice": choice,
        "training": {
            "epochs": len(told),
            "precision": resolve(aligner.precision),  # type: ignore[arg-type]
            "loss": [epoch["loss"] for epoch in told],
            "metric": [epoch["metric"] for epoch in told if epoch["metric"] is not None],
        },
    }
    text = sources.text
    if legacy and spec.legacy_texts:
        text = SideTransform.identity("texts")
    return Alignment(sources.image, text, aligner, facts)


def select(
    method: str,
    *,
    prototypes: Pairs | None = None,
    real: Pairs | None = None,
    image_mean: npt.NDArray[Any] | None = None,
    metric: Validation | Metric = "mrr",
    penalty: float | Literal["auto"] = "auto",
    mix: float | Literal["auto"] = "auto",
    gamma: float | Literal["auto"] = "auto",
    n_components: int | Literal["auto"] | None = "auto",
    top_k: int | Literal["auto"] = "auto",
    power: float | Literal["auto"] = "auto",
    grid: Mapping[str, Axis] | None = None,
    criterion: Criterion = "cosine",
    n_folds: int = 4,
    rng: np.random.Generator,
) -> Choice:
    """Choose the settings of a method from training data alone, and fit nothing with them.

    The choice is that of `fit_alignment`, which fits with it at once: penalties × mixing weights ×
    directions kept (widths of a kernel, anchors of ASIF) by the metric that will be reported, or
    by the squared error. To nest it, hand it the training part of an outer split only.

    Parameters
    ----------
    method : str
        One of `METHODS` that has something to choose.
    metric : str
        "mrr", "top-1", "top-5", "top-10": accuracy or recall of held-out pairs; "squared": the
        held-out squared error, of ridges from moments alone; "cosine", of kernel ridge.
    prototypes, real, image_mean, penalty, mix, gamma, n_components, top_k, power : optional
        As for `fit_alignment`; here ASIF's settings are "auto" too.
    grid, criterion, n_folds, rng
        As for `fit_alignment`.

    Returns
    -------
    Choice
        `settings`, `mix`, and in `facts` the whole curve and the edges of its grid that were hit;
        `axes` is that grid, for another choice.

    Raises
    ------
    SettingError
        If the method has nothing to choose, or an argument is wrong.
    SelectionError
        If there are too few groups to choose from.
    """
    spec = method_named(method)
    _check_settings(spec, method, prototypes, real, penalty, mix)
    if spec.rule == "none":
        msg = f"{method} has nothing to choose. Fit it with fit_alignment."
        raise SettingError(msg)
    sources = prepare(prototypes, real, image_mean)
    open_ = Open(penalty, mix, n_components, gamma, metric, top_k, power, _closed(grid))
    return choose(spec, sources, Settings(), open_, n_folds, criterion, rng)


def fit_alignment(
    method: str,
    *,
    prototypes: Pairs | None = None,
    real: Pairs | None = None,
    image_mean: npt.NDArray[Any] | None = None,
    bias: npt.NDArray[Any] | None = None,
    penalty: float | Literal["auto"] = "auto",
    mix: float | Literal["auto"] = "auto",
    gamma: float | Literal["auto"] = "auto",
    n_components: int | Literal["auto"] | None = "auto",
    rank: int | None = None,
    scale: bool = False,
    top_k: int | Literal["auto"] | None = None,
    power: float | Literal["auto"] | None = None,
    legacy: bool = False,
    bias_column: bool = False,
    centre: bool | None = None,
    n_folds: int = 4,
    criterion: Criterion = "cosine",
    validation: Validation | Metric = "mrr",
    grid: Mapping[str, Axis] | None = None,
    chosen: Choice | None = None,
    training: TrainingOptions | None = None,
    rng: np.random.Generator,
) -> Alignment:
    """Fit an alignment from prototypes, real pairs or both.

    **Preprocessing.** Every row is brought to unit length, centred, and brought to unit length
    again. Each source of image rows is centred by its own mean: head rows by the mean of the head
    rows, images by `image_mean` or else by the mean of the real training images. Images to be
    scored later are treated as the real training images; with neither real pairs nor `image_mean`
    they stay uncentred, which cost 2–4 points of top-5 and top-10 where it was measured. Texts of
    all sources share one mean: that of the class texts, or of the real texts where there are no
    prototypes. ConSE reads images raw, as its head does; Text-to-Concept reads both sides raw. The
    trained methods and paper-cca get unit rows, uncentred, as their sources do, unless `centre`;
    paper-cca then takes the mean of all its pairs away, prototypes and real ones together.

    **Mixing.** The moments of both sources are added, where a class has `mix` times the mass of a
    real image. Kernel ridge weighs the rows of both likewise. ASIF takes them as anchors, and
    has no masses. Of the trained methods and paper-cca every row counts alike, as in the paper; a
    share of each batch or two stages are in `training`.

    **Choice.** "auto" penalty without real pairs: closed-form leave-one-name-group-out on the
    prototypes. "auto" penalty or mix with real pairs: grouped cross-validation over the pairs by
    `validation`, prototypes always in training. Methods without a closed form for leaving out are
    fitted anew without each fold, on a coarser grid; without real pairs their folds are those of
    the prototypes, by name. "auto" components are chosen together with penalty and mix. Kernel
    ridge keeps the width and the penalty of the prototypes, given or chosen on them alone; only
    `mix` is chosen on real pairs, which have `mix` times that penalty, and are left out where they
    do not help. The choice with its whole curve and the edges it hit is in ``facts["choice"]``.

    Parameters
    ----------
    method : str
        One of `METHODS`.
    prototypes : Pairs, optional
        Head weights and class texts, raw; `groups` are the names.
    real : Pairs, optional
        Training images and their texts, raw; `groups` are images or descriptions. The m captions
        of one image weigh 1/m each.
    image_mean : ndarray of shape (p,), optional
        Mean of unit image rows, such as ``SideTransform.fit([unlabelled_images]).mean``; may come
        from unlabelled training images, never from test images.
    bias : ndarray of shape (c,), optional
        The head's bias, for ConSE and `bias_column`.
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
    bias_column : bool
        Prototypes [w, b] and images [f, 1] instead of w and f, before all preprocessing;
        `image_mean` is then of such rows.
    centre : bool, optional
        False: rows are brought to unit length only, and `image_mean` plays no part. None: as the
        method's source has it, which is True but for the trained ones and paper-cca.
    n_folds : int
        Of the cross-validation; fewer if there are fewer groups.
    criterion : {"cosine", "rank", "error"}
        "cosine" and "rank" are of leave-one-name-group-out; see `leave_one_group_out`. "error"
        chooses a ridge by its held-out squared error in either case; see `validate_by_error`.
    validation : str
        What cross-validation over real pairs scores by: "mrr", or "top-1", "top-5" or "top-10",
        the recall (with class texts, the accuracy) that will be reported; see `METRICS` in
        `fitters.select.ranking`; of ridges also "squared", which is criterion "error". Of kernel
        ridge: see `VALIDATIONS` in `fitters.select.kernel`.
    grid : mapping of str to Axis, optional
        The values that "auto" settings are chosen from, and none beyond: the `axes` of a `Choice`
        that `select` made from other prototypes. A control is compared with its head on equal
        terms if it chooses on the grid that the head's choice explored; its criterion is noise, and
        a grid of its own would widen after it. The default grids stand for what is missing here.
    chosen : Choice, optional
        What `select` chose with the same arguments: nothing is chosen again.
    training : TrainingOptions, optional
        Of the trained methods: epochs, mixing, early stopping, checkpoint, progress.
    rng : numpy.random.Generator
        Draws the folds, landmarks for the choice of kernel ridge among many prototypes, and the
        seed of a training.

    Raises
    ------
    UnknownMethodError, SettingError
        If an argument is unknown or out of range, or a source that the method needs is missing.
    SelectionError
        If there are too few groups to choose from.
    ZeroRowError
        If a row has no direction.
    """
    spec = method_named(method)
    _check_settings(spec, method, prototypes, real, penalty, mix)
    if gamma != "auto" and not (_is_number(gamma) and float(gamma) > 0):
        msg = f"gamma must be 'auto' or a finite number above 0. Got {gamma!r}."
        raise SettingError(msg)
    for name, value in (("top_k", top_k), ("power", power)):
        if value == "auto" and spec.rule != "anchors":
            msg = f"{name}='auto' is of ASIF. {method} has nothing to choose there."
            raise SettingError(msg)
    # What is "auto" is filled in by the choice.
    settings = Settings(
        rank=rank, scale=scale, legacy=legacy, top_k=None if top_k == "auto" else top_k,
        power=None if power == "auto" else power,
    )  # fmt: skip
    if spec.fitted_on == "head":
        assert prototypes is not None
        return _fit_head(method, spec, settings, prototypes, bias)
    if bias_column and (bias is None or prototypes is None or spec.raw):
        msg = f"A bias column needs a head with a bias, and a method that is not {method}."
        raise SettingError(msg)
    with_bias = bias_column or (spec.head_bias and prototypes is not None)
    column = bias if with_bias else None
    if spec.alike and real is not None:
        real = Pairs(real.x, real.y, real.groups)
    options = TrainingOptions() if training is None else training
    centre = spec.centred if centre is None else centre
    sources = (
        leave_raw(prototypes, real)
        if spec.raw
        else prepare(prototypes, real, image_mean, bias_column=column, centre=centre)
    )
    if spec.fitted_on == "training":
        return fit_trained(method, _to_train_on(sources), options, legacy=legacy, rng=rng)
    open_ = Open(penalty, mix, n_components, gamma, validation, top_k, power, _closed(grid))
    if chosen is None:
        chosen = choose(spec, sources, settings, open_, n_folds, criterion, rng)
    else:
        given = replace(chosen.settings, rank=rank, scale=scale, legacy=legacy)
        chosen = replace(chosen, settings=given)
    aligner = _fit(spec, sources, chosen)
    facts = {
        "method": method,
        "n_prototypes": 0 if prototypes is None else prototypes.n,
        "n_real": 0 if real is None else real.n,
        "image_centre": sources.image_centre,
        "text_centre": sources.text_centre,
        "choice": chosen.facts,
    }
    if grid is not None:
        facts["grid"] = "given"
    gap = getattr(aligner, "gap_", None)
    if gap is not None:
        facts["singular_value_gap"] = gap
    return Alignment(sources.image, sources.text, aligner, facts)


def _to_train_on(sources: Sources) -> TrainingSources:
    prototypes = None if sources.prototypes is None else ArrayRows.of(sources.prototypes)
    first = 0 if prototypes is None else int(prototypes.groups.max()) + 1
    real = None if sources.real is None else ArrayRows.of(sources.real, first_group=first)
    return TrainingSources(
        prototypes, real, sources.image, sources.text, sources.image_centre, sources.text_centre
    )


def _closed(grid: Mapping[str, Axis] | None) -> dict[str, Axis]:
    unknown = set(grid or ()) - set(PLURALS)
    if unknown:
        known = ", ".join(PLURALS)
        msg = f"A grid has axes of {known}. Got {', '.join(sorted(unknown))}."
        raise SettingError(msg)
    return {} if grid is None else {name: axis.closed for name, axis in grid.items()}


def _fit(spec: Method, sources: Sources, chosen: Choice) -> BaseAligner:
    aligner: Any = spec.make(chosen.settings)
    masses = (chosen.mix, 1.0) if len(sources.given) == 2 else (1.0,)
    if np.isinf(masses[0]):
        # Against infinitely heavy prototypes real pairs weigh nothing.
        masses = (1.0, 0.0)
    # Moments square every column of both sides, 60 ms for 1,280, where ridge and Procrustes look at
    # one gram or none. Of many rows they are the smaller thing: there rows are not copied together.
    columns = sources.given[0].x.shape[1] + sources.given[0].y.shape[1]
    few = sum(source.n for source in sources.given) <= columns
    if spec.fitted_on == "rows" or (few and spec.rule in ("ridge", "procrustes")):
        x, y = (np.concatenate([getattr(s, side) for s in sources.given]) for side in ("x", "y"))
        weight = [m * s.row_weight for s, m in zip(sources.given, masses, strict=True)]
        given = (x, y, np.concatenate(weight)) if "mix" in spec.options else (x, y)
        # Prototypes come first, and again with every other draw of real pairs.
        kept = spec.rule == "kernel" and sources.prototypes is not None
        first = {"n_first": sources.given[0].n} if kept else {}
        by_rows: BaseAligner = aligner.fit(*given, **first)
        return by_rows
    # Moments add: mixing is scaling one source's sums, and no row is read twice.
    parts = [
        moments_of(source).scaled(mass) for source, mass in zip(sources.given, masses, strict=True)
    ]
    by_moments: BaseAligner = aligner.fit_moments(merge_pooled(*parts))
    return by_moments


def _check_settings(
    spec: Method,
    method: str,
    prototypes: Pairs | None,
    real: Pairs | None,
    penalty: float | str,
    mix: float | str,
) -> None:
    if penalty != "auto" and not (_is_number(penalty) and float(penalty) >= 0):
        msg = f"penalty must be 'auto' or a finite number that is not negative. Got {penalty!r}."
        raise SettingError(msg)
    if spec.rule == "kernel" and penalty == 0:
        msg = "Kernel ridge needs a penalty above 0: a kernel of similar texts is singular. Got 0."
        raise SettingError(msg)
    if mix != "auto" and not (_is_number(mix) and float(mix) > 0):
        msg = f"mix must be 'auto' or a finite number above 0. Got {mix!r}."
        raise SettingError(msg)
    if spec.fitted_on == "head" and prototypes is None:
        msg = "ConSE reads a classification head. Pass the head's rows and class texts."
        raise SettingError(msg)
    if spec.raw and prototypes is not None:
        msg = (
            f"{method} is fitted on images that both encoders have seen, not on a head. Leave the "
            "prototypes out."
        )
        raise SettingError(msg)
    if prototypes is None and real is None:
        msg = "There is nothing to fit on. Pass prototypes, real pairs, or both."
        raise SettingError(msg)
    if prototypes is not None and real is not None:
        for side, a, b in (("x", prototypes.x, real.x), ("y", prototypes.y, real.y)):
            if a.shape[1] != b.shape[1]:
                msg = (
                    f"Prototypes and real pairs are of different spaces: {side} has "
                    f"{a.shape[1]:,} and {b.shape[1]:,} columns. Use one encoder a side."
                )
                raise SettingError(msg)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        return False
    return bool(np.isfinite(value))


def _fit_head(
    method: str,
    spec: Method,
    settings: Settings,
    prototypes: Pairs,
    bias: npt.NDArray[Any] | None,
) -> Alignment:
    text = SideTransform.fit([(prototypes.y, prototypes.row_weight)], label="texts")
    aligner = spec.make(settings)
    assert isinstance(aligner, ConSEAligner)
    aligner.fit(prototypes.x, text.apply(prototypes.y), bias)
    facts = {
        "method": method,
        "n_prototypes": prototypes.n,
        "n_real": 0,
        "image_centre": "none",
        "text_centre": "class texts",
        "choice": {"top_k": aligner.top_k},
    }
    return Alignment(SideTransform.identity("images"), text, aligner, facts)
