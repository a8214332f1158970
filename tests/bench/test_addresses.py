"""Results on an address: runs, ids and numbers are those of the folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from bench import read_ranks, read_results
from bench.results import read_sessions, write_batch
from featstore import open_store
from featstore.command_line import run_command
from headstock.__main__ import cli
from tests.bench.test_execution import TIMES
from tests.featstore.remote.static import static_server

REVISIONS = {"image_set": "image_revision", "name_set": "name_revision",
             "caption_set": "caption_revision", "head_set": "head_revision",
             "head_name_set": "head_name_revision"}  # fmt: skip


@pytest.fixture
def address(smoke_store, tmp_path, monkeypatch):
    """Return where a server of this machine has the smoke store."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with static_server(shutil.copytree(smoke_store, tmp_path / "served")) as (host, port):
        yield f"http://{host}:{port}"


def test_a_suite_runs_from_an_address_to_its_table(
    address, runs, smoke_results, smoke_store, tmp_path, capsys
):
    """Some runs are taken out of the folder's results; those made from the address are the same."""
    results = tmp_path / "results"
    again = sorted(run.run_id for run in runs if run.seed == 0 and run.fit.method == "ridge")[::3]
    assert len(again) >= 3
    kept = read_results(smoke_results).filter(~pl.col("run_id").is_in(again))
    write_batch(results, kept, read_ranks(smoke_results, kept["run_id"].unique().to_list()))
    said = _bench(capsys, "eval", "run", "smoke", "--store", address, "-o", results, "--json")
    facts = json.loads(said)
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
    published = {str(i.key): i.commit.revision_id for i in open_store(smoke_store).sets()}
    for row in found.iter_rows(named=True):
        named = {row[key]: row[revision] for key, revision in REVISIONS.items() if row[key]}
        assert row["image_set"] in named
        assert named == {key: published[key] for key in named}
    shown = [
        _bench(capsys, "eval", "table", root, "--format", "md") for root in (results, smoke_results)
    ]
    assert shown[0] == shown[1]
    assert "ridge" in shown[0]


def _bench(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    code = run_command(cli, "headstock", [str(word) for word in words])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out
