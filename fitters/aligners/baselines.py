"""Baselines: the shift of the mean, text-to-concept, ASIF, and ConSE.

Text-to-concept is fitted on images alone, each seen by both encoders. Texts then need no map:
CLIP's text tower already writes into the space of its image tower.

ASIF describes a row by its similarities to the nearest anchors of its side. Only those above 0
count, and nothing of the size rows × anchors is ever held.

How many anchors are kept is chosen by folds: of real pairs, beside the prototypes, or of the names
of the prototypes alone. Leaving out one name at a time would compare texts that each lack another
column, which no fit does: on ImageNet's names that preferred power 1 to 2, and folds prefer 2 to 1.

Of ConSE an image is the mix of the class texts that its own classifier believes in.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.special import softmax
from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval, StrOptions

from featstore.parallel import map_threads
from fitters.aligners import (
    BaseAligner,
    Constraints,
    FromMoments,
    mean_rows,
    tune_by_refitting,
    validate_pairs,
)
from fitters.errors import ZeroRowError
from fitters.moments import Moments
from fitters.pairs import Matrix, Pairs, Rows
from fitters.select import Axis, Choice, Search
from fitters.settings import MOST, Preparation
from fitters.solvers import least_squares, solve_ridge
from fitters.sources import Sources, normalize_rows, unit_or_zero


class MeanShiftAligner(FromMoments):
    """Subtract the mean of each side, and nothing else: columns are taken to mean the same.

    That is right for two sides of one space (the image and the text tower of one CLIP model,
    whose cones lie apart), and a floor for any other. The narrower side is filled up with zeros.

    Attributes
    ----------
    mean_x_, mean_y_ : ndarray of shape (p,), (q,)
    n_features_in_ : int
        p.

    References
    ----------
    Liang et al., Mind the Gap, NeurIPS 2022: the offset between the cones of CLIP's two towers.

    Examples
    --------
    >>> images = np.random.default_rng(0).standard_normal((40, 8))
    >>> made = MeanShiftAligner().fit(images + 3, images - 5)
    >>> f"{(made.project_x(images + 3) * made.project_y(images - 5)).sum(axis=1).min():.2f}"
    '1.00'
    """

    method: ClassVar[str] = "mean-shift"
    mixes: ClassVar[bool] = False
    _parameter_constraints: ClassVar[Constraints] = {}

    def _fit(self, moments: Moments) -> Self:
        self.mean_x_, self.mean_y_ = moments.mean_x, moments.mean_y
        return self

    def project_x(self, x: Rows) -> Matrix:
        """Return x in the shared space: shape (n, max(p, q)), float64, unit rows."""
        return self._projected(self.about_mean(x, "x"), "x")

    def project_y(self, y: Rows) -> Matrix:
        """Return y in the shared space: shape (n, max(p, q)), float64, unit rows."""
        return self._projected(self.about_mean(y, "y"), "y")

    def _projected(self, rows: Matrix, side: str) -> Matrix:
        wide = max(len(self.mean_x_), len(self.mean_y_))
        return np.pad(normalize_rows(rows, what=side), ((0, 0), (0, wide - rows.shape[1])))


VARIANCE = 4.5
"""The original scales all entries of a space to this variance before fitting."""


@dataclass(repr=False, eq=False, kw_only=True)
class TextToConceptAligner(FromMoments):
    """Align by least squares from X, image features, to y, CLIP image features of the same images.

    The shared space is CLIP's: project_x(f) = f C + b and project_y(t) = t, both unit length, with
    no centring. y at projection time may be CLIP texts.

    Parameters
    ----------
    alpha : float
        Ridge penalty on the summed squared error of the scaled problem, where each side is scaled
        to variance 4.5 over all its entries; 0 is least squares, of least norm where rows are
        fewer than columns.

    Attributes
    ----------
    coef_ : ndarray of shape (p, q)
    intercept_ : ndarray of shape (q,)
        b.
    scale_x_, scale_y_ : float
        c = √(4.5 / variance of all entries), one a side.
    n_features_in_ : int
        p.

    Notes
    -----
    The original runs a few epochs of gradient descent on the same loss; this is where they lead.

    References
    ----------
    Moayeri et al., Text-To-Concept (and Back) via Cross-Model Alignment, ICML 2023.

    Examples
    --------
    >>> images = np.random.default_rng(0).standard_normal((40, 8))
    >>> texts = images[:, :5]
    >>> made = TextToConceptAligner(alpha=0.0).fit(images, texts)
    >>> f"{(made.project_x(images) * made.project_y(texts)).sum(axis=1).mean():.2f}"
    '1.00'
    """

    method: ClassVar[str] = "text-to-concept"
    preparation: ClassVar[Preparation] = Preparation(images="raw", texts="raw")
    alpha: float = 0.0
    _parameter_constraints: ClassVar[Constraints] = {
        "alpha": [Interval(Real, 0, MOST, closed="left")],
    }

    def _fit(self, moments: Moments) -> Self:
        about = moments.centred
        mean_x, mean_y = about.shift_x, about.shift_y
        self.scale_x_ = _scale(about.sxx, mean_x, about.weight)
        self.scale_y_ = _scale(about.syy, mean_y, about.weight)
        if self.alpha > 0:
            # On scaled rows: c_x² G + α, c_x c_y X'Y; undone, C · c_x / c_y.
            scaled = solve_ridge(
                self.scale_x_**2 * about.sxx,
                self.scale_x_ * self.scale_y_ * about.sxy,
                float(self.alpha),
            )
            self.coef_ = scaled * (self.scale_x_ / self.scale_y_)
        else:
            self.coef_ = least_squares(about.sxx, about.sxy)
        self.intercept_ = mean_y - mean_x @ self.coef_
        return self

    def project_x(self, x: Rows) -> Matrix:
        """Return x in the space of y: shape (n, q), float64, unit rows."""
        rows = self.check_projected(x, len(self.coef_), "x")
        return normalize_rows(rows @ self.coef_ + self.intercept_, what="x")

    def project_y(self, y: Rows) -> Matrix:
        """Return y with unit rows: shape (n, q), float64."""
        return normalize_rows(self.check_projected(y, len(self.intercept_), "y"), what="y")


def _scale(scatter: Matrix, mean: Matrix, weight: float) -> float:
    """Return √(4.5 / variance over all entries), 1 where nothing varies."""
    within = float(np.trace(scatter)) / (weight * len(mean))
    variance = within + float(np.var(mean))
    return float(np.sqrt(VARIANCE / variance)) if variance > 0 else 1.0


SIMILARITIES = 2**22
"""Entries of one product: 16 MiB of float32 similarities."""


@dataclass(frozen=True, eq=False)
class Nearest:
    """Each row's similarities to its nearest anchors, largest first; 0 where there are no more.

    Attributes
    ----------
    values : ndarray of shape (n, k)
    columns : ndarray of int, shape (n, k)
        Which anchor; where the value is 0, any.
    n_anchors : int
    """

    values: Rows
    columns: npt.NDArray[np.intp]
    n_anchors: int

    @classmethod
    def of(cls, rows: Rows, anchors: Rows, k: int) -> Nearest:
        """Return the `k` nearest of the anchors of each of the rows, those above 0.

        Parameters
        ----------
        rows, anchors : ndarray of shape (n, d), (c, d)
            Of one dtype, float32 or float64.
        k : int
            At most c are kept; of equal similarities those of lower index.
        """
        k, size = min(k, len(anchors)), max(1, SIMILARITIES // len(anchors))
        values = np.empty((len(rows), k), dtype=rows.dtype)
        columns = np.empty(values.shape, dtype=np.intp)

        def search(start: int) -> None:
            block = slice(start, start + size)
            similarities = np.maximum(rows[block] @ anchors.T, 0)
            least = np.partition(similarities, -k, axis=1)[:, -k]
            for own, of_row, lowest in zip(columns[block], similarities, least, strict=True):
                at = np.flatnonzero(of_row >= lowest)
                own[:] = at[np.argsort(-of_row[at], kind="stable")[:k]]
            values[block] = np.take_along_axis(similarities, columns[block], axis=1)

        map_threads(search, range(0, len(rows), size))
        return cls(values, columns, len(anchors))

    def described(self, power: float) -> csr_array:
        """Return r of `ASIFAligner` for each row, shape (n, c); rows of no anchor are 0."""
        values = unit_or_zero(self.values.astype(np.float64) ** power)
        starts = np.arange(0, values.size + 1, values.shape[1])
        flat = values.ravel(), self.columns.ravel(), starts
        made = csr_array(flat, shape=(len(values), self.n_anchors))
        made.eliminate_zeros()
        return made


@dataclass(repr=False, eq=False, kw_only=True)
class ASIFAligner(BaseAligner):
    """Align by relative representations: one column a training pair; nothing is fitted.

    With unit anchors a_j of one side, a row z of that side becomes::

        r_j(z) = max(z·a_j / ||z||, 0)^power   for the top_k largest, 0 elsewhere; then unit length

    and the score of x and y is the dot product of the two. The space is as wide as there are
    anchors, so that the projections are sparse.

    Parameters
    ----------
    top_k : int
        Anchors kept a row; all of them if there are fewer.
    power : float
        Above 0. Negative similarities are set to 0 first: an even power would make them large.
    center : bool
        Subtract the mean of the anchors of each side first; False where rows come centred.
    precision : {"float64", "float32"}
        Of the similarities.

    Attributes
    ----------
    anchors_x_, anchors_y_ : ndarray of shape (c, p), (c, q)
        One row a training pair, about the means; the projections use them with unit rows.
    mean_x_, mean_y_ : ndarray of shape (p,), (q,)
        What is subtracted on each side; 0 if not `center`.
    n_features_in_ : int
        p.

    Notes
    -----
    The original normalises the text side alone. That leaves the order of texts for an image as it
    is, but not that of images for a text; here both sides are normalised.

    References
    ----------
    Norelli et al., ASIF: Coupled Data Turns Unimodal Models to Multimodal Without Training,
    NeurIPS 2023.

    Examples
    --------
    >>> images, texts = np.random.default_rng(0).standard_normal((2, 40, 8))
    >>> made = ASIFAligner(top_k=10).fit(images, texts)
    >>> made.project_x(images).shape, made.project_y(texts).shape
    ((40, 40), (40, 40))
    """

    method: ClassVar[str] = "asif"
    top_k: int = field(default=800, kw_only=False)
    power: float = 8.0
    center: bool = False
    precision: str = "float64"
    _parameter_constraints: ClassVar[Constraints] = {
        "top_k": [Interval(Integral, 1, None, closed="left")],
        "power": [Interval(Real, 0, MOST, closed="neither")],
        "center": ["boolean"],
        "precision": [StrOptions({"float64", "float32"})],
    }

    def tune(self, data: Sources[Pairs], search: Search) -> Choice:
        """Choose how many anchors are kept, and the power of the similarities."""
        top_ks = search.axis("top_k", TOP_KS, self.top_k)
        axes = {
            "top_k": _capped(top_ks, sum(source.n for source in data.given)),
            "power": search.axis("power", POWERS, self.power),
        }
        choice = tune_by_refitting(self, data, search, axes)
        return replace(choice, params=choice.params | {"top_k": round(choice.params["top_k"])})

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(self, X: Rows, y: Rows) -> Self:
        """Remember n pairs as anchors.

        Parameters
        ----------
        X : ndarray of shape (n, p)
        y : ndarray of shape (n, q) or (n,)
        """
        x64, y64, weight = validate_pairs(self, X, y, None)
        self.mean_x_, self.mean_y_ = mean_rows(x64, y64, weight, centre=self.center)
        self.anchors_x_, self.anchors_y_ = x64 - self.mean_x_, y64 - self.mean_y_
        return self

    def project_x(self, x: Rows) -> csr_array:
        """Return r(x): csr_array of shape (n, c), float64, unit rows.

        Raises
        ------
        ZeroRowError
            If an anchor or a row has no direction, or a row is similar to no anchor.
        """
        return self._relative(x, "x")

    def project_y(self, y: Rows) -> csr_array:
        """Return r(y): csr_array of shape (n, c), float64, unit rows."""
        return self._relative(y, "y")

    def _relative(self, rows: Rows, side: Literal["x", "y"]) -> csr_array:
        given, dtype = unit_or_zero(self.about_mean(rows, side)), np.dtype(self.precision)
        anchors = normalize_rows(getattr(self, f"anchors_{side}_"), what=f"anchors of {side}")
        found = Nearest.of(
            given.astype(dtype, copy=False), anchors.astype(dtype, copy=False), self.top_k
        ).described(self.power)
        bad = np.flatnonzero(np.diff(found.indptr) == 0)
        if len(bad):
            raise ZeroRowError(
                f"{len(bad):,} of {len(given):,} rows of {side} are similar to no anchor, or are "
                f"0 (first: row {bad[0]:,}): they have no place in the shared space. Drop them, "
                "or use more anchors or a smaller power."
            )
        return found


TOP_KS = Axis(tuple(2.0**n for n in range(2, 11)), lowest=1.0, highest=4096.0)
"""Anchors kept; never more than there are."""

POWERS = Axis((1.0, 2.0, 4.0, 8.0, 16.0), lowest=0.25, highest=64.0)


def _capped(axis: Axis, n_anchors: int) -> Axis:
    """Return the axis up to the number of anchors, which is its last value if it got there."""
    if not axis.searched or axis.highest < n_anchors:
        return axis
    kept = tuple(value for value in axis.values if value < n_anchors)
    if len(kept) < len(axis.values):
        kept = (*kept, float(n_anchors))
    return replace(axis, values=kept, highest=float(n_anchors))


@dataclass(repr=False, eq=False, kw_only=True)
class ConSEAligner(BaseAligner):
    """Align by convex combination of semantic embeddings; nothing is fitted to pairs.

    With p = softmax(W f + b) of the model's own head and t_c the unit text of class c::

        project_x(f) = Σ_{c in top k} p_c t_c / Σ_{c in top k} p_c, then unit length
        project_y(t) = t, unit length

    so the shared space is the text space. f must be the raw input of the head: neither normalised
    nor centred.

    Parameters
    ----------
    top_k : int
        Classes in the mix; all of them if there are fewer.

    Attributes
    ----------
    weight_ : ndarray of shape (c, p)
        W, one row a class.
    bias_ : ndarray of shape (c,)
        b, 0 if none was given.
    texts_ : ndarray of shape (c, q)
        Class texts as given; the projections use them with unit rows.
    n_features_in_ : int
        p.
    feature_names_in_ : ndarray of shape (p,)
        Only if X had string column names.

    References
    ----------
    Norouzi et al., Zero-Shot Learning by Convex Combination of Semantic Embeddings, ICLR 2014.

    Examples
    --------
    >>> head, names = np.eye(4), np.eye(4, 3) + 1
    >>> made = ConSEAligner(top_k=2).fit(head, names)
    >>> made.project_x(head).shape
    (4, 3)
    """

    method: ClassVar[str] = "conse"
    fitted_on = "head"
    preparation: ClassVar[Preparation] = Preparation(images="raw")
    top_k: int = 10
    _parameter_constraints: ClassVar[Constraints] = {
        "top_k": [Interval(Integral, 1, None, closed="left")]
    }

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(self, X: Rows, y: Rows, bias: npt.NDArray[Any] | None = None) -> Self:
        """Remember the head and its class texts.

        Parameters
        ----------
        X : ndarray of shape (c, p)
            Head weights, one row a class, raw.
        y : ndarray of shape (c, q) or (c,)
            Class texts.
        bias : ndarray of shape (c,), optional
            The head's bias.
        """
        weights, texts, _ = validate_pairs(self, X, y, None)
        bias64 = np.zeros(len(weights)) if bias is None else np.asarray(bias, dtype=np.float64)
        if bias64.shape != (len(weights),) or not np.isfinite(bias64).all():
            raise ValueError(
                f"bias must be finite, with one entry a class, shape ({len(weights)},). "
                f"Got shape {bias64.shape}."
            )
        self.weight_, self.bias_, self.texts_ = weights, bias64, texts
        return self

    def fit_sources(self, data: Sources[Any], mix: float = 1.0) -> Self:  # noqa: ARG002
        """Remember the head and its class texts; there is nothing to mix."""
        assert data.prototypes is not None
        return self.fit(data.prototypes.x, data.prototypes.y, data.bias)

    def project_x(self, x: Rows) -> Matrix:
        """Return the mix of class texts for each image: shape (n, q), float64, unit rows."""
        features = self.check_projected(x, self.weight_.shape[1], "x")
        texts = normalize_rows(self.texts_, what="class texts")
        return normalize_rows(self._mix(features, texts), what="mixed texts")

    def project_y(self, y: Rows) -> Matrix:
        """Return y with unit rows: shape (n, q), float64."""
        return normalize_rows(self.check_projected(y, self.texts_.shape[1], "y"), what="y")

    def _mix(self, features: Matrix, texts: Matrix) -> Matrix:
        logits = features @ self.weight_.T + self.bias_
        n, k = len(features), min(self.top_k, len(self.bias_))
        # Stable order: equal logits at the border go to the class of lower index.
        top = np.argsort(-logits, axis=1, kind="stable")[:, :k]
        # softmax over the top k is the softmax over all, divided by its mass in the top k.
        share = softmax(np.take_along_axis(logits, top, axis=1), axis=1)
        starts = np.arange(0, n * k + 1, k)
        return csr_array((share.ravel(), top.ravel(), starts), (n, len(texts))) @ texts
