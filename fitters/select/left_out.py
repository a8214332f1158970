"""Settings of a ridge or a kernel ridge by what it predicts for names that it never saw.

Left out are the classes of a name, not rows: a class that shares its name with another would
predict itself. Centred rows sum to 0, so that each is minus the sum of the others, and a fit on the
others knows it: every fit is therefore about the mean of the rows that it has. For the rest of the
preprocessing it is exact where that does not depend on the rows left out; on noise the criteria are
those of refits that prepare the other rows anew (tests/fitters/test_noise.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.linalg
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import betainc

from fitters.errors import SelectionError, SettingError
from fitters.kept import digest_of, remember
from fitters.kernels import BLOCK_ROWS, DOUBLE_ROWS, NystroemMap, decompose_kernel, gaussian
from fitters.pairs import Matrix, Pairs
from fitters.select import PENALTIES, Axis, Surface, choose, geometric
from fitters.select.ranking import BLOCK_SCORES, reciprocal_ranks
from fitters.solvers import Parts, Spectrum, eigen_gram
from fitters.sources import unit_or_zero

LeaveOutCriterion = Literal["cosine", "rank"]

CRITERIA: dict[str, str] = {
    "cosine": "mean cosine of the left-out prediction of a name and its true row",
    "rank": "mean reciprocal rank of the true name among the left-out predictions of all names",
}
"""What leaving out can score by."""

MOST_QUERIES = 2000

GAMMAS = Axis((0.5, 1.0, 2.0, 4.0, 8.0), lowest=2.0**-5, highest=2.0**7)
"""Inverse squared widths; unit rows are up to 4 apart, most of them about 2."""

KERNEL_PENALTIES = Axis(geometric(1e-3, 1e0, 2), lowest=1e-5, highest=1e2)
"""Penalties on a kernel whose diagonal is 1."""

SINGLE_LOWEST = 1e-3
"""The lowest for more than `DOUBLE_ROWS` prototypes, whose kernel has a float32 factor."""

TIED = 1e-5
"""Mean cosines that are apart by no more are equal. Towards penalty 0 they rise without end, by
less and less: of those that cannot be told apart the largest penalty is taken."""

EXACT_ROWS = 2048
"""Up to so many prototypes the choice is that of the exact solution."""

NEAR = 0.9
"""Cosine from which rows count as one row that stands twice. Of the demo's head no two rows are
above 0.75. In a planted head each of whose rows stands seven times under texts at 0.9, a row that
is left out without its copies takes top-1 of new classes from 100 to 20 %, at any cosine of the
copies from 0.89 to 1; left out together, they cost nothing."""

NEAR_TEXTS = 0.95
"""The same of texts, which may be nearer: those of the demo's head are up to 0.93 apart."""

BY_CHANCE = 0.01
"""So many near rows may be expected of random ones where a side says anything."""

COPIED = 0.95
"""Criteria above this where a grid ends are said: they are those of rows that predict copies."""

FREE = 1e12
"""How much larger than the largest the eigenvalue of an intercept is: no penalty reaches it."""

CHOICE_LANDMARKS = 1024
"""Beyond, that of the Nyström solution from so many landmarks, scored on `EXACT_ROWS` rows."""


