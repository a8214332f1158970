"""Prototypes: rows of a head beside the texts of their classes, and controls that carry no class.

A gain from head weights counts only beside what the same fit does with rows that carry no
knowledge of the class. Each control keeps one thing of the true rows and destroys the rest.
Two more are made of real pairs alone, as many rows as pairs and head have together: what they gain
is gained by the number of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fitters.errors import PairsError
from fitters.pairs import Pairs, Rows
from fitters.sources import SideTransform, normalize_rows

Index = npt.NDArray[np.intp]

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
        Not negative.
    """
    from scipy.special import softmax

    weights = pairs.x.astype(np.float64)
    image = SideTransform.fit([images], label="images")
    sums, counts = np.zeros(weights.shape), np.zeros(len(weights))
    for start in range(0, len(images), BLOCK_IMAGES):
        block = images[start : start + BLOCK_IMAGES]
        shares = softmax(block @ weights.T + (0.0 if bias is None else bias), axis=1)
        sums += shares.T @ image.apply(block)
        counts += shares.sum(axis=0)
    head = SideTransform.fit([pairs.x], label="prototypes").apply(pairs.x)
    moved = normalize_rows((sums + kappa * head) / (counts + kappa)[:, None], what="prototypes")
    return replace(pairs, x=moved.astype(pairs.x.dtype))


BLOCK_IMAGES = 4096
"""Images whose shares in all classes are held at once."""


def shifted_prototypes(pairs: Pairs, images: Rows) -> Pairs:
    """Return prototypes moved to where images lie: unit(w − mean(w) + mean(unit(f))).

    References
    ----------
    "mean" of the code of Mendez et al., ICML 2026, github.com/david-mnd/recycling4vlalignment.
    """
    weights = pairs.x.astype(np.float64)
    weights += normalize_rows(images, what="images").mean(axis=0) - weights.mean(axis=0)
    return replace(pairs, x=normalize_rows(weights, what="prototypes").astype(pairs.x.dtype))


def attending_prototypes(pairs: Pairs, images: Rows, of_class: Index) -> Pairs:
    """Return prototypes made of class means: unit(softmax(W Rᵀ) R), R the unit means of raw images.

    Parameters
    ----------
    pairs : Pairs
        x are the head's rows W, raw.
    images : ndarray of shape (n, p)
    of_class : int array of shape (n,)
        The row of the head that is the class of each image; -1: none is.

    Raises
    ------
    PairsError
        If no image is of a class of the head.

    References
    ----------
    "attention" of the code named in `shifted_prototypes`. Run after "mean", that code reads the
    file that "mean" wrote in place of R, and every row becomes the mean of all images.
    """
    from scipy.special import softmax

    _, means = _class_means(images, of_class)
    attended = softmax(pairs.x.astype(np.float64) @ means.T, axis=1) @ means
    return replace(pairs, x=normalize_rows(attended, what="prototypes").astype(pairs.x.dtype))


def projected_prototypes(
    pairs: Pairs, images: Rows, of_class: Index, *, dropout: float = 0.6
) -> Pairs:
    """Return prototypes mapped to class means: unit(W A + b), by least squares under dropout.

    A and b minimise what inputs dropped with that probability cost on average, which is a ridge::

        ‖W A + b − R‖² + dropout / (1 − dropout) Σ_j ‖column j of W‖² ‖row j of A‖²

    The original takes 500 steps of Adam towards it.

    Parameters
    ----------
    pairs, images, of_class
        As of `attending_prototypes`. Rows of classes without an image are mapped, too.
    dropout : float

    Raises
    ------
    PairsError
        If no image is of a class of the head.

    References
    ----------
    "linear" of the code named in `shifted_prototypes`. Wager, Wang, Liang, Dropout training as
    adaptive regularization, NeurIPS 2013.
    """
    known, means = _class_means(images, of_class)
    weights = pairs.x.astype(np.float64)
    own, goal = weights[known], means - means.mean(axis=0)
    centred = own - own.mean(axis=0)
    penalty = np.diag((own**2).sum(axis=0) * dropout / (1 - dropout))
    slope = np.linalg.lstsq(centred.T @ centred + penalty, centred.T @ goal, rcond=None)[0]
    mapped = (weights - own.mean(axis=0)) @ slope + means.mean(axis=0)
    return replace(pairs, x=normalize_rows(mapped, what="prototypes").astype(pairs.x.dtype))


