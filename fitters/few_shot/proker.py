"""ProKeR: kernel ridge towards the prototypes, and what ReHARK adds to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product

import numpy as np
import numpy.typing as npt

from fitters.few_shot.learner import (
    Classifier,
    Labels,
    Rows,
    ShotLearner,
    Shots,
    evenly,
    likely_scale,
    log_losses,
    sum_by_class,
    without_bias,
)
from fitters.few_shot.probes import ClassMoments
from fitters.pairs import Matrix, place_in_class
from fitters.solvers import Spectrum, eigen_gram, solve_ridge
from fitters.sources import normalize_rows

#: Candidate rates of the kernel, and penalties; a kernel has 1 on its diagonal.
RATES = ((0.5,), (1.0,), (2.0,), (3.0,), (5.0,), (10.0,))
PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)

#: The published values for one shot, taken where no class has two.
RATE, PENALTY = 3.0, 0.05

#: Rows of a kernel that settings are chosen on, about at most: whole classes.
_CHOSEN_ON = 512

#: Parts that the shots of a class are in, at most, as they are left out. One shot of a class at a
#: time would set a class of one shot less against whole ones, which at two shots misleads.
_FOLDS = 8

# A sum of unit rows shorter than this has cancelled out.
_NOTHING = 1e-9

# Values of a kernel that are held at once in scoring.
_BLOCK = 4_000_000


@dataclass(frozen=True)
class Setting:
    """What a fit is made with.

    Attributes
    ----------
    rates : tuple of float
        k(x, z) is the mean over β of exp(−β (1 − x · z)) = exp(−β/2 ‖x − z‖²); of none x · z.
    penalty : float
        λ, above 0.
    share : float
        Of the class means in the prior, in [0, 1).
    bridge : float
        Mass of the prototype in a second row for every shot; 0: no second rows.
    """

    rates: tuple[float, ...] = (RATE,)
    penalty: float = PENALTY
    share: float = 0.0
    bridge: float = 0.0

    @property
    def rows(self) -> int:
        """Rows of the kernel for every shot."""
        return 2 if self.bridge else 1

    def kernel(self, cosines: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """Return the kernel of unit rows with these cosines, in their precision."""
        if not self.rates:
            return cosines
        gap = cosines - cosines.dtype.type(1.0)
        near: npt.NDArray[np.floating] = self.rates[0] * gap
        np.exp(near, out=near)
        for rate in self.rates[1:]:
            more = rate * gap
            near += np.exp(more, out=more)
        near *= 1.0 / len(self.rates)
        return near


@dataclass(frozen=True, eq=False)
class KernelClassifier:
    """Scores x · w_c + Σ_i k(x, z_i) a_ic.

    Attributes
    ----------
    prior : array of shape (c, r)
        W, 0 without prototypes.
    support : array of shape (n, r)
        z, at unit length.
    coefficients : array of shape (n, c)
    setting : Setting
    facts : dict
    """

    prior: Rows
    support: Rows
    coefficients: Rows
    setting: Setting
    facts: Mapping[str, float] = field(default_factory=dict)

    def scores(self, x: Rows) -> npt.NDArray[np.float32]:
        """Return a score for every class, shape (m, c)."""
        scores: npt.NDArray[np.float32] = x @ self.prior.T
        size = max(1, _BLOCK // len(self.support))
        for start in range(0, len(x), size):
            block = slice(start, start + size)
            scores[block] += self.setting.kernel(x[block] @ self.support.T) @ self.coefficients
        return scores


@dataclass(frozen=True, eq=False)
class _Problem:
    """Shots with their prior: what is left to learn is Y − scale · x Pᵀ.

    Attributes
    ----------
    x : array of shape (n, r)
    labels : array of shape (n,)
    texts : array of shape (c, r) or None
        Prototypes.
    n_classes : int
    share : float
        Of the class means in the prior P.
    """

    x: Matrix
    labels: Labels
    texts: Matrix | None
    n_classes: int
    share: float

    def prior(self, without: Labels | None = None) -> Matrix:
        """Return P (c, r), made without these rows: 0 without prototypes."""
        if self.texts is None:
            return np.zeros((self.n_classes, self.x.shape[1]))
        if self.share == 0.0:
            return self.texts
        sums = self._sums
        if without is not None:
            sums = sums - sum_by_class(self.x[without], self.labels[without], self.n_classes)
        length = np.linalg.norm(sums, axis=1, keepdims=True)
        means = np.divide(sums, length, out=self.texts.copy(), where=length > _NOTHING)
        return normalize_rows((1.0 - self.share) * self.texts + self.share * means, what="priors")

    @cached_property
    def _sums(self) -> Matrix:
        return sum_by_class(self.x, self.labels, self.n_classes)

    @cached_property
    def folds(self) -> list[Labels]:
        """Rows that are left out together: one of every class that has others, so many times."""
        place = place_in_class(self.labels) % _FOLDS
        several = np.bincount(self.labels)[self.labels] > 1
        folds = (np.flatnonzero(several & (place == number)) for number in range(_FOLDS))
        return [fold for fold in folds if len(fold)]

    @cached_property
    def scale(self) -> float:
        """The factor by which the prior's cosines are nearest to 1 and 0 by squares.

        Up to a number for every row, which no ranking sees. A prior that holds class means scores
        the rows that are left out of it.
        """
        if self.texts is None:
            return 0.0
        parts = self.folds if self.share else []
        rest = np.setdiff1d(np.arange(len(self.x)), np.concatenate([[], *parts]).astype(int))
        own = length = 0.0
        for part, prior in [(rest, self.prior()), *((fold, self.prior(fold)) for fold in parts)]:
            # Sums over all cosines with the prior, less the mean of each row, from moments.
            moments = ClassMoments.of(self.x[part], self.labels[part], self.n_classes)
            prior = prior - prior.mean(axis=0)
            own += float(np.vdot(moments.sums, prior))
            length += float(np.vdot(prior @ moments.products, prior))
        return max(own / length, 0.0) if length > 0 else 0.0

    def support(self, bridge: float, prior: Matrix | None) -> tuple[Matrix, Labels]:
        """Return the rows of the kernel with their labels: the shots, then their bridges to P."""
        if bridge == 0.0 or prior is None:
            return self.x, self.labels
        between = normalize_rows(self.x + bridge * prior[self.labels], what="bridges")
        return np.concatenate([self.x, between]), np.tile(self.labels, 2)


@dataclass(kw_only=True)
class ProKeR(ShotLearner):
    """Kernel ridge on what the prototypes leave: far from every shot the score is zero-shot.

        f(x) = s · x Tᵀ + k(x) (K + λ I)⁻¹ (Y − s · X Tᵀ)

    minimises Σ ‖f(x_i) − y_i‖² + λ ‖f − s · x Tᵀ‖² in the space of k, with prototypes T, shots X
    (means of views) and one-hot labels Y. s is the least-squares factor of the prototypes' cosines
    towards Y, so that both sides of the difference have one scale. Bendou et al., ProKeR, CVPR
    2025.

    Rates of the kernel and λ are those with the least log-loss on shots that are left out, one of
    every class at a time, in closed form (from one decomposition a kernel), each candidate at its
    likeliest factor before the softmax; λ is then raised as long as the loss stays within one
    standard error. At most 512 rows, whole classes, are chosen on. Without a class of two shots the
    published values for one shot are taken. No validation row is looked at. With no shot it is the
    prototypes.

    Above `most` rows the kernel is x · z, which follows from moments: a ridge towards s · T.

    Parameters
    ----------
    rates : sequence of tuple of float
        Candidate kernels; see `Setting`.
    penalties : sequence of float
        Candidate λ, the largest first.
    shares, bridges : sequence of float
        Candidates of ReHARK's share of class means in the prior, and of its second rows unit(x +
        bridge · p_y); see `Setting`.
    most : int
        Rows of an exact kernel.
    """

    rates: Sequence[tuple[float, ...]] = RATES
    penalties: Sequence[float] = PENALTIES
    shares: Sequence[float] = (0.0,)
    bridges: Sequence[float] = (0.0,)
    most: int = 4096

    def _learn(self, shots: Shots) -> Classifier:
        """Choose the setting, and solve with all shots."""
        texts = None if shots.prototypes is None else shots.prototypes.astype(np.float64)
        x, labels = shots.mean_views.astype(np.float64), shots.labels
        exact = len(x) * (1 + (max(self.bridges) > 0)) <= self.most
        setting, left_out = self._choose(shots, x, texts, exact=exact)
        problem = _Problem(x, labels, texts, shots.n_classes, setting.share)
        prior, scale = problem.prior(), problem.scale
        facts = {"penalty": setting.penalty, "folds": float(left_out)}
        facts |= {"beta": setting.rates[0]} if setting.rates else {}
        facts |= {} if texts is None else {"scale": scale}
        if len(self.shares) > 1:
            facts |= {"share": setting.share, "bridge": setting.bridge}
        support, labels = problem.support(setting.bridge, prior)
        if not exact:
            moments = ClassMoments.of(support, labels, shots.n_classes)
            return without_bias(moments.ridge(setting.penalty, scale * prior), facts)
        left = np.eye(shots.n_classes)[labels] - scale * (support @ prior.T)
        coefficients = solve_ridge(setting.kernel(support @ support.T), left, setting.penalty)
        parts = [part.astype(np.float32) for part in (scale * prior, support, coefficients)]
        return KernelClassifier(parts[0], parts[1], parts[2], setting, facts)

    def _choose(
        self, shots: Shots, x: Matrix, texts: Matrix | None, *, exact: bool
    ) -> tuple[Setting, int]:
        """Return the setting, and how many shots were left out for it; 0 for the fixed one."""
        rates = self.rates if exact else [()]
        labels, n_classes = shots.labels, shots.n_classes
        bridges = self.bridges if texts is not None else (0.0,)
        most = _CHOSEN_ON // (1 + (max(bridges) > 0))
        if len(x) > most:
            x, labels, texts = _whole_classes(x, labels, texts, n_classes, most)
            n_classes = int(labels.max()) + 1
        if np.bincount(labels).max() < 2:  # nothing can be left out
            return Setting((RATE,) if exact else ()), 0
        problems = [
            _Problem(x, labels, texts, n_classes, share)
            for share in (self.shares if texts is not None else (0.0,))
        ]
        held = np.concatenate(problems[0].folds)
        seen = evenly(len(held), n_classes)
        found: dict[Setting, Matrix] = {}
        for bridge, kernel in product(bridges, rates):
            # Class means would bring what is left out into the bridges of the others.
            support, _ = problems[0].support(bridge, texts)
            decomposed = eigen_gram(Setting(tuple(kernel)).kernel(support @ support.T))
            for problem in problems:
                made = [
                    Setting(tuple(kernel), value, problem.share, bridge) for value in self.penalties
                ]
                for setting, scores in left_out_scores(problem, made, decomposed).items():
                    found[setting] = _likely_losses(scores[seen], labels[held[seen]])
        means = {setting: round(float(losses.mean()), 9) for setting, losses in found.items()}
        best = min(means, key=lambda setting: means[setting])
        for setting, losses in found.items():
            same = (setting.rates, setting.share, setting.bridge)
            if same == (best.rates, best.share, best.bridge):
                gap = losses - found[best]
                if gap.mean() <= gap.std() / np.sqrt(len(gap)):
                    return setting, len(held)
        raise AssertionError("the best is no worse than itself")


def left_out_scores(
    problem: _Problem,
    settings: Sequence[Setting],
    decomposed: tuple[Matrix, Matrix] | None = None,
) -> dict[Setting, Matrix]:
    """Return the scores (m, c) of the shots by fits without their fold, one fold after another.

    With G = (K + λ I)⁻¹ and residuals R the score of the left-out rows I is
    Y_I − (G_II)⁻¹ (G R)_I, I being shots and their bridges. A prior that holds class means is made
    without them too: that changes R, and the same G serves.

    Parameters
    ----------
    problem : _Problem
    settings : sequence of Setting
        Of one kernel, share and bridge.
    decomposed : pair of arrays, optional
        Eigenvalues and eigenvectors of the kernel of the support, where they are at hand.
    """
    first = settings[0]
    support, labels = problem.support(first.bridge, problem.texts)
    scale = problem.scale
    decomposed = decomposed or eigen_gram(first.kernel(support @ support.T))
    targets = np.eye(problem.n_classes)
    spectrum = Spectrum.of_kernel(decomposed, targets[labels])
    parts = [
        np.concatenate([fold, fold + len(problem.x)])[: len(fold) * first.rows]
        for fold in problem.folds
    ]
    seen: list[Matrix] = []
    for fold in problem.folds:
        if problem.share or not seen:
            prior = spectrum.lhs.T @ (support @ problem.prior(fold).T)
            seen.append(spectrum.rhs - scale * prior)
        else:
            seen.append(seen[0])

    def scores(setting: Setting) -> Matrix:
        # A prediction is R + X (the residuals, seen in the eigenbasis); with the prior that is Y.
        x = spectrum.without(setting.penalty, parts)
        of_folds = zip(problem.folds, seen, strict=True)
        return np.concatenate([targets[problem.labels[i]] + x[i] @ part for i, part in of_folds])

    return {setting: scores(setting) for setting in settings}


def _whole_classes(
    x: Matrix, labels: Labels, texts: Matrix | None, n_classes: int, most: int
) -> tuple[Matrix, Labels, Matrix | None]:
    """Return some classes, evenly, with all their rows: about `most` rows in all."""
    having = np.unique(labels)
    count = max(2, round(most / (len(labels) / len(having))))
    kept = having[np.arange(count) * len(having) // count] if count < len(having) else having
    number = np.full(n_classes, -1)
    number[kept] = np.arange(len(kept))
    rows = number[labels] >= 0
    return x[rows], number[labels[rows]], None if texts is None else texts[kept]


def _likely_losses(scores: Matrix, labels: Labels) -> Matrix:
    """Return the log-loss of every row at the factor under which all are likeliest, shape (m,)."""
    spread = float(scores.std())
    unit = scores / spread if spread > 0 else scores
    return log_losses(likely_scale(unit, labels, bounds=(1e-3, 1e3)) * unit, labels)


#: Candidates of ReHARK's additions: kernels of two rates, shares and bridges.
TWO_RATES = ((0.5, 4.0), (2.0, 16.0))
SHARES, BRIDGES = (0.0, 0.25, 0.5), (0.0, 0.5)


@dataclass(kw_only=True)
class ReHARK(ProKeR):
    """`ProKeR` with two rates in one kernel, class means in the prior, and rows between.

    The prior p is unit((1 − share) t_c + share · unit(Σ shots of c)), and every shot x has a second
    row unit(x + bridge · p_y); with t_y in the choice, in which no shot left out may be. arXiv
    2603.11542 (2026), of which this is a part: the original tunes eleven numbers on a full
    validation split by a thousand trials, and matches moments of the test rows. Here share, bridge,
    kernel and λ are chosen as in `ProKeR`, and no test row is looked at.
    """

    rates: Sequence[tuple[float, ...]] = TWO_RATES
    shares: Sequence[float] = SHARES
    bridges: Sequence[float] = BRIDGES