class LeftOut:
    """Criteria of fits that each lack a name, on rows whose columns are known.

    Dot products are taken in the space of the rows that predict, which is the smaller one.

    Parameters
    ----------
    spectrum : Spectrum
        With the rows that may be left out.
    groups : ndarray of shape (n,)
        What is left out together.
    reach : ndarray of shape (n, r), optional
        What the fit without a row is asked instead of its own, in the eigenbasis.
    at : indices, optional
        The rows whose cosines count.
    ones : ndarray of shape (r,), optional
        Targets of 1, seen from the eigenbasis. With it, each fit is on targets about the mean of
        those that it has; all targets together have the mean 0.
    weight : ndarray of shape (n,), optional
        Masses of the rows; needed with `ones`.
    mass : float
        Of all rows that are fitted on.

    Raises
    ------
    SelectionError
        If there is one group only.
    """

    def __init__(
        self,
        spectrum: Spectrum,
        groups: npt.NDArray[Any],
        reach: Matrix | None = None,
        at: Any = slice(None),
        *,
        ones: Matrix | None = None,
        weight: Matrix | None = None,
        mass: float = 0.0,
    ) -> None:
        self.spectrum, self.targets = spectrum, spectrum.targets
        self._reach, self._at = reach, at
        self.parts = parts_of(groups)
        self._ones = ones
        if weight is not None:
            self._root, self._outside = np.sqrt(weight), mass - mass_of_parts(self.parts, weight)
        self._several = several(self.parts)
        self._towards = self.targets @ spectrum.rhs.T
        self._square = spectrum.rhs @ spectrum.rhs.T
        self._lengths = np.einsum("nq,nq->n", self.targets, self.targets)

    @cached_property
    def _cross(self) -> Matrix:
        """Products of the rows that ask with all targets."""
        return self.targets[asking_of(len(self.targets))] @ self.targets.T

    def score(self, alpha: float, criterion: str = "cosine") -> float:
        """Return a mean over the rows at an absolute penalty, which is above 0 in the dual."""
        x = self.spectrum.without(alpha, self._several, self._reach)
        own, blocks = self.spectrum.inside(x, self._several)
        if self._ones is not None:
            self._about_the_others(self._ones, x, own, blocks)
        near = np.einsum("nr,nr->n", x, self._towards)
        dots = near + own * self._lengths
        squares = np.einsum("nr,nr->n", x @ self._square, x)
        squares += own * (2 * near + own * self._lengths)
        for part, block in blocks:
            within = block @ (self.targets[part] @ self.targets[part].T)
            dots[part] += within.diagonal()
            squares[part] += np.einsum("nr,nr->n", 2 * block @ self._towards[part], x[part])
            squares[part] += np.einsum("nm,nm->n", within, block)
        norms = np.sqrt(np.maximum(squares, 0.0))
        if criterion == "rank":
            return self._rank(x, own, blocks, norms)
        return mean_cosine(dots[self._at], norms[self._at], np.sqrt(self._lengths)[self._at])

    def _about_the_others(self, ones: Matrix, x: Matrix, own: Matrix, blocks: Any) -> None:
        """Take the mean of the other targets from those that each fit is on, in place.

        The mean of the others is minus what is left out over the mass of the others. A fit whose
        weights on its targets sum to s thus predicts s times what is left out more.
        """
        sums = x @ ones + own * self._root
        for part, block in blocks:
            sums[part] += block @ self._root[part]
            block += (sums / self._outside)[part, None] * self._root[part]
            sums[part] = 0.0
        own += sums / self._outside * self._root

    def _rank(self, x: Matrix, own: Matrix, blocks: Any, norms: Matrix) -> float:
        """Return the mean reciprocal rank of a row's name among all predictions, by cosine."""
        inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
        asking, found, mates = asking_of(len(norms)), [], mates_of(self.parts)
        rows = max(1, BLOCK_SCORES // len(norms))
        for start in range(0, len(asking), rows):
            asked, cross = asking[start : start + rows], self._cross[start : start + rows]
            scores = self._towards[asked] @ x.T + own * cross
            for part, block in blocks:
                scores[:, part] += cross[:, part] @ block.T
            found.append(reciprocal_ranks(scores * inverse, mates[asked]))
        return float(np.concatenate(found).mean())


def mean_cosine(dots: npt.NDArray[Any], norms: npt.NDArray[Any], lengths: Matrix) -> float:
    """Return the mean of dot products over both lengths; 0 where there is no length."""
    both = norms * lengths
    return float(np.divide(dots, both, out=np.zeros_like(both), where=both > 0).mean())


def parts_of(groups: npt.NDArray[Any]) -> list[npt.NDArray[np.intp]]:
    """Return the rows of each group, in order of their sorted labels.

    Raises
    ------
    SelectionError
        If there is one group only.
    """
    codes = np.unique(groups, return_inverse=True)[1]
    if not codes.any():
        raise SelectionError(
            f"All {len(codes):,} rows belong to one group: leaving it out leaves nothing to fit. "
            "Give more classes, or fix the penalty."
        )
    return np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])


