"""Who is trained on and who is scored: splits of classes and nested subsets of images.

Splits are of classes, never of images, so that no class name, and no description shared by
several images, is on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench.errors import ProtocolError

# Streams of one seed: the split, the subset and the control must not share random numbers.
_SPLIT, _SUBSET, _CONTROL, _CHOICE = 1, 2, 3, 4


@dataclass(frozen=True)
class Split:
    """Rows of the image table on each side.

    Attributes
    ----------
    train : int64 array
        Images of training classes, in the order in which subsets grow: K images are the
        first K, so that the subsets of one seed are nested.
    test : int64 array
        Images of held-out classes, in item order.
    """

    train: NDArray[np.int64]
    test: NDArray[np.int64]


def control_rng(seed: int) -> np.random.Generator:
    """Return the generator that draws a run's random or shuffled prototypes."""
    return np.random.default_rng([seed, _CONTROL])


def choice_rng(seed: int) -> np.random.Generator:
    """Return the generator that draws a run's validation folds."""
    return np.random.default_rng([seed, _CHOICE])


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
        msg = (
            f"A split of {len(names):,} classes at {train_fraction:.0%} leaves one side empty. "
            "Use more images (a larger --limit) or another fraction."
        )
        raise ProtocolError(msg)
    order = np.random.default_rng([seed, _SPLIT]).permutation(len(names))
    in_train = np.zeros(len(names), dtype=bool)
    in_train[order[:n_train]] = True
    train = np.flatnonzero(in_train[codes])
    train = train[np.random.default_rng([seed, _SUBSET]).permutation(len(train))]
    return Split(train=train, test=np.flatnonzero(~in_train[codes]))


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
        msg = (
            f"The run asks for {n_pairs:,} real pairs; its split has {len(split.train):,} "
            'training images. Ask for fewer, or for "all".'
        )
        raise ProtocolError(msg)
    return split.train[:n_pairs]
