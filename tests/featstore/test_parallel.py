"""Tasks in threads: in order, with one BLAS thread each, and as it was afterwards."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

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


def test_results_keep_their_order_and_blas_its_threads() -> None:
    with threadpool_limits(4, "blas"):
        before = blas_threads()
        assert max(before) > 1
        assert map_threads(lambda number: number**2, range(50)) == [n**2 for n in range(50)]
        assert all(seen == [1] * len(before) for seen in map_threads(blas_threads, range(9)))
        assert blas_threads() == before


def test_who_limits_blas_to_one_thread_gets_one() -> None:
    here = threading.get_ident()
    with threadpool_limits(1, "blas"):
        assert map_threads(lambda _: threading.get_ident(), range(5)) == [here] * 5
    assert map_threads(lambda _: threading.get_ident(), [0]) == [here]
    assert map_threads(str, []) == []


def test_an_error_comes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        map_threads(lambda number: 1 / number, [1, 0, 2])


def test_a_worker_process_that_is_killed_is_an_error_that_says_what_to_do() -> None:
    with (
        Workers(jobs=2).connected() as run,
        pytest.raises(WorkerDiedError, match="run the same command again"),
    ):
        list(run(signal.raise_signal, [signal.SIGKILL, signal.SIGKILL]))


@pytest.mark.parametrize(
    ("groups", "files", "environment", "cores"),
    [
        ("", {}, {}, 16),
        ("0::/job\n", {"job/cpu.max": "650000 100000\n", "cpu.max": "max 100000\n"}, {}, 6),
        # The limit of a parent holds as well, and a container sees its group as the root.
        ("0::/a/b\n", {"a/cpu.max": "800000 100000", "a/b/cpu.max": "max 100000"}, {}, 8),
        ("0::/docker/1f3c\n", {"cpu.max": "300000 100000"}, {}, 3),
        ("0::/../x\n", {"cpu.max": "300000 100000"}, {}, 3),
        (
            "2:cpuset:/\n1:cpu,cpuacct:/job\n",
            {"cpu/job/cpu.cfs_quota_us": "400000", "cpu/job/cpu.cfs_period_us": "100000"},
            {"LOCAL_WORLD_SIZE": "2"},
            2,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, {}, 16),
        ("0::/\n", {"cpu.max": "50000 100000"}, {}, 1),
        ("", {}, {"LOCAL_WORLD_SIZE": "8"}, 2),
        ("", {}, {"SLURM_NTASKS_PER_NODE": "4"}, 4),
        ("", {}, {"SLURM_NTASKS_PER_NODE": "4", "SLURM_CPUS_PER_TASK": "16"}, 16),
        ("", {}, {"SLURM_NTASKS_PER_NODE": "4", "SLURM_CPUS_PER_TASK": "2"}, 4),
        # Without --ntasks-per-node, of a step on two nodes, and of one on unequal nodes.
        ("", {}, {"SLURM_STEP_TASKS_PER_NODE": "4(x2)"}, 4),
        ("", {}, {"SLURM_STEP_TASKS_PER_NODE": "8,2"}, 2),
        ("", {}, {"SLURM_STEP_TASKS_PER_NODE": "4(x2)", "SLURM_CPUS_PER_TASK": "16"}, 16),
        ("", {}, {"LOCAL_WORLD_SIZE": "2", "SLURM_STEP_TASKS_PER_NODE": "1"}, 8),
        ("", {}, {"LOCAL_WORLD_SIZE": "64"}, 1),
        ("", {}, {"LOCAL_WORLD_SIZE": "many"}, 16),
    ],
)
def test_cores_are_those_of_this_process(
    groups: str,
    files: dict[str, str],
    environment: dict[str, str],
    cores: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert available_cores(environment, root=tmp_path) == cores