def several(parts: Parts) -> list[npt.NDArray[np.intp]]:
    """Return the parts of more than one row."""
    return [part for part in parts if len(part) > 1]


def mass_of_parts(parts: Parts, weight: Matrix) -> Matrix:
    """Return for each row the mass of what is left out with it, shape (n,)."""
    mass = np.empty(len(weight))
    for part in parts:
        mass[part] = weight[part].sum()
    return mass


def mates_of(parts: Parts) -> npt.NDArray[np.intp]:
    """Return the rows of each row's group, filled up with -1; shape (n, size of the largest)."""
    mates = np.full((sum(map(len, parts)), max(map(len, parts))), -1, dtype=np.intp)
    for part in parts:
        mates[part, : len(part)] = part
    return mates


def asking_of(n: int) -> npt.NDArray[np.intp]:
    """Return which of n rows ask for the rank of their name: evenly spread, `MOST_QUERIES`."""
    return np.unique(np.linspace(0, n - 1, min(n, MOST_QUERIES)).round().astype(np.intp))


def join_near(pairs: Pairs, at: npt.NDArray[np.intp] | None = None) -> Pairs:
    """Return prototypes with one group for all names whose rows or texts are nearly equal.

    A row that is left out while its twin stays predicts itself, whatever the settings. Nothing is
    joined by a side of so few columns that rows are near by chance, nor where all names would be of
    one group.

    Parameters
    ----------
    pairs : Pairs
        Transformed rows, all of a mass above 0.
    at : ndarray of int, optional
        Rows that are compared with all others; without it, all.
    """
    codes = np.unique(pairs.row_groups, return_inverse=True)[1]
    at = np.arange(pairs.n) if at is None else at
    links = [np.empty((2, 0), np.intp)]
    for side, nearest in ((pairs.x, NEAR), (pairs.y, NEAR_TEXTS)):
        n_columns = side.shape[1]
        # Of random directions, the share whose cosine with a given one is as large.
        by_chance = betainc((n_columns - 1) / 2, 0.5, 1 - nearest**2) / 2 if n_columns > 1 else 1.0
        if pairs.n * by_chance > BY_CHANCE:
            continue
        rows = unit_or_zero(side.astype(np.float32))
        for start in range(0, len(at), BLOCK_ROWS):
            block = at[start : start + BLOCK_ROWS]
            ours, theirs = np.nonzero(rows[block] @ rows.T >= nearest)
            links.append(codes[np.array([block[ours], theirs])])
    ours, theirs = np.hstack(links)
    if np.array_equal(ours, theirs):
        return pairs
    size = int(codes.max()) + 1
    graph = coo_array((np.ones(len(ours), bool), (ours, theirs)), shape=(size, size))
    n_groups, joined = connected_components(graph, directed=False)
    # Where all names are near each other, nearness says nothing about copies.
    return pairs if n_groups == 1 else replace(pairs, groups=joined[codes])


def spread_of(n: int) -> npt.NDArray[np.intp]:
    """Return the rows whose cosines count where there are more than `EXACT_ROWS`."""
    return np.unique(np.linspace(0, n - 1, EXACT_ROWS).round().astype(np.intp))


def _sides(pairs: Pairs, direction: str) -> tuple[Pairs, Matrix, Matrix, Matrix | None]:
    """Return the rows that have mass: predicting, predicted, and asked if these are others.

    Those predicted are about their mean. Rows that are nearly equal are of one group.
    """
    used = pairs.take(pairs.row_weight > 0)
    used = join_near(used, spread_of(used.n) if used.n > EXACT_ROWS else None)
    sides = (used.y, used.x) if direction == "y->x" else (used.x, used.y)
    a, b = (np.asarray(side, np.float64) for side in sides)
    b = b - used.row_weight @ b / used.row_weight.sum()
    other = used.asked is not None and direction == "y->x"
    return used, a, b, np.asarray(used.asked, np.float64) if other else None


