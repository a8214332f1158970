"""Probes of labelled rows: Gaussians, ridge, ridge on random features, logistic regression.

The closed forms look at counts, sums and second moments of labelled rows alone: Gaussian
discriminant analysis beside the prototypes, and ridge regression onto class labels, of rows
(RidgeProbe) or of a random feature map (RanPAC). Multinomial logistic regression has an L2 penalty,
its strength by CoOp's schedule.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import numpy.typing as npt

from fitters.few_shot.learner import (
    Labels,
    LinearClassifier,
    Rows,
    Scale,
    ShotLearner,
    Shots,
    evenly,
    log_losses,
    own_scale,
    reciprocal_rank,
    sum_by_class,
)
from fitters.pairs import Matrix, place_in_class
from fitters.solvers import Spectrum, solve_ridge

# Rows that are brought to float64 at once.
_BLOCK = 2048


@dataclass(frozen=True, eq=False)
class ClassMoments:
    """Moments of rows by class; those of two sets of rows add, and a part can be taken off.

    Merging shards, tasks or shots is addition, leaving a fold out is subtraction: both are exact
    but for rounding, and neither reads a row again.

    Attributes
    ----------
    counts : float64 array of shape (c,)
        Rows of every class.
    sums : float64 array of shape (c, r)
        Σ x over the rows of a class.
    products : float64 array of shape (r, r)
        Σ x xᵀ over all rows, not centred.
    """

    counts: Matrix
    sums: Matrix
    products: Matrix

    @classmethod
    def of(cls, rows: npt.NDArray[np.floating], labels: Labels, n_classes: int) -> ClassMoments:
        """Return the moments of rows (n, r) with labels 0 … c − 1 (n,)."""
        counts = np.bincount(labels, minlength=n_classes).astype(np.float64)
        sums = np.zeros((n_classes, rows.shape[1]))
        products = np.zeros((rows.shape[1], rows.shape[1]))
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK].astype(np.float64, copy=False)
            sums += sum_by_class(block, labels[start : start + _BLOCK], n_classes)
            products += block.T @ block
        return cls(counts, sums, products)

    def __add__(self, other: ClassMoments) -> ClassMoments:
        """Return the moments of both sets of rows together."""
        return ClassMoments(
            self.counts + other.counts, self.sums + other.sums, self.products + other.products
        )

    def __sub__(self, other: ClassMoments) -> ClassMoments:
        """Return the moments of the rows that `other`, a part of them, does not hold."""
        return ClassMoments(
            self.counts - other.counts, self.sums - other.sums, self.products - other.products
        )

    def __mul__(self, mass: float) -> ClassMoments:
        """Return the moments of rows that count for `mass` each."""
        return ClassMoments(mass * self.counts, mass * self.sums, mass * self.products)

    @property
    def means(self) -> Matrix:
        """Mean of every class, shape (c, r); 0 for a class without rows."""
        return self.sums / np.maximum(self.counts, 1.0)[:, None]

    @property
    def scatter(self) -> Matrix:
        """Σ (x − mean of the own class)(…)ᵀ, shape (r, r): ``products − Σ_c s_c s_cᵀ / n_c``."""
        return self.products - self.sums.T @ self.means

    def ridge(self, penalty: float, towards: Matrix | float = 0.0) -> Matrix:
        """Return the weights (c, r) of a ridge onto one column a class, without intercept.

        Minimises Σ ‖W x − y‖² + penalty ‖W − towards‖², y 1 for the own class and 0 for others:
        ``W = (sums + penalty · towards)(products + penalty I)⁻¹``.

        Parameters
        ----------
        penalty : float
            Absolute, above 0.
        towards : array of shape (c, r) or float
            What the weights are without rows.
        """
        return solve_ridge(self.products, (self.sums + penalty * towards).T, penalty).T


def fold_of(labels: Labels, n_folds: int) -> Labels:
    """Return the fold of every row, 0 … n_folds − 1: those of one class are in different ones.

    Classes begin with different folds, so that a fold takes a row from some of the classes only and
    leaves the others whole: of two rows a class most still scatter. The numbers of the classes have
    no part in it, only the order in which they come.
    """
    _, first, codes = np.unique(labels, return_index=True, return_inverse=True)
    return (place_in_class(labels) + np.argsort(np.argsort(first))[codes]) % n_folds


#: Candidate weights of the Gaussian log density beside the prototypes; 0 leaves zero-shot.
WEIGHTS = (0.0, *(float(value) for value in np.geomspace(1e-3, 10, 9)))

# A scatter smaller than this share of the rows' squared length is rounding.
_NOTHING = 1e-12


def gaussian_weights(moments: ClassMoments) -> tuple[Matrix, Matrix]:
    """Return W (c, r) and b (c,): log densities x · w_c + b_c, less what all classes share.

    The classes are Gaussians of one covariance::

        P = (Σ̂ + tr(Σ̂) / (N − 1) · I)⁻¹,   Σ̂ = scatter / (N − 1)
        w_c = P μ_c,   b_c = −μ_cᵀ P μ_c / 2

    with the class means μ_c, N rows, and equal priors. Where rows do not scatter around their means
    (one row a class) P = I: the nearest mean. A class without rows gets the mean of the others:
    no evidence for or against it.

    Kubokawa and Srivastava, J. Multivariate Anal. 2008, for the shrinkage. Wang et al. (ICLR 2024)
    multiply P by r / (N − 1), which makes the weight of the density depend on the number of rows.
    """
    n = max(float(moments.counts.sum()) - 1.0, 1.0)
    scatter = moments.scatter / n
    trace = float(np.trace(scatter))
    having = moments.counts > 0
    means = moments.means[having]
    if trace > _NOTHING * float(np.trace(moments.products)):
        weight = solve_ridge(scatter, means.T, trace / n).T
    else:
        weight = means
    bias = -0.5 * np.sum(weight * means, axis=1)
    weights = np.tile(weight.mean(axis=0), (len(having), 1))
    biases = np.full(len(having), bias.mean())
    weights[having], biases[having] = weight, bias
    return weights, biases


@dataclass(kw_only=True)
class GDA(ShotLearner):
    """Zero-shot scores plus the log density of a Gaussian around every class's mean.

        scores = scale · x Tᵀ + α (x Wᵀ + b)

    with prototypes T and W, b of `gaussian_weights`, whose rows are the shots' views at unit length
    (one row a shot where there are none). Wang et al., A Hard-to-Beat Baseline for Training-Free
    CLIP-based Adaptation, ICLR 2024; their α is r / (N − 1) of this one, N rows of r columns.

    α is the one with the least log-loss on shots that are left out: shots of a class lie in
    different folds, each with all its views, and the moments of a fold are subtracted from those
    of all. With no class of two shots α is 0, which is zero-shot. Without prototypes it is the
    Gaussians alone, and nothing is chosen. With no shot it is the prototypes. No validation row is
    looked at.

    Parameters
    ----------
    scale : float or "auto"
        "auto" is `fitters.few_shot.learner.own_scale`.
    weights : sequence of float
        Tried for α.
    folds : int
    """

    scale: Scale = "auto"
    weights: Sequence[float] = WEIGHTS
    folds: int = 5

    def _learn(self, shots: Shots) -> LinearClassifier:
        """Add up the moments, leave every fold out for α, and solve with all."""
        rows, labels = shots.unit_views
        moments = ClassMoments.of(rows, labels, shots.n_classes)
        weight, bias = gaussian_weights(moments)
        if shots.prototypes is None:
            return LinearClassifier(weight.astype(np.float32), bias.astype(np.float32))
        scale = own_scale(shots, self.scale)
        alpha, left_out = self._choose(shots, moments, scale)
        facts = {"alpha": alpha, "scale": scale, "folds": float(left_out)}
        mixed = scale * shots.prototypes + alpha * weight
        bias = alpha * bias
        return LinearClassifier(mixed.astype(np.float32), bias.astype(np.float32), facts)

    def _choose(self, shots: Shots, moments: ClassMoments, scale: float) -> tuple[float, int]:
        """Return α and the number of folds that it was chosen by; 0 and 0 where there are none."""
        assert shots.prototypes is not None
        rows, labels = shots.unit_views
        fold = fold_of(shots.labels, self.folds)
        of_view = np.repeat(fold, len(rows) // len(fold))
        losses: list[list[Matrix]] = []
        for number in range(self.folds):
            part = of_view == number
            rest = moments - ClassMoments.of(rows[part], labels[part], shots.n_classes)
            held = np.flatnonzero((fold == number) & (rest.counts[shots.labels] > 0))
            if not len(held) or rest.counts.max() < 2:
                # Nothing to score, or nothing that scatters: another density than that of all.
                continue
            weight, bias = gaussian_weights(rest)
            held = held[evenly(len(held), shots.n_classes * self.folds)]
            x, own = shots.x[held].astype(np.float64), shots.labels[held]
            first, density = scale * (x @ shots.prototypes.T), x @ weight.T + bias
            losses.append([log_losses(first + alpha * density, own) for alpha in self.weights])
        if not losses:
            return 0.0, 0
        means = [np.concatenate(of_alpha).mean() for of_alpha in zip(*losses, strict=True)]
        return self.weights[int(np.argmin(np.round(means, 9)))], len(losses)


#: Candidate penalties, relative to the mean eigenvalue of the rows' scatter.
PENALTIES = tuple(float(value) for value in np.geomspace(1e-4, 1e4, 25))

#: Candidate masses of one prototype relative to one shot.
MASSES = (0.25, 1.0, 4.0, 16.0)

# The least α for every row, of length about 1: a penalty of 0 leaves out what is rounding.
_LEAST = 1e-12


@dataclass
class RidgeProbe(ShotLearner):
    """Least squares onto one column a class, 1 for its own rows and 0 for others, with a penalty.

    With rows centred by their mean, scatter G and class sums S (c × r) of the centred rows, which
    is Yᵀ X without the n × c matrix Y::

        W(α) = S (G + α I)⁻¹,   b = share of each class − W · mean

    One decomposition, of r columns or of the span of few rows, serves every penalty
    α = penalty · tr(G) / r. Prototypes are rows of their class with a mass relative to one shot.
    Penalty and mass are those with the best mean reciprocal rank on the validation rows, of equal
    ones the penalty nearest 1, for a huge one leaves nothing but the shares of the classes; without
    validation rows penalty 1 and mass 1. With no shot it is the prototypes.

    The same numbers as ``sklearn.linear_model.Ridge(alpha=α).fit(X, one_hot, sample_weight)``.

    Parameters
    ----------
    penalties, masses : sequence of float
    """

    penalties: Sequence[float] = PENALTIES
    masses: Sequence[float] = MASSES

    def _learn(self, shots: Shots) -> LinearClassifier:
        """Solve for every penalty and mass, and keep the best."""
        free = shots.has_validation
        penalties = self.penalties if free else (1.0,)
        mixed = shots.prototypes is not None
        masses = (self.masses if free else (1.0,)) if mixed else (1.0,)
        rows, labels, _ = shots.with_prototypes(1.0)
        basis, within = _in_their_span(rows)
        given, prior = (
            ClassMoments.of(within[part], labels[part], shots.n_classes)
            for part in (slice(len(shots.x)), slice(len(shots.x), None))
        )
        tried = []
        for mass in masses:
            path = _Path(given + prior * mass, basis)
            for penalty, value in zip(penalties, path.values(shots, penalties), strict=True):
                # Rounded, so that 0.1 and 10 are equally far and the larger is taken.
                far = round(abs(float(np.log10(penalty))), 6) if penalty > 0 else np.inf
                tried.append((value, -far, penalty, -mass, path))
        *_, penalty, mass, path = max(tried, key=lambda one: one[:4])
        return path.solve(penalty, {"penalty": penalty} | ({"mix": -mass} if mixed else {}))


@dataclass(frozen=True, eq=False)
class RandomClassifier:
    """Scores relu(x W) Vᵀ.

    Attributes
    ----------
    projection : array of shape (r, m)
        W.
    linear : LinearClassifier
        V, of m columns.
    """

    projection: Rows
    linear: LinearClassifier

    @property
    def facts(self) -> Mapping[str, float]:
        """What was chosen, by name."""
        return self.linear.facts

    def scores(self, x: Rows) -> npt.NDArray[np.float32]:
        """Return a score for every class, shape (m, c)."""
        return self.linear.scores(random_relu(x, self.projection))


def random_relu(x: Rows, projection: Rows) -> Rows:
    """Return max(0, x W): of unit rows, whatever their length, entries of one order."""
    features: Rows = x @ projection
    return np.maximum(features, 0.0, out=features)


@dataclass(kw_only=True)
class RanPAC(ShotLearner):
    """Ridge onto one column a class after a random projection and a relu.

        H = relu(X W),   V = Hᵀ-sums of the classes · (Hᵀ H + α I)⁻¹,   α = penalty · tr(Hᵀ H) / m

    with W (r × m) drawn from a standard normal by `seed`, rows at unit length; not centred, no
    intercept. McDonnell et al., RanPAC, NeurIPS 2023 (m 10,000 there). It follows from the
    `ClassMoments` of H, so that classes and tasks may come in any order. Prototypes are further
    rows of their class.

    The penalty is the one with the least squared error on shots that are left out, one at a time,
    in closed form; 1 without a class of two shots. No validation row is looked at. With no shot it
    is the prototypes.

    Parameters
    ----------
    width : int
        m.
    penalties : sequence of float
    seed : int
    """

    width: int = 2000
    penalties: Sequence[float] = PENALTIES[::2]
    seed: int = 0

    def projection(self, r: int) -> Rows:
        """Return W, shape (r, m)."""
        return np.random.default_rng(self.seed).standard_normal((r, self.width), dtype=np.float32)

    def _learn(self, shots: Shots) -> RandomClassifier:
        """Decompose the features once for every penalty."""
        projection = self.projection(shots.x.shape[1])
        rows, labels, _ = shots.with_prototypes(1.0)
        features = random_relu(rows.astype(np.float32), projection)
        basis, within = _in_their_span(features)
        path = _Path(ClassMoments.of(within, labels, shots.n_classes), basis, centre=False)
        held = np.flatnonzero(shots.counts[shots.labels] > 1)
        # A row costs as its features do, too.
        held = held[evenly(len(held), max(shots.n_classes, self.width // 4))]
        penalty = 1.0
        if len(held):
            errors = path.left_out(features[held], labels[held], self.penalties)
            penalty = self.penalties[int(np.argmin(np.round(errors, 9)))]
        facts = {"penalty": penalty, "folds": float(len(held))}
        return RandomClassifier(projection, path.solve(penalty, facts))


def _in_their_span(
    rows: npt.NDArray[np.floating],
) -> tuple[Matrix | None, npt.NDArray[np.floating]]:
    """Return orthonormal columns that span few rows, and the rows by these; None: as they are."""
    if 2 * len(rows) >= rows.shape[1]:
        return None, rows
    basis, within = np.linalg.qr(rows.T.astype(np.float64))
    return basis, within.T


class _Path:
    """Ridge from moments of rows, about their mean or as they are, for any penalty.

    Rows may be given by an orthonormal basis.
    """

    def __init__(
        self, moments: ClassMoments, basis: Matrix | None = None, *, centre: bool = True
    ) -> None:
        mass = moments.counts.sum() if centre else np.inf
        mean = moments.sums.sum(axis=0) / mass
        self._shares = moments.counts / mass
        scatter = moments.products - np.outer(mean, moments.sums.sum(axis=0))
        sums = moments.sums - np.outer(moments.counts, mean)
        self._spectrum = Spectrum.of(scatter, sums.T, basis)
        self._mean = mean if basis is None else basis @ mean
        self._unit = float(np.trace(scatter)) / len(self._spectrum.lhs)
        self._least = _LEAST * float(moments.counts.sum())

    def _alpha(self, penalty: float) -> float:
        return max(penalty * self._unit, self._least)

    def values(self, shots: Shots, penalties: Sequence[float]) -> list[float]:
        """Return the validation value of every penalty; 0 without validation rows."""
        if not shots.has_validation:
            return [0.0] * len(penalties)
        x, labels = shots.validation
        # A product for every penalty is most of the time, and ranks need no more than float32.
        turned = (x - self._mean) @ self._spectrum.lhs
        rhs, shares = (a.astype(np.float32) for a in (self._spectrum.rhs, self._shares))
        found = []
        for penalty in penalties:
            inverse = self._spectrum.inverse(self._alpha(penalty))
            scores = (turned * inverse).astype(np.float32) @ rhs
            scores += shares
            found.append(reciprocal_rank(scores, labels))
        return found

    def left_out(
        self, rows: npt.NDArray[np.floating], labels: Labels, penalties: Sequence[float]
    ) -> list[float]:
        """Return the squared error of these rows, each predicted without it, for every penalty.

        Rows of weight 1 among those decomposed, not centred.
        """
        targets = np.eye(len(self._shares))[labels]
        fits = self._spectrum.beside(rows.astype(np.float64), targets)
        missing = (targets - fits.left_out(self._alpha(penalty)) for penalty in penalties)
        return [float(np.mean(np.sum(rest**2, axis=1))) for rest in missing]

    def solve(self, penalty: float, facts: dict[str, float]) -> LinearClassifier:
        weight = self._spectrum.fit(self._alpha(penalty)).T
        bias = self._shares - weight @ self._mean
        return LinearClassifier(weight.astype(np.float32), bias.astype(np.float32), facts)


#: First candidates of C, the inverse penalty: those of CoOp's linear probe.
STRENGTHS = (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6)

#: Halvings of the range around the best of them.
STEPS = 8

#: Tolerance of the gradient. scikit-learn's own, 1e-4, leaves intercepts wrong where C is small.
TOLERANCE = 1e-6

Value = Callable[[float], float]


@dataclass(kw_only=True)
class LogisticProbe(ShotLearner):
    """scikit-learn's `LogisticRegression` on the shots, prototypes as rows more.

        min over W, b of ½‖W‖² + C Σ mᵢ · −log softmax(W xᵢ + b)[yᵢ]

    (of two classes ½‖w₂ − w₁‖² instead of ½‖W‖², as scikit-learn has it). The masses mᵢ make all
    classes equally heavy: for equally many shots of every class they are 1.
    A prototype is a row of its class with a mass relative to one shot. (The problem is convex, so
    that weights to start from would change nothing but the time.)

    C is sought as in CoOp's linear probe (Zhou et al., IJCV 2022): seven values from 1e6 to 1e-6
    first, then `steps` halvings in log₁₀ C around the best. The original compares the two ends of
    its range and drops the half at the worse one, though the peak may lie there; here each step
    looks halfway to both ends of a range about the best, and the best of all is kept. C is sought
    with mass 1, then the mass for that C. Both by the mean reciprocal rank on the validation rows,
    of equal ones the stronger penalty and the smaller mass; without validation rows C = 1 and mass
    1. With no shot it is the prototypes.

    Parameters
    ----------
    masses : sequence of float
    steps : int
    max_iter : int
        Of L-BFGS. A small penalty may end it there; that is no error.
    """

    masses: Sequence[float] = MASSES
    steps: int = STEPS
    max_iter: int = 1000

    def _learn(self, shots: Shots) -> LinearClassifier:
        """Seek C and the mass, and keep the best."""
        rows, *_ = shots.with_prototypes(1.0)
        basis, within = _in_their_span(rows)
        solve = cache(partial(_logistic, shots, within, basis, self.max_iter))

        def value(strength: float, mass: float = 1.0) -> float:
            return shots.value(solve(strength, mass).scores)

        if not shots.has_validation:
            return solve(1.0, 1.0)
        strength = search(value, self.steps)
        masses = (1.0,) if shots.prototypes is None else self.masses
        mass = max(masses, key=lambda m: (value(strength, m), -m))
        return solve(strength, mass)


def search(value: Value, steps: int = STEPS) -> float:
    """Return the best C found: the grid, then halvings around its best; smaller C wins ties."""
    known = {float(np.log10(c)): value(c) for c in STRENGTHS}

    def best() -> float:
        return max(known, key=lambda place: (known[place], -place))

    width = 1.0
    for _ in range(steps):
        width /= 2
        middle = best()
        for place in (middle - width, middle + width):
            if place not in known:
                known[place] = value(10.0**place)
    return float(10.0 ** best())


def _logistic(
    shots: Shots,
    rows: npt.NDArray[np.floating],
    basis: Matrix | None,
    max_iter: int,
    strength: float,
    mass: float,
) -> LinearClassifier:
    """Return the regression on rows in a basis of their span, or in none."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    _, labels, masses = shots.with_prototypes(mass)
    # Weights whose sum is the same in every class, and the same as before in all.
    of_class = np.bincount(labels, weights=masses, minlength=shots.n_classes)
    weights = masses * (masses.sum() / shots.n_classes / of_class[labels])
    model = LogisticRegression(C=strength, tol=TOLERANCE, max_iter=max_iter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        # One or two shots a class look like the values of a regression to it.
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        model.fit(rows, labels, sample_weight=weights)
    weight, bias = model.coef_, model.intercept_
    if shots.n_classes == 2:
        # Of two classes scikit-learn gives the difference.
        weight, bias = np.concatenate([-weight, weight]) / 2, np.append(-bias, bias) / 2
    if basis is not None:
        weight = weight @ basis.T
    facts = {"penalty": 1.0 / strength}
    if shots.prototypes is not None:
        facts["mix"] = mass
    return LinearClassifier(weight.astype(np.float32), bias.astype(np.float32), facts)
