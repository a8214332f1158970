"""Metrics of classes rather than of queries: balanced accuracy, F1, seen and unseen classes.

They are made of the first place alone: what an image was taken for, and what it is. Ties count
against, as in `bench.metrics.ranks`: an image whose own class ties with another for the first
place was taken for the other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: What each is, in one line.
CLASS_METRICS: dict[str, str] = {
    "balanced-accuracy": "Mean over classes that have images of the share found: per-class mean.",
    "macro-F1": "Mean of the F1 of every class that has images or was answered.",
    "weighted-F1": "Mean of the F1 of every class, weighted by its images.",
    "seen": "Balanced accuracy over the classes that the head has.",
    "unseen": "Balanced accuracy over the classes that the head lacks.",
    "harmonic": "Harmonic mean of seen and unseen.",
}


def class_metrics(
    truth: NDArray[Any], answers: NDArray[Any], *, seen: NDArray[np.bool_] | None = None
) -> dict[str, float]:
    """Return `CLASS_METRICS` of n answers.

    Parameters
    ----------
    truth, answers : arrays of shape (n,)
        Class ids, or numbers in their place.
    seen : array of bool, shape (n,), optional
        Whether the true class of each image is one of the head's. With both kinds present,
        ``seen``, ``unseen`` and ``harmonic`` are those of generalised zero-shot classification:
        all classes stand in the gallery of both.
    """
    labels, codes = np.unique(np.concatenate([truth, answers]), return_inverse=True)
    true, given = codes[: len(truth)], codes[len(truth) :]
    hit = true == given
    counts = np.bincount(true, minlength=len(labels))
    answered = np.bincount(given, minlength=len(labels))
    found = np.bincount(true, weights=hit, minlength=len(labels))
    having = counts > 0
    recall = np.divide(found, counts, out=np.zeros(len(labels)), where=having)
    out = {"balanced-accuracy": float(recall[having].mean())}
    # 2 TP / (2 TP + FP + FN); every label was true or given. The same bits as scikit-learn's
    # f1_score, whose checks take 4 ms a call: a fifth of what a cell of a sweep may take.
    f1 = 2.0 * found / (counts + answered)
    out["macro-F1"] = float(f1.mean())
    out["weighted-F1"] = float(np.average(f1, weights=counts))
    if seen is not None and 0 < np.count_nonzero(seen) < len(seen):
        is_seen = np.zeros(len(labels), dtype=bool)
        is_seen[true[seen]] = True
        out["seen"] = float(recall[having & is_seen].mean())
        out["unseen"] = float(recall[having & ~is_seen].mean())
        out["harmonic"] = harmonic_mean(out["seen"], out["unseen"])
    return out


def harmonic_mean(a: float, b: float) -> float:
    """Return 2ab / (a + b), and 0 if both are 0."""
    return 2.0 * a * b / (a + b) if a + b > 0 else 0.0
