"""Prototypes: rows of a head beside the texts of their classes, and controls that carry no class.

A gain from head weights counts only beside what the same fit does with rows that carry no
knowledge of the class. Each control keeps one thing of the true rows and destroys the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from fitters.errors import PairsError
from fitters.moments.transform import SideTransform, normalize_rows
from fitters.pairs import Pairs, Rows

Duplicates = Literal["keep", "merge", "drop"]

DUPLICATES: dict[str, str] = {
    "keep": "every class is a prototype; those that share a name pull its text both ways",
    "merge": "the classes of one name become one, the mean of their unit rows, of the mass of one",
    "drop": "classes that share their name with another are left out",
}
"""What is done with classes that share a name."""


def resolve_duplicates(pairs: Pairs, how: Duplicates) -> Pairs:
    """Return prototypes in which classes that share a name are kept, merged or dropped.

    Parameters
    ----------
    pairs : Pairs
        `groups` are the names.
    how : {"keep", "merge", "drop"}
        See `DUPLICATES`. Merged rows of x have the mean length of those that they are made of,
        and stand where the first of them stood.

    Raises
    ------
    PairsError
        If every name is shared, so that "drop" leaves nothing.
    """
    codes = pairs.row_groups
    counts = np.bincount(codes)
    if how == "keep" or counts.max() == 1:
        return pairs
    if how == "drop":
        alone = counts[codes] == 1
        if not alone.any():
            raise PairsError(f"All {pairs.n:,} classes share their names. Use duplicates='merge'.")
        return pairs.take(alone)
    firsts = np.sort(np.unique(codes, return_index=True)[1])
    x, y = pairs.x[firsts].copy(), pairs.y[firsts].copy()
    for place, first in enumerate(firsts):
        of = np.flatnonzero(codes == codes[first])
        if len(of) > 1:
            x[place], y[place] = _mean_row(pairs.x[of]), _mean_row(pairs.y[of])
    kept = pairs.take(firsts)
    return Pairs(x, y, kept.groups, kept.weight)


def covariance_patterns(pairs: Pairs, images: Rows) -> Pairs:
    """Return prototypes with w replaced by Cov(f) w, the pattern that the filter w responds to.

    A discriminative row points to what tells its class from others, not to where its images lie;
    multiplied by the covariance of the features f it does.

    Parameters
    ----------
    pairs : Pairs
        x are the head's rows.
    images : ndarray of shape (n, p)
        Unlabelled raw image embeddings that the covariance is taken of, never test images.

    References
    ----------
    Haufe et al., On the interpretation of weight vectors of linear models in multivariate
    neuroimaging, NeuroImage 2014, eq. 6.
    """
    if images.shape[1] != pairs.x.shape[1] or len(images) < 2:
        raise PairsError(
            f"A covariance of features needs at least 2 images of {pairs.x.shape[1]:,} columns. "
            f"Got {images.shape}."
        )
    rows = images.astype(np.float64)
    rows -= rows.mean(axis=0)
    patterns = (pairs.x.astype(np.float64) @ rows.T) @ rows / (len(rows) - 1)
    return Pairs(patterns.astype(pairs.x.dtype), pairs.y, pairs.groups, pairs.weight)


KAPPA = 10.0
"""Images that a row of the head counts as, in `adapted_prototypes`: fixed, not chosen."""


def adapted_prototypes(
    pairs: Pairs, images: Rows, bias: npt.NDArray[Any] | None = None, *, kappa: float = KAPPA
) -> Pairs:
    """Return prototypes moved towards the unlabelled images that the head takes for their class.

    With p_c(x) = softmax(W x + b)_c of raw images, n_c = Σ_x p_c(x), and images x̂ and rows ŵ_c each
    at unit length, about their own mean and at unit length again::

        w̃_c = unit((Σ_x p_c(x) x̂ + kappa ŵ_c) / (n_c + kappa))

    One step of expectation maximisation that starts at the head. A class that no image is taken
    for keeps its row.

    Parameters
    ----------
    pairs : Pairs
        x are the head's rows, raw.
    images : ndarray of shape (n, p)
        Unlabelled raw image embeddings of the target. With images that are scored, what is fitted
        on the result is transductive.
    bias : ndarray of shape (c,), optional
        The head's bias; None: 0.
    kappa : float
        Not negative; infinite: the pairs as they are.

    Raises
    ------
    PairsError
        If the images have another number of columns, there are fewer than 2, or kappa is negative.
    """
    if images.ndim != 2 or images.shape[1] != pairs.x.shape[1] or len(images) < 2 or not kappa >= 0:
        raise PairsError(
            f"Adapting prototypes needs at least 2 images of {pairs.x.shape[1]:,} columns and a "
            f"kappa of at least 0. Got images {images.shape} and kappa {kappa}."
        )
    if np.isinf(kappa):
        return pairs
    weights = pairs.x.astype(np.float64)
    image = SideTransform.fit([images], label="images")
    sums, counts = np.zeros(weights.shape), np.zeros(len(weights))
    for start in range(0, len(images), BLOCK_IMAGES):
        block = images[start : start + BLOCK_IMAGES]
        logits = block @ weights.T + (0.0 if bias is None else bias)
        shares = softmax(logits, axis=1)
        sums += shares.T @ image.apply(block)
        counts += shares.sum(axis=0)
    head = SideTransform.fit([pairs.x], label="prototypes").apply(pairs.x)
    moved = normalize_rows((sums + kappa * head) / (counts + kappa)[:, None], what="prototypes")
    return Pairs(moved.astype(pairs.x.dtype), pairs.y, pairs.groups, pairs.weight)


BLOCK_IMAGES = 4096
"""Images whose shares in all classes are held at once."""


def _mean_row(rows: Rows) -> npt.NDArray[np.float64]:
    """Return the direction of the mean of the unit rows, at the mean of their lengths."""
    mean = normalize_rows(rows, what="prototypes of one name").mean(axis=0, keepdims=True)
    length = float(np.linalg.norm(rows.astype(np.float64), axis=1).mean())
    direction: npt.NDArray[np.float64] = normalize_rows(mean, what="merged prototypes")[0]
    return direction * length


Control = Callable[[Pairs, np.random.Generator], Pairs]
"""Draws one set of control pairs from true ones."""


def replace_by_gaussian(pairs: Pairs, rng: np.random.Generator) -> Pairs:
    """Replace each row of x by an isotropic Gaussian one with the norm of the row it replaces.

    Keeps: the norms. Destroys: every direction, and with them the mean and the covariance.
    """
    drawn = rng.standard_normal(pairs.x.shape)
    norms = np.linalg.norm(pairs.x.astype(np.float64), axis=1, keepdims=True)
    drawn *= norms / np.linalg.norm(drawn, axis=1, keepdims=True)
    return Pairs(drawn.astype(pairs.x.dtype), pairs.y, pairs.groups, pairs.weight)


def replace_by_covariance(pairs: Pairs, rng: np.random.Generator) -> Pairs:
    """Replace the rows of x by Gaussian ones with the mean and the covariance of x.

    Keeps: where the rows lie and how they spread. Destroys: which class a row belongs to.
    The covariance is that of ``np.cov(x, rowvar=False)``.
    """
    x = pairs.x.astype(np.float64)
    mean = x.mean(axis=0)
    centred = x - mean
    n, p = x.shape
    # Z centred / sqrt(n-1) has exactly the sample covariance; for many rows a root of shape (p, p)
    # costs less than Z of shape (n, n).
    if n <= p:
        root = centred / np.sqrt(max(n - 1, 1))
    else:
        values, vectors = np.linalg.eigh(centred.T @ centred / (n - 1))
        root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    drawn = mean + rng.standard_normal((n, len(root))) @ root
    return Pairs(drawn.astype(pairs.x.dtype), pairs.y, pairs.groups, pairs.weight)


def shuffle_names(pairs: Pairs, rng: np.random.Generator) -> Pairs:
    """Give each row of x the y of another group: true rows, names permuted.

    Keeps: both sets of rows. Destroys: which belongs to which. The permutation is a derangement
    with respect to the groups: no row keeps a name of its own group. The groups stay with y,
    because leaving one out must remove every row that has that text; the weights go with x. The
    pairs come in the order of the names: y is that of the true pairs to the last byte, so that
    what a fit computes from it alone can be shared.

    Raises
    ------
    PairsError
        If one group holds more than half of the rows: no such permutation exists.
    """
    codes = pairs.row_groups
    largest = int(np.bincount(codes).max())
    if 2 * largest > pairs.n:
        raise PairsError(
            f"Names cannot be shuffled: one group holds {largest:,} of {pairs.n:,} rows, so some "
            "row would keep its own name. Use more classes."
        )
    # Rows in random order, equal groups side by side, groups in random order: shifting the names
    # by the size of the largest group takes every name out of its group.
    n_groups = int(codes.max()) + 1
    order = np.lexsort((rng.permutation(pairs.n), rng.permutation(n_groups)[codes]))
    owner: npt.NDArray[Any] = np.empty(pairs.n, dtype=np.intp)
    owner[np.roll(order, -largest)] = order
    weight = None if pairs.weight is None else pairs.weight[owner]
    return Pairs(pairs.x[owner], pairs.y, pairs.groups, weight)


CONTROLS: dict[str, Control] = {
    "random": replace_by_gaussian,
    "random-cov": replace_by_covariance,
    "shuffled": shuffle_names,
}
"""The controls by name."""
