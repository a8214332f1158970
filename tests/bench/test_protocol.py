import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.corpus import first_pairs, held_out_split, stream
from bench.errors import ProtocolError

classes = st.lists(st.sampled_from("abcdefghijkl"), min_size=2, max_size=80).filter(
    lambda names: len(set(names)) >= 2
)


@given(classes, st.integers(0, 50), st.floats(0.3, 0.7))
@settings(max_examples=100, deadline=None)
def test_no_class_is_on_both_sides_and_every_image_is_on_one(names, seed, fraction):
    names = np.array(names)
    n_train = round(fraction * len(set(names)))
    if not 0 < n_train < len(set(names)):
        with pytest.raises(ProtocolError, match="leaves one side empty"):
            held_out_split(names, seed=seed, train_fraction=fraction)
        return
    split = held_out_split(names, seed=seed, train_fraction=fraction)
    assert not set(names[split.train]) & set(names[split.test])
    np.testing.assert_array_equal(
        np.sort(np.concatenate([split.train, split.test])), np.arange(len(names))
    )
    assert len(set(names[split.train])) == n_train


def test_subsets_of_a_seed_are_nested_and_random():
    split = held_out_split(np.arange(100), seed=5)
    sixteen, all_of_them = first_pairs(split, 16), first_pairs(split, "all")
    np.testing.assert_array_equal(sixteen, first_pairs(split, 40)[:16])
    np.testing.assert_array_equal(all_of_them[:40], first_pairs(split, 40))
    assert len(all_of_them) == 60
    # In item order a subset would be one corner of the data.
    assert not np.all(np.diff(all_of_them) > 0)
    assert len(first_pairs(split, 0)) == 0


def test_seeds_redraw_everything_and_repeat_exactly():
    names = np.arange(60)
    again = [held_out_split(names, seed=1) for _ in range(2)]
    other = held_out_split(names, seed=2)
    np.testing.assert_array_equal(again[0].train, again[1].train)
    assert set(other.test) != set(again[0].test)


def test_the_streams_of_a_seed_are_different():
    draws = {
        tuple(stream(purpose, seed).integers(0, 1000, 4))
        for purpose in ("control", "choice")
        for seed in (0, 1)
    }
    assert len(draws) == 4


def test_too_many_pairs_are_refused():
    with pytest.raises(ProtocolError, match="Ask for fewer"):
        first_pairs(held_out_split(np.arange(10), seed=0), 7)
