"""The whole protocol, on arrays: centring per source, choice of settings, final fit.

What enters a choice is the K real training pairs and the prototypes, nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from featstore.errors import did_you_mean
from fitters.alignment import Alignment
from fitters.errors import SettingError, UnknownMethodError
from fitters.kernel.kernel_ridge import KernelRidgeAligner
from fitters.linear.procrustes import ProcrustesAligner
from fitters.linear.ridge import RidgeAligner
from fitters.moments.moments import Moments, merge_pooled
from fitters.moments.transform import SideTransform
from fitters.pairs import Pairs
from fitters.relative.conse import ConSEAligner
from fitters.select.curve import PENALTIES, WEIGHTS, Axis, Curve
from fitters.select.folds import folds_of_pairs
from fitters.select.kernel_choice import KernelChoice, choose_kernel
from fitters.select.kernel_mixing import Validation
from fitters.select.leave_out import Criterion, leave_one_group_out
from fitters.select.surface import Rule
from fitters.select.validation import cross_validate

METHODS: dict[str, str] = {
    "ridge": "ridge regression from text to image rows: each text becomes a row of a head",
    "ridge-x2y": "ridge regression from image to text rows",
    "kernel-ridge": "Gaussian kernel ridge regression from text to image rows: ridge, nonlinear",
    "procrustes": "the rotation between both spaces that fits best",
    "conse": "the mix of the class texts that the classifier believes in; uses no real pair",
}
"""Methods of `fit_alignment`, and a line on each."""


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
    n_folds: int = 4,
    top_k: int = 10,
    criterion: Criterion = "cosine",
    validation: Validation = "mrr",
    rule: Rule = "best",
    rng: np.random.Generator,
) -> Alignment:
    """Fit an alignment from prototypes, real pairs or both.

    **Preprocessing.** Every row is brought to unit length, centred, and brought to unit length
    again. Each source of image rows is centred by its own mean: head rows by the mean of the head
    rows, images by `image_mean` or else by the mean of the real training images. Images to be
    scored later are treated as the real training images; with neither real pairs nor `image_mean`
    they stay uncentred, which cost 2–4 points of top-5 and top-10 where it was measured. Texts of
    all sources share one mean: that of the class texts, or of the real texts where there are no
    prototypes. ConSE reads images raw, as its head does.

    **Mixing.** One squared loss (ridge, kernel ridge) or one cross-covariance (Procrustes) over
    both sources, where a class has `mix` times the mass of a real image.

    **Choice.** "auto" penalty without real pairs: closed-form leave-one-name-group-out on the
    prototypes. "auto" penalty or mix with real pairs: grouped cross-validation over the pairs by
    the mean reciprocal rank, prototypes always in training. The choice with its whole curve and
    the edges it hit is in ``facts["choice"]``.

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
        The head's bias, for ConSE.
    penalty : float or "auto"
        Relative: α = penalty · tr(gram) / columns. For kernel ridge it is on a kernel whose
        diagonal is 1.
    mix : float or "auto"
        Mass of one class relative to one real image, above 0. No part without both sources.
    gamma : float or "auto"
        Inverse squared width of the kernel between unit text rows, above 0. Chosen with the
        penalty.
    n_folds : int
        Of the cross-validation; fewer if there are fewer groups.
    top_k : int
        Classes in ConSE's mix.
    criterion : {"cosine", "rank"}
        Of leave-one-name-group-out; see `leave_one_group_out`.
    validation, rule : str
        What cross-validation of kernel ridge with real pairs scores by, and how it reads the
        surface: see `VALIDATIONS` in `fitters.select.kernel_mixing`, and `Surface`.
    rng : numpy.random.Generator
        Draws the folds, and landmarks for the choice of kernel ridge among many prototypes.

    Raises
    ------
    UnknownMethodError, SettingError
        If an argument is unknown or out of range, or a source that the method needs is missing.
    SelectionError
        If there are too few groups to choose from.
    ZeroRowError
        If a row has no direction.
    """
    _check_settings(method, prototypes, real, penalty, mix, gamma)
    if method == "conse":
        assert prototypes is not None
        return _fit_conse(prototypes, bias, top_k)
    sources = _preprocess(prototypes, real, image_mean)
    if method == "kernel-ridge":
        kernel = choose_kernel(
            sources.prototypes,
            sources.real,
            penalty=penalty,
            mix=mix,
            gamma=gamma,
            n_folds=n_folds,
            criterion=criterion,
            validation=validation,
            rule=rule,
            rng=rng,
        )
        return Alignment(
            sources.image,
            sources.text,
            _fit_kernel(sources, kernel),
            _facts(method, sources, kernel.to_facts()),
        )
    chosen = _choose(method, sources, penalty, mix, n_folds, criterion, rng)
    # Moments add: mixing is scaling one source's sums, and no row is read twice.
    moments = merge_pooled(
        *(
            Moments.from_rows(source.x, source.y, source.row_weight, centre=False).scaled(mass)
            for source, mass in ((sources.prototypes, chosen.mix), (sources.real, 1.0))
            if source is not None
        )
    )
    aligner: RidgeAligner | ProcrustesAligner
    if method == "procrustes":
        aligner = ProcrustesAligner(center=False).fit_moments(moments)
    else:
        direction = _direction(method)
        aligner = RidgeAligner(direction, alpha=chosen.penalty, center=False).fit_moments(moments)
    facts = _facts(method, sources, chosen.to_facts(method, sources))
    if isinstance(aligner, ProcrustesAligner):
        facts["singular_value_gap"] = aligner.gap_
    return Alignment(sources.image, sources.text, aligner, facts)


@dataclass(frozen=True, eq=False)
class _Sources:
    """Transformed rows of both sources, and the transforms of rows to come."""

    prototypes: Pairs | None
    real: Pairs | None
    image: SideTransform
    text: SideTransform
    image_centre: str


@dataclass(frozen=True, eq=False)
class _Choice:
    penalty: float
    mix: float
    curve: Curve | None

    def to_facts(self, method: str, sources: _Sources) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        if method != "procrustes":
            facts["penalty"] = self.penalty
        if sources.prototypes is not None and sources.real is not None:
            facts["mix"] = self.mix
        return facts if self.curve is None else {**facts, **self.curve.to_facts()}


def _facts(method: str, sources: _Sources, choice: dict[str, Any]) -> dict[str, Any]:
    prototypes, real = sources.prototypes, sources.real
    return {
        "method": method,
        "n_prototypes": 0 if prototypes is None else prototypes.n,
        "n_real": 0 if real is None else real.n,
        "image_centre": sources.image_centre,
        "text_centre": "real texts" if prototypes is None else "class texts",
        "choice": choice,
    }


def _check_settings(
    method: str,
    prototypes: Pairs | None,
    real: Pairs | None,
    penalty: float | str,
    mix: float | str,
    gamma: float | str,
) -> None:
    if method not in METHODS:
        known = ", ".join(METHODS)
        msg = f"No method named '{method}'. Known methods: {known}.{did_you_mean(method, METHODS)}"
        raise UnknownMethodError(msg)
    if penalty != "auto" and not (_is_number(penalty) and float(penalty) >= 0):
        msg = f"penalty must be 'auto' or a finite number that is not negative. Got {penalty!r}."
        raise SettingError(msg)
    for name, value in (("mix", mix), ("gamma", gamma)):
        if value != "auto" and not (_is_number(value) and float(value) > 0):
            msg = f"{name} must be 'auto' or a finite number above 0. Got {value!r}."
            raise SettingError(msg)
    if method == "kernel-ridge" and penalty == 0:
        msg = "Kernel ridge needs a penalty above 0: a kernel of similar texts is singular. Got 0."
        raise SettingError(msg)
    if method == "conse" and prototypes is None:
        msg = "ConSE reads a classification head. Pass the head's rows and class texts."
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


def _fit_conse(prototypes: Pairs, bias: npt.NDArray[Any] | None, top_k: int) -> Alignment:
    text = SideTransform.fit([(prototypes.y, prototypes.row_weight)], label="texts")
    aligner = ConSEAligner(top_k=top_k).fit(prototypes.x, text.apply(prototypes.y), bias)
    facts = {
        "method": "conse",
        "n_prototypes": prototypes.n,
        "n_real": 0,
        "image_centre": "none",
        "text_centre": "class texts",
        "choice": {"top_k": top_k},
    }
    return Alignment(SideTransform.identity("images"), text, aligner, facts)


def _preprocess(
    prototypes: Pairs | None, real: Pairs | None, image_mean: npt.NDArray[Any] | None
) -> _Sources:
    text_source = real if prototypes is None else prototypes
    assert text_source is not None
    text = SideTransform.fit([(text_source.y, text_source.row_weight)], label="texts")
    if image_mean is not None:
        image, centre = SideTransform(mean=np.asarray(image_mean), label="images"), "given mean"
    elif real is not None:
        image = SideTransform.fit([(real.x, real.row_weight)], label="images")
        centre = "real images"
    else:
        image, centre = SideTransform(label="images"), "none"
    if prototypes is not None:
        head = SideTransform.fit([(prototypes.x, prototypes.row_weight)], label="prototypes")
        prototypes = _transformed(prototypes, head, text)
    if real is not None:
        real = _transformed(real, image, text)
    return _Sources(prototypes, real, image, text, centre)


def _transformed(pairs: Pairs, image: SideTransform, text: SideTransform) -> Pairs:
    return Pairs(image.apply(pairs.x), text.apply(pairs.y), pairs.groups, pairs.weight)


def _direction(method: str) -> str:
    return "x->y" if method == "ridge-x2y" else "y->x"


def _choose(
    method: str,
    sources: _Sources,
    penalty: float | str,
    mix: float | str,
    n_folds: int,
    criterion: Criterion,
    rng: np.random.Generator,
) -> _Choice:
    penalties = PENALTIES if penalty == "auto" else Axis.fixed(float(penalty))
    weights = WEIGHTS if mix == "auto" else Axis.fixed(float(mix))
    prototypes, real = sources.prototypes, sources.real
    open_penalty = penalties.searched and method != "procrustes"
    open_mix = weights.searched and prototypes is not None and real is not None
    given = _Choice(penalties.values[0], weights.values[0], None)
    if not open_penalty and not open_mix:
        # What is not searched is either given or plays no part.
        return _Choice(
            given.penalty, 1.0 if real is None or prototypes is None else given.mix, None
        )
    if real is None:
        assert prototypes is not None
        curve = leave_one_group_out(
            prototypes,
            direction=_direction(method),
            penalties=penalties,
            criterion=criterion,
        )
        return _Choice(curve.penalty, 1.0, curve)
    folds = folds_of_pairs(real, n_folds, "penalty" if open_penalty else "mix", rng)
    curve = cross_validate(
        "procrustes" if method == "procrustes" else "ridge",
        real=real,
        folds=folds,
        prototypes=prototypes,
        direction=_direction(method),
        penalties=penalties,
        weights=weights,
    )
    return _Choice(curve.penalty, curve.weight, curve)


def _fit_kernel(sources: _Sources, chosen: KernelChoice) -> KernelRidgeAligner:
    given = [
        (source, mass)
        for source, mass in ((sources.prototypes, chosen.mix or 1.0), (sources.real, 1.0))
        if source is not None
    ]
    aligner = KernelRidgeAligner(
        gamma=chosen.gamma, relative=False, alpha=chosen.penalty, center=False
    )
    aligner.fit(
        np.concatenate([source.x for source, _ in given]),
        np.concatenate([source.y for source, _ in given]),
        np.concatenate([mass * source.row_weight for source, mass in given]),
    )
    return aligner
