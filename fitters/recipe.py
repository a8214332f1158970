"""The whole protocol, on arrays: centring per source, choice of settings, final fit.

What enters a choice is the K real training pairs and the prototypes, nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fitters.alignment import Alignment
from fitters.choice import Choice, Criterion, Open, choose, moments_of
from fitters.errors import SettingError
from fitters.methods import METHODS, Method, Settings, method_named
from fitters.moments.moments import merge_pooled
from fitters.moments.transform import SideTransform
from fitters.pairs import Pairs
from fitters.preparation import Sources, leave_raw, prepare
from fitters.projection import BaseAligner
from fitters.relative.conse import ConSEAligner
from fitters.select.curve import Axis
from fitters.select.kernel_choice import Reading
from fitters.select.kernel_mixing import Validation
from fitters.select.ranking import Metric
from fitters.select.surface import PLURALS
from fitters.trained.sources import ArrayRows
from fitters.training_fits import TrainingOptions, TrainingSources, fit_trained

__all__ = ["METHODS", "fit_alignment", "select"]


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
    reading: Reading = "anchored",
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
    reading, grid, criterion, n_folds, rng
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
    open_ = Open(penalty, mix, n_components, gamma, metric, reading, top_k, power, _closed(grid))
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
    reading: Reading = "anchored",
    grid: Mapping[str, Axis] | None = None,
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
    the prototypes, by name. "auto" components are chosen together with penalty and mix. The choice
    with its whole curve and the edges it hit is in ``facts["choice"]``.

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
        ridge: see `VALIDATIONS` in `fitters.select.kernel_mixing`.
    reading : {"anchored", "best", "one-se"}
        Of kernel ridge with prototypes and real pairs: "anchored" keeps the width and the penalty
        of the prototypes, given or chosen on them alone; only the mixing weight is chosen on real
        pairs, which have `mix` times that penalty, and are left out where they do not help.
        "best" and "one-se" choose all three on real pairs; see `Surface`.
    grid : mapping of str to Axis, optional
        The values that "auto" settings are chosen from, and none beyond: the `axes` of a `Choice`
        that `select` made from other prototypes. A control is compared with its head on equal
        terms if it chooses on the grid that the head's choice explored; its criterion is noise, and
        a grid of its own would widen after it. The default grids stand for what is missing here.
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
    open_ = Open(
        penalty, mix, n_components, gamma, validation, reading, top_k, power, _closed(grid)
    )
    chosen = choose(spec, sources, settings, open_, n_folds, criterion, rng)
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
    if spec.fitted_on == "rows":
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
