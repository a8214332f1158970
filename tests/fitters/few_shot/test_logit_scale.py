import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fitters.few_shot.learner import (
    PUBLISHED,
    Shots,
    likely_scale,
    scale_of,
    starting_weights,
)
from tests.fitters.few_shot.digits import made, noisy_prototypes


@given(st.integers(0, 2**32 - 1), st.floats(3, 200))
def test_the_scale_that_labels_were_drawn_by_is_found(seed, scale):
    rng = np.random.default_rng(seed)
    cosines = rng.uniform(-1, 1, size=(4000, 5)) * 10 / scale
    logits = scale * cosines
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    assert abs(np.log(likely_scale(cosines, labels) / scale)) < 0.15


def test_only_rows_that_the_weights_were_not_made_of_count():
    prototypes = noisy_prototypes()
    given_, _ = made(3, prototypes=prototypes)
    x = np.concatenate([given_.x, given_.validation_x])
    labels = np.concatenate([given_.labels, given_.validation_labels])
    assert scale_of(given_, prototypes) == likely_scale(x @ prototypes.T, labels)
    alone, _ = made(3)
    means = starting_weights(alone)
    assert scale_of(alone, means) == likely_scale(
        alone.validation_x @ means.T, alone.validation_labels
    )
    blind = Shots(alone.x, alone.labels, 10)
    assert scale_of(blind, means) == PUBLISHED
    assert scale_of(given_, prototypes, 30.0) == 30.0
