"""Generalised zero-shot classification: classes that were trained on compete with those that not.

An aligner that learned from a head's rows favours their classes. What counts is therefore how well
the images of either kind do when the names of both kinds are in the gallery.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.corpus import Items
from bench.errors import ProtocolError
from bench.tasks.outcome import Projector
from bench.tasks.zero_shot import score_zero_shot


@dataclass(frozen=True)
class Generalised:
    """Accuracies between 0 and 1, higher is better.

    Attributes
    ----------
    seen, unseen : float
        Mean over the classes of each kind of the share of their images whose own name comes
        first among all names.
    harmonic : float
        2 · seen · unseen / (seen + unseen): high only if both are; 0 if one is.
    """

    seen: float
    unseen: float

    @property
    def harmonic(self) -> float:
        """Return the harmonic mean."""
        total = self.seen + self.unseen
        return 2 * self.seen * self.unseen / total if total > 0 else 0.0


def score_generalised(
    alignment: Projector, images: Items, names: Items, seen: NDArray[Any]
) -> Generalised:
    """Score images of seen and unseen classes against the names of both.

    Parameters
    ----------
    alignment : Projector
        Such as ICIS's, which predicts the rows of a head for any class text.
    images : Items
        Raw image embeddings; their class is the answer.
    names : Items
        One text per class, of all classes.
    seen : array of str
        Classes that the alignment was trained on.

    Raises
    ------
    ProtocolError
        If the images are all of one kind.
    bench.errors.MetricError
        If an image's class is not among the names.

    References
    ----------
    Xian et al., Zero-Shot Learning: A Comprehensive Evaluation of the Good, the Bad and the Ugly,
    2018, section 4.2.
    """
    (outcome,) = score_zero_shot(alignment, images, names)
    hits = outcome.ranks.rank == 1
    classes, codes = np.unique(images.classes, return_inverse=True)
    accuracy = np.bincount(codes, hits) / np.bincount(codes)
    of_seen = np.isin(classes, seen)
    if of_seen.all() or not of_seen.any():
        kind = "seen" if of_seen.all() else "unseen"
        msg = (
            f"All {len(classes):,} classes of the images are {kind}. Generalised zero-shot needs "
            "images of both kinds."
        )
        raise ProtocolError(msg)
    return Generalised(float(accuracy[of_seen].mean()), float(accuracy[~of_seen].mean()))
