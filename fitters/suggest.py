"""Which images' captions would help most: a design of experiments before any caption is written."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fitters.errors import SettingError


def most_informative(
    images: npt.NDArray[np.floating], known: npt.NDArray[np.floating], n: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return n images, best first, that leave a linear map from images least uncertain.

    Parameters
    ----------
    images : array of shape (m, p)
        Candidates, which stand for the images to come too: unit rows about their mean.
    known : array of shape (c, p)
        Rows whose text is known, such as those of a head: unit rows about their mean.
    n : int
        From 1 to m.

    Returns
    -------
    chosen : int64 array of shape (n,)
        Rows of `images`, in the order of the choice.
    left : float64 array of shape (n,)
        Share of the mean squared error expected over `images` that is left after each, where the
        known rows alone leave 1.

    Raises
    ------
    SettingError
        If n is not from 1 to m.

    Notes
    -----
    A Bayesian linear map with a prior N(0, I) and noise of variance 1 has the posterior covariance
    P = (I + Σ x xᵀ)⁻¹ over the known rows x: of a unit row in a direction that no other has, one
    pair takes half of the variance. The error expected at the images is tr(P S), with S their mean
    x xᵀ, and each step takes the image that lowers it most, by xᵀ P S P x / (1 + xᵀ P x): far from
    what is known, and in the middle of many images. No text is read, and nothing is chosen. This is
    the Bayesian A-optimal design at the images, greedily (Chaloner and Verdinelli, 1995; Yu, Bi and
    Tresp, Active Learning via Transductive Experimental Design, 2006).

    Examples
    --------
    >>> import numpy as np
    >>> images = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    >>> chosen, left = most_informative(images, np.array([[1.0, 0.0]] * 9), 2)
    >>> chosen.tolist(), left.round(2).tolist()
    ([1, 2], [0.54, 0.42])
    """
    m, p = images.shape
    if not 0 < n <= m:
        raise SettingError(f"From 1 to {m:,} of these images can be suggested; got {n:,}.")
    x, rows = np.asarray(images, np.float64), np.asarray(known, np.float64)
    of_images = x.T @ x / m
    # P x of every image, as rows.
    moved = np.linalg.solve(np.eye(p) + rows.T @ rows, x.T).T
    before = remaining = float(np.sum(moved * x)) / m
    chosen, left = list[int](), list[float]()
    for _ in range(n):
        gain = np.sum((moved @ of_images) * moved, axis=1) / (1.0 + np.sum(moved * x, axis=1))
        gain[chosen] = -1.0
        best = int(np.argmax(gain))
        remaining -= float(gain[best])
        own = moved[best]
        moved = moved - np.outer(x @ own, own) / (1.0 + float(own @ x[best]))
        chosen.append(best)
        left.append(remaining / before)
    return np.array(chosen), np.array(left)
