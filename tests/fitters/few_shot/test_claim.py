"""The short form of `python -m tests.accuracy.few_shot_claim`."""

from tests.accuracy.few_shot_claim import AGAINST, MARGIN, Population, claims
from tests.shorthand import not_worse_than


def test_proker_is_not_worse_than_tip_adapter_f_and_lp_plus_plus_by_a_point():
    population = Population(n_classes=25, seed=1)
    found = {other: estimate for other, *_, estimate in claims(population, 4)}
    assert set(found) == set(AGAINST)
    for estimate in found.values():
        assert (estimate.n_draws, estimate.n_clusters) == (10, 25)
        assert not_worse_than(estimate, MARGIN)
