"""Generalised zero-shot: by hand, as zero-shot with both kinds told apart, and ICIS on digits."""

import numpy as np
import pytest

from bench.errors import ProtocolError
from bench.options import Generalised, ZeroShot
from bench.tasks.zero_shot import score_generalised, score_zero_shot
from tests.bench.test_tasks import Identity, items


def of_classes(classes, rows):
    return items(classes, classes, rows)


NAMES = of_classes(["a", "b", "c"], np.eye(3))


def test_by_hand():
    # Seen: a 2 of 3, b 1 of 1; unseen: c 1 of 4.
    found = [0, 0, 1, 1, 2, 0, 0, 1]
    images = of_classes(list("aaabcccc"), np.eye(3)[found])
    seen = np.array([True, True, False])
    among_all, alone = score_generalised(Identity(), images, NAMES, seen)
    assert among_all.direction == "image→name"
    assert among_all.values["seen"] == pytest.approx((2 / 3 + 1) / 2)
    assert among_all.values["unseen"] == 0.25
    assert among_all.values["harmonic"] == pytest.approx(2 * (5 / 6) * 0.25 / (5 / 6 + 0.25))
    # Alone among unseen names nobody can be taken for a or b: one name, and always right.
    assert alone.direction == "unseen image→unseen name"
    assert (alone.n, alone.gallery) == (4, 1)
    for flags, kind in (([True] * 3, "seen"), ([False] * 3, "unseen")):
        with pytest.raises(ProtocolError, match=f"All 3 classes of the images are {kind}"):
            score_generalised(Identity(), images, NAMES, np.array(flags))
    with pytest.raises(ProtocolError, match="by the names of a head"):
        score_generalised(Identity(), images, NAMES, None)


def test_it_is_zero_shot_with_both_kinds_told_apart(rng):
    names = of_classes([f"{i}" for i in range(6)], rng.normal(size=(6, 4)))
    images = of_classes([f"{i % 5}" for i in range(60)], rng.normal(size=(60, 4)))
    seen = np.array([True, False, True, False, False, True])
    options = Generalised(scorer="csls")
    for mine, which in zip(
        score_generalised(Identity(), images, names, seen, options=options),
        ("all", "unseen"),
        strict=True,
    ):
        (theirs,) = score_zero_shot(
            Identity(), images, names, seen=seen, options=ZeroShot(classes=which, scorer="csls")
        )
        assert mine.values == theirs.values
        assert mine.chance == theirs.chance
        np.testing.assert_array_equal(mine.ranks.rank, theirs.ranks.rank)
