"""Rows of a head that stand twice: a left-out row must not be predicted from its copy."""

import numpy as np
import pytest

from fitters import Pairs, fit
from fitters.select import left_out
from fitters.select.left_out import choose_on_prototypes, join_near
from tests.oracles import unit

N_CLASSES, N_ASKED = 60, 200


def beside(rows, cosine, rng):
    """Rows of the same length at a cosine with the given ones."""
    across = rng.standard_normal(rows.shape)
    across -= np.sum(across * unit(rows), axis=1, keepdims=True) * unit(rows)
    turned = cosine * unit(rows) + np.sqrt(1 - cosine**2) * unit(across)
    return turned * np.linalg.norm(rows, axis=1, keepdims=True)


def head_with_copies(share, copies, of_rows, of_texts):
    """A head with a share of rows that stand again, images of other classes, and their names."""
    rng = np.random.default_rng([N_CLASSES, copies])
    plant = rng.standard_normal((24, 64)) / 4
    texts, asked = rng.standard_normal((N_CLASSES, 24)), rng.standard_normal((N_ASKED, 24))
    head = 3 * np.tanh(texts @ plant) + 0.3 * rng.standard_normal((N_CLASSES, 64))
    images = 3 * np.tanh(asked @ plant) + 0.8 * rng.standard_normal((N_ASKED, 64))
    again = np.tile(rng.permutation(N_CLASSES)[: round(share * N_CLASSES)], copies)
    rows = np.vstack([head, beside(head[again], of_rows, rng)])
    return Pairs(rows, np.vstack([texts, beside(texts[again], of_texts, rng)])), images, asked


def top_1(pairs, images, asked):
    """Percent of images that find their names, by a kernel ridge that chooses its settings."""
    made = fit("kernel-ridge", prototypes=pairs, image_mean=np.zeros(64),
               rng=np.random.default_rng(0))  # fmt: skip
    best = (made.project_x(images) @ made.project_y(asked).T).argmax(axis=1)
    return 100 * np.mean(best == np.arange(N_ASKED))


@pytest.mark.parametrize(("share", "copies"), [(0.2, 1), (1.0, 1), (1.0, 3)])
@pytest.mark.parametrize(("of_rows", "of_texts"), [(1.0, 0.7), (0.95, 0.95)])
def test_copies_of_rows_cost_at_most_two_points(share, copies, of_rows, of_texts):
    alone, images, asked = head_with_copies(0.0, copies, of_rows, of_texts)
    with_copies, *_ = head_with_copies(share, copies, of_rows, of_texts)
    assert top_1(with_copies, images, asked) >= top_1(alone, images, asked) - 2


def test_what_copies_would_do_is_said(monkeypatch):
    """With twins in different groups the choice goes where the grid ends."""
    pairs, images, asked = head_with_copies(1.0, 1, 1.0, 1.0)
    expected = top_1(pairs, images, asked)
    monkeypatch.setattr(left_out, "NEAR", 2.0)
    monkeypatch.setattr(left_out, "NEAR_TEXTS", 2.0)
    with pytest.warns(UserWarning, match=r"predicted with 1.000 of 1 .*\(gamma high"):
        assert top_1(pairs, images, asked) < expected - 40


def test_rows_that_are_apart_keep_their_groups(rng):
    pairs, *_ = head_with_copies(0.5, 1, 0.85, 0.9)
    assert join_near(pairs) is pairs
    # In three columns rows are near by chance, which says nothing.
    flat = Pairs(rng.standard_normal((60, 3)), rng.standard_normal((60, 2)))
    assert join_near(flat) is flat
    # Groups that are given are joined, never parted; and rows at some places are enough.
    twins, *_ = head_with_copies(1.0, 1, 1.0, 0.5)
    given = Pairs(twins.x, twins.y, np.arange(2 * N_CLASSES) // 2)
    joined = join_near(given).row_groups
    assert (joined[::2] == joined[1::2]).all()
    assert (joined[:10] == joined[[*map(int, _places(twins))]][:10]).all()
    some = join_near(twins, np.arange(5)).row_groups
    assert len(np.unique(some)) == 2 * N_CLASSES - 5


def _places(twins):
    """Where each of the first rows stands again."""
    return (unit(twins.x[:10]) @ unit(twins.x[N_CLASSES:]).T).argmax(axis=1) + N_CLASSES


def test_heads_without_copies_choose_as_before(monkeypatch):
    pairs, *_ = head_with_copies(0.5, 1, 0.85, 0.9)
    chosen = choose_on_prototypes(pairs, rng=np.random.default_rng(0))
    monkeypatch.setattr(left_out, "join_near", lambda pairs, at=None: pairs)
    again = choose_on_prototypes(pairs, rng=np.random.default_rng(0))
    assert chosen.scores.tobytes() == again.scores.tobytes()


def test_names_that_are_all_near_each_other_are_chosen_for_as_before(rng):
    """One name for all would leave nothing to fit on."""
    texts = unit(np.eye(1, 40) + 0.01 * rng.standard_normal((60, 40)))
    pairs = Pairs(unit(rng.standard_normal((60, 30))), texts, np.arange(60))
    assert join_near(pairs) is pairs
    made = fit("kernel-ridge", prototypes=pairs, image_mean=np.zeros(30), rng=rng)
    assert made.project_y(texts).shape[0] == 60
