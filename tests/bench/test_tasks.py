import numpy as np
import pytest

from bench.corpus import Items
from bench.errors import MetricError
from bench.tasks.ranked import score_zero_shot
from tests.shorthand import score_retrieval


class Identity:
    """An alignment that changes nothing but the length of a row."""

    def project_x(self, rows):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    project_y = project_x


def items(ids, classes, rows, parents=None):
    return Items(
        np.array(ids),
        np.array(classes),
        np.asarray(rows, dtype=np.float32),
        None if parents is None else np.array(parents),
    )


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
