"""Runs that are carried out: what is written, what is skipped, and from which address."""

from __future__ import annotations

import json
import shutil

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from bench import read_ranks, read_results, run_all
from bench.errors import ProtocolError
from bench.results import file_of, files_of, finished, read_sessions, write_batch
from tests.bench.results_by_hand import has
from tests.featstore.remote.static import static_server
from tests.typed import headstock

#: What differs between two runs of the same, here and in other files.
TIMES = ["fit_seconds", "score_seconds", "learner_seconds", "finished_at"]


def test_finished_runs_are_skipped_and_damaged_ones_redone(
    runs, smoke_store, tmp_path, monkeypatch
):
    monkeypatch.setattr("bench.execution._LOST", 600.0)  # all in one file, on a slow machine too
    some = [run for run in runs if run.protocol.eval == "all-names"][:4]
    calls = []
    first = run_all(some, smoke_store, tmp_path, on_done=calls.append)
    assert (first.reused, first.new, first.fits) == (0, 4, 4)
    assert calls == [1, 1, 1, 1]
    (name,) = set(files_of(tmp_path).values())
    stamp = file_of(tmp_path, "runs", name).stat().st_mtime_ns
    again = run_all([*some, some[0]], smoke_store, tmp_path)
    assert (again.reused, again.new) == (4, 0)
    assert file_of(tmp_path, "runs", name).stat().st_mtime_ns == stamp
    run_all(some[3:], smoke_store, tmp_path / "other")
    file_of(tmp_path, "ranks", name).unlink()
    for table in ("ranks", "runs"):
        of_other, of_this = (
            file_of(root, table, some[3].run_id) for root in (tmp_path / "other", tmp_path)
        )
        of_other.rename(of_this)
    third = run_all(some, smoke_store, tmp_path)
    assert (third.reused, third.new) == (1, 3)
    assert run_all([some[0].changed(templates=("none",))], smoke_store, tmp_path).new == 1


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_in_a_run_comes_out_and_finished_runs_stay(runs, smoke_store, tmp_path, jobs):
    good = [run for run in runs if has(run, eval="all-names", method="ridge")][:5]
    bad = good[0].changed(image_revision="0" * 64)
    with pytest.raises(ProtocolError, match="Plan the suite again"):
        run_all([*good, bad], smoke_store, tmp_path, jobs=jobs)
    with pytest.raises(ProtocolError, match="is a store"):
        run_all(good, smoke_store, smoke_store, jobs=jobs)
    assert finished(tmp_path) <= {run.run_id for run in good}
    assert not list(tmp_path.rglob("*.staged"))


@pytest.fixture
def address(smoke_store, tmp_path, monkeypatch):
    """Return where a server of this machine has the smoke store."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with static_server(shutil.copytree(smoke_store, tmp_path / "served")) as (host, port):
        yield f"http://{host}:{port}"


def test_a_suite_runs_from_an_address_to_its_table(address, runs, smoke_results, tmp_path, capsys):
    """Some runs are taken out of the folder's results; those made from the address are the same."""
    results = tmp_path / "results"
    again = sorted(run.run_id for run in runs if run.seed == 0 and run.fit.method == "ridge")[::3]
    assert len(again) >= 3
    kept = read_results(smoke_results).filter(~pl.col("run_id").is_in(again))
    write_batch(results, kept, read_ranks(smoke_results, kept["run_id"].unique().to_list()))
    assert headstock("eval", "run", "smoke", "--store", address, "-o", results, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    # Ids are of what is read, not of where it lies.
    assert (facts["reused"], facts["new"]) == (len(runs) - len(again), len(again))
    assert facts["store"] == address
    (session,) = read_sessions(results)
    assert session["command"] == "headstock eval run smoke --store STORE --out OUT"
    assert address not in json.dumps(session)
    found, local = (read_results(root).filter(pl.col("run_id").is_in(again))
                    for root in (results, smoke_results))  # fmt: skip
    assert_frame_equal(found.drop(TIMES), local.drop(TIMES))
    assert_frame_equal(read_ranks(results, again), read_ranks(smoke_results, again))
