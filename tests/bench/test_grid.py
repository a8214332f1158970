"""Sweeps: every cell has the ranks that the ordinary fit of the same settings gives."""

import numpy as np
import pytest
from polars.testing import assert_frame_equal

from bench import read_ranks, read_results, run_all
from bench.corpus import read_corpus
from bench.fits import GivenRidge, is_cell
from featstore import open_store
from fitters.from_store import find_fits
from fitters.kept import Kept
from tests.bench.results_by_hand import has
from tests.bench.test_execution import TIMES
from tests.shorthand import execute, sweep_runs

METHODS = ("ridge", "ridge-x2y", "procrustes", "mean-shift", "conse")
GRID = {
    "method": METHODS, "source": ("none", "head", "random", "random-cov", "shuffled"),
    "n_pairs": (0, 8, "all"), "mix": (0.5, 2.0), "penalty": (0.03, 1.0), "seed": (0, 1),
}  # fmt: skip


@pytest.fixture(scope="module")
def sweep(smoke_store):
    store = open_store(smoke_store)
    return sweep_runs(store, find_fits(store)[0], GRID)


@pytest.fixture(scope="module")
def swept(sweep, smoke_store, tmp_path_factory):
    root = tmp_path_factory.mktemp("sweep")
    run_all(sweep, smoke_store, root)
    return root


@pytest.fixture
def ordinary(monkeypatch):
    """Every ridge is projected into its own space: else one road is compared with itself."""
    monkeypatch.delattr(GivenRidge, "sides")


@pytest.mark.usefixtures("ordinary")
def test_every_cell_equals_the_ordinary_fit(sweep, swept, smoke_store):
    """The whole run again, by `fit` on the rows: the same ranks and the same facts."""
    store = open_store(smoke_store)
    rows = read_results(swept)
    for run in sweep[:: max(1, len(sweep) // 40)]:
        ((_, ordinary, ranks),) = execute([run], read_corpus(store, run))
        own = read_ranks(swept, [run.run_id])
        np.testing.assert_array_equal(own["rank"], ranks["rank"], err_msg=str(run))
        # The cells of a grid keep no places: they would be most of its results.
        assert own["top"].null_count() == (own.height if is_cell(run) else 0)
        keys = ["direction", "metric"]
        assert_frame_equal(
            rows.filter(run_id=run.run_id).drop(TIMES).sort(keys), ordinary.drop(TIMES).sort(keys)
        )


def test_runs_in_any_order_give_what_each_gives_alone(sweep, runs, smoke_store, tmp_path):
    """One memory for all of them, without a bound, beside none: a key lacks nothing."""
    rng = np.random.default_rng(0)
    parts = [
        {"head_size": 30},
        {"head_size": 30, "head_by": "nearest"},
        {"leave_seen": True},
        {"n_pairs": 8, "head_rows": "mean"},
        {"source": "shuffled-within", "clusters": 9},
    ]
    heads = [run for run in sweep if has(run, source="head", n_pairs=8, method="ridge")]
    some = [sweep[i] for i in rng.permutation(len(sweep))[:36]] + [
        runs[i] for i in rng.permutation(len(runs))[:8]
    ] + [heads[i].changed(**part) for i, part in enumerate(parts)]  # fmt: skip
    some = list(dict.fromkeys(some))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fitters.kept.KEPT", Kept(10**12))
        run_all(some, smoke_store, tmp_path / "together")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fitters.kept.KEPT", Kept(0))
        for run in some:
            run_all([run], smoke_store, tmp_path / "alone")
    rows = (read_results(tmp_path / name).drop(TIMES) for name in ("together", "alone"))
    assert_frame_equal(*(own.sort("run_id", "direction", "metric") for own in rows))
    ids = [run.run_id for run in some]
    assert_frame_equal(*(read_ranks(tmp_path / name, ids) for name in ("together", "alone")))