def leave_one_group_out(
    pairs: Pairs,
    *,
    direction: str = "y->x",
    penalties: Axis = PENALTIES,
    criterion: LeaveOutCriterion = "cosine",
) -> Surface:
    """Choose the penalty of a ridge fit from prototypes alone.

    Parameters
    ----------
    pairs : Pairs
        Transformed rows; `groups` are the names.
    direction : {"y->x", "x->y"}
        As `RidgeAligner`.
    penalties : Axis
        Relative: α = penalty · tr(aᵀa) / p, of all rows.
    criterion : {"cosine", "rank"}
        Mean cosine of the left-out prediction and its target; or the mean reciprocal rank of the
        true name, where each head row (of more than `MOST_QUERIES` so many, evenly spread) ranks
        the left-out predictions of all names.

    Returns
    -------
    Surface
        Over weight (1, given) × penalty. Costs one eigendecomposition of min(n, p) and a product a
        penalty.

    Raises
    ------
    SettingError
        If the criterion is unknown.
    SelectionError
        If there is one group only.
    """
    used, a, b, asked = _sides(pairs, direction)

    def surface() -> Surface:
        left_out = left_out_of_rows(a, b, used.row_groups, used.row_weight, asked)
        unit = float(used.row_weight @ np.einsum("np,np->n", a, a)) / a.shape[1]

        def evaluate(at: Mapping[str, Matrix]) -> Matrix:
            return np.array([[left_out.score(one * unit, criterion) for one in at["penalty"]]])

        return choose(
            evaluate, {"weight": Axis.fixed(1.0), "penalty": penalties},
            criterion=CRITERIA[criterion],
            n_queries=len(asking_of(used.n)) if criterion == "rank" else used.n,
            n_folds=len(left_out.parts), of_ranks=criterion == "rank",
        )  # fmt: skip

    made_of = used.row_groups, used.row_weight, penalties, criterion
    # Every draw and number of real pairs of a sweep asks for those of the same prototypes.
    return remember(surface, "left out", a, b, asked, *made_of)


def left_out_of_rows(
    a: Matrix, b: Matrix, groups: npt.NDArray[Any], weight: Matrix, asked: Matrix | None = None
) -> LeftOut:
    """Return the criteria of a ridge from a (n, p) to b (n, q), rows with a mass above 0.

    Each fit is about the mean of its own rows, and so is what it is asked: shifting all rows
    changes nothing.
    """
    root, mass = np.sqrt(weight)[:, None], weight.sum()
    mean = weight @ a / mass
    a, asked = a - mean, (a if asked is None else asked) - mean
    for part in parts_of(groups):
        # The mean of the others: all together have the mean 0.
        asked[part] += weight[part] @ a[part] / (mass - weight[part].sum())
    rows, targets = root * a, root * b
    if len(a) > a.shape[1]:
        spectrum = Spectrum.of(rows.T @ rows, rows.T @ targets)
        free = FREE * (1 + spectrum.values[-1])
        constant = root * np.sqrt(free / mass)
        reach = asked @ spectrum.lhs
        spectrum = replace(
            spectrum,
            values=np.append(spectrum.values, free),
            rhs=np.vstack([spectrum.rhs, constant.T @ targets]),
            rows=np.hstack([rows @ spectrum.lhs, constant]),
            targets=targets,
        )
        # What is asked is about the mean of the others, where the constant is 0.
        return LeftOut(spectrum, groups, np.hstack([reach, np.zeros_like(root)]))
    kernel, ones = rows @ rows.T, root / np.sqrt(mass)
    # What all targets have in common is known to every fit: no penalty reaches it.
    values, vectors = eigen_gram(kernel + (1 + 2 * np.trace(kernel)) * (ones @ ones.T))
    values[-1] = np.inf
    spectrum = Spectrum.of_kernel((values, vectors), targets, rows.T)
    return LeftOut(spectrum, groups, asked @ spectrum.lhs)