def _class_means(images: Rows, of_class: Index) -> tuple[Index, npt.NDArray[np.float64]]:
    """Return the classes of a head that images are of, and the unit means of their raw images."""
    known = np.unique(of_class[of_class >= 0])
    if not len(known):
        raise PairsError(
            "No image is of a class of the head, and their means are asked for. Take labelled "
            "images of the head's own classes, or leave its rows as they are."
        )
    means = [images[of_class == row].mean(axis=0, dtype=np.float64) for row in known]
    unit: npt.NDArray[np.float64] = normalize_rows(np.stack(means), what="means of classes")
    return known, unit


HEAD_ROWS: dict[str, Callable[[Pairs, Rows, Index, npt.NDArray[Any]], Pairs]] = {
    "adapted": lambda pairs, images, _, bias: adapted_prototypes(pairs, images, bias),
    "mean": lambda pairs, images, *_: shifted_prototypes(pairs, images),
    "attention": lambda pairs, images, of_class, _: attending_prototypes(pairs, images, of_class),
    "linear": lambda pairs, images, of_class, _: projected_prototypes(pairs, images, of_class),
}
"""Name -> how head rows are moved: called with pairs, raw images, their rows in the head, bias."""


Control = Callable[..., Pairs]
"""Draws one set of control pairs from true ones: (pairs, rng), and what is its own by keyword."""


def replace_by_gaussian(pairs: Pairs, rng: np.random.Generator) -> Pairs:
    """Replace each row of x by an isotropic Gaussian one with the norm of the row it replaces.

    Keeps: the norms. Destroys: every direction, and with them the mean and the covariance.
    """
    drawn = rng.standard_normal(pairs.x.shape)
    norms = np.linalg.norm(pairs.x.astype(np.float64), axis=1, keepdims=True)
    drawn *= norms / np.linalg.norm(drawn, axis=1, keepdims=True)
    return replace(pairs, x=drawn.astype(pairs.x.dtype))


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
    return replace(pairs, x=drawn.astype(pairs.x.dtype))


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
    return _renamed(pairs, _derangement(codes, largest, rng))


def shuffle_within(
    pairs: Pairs, rng: np.random.Generator, *, clusters: int = 10, within: Index | None = None
) -> Pairs:
    """Shuffle the names within clusters of like names: the dose of `shuffle_names`.

    Keeps: both sets of rows, and which family of names a row belongs to, the closer the more
    clusters there are. Destroys: which name of the family. One cluster shuffles all names; with a
    cluster a name it is the head. A name that is alone in its cluster stays, and so does a cluster
    in which one group holds more than half of the rows.

    Parameters
    ----------
    pairs : Pairs
        y are the texts that are clustered: k-means of the unit rows, one a group.
    rng : numpy.random.Generator
        Draws the clusters and the permutations.
    clusters : int
    within : ndarray of int of shape (n,), optional
        The cluster of each row, where it is known.

    Raises
    ------
    PairsError
        If there are fewer groups than clusters.
    """
    codes = pairs.row_groups
    owner, cluster_of = np.arange(pairs.n), within
    if cluster_of is None:
        cluster_of = _clusters(pairs, clusters, rng)
    for cluster in np.unique(cluster_of):
        members = np.flatnonzero(cluster_of == cluster)
        _, own, sizes = np.unique(codes[members], return_inverse=True, return_counts=True)
        if 2 * sizes.max() <= len(members):
            owner[members] = members[_derangement(own, int(sizes.max()), rng)]
    return _renamed(pairs, owner)


