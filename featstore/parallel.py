"""Independent tasks on workers, threads, processes or Ray; and what this machine computes on."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from featstore.errors import (
    EngineError,
    FeatstoreError,
    WorkerDiedError,
    needs_extra,
    unknown_name,
)
from featstore.plugins import ENVIRONMENT, load_plugins, use_plugins


def available_cores(environment: Mapping[str, str] | None = None) -> int:
    """Return the cores that this process can keep busy, at least one.

    The cores that it may run on, no more than the processor time that its control group is given,
    shared with the other ranks of the node: their number is torchrun's ``LOCAL_WORLD_SIZE`` or
    Slurm's ``SLURM_NTASKS_PER_NODE``, which is set with ``--ntasks-per-node`` alone; else the first
    number in ``SLURM_STEP_TASKS_PER_NODE``, such as ``4(x2)``. A rank that Slurm has bound to as
    many cores as it gives each (``SLURM_CPUS_PER_TASK``) shares them with nobody.

    Parameters
    ----------
    environment : mapping, optional
        Instead of `os.environ`.

    Examples
    --------
    >>> available_cores({"LOCAL_WORLD_SIZE": "100000"})
    1
    """
    from joblib import cpu_count  # type: ignore[import-untyped]

    given, cores = os.environ if environment is None else environment, cpu_count()
    names = "LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE", "SLURM_STEP_TASKS_PER_NODE"
    ranks = next(filter(None, map(given.get, names)), "")
    if "LOCAL_WORLD_SIZE" not in given and given.get("SLURM_CPUS_PER_TASK") == str(cores):
        ranks = ""
    first = re.match(r"\d+", ranks)
    return max(1, int(cores / max(1, int(first[0]) if first else 1)))


#: The environment in which libraries start no threads.
ONE_THREAD = {
    f"{name}_THREADS": "1" for name in ("POLARS_MAX", "OMP_NUM", "OPENBLAS_NUM", "MKL_NUM")
}


def single_thread() -> None:
    """Bind this process to one thread, so that results do not depend on how many there are."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    # Libraries that are loaded later read the environment; those loaded already are limited
    # directly. A worker begins without NumPy: with two threads of BLAS each, two workers spin
    # against one another, and the demo's benchmark takes seven times as long.
    os.environ.update(ONE_THREAD)
    threadpool_limits(limits=1)


