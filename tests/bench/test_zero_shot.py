"""Zero-shot options and class metrics beside scikit-learn and by hand."""

import warnings
from statistics import harmonic_mean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score, top_k_accuracy_score

from bench.corpus import Items
from bench.errors import MetricError, ProtocolError
from bench.fits import Identity
from bench.metrics.summary import class_metrics
from bench.options import ZeroShot
from bench.tasks.ranked import score_generalised, score_zero_shot
from tests.oracles import unit
from tests.shorthand import score_retrieval


def items(ids, classes, rows, parents=None):
    return Items(
        np.array(ids),
        np.array(classes),
        np.asarray(rows, dtype=np.float32),
        None if parents is None else np.array(parents),
    )


def problem(rng, n=150, c=12, d=6):
    names = rng.normal(size=(c, d))
    labels = rng.integers(0, c - 2, n)  # two classes have no image
    rows = names[labels] + rng.normal(size=(n, d))
    ids = np.array([f"{i:02d}" for i in range(c)])
    return items(range(n), ids[labels], rows), items(ids, ids, unit(names)), labels


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), min_size=1, max_size=40))
def test_class_metrics_equal_sklearn(pairs):
    truth, answers = np.array(pairs).T
    found = class_metrics(truth, answers)
    with warnings.catch_warnings():
        # It says that a class was answered that no image has: the mean is over those that have.
        warnings.simplefilter("ignore", UserWarning)
        assert found["balanced-accuracy"] == pytest.approx(balanced_accuracy_score(truth, answers))
    for kind in ("macro", "weighted"):
        assert found[f"{kind}-F1"] == f1_score(truth, answers, average=kind, zero_division=0)


def test_seen_unseen_and_their_harmonic_mean_by_hand():
    truth = np.array(["a", "a", "b", "c", "c", "c", "c"])
    answers = np.array(["a", "b", "b", "c", "a", "a", "z"])
    found = class_metrics(truth, answers, seen=np.isin(truth, ["a", "b"]))
    assert found["seen"] == (1 / 2 + 1) / 2
    assert found["unseen"] == 1 / 4
    assert found["harmonic"] == pytest.approx(3 / 8)
    assert found["balanced-accuracy"] == pytest.approx(7 / 12)
    assert found["macro-F1"] == pytest.approx(11 / 30)
    assert "harmonic" not in class_metrics(truth, answers, seen=np.ones(7, dtype=bool))


def test_equal_to_sklearn(rng):
    images, names, labels = problem(rng)
    (outcome,) = score_zero_shot(Identity(), images, names)
    logits = unit(images.rows) @ names.rows.T
    for k in (1, 5):
        theirs = top_k_accuracy_score(labels, logits, k=k, labels=np.arange(12))
        assert outcome.values[f"top-{k}"] == pytest.approx(theirs)
    for name, value in class_metrics(labels, logits.argmax(axis=1)).items():
        assert outcome.values[name] == pytest.approx(value)
    assert outcome.chance["balanced-accuracy"] == 1 / 12
    assert "macro-F1" not in outcome.chance


def prompts_of(names, rng, templates=("none", "photo", "sketch")):
    rows = [
        row + (0.3 + 0.3 * t) * rng.normal(size=len(row))
        for row in names.rows
        for t in range(len(templates))
    ]
    found = items(
        [f"{c}#{t}" for c in names.ids for t in templates],
        [c for c in names.classes for _ in templates],
        3.0 * np.array(rows),
    )
    object.__setattr__(found, "parts", np.array(list(templates) * len(names)))
    return found


def test_the_best_prompt_of_a_class_is_its_score(rng):
    images, names, labels = problem(rng)
    prompts = prompts_of(names, rng)
    shuffled = prompts.take(rng.permutation(len(prompts)))
    (outcome,) = score_zero_shot(
        Identity(), images, names, prompts=shuffled, options=ZeroShot(prompts="max")
    )
    scores = unit(images.rows) @ unit(prompts.rows).T
    best = scores.reshape(len(images), len(names), 3).max(axis=2)
    assert outcome.values["top-1"] == pytest.approx((best.argmax(axis=1) == labels).mean())
    np.testing.assert_array_equal(
        outcome.ranks.rank, (best >= best[np.arange(150), labels][:, None]).sum(axis=1)
    )


def test_each_template_is_the_task_with_that_template_alone(rng):
    images, names, _ = problem(rng)
    prompts = prompts_of(names, rng)
    outcomes = score_zero_shot(
        Identity(), images, names, prompts=prompts, options=ZeroShot(prompts="each")
    )
    assert [o.direction for o in outcomes] == [
        "image→name (none)", "image→name (photo)", "image→name (sketch)",
    ]  # fmt: skip
    for outcome, t in zip(outcomes, ("none", "photo", "sketch"), strict=True):
        own = prompts.take(prompts.parts == t)
        (alone,) = score_zero_shot(Identity(), images, items(names.ids, own.classes, own.rows))
        assert outcome.values == alone.values


