"""Fit an alignment: prepare both sides, choose the settings, fit.

What needs the rows of real pairs, ranks of true texts or anchors, cannot be done from moments.

What enters a choice is the K real training pairs and the prototypes, nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fitters.aligners.base import BaseAligner
from fitters.aligners.conse import ConSEAligner
from fitters.alignment import Alignment
from fitters.choice import Choice, choose, moments_of
from fitters.errors import SettingError
from fitters.methods import TRAINING, FitConfig, Method, Sources, leave_raw, method_named, prepare
from fitters.methods import TrainingOptions as TrainingOptions
from fitters.moments.moments import Folds, merge_pooled
from fitters.moments.transform import SideTransform
from fitters.pairs import Pairs
from fitters.select.grid import PLURALS, Axis
from fitters.select.held_out import validate_by_error
from fitters.select.kernel import Validation
from fitters.select.ranking import Metric
from fitters.trained.base import ArrayRows, resolve
from fitters.trained.presets import preset

if TYPE_CHECKING:
    from fitters.trained.training import PairSource


def needs_rows(config: FitConfig, *, mixed: bool) -> bool:
    """Return whether a fit on real pairs looks at more of them than their moments."""
    method = method_named(config.method)
    if method.fitted_on != "moments" or not method.centred or config.chooses_components(method):
        # Moments of a store are of centred rows.
        return True
    searched = any(axis.searched for axis in config.axes(method, mixed=mixed))
    return searched and not (config.criterion == "error" and method.direction)


def fit_from_moments(config: FitConfig, sources: Sources[Folds]) -> Alignment:
    """Fit an alignment from moments; settings that are "auto" go by the held-out squared error.

    Parameters
    ----------
    config : FitConfig
        Of a method that is fitted on moments; "auto" penalty and mix are of ridges only.
    sources : Sources of Folds
        Prototypes, if any, in one part; real pairs by fold, in one part if they cannot be folded.

    Raises
    ------
    SettingError
        If the method, or something that is "auto", needs the rows.
    """
    spec = method_named(config.method)
    prototypes, folds = sources.prototypes, sources.real
    assert folds is not None
    if needs_rows(replace(config, criterion="error"), mixed=sources.mixed):
        raise SettingError(
            f"{config.method} with these settings needs rows, not moments. Use fit_alignment."
        )
    penalties, weights = config.axes(spec, mixed=sources.mixed)
    at = {"penalty": penalties.values[0], "weight": weights.values[0]}
    facts: dict[str, Any] = {}
    if penalties.searched or weights.searched:
        surface = validate_by_error(
            folds,
            None if prototypes is None else prototypes[0],
            direction=spec.direction,
            penalties=penalties,
            weights=weights,
        )
        at |= surface.chosen
        facts = surface.to_facts()
    kept: Any = config.n_components if "n_components" in spec.options else None
    settings = replace(config.given, penalty=at["penalty"], n_components=kept)
    choice: dict[str, Any] = {n: getattr(settings, n) for n in spec.options if n != "mix"}
    if sources.mixed and "mix" in spec.options:
        choice["mix"] = at["weight"]
    parts = [*folds, *(part.scaled(at["weight"]) for part in prototypes or ())]
    aligner: Any = spec.make(settings)
    aligner.fit_moments(merge_pooled(*parts))
    return _alignment(config, sources, aligner, choice | facts)


def fit_trained(
    config: FitConfig, sources: Sources[PairSource], rng: np.random.Generator
) -> Alignment:
    """Train a preset on rows and return the alignment.

    Parameters
    ----------
    config : FitConfig
        Of a method that is trained.
    sources : Sources of PairSource
    rng : numpy.random.Generator
        Draws the seed.

    Raises
    ------
    SettingError
        If a setting is out of range, or asks for two sources where there is one.
    """
    spec, options = method_named(config.method), config.training
    if (options.sequential or options.share is not None) and not sources.mixed:
        raise SettingError(
            "Mixing by share and sequential training need prototypes and real pairs. Give both."
        )
    if options.sequential and options.share is not None:
        raise SettingError(
            "A share of each batch and sequential training exclude each other. Take one."
        )
    legacy = {"legacy": config.legacy} if "legacy" in spec.options else {}
    aligner = preset(
        config.method,
        **legacy,
        n_prototypes=0 if sources.prototypes is None else sources.prototypes.n,
        seed=int(rng.integers(2**31)),
        **options.changes,
    )
    try:
        aligner._validate_params()
    except ValueError as err:
        raise SettingError(str(err)) from err
    aligner.fit_rows(
        sources.prototypes, sources.real, checkpoint=options.checkpoint, on_epoch=options.on_epoch
    )
    history = aligner.history_
    training = {
        "epochs": len(history),
        "precision": resolve(aligner.precision),
        "loss": [epoch["loss"] for epoch in history],
        "metric": [epoch["metric"] for epoch in history if epoch["metric"] is not None],
    }
    choice = {name: getattr(aligner, name) for name in TRAINING} | legacy
    if config.legacy and spec.legacy_texts:
        sources = replace(sources, text=SideTransform.identity("texts"))
    return _alignment(config, sources, aligner, choice, training=training)


def _alignment(
    config: FitConfig,
    sources: Sources[Any],
    aligner: BaseAligner,
    choice: Mapping[str, Any],
    **more: Any,
) -> Alignment:
    """Return the alignment with the facts of its fit: every fit ends here."""
    facts = {
        "method": config.method,
        "n_prototypes": 0 if sources.prototypes is None else sources.prototypes.n,
        "n_real": 0 if sources.real is None else sources.real.n,
        "image_centre": sources.image_centre,
        "text_centre": sources.text_centre,
        "choice": dict(choice),
        **more,
    }
    gap = getattr(aligner, "gap_", None)
    if gap is not None:
        facts["singular_value_gap"] = gap
    return Alignment(sources.image, sources.text, aligner, facts)


def select(
    method: str | FitConfig,
    *,
    prototypes: Pairs | None = None,
    real: Pairs | None = None,
    image_mean: npt.NDArray[Any] | None = None,
    metric: Validation | Metric = "mrr",
    n_folds: int = 4,
    grid: Mapping[str, Axis] | None = None,
    rng: np.random.Generator,
    **settings: Any,
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
    prototypes, real, image_mean, n_folds, grid, rng
        As for `fit_alignment`.
    **settings
        As for `fit_alignment`; here ASIF's are "auto" too.

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
    auto = {"top_k": "auto", "power": "auto", "validation": metric}
    config = FitConfig.of(method, auto | settings)
    spec = method_named(config.method)
    _check_sources(spec, config, prototypes, real)
    if spec.rule == "none":
        raise SettingError(f"{config.method} has nothing to choose. Fit it with fit_alignment.")
    sources = prepare(prototypes, real, image_mean)
    return choose(spec, sources, config, rng, n_folds=n_folds, grid=_closed(grid))


def fit_alignment(
    method: str | FitConfig,
    *,
    prototypes: Pairs | None = None,
    real: Pairs | None = None,
    image_mean: npt.NDArray[Any] | None = None,
    bias: npt.NDArray[Any] | None = None,
    bias_column: bool = False,
    n_folds: int = 4,
    grid: Mapping[str, Axis] | None = None,
    chosen: Choice | None = None,
    rng: np.random.Generator,
    **settings: Any,
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
    method : str or FitConfig
        One of `METHODS`, or one with its settings.
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
    bias_column : bool
        Prototypes [w, b] and images [f, 1] instead of w and f, before all preprocessing;
        `image_mean` is then of such rows.
    n_folds : int
        Of the cross-validation; fewer if there are fewer groups.
    grid : mapping of str to Axis, optional
        The values that "auto" settings are chosen from, and none beyond: the `axes` of a `Choice`
        that `select` made from other prototypes. A control is compared with its head on equal
        terms if it chooses on the grid that the head's choice explored; its criterion is noise, and
        a grid of its own would widen after it. The default grids stand for what is missing here.
    chosen : Choice, optional
        What `select` chose with the same arguments: nothing is chosen again.
    rng : numpy.random.Generator
        Draws the folds, landmarks for the choice of kernel ridge among many prototypes, and the
        seed of a training.
    **settings
        Those of `FitConfig`, by keyword: penalty, mix, gamma, n_components, rank, scale, top_k,
        power, legacy, centre, criterion, validation, training.

    Raises
    ------
    UnknownMethodError, SettingError
        If an argument is unknown or out of range, or a source that the method needs is missing.
    SelectionError
        If there are too few groups to choose from.
    ZeroRowError
        If a row has no direction.
    """
    config = FitConfig.of(method, settings)
    spec = method_named(config.method)
    _check_sources(spec, config, prototypes, real)
    for name in ("top_k", "power"):
        if getattr(config, name) == "auto" and spec.rule != "anchors":
            raise SettingError(
                f"{name}='auto' is of ASIF. {config.method} has nothing to choose there."
            )
    if spec.fitted_on == "head":
        assert prototypes is not None
        return _fit_head(config, spec, prototypes, bias)
    if bias_column and (bias is None or prototypes is None or spec.raw):
        raise SettingError(
            f"A bias column needs a head with a bias, and a method that is not {config.method}."
        )
    if spec.alike and real is not None:
        real = Pairs(real.x, real.y, real.groups)
    if spec.raw:
        sources = leave_raw(prototypes, real)
    else:
        wide = bias_column or (spec.head_bias and prototypes is not None)
        centre = spec.centred if config.centre is None else config.centre
        sources = prepare(
            prototypes, real, image_mean, bias_column=bias if wide else None, centre=centre
        )
    if spec.fitted_on == "training":
        return fit_trained(config, _to_train_on(sources), rng)
    closed = _closed(grid)
    if chosen is None:
        chosen = choose(spec, sources, config, rng, n_folds=n_folds, grid=closed)
    else:
        own = replace(chosen.settings, rank=config.rank, scale=config.scale, legacy=config.legacy)
        chosen = replace(chosen, settings=own)
    more = {} if grid is None else {"grid": "given"}
    return _alignment(config, sources, _fit(spec, sources, chosen), chosen.facts, **more)


