"""Held-out scores by fitting again, and those of relative representations.

The criteria are those of `fitters.select.held_out`. Where the closed forms there do not apply, this
costs one fit for each fold and setting; from moments, none of them reads a row again.

On prototypes alone every row, head row or class text, is described by the anchors of other names
only: the closed form of leaving one name group out, because leaving anchors out changes nothing
but the columns. With real pairs a fold's images and texts are described by the prototypes and by
the pairs of the other folds. Similarities are sorted once; every setting is a cut and a power.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from featstore.parallel import map_threads
from fitters.aligners.asif import nearest_anchors
from fitters.aligners.base import BaseAligner
from fitters.aligners.directions import DirectionsAligner
from fitters.errors import SelectionError, ZeroRowError
from fitters.moments.transform import normalize_rows
from fitters.pairs import Pairs, Rows
from fitters.select.grid import Axis, Surface, folds_of_pairs, search
from fitters.select.kernel import EXACT_ROWS
from fitters.select.ranking import (
    METRICS,
    Gallery,
    HeldOut,
    Metric,
    check_metric,
    metric_of,
    reciprocal_ranks,
)

Matrix = npt.NDArray[np.float64]

Refit = Callable[[int, float, float], BaseAligner]
"""(fold that is left out, weight of the prototypes, relative penalty) → a fitted aligner."""


def validate_by_refitting(
    refit: Refit,
    *,
    real: Pairs,
    folds: npt.NDArray[Any],
    penalties: Axis,
    weights: Axis,
    metric: Metric = "mrr",
) -> Surface:
    """Return the validation surface of an aligner over weight × penalty.

    Parameters
    ----------
    refit : callable
        Fits without a fold of `real`.
    real : Pairs
        Transformed.
    folds : ndarray of int, shape (n,)
        From `folds_by_group`.
    penalties, weights : Axis
        Grids; they widen themselves.
    metric : {"mrr", "top-1", "top-5", "top-10"}
        See `METRICS` in `fitters.select.ranking`.
    """

    def score(aligner: BaseAligner, part: HeldOut) -> Matrix:
        return np.array([_total(aligner, part, metric)])

    return _search(refit, score, real, folds, penalties, weights, metric)[0]


def choose_components(
    refit: Refit,
    *,
    real: Pairs,
    folds: npt.NDArray[Any],
    penalties: Axis,
    weights: Axis,
    metric: Metric = "mrr",
) -> Surface:
    """Return the validation surface of an aligner over weight × penalty × components.

    One fit a fold serves every number of directions, because fewer are the first of more. The grid
    widens where the best number of each weight and penalty says so.

    Parameters
    ----------
    refit : callable
        Fits with all directions, without a fold of `real`.
    real, folds, penalties, weights, metric
        As for `validate_by_refitting`.
    """
    numbers: list[int] = []

    def score(aligner: BaseAligner, part: HeldOut) -> Matrix:
        assert isinstance(aligner, DirectionsAligner)
        numbers[:] = _numbers(len(aligner.strengths_))
        return np.array([_total(aligner.truncated(k), part, metric) for k in numbers])

    best, known = _search(refit, score, real, folds, penalties, weights, metric)
    settings = itertools.product(best.axes["weight"].values, best.axes["penalty"].values)
    scores = np.array([known[setting] for setting in settings]).reshape(*best.scores.shape, -1)
    tried = Axis(tuple(numbers), searched=False)
    return replace(best, axes={**best.axes, "components": tried}, scores=scores)


def _search(
    refit: Refit,
    score: Callable[[BaseAligner, HeldOut], Matrix],
    real: Pairs,
    folds: npt.NDArray[Any],
    penalties: Axis,
    weights: Axis,
    metric: Metric,
) -> tuple[Surface, dict[tuple[float, float], Matrix]]:
    """Return the surface of the best of `score` at each weight and penalty, and all of them."""
    check_metric(metric)
    parts = {int(fold): HeldOut.of(real.take(folds == fold)) for fold in np.unique(folds)}
    known: dict[tuple[float, float], Matrix] = {}

    def evaluate(at: Mapping[str, Matrix]) -> Matrix:
        def score_of(task: tuple[float, float, int]) -> Matrix:
            weight, penalty, fold = task
            return score(refit(fold, weight, penalty), parts[fold])

        settings = list(itertools.product(at["weight"].tolist(), at["penalty"].tolist()))
        tasks = [(weight, penalty, fold) for weight, penalty in settings for fold in parts]
        try:
            found = map_threads(score_of, tasks)
        except ZeroRowError as err:
            raise SelectionError(
                f"{real.n:,} pairs in {len(parts)} folds are too few to choose by: what is "
                f"fitted without a fold cannot place its pairs ({err}) Give more pairs, or a "
                "number for every setting."
            ) from err
        scores = np.array(found).reshape(len(settings), len(parts), -1).sum(axis=1) / real.n
        known.update(zip(settings, scores, strict=True))
        best: Matrix = scores.max(axis=1).reshape(len(at["weight"]), len(at["penalty"]))
        return best

    surface = search(
        evaluate,
        {"weight": weights, "penalty": penalties},
        criterion=METRICS[metric],
        n_queries=real.n,
        n_folds=len(parts),
    )
    return surface, known


def _total(aligner: BaseAligner, part: HeldOut, metric: Metric) -> float:
    images, texts = aligner.project_x(part.images), aligner.project_y(part.gallery.texts)
    return part.total(images, texts, metric)


def _numbers(most: int) -> list[int]:
    """Return about three numbers an octave up to `most`, which is one of them."""
    steps = np.geomspace(1, most, 1 + 3 * max(1, round(np.log2(most))) if most > 1 else 1)
    return sorted({round(step) for step in steps} | {most})


TOP_KS = Axis(tuple(2.0**n for n in range(2, 11)), lowest=1.0, highest=4096.0)
"""Anchors kept; never more than there are."""

POWERS = Axis((1.0, 2.0, 4.0, 8.0, 16.0), lowest=0.25, highest=64.0)

DENSE = 2**26
"""Entries of a description that are multiplied as a matrix in float32; more stay sparse."""


@dataclass(frozen=True, eq=False)
class Sorted:
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
    def of(
        cls,
        rows: Rows,
        anchors: Rows,
        k: int,
        *,
        own: npt.NDArray[Any] | None = None,
        groups: npt.NDArray[Any] | None = None,
    ) -> Sorted:
        """Return the `k` nearest anchors of each row, without those of its own group.

        Parameters
        ----------
        rows, anchors : ndarray of shape (n, d), (c, d)
        own, groups : ndarray of shape (n,), (c,), optional
            Group of each row and of each anchor.
        """
        more = 0 if groups is None else int(np.unique(groups, return_counts=True)[1].max())
        unit_rows, unit_anchors = (
            normalize_rows(side, what=what).astype(np.float32)
            for side, what in ((rows, "rows"), (anchors, "anchors"))
        )
        found = nearest_anchors(unit_rows, unit_anchors, k + more)
        counts = np.diff(found.indptr)
        place = np.arange(found.nnz) - np.repeat(found.indptr[:-1], counts)
        owner = np.repeat(np.arange(len(rows)), counts)
        width = min(k + more, len(anchors))
        values = np.zeros((len(rows), width), dtype=np.float32)
        columns = np.zeros((len(rows), width), dtype=np.intp)
        values[owner, place], columns[owner, place] = found.data, found.indices
        if groups is not None and own is not None:
            values[groups[columns] == own[:, None]] = 0.0
        order = np.argsort(-values, axis=1, kind="stable")[:, :k]
        return cls(
            np.take_along_axis(values, order, axis=1),
            np.take_along_axis(columns, order, axis=1),
            len(anchors),
        )

    def described(self, k: int, power: float) -> csr_array:
        """Return what `ASIFAligner` makes of each row, shape (n, c); rows of no anchor stay 0."""
        values = self.values[:, :k].astype(np.float64) ** power
        lengths = np.linalg.norm(values, axis=1, keepdims=True)
        values = np.divide(values, lengths, out=np.zeros_like(values), where=lengths > 0)
        kept = values.shape[1]
        starts = np.arange(0, values.size + 1, kept)
        # A copy of the columns: what is eliminated would else be so in all that follows.
        made = csr_array(
            (values.ravel(), self.columns[:, :k].flatten(), starts),
            shape=(len(values), self.n_anchors),
        )
        made.eliminate_zeros()
        return made


@dataclass(frozen=True, eq=False)
class _Part:
    """Queries and gallery that are described by the same anchors, or each without its own."""

    rows: npt.NDArray[np.intp]
    queries: Sorted
    gallery: Sorted
    positives: npt.NDArray[np.intp]


def choose_anchors(
    prototypes: Pairs | None,
    real: Pairs | None,
    *,
    top_ks: Axis = TOP_KS,
    powers: Axis = POWERS,
    metric: Metric = "mrr",
    n_folds: int = 4,
    rng: np.random.Generator,
) -> Surface:
    """Return the surface of `ASIFAligner` over anchors kept × power.

    Parameters
    ----------
    prototypes, real : Pairs, optional
        Transformed; at least one. Masses play no part.
    top_ks, powers : Axis
        The grid widens itself.
    metric : str
        One of `METRICS`. With real pairs the gallery of an image are the texts of its fold;
        else that of a head row are all class texts, each without the anchors of its own name (of
        more than `EXACT_ROWS` prototypes so many ask and are asked, evenly spread).
    n_folds : int
        Of real pairs, by group; fewer if there are fewer groups.
    rng : numpy.random.Generator
        Draws the folds.

    Raises
    ------
    SettingError
        If the metric is unknown.
    SelectionError
        If all that could be left out is of one group.
    """
    check_metric(metric)
    if real is None:
        assert prototypes is not None
        parts, n_anchors = _left_out(prototypes, _most(top_ks, prototypes.n)), prototypes.n
        n_queries = len(parts[0].rows)
        criterion = f"{metric} of the true name among all, each described without its own anchors"
        n_parts = int(prototypes.row_groups.max()) + 1
    else:
        n_anchors = real.n + (0 if prototypes is None else prototypes.n)
        parts = _folds(prototypes, real, n_folds, _most(top_ks, n_anchors), rng)
        n_queries, criterion, n_parts = real.n, METRICS[metric], len(parts)

    def evaluate(values: Mapping[str, Matrix]) -> Matrix:
        scores = np.empty((len(values["top_k"]), len(values["power"])))
        for (i, j), _ in np.ndenumerate(scores):
            setting = round(float(values["top_k"][i])), float(values["power"][j])
            of_rows = np.concatenate([_ranks(part, *setting) for part in parts])
            order = np.argsort(np.concatenate([part.rows for part in parts]), kind="stable")
            scores[i, j] = metric_of(of_rows[order], metric).mean()
        return scores

    return search(
        evaluate,
        {"top_k": _capped(top_ks, n_anchors), "power": powers},
        criterion=criterion,
        n_queries=n_queries,
        n_folds=n_parts,
    )


def _ranks(part: _Part, k: int, power: float) -> Matrix:
    queries, gallery = part.queries.described(k, power), part.gallery.described(k, power)
    if max(queries.shape[0], gallery.shape[0]) * queries.shape[1] <= DENSE:
        dense = (side.astype(np.float32).toarray() for side in (queries, gallery))
        return reciprocal_ranks(np.matmul(next(dense), next(dense).T), part.positives)
    return reciprocal_ranks((queries @ gallery.T).toarray(), part.positives)


def _left_out(pairs: Pairs, k: int) -> list[_Part]:
    groups = pairs.row_groups
    if int(groups.max()) == 0:
        raise SelectionError(
            f"All {pairs.n:,} prototypes share one name: none can be described by the others. Give "
            "more classes, or numbers for top_k and power."
        )
    asked = np.unique(np.linspace(0, pairs.n - 1, min(pairs.n, EXACT_ROWS)).round().astype(np.intp))
    own = groups[asked]
    queries, gallery = (
        Sorted.of(side[asked], side, k, own=own, groups=groups) for side in (pairs.x, pairs.y)
    )
    # Every row of the gallery is a text; those of the query's name are right.
    order = np.argsort(own, kind="stable")
    mates = np.split(order, np.flatnonzero(np.diff(own[order])) + 1)
    positives = np.full((len(asked), max(len(part) for part in mates)), -1, dtype=np.intp)
    for part in mates:
        positives[part, : len(part)] = part
    return [_Part(np.arange(len(asked)), queries, gallery, positives)]


def _folds(
    prototypes: Pairs | None, real: Pairs, n_folds: int, k: int, rng: np.random.Generator
) -> list[_Part]:
    folds = folds_of_pairs(real, n_folds, "top_k or power", rng)
    parts = []
    for fold in np.unique(folds):
        rest, held = real.take(folds != fold), real.take(folds == fold)
        given = [rest] if prototypes is None else [prototypes, rest]
        x, y = (np.concatenate([getattr(source, side) for source in given]) for side in "xy")
        gallery = Gallery.of(held.y, held.row_groups)
        parts.append(
            _Part(
                np.flatnonzero(folds == fold),
                Sorted.of(held.x, x, k),
                Sorted.of(gallery.texts, y, k),
                gallery.positives,
            )
        )
    return parts


def _most(axis: Axis, n_anchors: int) -> int:
    """Return how many anchors may ever be asked for."""
    most = axis.highest if axis.searched else axis.values[-1]
    return int(min(most, n_anchors))


def _capped(axis: Axis, n_anchors: int) -> Axis:
    """Return the axis up to the number of anchors, which is its last value if it got there."""
    if not axis.searched or axis.highest < n_anchors:
        return axis
    kept = tuple(value for value in axis.values if value < n_anchors)
    if len(kept) < len(axis.values):
        kept = (*kept, float(n_anchors))
    return replace(axis, values=kept, highest=float(n_anchors))
