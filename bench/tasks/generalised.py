"""Generalised zero-shot classification: classes that were trained on compete with those that not.

An aligner that learned from a head's rows favours their classes. What counts is therefore how well
the images of either kind do when the names of both kinds are in the gallery. Beside it stands the
easier question, unseen images among unseen names alone.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bench.corpus import Items
from bench.errors import ProtocolError
from bench.options import Generalised, ZeroShot
from bench.tasks.outcome import Outcome, Projector
from bench.tasks.zero_shot import score_zero_shot


def score_generalised(
    alignment: Projector,
    images: Items,
    names: Items,
    seen: NDArray[np.bool_] | None,
    *,
    prompts: Items | None = None,
    options: Generalised | None = None,
) -> list[Outcome]:
    """Score images of seen and unseen classes against the names of both.

    Parameters
    ----------
    alignment : Projector
        Such as ICIS's, which predicts the rows of a head for any class text.
    images : Items
        Raw image embeddings; their class is the answer.
    names : Items
        One text per class, of all classes.
    seen : array of bool, shape (c,), or None
        Of `names`: whether the alignment was trained on the class.
    prompts : Items, optional
        As for `score_zero_shot`.
    options : Generalised, optional

    Returns
    -------
    list of Outcomes
        Direction ``"image→name"``: every image among all names. Its values ``seen`` and
        ``unseen`` are means over the classes of each kind of the share of their images whose own
        name comes first, ``harmonic`` is 2 · seen · unseen / (seen + unseen), 0 if one is 0.
        Then ``"unseen image→unseen name"``, as if nothing else existed; its
        ``balanced-accuracy`` is what conventional zero-shot reports.

    Raises
    ------
    ProtocolError
        If nobody says which classes are seen, or the images are all of one kind.
    bench.errors.MetricError
        If an image's class is not among the names.

    References
    ----------
    Xian et al., Zero-Shot Learning: A Comprehensive Evaluation of the Good, the Bad and the Ugly,
    2018, section 4.2.
    """
    options = options or Generalised()
    if seen is None:
        msg = (
            "Generalised zero-shot tells seen from unseen classes by the names of a head. Name its "
            "sets in the run (head_set, head_name_set)."
        )
        raise ProtocolError(msg)
    own = np.unique(images.classes)
    of_seen = np.isin(own, names.classes[seen])
    if of_seen.all() or not of_seen.any():
        kind = "seen" if of_seen.all() else "unseen"
        msg = (
            f"All {len(own):,} classes of the images are {kind}. Generalised zero-shot needs "
            "images of both kinds."
        )
        raise ProtocolError(msg)
    asked = ZeroShot(prompts=options.prompts, scorer=options.scorer)
    among_all, alone = (
        score_zero_shot(alignment, images, names, prompts=prompts, seen=seen, options=which)
        for which in (asked, replace(asked, classes="unseen"))
    )
    return [
        *among_all,
        *(replace(outcome, direction=_of_unseen(outcome.direction)) for outcome in alone),
    ]


def _of_unseen(direction: str) -> str:
    return direction.replace("image→name", "unseen image→unseen name")