def choose_on_prototypes(
    pairs: Pairs,
    *,
    direction: str = "y->x",
    gammas: Axis = GAMMAS,
    penalties: Axis = KERNEL_PENALTIES,
    criterion: LeaveOutCriterion = "cosine",
    rng: np.random.Generator,
) -> Surface:
    """Choose width and penalty of a kernel ridge from prototypes alone.

    Parameters
    ----------
    pairs : Pairs
        Transformed rows, no centring is done; `groups` are the names.
    direction : {"y->x", "x->y"}
        As `KernelRidgeAligner`.
    gammas, penalties : Axis
        Absolute values; the grid widens itself.
    criterion : {"cosine", "rank"}
        As for `leave_one_group_out`. "rank" is for at most `EXACT_ROWS` prototypes. Of these, a
        score is off by about 1e-7: what the texts decide at each point of the grid is kept, in
        float32, for the next rows with the same texts.
    rng : numpy.random.Generator
        Draws the landmarks, where there are more than `EXACT_ROWS` prototypes.

    Returns
    -------
    Surface
        Over penalty × gamma.

    Raises
    ------
    SettingError
        If the criterion is unknown, or "rank" with too many prototypes.
    SelectionError
        If there is one group only.
    """
    used, a, b, asked = _sides(pairs, direction)
    if used.n > DOUBLE_ROWS:
        penalties = penalties.at_least(SINGLE_LOWEST)
    if used.n <= EXACT_ROWS:
        about = used.row_groups, used.row_weight, gammas, penalties, criterion
        surface = remember(
            lambda: _surface(
                _exact(a, b, asked, used, criterion), gammas, penalties, criterion,
                n_queries=used.n, n_folds=len(parts_of(used.row_groups)),
            ),
            "kernel left out", a, b, asked, *about,
        )  # fmt: skip
        _say_copies(surface)
        return surface
    if criterion == "rank":
        raise SettingError(
            f"Criterion 'rank' takes at most {EXACT_ROWS:,} prototypes; there are {used.n:,}. "
            "Use 'cosine'."
        )
    # Coming back to a width costs more here than all penalties do: none is left for later.
    low, high = (penalties.beyond(side, 64) for side in ("low", "high"))
    penalties = replace(penalties, values=low + penalties.values + high)
    landmarks = a[rng.permutation(used.n)[:CHOICE_LANDMARKS]]
    spread = spread_of(used.n)
    return _surface(
        _by_landmarks(a, b, asked, used, landmarks, spread), gammas, penalties, criterion,
        n_queries=len(spread), n_folds=len(parts_of(used.row_groups)),
    )  # fmt: skip


def _say_copies(surface: Surface) -> None:
    """Warn of a choice that rows which stand twice explain better than anything learned."""
    ends = {"gamma high", "penalty high"}.intersection(surface.edges)
    if ends and surface.score > COPIED:
        warnings.warn(
            f"Left-out rows are predicted with {surface.score:.3f} of 1 where the grid ends "
            f"({', '.join(sorted(ends))}): as if each stood twice. Pass `groups=` that put copies "
            "of a row, or prompts of a class, into one group.",
            stacklevel=2,
        )


Score = Callable[[float], float]
"""Penalty → what a width scores there."""


def _surface(
    at_width: Callable[[float], Score], gammas: Axis, penalties: Axis, criterion: str, **about: int
) -> Surface:
    def evaluate(at: Mapping[str, Matrix]) -> Matrix:
        curves = [
            list(map(at_width(gamma), at["penalty"].tolist())) for gamma in at["gamma"].tolist()
        ]
        return np.array(curves).T

    return choose(
        evaluate, {"penalty": penalties, "gamma": gammas}, criterion=CRITERIA[criterion],
        of_ranks=criterion == "rank", tied=TIED, **about,
    )  # fmt: skip


