"""How sharp a softmax over cosines has to be: the factor before them, 1 / temperature.

Published learners write 100, the factor that CLIP was trained with. Cosines of another alignment
have another spread. Here the factor is the one under which labelled rows are most likely.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from fitters.few_shot.learner import Labels, Rows, Shots
from fitters.moments.transform import normalize_rows

#: CLIP's factor: what published learners take, and what is taken where nothing tells better.
PUBLISHED = 100.0

#: Factors between which it is sought.
BOUNDS = (1.0, 1000.0)

Scale = float | Literal["auto"]


def likely_scale(cosines: npt.NDArray[np.floating], labels: Labels) -> float:
    """Return the s in `BOUNDS` that maximises the mean log of softmax(s · cosines) at the labels.

    The likelihood is concave in s, so that there is one maximum. Guo et al., On Calibration of
    Modern Neural Networks, ICML 2017 (temperature scaling).

    Parameters
    ----------
    cosines : array of shape (m, c)
    labels : int64 array of shape (m,)
    """
    cosines = cosines.astype(np.float64)
    own = float(cosines[np.arange(len(labels)), labels].mean())

    def loss(log_scale: float) -> float:
        scale = float(np.exp(log_scale))
        return float(logsumexp(scale * cosines, axis=1).mean()) - scale * own

    low, high = np.log(BOUNDS)
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-3})
    return float(np.exp(found.x))


def starting_weights(shots: Shots) -> Rows:
    """Return the prototypes, or class means at unit length where there are none: shape (c, r)."""
    if shots.prototypes is not None:
        return shots.prototypes
    return normalize_rows(shots.class_sums, what="class means").astype(np.float32)


def scale_of(shots: Shots, weights: Rows, given: Scale = "auto") -> float:
    """Return the factor of the cosines with `weights`, `starting_weights` of the shots.

    "auto" is `likely_scale` on rows that the weights were not made of: of prototypes all shots and
    validation rows, of class means the validation rows. `PUBLISHED` where there is no such row.
    """
    if given != "auto":
        return float(given)
    rows, labels = [], []
    if shots.prototypes is not None and len(shots.labels):
        rows.append(shots.x)
        labels.append(shots.labels)
    if shots.has_validation:
        assert shots.validation_x is not None
        assert shots.validation_labels is not None
        rows.append(shots.validation_x)
        labels.append(shots.validation_labels)
    if not rows:
        return PUBLISHED
    return likely_scale(np.concatenate(rows) @ weights.T, np.concatenate(labels))
