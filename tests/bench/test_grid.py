"""Sweeps: every cell has the ranks that the ordinary fit of the same settings gives."""

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from bench import read_ranks, read_results, run_all
from bench.corpus import read_corpus
from bench.fits import GivenRidge, is_cell
from bench.results import finished
from featstore import open_store
from fitters import Pairs
from fitters.aligners.ridge import RidgeAligner
from fitters.from_store import find_sets
from fitters.kept import Kept
from fitters.select.held_out import LinearFits
from fitters.sources import normalize_rows
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
    return sweep_runs(store, find_sets(store), GRID)


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
            rows.filter(pl.col("run_id") == run.run_id).drop(TIMES).sort(keys),
            ordinary.drop(TIMES).sort(keys),
        )


def without_times(frame):
    return frame.drop(TIMES).sort("run_id", "direction", "metric")


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
    assert_frame_equal(*(without_times(read_results(tmp_path / n)) for n in ("together", "alone")))
    ids = [run.run_id for run in some]
    assert_frame_equal(*(read_ranks(tmp_path / name, ids) for name in ("together", "alone")))


def test_a_sweep_is_skipped_and_grows(sweep, swept, smoke_store):
    before = {path: path.stat().st_mtime_ns for path in swept.rglob("*.parquet")}
    again = run_all(sweep, smoke_store, swept)
    assert (again.reused, again.new) == (len(sweep), 0)
    store = open_store(smoke_store)
    more = sweep_runs(store, find_sets(store), {"n_pairs": (8,), "seed": (0,), "penalty": (7.0,)})
    assert run_all(more, smoke_store, swept).new == len(more)
    assert {run.run_id for run in [*sweep, *more]} == finished(swept)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())


@pytest.mark.parametrize("direction", ["y->x", "x->y"])
@pytest.mark.parametrize(("n_prototypes", "n_real"), [(40, 25), (40, 0), (0, 25), (0, 4), (3, 4)])
def test_the_grid_is_the_ridge_aligner(rng, direction, n_prototypes, n_real):
    """Random rows, also fewer than columns: cosines equal those of the fitted estimator."""

    def unit(n, d):
        return normalize_rows(rng.standard_normal((n, d)), what="rows").astype(np.float64)

    prototypes = Pairs(unit(n_prototypes, 12), unit(n_prototypes, 9)) if n_prototypes else None
    weight = rng.uniform(0.2, 1.0, size=n_real)
    real = Pairs(unit(n_real, 12), unit(n_real, 9), weight=weight) if n_real else None
    images, texts = unit(7, 12), unit(11, 9)
    fits = LinearFits(prototypes, real, predict_x=direction == "y->x")
    seen = fits.seen(images, texts)
    for mix in (0.3, 4.0):
        for penalty in (0.01, 1.0, 30.0):
            x, y = fits.ridge(mix, seen).at(penalty)
            given = [pairs for pairs in (prototypes, real) if pairs is not None]
            masses = (mix, 1.0) if len(given) == 2 else (1.0,)
            aligner = RidgeAligner(direction, alpha=penalty, center=False).fit(
                np.concatenate([pairs.x for pairs in given]),
                np.concatenate([pairs.y for pairs in given]),
                np.concatenate([m * p.row_weight for m, p in zip(masses, given, strict=True)]),
            )
            expected = aligner.project_x(images) @ aligner.project_y(texts).T
            np.testing.assert_allclose(x @ y.T, expected, atol=2e-5)
