"""Choices on the side of the prototypes: what a head's row is taken to say of its class."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from fitters.errors import PairsError
from fitters.moments.transform import normalize_rows
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
            msg = f"All {pairs.n:,} classes share their names. Use duplicates='merge'."
            raise PairsError(msg)
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
        msg = (
            f"A covariance of features needs at least 2 images of {pairs.x.shape[1]:,} columns. "
            f"Got {images.shape}."
        )
        raise PairsError(msg)
    rows = images.astype(np.float64)
    rows -= rows.mean(axis=0)
    patterns = (pairs.x.astype(np.float64) @ rows.T) @ rows / (len(rows) - 1)
    return Pairs(patterns.astype(pairs.x.dtype), pairs.y, pairs.groups, pairs.weight)


def _mean_row(rows: Rows) -> npt.NDArray[np.float64]:
    """Return the direction of the mean of the unit rows, at the mean of their lengths."""
    mean = normalize_rows(rows, what="prototypes of one name").mean(axis=0, keepdims=True)
    length = float(np.linalg.norm(rows.astype(np.float64), axis=1).mean())
    direction: npt.NDArray[np.float64] = normalize_rows(mean, what="merged prototypes")[0]
    return direction * length
