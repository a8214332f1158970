"""A command of bench that was killed at a file call ends well when it is typed again.

The same bytes but for recorded times, and nothing half-written beside them. A default run takes a
sample of the calls, ``HEADSTOCK_FAULTS=all`` every one.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
EVERYTHING = os.environ.get("HEADSTOCK_FAULTS") == "all"


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Kill a command at every so many of its file calls; returns what went wrong."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("the fault-injecting layer is C for Linux; there is no compiler here")
    shim = tmp_path_factory.mktemp("shim") / "shim.so"
    source = str(REPOSITORY / "tests" / "faults" / "shim.c")
    build = [compiler, "-O1", "-shared", "-fPIC", "-o", str(shim), source, "-ldl", "-lpthread"]
    subprocess.run(build, check=True)

    def run(folder, every, *words):
        step = "1" if EVERYTHING else str(every)
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.killed_commands", str(folder), step, *words],
            cwd=REPOSITORY, capture_output=True, text=True, check=False,
            env={**os.environ, "LD_PRELOAD": str(shim), "OMP_NUM_THREADS": "1",
                 "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["attempts"] >= 3 * (found["calls"] // int(step))
        return found["wrong"]

    return run


def test_a_sweep_that_was_killed(killed, smoke_store, tmp_path):
    words = f"sweep --store {smoke_store} -o OUT --n-pairs 0,8 --seeds 0 --penalty 1 --mix 1"
    assert killed(tmp_path, 8, *words.split(), "--source", "head", "--task", "zero_shot") == []


def test_a_suite_that_was_killed_while_it_made_its_store_or_ran(killed, tmp_path):
    words = "run --suite smoke -o OUT --limit 20 --method ridge --source head"
    assert killed(tmp_path, 150, *words.split()) == []


@pytest.fixture(scope="module")
def small_results(smoke_store, tmp_path_factory):
    """Results of a sweep of a few cells."""
    from bench.cli.main import cli
    from featstore.command_line import run_command

    folder = tmp_path_factory.mktemp("small") / "r"
    words = f"sweep --store {smoke_store} -o {folder} --n-pairs 0,8 --seeds 0,1 --penalty 1"
    assert run_command(cli, "bench", [*words.split(), "--mix", "1", "--source", "none,head"]) == 0
    return folder


def test_a_report_that_was_killed(killed, small_results, smoke_store, tmp_path):
    pytest.importorskip("matplotlib")
    words = "report", str(small_results), "--store", str(smoke_store), "-o", "OUT/page.html"
    assert killed(tmp_path, 15, *words) == []


def test_a_table_of_rows_that_was_killed(killed, small_results, tmp_path):
    assert killed(tmp_path, 3, "frame", str(small_results), "-o", "OUT/rows.parquet") == []


@pytest.mark.skipif(
    not hasattr(os, "getuid")
    or os.getuid() != 0
    or shutil.which("unshare") is None
    or subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode != 0,
    reason="only the superuser can mount a small disk",
)
def test_a_sweep_on_a_disk_that_fills_up(smoke_store, tmp_path):
    script = ["-m", "tests.bench.full_disk", str(tmp_path), str(smoke_store)]
    done = subprocess.run(
        ["unshare", "-m", sys.executable, *script], cwd=REPOSITORY, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line.split(" ", 2) for line in done.stdout.splitlines()]
    full = [said for _, code, said in lines if code == "1"]
    assert len(full) >= 4
    assert lines[-1][1] == "0"
    for said in full:
        assert said.startswith(f"bench: error: Cannot write {tmp_path / 'results'}/")
        assert "No space left on device. Free space, then run the same command again" in said