def _exact(
    a: Matrix, b: Matrix, asked: Matrix | None, used: Pairs, criterion: str
) -> Callable[[float], Score]:
    """Return what scores a width by the kernel of all rows."""
    groups, weight = used.row_groups, used.row_weight
    parts, root = parts_of(groups), np.sqrt(weight)[:, None]
    together, lengths = several(parts), np.linalg.norm(b, axis=1)
    outside = weight.sum() - mass_of_parts(parts, weight)
    is_mate = groups[:, None] == groups
    # Rows of more columns than rows: combinations of those of the triangular factor have the same
    # products, at a third of the cost.
    triangular = len(b) < b.shape[1]
    whole: Any = np.linalg.qr(b.T, mode="r") if triangular else b.T
    targets = whole.T.astype(np.float32)
    texts = digest_of(a, asked, groups, weight)

    @lru_cache(maxsize=1)
    def at_width(gamma: float) -> tuple[Spectrum, Matrix | None]:
        between = None if asked is None else gaussian(asked, a, gamma) * root.T
        return Spectrum.of_kernel(decompose_kernel(a, weight, gamma), root), between

    def operator(gamma: float, alpha: float) -> npt.NDArray[Any]:
        """Return O in single precision: it follows from the texts, as those of controls do."""
        spectrum, between = at_width(gamma)
        reach = None if between is None else between @ spectrum.lhs
        made = spectrum.without(alpha, together, reach) @ (root * spectrum.rows).T
        # Of rows that are left out together X Qᵀ is −1 or 0, and O is 0.
        made[is_mate] = 0.0
        # On targets about the mean of the others: what O adds up to is taken from all of these.
        made -= (made.sum(axis=1) / outside)[:, None] * weight
        made[is_mate] = 0.0
        return made.astype(np.float32)

    def score(gamma: float, alpha: float) -> float:
        # For 1,000 texts 4 MB a point of the grid; that of the demo's head has 45 points.
        kept = remember(lambda: operator(gamma, alpha), "operator", texts, gamma, alpha)
        predicted: Any = _times_lower(kept, targets) if triangular else kept @ targets
        if criterion == "rank":
            gallery, asking = unit_or_zero(predicted), asking_of(used.n)
            return float(
                reciprocal_ranks(targets[asking] @ gallery.T, mates_of(parts)[asking]).mean()
            )
        dots = np.einsum("nq,nq->n", predicted, targets).astype(np.float64)
        return mean_cosine(dots, np.sqrt(np.einsum("nq,nq->n", predicted, predicted)), lengths)

    return lambda gamma: partial(score, gamma)


def _by_landmarks(
    a: Matrix,
    b: Matrix,
    asked: Matrix | None,
    used: Pairs,
    landmarks: Matrix,
    spread: npt.NDArray[np.intp],
) -> Callable[[float], Score]:
    """Return what scores a width by the Nyström features of landmarks, on the rows `spread`."""
    groups, root = used.row_groups, np.sqrt(used.row_weight)[:, None]
    # A class is left out with all classes of its name.
    known = np.flatnonzero(np.isin(groups, groups[spread]))
    at, weight = np.searchsorted(known, spread), used.row_weight
    targets = np.hstack([b, np.ones((len(b), 1))])

    def at_width(gamma: float) -> Score:
        features = NystroemMap.of_landmarks(landmarks, gamma)
        spectrum = Spectrum.of(*features.normal_equations(a, targets, weight))
        ones, rhs = spectrum.rhs[:, -1], spectrum.rhs[:, :-1]
        spectrum = replace(spectrum, rhs=rhs)
        spectrum = spectrum.beside(root[known] * features.apply(a[known]), (root * b)[known])
        reach = None if asked is None else features.apply(asked[known]) @ spectrum.lhs
        left_out = LeftOut(
            spectrum, groups[known], reach, at,
            ones=ones, weight=weight[known], mass=weight.sum(),
        )  # fmt: skip
        return left_out.score

    return at_width


def _times_lower(operator: npt.NDArray[Any], lower: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return operator @ lower, which is triangular."""
    (multiply,) = scipy.linalg.get_blas_funcs(("trmm",), (lower, operator))
    # BLAS has its matrices by columns, where ours are by rows: it sees both transposed.
    return multiply(1.0, lower.T, operator.T, side=0, lower=0).T
