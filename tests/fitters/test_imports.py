import pkgutil
from typing import get_args

import pytest

import fitters
from fitters import moments, prototypes, scorers, settings
from fitters.select import noise, ranking


def test_no_public_name_is_that_of_a_module():
    """Importing the module would put it in the place of the name."""
    modules = {module.name for module in pkgutil.iter_modules(fitters.__path__)}
    assert modules.isdisjoint(fitters.__all__)


@pytest.mark.parametrize(
    ("words", "table"),
    [
        (settings.Metric, ranking.METRICS),
        (settings.Validation, noise.VALIDATIONS),
        (settings.Control, prototypes.CONTROLS),
        (settings.PairControl, prototypes.PAIR_CONTROLS),
        (settings.Scorer, scorers.SCORERS),
        (settings.MomentsPrecision, moments.PRECISIONS),
    ],
)
def test_the_words_of_a_setting_are_those_of_its_table(words, table):
    assert get_args(words) == tuple(table)
