"""Neural collapse: how far labelled features and their head are from a simplex of class means.

References
----------
Papyan, Han and Donoho, Prevalence of neural collapse during the terminal phase of deep learning
training, PNAS 2020. NC2's equiangularity is theirs; NC3 is ‖ W/‖W‖ − M/‖M‖ ‖ (Frobenius).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import MetricError

# Rows looked at at a time.
_ROWS = 8_192

Matrix = NDArray[np.float64]


def neural_collapse(
    rows: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    *,
    weight: NDArray[np.floating[Any]] | None = None,
    bias: NDArray[np.floating[Any]] | None = None,
) -> dict[str, float]:
    """Return NC1 and NC2 of labelled features, and NC3 and NC4 beside the head of their classes.

    All are 0 where collapse is complete, but NC4, which is 1. With class means μ_c, their mean μ,
    and m_c = μ_c − μ:

    - ``NC1``: tr(Σ_W Σ_B⁺) / C. Σ_W is the mean over images of (f − μ_c)(f − μ_c)ᵀ, Σ_B the mean
      over classes of m_c m_cᵀ.
    - ``NC2-norms``: sd over mean of the ‖m_c‖.
    - ``NC2-angles``: sd over pairs of classes of cos(m_c, m_c').
    - ``NC2-simplex``: mean over pairs of |cos(m_c, m_c') + 1/(C − 1)|.
    - ``NC3``: ‖ W/‖W‖_F − M/‖M‖_F ‖_F, W the head's rows, centred.
    - ``NC4``: share of images that the head (W f + b) gives to the class whose mean is nearest.

    Parameters
    ----------
    rows : array of shape (n, d)
    labels : int64 array of shape (n,)
        0 … C − 1, each with at least one image.
    weight, bias : arrays of shape (C, d) and (C,), optional
        Head of the same classes in the same order.

    Raises
    ------
    MetricError
        If there are fewer than 2 classes, or one has no image.
    """
    counts = np.bincount(labels)
    classes = len(counts) if weight is None else len(weight)
    if classes < 2 or len(counts) != classes or not counts.all():
        msg = f"Neural collapse needs images of at least 2 classes, of each one; got {classes}."
        raise MetricError(msg)
    means = np.zeros((classes, rows.shape[1]))
    np.add.at(means, labels, rows)
    means /= counts[:, None]
    centred = means - means.mean(axis=0)
    within = np.zeros((rows.shape[1], rows.shape[1]))
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS] - means[labels[start : start + _ROWS]]
        within += part.T @ part
    between = centred.T @ centred / classes
    out = {"NC1": float(np.sum(within * np.linalg.pinv(between, hermitian=True)))}
    out["NC1"] /= len(rows) * classes
    out |= _angles(centred)
    if weight is not None:
        head = weight.astype(np.float64)
        head = head - head.mean(axis=0)
        apart = head / np.linalg.norm(head) - centred / np.linalg.norm(centred)
        out["NC3"] = float(np.linalg.norm(apart))
        offset = np.zeros(classes) if bias is None else bias
        out["NC4"] = _agreement(rows, means, weight, offset)
    return out


def _angles(centred: Matrix) -> dict[str, float]:
    norms = np.linalg.norm(centred, axis=1)
    if not norms.all():
        msg = "A class mean is the mean of all: it has no direction."
        raise MetricError(msg)
    unit = centred / norms[:, None]
    n = len(unit)
    # Sums over pairs, a block of classes at a time: 21,000 classes have 4.4e8 cosines.
    total = squares = distance = 0.0
    size = max(1, 8_000_000 // n)
    for start in range(0, n, size):
        cosines = unit[start : start + size] @ unit.T
        here = np.arange(len(cosines))
        other = np.ones(cosines.shape, dtype=bool)
        other[here, here + start] = False
        values = cosines[other]
        total += float(values.sum())
        squares += float(values @ values)
        distance += float(np.abs(values + 1.0 / (n - 1)).sum())
    pairs = n * (n - 1)
    variance = max(0.0, squares / pairs - (total / pairs) ** 2)
    return {
        "NC2-norms": float(norms.std() / norms.mean()),
        "NC2-angles": float(np.sqrt(variance)),
        "NC2-simplex": distance / pairs,
    }


def _agreement(
    rows: NDArray[Any], means: Matrix, weight: NDArray[Any], bias: NDArray[Any]
) -> float:
    half = np.einsum("cd,cd->c", means, means) / 2.0
    same = 0
    size = max(1, 4_000_000 // len(means))
    for start in range(0, len(rows), size):
        block = rows[start : start + size].astype(np.float64)
        nearest = np.argmax(block @ means.T - half, axis=1)
        said = np.argmax(block @ weight.T + bias, axis=1)
        same += int(np.count_nonzero(nearest == said))
    return same / len(rows)
