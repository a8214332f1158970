"""Work in other processes: one thread each, an end with the parent, and tasks on Ray."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from featstore.errors import FeatstoreError, needs_extra


def single_thread() -> None:
    """Bind this process to one thread, so that results do not depend on how many there are."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    # Libraries that are loaded later read the environment; those that are here are told. A worker
    # begins without NumPy: with two threads of BLAS each, two workers spin against one another, and
    # the demo's benchmark takes seven times as long.
    for name in ("POLARS_MAX", "OMP_NUM", "OPENBLAS_NUM", "MKL_NUM"):
        os.environ[f"{name}_THREADS"] = "1"
    threadpool_limits(limits=1)


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


Task = TypeVar("Task")

#: What Ray asks for at least. Rows go from the store to the workers, not through Ray.
OBJECT_STORE_BYTES = 80_000_000

#: How often Ray tries a task again whose worker was lost.
RETRIES = 3


@contextlib.contextmanager
def connected(
    address: str | None, *, cores: int, object_store_bytes: int = OBJECT_STORE_BYTES
) -> Iterator[Any]:
    """Yield ray, connected to a cluster; one that was started here is stopped again.

    Parameters
    ----------
    address : str, optional
        Of a cluster: ``auto``, ``host:port`` or ``ray://...``. By default what this process is
        connected to, or else RAY_ADDRESS; else Ray is started here.
    cores, object_store_bytes : int
        Of a Ray that is started here.

    Raises
    ------
    MissingPackageError
        If Ray is not installed.
    """
    # No call to anyone, whatever Ray's own default is; it is read when ray is imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with needs_extra("--engine ray"):
        import ray
    if ray.is_initialized():
        yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        ray.init(address=address, log_to_driver=False)
    else:
        ray.init(
            "local", num_cpus=cores, object_store_memory=object_store_bytes,
            include_dashboard=False, log_to_driver=False,
        )  # fmt: skip
    try:
        yield ray
    finally:
        ray.shutdown()


def run_tasks(
    ray: Any, work: Callable[[Task], Any], tasks: Iterable[Task], jobs: int
) -> Iterator[tuple[int, Any]]:
    """Yield number and reference of each task that is done, as Ray gives them.

    `work` runs with one thread. Where `jobs` tasks need all cores that Ray has, as many more wait
    with Ray: or a core is idle until this process has heard of an answer and handed out the next
    task, 15 to 50 ms. The answers stay in Ray's store, on disk if need be, until `answer_of` asks
    for them.
    """
    remote = ray.remote(_alone).options(num_cpus=1, max_retries=RETRIES)
    waiting = enumerate(tasks)
    running: dict[Any, int] = {}
    most = 2 * jobs if jobs >= ray.cluster_resources().get("CPU", 1) else jobs
    while True:
        while len(running) < most and (following := next(waiting, None)) is not None:
            number, task = following
            # Opened by us, not by Ray: what opening a view raises then is the task's own error.
            running[remote.remote(work, ray.cloudpickle.dumps(task))] = number
        if not running:
            return
        (ready,), _ = ray.wait(list(running), num_returns=1)
        yield running.pop(ready), ready


def answer_of(ray: Any, reference: Any, error: type[FeatstoreError]) -> Any:
    """Return what a task returned, or raise what it raised; `error` if Ray gave a worker up."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as err:
        if isinstance(err.cause, FeatstoreError):
            raise err.cause from None
        raise
    except ray.exceptions.RayError as err:
        msg = f"Ray lost a worker {RETRIES + 1} times: {' '.join(str(err).split())[:300]}"
        raise error(msg) from err


def _alone(work: Callable[[Any], Any], packed: bytes) -> Any:
    single_thread()
    return work(pickle.loads(packed))  # noqa: S301 -- our own bytes
