"""Train/test splits, and nested subsets of the training images.

Splits of our own are of classes, so that no class name, and no description shared by several
images, is on both sides; but for few-shot learners, which are taught the classes that they are
tested on. The manifest's own split is taken as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench.errors import ProtocolError
from featstore.errors import listed
from fitters.pairs import place_in_class

#: What is drawn by the seed of a run, each from numbers of its own: the split into classes, the
#: order in which its subsets grow, a control, validation folds, what a diagnostic samples or
#: permutes, and the order in which subsets of a head's classes grow.
Purpose = Literal["split", "subset", "control", "choice", "sample", "size"]
_STREAMS = {"split": 1, "subset": 2, "control": 3, "choice": 4, "sample": 5, "size": 7}

#: Evaluations in which every seed splits the images anew, and scores others.
FRESH_SPLITS = ("held-out", "in-class")


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of the image table on each side.

    Attributes
    ----------
    train : int64 array
        Images of training classes, in the order in which subsets grow: K images are the
        first K, so that the subsets of one seed are nested.
    test : int64 array
        Images that are scored, in item order.
    """

    train: NDArray[np.int64]
    test: NDArray[np.int64]


def stream(purpose: Purpose, seed: int) -> np.random.Generator:
    """Return the generator that draws for one purpose by the seed of a run."""
    return np.random.default_rng([seed, _STREAMS[purpose]])


def held_out_split(classes: NDArray[Any], *, seed: int, train_fraction: float = 0.6) -> Split:
    """Split the images by their class.

    Parameters
    ----------
    classes : array of shape (n,)
        Class id of every image.
    seed : int
    train_fraction : float
        Share of the distinct classes whose images are for training.

    Raises
    ------
    ProtocolError
        If one side would have no class.
    """
    names, codes = np.unique(np.asarray(classes), return_inverse=True)
    n_train = round(train_fraction * len(names))
    if not 0 < n_train < len(names):
        raise ProtocolError(
            f"A split of {len(names):,} classes at {train_fraction:.0%} leaves one side empty. "
            "Use images of more classes (a larger `limit=`) or another fraction."
        )
    order = stream("split", seed).permutation(len(names))
    in_train = np.zeros(len(names), dtype=bool)
    in_train[order[:n_train]] = True
    train = np.flatnonzero(in_train[codes])
    train = train[stream("subset", seed).permutation(len(train))]
    return Split(train=train, test=np.flatnonzero(~in_train[codes]))


def manifest_split(splits: NDArray[Any], *, seed: int, train: Sequence[str]) -> Split:
    """Return the manifest's own split: ``test`` is scored, `train` may be trained on.

    The seed draws the order in which subsets of the training images grow.

    Raises
    ------
    ProtocolError
        If no image is of split ``test``.
    """
    splits = np.asarray(splits)
    test = np.flatnonzero(splits == "test")
    if not len(test):
        known = listed(sorted({str(name) for name in splits} - {""}), shown=8)
        raise ProtocolError(
            f"No image is of split 'test' (splits: {known}). Give the manifest one, or use eval "
            "'held-out' or 'in-class'."
        )
    return Split(_order(np.isin(splits, list(train)), seed), test)


def order_of_pairs(splits: NDArray[Any], *, seed: int, train: Sequence[str]) -> NDArray[np.int64]:
    """Return the images of a data set that real pairs are made of, in the order of subsets.

    Those of the splits `train`; all where the manifest has no split.

    Raises
    ------
    ProtocolError
        If none is of these splits.
    """
    known = sorted({str(name) for name in splits} - {""})
    order = _order(np.isin(splits, list(train) if known else [""]), seed)
    if not len(order):
        raise ProtocolError(
            f"No image of the real pairs' data set is of the splits {listed(train)} (it has "
            f"{listed(known, shown=8)}). Name some of these in train_splits."
        )
    return order


def _order(of_pool: NDArray[np.bool_], seed: int) -> NDArray[np.int64]:
    """Return the rows of a pool in the order of a seed, in which subsets grow."""
    pool = np.flatnonzero(of_pool)
    return pool[stream("subset", seed).permutation(len(pool))]


def in_class_split(classes: NDArray[Any], *, seed: int, train_fraction: float = 0.6) -> Split:
    """Split the images of every class: both sides know all classes that have two images.

    A class of one image is for training only.
    """
    classes = np.asarray(classes)
    order = stream("split", seed).permutation(len(classes))
    _, codes, counts = np.unique(classes, return_inverse=True, return_counts=True)
    wanted = np.clip(np.round(train_fraction * counts).astype(np.int64), 1, None)
    wanted = np.where(counts > 1, np.minimum(wanted, counts - 1), wanted)
    chosen = order[place_in_class(codes[order]) < wanted[codes[order]]]
    in_train = np.zeros(len(classes), dtype=bool)
    in_train[chosen] = True
    return Split(train=chosen, test=np.flatnonzero(~in_train))


def first_per_class(
    order: NDArray[np.int64], classes: NDArray[Any], n: int, *, after: int = 0
) -> NDArray[np.int64]:
    """Return `n` images of every class, the first in `order` that follow its first `after`.

    Fewer of a class that has no more. For one order, the shots of few are among those of many.
    """
    place = place_in_class(classes[order])
    return order[(place >= after) & (place < after + n)]


def first_pairs(split: Split, n_pairs: int | Literal["all"]) -> NDArray[np.int64]:
    """Return the training images of a run: the first `n_pairs` of the seed's order.

    Raises
    ------
    ProtocolError
        If there are fewer.
    """
    if n_pairs == "all":
        return split.train
    if n_pairs > len(split.train):
        raise ProtocolError(
            f"The run asks for {n_pairs:,} real pairs; its split has {len(split.train):,} "
            'training images. Ask for fewer, or for "all".'
        )
    return split.train[:n_pairs]