def _clusters(pairs: Pairs, clusters: int, rng: np.random.Generator) -> Index:
    from sklearn.cluster import KMeans

    codes = pairs.row_groups
    firsts = np.unique(codes, return_index=True)[1]
    if not 1 <= clusters <= len(firsts):
        raise PairsError(
            f"{len(firsts):,} names cannot be put into {clusters:,} clusters. Ask for 1 to "
            f"{len(firsts):,}."
        )
    names = normalize_rows(pairs.y[firsts], what="texts of the classes")
    means = KMeans(clusters, n_init=1, random_state=int(rng.integers(2**31)))
    found: Index = means.fit_predict(names)[codes]
    return found


def _derangement(codes: Index, largest: int, rng: np.random.Generator) -> Index:
    """Return for every row the row whose x it gets: one of another group of `codes`."""
    # Rows in random order, equal groups side by side, groups in random order: shifting the names
    # by the size of the largest group takes every name out of its group.
    n_groups = int(codes.max()) + 1
    order = np.lexsort((rng.permutation(len(codes)), rng.permutation(n_groups)[codes]))
    owner = np.empty(len(codes), dtype=np.intp)
    owner[np.roll(order, -largest)] = order
    return owner


def _renamed(pairs: Pairs, owner: Index) -> Pairs:
    weight = None if pairs.weight is None else pairs.weight[owner]
    return replace(pairs, x=pairs.x[owner], weight=weight)


def rotate_rows(pairs: Pairs, rng: np.random.Generator) -> Pairs:
    """Turn all rows of x by one random rotation, names kept: x Q with Q from the Haar measure.

    Keeps: names, norms and all angles between rows. Destroys: where the rows lie in the space of
    the images, which are not turned.
    """
    from scipy.stats import ortho_group

    turned = pairs.x.astype(np.float64) @ ortho_group.rvs(pairs.x.shape[1], random_state=rng)
    return replace(pairs, x=turned.astype(pairs.x.dtype))


CONTROLS: dict[str, Control] = {
    "random": replace_by_gaussian,
    "random-cov": replace_by_covariance,
    "shuffled": shuffle_names,
    "rotated": rotate_rows,
    "shuffled-within": shuffle_within,
}
"""The controls of a head by name. All but the last carry no class; it does, by its clusters."""


def repeat_pairs(pairs: Pairs, _rng: np.random.Generator, *, n: int) -> Pairs:
    """Repeat every pair equally often, until there are at least `n` rows.

    A ridge with a relative penalty has the same solution: a null test. Others see more rows.
    """
    return pairs.take(np.tile(np.arange(pairs.n), max(1, -(-n // pairs.n))))


def mix_pairs(pairs: Pairs, rng: np.random.Generator, *, n: int, alpha: float = 1.0) -> Pairs:
    """Add mixtures of two pairs until there are `n` rows: a x_i + (1 − a) x_j, and y alike.

    Both pairs are drawn by their weights, the share a from Beta(alpha, alpha). Of centred rows the
    expected moments of the mixtures are those of the pairs times E[a² + (1 − a)²], so that a linear
    ridge learns nothing new from them. A mixture is of the group of its first pair, weight 1:
    choose settings on the pairs themselves, for a fold without one of two leaves half of it in.

    References
    ----------
    Vouitsis et al., Data-efficient multimodal fusion on a single GPU (FuseMix), CVPR 2024, eq. 4.
    """
    more = max(0, n - pairs.n)
    mass = pairs.row_weight / pairs.row_weight.sum()
    one, other = rng.choice(pairs.n, size=(2, more), p=mass)
    share = rng.beta(alpha, alpha, size=(more, 1))
    x, y = (
        np.concatenate([rows, share * rows[one] + (1 - share) * rows[other]]).astype(rows.dtype)
        for rows in (pairs.x, pairs.y)
    )
    groups = pairs.row_groups if pairs.groups is None else pairs.groups
    weight = np.concatenate([pairs.row_weight, np.ones(more)])
    return Pairs(x, y, np.concatenate([groups, groups[one]]), weight)


PAIR_CONTROLS: dict[str, Control] = {"repeated": repeat_pairs, "mixup": mix_pairs}
"""Controls made of real pairs alone, by name; `n` is how many rows there are to be."""