def best_device() -> str:
    """Return the device that ``auto`` stands for: a GPU that torch can use, else the CPU."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


@cache
def gains_from_bf16() -> bool:
    """Return whether this processor multiplies bfloat16 matrices in hardware: AMX or AVX-512's.

    With AVX-512's (Zen 5) products ran four to five times as fast as in float32, 868 beside 163
    Gflop/s on two cores, and the paper's head trained in half the time. Where bfloat16 is emulated
    it takes ten times as long.
    """
    facts = Path("/proc/cpuinfo")
    if not facts.exists():
        return False
    lines = facts.read_text(encoding="utf-8", errors="replace").splitlines()
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    return not {"amx_bf16", "avx512_bf16"}.isdisjoint(flags)


def end_with_parent() -> None:
    """End this process when its parent is gone, however that ended.

    A parent that is killed tells its workers nothing; they would wait for work for ever, and hold
    memory, claims and cores. In a process that `multiprocessing` did not start, nothing happens.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def start_python(code: str, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    """Start a process of this interpreter that runs `code`, and finds modules where this one does.

    Unasked, Python looks in the current folder first: a ``pickle.py`` beside somebody's data ran.

    Parameters
    ----------
    code : str
    *arguments
        Its ``sys.argv`` from the second on.
    **options
        Of `subprocess.Popen`.

    Raises
    ------
    OSError
        If it cannot be started.
    """
    code = f"import sys; sys.path[:] = {[*map(str, sys.path)]!r}; {code}"
    command = [sys.executable, "-P", "-c", code, *arguments]
    return subprocess.Popen(command, **options)  # noqa: S603 -- this interpreter, and no shell


_spawning = threading.RLock()


@contextlib.contextmanager
def spawning() -> Iterator[None]:
    """Let `multiprocessing` start processes as `start_python` does, within the block.

    It hands its `sys.path` over, too, but to a Python that has imported modules by then.
    """
    with _spawning:
        before = os.environ.get("PYTHONSAFEPATH", "")
        os.environ["PYTHONSAFEPATH"] = "1"
        try:
            yield
        finally:
            os.environ["PYTHONSAFEPATH"] = before  # empty is as if it were not there


Task = TypeVar("Task")
Answer = TypeVar("Answer")
Engine = Literal["local", "ray"]
ENGINES: tuple[Engine, ...] = ("local", "ray")

#: What Ray asks for at least. Rows go from the store to the workers, not through Ray.
OBJECT_STORE_BYTES = 80_000_000

#: How often Ray tries a task again whose worker was lost.
RETRIES = 3

#: Threads of `map_threads`. Each piece holds memory: of a decomposition, a dozen matrices of the
#: size of a gram.
MOST_THREADS = 8


class Run(Protocol):
    """Runs independent tasks on workers that are there."""

    def __call__(
        self,
        work: Callable[[Task], Answer],
        tasks: Iterable[Task],
        /,
        *,
        ordered: bool = False,
    ) -> Iterator[Answer]:
        """Yield ``work(task)`` of every task: as soon as it is there, or in the tasks' order."""


@dataclass(frozen=True)
class Workers:
    """Where independent tasks run.

    Attributes
    ----------
    engine : {"local", "ray"}
        This machine, or Ray: what this process is connected to, else the cluster that RAY_ADDRESS
        names, else one that is started here and stopped at the end. On a cluster every node must
        be able to open what the tasks name: stores, results, weights, with its own credentials.
    jobs : int, optional
        Tasks at once, each with one thread. By default 1 on this machine, which is this process
        with all its threads; and all cores that Ray has.
    object_store_bytes : int
        Of a Ray that is started here: answers that wait for their turn, before they go to disk.

    Raises
    ------
    EngineError
        If there is no such engine, or fewer than one job.

    Examples
    --------
    >>> with Workers().connected() as run:
    ...     sorted(run(abs, [-2, 1]))
    [1, 2]
    """

    engine: Engine = "local"
    jobs: int | None = None
    object_store_bytes: int = OBJECT_STORE_BYTES

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise EngineError(unknown_name("engine", self.engine, ENGINES))
        if self.jobs is not None and self.jobs < 1:
            raise EngineError(f"At least one job runs at once; got jobs={self.jobs}.")

    @property
    def elsewhere(self) -> bool:
        """Whether tasks leave this process."""
        return self.engine == "ray" or (self.jobs or 1) > 1

    @contextlib.contextmanager
    def connected(self) -> Iterator[Run]:
        """Yield what runs tasks, until the block ends.

        `work` and tasks must be picklable where they leave this process. What a task raises comes
        out of the iterator; the other tasks are given up.

        Raises
        ------
        MissingPackageError
            If Ray is not installed.
        EngineError
            From the iterator, if Ray gave a worker up.
        WorkerDiedError
            From the iterator, if a process of this machine was killed.
        """
        if self.engine == "ray":
            cores = self.jobs or available_cores()
            with connected(cores=cores, object_store_bytes=self.object_store_bytes) as ray:
                jobs = self.jobs or max(1, int(ray.cluster_resources().get("CPU", 1)))
                yield _RayRun(ray, jobs)
        elif self.jobs is None or self.jobs == 1:
            yield _run_here
        else:
            with processes(self.jobs, single_thread) as run:
                yield run


def _run_here(
    work: Callable[[Task], Answer],
    tasks: Iterable[Task],
    /,
    *,
    ordered: bool = False,  # noqa: ARG001 -- one after another is in order
) -> Iterator[Answer]:
    return map(work, tasks)


@contextlib.contextmanager
def processes(jobs: int, begin: Callable[..., None], *given: Any) -> Iterator[Run]:
    """Yield what runs tasks in processes of this machine.

    Parameters
    ----------
    jobs : int
        Processes.
    begin : callable
        Called in each process with `given`, before its first task.
    """
    # Threads of polars and BLAS do not survive a fork; a spawned process starts clean.
    context = multiprocessing.get_context("spawn")
    # Where `headstock` was imported, a worker too finds the packages in its folder alone.
    face = getattr(sys.modules.get("headstock"), "import_siblings", None)
    with spawning():  # its locks, too, have a process
        pool = ProcessPoolExecutor(
            jobs, mp_context=context, initializer=_begin, initargs=(face, begin, *given)
        )
    try:
        yield partial(_run_in, pool)
    finally:
        # Waiting lets the tasks that run end whole: nothing half-written stays behind.
        pool.shutdown(wait=True, cancel_futures=True)


def _run_in(
    pool: ProcessPoolExecutor,
    work: Callable[[Task], Answer],
    tasks: Iterable[Task],
    /,
    *,
    ordered: bool = False,
) -> Iterator[Answer]:
    try:
        with spawning():
            futures = [pool.submit(work, task) for task in tasks]
        for future in futures if ordered else as_completed(futures):
            yield future.result()
    except BrokenProcessPool as err:
        raise WorkerDiedError(
            "A worker process ended before its work was done (killed, or out of memory). What is "
            "finished is kept: run the same command again, with fewer jobs or devices if memory "
            "was the cause."
        ) from err


@dataclass(frozen=True)
class _RayRun:
    """Tasks on Ray; retries of lost workers are Ray's own."""

    ray: Any
    jobs: int

    def __call__(
        self, work: Callable[[Task], Answer], tasks: Iterable[Task], /, *, ordered: bool = False
    ) -> Iterator[Answer]:
        ray = self.ray
        # Not more cores for fewer jobs: a task that no single node could hold would wait for ever.
        remote = ray.remote(_alone).options(num_cpus=1, max_retries=RETRIES)
        # A cluster has another environment than this process.
        plugins = os.environ.get(ENVIRONMENT, "")
        # Opened by us, not by Ray: what opening a view raises then is the task's own error.
        waiting = (remote.remote(work, ray.cloudpickle.dumps(task), plugins) for task in tasks)
        # Where they take all cores, as many more wait with Ray: no core is idle between two tasks.
        full = self.jobs >= ray.cluster_resources().get("CPU", 1)
        left = [*islice(waiting, (1 + full) * self.jobs)]
        try:
            while left:
                # Answers that are early wait in Ray's store, on disk if need be.
                (ready,), _ = ray.wait(left[:1] if ordered else left)
                left.remove(ready)
                left += islice(waiting, 1)
                with errors_of(ray):
                    answer = ray.get(ready)
                yield answer
        finally:
            for given_up in left:
                ray.cancel(given_up)


@contextlib.contextmanager
def errors_of(ray: Any) -> Iterator[None]:
    """Raise what a task raised that is an error of this package, and say when Ray gave up.

    Raises
    ------
    EngineError
        If Ray lost a worker again and again.
    """
    try:
        yield
    except ray.exceptions.RayTaskError as err:
        if isinstance(err.cause, FeatstoreError):
            raise err.cause from None
        raise
    except ray.exceptions.RayError as err:
        raise EngineError(
            f"Ray lost a worker {RETRIES + 1} times: {' '.join(str(err).split())[:300]}"
        ) from err


def _begin(
    import_siblings: Callable[[], None] | None, begin: Callable[..., None], *given: Any
) -> None:
    if import_siblings is not None:
        import_siblings()
    begin(*given)
    end_with_parent()
    load_plugins()


def _alone(work: Callable[[Any], Any], packed: bytes, plugins: str) -> Any:
    single_thread()
    use_plugins(filter(None, plugins.split(os.pathsep)))
    return work(pickle.loads(packed))  # noqa: S301 -- our own bytes


@contextlib.contextmanager
def connected(*, cores: int, object_store_bytes: int = OBJECT_STORE_BYTES) -> Iterator[Any]:
    """Yield ray, connected to the cluster of this process, else of RAY_ADDRESS, else a new one.

    One that was started here is stopped again.

    Parameters
    ----------
    cores, object_store_bytes : int
        Of a Ray that is started here.

    Raises
    ------
    MissingPackageError
        If Ray is not installed.
    """
    # No call to anyone, whatever Ray's own default is; it is read when ray is imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with needs_extra("`engine=ray`"):
        import ray
    if ray.is_initialized():
        yield ray
        return
    address = os.environ.get("RAY_ADDRESS")
    job = ray.job_config.JobConfig()
    # As of a client's: of other jobs, workers look for modules in this current folder first.
    job._client_job = True
    if address:
        ray.init(address=address, log_to_driver=False, job_config=job)
    else:
        ray.init(
            "local", num_cpus=cores, object_store_memory=object_store_bytes,
            include_dashboard=False, log_to_driver=False, job_config=job,
        )  # fmt: skip
    try:
        yield ray
    finally:
        ray.shutdown()


def map_threads(function: Callable[[Task], Answer], tasks: Sequence[Task]) -> list[Answer]:
    """Return `function` of each task, in order: one to a thread, each with one thread of BLAS.

    A decomposition of a few hundred columns, or a product with Python around it, gains little from
    a second core; several of them at once do. As many run at a time as BLAS has threads, so that
    whoever limits those limits these. BLAS itself is limited for the whole process meanwhile.
    """
    if len(tasks) < 2:
        # To look for the libraries of BLAS takes milliseconds.
        return [function(task) for task in tasks]
    from threadpoolctl import ThreadpoolController

    blas = ThreadpoolController().select(user_api="blas")
    allowed = max((library["num_threads"] for library in blas.info()), default=1)
    threads = min(len(tasks), allowed, MOST_THREADS)
    if threads < 2:
        return [function(task) for task in tasks]
    with blas.limit(limits=1), ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, tasks))


def in_background(call: Callable[[], Answer]) -> Future[Answer]:
    """Return what a call will return, made in a thread that the end of the process ends."""
    done: Future[Answer] = Future()

    def run() -> None:
        try:
            done.set_result(call())
        except BaseException as err:
            done.set_exception(err)

    try:
        threading.Thread(target=run, daemon=True).start()
    except RuntimeError as err:  # no more threads, or the interpreter ends
        done.set_exception(err)
    return done
