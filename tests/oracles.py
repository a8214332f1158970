"""Slow, plain implementations that tests compare with: loops, and refitting from scratch."""

from __future__ import annotations

import math

import numpy as np


def unit(rows):
    """Rows at length 1, in double."""
    rows = rows.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def centred(rows, of):
    """What the recipe fits: unit, centred by the mean of the unit rows of `of`, unit."""
    return unit(unit(rows) - unit(of).mean(axis=0))


def ridge_normal_equations(a, b, alpha, weight=None):
    """Solve (AᵀDA + αI) C = AᵀDB by a general solver."""
    weight = np.ones(len(a)) if weight is None else weight
    gram = sum(w * np.outer(row, row) for w, row in zip(weight, a, strict=True))
    cross = sum(w * np.outer(row, to) for w, row, to in zip(weight, a, b, strict=True))
    return np.linalg.solve(gram + alpha * np.eye(a.shape[1]), cross)


def refit_without_group(a, b, groups, alpha, weight=None, *, about=False):
    """Predict every row by a ridge fit from scratch without the row's group.

    `about`: of targets about the mean of those that are fitted on.
    """
    weight = np.ones(len(a)) if weight is None else weight
    predicted = np.empty_like(b)
    for group in np.unique(groups):
        out = groups == group
        targets = b[~out] - about * mean_of(b[~out], weight[~out])
        predicted[out] = a[out] @ ridge_normal_equations(a[~out], targets, alpha, weight[~out])
    return predicted


def mean_of(rows, weight):
    """Weighted mean of rows."""
    return weight @ rows / weight.sum()


def cosine(left, right):
    """Cosine of two vectors."""
    dot = sum(float(x) * float(y) for x, y in zip(left, right, strict=True))
    return dot / math.sqrt(sum(float(x) ** 2 for x in left) * sum(float(y) ** 2 for y in right))


def reciprocal_rank_of_text(image, texts, text_groups, group):
    """1 / rank of the best text of `group` for one image, ties against it, equal texts once."""
    gallery = {}
    for text, of in zip(texts, text_groups, strict=True):
        gallery.setdefault(tuple(text.tolist()), set()).add(of)
    scored = [(cosine(image, text), group in of) for text, of in gallery.items()]
    best = max(score for score, right in scored if right)
    # Cosines of this loop and of a matrix product differ in the last digits: a tie is a tie.
    return 1 / (1 + sum(1 for score, right in scored if not right and score > best - 1e-12))


def conse_mix(feature, weights, bias, texts, top_k):
    """ConSE for one image, by hand."""
    logits = [float(np.dot(row, feature)) + float(b) for row, b in zip(weights, bias, strict=True)]
    top = sorted(range(len(logits)), key=lambda c: (-logits[c], c))[:top_k]
    total = sum(math.exp(logit) for logit in logits)
    shares = [math.exp(logits[c]) / total for c in top]
    return sum(s * texts[c] for s, c in zip(shares, top, strict=True)) / sum(shares)


def relative_representation(row, anchors, top_k, power):
    """ASIF's representation of one row, by loops: nearest anchors, relu, power, unit length."""
    length = math.sqrt(sum(float(v) ** 2 for v in row))
    similar = [0.0 if length == 0 else cosine(row, anchor) for anchor in anchors]
    kept = sorted(range(len(anchors)), key=lambda j: (-similar[j], j))[:top_k]
    values = [max(similar[j], 0.0) ** power if j in kept else 0.0 for j in range(len(anchors))]
    norm = math.sqrt(sum(v * v for v in values))
    return [v / norm if norm > 0 else 0.0 for v in values]
