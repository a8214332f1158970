from __future__ import annotations

import pkgutil
import subprocess
import sys
from typing import get_args

import pytest

import fitters
from fitters import prototypes, scorers, settings
from fitters.methods import ALIGNERS, METHODS
from fitters.moments import accumulation
from fitters.select import noise, ranking

HEAVY = ("torch", "transformers", "timm", "pandas", "ray", "zarr", "polars", "h5py")


def modules_after(code):
    probe = f"{code}\nimport sys\nprint(' '.join(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_loads_nothing_but_itself():
    loaded = modules_after("import fitters")
    assert not loaded & {"numpy", "scipy", "sklearn", "safetensors", *HEAVY}


def test_fitting_needs_no_heavy_package_and_no_storage():
    names = ", ".join(fitters.__all__)
    loaded = modules_after(f"from fitters import {names}")
    # scikit-learn imports pandas wherever it is installed; that is not ours to prevent.
    by_sklearn = modules_after("import sklearn.base") & {"pandas"}
    assert not (loaded - by_sklearn) & {*HEAVY, "jaxtyping", "beartype"}
    assert not {name for name in loaded if name.startswith("featstore.store")}


def test_every_public_name_is_there():
    for name in fitters.__all__:
        assert getattr(fitters, name) is not None
    assert dir(fitters) == sorted(fitters.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = fitters.nothing


def test_no_public_name_is_that_of_a_module():
    """Importing the module would put it in the place of the name."""
    modules = {module.name for module in pkgutil.iter_modules(fitters.__path__)}
    assert modules.isdisjoint(fitters.__all__)


def test_settings_and_methods_are_known_without_a_numeric_library():
    loaded = modules_after(
        "import fitters.settings; from fitters.methods import METHODS; METHODS.known()"
    )
    assert "fitters.settings" in loaded
    assert not loaded & {"numpy", "scipy", "sklearn", "importlib.metadata", *HEAVY}


@pytest.mark.parametrize(
    ("words", "table"),
    [
        (settings.Metric, ranking.METRICS),
        (settings.Validation, noise.VALIDATIONS),
        (settings.Control, prototypes.CONTROLS),
        (settings.PairControl, prototypes.PAIR_CONTROLS),
        (settings.Duplicates, prototypes.DUPLICATES),
        (settings.Scorer, scorers.SCORERS),
        (settings.MomentsPrecision, accumulation.PRECISIONS),
    ],
)
def test_the_words_of_a_setting_are_those_of_its_table(words, table):
    assert get_args(words) == tuple(table)


def test_aligners_are_those_of_the_methods_by_the_names_in_files():
    assert fitters.ALIGNERS is ALIGNERS
    assert {method.cls for method in METHODS.built_in.values()} == set(ALIGNERS.values())
    assert all(cls.method == name for name, cls in ALIGNERS.items())
    with pytest.raises(AttributeError, match="no attribute 'NOTHING'"):
        _ = fitters.methods.NOTHING