def test_seen_classes_leave_the_images_and_the_gallery(rng):
    images, names, _ = problem(rng)
    seen = np.arange(12) < 5
    (whole,) = score_zero_shot(Identity(), images, names, seen=seen)
    assert whole.values["harmonic"] == harmonic_mean([whole.values["seen"], whole.values["unseen"]])
    for kind, kept in (("unseen", ~seen), ("seen", seen)):
        (part,) = score_zero_shot(
            Identity(), images, names, seen=seen, options=ZeroShot(classes=kind)
        )
        own = images.take(np.isin(images.classes, names.classes[kept]))
        (alone,) = score_zero_shot(Identity(), own, names.take(kept))
        assert part.values == alone.values
        assert part.gallery == kept.sum()
        assert "seen" not in part.values


def of_classes(classes, rows):
    return items(classes, classes, rows)


def test_generalised_by_hand():
    # Seen: a 2 of 3, b 1 of 1; unseen: c 1 of 4.
    images = of_classes(list("aaabcccc"), np.eye(3)[[0, 0, 1, 1, 2, 0, 0, 1]])
    names = of_classes(["a", "b", "c"], np.eye(3))
    among_all, alone = score_generalised(Identity(), images, names, np.array([True, True, False]))
    assert among_all.direction == "image→name"
    assert among_all.values["seen"] == pytest.approx((2 / 3 + 1) / 2)
    assert among_all.values["unseen"] == 0.25
    assert among_all.values["harmonic"] == pytest.approx(2 * (5 / 6) * 0.25 / (5 / 6 + 0.25))
    # Alone among unseen names nobody can be taken for a or b: one name, and always right.
    assert alone.direction == "unseen image→unseen name"
    assert (alone.n, alone.gallery) == (4, 1)
    for flags, said in (
        (np.ones(3, bool), "All 3 classes of the images are seen"),
        (np.zeros(3, bool), "All 3 classes of the images are unseen"), (None, "by the names of a"),
    ):  # fmt: skip
        with pytest.raises(ProtocolError, match=said):
            score_generalised(Identity(), images, names, flags)


def test_zero_shot_by_hand():
    names = items(["n1", "n2", "n3"], ["a", "b", "c"], np.eye(3))
    images = items(["i1", "i2"], ["a", "c"], [[3, 2, 1], [3, 2, 1]])
    (outcome,) = score_zero_shot(Identity(), images, names)
    assert outcome.direction == "image→name"
    assert outcome.ranks.rank.tolist() == [1, 3]
    assert outcome.values["top-1"] == 0.5
    assert outcome.values["median_rank"] == 2.0
    assert outcome.chance["top-1"] == pytest.approx(1 / 3)
    assert outcome.queries.top_ids == [["n1", "n2", "n3"]] * 2
    assert outcome.queries.question.clusters.tolist() == ["a", "c"]


def test_retrieval_with_several_captions_by_hand():
    images = items(["i1", "i2"], ["a", "b"], [[1, 0], [0, 1]])
    captions = items(
        ["c1", "c2", "c3", "c4"], ["a", "a", "b", "b"],
        [[1, 0.1], [0.2, 1], [0.1, 1], [1, 0]], ["i1", "i1", "i2", "i2"],
    )  # fmt: skip
    to_text, to_image = score_retrieval(Identity(), images, captions, relevance="parent_id")
    assert (to_text.direction, to_image.direction) == ("image→caption", "caption→image")
    # Image 1 sees c4, c1, c2, c3 from near to far: its own stand second and third.
    assert to_text.queries.top_ids[0] == ["c4", "c1", "c2", "c3"]
    assert to_text.ranks.rank.tolist() == [2, 1]
    assert to_text.values["R@1"] == 0.5
    assert to_text.ranks.average_precision[0] == pytest.approx((1 / 2 + 2 / 3) / 2)
    # Captions 1 and 3 are nearest to their own image, 2 and 4 to the other.
    assert to_image.ranks.rank.tolist() == [1, 2, 1, 2]
    assert to_image.queries.question.clusters.tolist() == ["i1", "i1", "i2", "i2"]


def test_an_image_of_an_absent_class_is_an_error():
    names = items(["n", "m"], ["a", "b"], [[1, 0], [0, 1]])
    with pytest.raises(MetricError, match="no relevant item"):
        score_zero_shot(Identity(), items(["i"], ["z"], [[1, 0]]), names)
