"""Engines: the same runs through processes and through a real Ray, on this machine."""

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from bench import read_ranks, read_results, run_all
from bench.errors import ProtocolError
from bench.results import finished
from featstore.parallel import Workers
from tests.bench.engine_tasks import cores, die_once, process, square, threads
from tests.bench.test_execution import TIMES


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_what_workers_are(engine, ray_cluster):
    """Processes of one thread, whose answers come in order, and errors as they were raised."""
    with Workers(engine, 2).connected() as run:
        answers = run(partial(square, offset=1), list(range(7)), ordered=True)
        assert list(answers) == [n * n + 1 for n in range(7)]
        assert os.getpid() not in set(run(process, [1, 2], ordered=False))
        for seen in run(threads, [1, 2], ordered=False):
            assert seen
            assert set(seen) == {1}
        with pytest.raises(ProtocolError, match="got -1"):
            list(run(square, [1, -1, 2], ordered=False))


def test_workers_end_when_their_parent_is_killed(tmp_path):
    told = tmp_path / "told"
    told.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "tests.bench.engine_tasks", told]
    with subprocess.Popen(command, env=environment) as parent:
        wait_until(lambda: len(list(told.iterdir())) == 2 or parent.poll() is not None)
        parent.kill()
    workers = [int(file.name) for file in told.iterdir()]
    assert len(workers) == 2
    wait_until(lambda: not any(alive(worker) for worker in workers))


def alive(worker):
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{worker}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(true):
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_worker_that_dies_is_replaced(ray_cluster, tmp_path):
    """Ray's own retry: the task kills its first worker, and is answered by the second.

    A lone task takes one core of two: one of all cores would never begin where nodes share them.
    """
    marker = tmp_path / "died"
    with Workers("ray", 1).connected() as run:
        assert list(run(cores, [1])) == [1.0]
        assert list(run(partial(die_once, marker), ["x"], ordered=False)) == ["x"]
    assert marker.exists()


def test_ray_writes_the_same_numbers(runs, smoke_store, smoke_results, ray_cluster, tmp_path):
    some = [
        run for run in runs if run.protocol.eval == "all-names" and run.fit.method != "kernel-ridge"
    ][:10]
    summary = run_all(some, smoke_store, tmp_path, jobs=2, engine="ray")
    assert summary.new == len(finished(tmp_path)) == len(some)
    ids = [run.run_id for run in some]
    alone = read_results(smoke_results).filter(pl.col("run_id").is_in(ids))
    assert_frame_equal(read_results(tmp_path).drop(TIMES), alone.drop(TIMES))
    assert_frame_equal(read_ranks(tmp_path, ids), read_ranks(smoke_results, ids))
