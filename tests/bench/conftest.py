from pathlib import Path

import numpy as np
import pytest

from bench.execution import run_all
from bench.suites import create_smoke_store, smoke_runs
from featstore import open_store


@pytest.fixture
def rng():
    return np.random.default_rng(20_240_611)


@pytest.fixture(scope="session")
def smoke_store(tmp_path_factory) -> Path:
    """The synthetic store of the smoke suite."""
    root = tmp_path_factory.mktemp("smoke") / "store"
    create_smoke_store(root)
    return root


@pytest.fixture(scope="session")
def runs(smoke_store):
    """The runs of the smoke suite, planned on that store."""
    return smoke_runs(open_store(smoke_store))


@pytest.fixture(scope="session")
def smoke_results(smoke_store, runs, tmp_path_factory) -> Path:
    """Results of the whole smoke suite; tests only read them."""
    root = tmp_path_factory.mktemp("results")
    run_all(runs, smoke_store, root)
    return root
