"""One summary of an effect that was measured on several sets: sets as a sample of sets.

An effect differs between sets by more than its standard errors say. The differences are a variance
of their own, and an interval for *other* sets has to hold it. docs/statistics.md says how often
this one is right with four to ten sets (``make validate-statistics``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import chdtrc, stdtr, stdtrit

from bench.errors import MetricError
from featstore.matrices import Rows, vector

#: Below so many sets their own variance is too uncertain to predict the next one.
ENOUGH_SETS = 6


@dataclass(frozen=True)
class Pooled:
    """The mean effect over sets, as a sample of sets.

    Attributes
    ----------
    mean, error : float
        Weighted by 1 / (sampling variance + `between`), and its standard error after Hartung and
        Knapp, never below the one of the weights.
    between : float
        τ², the variance of the true effects between sets, after Paule and Mandel.
    q, q_p : float
        Cochran's Q, and its p where all sets have the same effect.
    n : int
        Number of sets.
    """

    mean: float
    error: float
    between: float
    q: float
    q_p: float
    n: int

    @property
    def inconsistency(self) -> float:
        """I², the share of the variance of the effects that is not sampling (Higgins, 2003)."""
        return max(0.0, 1.0 - (self.n - 1) / self.q) if self.q > 0 else 0.0

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return the t interval of the mean effect over all such sets, n - 1 degrees."""
        half = float(stdtrit(self.n - 1, 0.5 + confidence / 2.0)) * self.error
        return self.mean - half, self.mean + half

    def p_value(self) -> float:
        """Return the two-sided p of a mean effect of 0."""
        return float(2.0 * stdtr(self.n - 1, -abs(self.mean) / self.error)) if self.error else 1.0

    def prediction(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Return where the true effect on one more set lies; None below `ENOUGH_SETS`.

        t with n - 2 degrees (Higgins, Thompson and Spiegelhalter, 2009).
        """
        if self.n < ENOUGH_SETS:
            return None
        half = float(stdtrit(self.n - 2, 0.5 + confidence / 2.0))
        half *= math.sqrt(self.between + self.error**2)
        return self.mean - half, self.mean + half


def random_effects(effects: Rows, variances: Rows) -> Pooled:
    """Return the mean of effects over sets, with the variance between sets.

    Parameters
    ----------
    effects, variances : array_like of shape (n,)
        Of every set, its effect and the sampling variance of that, above 0; n at least 2.

    Raises
    ------
    MetricError
        If there are fewer than two, or a variance is not above 0.

    References
    ----------
    Paule and Mandel, Consensus Values and Weighting Factors, 1982: τ² is where Σ w (y - ȳ)² is
    n - 1. Hartung and Knapp, A Refined Method for the Meta-analysis of Controlled Clinical Trials,
    2001; the bound below, Knapp and Hartung, 2003.

    Examples
    --------
    >>> found = random_effects([0.02, 0.05, 0.01, 0.08], [1e-4, 2e-4, 1e-4, 3e-4])
    >>> round(found.mean, 4), round(found.between, 5), round(found.p_value(), 3)
    (0.0339, 0.0007, 0.108)
    """
    y, v = vector(effects, "effects"), vector(variances, "variances")
    n = len(y)
    if n != len(v) or n < 2 or not (v > 0).all():
        raise MetricError(
            f"A summary over sets needs two or more effects, each with a variance above 0: got {n} "
            f"effects and {len(v)} variances, the least {min(v, default=math.nan):g}."
        )

    def weighted(between: float) -> tuple[float, float, float]:
        w = 1.0 / (v + between)
        mean = float(w @ y / w.sum())
        return mean, float(w @ (y - mean) ** 2), float(w.sum())

    q = weighted(0.0)[1]
    # At Σ (y - ȳ)² the weighted sum is at most 1.
    most = float(np.sum((y - y.mean()) ** 2))
    between = 0.0 if q <= n - 1 else brentq(lambda b: weighted(b)[1] - (n - 1), 0.0, most)
    mean, spread, weight = weighted(between)
    error = math.sqrt(max(1.0, spread / (n - 1)) / weight)
    return Pooled(mean, error, float(between), q, float(chdtrc(n - 1, q)), n)
