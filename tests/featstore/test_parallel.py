"""Tasks in threads: in order, with one BLAS thread each, and as it was afterwards."""

from __future__ import annotations

import signal
import threading

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from featstore.errors import WorkerDiedError
from featstore.parallel import Workers, available_cores, map_threads


def blas_threads(_: object = None) -> list[int]:
    # NumPy's and SciPy's. What threads by OpenMP (faiss, if another test loaded it) has a number of
    # its own in every thread.
    return [
        one["num_threads"]
        for one in threadpool_info()
        if one["user_api"] == "blas" and one["threading_layer"] == "pthreads"
    ]


def test_results_keep_their_order_and_blas_its_threads():
    with threadpool_limits(4, "blas"):
        before = blas_threads()
        assert max(before) > 1
        assert map_threads(lambda number: number**2, range(50)) == [n**2 for n in range(50)]
        assert all(seen == [1] * len(before) for seen in map_threads(blas_threads, range(9)))
        with pytest.raises(ZeroDivisionError):
            map_threads(lambda number: 1 / number, [1, 0, 2])
        assert blas_threads() == before


def test_who_limits_blas_to_one_thread_gets_one():
    here = threading.get_ident()
    with threadpool_limits(1, "blas"):
        assert map_threads(lambda _: threading.get_ident(), range(5)) == [here] * 5
    assert map_threads(lambda _: threading.get_ident(), [0]) == [here]
    assert map_threads(str, []) == []


def test_a_worker_process_that_is_killed_is_an_error_that_says_what_to_do():
    with (
        Workers(jobs=2).connected() as run,
        pytest.raises(WorkerDiedError, match="run the same command again"),
    ):
        list(run(signal.raise_signal, [signal.SIGKILL, signal.SIGKILL]))


@pytest.mark.parametrize(
    ("environment", "cores"),
    [
        ({}, 16),
        ({"LOCAL_WORLD_SIZE": "8"}, 2),
        ({"SLURM_NTASKS_PER_NODE": "4"}, 4),
        ({"SLURM_NTASKS_PER_NODE": "4", "SLURM_CPUS_PER_TASK": "2"}, 4),
        # Without --ntasks-per-node, of a step on two nodes, and of one on unequal nodes.
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2)"}, 4),
        ({"SLURM_STEP_TASKS_PER_NODE": "8,2"}, 2),
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2)", "SLURM_CPUS_PER_TASK": "16"}, 16),
        ({"LOCAL_WORLD_SIZE": "2", "SLURM_STEP_TASKS_PER_NODE": "1"}, 8),
        ({"LOCAL_WORLD_SIZE": "64"}, 1),
        ({"LOCAL_WORLD_SIZE": "many"}, 16),
    ],
)
def test_cores_are_those_of_this_process(environment, cores, monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: 16)
    assert available_cores(environment) == cores