def _to_train_on(sources: Sources[Pairs]) -> Sources[PairSource]:
    prototypes = None if sources.prototypes is None else ArrayRows.of(sources.prototypes)
    first = 0 if prototypes is None else int(prototypes.groups.max()) + 1
    real = None if sources.real is None else ArrayRows.of(sources.real, first_group=first)
    return Sources(
        prototypes, real, sources.image, sources.text, sources.image_centre, sources.text_centre
    )


def _closed(grid: Mapping[str, Axis] | None) -> dict[str, Axis]:
    unknown = set(grid or ()) - set(PLURALS)
    if unknown:
        known = ", ".join(PLURALS)
        raise SettingError(f"A grid has axes of {known}. Got {', '.join(sorted(unknown))}.")
    return {} if grid is None else {name: axis.closed for name, axis in grid.items()}


def _fit(spec: Method, sources: Sources[Pairs], chosen: Choice) -> BaseAligner:
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


def _check_sources(
    spec: Method, config: FitConfig, prototypes: Pairs | None, real: Pairs | None
) -> None:
    """Raise SettingError if a method cannot be fitted with these settings on these sources."""
    if spec.rule == "kernel" and config.penalty == 0:
        raise SettingError(
            "Kernel ridge needs a penalty above 0: a kernel of similar texts is singular. Got 0."
        )
    if spec.fitted_on == "head" and prototypes is None:
        raise SettingError(
            "ConSE reads a classification head. Pass the head's rows and class texts."
        )
    if spec.raw and prototypes is not None:
        raise SettingError(
            f"{config.method} is fitted on images that both encoders have seen, not on a head. "
            "Leave the prototypes out."
        )
    if prototypes is None and real is None:
        raise SettingError("There is nothing to fit on. Pass prototypes, real pairs, or both.")
    if prototypes is None or real is None:
        return
    for side, a, b in (("x", prototypes.x, real.x), ("y", prototypes.y, real.y)):
        if a.shape[1] != b.shape[1]:
            raise SettingError(
                f"Prototypes and real pairs are of different spaces: {side} has "
                f"{a.shape[1]:,} and {b.shape[1]:,} columns. Use one encoder a side."
            )


def _fit_head(
    config: FitConfig, spec: Method, prototypes: Pairs, bias: npt.NDArray[Any] | None
) -> Alignment:
    text = SideTransform.fit([(prototypes.y, prototypes.row_weight)], label="texts")
    aligner = spec.make(config.given)
    assert isinstance(aligner, ConSEAligner)
    aligner.fit(prototypes.x, text.apply(prototypes.y), bias)
    images = SideTransform.identity("images")
    sources = Sources(prototypes, None, images, text, "none", "class texts")
    return _alignment(config, sources, aligner, {"top_k": aligner.top_k})
