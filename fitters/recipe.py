"""Fit an alignment: prepare both sides, choose the settings, fit.

What needs the rows of real pairs, ranks of true texts or anchors, cannot be done from moments.

What enters a choice is the K real training pairs and the prototypes, nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fitters.alignment import Alignment, OnStage, closed
from fitters.errors import SettingError
from fitters.methods import method_named
from fitters.pairs import Pairs
from fitters.select.grid import Axis, Choice
from fitters.settings import FitConfig
from fitters.sources import Sources


def fit(
    data: Sources[Any],
    config: FitConfig,
    *,
    rng: np.random.Generator,
    n_folds: int = 4,
    grid: Mapping[str, Axis] | None = None,
    chosen: Choice | None = None,
    on_stage: OnStage | None = None,
) -> Alignment:
    """Choose the settings of a method on prepared data, and fit it: the road of every fit.

    Parameters
    ----------
    data : Sources of Pairs, of Folds, or of PairSource
        `Method.sources` prepares raw pairs. Moments serve methods that need no more; what is "auto"
        is then chosen by the held-out squared error, which ridges alone have, and real pairs are
        given by fold. A `fitters.trained.training.PairSource` is for trained methods.
    config : FitConfig
    rng : numpy.random.Generator
        Draws the folds, landmarks for the choice of kernel ridge among many prototypes, and the
        seed of a training.
    n_folds : int
        Of the cross-validation; fewer if there are fewer groups.
    grid : mapping of str to Axis, optional
        The values that "auto" settings are chosen from, and none beyond: the `axes` of a `Choice`
        that `select` made from other prototypes. A control is compared with its head on equal
        terms if it chooses on the grid that the head's choice explored; its criterion is noise, and
        a grid of its own would widen after it. The default grids stand for what is missing here.
    chosen : Choice, optional
        What `select` chose with the same arguments: nothing is chosen again.
    on_stage : callable, optional
        Is given what is done next, such as "choosing penalty and mix".

    Raises
    ------
    SettingError
        If an argument is wrong, or the method needs rows where there are moments.
    SelectionError
        If there are too few groups to choose from.

    Examples
    --------
    >>> config, rng = FitConfig("ridge", penalty=0.1), np.random.default_rng(0)
    >>> real = Pairs(*rng.standard_normal((2, 40, 8)))
    >>> made = fit(METHODS["ridge"].sources(config, real=real), config, rng=rng)
    >>> made.facts["n_real"]
    40
    """
    return Alignment(config).fit_sources(
        data, rng=rng, n_folds=n_folds, grid=grid, chosen=chosen, on_stage=on_stage
    )


def select(
    method: str | FitConfig,
    *,
    prototypes: Pairs | None = None,
    real: Pairs | None = None,
    image_mean: npt.NDArray[Any] | None = None,
    blocks: tuple[int, ...] = (),
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
    method : str or FitConfig
        One of `METHODS` that has something to choose.
    prototypes, real, image_mean, blocks
        As for `fit_alignment`.
    n_folds, grid, rng
        As for `fit`.
    **settings
        As for `fit_alignment`; here ASIF's are "auto" where none is given.

    Returns
    -------
    Choice
        `params`, `mix`, and in `facts` the settings, the whole curve and the edges of its grid that
        were hit; `axes` is that grid, for another choice.

    Raises
    ------
    SettingError
        If the method has nothing to choose, or an argument is wrong.
    SelectionError
        If there are too few groups to choose from.
    """
    from fitters.aligners.asif import ASIFAligner

    config = FitConfig.of(method, settings)
    spec = method_named(config.method)
    if issubclass(spec.cls, ASIFAligner):
        left = [name for name in ("top_k", "power") if name in spec.options]
        config = FitConfig.of(config, {n: "auto" for n in left if getattr(config, n) is None})
    data = spec.sources(
        config, prototypes=prototypes, real=real, image_mean=image_mean, blocks=blocks
    )
    if not spec.tunes:
        raise SettingError(f"{config.method} has nothing to choose. Fit it with fit_alignment.")
    choice = spec.tune(config, data, rng=rng, n_folds=n_folds, grid=closed(grid))
    made = spec.make(config, **choice.params)
    return replace(choice, facts=spec.facts(made, choice, mixed=data.mixed))


def fit_alignment(
    method: str | FitConfig,
    *,
    prototypes: Pairs | None = None,
    real: Pairs | None = None,
    image_mean: npt.NDArray[Any] | None = None,
    bias: npt.NDArray[Any] | None = None,
    blocks: tuple[int, ...] = (),
    rng: np.random.Generator,
    on_stage: OnStage | None = None,
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
        The head's bias, for the methods that read it: ConSE and ICIS.
    blocks : tuple of int
        Columns of each encoder, where rows of several heads, and of images by their encoders, stand
        side by side: one map from texts into all of them, scored by the mean of their cosines.
    rng : numpy.random.Generator
        Draws the folds, landmarks for the choice of kernel ridge among many prototypes, and the
        seed of a training.
    on_stage : callable, optional
        Is given what is done next, such as "choosing penalty and mix".
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

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> head, real = (Pairs(*rng.standard_normal((2, n, 8))) for n in (100, 20))
    >>> made = fit_alignment("ridge", prototypes=head, real=real, penalty=0.3, rng=rng)
    >>> made.facts["n_real"], made.facts["choice"]["penalty"]
    (20, 0.3)
    """
    config = FitConfig.of(method, settings)
    data = method_named(config.method).sources(
        config, prototypes=prototypes, real=real, image_mean=image_mean, bias=bias, blocks=blocks
    )
    return fit(data, config, rng=rng, on_stage=on_stage)
